//! What a boot loader decides, without doing it: where the kernel's segments go, what the memory map says, how the
//! start info looks. Pure, so that every field of a hostile file or map is tested on the host. Reading disks, writing
//! memory and jumping are `boot/bios`' and `boot/uefi`'s.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod firmware;
pub mod kernel;
pub mod memory;
pub mod start_info;

/// Why something cannot be used: the text is for the person at the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

#[cfg(test)]
mod tests;
