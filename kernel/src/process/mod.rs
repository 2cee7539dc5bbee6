//! Processes: loading, fork, exec, exit and wait, signals, futexes, the thread's user loop, random numbers.
//!
//! What a thread does in the kernel at all (scheduling, sleeping) is `sched`'s; memory is `mm`'s; the numbers and
//! layouts of calls are `syscall`'s.
//!
//! Lock order, outermost first: the tree, a process's relations; the list of threads, a process's shared signals or a
//! thread's pending ones. None of them is held while user memory is touched.

pub mod credentials;
pub mod exec;
pub mod exit;
pub mod fork;
pub mod futex;
pub mod ids;
pub mod limits;
pub mod oom;
mod owner;
pub mod pidfd;
#[allow(clippy::module_inception)]
pub mod process;
pub mod random;
mod robust;
pub mod rseq;
mod run;
pub mod signal;
pub mod thread;
pub mod timers;
pub mod tree;
mod vdso;
mod vfork;
pub mod wait;

pub use process::{ExitStatus, Process};
pub use thread::ThreadExt;

use alloc::sync::Arc;

use base::{Errno, Result};

/// The running process. `ESRCH` in a kernel thread.
pub fn current() -> Result<&'static Arc<Process>> {
    crate::sched::current().process().ok_or(Errno::ESRCH)
}

/// True if a live thread has this id.
pub fn thread_exists(tid: u32) -> bool {
    ids::thread(tid).is_some()
}

/// The host asks for a shutdown: the first process gets SIGTERM, as from a service manager. May run in an interrupt.
pub fn shutdown_requested() {
    crate::sched::work::raise(*SHUTDOWN.call_once(|| crate::sched::work::register(shut_down)));
}

static SHUTDOWN: base::Once<crate::sched::work::WorkId> = base::Once::new();

fn shut_down(_cpu: usize) {
    if let Some(first) = ids::process(1) {
        let _ = signal::send_process(&first, signal::SigInfo::kernel(signal::SIGTERM));
    }
}
