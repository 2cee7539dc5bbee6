//! Deferred work: what an interrupt handler leaves for later.
//!
//! Each kind is a function and a bit; it runs on the CPU where the bit was raised, at a safe point: before
//! the return to the application, in the idle loop, in `schedule`. No lock is held then, so it may take
//! `SpinLock`s and wake threads, but it must not sleep.

use core::sync::atomic::Ordering;

use base::{Once, SpinLock};

use super::cpu::{self, WORK};

/// A kind of deferred work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkId(u8);

/// Called with the number of the CPU that it runs on.
pub type Function = fn(usize);

static FUNCTIONS: [Once<Function>; 32] = [const { Once::new() }; 32];
static COUNT: SpinLock<u8> = SpinLock::new(0);

/// Adds a kind of work. Panics beyond 32 kinds: their number is fixed by the kernel's source.
pub fn register(function: Function) -> WorkId {
    let mut count = COUNT.lock();
    let id = *count;
    FUNCTIONS[usize::from(id)].call_once(|| function);
    *count += 1;
    WorkId(id)
}

/// Makes the work run soon on this CPU. Callable in interrupts.
#[inline]
pub fn raise(id: WorkId) {
    cpu::this().pending_work.fetch_or(1 << id.0, Ordering::SeqCst);
    hal_core::percpu::this().attention.fetch_or(WORK, Ordering::Relaxed);
}

/// Makes the work run soon on CPU `number`.
#[allow(dead_code, reason = "the counterpart of raise for drivers that steer work to a CPU")]
pub fn raise_on(number: usize, id: WorkId) {
    if number == hal_core::percpu::cpu_id() {
        raise(id);
    } else if cpu::get(number).pending_work.fetch_or(1 << id.0, Ordering::SeqCst) & (1 << id.0) == 0 {
        hal_core::platform().cpu().send_reschedule(number);
    }
}

/// In the handler of another CPU's reschedule request: work may have been raised here from there.
pub(super) fn notice() {
    if cpu::this().pending_work.load(Ordering::Relaxed) != 0 {
        hal_core::percpu::this().attention.fetch_or(WORK, Ordering::Relaxed);
    }
}

/// Runs what is pending on this CPU. Called at safe points; does nothing inside itself.
#[inline]
pub fn run_pending() {
    let cpu = cpu::this();
    if cpu.pending_work.load(Ordering::Relaxed) != 0 {
        run_all(cpu);
    }
}

fn run_all(cpu: &cpu::CpuLocal) {
    if cpu.in_work.swap(true, Ordering::Relaxed) {
        return;
    }
    let number = hal_core::percpu::cpu_id();
    hal_core::percpu::this().attention.fetch_and(!WORK, Ordering::Relaxed);
    // A kind that raises itself again (a budget was used up) gets its turn after the others, a few
    // times; then the application runs before the rest.
    for _ in 0..4 {
        let mut pending = cpu.pending_work.swap(0, Ordering::SeqCst);
        if pending == 0 {
            break;
        }
        while pending != 0 {
            let bit = pending.trailing_zeros();
            pending &= pending - 1;
            if let Some(function) = FUNCTIONS[bit as usize].get() {
                function(number);
            }
        }
    }
    if cpu.pending_work.load(Ordering::Relaxed) != 0 {
        hal_core::percpu::this().attention.fetch_or(WORK, Ordering::Relaxed);
    }
    cpu.in_work.store(false, Ordering::Relaxed);
}
