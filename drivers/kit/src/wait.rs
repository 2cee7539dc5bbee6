//! Waiting for a device at its start, when nobody else can run.

/// Calls `done` until it is true; false if that takes more than `ns` nanoseconds.
pub fn wait_for(ns: u64, mut done: impl FnMut() -> bool) -> bool {
    #[cfg(feature = "host")]
    let ns = crate::host::patience(ns);
    let deadline = hal_core::clock::now_ns().saturating_add(ns);
    loop {
        if done() {
            return true;
        }
        if hal_core::clock::now_ns() > deadline {
            return false;
        }
        core::hint::spin_loop();
    }
}
