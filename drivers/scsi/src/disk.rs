//! A unit as a disk: requests become commands.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;

use hal_core::device::{BlockCaps, BlockDevice, BlockOp, Completion, Dma, check_request};
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use crate::cdb::{Cdb, unmap_list};
use crate::task::{Done, Task};
use crate::{Address, Direction, Host};

/// How ranges are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discard {
    /// Not at all.
    None,
    /// UNMAP.
    Unmap,
    /// WRITE SAME (16).
    Same16,
    /// WRITE SAME (10).
    Same10,
}

/// A disk behind an adapter.
pub struct Disk {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) address: Address,
    pub(crate) caps: BlockCaps,
    pub(crate) discard: Discard,
    /// Most blocks to give back at once.
    pub(crate) max_discard: u32,
    /// There is a volatile cache.
    pub(crate) cached: bool,
    pub(crate) serial: String,
}

/// A command for a request, and bytes that go with it.
struct Translated {
    cdb: Cdb,
    direction: Direction,
    len: u32,
    payload: Option<Box<[u8]>>,
}

impl Disk {
    /// Checks what is asked for, and puts it in the unit's words.
    fn translate(&self, op: &BlockOp, position: u64, buffers: &[Dma]) -> Result<Translated> {
        let caps = &self.caps;
        let block_size = u64::from(caps.block_size);
        let plain = |cdb| Translated { cdb, direction: Direction::None, len: 0, payload: None };
        if caps.read_only && matches!(op, BlockOp::Write | BlockOp::Discard(_)) {
            return Err(Error::Unsupported);
        }
        match *op {
            BlockOp::Read | BlockOp::Write => {
                let write = matches!(op, BlockOp::Write);
                let len: u64 = buffers.iter().map(|b| b.len as u64).sum();
                let fits = len > 0
                    && len <= u64::from(caps.max_request)
                    && buffers.len() <= usize::from(caps.max_pieces)
                    && buffers.iter().all(|b| b.len > 0);
                if !fits {
                    return Err(Error::Invalid);
                }
                check_request(caps, position, len)?;
                let cdb = Cdb::transfer(write, position / block_size, (len / block_size) as u32);
                let direction = if write { Direction::Out } else { Direction::In };
                Ok(Translated { cdb, direction, len: len as u32, payload: None })
            }
            _ if !buffers.is_empty() => Err(Error::Invalid),
            BlockOp::Flush => Ok(plain(Cdb::synchronize_cache())),
            BlockOp::Discard(_) if self.discard == Discard::None => Err(Error::Unsupported),
            BlockOp::Discard(bytes) => {
                check_request(caps, position, bytes)?;
                let (block, count) = (position / block_size, bytes / block_size);
                let count = u32::try_from(count).ok().filter(|c| *c <= self.max_discard).ok_or(Error::Invalid)?;
                let zeroes = || alloc::vec![0; caps.block_size as usize].into_boxed_slice();
                let (cdb, payload): (_, Box<[u8]>) = match self.discard {
                    Discard::None => return Err(Error::Unsupported),
                    Discard::Unmap => (Cdb::unmap(24), Box::new(unmap_list(block, count))),
                    Discard::Same16 => (Cdb::write_same_16(block, count), zeroes()),
                    Discard::Same10 => {
                        let block = u32::try_from(block).map_err(|_| Error::Invalid)?;
                        let count = u16::try_from(count).map_err(|_| Error::Invalid)?;
                        (Cdb::write_same_10(block, count), zeroes())
                    }
                };
                Ok(Translated { cdb, direction: Direction::Out, len: payload.len() as u32, payload: Some(payload) })
            }
        }
    }
}

impl BlockDevice for Disk {
    fn caps(&self) -> BlockCaps {
        self.caps
    }

    unsafe fn submit(&self, op: BlockOp, position: u64, buffers: &[Dma], done: Completion) {
        let nothing = match op {
            BlockOp::Flush => !self.cached,
            BlockOp::Discard(bytes) => bytes == 0,
            _ => false,
        };
        if nothing && buffers.is_empty() {
            return done(Ok(()));
        }
        let translated = match self.translate(&op, position, buffers) {
            Ok(translated) => translated,
            Err(error) => return done(Err(error)),
        };
        let mut task = Task::new(self.address, translated.cdb, Done::Request(done));
        match translated.payload {
            Some(payload) => task = task.with_payload(payload),
            None => {
                task.direction = translated.direction;
                task.len = translated.len;
                task.pieces = buffers.into();
            }
        }
        // SAFETY: the caller keeps the buffers until `done` runs, and a payload is the task's own.
        unsafe { self.host.start(task) };
    }

    fn poll(&self) {
        self.host.poll();
    }

    fn on_interrupt(&self, handler: Handler) {
        self.host.on_interrupt(handler);
    }

    fn serial(&self) -> String {
        self.serial.clone()
    }
}
