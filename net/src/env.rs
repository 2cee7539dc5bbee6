//! What the stack needs from the world: time, randomness, a wake-up call, and interfaces to send on.
//! The kernel supplies these; tests supply virtual time and a wire.

use hal_core::device::{NetBuf, NetCaps};

/// Time, randomness and the one timer.
pub trait Env: Send + Sync {
    /// Nanoseconds of a monotonic clock.
    fn now_ns(&self) -> u64;
    /// Unpredictable bits: sequence numbers, ports and hash keys come from here.
    fn random(&self) -> u64;
    /// Asks for one call of [`crate::Stack::run_timers`] at `at_ns` or soon after, where the stack may take
    /// spin locks. A new request replaces the last.
    fn set_timer(&self, at_ns: u64);
}

/// The sending side of a network interface.
pub trait Transmit: Send + Sync {
    /// What the device can do; fixed.
    fn caps(&self) -> NetCaps;
    /// Queues one Ethernet frame on this CPU's queue, without telling the device. Takes it in any case: a
    /// device that cannot keep up drops, as networks do. Called under the lock of a connection: it must
    /// not call back into the stack.
    fn push(&self, frame: NetBuf);
    /// Tells the device of everything pushed on this CPU since the last call. Called without locks.
    fn flush(&self);
}
