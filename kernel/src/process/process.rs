//! What a process is.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use base::SpinLock;
use base::time::now_ns;

use super::credentials::Credentials;
use super::limits::Limits;
use super::signal::{Actions, Pending, SigSet};
use super::timers::Timers;
use crate::mm::AddressSpace;
use crate::sched::Thread;
use crate::sched::wait::WaitQueue;
use fs::Path;

/// How a process ended: as `wait4` encodes it (exit code << 8, or the signal's number).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub u32);

impl ExitStatus {
    /// Ended by itself.
    pub const fn exited(code: i32) -> Self {
        Self(((code & 0xff) as u32) << 8)
    }
    /// Killed by a signal.
    pub const fn killed(signal: i32) -> Self {
        Self((signal & 0x7f) as u32)
    }
    /// The signal that killed it.
    pub const fn signal(self) -> Option<i32> {
        if self.0 & 0x7f == 0 { None } else { Some((self.0 & 0x7f) as i32) }
    }
    /// The code that it exited with.
    pub const fn code(self) -> i32 {
        (self.0 >> 8 & 0xff) as i32
    }
}

/// Place in the tree of processes. All of these change under the tree's lock (`tree::lock`).
pub(super) struct Relations {
    pub(super) parent: Weak<Process>,
    pub(super) children: Vec<Arc<Process>>,
    pub(super) group: u32,
    pub(super) session: u32,
    /// Orphans of its descendants become its children (`PR_SET_CHILD_SUBREAPER`).
    pub(super) subreaper: bool,
    /// Ran an exec since it was forked (`setpgid` refuses then).
    pub(super) execed: bool,
}

/// What is pending for, or happened to, the process as a whole.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) pending: Pending,
    /// A state change that `wait4` has not reported: stopped by this signal.
    pub(super) stop_report: Option<i32>,
    /// As above: continued.
    pub(super) continue_report: bool,
}

/// CPU times and faults of what is gone: ended threads, and children that were waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// In the application, ns.
    pub user_ns: u64,
    /// In the kernel, ns.
    pub system_ns: u64,
    /// Page faults.
    pub faults: u64,
    /// Switches by own will.
    pub voluntary: u64,
    /// Switches by preemption.
    pub involuntary: u64,
}

impl Usage {
    /// The sum of two.
    pub fn add(&mut self, other: &Self) {
        self.user_ns += other.user_ns;
        self.system_ns += other.system_ns;
        self.faults += other.faults;
        self.voluntary += other.voluntary;
        self.involuntary += other.involuntary;
    }

    /// Of one thread so far.
    pub fn of_thread(thread: &Thread) -> Self {
        let (user_ns, system_ns) = thread.cpu_times();
        let (voluntary, involuntary) = thread.switches();
        Self { user_ns, system_ns, faults: thread.ext.faults.load(Ordering::Relaxed), voluntary, involuntary }
    }
}

/// The program that runs: for `/proc/PID/exe`, `cmdline` and the like.
#[derive(Clone, Default)]
pub struct Program {
    /// The file.
    pub path: Option<Path>,
    /// Addresses of the argument strings: start and end.
    pub arguments: (usize, usize),
    /// Addresses of the environment strings.
    pub environment: (usize, usize),
    /// Initial stack pointer.
    pub stack: usize,
    /// The auxiliary vector, as bytes.
    pub auxv: Arc<[u8]>,
}

/// A process.
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Signal that the parent gets at its end; 0 for none.
    pub exit_signal: AtomicI32,
    /// When it started, ns of the monotonic clock.
    pub started_ns: u64,
    pub(super) relations: SpinLock<Relations>,
    /// The parent's pid, readable without a lock; 0 without a parent.
    pub(super) parent_pid: AtomicU32,
    pub(super) shared: SpinLock<Shared>,
    /// `shared.pending.mask()`, readable without the lock.
    pub(super) pending_mask: AtomicU64,
    actions: SpinLock<Arc<Actions>>,
    threads: SpinLock<Vec<Arc<Thread>>>,
    pub(super) space: SpinLock<Option<Arc<AddressSpace>>>,
    credentials: SpinLock<Arc<Credentials>>,
    limits: SpinLock<Limits>,
    /// The end has begun, with the status in `exit_status`.
    dying: AtomicBool,
    exit_status: AtomicU32,
    zombie: AtomicBool,
    pub(super) stopped: AtomicBool,
    /// Woken when a child's state changes, and when this process ends (pidfd).
    pub child_event: WaitQueue,
    /// Notified when a signal comes: for signalfd.
    pub signal_event: base::Subject,
    /// Notified at the end: for pidfd.
    pub end_event: base::Subject,
    pub(super) ended_threads: SpinLock<Usage>,
    pub(super) waited_children: SpinLock<Usage>,
    program: SpinLock<Arc<Program>>,
    /// Interval and POSIX timers.
    pub timers: Timers,
    /// `PR_SET_PDEATHSIG`.
    pub death_signal: AtomicI32,
    /// `PR_SET_DUMPABLE`, bit 0; `PR_SET_NO_NEW_PRIVS`, bit 1; `PR_SET_KEEPCAPS`, bit 2.
    pub flags: AtomicU32,
    /// `personality`.
    pub personality: AtomicU32,
    /// Thread id of the thread that runs an exec and waits for the others to end; 0 if none.
    pub(super) execer: AtomicU32,
    /// `oom_score_adj`.
    pub oom_score_adj: AtomicI32,
}

/// `Process::flags`.
#[allow(missing_docs)]
pub mod flag {
    pub const DUMPABLE: u32 = 1;
    pub const NO_NEW_PRIVS: u32 = 2;
    pub const KEEP_CAPS: u32 = 4;
}

/// What a new process takes over.
pub struct Inherit {
    /// Signal actions.
    pub actions: Arc<Actions>,
    /// Identity.
    pub credentials: Arc<Credentials>,
    /// Limits.
    pub limits: Limits,
    /// The running program.
    pub program: Arc<Program>,
    /// Process group.
    pub group: u32,
    /// Session.
    pub session: u32,
    /// Signal at the end.
    pub exit_signal: i32,
    /// `Process::flags`.
    pub flags: u32,
    /// `personality`.
    pub personality: u32,
    /// `oom_score_adj`.
    pub oom_score_adj: i32,
}

impl Process {
    /// A process without threads, not in the tree yet.
    pub(super) fn new(pid: u32, space: Arc<AddressSpace>, parent: Weak<Process>, from: Inherit) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            pid,
            exit_signal: AtomicI32::new(from.exit_signal),
            started_ns: now_ns(),
            parent_pid: AtomicU32::new(parent.upgrade().map_or(0, |parent| parent.pid)),
            relations: SpinLock::new(Relations {
                parent,
                children: Vec::new(),
                group: from.group,
                session: from.session,
                subreaper: false,
                execed: false,
            }),
            shared: SpinLock::default(),
            pending_mask: AtomicU64::new(0),
            actions: SpinLock::new(from.actions),
            threads: SpinLock::default(),
            space: SpinLock::new(Some(space)),
            credentials: SpinLock::new(from.credentials),
            limits: SpinLock::new(from.limits),
            dying: AtomicBool::new(false),
            exit_status: AtomicU32::new(0),
            zombie: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            child_event: WaitQueue::new(),
            signal_event: base::Subject::new(),
            end_event: base::Subject::new(),
            ended_threads: SpinLock::default(),
            waited_children: SpinLock::default(),
            program: SpinLock::new(from.program),
            timers: Timers::new(this.clone()),
            death_signal: AtomicI32::new(0),
            flags: AtomicU32::new(from.flags),
            personality: AtomicU32::new(from.personality),
            execer: AtomicU32::new(0),
            oom_score_adj: AtomicI32::new(from.oom_score_adj),
        })
    }

    /// What it does on signals.
    pub fn actions(&self) -> Arc<Actions> {
        self.actions.lock().clone()
    }

    pub(super) fn set_actions(&self, actions: Actions) {
        *self.actions.lock() = Arc::new(actions);
    }

    /// Its threads that have not ended, the oldest first.
    pub fn threads(&self) -> Vec<Arc<Thread>> {
        self.threads.lock().clone()
    }

    /// How many threads have not ended.
    pub fn thread_count(&self) -> usize {
        self.threads.lock().len()
    }

    /// Calls `f` with each thread, under the list's lock: `f` takes no lock that is held while threads come or go.
    pub(super) fn for_each_thread(&self, mut f: impl FnMut(&Arc<Thread>)) {
        self.threads.lock().iter().for_each(&mut f);
    }

    /// Adds a thread; refuses when the process is ending.
    pub(super) fn add_thread(&self, thread: &Arc<Thread>) -> bool {
        let mut threads = self.threads.lock();
        if self.is_dying() {
            return false;
        }
        threads.push(thread.clone());
        true
    }

    /// Removes an ending thread; returns how many are left.
    pub(super) fn remove_thread(&self, thread: &Thread) -> usize {
        let mut threads = self.threads.lock();
        let gone = threads.iter().position(|t| core::ptr::eq(&**t, thread)).map(|at| threads.remove(at));
        let left = threads.len();
        drop(threads);
        drop(gone);
        left
    }

    /// The main thread if it runs still, else the oldest.
    pub fn leader(&self) -> Option<Arc<Thread>> {
        self.threads.lock().first().cloned()
    }

    /// The address space; `None` once the process has ended.
    pub fn space(&self) -> Option<Arc<AddressSpace>> {
        self.space.lock().clone()
    }

    /// Its identity.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.lock().clone()
    }

    /// Changes the identity with `f`, which may refuse.
    pub fn change_credentials<R>(&self, f: impl FnOnce(&mut Credentials) -> base::Result<R>) -> base::Result<R> {
        let mut slot = self.credentials.lock();
        let mut changed = Credentials::clone(&slot);
        let result = f(&mut changed)?;
        let old = core::mem::replace(&mut *slot, Arc::new(changed));
        drop(slot);
        drop(old);
        Ok(result)
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// The soft limit of one resource (`limits::resource`).
    pub fn limit(&self, resource: usize) -> u64 {
        self.limits.lock().soft(resource)
    }

    /// Changes the limits.
    pub fn change_limits<R>(&self, f: impl FnOnce(&mut Limits) -> R) -> R {
        f(&mut self.limits.lock())
    }

    /// The program that it runs.
    pub fn program(&self) -> Arc<Program> {
        self.program.lock().clone()
    }

    pub(super) fn set_program(&self, program: Program) {
        let old = core::mem::replace(&mut *self.program.lock(), Arc::new(program));
        drop(old);
    }

    /// The parent's pid; 0 for the first process.
    pub fn parent_pid(&self) -> u32 {
        self.parent_pid.load(Ordering::Relaxed)
    }

    /// The parent.
    pub fn parent(&self) -> Option<Arc<Process>> {
        self.relations.lock().parent.upgrade()
    }

    /// Process group.
    pub fn group(&self) -> u32 {
        self.relations.lock().group
    }

    /// Session.
    pub fn session(&self) -> u32 {
        self.relations.lock().session
    }

    /// Signals pending for the process as a whole.
    pub fn pending_mask(&self) -> SigSet {
        self.pending_mask.load(Ordering::SeqCst)
    }

    /// True from the moment that the process must end.
    #[inline]
    pub fn is_dying(&self) -> bool {
        self.dying.load(Ordering::SeqCst)
    }

    /// Begins the end; returns false if it had begun: the first status counts.
    pub(super) fn begin_end(&self, status: ExitStatus) -> bool {
        // Under the lock of the threads, so that none is added afterwards.
        let _threads = self.threads.lock();
        if self.dying.load(Ordering::SeqCst) {
            return false;
        }
        self.exit_status.store(status.0, Ordering::SeqCst);
        self.dying.store(true, Ordering::SeqCst);
        true
    }

    /// How it ended; meaningful once it is a zombie.
    pub fn exit_status(&self) -> ExitStatus {
        ExitStatus(self.exit_status.load(Ordering::SeqCst))
    }

    pub(super) fn set_exit_status(&self, status: ExitStatus) {
        self.exit_status.store(status.0, Ordering::SeqCst);
    }

    /// True if it has ended and was not waited for.
    pub fn is_zombie(&self) -> bool {
        self.zombie.load(Ordering::SeqCst)
    }

    pub(super) fn set_zombie(&self) {
        self.zombie.store(true, Ordering::SeqCst);
    }

    /// True while it is stopped by a signal.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// CPU time and faults of all its threads, the ended ones included.
    pub fn usage(&self) -> Usage {
        let mut sum = *self.ended_threads.lock();
        for thread in self.threads() {
            sum.add(&Usage::of_thread(&thread));
        }
        sum
    }

    /// The same of its children that were waited for, and theirs.
    pub fn children_usage(&self) -> Usage {
        *self.waited_children.lock()
    }

    /// The name of the main thread (`/proc/PID/comm`).
    pub fn name(&self) -> [u8; 16] {
        self.leader().map_or([0; 16], |thread| thread.name())
    }
}
