//! The parts of memory management that need no hardware: the buddy lists over frame metadata and the
//! tree of mapped regions. They live in their own crate so that `cargo test` runs them on the host.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod buddy;
pub mod region;

#[cfg(test)]
mod random;
