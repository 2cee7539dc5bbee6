//! A port: its command list, what is in flight, starting, stopping and starting anew after an error.
//!
//! Which commands are in flight is this driver's own knowledge; the device only says which of them are not done.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};

use ata::trim::trim_block;
use driver_kit::{DmaArea, Io, wait_for};
use hal_core::device::{Completion, Dma};
use hal_core::memory::phys_of;
use hal_core::{Error, PhysAddr, Result};

use crate::command::{Command, Op};
use crate::registers::*;

/// Command slots.
pub(crate) const SLOTS: usize = 32;
/// Pieces of memory in one command.
pub(crate) const PIECES: usize = 128;

// The port's memory (section 4.2): the command list, received frames, then a table per slot.
const LIST: usize = 0;
const HEADER: usize = 32;
const FRAMES: usize = 1024;
const IDENTITY: usize = 1536;
const RANGES: usize = 2048;
const TABLES: usize = 4096;
/// A table: the frame, then pieces of 16 bytes from byte 128 on.
const TABLE: usize = 128 + 16 * PIECES;

/// How long a command may take; flushing takes longest.
const PATIENCE_NS: u64 = 30_000_000_000;

#[derive(Clone, Copy)]
struct Piece {
    at: PhysAddr,
    len: u32,
}

/// A command with the device.
struct InFlight {
    command: Command,
    pieces: u16,
    /// It was lost in an error and now runs again, alone.
    again: bool,
    since: u64,
    done: Completion,
}

/// A request that waits for a slot.
struct Request {
    command: Command,
    pieces: Box<[Piece]>,
    done: Completion,
}

/// What is finished: to be told without the lock.
pub(crate) type Finished = (Completion, Result<()>);

/// A port.
pub(crate) struct Port {
    io: Arc<dyn Io>,
    base: usize,
    memory: DmaArea,
    slots: [Option<InFlight>; SLOTS],
    /// Slots with the device, and those of them that are queued commands.
    busy: u32,
    queued: u32,
    /// Slots that were lost in an error and wait to run again, alone.
    again: u32,
    /// What is in flight does not share the device.
    alone: bool,
    waiting: VecDeque<Request>,
    /// Slots used.
    depth: usize,
    /// Commands are queued.
    queues: bool,
    failed: bool,
}

const _: () = assert!(TABLE.is_multiple_of(128) && FRAMES + 256 <= IDENTITY && IDENTITY + 512 <= RANGES);

impl Port {
    /// Takes port `number` over: stops it and gives it memory.
    pub fn new(io: Arc<dyn Io>, number: usize) -> Result<Self> {
        let mut port = Self {
            io,
            base: PORTS + number * PORT,
            memory: DmaArea::new(TABLES + TABLE * SLOTS)?,
            slots: [const { None }; SLOTS],
            busy: 0,
            queued: 0,
            again: 0,
            alone: false,
            waiting: VecDeque::new(),
            depth: 1,
            queues: false,
            failed: false,
        };
        port.stop()?;
        for (low, high, offset) in [(P_CLB, P_CLBU, LIST), (P_FB, P_FBU, FRAMES)] {
            let at = port.memory.phys(offset).0;
            port.write(low, at as u32);
            port.write(high, (at >> 32) as u32);
        }
        Ok(port)
    }

    /// Uses `depth` slots, for queued commands if `queues`.
    pub fn set_depth(&mut self, depth: usize, queues: bool) {
        self.depth = depth.clamp(1, SLOTS);
        self.queues = queues;
    }

    /// Reads a register of the port.
    pub fn read(&self, register: usize) -> u32 {
        self.io.read(self.base + register)
    }

    /// Writes a register of the port.
    pub fn write(&self, register: usize, value: u32) {
        self.io.write(self.base + register, value);
    }

    /// Section 10.1.2: commands off, then frames off.
    fn stop(&mut self) -> Result<()> {
        for (on, running) in [(CMD_ST, CMD_CR), (CMD_FRE, CMD_FR)] {
            self.write(P_CMD, self.read(P_CMD) & !on);
            if !wait_for(1_000_000_000, || self.read(P_CMD) & running == 0) {
                return Err(Error::Device("a port does not stop"));
            }
        }
        Ok(())
    }

    /// Starts to receive frames, then to work, when the device is ready.
    pub fn start(&mut self) -> Result<()> {
        self.write(P_SERR, u32::MAX);
        self.write(P_IS, u32::MAX);
        self.write(P_CMD, self.read(P_CMD) & 0x0fff_ffff | CMD_FRE | CMD_UP | CMD_ACTIVE);
        if !wait_for(10_000_000_000, || self.read(P_TFD) & TFD_BUSY == 0) {
            return Err(Error::Device("a disk does not get ready"));
        }
        self.write(P_CMD, self.read(P_CMD) | CMD_ST);
        Ok(())
    }

    /// Enables the interrupts that are of use.
    pub fn enable_interrupts(&self) {
        self.write(P_IE, IS_DONE | IS_ERROR);
    }

    /// The device's description. Nothing else is in flight.
    pub fn identify(&mut self) -> Result<[u8; 512]> {
        let place = Piece { at: self.memory.phys(IDENTITY), len: 512 };
        let command = Command { op: Op::Identify, sector: 0, count: 1 };
        self.fill(0, &command, core::iter::once(place));
        self.issue(0, &command, 1, None);
        let ended = wait_for(5_000_000_000, || self.read(P_CI) & 1 == 0 || self.read(P_IS) & IS_ERROR != 0);
        let status = self.read(P_TFD);
        self.write(P_IS, u32::MAX);
        if !ended || self.read(P_CI) & 1 != 0 || status & TFD_ERROR != 0 {
            return Err(Error::Device("a disk does not say what it is"));
        }
        let mut data = [0; 512];
        self.memory.read(IDENTITY, &mut data);
        Ok(data)
    }

    /// Starts a request or puts it in line. Hands it back if the device is not used any more.
    pub fn submit(
        &mut self,
        command: Command,
        buffers: &[Dma],
        done: Completion,
    ) -> core::result::Result<(), Completion> {
        if self.failed {
            return Err(done);
        }
        let pieces = buffers.iter().map(|b| Piece { at: phys_of(b.address as *const u8), len: b.len as u32 });
        match self.free_slot(&command) {
            Some(slot) if self.waiting.is_empty() => {
                let count = self.fill(slot, &command, pieces);
                self.launch(slot, InFlight { command, pieces: count, again: false, since: 0, done });
            }
            _ => self.waiting.push_back(Request { command, pieces: pieces.collect(), done }),
        }
        Ok(())
    }

    /// A slot for this command, if it may start now.
    fn free_slot(&self, command: &Command) -> Option<usize> {
        if self.again != 0 || self.alone || (!command.moves_data() && self.busy != 0) {
            return None;
        }
        let free = (!self.busy).trailing_zeros() as usize;
        (free < self.depth).then_some(free)
    }

    /// Writes a command's table: its pieces.
    fn fill(&mut self, slot: usize, command: &Command, pieces: impl Iterator<Item = Piece>) -> u16 {
        let table = TABLES + slot * TABLE;
        let mut count = 0;
        let mut put = |piece: Piece| {
            let at = table + 128 + 16 * usize::from(count);
            self.memory.put(at, piece.at.0);
            self.memory.put(at + 8, u64::from(piece.len - 1) << 32);
            count += 1;
        };
        if command.op == Op::Trim {
            // It runs alone, so there is one block of ranges.
            if let Ok(block) = trim_block(command.sector, u64::from(command.count)) {
                self.memory.write(RANGES, &block);
            }
            put(Piece { at: self.memory.phys(RANGES), len: 512 });
        }
        pieces.take(PIECES).for_each(put);
        count
    }

    /// Gives a filled slot to the device.
    fn launch(&mut self, slot: usize, mut request: InFlight) {
        let queued = self.queues && !request.again && request.command.moves_data();
        self.alone = request.again || !request.command.moves_data();
        request.since = hal_core::clock::now_ns();
        self.issue(slot, &request.command, request.pieces, queued.then_some(slot as u8));
        self.slots[slot] = Some(request);
        self.busy |= 1 << slot;
        if queued {
            self.queued |= 1 << slot;
        }
    }

    fn issue(&mut self, slot: usize, command: &Command, pieces: u16, tag: Option<u8>) {
        let table = TABLES + slot * TABLE;
        self.memory.write(table, &command.frame(tag));
        // A frame of five words; the number of pieces; which way.
        let flags = 5 | u32::from(command.writes()) << 6 | u32::from(pieces) << 16;
        let at = self.memory.phys(table).0;
        self.memory.put(LIST + slot * HEADER, [flags, 0, at as u32, (at >> 32) as u32]);
        fence(Ordering::Release);
        if tag.is_some() {
            self.write(P_SACT, 1 << slot);
        }
        self.write(P_CI, 1 << slot);
    }

    /// Starts what may start now.
    fn start_waiting(&mut self) {
        if self.again != 0 {
            if self.busy == 0 {
                let slot = self.again.trailing_zeros() as usize;
                self.again &= !(1 << slot);
                if let Some(request) = self.slots[slot].take() {
                    self.launch(slot, request);
                }
            }
            return;
        }
        while let Some(slot) = self.waiting.front().and_then(|r| self.free_slot(&r.command)) {
            let Some(request) = self.waiting.pop_front() else {
                return;
            };
            let pieces = self.fill(slot, &request.command, request.pieces.iter().copied());
            let Request { command, done, .. } = request;
            self.launch(slot, InFlight { command, pieces, again: false, since: 0, done });
        }
    }

    /// Collects what is finished and starts what waits. `errors` are the causes that the interrupt saw.
    pub fn poll(&mut self, errors: u32, finished: &mut impl FnMut(Finished)) {
        if self.busy == 0 {
            return;
        }
        let mut active = 0;
        if self.queued != 0 {
            active |= self.read(P_SACT);
        }
        if self.queued != self.busy {
            active |= self.read(P_CI);
        }
        // An error stops the port: bits that are set then stay so.
        let ended = self.busy & !active;
        let failure = if errors & IS_ERROR != 0 {
            true
        } else if ended == 0 {
            self.read(P_IS) & IS_ERROR != 0 || self.overdue()
        } else {
            false
        };
        fence(Ordering::Acquire);
        // A command that runs alone reports its error with its end.
        let bad = failure && self.alone;
        if !bad {
            self.finish(ended, Ok(()), finished);
        }
        if failure {
            self.recover(finished);
        }
        self.start_waiting();
    }

    /// The device has one of the commands for too long.
    fn overdue(&self) -> bool {
        let now = hal_core::clock::now_ns();
        self.slots.iter().enumerate().any(|(slot, request)| {
            self.busy & 1 << slot != 0 && request.as_ref().is_some_and(|r| now.saturating_sub(r.since) > PATIENCE_NS)
        })
    }

    fn finish(&mut self, slots: u32, result: Result<()>, finished: &mut impl FnMut(Finished)) {
        self.busy &= !slots;
        self.queued &= !slots;
        if self.busy == 0 {
            self.alone = false;
        }
        for (slot, request) in self.slots.iter_mut().enumerate() {
            if slots & 1 << slot != 0
                && let Some(request) = request.take()
            {
                finished((request.done, result));
            }
        }
    }

    /// After an error: starts the port anew. What was in flight runs again, each command alone, so that only the one
    /// that cannot be served fails; what fails then, has failed.
    #[cold]
    fn recover(&mut self, finished: &mut impl FnMut(Finished)) {
        log::warn!(
            "disk: error (status {:#x}, link {:#x}), starting the port anew",
            self.read(P_TFD),
            self.read(P_SERR)
        );
        if self.reset().is_err() {
            return self.fail("the disk does not come back after an error", finished);
        }
        let lost = self.busy;
        let mut hopeless = 0;
        for slot in (0..SLOTS).filter(|slot| lost & 1 << slot != 0) {
            match &mut self.slots[slot] {
                Some(request) if !request.again => request.again = true,
                _ => hopeless |= 1 << slot,
            }
        }
        self.again |= lost & !hopeless;
        self.finish(hopeless, Err(Error::Device("the disk reports an error")), finished);
        (self.busy, self.queued, self.alone) = (0, 0, false);
    }

    /// Resets the link, which ends all commands in the device (section 10.4.2).
    fn reset(&mut self) -> Result<()> {
        self.stop()?;
        let control = self.read(P_SCTL) & !0xf;
        self.write(P_SCTL, control | 1);
        // The device must see it for a millisecond.
        let start = hal_core::clock::now_ns();
        wait_for(10_000_000, || hal_core::clock::now_ns() - start > 1_000_000);
        self.write(P_SCTL, control);
        if !wait_for(1_000_000_000, || self.read(P_SSTS) & 0xf == 3) {
            return Err(Error::Device("the link does not come up"));
        }
        self.start()
    }

    /// Ends the use of the disk: every request gets an error.
    #[cold]
    fn fail(&mut self, why: &'static str, finished: &mut impl FnMut(Finished)) {
        log::error!("disk: {why}; it is not used any more");
        self.failed = true;
        self.write(P_IE, 0);
        self.again = 0;
        self.finish(u32::MAX, Err(Error::Device(why)), finished);
        for request in core::mem::take(&mut self.waiting) {
            finished((request.done, Err(Error::Gone)));
        }
    }
}
