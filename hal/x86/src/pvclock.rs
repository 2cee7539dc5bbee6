//! The clock structure that KVM and Xen share: how to turn the time-stamp counter into nanoseconds (xen/include/public/xen.h,
//! `struct vcpu_time_info`; Linux Documentation/virt/kvm/x86/msr.rst). The hypervisor may change it at any time.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// The counters of all CPUs agree.
pub const STABLE: u8 = 1;

/// The structure, as the hypervisor writes it.
#[repr(C)]
#[derive(Default)]
pub struct TimeInfo {
    version: AtomicU32,
    pad: AtomicU32,
    tsc: AtomicU64,
    ns: AtomicU64,
    mult: AtomicU32,
    /// The shift in bits 0-7, flags in bits 8-15.
    shift_and_flags: AtomicU32,
}

/// A consistent copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// Counter at [`Conversion::ns`].
    pub tsc: u64,
    /// System time.
    pub ns: u64,
    /// `ns = (ticks * mult) >> shift`.
    pub mult: u32,
    /// See [`Conversion::mult`].
    pub shift: u32,
    /// [`STABLE`].
    pub flags: u8,
}

impl TimeInfo {
    /// Nothing in it yet.
    #[expect(clippy::declare_interior_mutable_const, reason = "an initial value, never used in place")]
    pub const EMPTY: Self = Self {
        version: AtomicU32::new(0),
        pad: AtomicU32::new(0),
        tsc: AtomicU64::new(0),
        ns: AtomicU64::new(0),
        mult: AtomicU32::new(0),
        shift_and_flags: AtomicU32::new(0),
    };

    /// What it says now; `None` if that makes no sense (nothing was written, or a shift beyond 31).
    pub fn read(&self) -> Option<Conversion> {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let (tsc, ns) = (self.tsc.load(Ordering::Relaxed), self.ns.load(Ordering::Relaxed));
            let mult = self.mult.load(Ordering::Relaxed);
            let [shift, flags, ..] = self.shift_and_flags.load(Ordering::Relaxed).to_le_bytes();
            fence(Ordering::Acquire);
            if version & 1 == 0 && self.version.load(Ordering::Relaxed) == version {
                let shift = i32::from(shift as i8);
                let sane = mult != 0 && (-31..=31).contains(&shift);
                // `((ticks << shift) * mult) >> 32`, as one multiplication and one right shift.
                return sane.then_some(Conversion { tsc, ns, mult, shift: (32 - shift) as u32, flags });
            }
            core::hint::spin_loop();
        }
    }
}

impl Conversion {
    /// The same line through the point at counter value `tsc`, which is now. (The hypervisor's point may lie before the guest's
    /// counter was 0: then it is a negative number.)
    pub fn through(self, tsc: u64) -> Self {
        let ticks = tsc.wrapping_sub(self.tsc);
        if ticks > 1 << 63 {
            return self;
        }
        let ns = (u128::from(ticks) * u128::from(self.mult)) >> self.shift;
        Self { tsc, ns: self.ns.wrapping_add(ns as u64), ..self }
    }

    /// Frequency in Hz that the conversion implies.
    pub fn frequency(&self) -> u64 {
        ((1_000_000_000u128 << self.shift) / u128::from(self.mult.max(1))) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(mult: u32, shift: i8, flags: u8) -> TimeInfo {
        let word = u32::from_le_bytes([shift as u8, flags, 0, 0]);
        TimeInfo { mult: mult.into(), shift_and_flags: word.into(), ..TimeInfo::default() }
    }

    #[test]
    fn frequencies() {
        // 1 GHz: one nanosecond per tick.
        assert_eq!(info(1 << 31, 1, STABLE).read().map(|c| (c.frequency(), c.flags)), Some((1_000_000_000, STABLE)));
        // 2 GHz.
        assert_eq!(info(1 << 31, 0, 0).read().map(|c| c.frequency()), Some(2_000_000_000));
        assert_eq!(info(1 << 31, -1, 0).read().map(|c| c.frequency()), Some(4_000_000_000));
    }

    #[test]
    fn starts_before_the_counter() {
        let line = Conversion { tsc: 0u64.wrapping_sub(1000), ns: 5000, mult: 1 << 31, shift: 31, flags: 0 };
        assert_eq!(line.through(500), Conversion { tsc: 500, ns: 6500, ..line });
        // A point in the future is left alone.
        let line = Conversion { tsc: 1000, ..line };
        assert_eq!(line.through(500), line);
    }

    #[test]
    fn nonsense_is_no_clock() {
        assert_eq!(info(0, 0, 1).read(), None);
        assert_eq!(info(1, 32, 1).read(), None);
        assert_eq!(info(1, -32, 1).read(), None);
    }
}
