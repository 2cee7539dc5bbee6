//! A thread's life in the application: enter it, and do what it came back for.

use core::sync::atomic::Ordering;

use base::Errno;
use hal_core::cpu::{self, Exit, PageFault};
use hal_core::{UserContext, percpu};

use super::exit;
use super::signal::{self, SigInfo, code};
use crate::mm::{self, user};
use crate::sched::{self, Thread};
use crate::syscall;

/// Errors from this one on never reach a program: they say how the call is to be restarted.
const FIRST_INTERNAL: i32 = 512;

/// First function of a thread of a process.
pub fn start() -> ! {
    let thread = sched::current();
    let word = thread.ext.set_child_tid.swap(0, Ordering::Relaxed);
    if word != 0 {
        // As Linux: a bad address is the program's own loss.
        let _ = user::write::<u32>(word, &thread.tid);
    }
    run(thread)
}

fn run(thread: &'static Thread) -> ! {
    let context = thread.context();
    loop {
        cpu::irq_save();
        while percpu::this().attention.load(Ordering::Relaxed) != 0
            || thread.interrupted()
            || thread.ext.rseq.is_stale()
        {
            cpu::irq_restore(true);
            attend(thread, context);
            cpu::irq_save();
        }
        // SAFETY: interrupts are off, and this thread runs here: the switch to it loaded its space, FS base and
        // FPU state.
        let exit = unsafe { cpu::enter_user(context) };
        match exit {
            Exit::SystemCall => {
                cpu::irq_restore(true);
                system_call(context);
            }
            Exit::Interrupt => {
                sched::account_user();
                cpu::irq_restore(true);
            }
            Exit::PageFault(fault) => {
                cpu::irq_restore(true);
                let switches = thread.switches();
                page_fault(thread, &fault);
                if thread.switches() != switches {
                    // Others ran here while the page came.
                    thread.ext.rseq.before_return(context);
                }
            }
            Exit::Exception(vector, error) => {
                cpu::irq_restore(true);
                signal::force(signal_of_exception(vector, error, context));
            }
        }
    }
}

#[cold]
fn attend(thread: &Thread, context: &mut UserContext) {
    sched::attend();
    thread.ext.rseq.before_return(context);
    if mm::take_shortage() {
        super::oom::out_of_memory();
    }
    if thread.interrupted() {
        signal::deliver(context, None);
    }
}

#[inline]
fn system_call(context: &mut UserContext) {
    let c = &context;
    let number = c.rax;
    let result = syscall::dispatch(number, [c.rdi, c.rsi, c.rdx, c.r10, c.r8, c.r9]);
    match result {
        Ok(value) => context.rax = value,
        Err(error) if error.code() < FIRST_INTERNAL => context.rax = error.to_return(),
        Err(error) => interrupted_call(context, error, number),
    }
}

#[cold]
fn interrupted_call(context: &mut UserContext, error: Errno, number: u64) {
    context.rax = Errno::EINTR.to_return();
    signal::deliver(context, Some((error, number)));
}

fn page_fault(thread: &Thread, fault: &PageFault) {
    // Counted by the thread alone.
    thread.ext.faults.store(thread.ext.faults.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    let Some(space) = thread.space() else { exit::end_process(super::ExitStatus::killed(signal::SIGKILL)) };
    if let Err(bad) = space.fault(fault) {
        if bad.is_out_of_memory() {
            // The access is tried again, unless this process was the one that had to go.
            return super::oom::out_of_memory();
        }
        signal::force(SigInfo::fault(bad.signal, bad.code, fault.address.0));
    }
}

/// Linux's signals for the CPU's exceptions (Intel SDM vol. 3, table 6-1).
fn signal_of_exception(vector: u8, error: u64, context: &UserContext) -> SigInfo {
    use signal::{SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
    let ip = context.rip;
    match vector {
        0 => SigInfo::fault(SIGFPE, code::FPE_INTDIV, ip),
        1 => SigInfo::fault(SIGTRAP, code::TRAP_TRACE, ip),
        3 => SigInfo::kernel(SIGTRAP),
        6 => SigInfo::fault(SIGILL, code::ILL_ILLOPN, ip),
        16 | 19 => SigInfo::fault(SIGFPE, code::FPE_FLTINV, ip),
        17 => SigInfo::fault(SIGBUS, code::BUS_ADRALN, error),
        // Segment and general protection faults, bounds, overflow, virtualisation.
        _ => SigInfo::kernel(SIGSEGV),
    }
}
