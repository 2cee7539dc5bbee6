//! What every driver needs and no device has of its own: memory for DMA, windows of registers, locks, waiting. With the
//! feature `host` also what lets drivers run under `cargo test` and in fuzz targets.
#![no_std]

extern crate alloc;
#[cfg(feature = "host")]
extern crate std;

pub mod buffer;
pub mod dma;
#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "host")]
pub mod input;
pub mod io;
pub mod lock;
#[cfg(feature = "host")]
pub mod random;
pub mod registers;
pub mod wait;

pub use buffer::Buffer;
pub use dma::DmaArea;
pub use io::Io;
pub use lock::{IrqLock, Lock};
pub use registers::Registers;
pub use wait::wait_for;
