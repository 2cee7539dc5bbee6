//! Getting memory back when it is short: whoever keeps frames that it could do without registers here.

use alloc::vec::Vec;

use core::sync::atomic::Ordering;

use base::SpinLock;
use hal_core::percpu;

/// Frees up to so many frames; returns how many it freed. May sleep.
pub type Shrinker = fn(pages: usize) -> usize;

static SHRINKERS: SpinLock<Vec<Shrinker>> = SpinLock::new(Vec::new());

/// Adds a shrinker, for ever.
pub fn register_shrinker(shrinker: Shrinker) {
    SHRINKERS.lock().push(shrinker);
}

/// Asks the shrinkers for `pages` frames; returns how many came. May sleep: hold no lock.
pub fn shrink(pages: usize) -> usize {
    let mut freed = 0;
    for index in 0.. {
        // The lock is not held while a shrinker works.
        let Some(shrinker) = SHRINKERS.lock().get(index).copied() else {
            break;
        };
        freed += shrinker(pages - freed);
        if freed >= pages {
            break;
        }
    }
    freed
}

/// Bit of `PerCpu::attention`: the kernel had to go far into its reserve.
const ATTENTION: u32 = 1 << 8;

/// Makes this CPU look at the shortage before it returns to an application.
pub(super) fn note_shortage() {
    percpu::this().attention.fetch_or(ATTENTION, Ordering::Relaxed);
}

/// On the way back to the application, `attention` set: true if the kernel's reserve is running out and shrinking did not help,
/// so that a process must end. May sleep.
pub fn take_shortage() -> bool {
    let attention = percpu::this().attention.fetch_and(!ATTENTION, Ordering::Relaxed);
    attention & ATTENTION != 0 && super::frame::check_room().is_err()
}
