//! Arithmetic of clocks: frequencies to multipliers, counters that wrap, calendar dates. Pure.

/// Multiplier and shift such that `ns = ticks * mult >> shift` for a counter of `hz`, as precise as 32 bits allow.
pub fn scale(hz: u64) -> (u32, u32) {
    let hz = u128::from(hz.max(1));
    for shift in (0..=32u32).rev() {
        let mult = ((1_000_000_000u128 << shift) + hz / 2) / hz;
        if mult > 0 && mult <= u128::from(u32::MAX) {
            return (mult as u32, shift);
        }
    }
    (u32::MAX, 0)
}

/// Counter ticks per nanosecond, times 2^32.
pub fn ticks_per_ns(hz: u64) -> u64 {
    ((u128::from(hz) << 32) / 1_000_000_000) as u64
}

/// How far a counter that wraps at `mask` went from `start` to `now`, when it is known to be near `expected`.
pub fn unwrap(start: u64, now: u64, mask: u64, expected: u64) -> u64 {
    let residue = now.wrapping_sub(start).wrapping_sub(expected) & mask;
    if residue > mask / 2 {
        // Behind what was expected.
        expected.wrapping_sub((mask - residue) + 1)
    } else {
        expected + residue
    }
}

/// Frequency of a counter that made `ticks` while a reference of `reference_hz` made `reference_ticks`.
pub fn frequency(ticks: u64, reference_hz: u64, reference_ticks: u64) -> u64 {
    (u128::from(ticks) * u128::from(reference_hz) / u128::from(reference_ticks.max(1))) as u64
}

/// Days since 1970-01-01 of a date in the Gregorian calendar; `month` 1..=12.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// One register of the CMOS clock in binary.
pub fn from_bcd(value: u8) -> u8 {
    (value & 0xf) + (value >> 4) * 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_are_precise() {
        for hz in [1_000_000u64, 62_500_000, 1_000_000_000, 2_394_230_000, 5_100_000_000] {
            let (mult, shift) = scale(hz);
            // One day of ticks is converted to within 30 microseconds (1 part in 2^31).
            let ns = (u128::from(hz) * 86_400 * u128::from(mult)) >> shift;
            let error = ns.abs_diff(86_400 * 1_000_000_000);
            assert!(error < 45_000, "{hz}: {error}");
        }
    }

    #[test]
    fn ticks_and_back() {
        assert_eq!(ticks_per_ns(1_000_000_000), 1 << 32);
        assert_eq!(ticks_per_ns(500_000_000), 1 << 31);
    }

    #[test]
    fn unwraps_around_the_expectation() {
        let mask = 0xff_ffff;
        for real in [0u64, 5, 100_000, 0xff_ffff, 0x100_0000, 0x5432_1000] {
            for start in [0u64, 77, 0xff_fff0] {
                let now = (start + real) & mask;
                for expected in [real, real + 1000, real.saturating_sub(1000)] {
                    assert_eq!(unwrap(start, now, mask, expected), real);
                }
            }
        }
    }

    #[test]
    fn measures_a_frequency() {
        assert_eq!(frequency(1_500_000, 3_579_545, 3_580), 1_499_809_357);
    }

    #[test]
    fn dates() {
        assert_eq!(days_from_civil(1970, 1, 1), 0);
        assert_eq!(days_from_civil(2000, 2, 29), 11_016);
        assert_eq!(days_from_civil(2026, 11, 22), 20_779);
        assert_eq!(days_from_civil(1969, 12, 31), -1);
        assert_eq!(from_bcd(0x59), 59);
    }
}
