//! The two clocks that everything uses, in nanoseconds.

use crate::hooks;

/// Nanoseconds of the monotonic clock (`CLOCK_MONOTONIC`): starts near zero at boot, never goes back.
#[inline]
pub fn now_ns() -> u64 {
    // SAFETY: the hook has no precondition.
    unsafe { hooks::__coracle_now_ns() }
}

/// Nanoseconds since 1970-01-01 UTC (`CLOCK_REALTIME`).
#[inline]
pub fn wall_ns() -> u64 {
    // SAFETY: the hook has no precondition.
    unsafe { hooks::__coracle_wall_ns() }
}
