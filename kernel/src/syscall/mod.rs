//! System calls: the table, and one file per family. No unsafe code: memory of the program is reached through
//! `mm::user` and `base::io` alone.
//!
//! A family's file has its handlers and one `calls!` block: number, name and, as text, what of the call works. The
//! table is put together from these blocks at compile time, and docs/linux-abi.md is generated from the same text.
#![forbid(unsafe_code)]

mod at;
mod attr;
mod descriptor;
mod dir;
mod events;
mod file;
mod futex;
mod identity;
mod memory;
pub mod misc;
mod names;
mod poll;
mod prctl;
mod process;
mod signal;
mod socket;
mod splice;
mod stat;
mod table;
mod thread;
mod time;
pub mod transfer;
mod values;

use base::Result;

pub use table::dispatch;

/// The arguments of a call, as the program passed them in registers.
#[derive(Clone, Copy, Debug)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// Argument `n` (0 to 5) as it is.
    #[inline]
    pub fn u64(&self, n: usize) -> u64 {
        self.0[n]
    }
    /// Argument `n` as a C `int` (the upper half is ignored).
    #[inline]
    pub fn int(&self, n: usize) -> i32 {
        self.0[n] as i32
    }
    /// Argument `n` as a C `unsigned int` (the upper half is ignored).
    #[inline]
    pub fn u32(&self, n: usize) -> u32 {
        self.0[n] as u32
    }
    /// Argument `n` as a C `long`.
    #[inline]
    pub fn long(&self, n: usize) -> i64 {
        self.0[n] as i64
    }
    /// Argument `n` as a length, an address or a C `unsigned long`.
    #[inline]
    pub fn usize(&self, n: usize) -> usize {
        self.0[n] as usize
    }
    /// Argument `n` as an address that is absent when it is null.
    #[inline]
    pub fn optional(&self, n: usize) -> Option<usize> {
        (self.0[n] != 0).then_some(self.0[n] as usize)
    }
}

/// A system call's function. Works for the current thread.
pub type Handler = fn(&Args) -> Result<u64>;

/// One call of a family.
#[derive(Clone, Copy)]
pub struct Row {
    /// The number on x86-64.
    pub number: usize,
    /// The name, which must be the number's in `names`.
    pub name: &'static str,
    /// The function.
    pub handler: Handler,
    /// What works: "complete", or the flags that do and do not.
    #[allow(dead_code, reason = "docs/linux-abi.md is generated from it")]
    pub coverage: &'static str,
}

/// Declares `ROWS` of a family: `calls! { 39 getpid, "complete"; 110 getppid, "complete"; }`. The function has the
/// name of the call.
macro_rules! calls {
    ($($number:literal $name:ident, $coverage:literal;)*) => {
        /// The calls of this family.
        pub const ROWS: &[$crate::syscall::Row] = &[
            $($crate::syscall::Row { number: $number, name: stringify!($name), handler: $name, coverage: $coverage },)*
        ];
    };
}
pub(crate) use calls;
