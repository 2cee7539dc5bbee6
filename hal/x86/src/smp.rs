//! Starting the other CPUs.

use core::sync::atomic::{AtomicU64, Ordering};

static TRAMPOLINE: AtomicU64 = AtomicU64::new(0);

/// Sets the page below 640 KiB in which other CPUs start.
pub fn set_trampoline(page: u64) {
    TRAMPOLINE.store(page, Ordering::Relaxed);
}
