//! What the hypervisor's answers mean. Pure.

/// What eax, ebx, ecx, edx, esi hold after a call through the backdoor port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// eax.
    pub a: u32,
    /// ebx.
    pub b: u32,
    /// ecx.
    pub c: u32,
    /// edx.
    pub d: u32,
    /// esi.
    pub si: u32,
}

/// "VMXh": in eax of each call, and in ebx of the answer to GETVERSION.
pub const MAGIC: u32 = 0x564d_5868;
/// What is in ebx of a call, and stays there if the command is not known.
pub const UNKNOWN: u32 = u32::MAX;
/// Frequencies that can be: 10 MHz to 100 GHz.
const SANE_HZ: core::ops::RangeInclusive<u64> = 10_000_000..=100_000_000_000;

/// True if GETVERSION's answer is VMware's.
pub fn is_vmware(version: Answer) -> bool {
    version.a != u32::MAX && version.b == MAGIC
}

/// The counter's frequency in Hz from leaf 0x40000010 (kHz in eax), given the highest leaf.
pub fn leaf_hz(highest: u32, leaf: u32, words: [u32; 4]) -> Option<u64> {
    let hz = u64::from(words[0]) * 1000;
    (highest >= leaf && SANE_HZ.contains(&hz)).then_some(hz)
}

/// The counter's frequency in Hz from GETHZ.
pub fn backdoor_hz(answer: Answer) -> Option<u64> {
    let hz = u64::from(answer.b) << 32 | u64::from(answer.a);
    (answer.b != UNKNOWN && SANE_HZ.contains(&hz)).then_some(hz)
}

/// Nanoseconds since 1970 from GETTIMEFULL (seconds in esi and edx, microseconds in ebx).
pub fn full_time(answer: Answer) -> Option<u64> {
    if answer.a != MAGIC {
        return None;
    }
    time(u64::from(answer.si) << 32 | u64::from(answer.d), answer.b)
}

/// Nanoseconds since 1970 from GETTIME (seconds in eax, microseconds in ebx).
pub fn short_time(answer: Answer) -> Option<u64> {
    time(u64::from(answer.a), answer.b)
}

fn time(seconds: u64, microseconds: u32) -> Option<u64> {
    // A clock that was never set, or an answer that is none, is before 2001 or has no such fraction.
    if seconds < 1_000_000_000 || microseconds >= 1_000_000 {
        return None;
    }
    seconds.checked_mul(1_000_000_000)?.checked_add(u64::from(microseconds) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version() {
        assert!(is_vmware(Answer { a: 6, b: MAGIC, ..Answer::default() }));
        assert!(!is_vmware(Answer { a: u32::MAX, b: u32::MAX, ..Answer::default() }), "nothing is at the port");
        assert!(!is_vmware(Answer { a: u32::MAX, b: MAGIC, ..Answer::default() }));
    }

    #[test]
    fn frequencies() {
        assert_eq!(leaf_hz(0x4000_0010, 0x4000_0010, [2_600_000, 1, 0, 0]), Some(2_600_000_000));
        assert_eq!(leaf_hz(0x4000_0001, 0x4000_0010, [2_600_000, 1, 0, 0]), None, "the leaf is not there");
        assert_eq!(leaf_hz(0x4000_0010, 0x4000_0010, [0; 4]), None);
        assert_eq!(backdoor_hz(Answer { a: 0x1dcd_6500, b: 1, ..Answer::default() }), Some(0x1_1dcd_6500));
        assert_eq!(backdoor_hz(Answer { a: u32::MAX, b: UNKNOWN, ..Answer::default() }), None);
        assert_eq!(backdoor_hz(Answer::default()), None);
    }

    #[test]
    fn times() {
        let full = Answer { a: MAGIC, b: 5, d: 1_700_000_000, ..Answer::default() };
        assert_eq!(full_time(full), Some(1_700_000_000_000_005_000));
        assert_eq!(full_time(Answer { a: u32::MAX, ..full }), None);
        assert_eq!(full_time(Answer { si: u32::MAX, ..full }), None, "more than 64 bits of nanoseconds");
        assert_eq!(short_time(Answer { a: 1_700_000_000, b: 5, ..full }), Some(1_700_000_000_000_005_000));
        assert_eq!(short_time(Answer { a: u32::MAX, b: UNKNOWN, ..full }), None);
        assert_eq!(short_time(Answer::default()), None);
    }
}
