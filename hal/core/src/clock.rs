//! Time: a monotonic clock read without a call into the backend, a wall clock, a one-shot event.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Converts the time-stamp counter to nanoseconds: `ns = base_ns + ((tsc - base_tsc) * mult >> shift)`.
///
/// Written by the backend (calibration, pvclock updates) under a sequence counter; read by everyone, the vDSO
/// included (the kernel maps the page that holds [`PARAMS`] read-only into applications).
#[repr(C, align(4096))]
pub struct ClockParams {
    /// Odd while an update is under way. Offset 0.
    pub sequence: AtomicU32,
    /// Offset 4.
    pub shift: AtomicU32,
    /// Offset 8. 32-bit multiplier (held in 64 bits).
    pub mult: AtomicU64,
    /// Offset 16.
    pub base_tsc: AtomicU64,
    /// Offset 24: nanoseconds of the monotonic clock at `base_tsc`.
    pub base_ns: AtomicU64,
    /// Offset 32: nanoseconds since 1970 when the monotonic clock was 0.
    pub wall_offset_ns: AtomicU64,
    /// Offset 40: 1 if every CPU has `rdtscp` and TSC_AUX holds the CPU's number (set by the backend).
    pub has_tsc_aux: AtomicU32,
}

/// The one conversion of the machine.
pub static PARAMS: ClockParams = ClockParams {
    sequence: AtomicU32::new(0),
    shift: AtomicU32::new(0),
    mult: AtomicU64::new(1),
    base_tsc: AtomicU64::new(0),
    base_ns: AtomicU64::new(0),
    wall_offset_ns: AtomicU64::new(0),
    has_tsc_aux: AtomicU32::new(0),
};

/// The time-stamp counter. Not serialising.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: rdtsc has no effect but its result.
    unsafe { core::arch::x86_64::_rdtsc() }
}

impl ClockParams {
    /// Nanoseconds of the monotonic clock at counter value `tsc`.
    #[inline]
    pub fn ns_at(&self, tsc: u64) -> u64 {
        loop {
            let sequence = self.sequence.load(Ordering::Acquire);
            let base_tsc = self.base_tsc.load(Ordering::Relaxed);
            let delta = tsc.saturating_sub(base_tsc);
            let scaled = (u128::from(delta) * u128::from(self.mult.load(Ordering::Relaxed)))
                >> self.shift.load(Ordering::Relaxed);
            let ns = self.base_ns.load(Ordering::Relaxed).wrapping_add(scaled as u64);
            core::sync::atomic::fence(Ordering::Acquire);
            if sequence & 1 == 0 && self.sequence.load(Ordering::Relaxed) == sequence {
                return ns;
            }
            core::hint::spin_loop();
        }
    }

    /// Replaces the conversion. Only one CPU does this at a time.
    pub fn update(&self, base_tsc: u64, base_ns: u64, mult: u32, shift: u32) {
        self.sequence.fetch_add(1, Ordering::Relaxed);
        core::sync::atomic::fence(Ordering::Release);
        self.base_tsc.store(base_tsc, Ordering::Relaxed);
        self.base_ns.store(base_ns, Ordering::Relaxed);
        self.mult.store(u64::from(mult), Ordering::Relaxed);
        self.shift.store(shift, Ordering::Relaxed);
        self.sequence.fetch_add(1, Ordering::Release);
    }
}

/// Nanoseconds of the monotonic clock.
#[inline]
pub fn now_ns() -> u64 {
    PARAMS.ns_at(tsc())
}

/// Nanoseconds since 1970-01-01 UTC.
#[inline]
pub fn wall_ns() -> u64 {
    now_ns().wrapping_add(PARAMS.wall_offset_ns.load(Ordering::Relaxed))
}

/// Sources of time.
pub trait Clock: Sync {
    /// Where the time comes from, for the log: "kvmclock", "tsc (calibrated by the PM timer)".
    fn source(&self) -> &'static str;
    /// Frequency of the counter in kHz, after calibration.
    fn tsc_khz(&self) -> u64;
    /// Arms this CPU's one-shot event for monotonic time `deadline_ns`; a time in the past fires at once.
    /// Replaces the event armed before. `u64::MAX` disarms.
    fn set_event(&self, deadline_ns: u64);
}
