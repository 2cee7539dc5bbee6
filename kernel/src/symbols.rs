//! Names for addresses: a table of the kernel's functions that the linking script (`kernel/link`) puts into the image.
//!
//! The table is text, one function a line: hexadecimal offset from the image's start, a space, the demangled name;
//! sorted by offset. A kernel linked without it prints bare offsets.

use core::fmt;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __symbols_start: u8;
    static __symbols_end: u8;
}

/// An address that prints as `kernel+0x1234 name+0x12`.
pub struct Symbol(pub u64);

fn table() -> &'static str {
    let start = &raw const __symbols_start;
    let len = (&raw const __symbols_end) as usize - start as usize;
    // SAFETY: the linker put the table between these two symbols, in the constants.
    let bytes = unsafe { core::slice::from_raw_parts(start, len) };
    core::str::from_utf8(bytes).unwrap_or("")
}

/// The function that holds `offset`, and its own offset.
fn find(offset: u64) -> Option<(u64, &'static str)> {
    let mut best = None;
    for line in table().lines() {
        let (at, name) = line.split_once(' ')?;
        let at = u64::from_str_radix(at, 16).ok()?;
        if at > offset {
            break;
        }
        best = Some((at, name));
    }
    best
}

/// True if `address` lies in the kernel's code.
pub fn is_kernel_code(address: u64) -> bool {
    ((&raw const __image_start) as u64..(&raw const __text_end) as u64).contains(&address)
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !is_kernel_code(self.0) {
            return write!(f, "{:#x}", self.0);
        }
        let offset = self.0 - (&raw const __image_start) as u64;
        write!(f, "kernel+{offset:#x}")?;
        if let Some((start, name)) = find(offset) {
            write!(f, " {name}+{:#x}", offset - start)?;
        }
        Ok(())
    }
}
