//! A drive, as the kernel sees it.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use ata::Identity;
use ata::trim::MOST_TRIM;
use driver_kit::Lock;
use hal_core::device::{BlockCaps, BlockDevice, BlockOp, Completion, Dma, check_request};
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use crate::channel::{Channel, Command, Finished, MAX_REQUEST, Op, PIECES};

/// A channel and whom to tell of its interrupts.
pub(crate) struct Shared {
    /// The channel.
    pub channel: Lock<Channel>,
    /// The first disk's.
    pub handler: spin::Once<Handler>,
}

/// A disk.
pub(crate) struct Disk {
    shared: Arc<Shared>,
    drive: u8,
    caps: BlockCaps,
    cached: bool,
    serial: String,
}

impl Disk {
    /// The drive with this description.
    pub fn new(shared: &Arc<Shared>, drive: u8, identity: Identity) -> Result<Self> {
        if identity.sector_size != 512 {
            return Err(Error::Device("a disk with large sectors"));
        }
        let caps = BlockCaps {
            size: identity.sectors * 512,
            block_size: 512,
            read_only: false,
            discard: identity.trim,
            max_request: MAX_REQUEST as u32,
            max_pieces: PIECES as u16,
            queues: 1,
        };
        log::info!("ide: drive {drive}: {}", identity.model);
        Ok(Self { shared: shared.clone(), drive, caps, cached: identity.cached, serial: identity.serial })
    }

    /// Checks a request and puts it in the drive's words.
    fn translate(&self, op: &BlockOp, position: u64, buffers: &[Dma]) -> Result<Command> {
        let len = buffers.iter().try_fold(0u64, |sum, b| sum.checked_add(b.len as u64)).ok_or(Error::Invalid)?;
        let (op, bytes) = match op {
            BlockOp::Read => (Op::Read, len),
            BlockOp::Write => (Op::Write, len),
            BlockOp::Flush if buffers.is_empty() => {
                return Ok(Command { drive: self.drive, op: Op::Flush, sector: 0, count: 0 });
            }
            BlockOp::Flush => return Err(Error::Invalid),
            BlockOp::Discard(_) if !self.caps.discard => return Err(Error::Unsupported),
            BlockOp::Discard(bytes) => (Op::Trim, *bytes),
        };
        check_request(&self.caps, position, bytes)?;
        let fits = if op == Op::Trim {
            buffers.is_empty() && bytes / 512 <= MOST_TRIM
        } else {
            len <= MAX_REQUEST as u64
                && buffers.len() <= PIECES
                && buffers.iter().all(|b| b.len > 0 && b.len.is_multiple_of(512))
        };
        if !fits || bytes == 0 {
            return Err(Error::Invalid);
        }
        Ok(Command { drive: self.drive, op, sector: position / 512, count: (bytes / 512) as u32 })
    }
}

impl BlockDevice for Disk {
    fn caps(&self) -> BlockCaps {
        self.caps
    }

    unsafe fn submit(&self, op: BlockOp, position: u64, buffers: &[Dma], done: Completion) {
        let command = match self.translate(&op, position, buffers) {
            Ok(command) => command,
            Err(error) => return done(Err(error)),
        };
        if command.op == Op::Flush && !self.cached {
            return done(Ok(()));
        }
        let mut all: Vec<Finished> = Vec::new();
        self.shared.channel.lock().submit(command, buffers, done, &mut |one| all.push(one));
        all.into_iter().for_each(|(done, result)| done(result));
    }

    fn poll(&self) {
        let mut all: Vec<Finished> = Vec::new();
        self.shared.channel.lock().poll(&mut |one| all.push(one));
        all.into_iter().for_each(|(done, result)| done(result));
    }

    fn on_interrupt(&self, handler: Handler) {
        self.shared.handler.call_once(|| handler);
    }

    fn serial(&self) -> String {
        self.serial.clone()
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
