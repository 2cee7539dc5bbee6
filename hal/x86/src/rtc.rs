//! The CMOS real-time clock (Motorola MC146818), for the wall clock where the hypervisor has no better one.

use crate::arch::{inb, outb};
use crate::scale::{days_from_civil, from_bcd};

fn get(register: u8) -> u8 {
    // SAFETY: index and data port of the CMOS, which nobody else uses; bit 7 keeps NMI enabled.
    unsafe {
        outb(0x70, register);
        inb(0x71)
    }
}

fn snapshot() -> [u8; 7] {
    [get(0), get(2), get(4), get(7), get(8), get(9), get(0x32)]
}

/// Seconds since 1970-01-01, taking the clock to run in UTC; `None` if it makes no sense.
pub fn read() -> Option<u64> {
    // Two equal readings with no update in progress.
    let mut last = None;
    let fields = (0..100).find_map(|_| {
        if get(10) & 0x80 != 0 {
            return None;
        }
        let now = Some(snapshot());
        if now == last {
            return now;
        }
        last = now;
        None
    })?;
    let format = get(11);
    let binary = |v: u8| if format & 4 != 0 { v } else { from_bcd(v) };
    let [second, minute, hour, day, month, year, century] = fields;
    let mut hours = binary(hour & 0x7f);
    if format & 2 == 0 {
        hours = hours % 12 + if hour & 0x80 != 0 { 12 } else { 0 };
    }
    let century = match binary(century) {
        c @ 19..=29 => i64::from(c),
        _ => 20,
    };
    let year = century * 100 + i64::from(binary(year));
    let (month, day) = (i64::from(binary(month)), i64::from(binary(day)));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hours > 23 {
        return None;
    }
    let days = u64::try_from(days_from_civil(year, month, day)).ok()?;
    Some(days * 86_400 + u64::from(hours) * 3600 + u64::from(binary(minute)) * 60 + u64::from(binary(second)))
}
