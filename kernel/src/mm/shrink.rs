//! Getting memory back when it is short: whoever keeps frames that it could do without registers here.

use alloc::vec::Vec;

use base::SpinLock;

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
