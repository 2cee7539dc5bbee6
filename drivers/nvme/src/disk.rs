//! A namespace, as the kernel sees it: a disk.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hal_core::device::{BlockCaps, BlockDevice, BlockOp, Completion, Dma, check_request};
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use crate::controller::{Controller, Data, MAX_PAGES};
use crate::identify;
use crate::prp::pages;
use crate::queue::Command;
use crate::registers::nvm;

/// Most bytes in a request: what the list of pages takes.
const MAX_REQUEST: u32 = ((MAX_PAGES - 1) * 4096) as u32;

/// A disk.
pub(crate) struct Disk {
    controller: Arc<Controller>,
    namespace: u32,
    shift: u8,
    caps: BlockCaps,
    cached: bool,
    serial: String,
}

impl Disk {
    /// Namespace number `number` of a controller.
    pub fn new(
        controller: &Arc<Controller>,
        number: u32,
        about: &identify::Controller,
        namespace: identify::Namespace,
    ) -> Self {
        let most = about.max_transfer.and_then(|n| 4096u32.checked_shl(u32::from(n))).unwrap_or(MAX_REQUEST);
        let block_size = 1u32 << namespace.shift;
        let caps = BlockCaps {
            size: namespace.blocks << namespace.shift,
            block_size,
            read_only: namespace.read_only,
            discard: about.deallocate,
            // A limit that is not a power of two is a shift that went out of range.
            max_request: if most.is_power_of_two() { most.min(MAX_REQUEST).max(block_size) } else { MAX_REQUEST },
            max_pieces: (MAX_PAGES - 1) as u16,
            queues: controller.queues(),
        };
        Self {
            controller: controller.clone(),
            namespace: number,
            shift: namespace.shift,
            caps,
            cached: about.cached,
            serial: about.serial.clone(),
        }
    }

    fn command(&self, opcode: u8, position: u64, bytes: u64) -> Command {
        let first = position >> self.shift;
        Command {
            opcode,
            namespace: self.namespace,
            words: [first as u32, (first >> 32) as u32, ((bytes >> self.shift) as u32).wrapping_sub(1)],
            ..Command::default()
        }
    }

    fn transfer(&self, opcode: u8, position: u64, buffers: &[Dma], done: Completion) {
        let Some(len) = buffers.iter().try_fold(0u64, |sum, b| sum.checked_add(b.len as u64)) else {
            return done(Err(Error::Invalid));
        };
        let mut count = 0;
        let told = pages(buffers, |_| count += 1);
        if len == 0 || len > u64::from(self.caps.max_request) || check_request(&self.caps, position, len).is_err() {
            return done(Err(Error::Invalid));
        }
        if told && count <= MAX_PAGES {
            return self.controller.submit(self.command(opcode, position, len), Data::Pieces(buffers), done);
        }
        self.transfer_apart(opcode, position, buffers, done);
    }

    /// Pieces that one command cannot tell: a command for each.
    #[cold]
    fn transfer_apart(&self, opcode: u8, mut position: u64, buffers: &[Dma], done: Completion) {
        let one = |b: &Dma| b.len > 0 && b.len.is_multiple_of(1 << self.shift) && b.address.is_multiple_of(4);
        if !buffers.iter().all(one) {
            return done(Err(Error::Invalid));
        }
        let parts = Arc::new(Parts {
            left: AtomicUsize::new(buffers.len()),
            failed: AtomicBool::new(false),
            done: driver_kit::Lock::new(Some(done)),
        });
        for buffer in buffers {
            let parts = parts.clone();
            let command = self.command(opcode, position, buffer.len as u64);
            position += buffer.len as u64;
            self.controller.submit(command, Data::Pieces(&[*buffer]), Box::new(move |result| parts.end(result)));
        }
    }
}

/// A request that is several commands.
struct Parts {
    left: AtomicUsize,
    failed: AtomicBool,
    done: driver_kit::Lock<Option<Completion>>,
}

impl Parts {
    fn end(&self, result: Result<()>) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let done = self.done.lock().take();
            if let Some(done) = done {
                let failed = self.failed.load(Ordering::Relaxed);
                done(if failed { Err(Error::Device("the disk reports an error")) } else { Ok(()) });
            }
        }
    }
}

impl BlockDevice for Disk {
    fn caps(&self) -> BlockCaps {
        self.caps
    }

    unsafe fn submit(&self, op: BlockOp, position: u64, buffers: &[Dma], done: Completion) {
        match op {
            BlockOp::Read => self.transfer(nvm::READ, position, buffers, done),
            BlockOp::Write if self.caps.read_only => done(Err(Error::Unsupported)),
            BlockOp::Write => self.transfer(nvm::WRITE, position, buffers, done),
            BlockOp::Flush if !buffers.is_empty() => done(Err(Error::Invalid)),
            BlockOp::Flush if !self.cached => done(Ok(())),
            BlockOp::Flush => {
                let command = Command { opcode: nvm::FLUSH, namespace: self.namespace, ..Command::default() };
                self.controller.submit(command, Data::Pieces(&[]), done);
            }
            BlockOp::Discard(_) if !self.caps.discard || self.caps.read_only => done(Err(Error::Unsupported)),
            BlockOp::Discard(bytes) => {
                let blocks = u32::try_from(bytes >> self.shift);
                let (Ok(blocks @ 1..), Ok(()), []) = (blocks, check_request(&self.caps, position, bytes), buffers)
                else {
                    return done(Err(Error::Invalid));
                };
                let command = Command {
                    opcode: nvm::DATA_SET_MANAGEMENT,
                    namespace: self.namespace,
                    // One range.
                    words: [0, nvm::DEALLOCATE, 0],
                    ..Command::default()
                };
                self.controller.submit(command, Data::Range(position >> self.shift, blocks), done);
            }
        }
    }

    fn poll(&self) {
        self.controller.poll();
    }

    fn on_interrupt(&self, handler: Handler) {
        self.controller.on_interrupt(handler);
    }

    fn serial(&self) -> String {
        if self.namespace == 1 { self.serial.clone() } else { alloc::format!("{}-{}", self.serial, self.namespace) }
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
