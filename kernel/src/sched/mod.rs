//! Threads and their scheduling.
//!
//! What lives here: threads, per-CPU run queues ordered by virtual runtime, switching, waking and
//! stealing, waiting, timers, deferred work, idling, and the hooks that `base` wants. Processes, signals
//! and what a thread does in user mode live in `process`.
//!
//! The kernel is not preempted: a thread leaves the CPU only in [`schedule`]. A thread that blocks with
//! nothing else to run idles on its own stack, so that a wake-up on the same CPU costs no switch.

mod cpu;
mod hooks;
mod queue;
mod run;
mod thread;
pub mod timer;
mod upcalls;
pub mod wait;
pub mod work;

pub use cpu::{account_user, cpu_stats, load_average, online};
pub use run::{attend, exit_current, schedule_if_needed, wake, yield_now};
pub use thread::{Affinity, Thread};

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use base::{Once, Result};
use hal_core::VirtAddr;

use crate::mm::stack::KernelStack;

/// The running thread. The reference is good as long as the caller runs, that is, always.
#[inline]
pub fn current() -> &'static Thread {
    // SAFETY: `percpu.thread` is set by `adopt_boot_thread` before anything calls this and by each switch;
    // the running thread holds a reference to itself until it has left its stack for good.
    unsafe { &*hal_core::percpu::this().thread.load(core::sync::atomic::Ordering::Relaxed).cast::<Thread>() }
}

/// The running thread, counted.
pub fn current_arc() -> Arc<Thread> {
    current().arc()
}

/// True once [`init`] ran on this CPU, so that [`current`] may be called.
pub fn is_up() -> bool {
    cpu::READY.load(core::sync::atomic::Ordering::Acquire)
}

/// Makes the caller, on the boot stack of CPU 0, a kernel thread, and prepares CPU 0's run queue and idle
/// thread. After this the boot code may block.
pub fn init() -> Result<()> {
    hal_core::set_kernel(&upcalls::UPCALLS);
    timer::init();
    cpu::init(0)?;
    run::adopt_boot_thread()?;
    cpu::READY.store(true, core::sync::atomic::Ordering::Release);
    Ok(())
}

/// Stacks of the idle threads of CPUs 1.., which are also their first stacks.
static IDLE_STACKS: Once<Vec<KernelStack>> = Once::new();

/// Starts the other CPUs. One that does not start is reported and left out.
pub fn start_cpus() {
    let hal = hal_core::platform().cpu();
    let count = hal.count();
    let stacks = IDLE_STACKS.call_once(|| (1..count).map_while(|_| KernelStack::new().ok()).collect());
    for (index, stack) in stacks.iter().enumerate() {
        let number = index + 1;
        if let Err(error) = cpu::init(number) {
            log::error!("CPU {number}: no memory to start it ({error})");
            break;
        }
        let top: VirtAddr = stack.top();
        if let Err(error) = hal.start(number, top, run::secondary_main) {
            log::error!("CPU {number} did not start: {error:?}; going on without it");
            break;
        }
    }
}

/// Starts a kernel thread. `cpu` is where it starts, and where it stays if `pinned`.
pub fn spawn_kernel(
    name: &'static str,
    cpu: Option<usize>,
    body: impl FnOnce() + Send + 'static,
) -> Result<Arc<Thread>> {
    let thread = Thread::new_kernel(name, Box::new(body))?;
    if let Some(cpu) = cpu {
        thread.set_affinity(Affinity::single(cpu));
    }
    start(&thread);
    Ok(thread)
}

/// Makes a new thread runnable. It keeps itself alive until it exits.
pub fn start(thread: &Arc<Thread>) {
    run::start(thread);
}
