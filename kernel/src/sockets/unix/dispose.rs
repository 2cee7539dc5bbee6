//! Files on their way in messages: how many there are, and dropping them without recursion.
//!
//! A socket in a message in a socket in a message...: dropping the outermost would drop them all within each other, on
//! a kernel stack of fixed size. So they go on a list, and whoever is first drops them one after the other.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base::{Errno, Result, SpinLock};
use fs::File;

/// Most descriptors on their way in the whole system.
const MAX_IN_FLIGHT: usize = 65536;

static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);
static LIST: SpinLock<Vec<Arc<dyn File>>> = SpinLock::new(Vec::new());
static BUSY: AtomicBool = AtomicBool::new(false);

/// `count` files are put into a message. `ETOOMANYREFS`.
pub(super) fn depart(count: usize) -> Result<()> {
    if count > 0 && IN_FLIGHT.fetch_add(count, Ordering::Relaxed) + count > MAX_IN_FLIGHT {
        arrive(count);
        return Err(Errno::ETOOMANYREFS);
    }
    Ok(())
}

/// `count` files have left their message.
pub(super) fn arrive(count: usize) {
    if count > 0 {
        IN_FLIGHT.fetch_sub(count, Ordering::Relaxed);
    }
}

/// Drops files that never arrived.
pub(super) fn files(files: impl Iterator<Item = Arc<dyn File>>) {
    let files: Vec<_> = files.collect();
    if files.is_empty() {
        return;
    }
    arrive(files.len());
    LIST.lock().extend(files);
    while !LIST.lock().is_empty() && !BUSY.swap(true, Ordering::Acquire) {
        loop {
            let next = LIST.lock().pop();
            match next {
                Some(file) => drop(file),
                None => break,
            }
        }
        BUSY.store(false, Ordering::Release);
    }
}
