//! Layouts that several families share: times, resource usage, strings.

use alloc::vec::Vec;

use base::{Errno, Result};

use crate::mm::user;
use crate::process::process::Usage;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// Longest path with its terminating zero.
const PATH_MAX: usize = 4096;

/// A `struct timespec` of a duration or a point in time, as ns; `EINVAL` if negative or not normal. Saturates.
pub fn read_timespec(address: usize) -> Result<u64> {
    let [sec, nsec]: [i64; 2] = user::read(address)?;
    if sec < 0 || !(0..SECOND as i64).contains(&nsec) {
        return Err(Errno::EINVAL);
    }
    Ok((sec as u64).saturating_mul(SECOND).saturating_add(nsec as u64))
}

/// Writes ns as a `struct timespec`.
pub fn write_timespec(address: usize, ns: u64) -> Result<()> {
    user::write(address, &timespec(ns))
}

/// The words of a `struct timespec`.
pub fn timespec(ns: u64) -> [i64; 2] {
    [(ns / SECOND) as i64, (ns % SECOND) as i64]
}

/// A `struct timeval` as ns; `EINVAL` if negative or not normal.
pub fn read_timeval(words: [i64; 2]) -> Result<u64> {
    let [sec, usec] = words;
    if sec < 0 || !(0..1_000_000).contains(&usec) {
        return Err(Errno::EINVAL);
    }
    Ok((sec as u64).saturating_mul(SECOND).saturating_add(usec as u64 * 1000))
}

/// The words of a `struct timeval`.
pub fn timeval(ns: u64) -> [i64; 2] {
    [(ns / SECOND) as i64, (ns % SECOND / 1000) as i64]
}

/// A `struct rusage`; `peak` in KiB.
pub fn rusage(usage: &Usage, peak: usize) -> [u64; 18] {
    let mut words = [0; 18];
    let [user, system] = [timeval(usage.user_ns), timeval(usage.system_ns)];
    words[0] = user[0] as u64;
    words[1] = user[1] as u64;
    words[2] = system[0] as u64;
    words[3] = system[1] as u64;
    words[4] = peak as u64;
    words[8] = usage.faults;
    words[16] = usage.voluntary;
    words[17] = usage.involuntary;
    words
}

/// A path: `ENAMETOOLONG` beyond `PATH_MAX`.
pub fn read_path(address: usize) -> Result<Vec<u8>> {
    user::read_cstr(address, PATH_MAX)
}

/// A signal set of `size` bytes: `EINVAL` unless that is 8.
pub fn read_sigset(address: usize, size: usize) -> Result<u64> {
    if size != 8 { Err(Errno::EINVAL) } else { user::read(address) }
}
