//! For tests and fuzzing on the host: memory that a fake device may still know, short waits, the processor's functions.
//! Drivers work on host addresses, which are what rings hold while the direct map's base is 0.

use alloc::vec::Vec;
use std::alloc::Layout;

std::thread_local! {
    static HURRY: core::cell::Cell<bool> = const { core::cell::Cell::new(false) };
    static RETIRED: core::cell::RefCell<Vec<(*mut u8, Layout)>> = const { core::cell::RefCell::new(Vec::new()) };
}

/// Keeps memory of this thread's drivers, which a fake may still know, until [`bury`].
pub(crate) fn retire(memory: *mut u8, layout: Layout) {
    RETIRED.with_borrow_mut(|retired| retired.push((memory, layout)));
}

/// Frees what the drivers of this thread left, when their devices are unplugged.
pub fn bury() {
    for (memory, layout) in RETIRED.take() {
        // SAFETY: allocated with this layout by the owner, who gave it up.
        unsafe { std::alloc::dealloc(memory, layout) };
    }
}

/// Makes this thread's drivers wait a millionth of the usual time for a device.
pub fn set_hurry(on: bool) {
    HURRY.set(on);
}

/// How long to wait when `ns` nanoseconds are usual.
pub(crate) fn patience(ns: u64) -> u64 {
    if HURRY.get() { ns / 1_000_000 } else { ns }
}

/// The processor's interrupt flag, which the host's tests do not have.
mod processor {
    #[unsafe(no_mangle)]
    extern "C" fn coracle_irq_save() -> bool {
        false
    }
    #[unsafe(no_mangle)]
    extern "C" fn coracle_irq_restore(_enabled: bool) {}
}
