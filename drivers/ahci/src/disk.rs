//! A disk at a port, as the kernel sees it.

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use ata::Identity;
use ata::trim::MOST_TRIM;
use driver_kit::{Io, Lock};
use hal_core::device::{BlockCaps, BlockDevice, BlockOp, Completion, Dma, check_request};
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use crate::command::{Command, Op};
use crate::port::{Finished, PIECES, Port, SLOTS};
use crate::registers::*;

/// Most bytes in a request: a bound of our own, above which nothing gets faster.
const MAX_REQUEST: u32 = 1 << 20;
/// Most bytes in a piece (AHCI 1.3.1, section 4.2.3.3).
const MAX_PIECE: usize = 4 << 20;

/// A disk.
pub(crate) struct Disk {
    io: Arc<dyn Io>,
    /// Where its port's registers are.
    base: usize,
    number: usize,
    caps: BlockCaps,
    cached: bool,
    serial: String,
    port: Lock<Port>,
    /// Causes that the interrupt has acknowledged and nobody has looked at yet.
    causes: AtomicU32,
    handler: spin::Once<Handler>,
}

impl Disk {
    /// Brings up the disk at port `number`, whose link is up. `slots` and `queues` are the controller's.
    pub fn start(io: &Arc<dyn Io>, number: usize, slots: usize, queues: bool) -> Result<Arc<Self>> {
        let mut port = Port::new(io.clone(), number)?;
        port.start()?;
        let identity = Identity::parse(&port.identify()?)?;
        let queues = queues && identity.depth > 1;
        let depth = if queues { slots.min(identity.depth as usize) } else { slots };
        port.set_depth(depth.min(SLOTS), queues);
        port.enable_interrupts();
        let size = identity.sectors.checked_mul(u64::from(identity.sector_size));
        let caps = BlockCaps {
            size: size.ok_or(Error::Device("a disk's size is absurd"))?,
            block_size: identity.sector_size,
            read_only: false,
            discard: identity.trim,
            max_request: MAX_REQUEST,
            max_pieces: PIECES as u16,
            queues: 1,
        };
        log::info!(
            "ahci: port {number}: {}, {} commands in flight{}",
            identity.model,
            depth,
            if queues { ", queued" } else { "" }
        );
        Ok(Arc::new(Self {
            io: io.clone(),
            base: PORTS + number * PORT,
            number,
            caps,
            cached: identity.cached,
            serial: identity.serial,
            port: Lock::new(port),
            causes: AtomicU32::new(0),
            handler: spin::Once::new(),
        }))
    }

    /// The controller's interrupt, with the ports that it is for.
    pub fn interrupt(&self, ports: u32) {
        if ports & 1 << self.number == 0 {
            return;
        }
        let causes = self.io.read(self.base + P_IS);
        self.io.write(self.base + P_IS, causes);
        self.causes.fetch_or(causes & IS_ERROR, Ordering::Release);
        if let Some(handler) = self.handler.get() {
            handler();
        }
    }

    /// Checks a request and puts it in the device's words.
    fn translate(&self, op: &BlockOp, position: u64, buffers: &[Dma]) -> Result<Command> {
        let sector_size = u64::from(self.caps.block_size);
        let len = buffers.iter().try_fold(0u64, |sum, b| sum.checked_add(b.len as u64)).ok_or(Error::Invalid)?;
        let (op, bytes) = match op {
            BlockOp::Read => (Op::Read, len),
            BlockOp::Write => (Op::Write, len),
            BlockOp::Flush => return if buffers.is_empty() { Ok(FLUSH) } else { Err(Error::Invalid) },
            BlockOp::Discard(_) if !self.caps.discard => return Err(Error::Unsupported),
            BlockOp::Discard(bytes) => (Op::Trim, *bytes),
        };
        check_request(&self.caps, position, bytes)?;
        let fits = if op == Op::Trim {
            buffers.is_empty() && bytes / sector_size <= MOST_TRIM
        } else {
            // Addresses and lengths are even (section 4.2.3.3).
            len <= u64::from(MAX_REQUEST)
                && buffers.len() <= PIECES
                && buffers.iter().all(|b| (1..=MAX_PIECE).contains(&b.len) && b.len % 2 == 0 && b.address % 2 == 0)
        };
        if !fits || bytes == 0 {
            return Err(Error::Invalid);
        }
        Ok(Command { op, sector: position / sector_size, count: (bytes / sector_size) as u32 })
    }
}

const FLUSH: Command = Command { op: Op::Flush, sector: 0, count: 0 };

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
        let mut port = self.port.lock();
        let refused = port.submit(command, buffers, done);
        drop(port);
        if let Err(done) = refused {
            done(Err(Error::Gone));
        }
    }

    fn poll(&self) {
        let mut all = [const { None::<Finished> }; SLOTS];
        let mut more = alloc::vec::Vec::new();
        let mut count = 0;
        let mut port = self.port.lock();
        let causes = self.causes.swap(0, Ordering::Acquire);
        port.poll(causes, &mut |one| match all.get_mut(count) {
            Some(place) => {
                *place = Some(one);
                count += 1;
            }
            // Only when the disk has failed, and all that waits ends too.
            None => more.push(one),
        });
        drop(port);
        for (done, result) in all.into_iter().flatten().chain(more) {
            done(result);
        }
    }

    fn on_interrupt(&self, handler: Handler) {
        self.handler.call_once(|| handler);
    }

    fn serial(&self) -> String {
        self.serial.clone()
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
