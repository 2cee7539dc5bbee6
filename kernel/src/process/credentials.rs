//! Who a process is: user and group ids, capabilities.
//!
//! One set per process: Linux has one per thread, but the C libraries keep them equal, since POSIX wants that.

use alloc::sync::Arc;

/// All capabilities that Linux 6 has (uapi linux/capability.h, `CAP_LAST_CAP` = 40).
pub const ALL_CAPABILITIES: u64 = (1 << 41) - 1;

/// Capability numbers used here.
#[allow(missing_docs)]
pub mod cap {
    pub const KILL: u32 = 5;
    pub const SETGID: u32 = 6;
    pub const SETUID: u32 = 7;
    pub const SETPCAP: u32 = 8;
    pub const SYS_ADMIN: u32 = 21;
    pub const SYS_NICE: u32 = 23;
    pub const SYS_RESOURCE: u32 = 24;
    pub const SYS_TIME: u32 = 25;
    pub const SYS_BOOT: u32 = 22;
}

/// Real, effective and saved ids, and that of file accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Real.
    pub real: u32,
    /// Effective.
    pub effective: u32,
    /// Saved.
    pub saved: u32,
    /// For file accesses.
    pub fs: u32,
}

/// The identity of a process; replaced as a whole.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// User ids.
    pub uid: Ids,
    /// Group ids.
    pub gid: Ids,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    /// Effective capabilities.
    pub effective: u64,
    /// Permitted capabilities.
    pub permitted: u64,
    /// Inheritable capabilities.
    pub inheritable: u64,
    /// Bounding set.
    pub bounding: u64,
    /// Ambient capabilities.
    pub ambient: u64,
    /// `PR_SET_SECUREBITS`.
    pub securebits: u32,
}

impl Credentials {
    /// The superuser, as the first process is.
    pub fn root() -> Self {
        Self {
            uid: Ids::default(),
            gid: Ids::default(),
            groups: Arc::new([]),
            effective: ALL_CAPABILITIES,
            permitted: ALL_CAPABILITIES,
            inheritable: 0,
            bounding: ALL_CAPABILITIES,
            ambient: 0,
            securebits: 0,
        }
    }

    /// True if capability number `cap` is in effect.
    pub fn capable(&self, cap: u32) -> bool {
        self.effective & (1 << cap) != 0
    }

    /// Adapts the capabilities after the user ids changed from `old` (capabilities(7), "Effect of user ID changes").
    pub fn after_uid_change(&mut self, old: Ids, keep: bool) {
        const NO_SETUID_FIXUP: u32 = 1 << 2;
        if self.securebits & NO_SETUID_FIXUP != 0 {
            return;
        }
        let had_root = old.real == 0 || old.effective == 0 || old.saved == 0;
        let has_root = self.uid.real == 0 || self.uid.effective == 0 || self.uid.saved == 0;
        if had_root && !has_root {
            if !keep {
                self.permitted = 0;
                self.effective = 0;
            }
            self.ambient = 0;
        }
        if old.effective == 0 && self.uid.effective != 0 {
            self.effective = 0;
        }
        if old.effective != 0 && self.uid.effective == 0 {
            self.effective = self.permitted;
        }
    }

    /// Adapts the capabilities to an exec (capabilities(7), "Transformation of capabilities during execve()").
    pub fn after_exec(&mut self) {
        const NOROOT: u32 = 1;
        if self.securebits & NOROOT == 0 && (self.uid.effective == 0 || self.uid.real == 0) {
            self.permitted = self.inheritable | self.bounding;
            self.effective = if self.uid.effective == 0 { self.permitted } else { 0 };
        } else {
            self.permitted = self.ambient;
            self.effective = self.ambient;
        }
        self.uid.saved = self.uid.effective;
        self.gid.saved = self.gid.effective;
        self.uid.fs = self.uid.effective;
        self.gid.fs = self.gid.effective;
    }
}
