//! What the process layer keeps with each thread.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use base::SpinLock;

use super::owner::OwnerCell;
use super::rseq::Rseq;
use super::signal::{Pending, SigSet};
use super::vfork::Vfork;
use crate::files::{FdTable, FsContext};

/// `SS_DISABLE`: there is no alternate stack.
pub const SS_DISABLE: i32 = 2;
/// `SS_ONSTACK`: the thread runs on it.
pub const SS_ONSTACK: i32 = 1;
/// `SS_AUTODISARM`: forgotten while a handler runs on it.
pub const SS_AUTODISARM: i32 = 1 << 31;

/// The alternate signal stack.
#[derive(Clone, Copy, Debug)]
pub struct AltStack {
    /// Lowest address.
    pub address: usize,
    /// Bytes.
    pub size: usize,
    /// `SS_DISABLE` or `SS_AUTODISARM` bits.
    pub flags: i32,
}

impl AltStack {
    /// No alternate stack.
    pub const NONE: Self = Self { address: 0, size: 0, flags: SS_DISABLE };

    /// True if `sp` is on it.
    pub fn contains(&self, sp: usize) -> bool {
        self.flags & SS_AUTODISARM == 0 && sp > self.address && sp - self.address <= self.size
    }
}

/// How an interrupted call goes on in `restart_syscall`.
#[derive(Clone, Copy, Debug, Default)]
pub enum Restart {
    /// It does not.
    #[default]
    None,
    /// A sleep until this monotonic time, ns; the rest goes to this address if interrupted again.
    Sleep {
        /// End, ns of the monotonic clock.
        deadline: u64,
        /// Where the rest is written; 0 for nowhere.
        remaining: usize,
    },
    /// A wait on a futex with an end.
    Futex {
        /// The word.
        address: usize,
        /// Private to the process.
        private: bool,
        /// What it must hold.
        expected: u32,
        /// End, ns of the monotonic clock.
        deadline: u64,
        /// Which wake-ups count.
        bitset: u32,
    },
}

/// Settings only the thread itself touches.
#[derive(Clone, Copy, Debug)]
pub struct OwnState {
    /// Where signal handlers with `SA_ONSTACK` run.
    pub alt_stack: AltStack,
    /// The mask to restore when the running call ends (sigsuspend, ppoll).
    pub saved_mask: Option<SigSet>,
    /// For `restart_syscall`.
    pub restart: Restart,
    /// `PR_SET_PDEATHSIG` is the process's; this is `PR_SET_TIMERSLACK`, ns.
    pub timer_slack: u64,
}

impl Default for OwnState {
    fn default() -> Self {
        Self { alt_stack: AltStack::NONE, saved_mask: None, restart: Restart::None, timer_slack: 50_000 }
    }
}

/// The part of a thread that is the process layer's.
#[derive(Default)]
pub struct ThreadExt {
    /// Blocked signals; written by the thread itself.
    pub blocked: AtomicU64,
    /// Signals sent to this thread alone.
    pub pending: SpinLock<Pending>,
    /// `pending.mask()`, readable without the lock.
    pub pending_mask: AtomicU64,
    /// Signals that `sigtimedwait` waits for, though they are blocked.
    pub awaited: AtomicU64,
    /// For the thread itself.
    pub own: OwnerCell<OwnState>,
    /// Zeroed, with a futex wake, when the thread ends. 0 if not set.
    pub clear_child_tid: AtomicUsize,
    /// Where a new thread writes its id before it first runs. 0 if nowhere.
    pub set_child_tid: AtomicUsize,
    /// Head of the list of robust futexes. 0 if not set.
    pub robust_list: AtomicUsize,
    /// The registered `struct rseq`.
    pub rseq: Rseq,
    /// What the thread's end tells its parent's vfork.
    pub vfork: SpinLock<Option<Arc<Vfork>>>,
    /// Open files. `None` for kernel threads.
    pub files: OwnerCell<Option<Arc<FdTable>>>,
    /// Working directory, root and umask. `None` for kernel threads.
    pub fs: OwnerCell<Option<Arc<FsContext>>>,
    /// The thread must end, because another one runs an exec.
    pub killed: AtomicBool,
    /// I/O priority (`ioprio_set`).
    pub io_priority: AtomicI32,
    /// Scheduling policy as set by the program, and its real-time priority in the upper half.
    pub policy: AtomicU64,
    /// Page faults that needed no I/O.
    pub faults: AtomicU64,
}

impl ThreadExt {
    /// The blocked signals.
    #[inline]
    pub fn blocked(&self) -> SigSet {
        self.blocked.load(Ordering::SeqCst)
    }

    /// For a new thread made by clone or fork: the mask is inherited, nothing is pending.
    pub fn inherit(parent: &Self, files: Option<Arc<FdTable>>, fs: Option<Arc<FsContext>>) -> Self {
        let slack = parent.own.with(|own| own.timer_slack);
        Self {
            blocked: AtomicU64::new(parent.blocked()),
            own: OwnerCell::new(OwnState { timer_slack: slack, ..OwnState::default() }),
            files: OwnerCell::new(files),
            fs: OwnerCell::new(fs),
            io_priority: AtomicI32::new(parent.io_priority.load(Ordering::Relaxed)),
            policy: AtomicU64::new(parent.policy.load(Ordering::Relaxed)),
            ..Self::default()
        }
    }

    /// Changes the owner's settings.
    pub fn update<R>(&self, f: impl FnOnce(&mut OwnState) -> R) -> R {
        let mut own = self.own.with(|own| *own);
        let result = f(&mut own);
        self.own.replace(own);
        result
    }
}
