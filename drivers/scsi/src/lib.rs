//! SCSI disks (T10 SAM-5, SPC-4, SBC-3) without the hardware that carries the commands: which commands a request becomes,
//! what an answer means, and how the disks of a host adapter are found.
//!
//! An adapter's driver implements [`Host`]; [`scan`] gives a [`hal_core::device::BlockDevice`] for each disk behind it.
//! Nothing that a target says is taken for true: sizes, lengths and strings are checked. The one unsafe block passes on
//! the promise of whoever submits a request.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod cdb;
mod disk;
pub mod parse;
mod scan;
pub mod sense;
mod task;

#[cfg(any(test, feature = "fake"))]
pub mod exercise;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(test)]
mod tests;

pub use cdb::Cdb;
pub use disk::Disk;
pub use scan::scan;
pub use task::{Outcome, Task};

use hal_core::interrupt::Handler;

/// A logical unit: target and unit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The target on the adapter's bus.
    pub target: u8,
    /// The unit of that target, below 16384.
    pub lun: u16,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// There is none.
    None,
    /// From the target.
    In,
    /// To the target.
    Out,
}

/// What an adapter can do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes in a command.
    pub max_bytes: u32,
    /// Most pieces of memory in a command.
    pub max_pieces: u16,
    /// Queues; at least 1.
    pub queues: u16,
}

/// A host adapter: carries commands to targets, many at once.
pub trait Host: Send + Sync {
    /// What it can do; does not change.
    fn limits(&self) -> Limits;
    /// Starts a command. The adapter calls [`Task::finish`] exactly once, here or in [`Host::poll`], with no lock held. If its
    /// queue is full the command waits inside.
    ///
    /// # Safety
    /// The memory of the task's pieces stays valid, and is not otherwise used if the target writes to it, until then.
    unsafe fn start(&self, task: Task);
    /// Finishes what the targets have answered; starts what waits. Cheap if there is nothing.
    fn poll(&self);
    /// Calls `handler` in the interrupt when there are answers. Of several handlers the first is kept: each of them leads to
    /// [`Host::poll`], which serves every disk.
    fn on_interrupt(&self, handler: Handler);
    /// The targets cannot be relied on any more (one does not answer): resets what is behind the adapter, so that no
    /// memory given to it is used any more, and fails what is under way.
    fn give_up(&self);
}
