//! What ATA disks say and understand, whatever they are connected to: descriptions and ranges to trim. Pure.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod identify;
pub mod trim;

pub use identify::Identity;
