//! The hooks of `base` that are the scheduler's: clocks, the interrupt flag, parking.

use core::sync::atomic::Ordering;

use super::run::block_unless;
use super::thread::Thread;
use super::{current, wake};

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_now_ns() -> u64 {
    hal_core::clock::now_ns()
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_wall_ns() -> u64 {
    hal_core::clock::wall_ns()
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_irq_save() -> bool {
    hal_core::cpu::irq_save()
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_irq_restore(enabled: bool) {
    hal_core::cpu::irq_restore(enabled);
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_park_token() -> usize {
    core::ptr::from_ref(current()) as usize
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_park() {
    let thread = current();
    while !thread.permit.swap(false, Ordering::SeqCst) {
        block_unless(|| thread.permit.load(Ordering::SeqCst));
    }
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_unpark(token: usize) {
    // SAFETY: the token is a thread that waits for this call, so it is alive.
    let thread = unsafe { &*(token as *const Thread) };
    thread.permit.store(true, Ordering::SeqCst);
    wake(thread);
}
