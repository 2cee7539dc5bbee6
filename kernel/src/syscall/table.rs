//! The one table: number -> function. Put together at compile time from the families' rows; a row with a wrong
//! name, or a number that two families claim, does not compile.

use core::sync::atomic::{AtomicU64, Ordering};

use base::{Errno, Result};

use super::names::{COUNT, NAMES};
use super::{Args, Handler, Row};

/// Every family. One line each, so that families can be added side by side.
const FAMILIES: &[&[Row]] = &[
    super::attr::ROWS,
    super::descriptor::ROWS,
    super::dir::ROWS,
    super::events::ROWS,
    super::file::ROWS,
    super::futex::ROWS,
    super::identity::ROWS,
    super::memory::ROWS,
    super::misc::ROWS,
    super::prctl::ROWS,
    super::process::ROWS,
    super::signal::ROWS,
    super::socket::ROWS,
    super::thread::ROWS,
    super::time::ROWS,
    super::poll::ROWS,
    super::splice::ROWS,
    super::stat::ROWS,
];

static TABLE: [Option<Handler>; COUNT] = build();

const fn build() -> [Option<Handler>; COUNT] {
    let mut table: [Option<Handler>; COUNT] = [None; COUNT];
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut index = 0;
        while index < FAMILIES[family].len() {
            let row = &FAMILIES[family][index];
            assert!(same(row.name, name(row.number)), "a row's name is not its number's");
            assert!(table[row.number].is_none(), "two rows for one number");
            table[row.number] = Some(row.handler);
            index += 1;
        }
        family += 1;
    }
    table
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Name of a call's number; empty if there is no such call.
pub const fn name(number: usize) -> &'static str {
    if number < COUNT { NAMES[number] } else { "" }
}

/// Calls the function of `number`. `ENOSYS`, and one log line per number, where there is none.
#[inline]
pub fn dispatch(number: u64, args: [u64; 6]) -> Result<u64> {
    // As Linux does, only the low half of rax is the number.
    match TABLE.get(number as u32 as usize) {
        Some(Some(handler)) => handler(&Args(args)),
        _ => unknown(number as u32 as usize),
    }
}

#[cold]
fn unknown(number: usize) -> Result<u64> {
    // One bit per number that was reported; all numbers beyond the table share the last one.
    static REPORTED: [AtomicU64; COUNT / 64 + 1] = [const { AtomicU64::new(0) }; COUNT / 64 + 1];
    let slot = number.min(COUNT);
    let bit = 1 << (slot % 64);
    if REPORTED[slot / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        match name(number) {
            "" => log::warn!("system call {number} does not exist: ENOSYS"),
            name => log::warn!("system call {name} ({number}) is not implemented: ENOSYS"),
        }
    }
    Err(Errno::ENOSYS)
}
