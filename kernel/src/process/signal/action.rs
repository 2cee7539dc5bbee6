//! What a process does on each signal (`sigaction`).

use base::SpinLock;

use super::types::{IGNORED_BY_DEFAULT, MAX, SigSet, UNSTOPPABLE, set_of};

/// `SIG_DFL`.
pub const DEFAULT: usize = 0;
/// `SIG_IGN`.
pub const IGNORE: usize = 1;

/// `sa_flags` (uapi asm/signal.h).
#[allow(missing_docs)]
pub mod flags {
    pub const NOCLDSTOP: u64 = 1;
    pub const NOCLDWAIT: u64 = 2;
    pub const SIGINFO: u64 = 4;
    pub const ONSTACK: u64 = 0x0800_0000;
    pub const RESTART: u64 = 0x1000_0000;
    pub const NODEFER: u64 = 0x4000_0000;
    pub const RESETHAND: u64 = 0x8000_0000;
    pub const RESTORER: u64 = 0x0400_0000;
    /// What is kept of a program's flags, so that it can tell which ones are known.
    pub const KNOWN: u64 = NOCLDSTOP | NOCLDWAIT | SIGINFO | ONSTACK | RESTART | NODEFER | RESETHAND | RESTORER;
}

/// One signal's action, in the order of the kernel's `struct sigaction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// Address of the function, or [`DEFAULT`] or [`IGNORE`].
    pub handler: usize,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: usize,
    /// Blocked while it runs.
    pub mask: SigSet,
}

impl Action {
    /// True if the signal has no effect.
    pub fn ignores(&self, signal: i32) -> bool {
        self.handler == IGNORE || (self.handler == DEFAULT && set_of(signal) & IGNORED_BY_DEFAULT != 0)
    }
}

/// The table of actions, which `CLONE_SIGHAND` shares.
pub struct Actions(SpinLock<[Action; MAX as usize]>);

impl Default for Actions {
    fn default() -> Self {
        Self(SpinLock::new([Action::default(); MAX as usize]))
    }
}

impl Actions {
    /// The action for `signal` (1 to 64).
    pub fn get(&self, signal: i32) -> Action {
        self.0.lock()[signal as usize - 1]
    }

    /// Replaces the action for `signal` (1 to 64) and returns the old one.
    pub fn set(&self, signal: i32, mut action: Action) -> Action {
        action.mask &= !UNSTOPPABLE;
        action.flags &= flags::KNOWN;
        core::mem::replace(&mut self.0.lock()[signal as usize - 1], action)
    }

    /// Takes the action for one delivery: `SA_RESETHAND` falls back to the default.
    pub fn take(&self, signal: i32) -> Action {
        let mut table = self.0.lock();
        let slot = &mut table[signal as usize - 1];
        let action = *slot;
        if action.flags & flags::RESETHAND != 0 && action.handler > IGNORE {
            slot.handler = DEFAULT;
        }
        action
    }

    /// A copy, for fork.
    pub fn duplicate(&self) -> Self {
        Self(SpinLock::new(*self.0.lock()))
    }

    /// For exec, a table without handlers: what was ignored stays so. With `all` even that falls back to the
    /// default (`CLONE_CLEAR_SIGHAND`).
    pub fn without_handlers(&self, all: bool) -> Self {
        let table = self.0.lock().map(|action| Action {
            handler: if action.handler == IGNORE && !all { IGNORE } else { DEFAULT },
            ..Action::default()
        });
        Self(SpinLock::new(table))
    }
}
