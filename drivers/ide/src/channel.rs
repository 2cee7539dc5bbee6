//! A channel: two drives that share one set of registers, so one command at a time. Data moves by the bus master where it can
//! reach the memory, else through the data port.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};

use ata::trim::trim_block;
use driver_kit::{DmaArea, IrqLock, wait_for};
use hal_core::device::{Completion, Dma};
use hal_core::memory::phys_of;
use hal_core::{Error, Result};

use crate::ports::*;

/// Pieces of memory in one command.
pub(crate) const PIECES: usize = 64;
/// Most bytes in a command.
pub(crate) const MAX_REQUEST: usize = 256 << 10;

/// The area: the table of pieces, then a block of ranges.
const TABLE: usize = 0;
const RANGES: usize = 4096;
/// No piece of the bus master crosses such a border.
const BORDER: u64 = 0x1_0000;
/// How long a command may take; flushing takes longest.
const PATIENCE_NS: u64 = 30_000_000_000;
const SECTOR_SIZE: usize = 512;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Fill the pieces.
    Read,
    /// Write the pieces.
    Write,
    /// Empty the write cache.
    Flush,
    /// Forget the sectors.
    Trim,
}

/// A request in the drive's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    /// 0 or 1.
    pub drive: u8,
    /// What to do.
    pub op: Op,
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub count: u32,
}

const READ: u8 = 0x24;
const READ_DMA: u8 = 0x25;
const WRITE: u8 = 0x34;
const WRITE_DMA: u8 = 0x35;
const FLUSH: u8 = 0xea;
const DATA_SET_MANAGEMENT: u8 = 0x06;
const IDENTIFY: u8 = 0xec;

struct Request {
    command: Command,
    pieces: Box<[Dma]>,
    done: Completion,
}

/// What is finished: to be told without the lock.
pub(crate) type Finished = (Completion, Result<()>);

/// Where a channel's registers are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Command block.
    pub command: u16,
    /// Control and alternate status.
    pub control: u16,
    /// Bus master, if there is one.
    pub master: Option<u16>,
}

/// What the interrupt finds, and acknowledges.
pub(crate) struct Line {
    ports: Arc<dyn Ports>,
    place: Place,
    /// Status of the bus master and of the drive, which nobody has looked at yet.
    seen: IrqLock<Option<(u8, u8)>>,
}

impl Line {
    /// Acknowledges an interrupt, if there is one; true if it is this channel's.
    pub fn look(&self) -> bool {
        let Some(master) = self.place.master else {
            return false;
        };
        let mut seen = self.seen.lock();
        let status = self.ports.read(master + MASTER_STATUS, 1) as u8;
        if status & INTERRUPT == 0 {
            return false;
        }
        let drive = self.ports.read(self.place.command + COMMAND, 1) as u8;
        self.ports.write(master + MASTER_STATUS, 1, u32::from(status & CAPABLE | INTERRUPT | MASTER_ERROR));
        *seen = Some((status, drive));
        true
    }

    fn take(&self) -> Option<(u8, u8)> {
        let taken = self.seen.lock().take();
        taken.or_else(|| if self.look() { self.seen.lock().take() } else { None })
    }
}

/// A channel.
pub(crate) struct Channel {
    ports: Arc<dyn Ports>,
    place: Place,
    line: Arc<Line>,
    area: DmaArea,
    /// The command that the bus master serves, and since when.
    current: Option<(Request, u64)>,
    waiting: VecDeque<Request>,
    failed: bool,
}

impl Channel {
    /// Takes a channel over; interrupts are off. `None` if nothing is there.
    pub fn new(ports: Arc<dyn Ports>, mut place: Place) -> Result<Option<Self>> {
        let area = DmaArea::new(RANGES + 4096)?;
        if area.phys(RANGES + 4095).0 > u64::from(u32::MAX) {
            log::warn!("ide: no memory below 4 GiB: disks are read through their data port, slowly");
            place.master = None;
        }
        let line = Arc::new(Line { ports: ports.clone(), place, seen: IrqLock::new(None) });
        let channel = Self { ports, place, line, area, current: None, waiting: VecDeque::new(), failed: false };
        // Nobody drives the lines of an empty channel.
        if channel.status() == 0xff {
            return Ok(None);
        }
        channel.control(NO_INTERRUPTS);
        Ok(Some(channel))
    }

    /// For the interrupt.
    pub fn line(&self) -> Arc<Line> {
        self.line.clone()
    }

    fn control(&self, value: u8) {
        self.ports.write(self.place.control, 1, u32::from(value));
    }

    /// The status, without acknowledging.
    fn status(&self) -> u8 {
        self.ports.read(self.place.control, 1) as u8
    }

    fn put(&self, register: u16, value: u8) {
        self.ports.write(self.place.command + register, 1, u32::from(value));
    }

    fn get(&self, register: u16) -> u8 {
        self.ports.read(self.place.command + register, 1) as u8
    }

    fn wait(&self, ns: u64) -> Result<()> {
        if wait_for(ns, || self.status() & BUSY == 0) { Ok(()) } else { Err(Error::Device("the disk stays busy")) }
    }

    /// Chooses the drive for what follows.
    fn select(&self, drive: u8) -> Result<()> {
        self.put(DRIVE, 0xe0 | drive << 4);
        self.wait(5_000_000_000)
    }

    /// The drive's description; `None` if there is no disk.
    pub fn identify(&mut self, drive: u8) -> Result<Option<[u8; 512]>> {
        self.select(drive)?;
        self.put(COMMAND, IDENTIFY);
        if self.get(COMMAND) == 0 {
            return Ok(None);
        }
        self.wait(5_000_000_000)?;
        // A packet device refuses, and leaves its signature.
        if self.get(SECTOR + 1) == 0x14 && self.get(SECTOR + 2) == 0xeb {
            log::info!("ide: drive {drive}: a packet device (CD-ROM): not used");
            return Ok(None);
        }
        let status = self.get(COMMAND);
        if status & (ERROR | FAULT) != 0 || status & WANTS_DATA == 0 {
            return Ok(None);
        }
        let mut data = [0; 512];
        for word in data.chunks_mut(2) {
            word.copy_from_slice(&(self.ports.read(self.place.command + DATA, 2) as u16).to_le_bytes());
        }
        Ok(Some(data))
    }

    /// Lets the channel interrupt.
    pub fn enable_interrupts(&self) {
        self.line.take();
        self.control(0);
    }

    /// Starts a request or puts it in line. Hands it back if the channel is not used any more. What has finished at once, goes
    /// to `finished`.
    pub fn submit(&mut self, command: Command, buffers: &[Dma], done: Completion, finished: &mut impl FnMut(Finished)) {
        if self.failed {
            return finished((done, Err(Error::Gone)));
        }
        self.waiting.push_back(Request { command, pieces: buffers.into(), done });
        self.start_waiting(finished);
    }

    /// Starts what waits, as long as nothing is in flight.
    fn start_waiting(&mut self, finished: &mut impl FnMut(Finished)) {
        while self.current.is_none() {
            let Some(request) = self.waiting.pop_front() else {
                return;
            };
            let moves = self.place.master.filter(|_| self.fill(&request));
            match moves.map(|master| self.start(master, &request.command)) {
                Some(Ok(())) => self.current = Some((request, hal_core::clock::now_ns())),
                // The bus master cannot, or the drive does not listen to it.
                Some(Err(_)) => {
                    let result = self.again(&request);
                    finished((request.done, result));
                }
                None => {
                    let result = self.by_port(&request);
                    finished((request.done, result));
                }
            }
        }
    }

    /// Writes the bus master's table; false if it cannot reach the memory.
    fn fill(&mut self, request: &Request) -> bool {
        let ranges;
        let pieces = match request.command.op {
            Op::Flush => return true,
            Op::Trim => {
                let Ok(block) = trim_block(request.command.sector, u64::from(request.command.count)) else {
                    return false;
                };
                self.area.write(RANGES, &block);
                ranges = [Dma { address: self.area.at::<u8>(RANGES) as usize, len: block.len() }];
                &ranges[..]
            }
            Op::Read | Op::Write => &request.pieces[..],
        };
        let mut entry = 0;
        for piece in pieces {
            let mut at = phys_of(piece.address as *const u8).0;
            let end = at + piece.len as u64;
            if end > 1 << 32 || !at.is_multiple_of(2) {
                return false;
            }
            while at < end {
                let len = (end - at).min(BORDER - at % BORDER);
                // 64 KiB is written as 0.
                self.area.put(TABLE + 8 * entry, at as u32 as u64 | (len & 0xffff) << 32);
                entry += 1;
                at += len;
            }
        }
        let last = TABLE + 8 * (entry - 1) + 4;
        let mut word = [0; 4];
        self.area.read(last, &mut word);
        self.area.put(last, u32::from_le_bytes(word) | 1 << 31);
        true
    }

    /// Gives a command, whose table is filled, to the drive and the bus master.
    fn start(&mut self, master: u16, command: &Command) -> Result<()> {
        self.select(command.drive)?;
        self.line.take();
        let direction = if command.op == Op::Read { TO_MEMORY } else { 0 };
        self.ports.write(master + MASTER_TABLE, 4, self.area.phys(TABLE).0 as u32);
        self.ports.write(master + MASTER_COMMAND, 1, u32::from(direction));
        fence(Ordering::Release);
        self.issue(command, true);
        if command.op != Op::Flush {
            self.ports.write(master + MASTER_COMMAND, 1, u32::from(direction | RUN));
        }
        Ok(())
    }

    /// Writes a command with 48-bit sector number: upper halves first.
    fn issue(&self, command: &Command, dma: bool) {
        let (code, feature, count) = match (command.op, dma) {
            (Op::Read, true) => (READ_DMA, 0, command.count),
            (Op::Read, false) => (READ, 0, command.count),
            (Op::Write, true) => (WRITE_DMA, 0, command.count),
            (Op::Write, false) => (WRITE, 0, command.count),
            (Op::Flush, _) => (FLUSH, 0, 0),
            // One block of ranges.
            (Op::Trim, _) => (DATA_SET_MANAGEMENT, 1, 1),
        };
        let sector = if matches!(command.op, Op::Read | Op::Write) { command.sector } else { 0 };
        let [a, b, c, d, e, f, ..] = sector.to_le_bytes();
        let [low, high, ..] = count.to_le_bytes();
        for (feature, count, sector) in [(0, high, [d, e, f]), (feature, low, [a, b, c])] {
            self.put(FEATURES, feature);
            self.put(COUNT, count);
            for (index, byte) in (0..).zip(sector) {
                self.put(SECTOR + index, byte);
            }
        }
        self.put(COMMAND, code);
    }

    /// Serves a request through the data port, waiting for it.
    #[cold]
    fn by_port(&mut self, request: &Request) -> Result<()> {
        let command = &request.command;
        if command.op == Op::Trim {
            return Err(Error::Unsupported);
        }
        self.control(NO_INTERRUPTS);
        let result = self.select(command.drive).and_then(|()| {
            self.issue(command, false);
            let mut left = if command.op == Op::Flush { 0 } else { command.count as usize };
            for piece in &request.pieces {
                for part in 0..piece.len / SECTOR_SIZE {
                    self.sector_by_port(command.op, piece.address + part * SECTOR_SIZE)?;
                    left = left.saturating_sub(1);
                }
            }
            self.wait(PATIENCE_NS)?;
            let bad = left != 0 || self.get(COMMAND) & (ERROR | FAULT) != 0;
            if bad { Err(Error::Device("the disk reports an error")) } else { Ok(()) }
        });
        self.line.take();
        self.control(0);
        result
    }

    fn sector_by_port(&self, op: Op, address: usize) -> Result<()> {
        self.wait(PATIENCE_NS)?;
        let status = self.get(COMMAND);
        if status & (ERROR | FAULT) != 0 || status & WANTS_DATA == 0 {
            return Err(Error::Device("the disk reports an error"));
        }
        let port = self.place.command + DATA;
        for word in 0..SECTOR_SIZE / 4 {
            let at = (address + 4 * word) as *mut u32;
            // SAFETY: the caller of `BlockDevice::submit` keeps the memory valid until the request is done, and this is
            // before that, inside of a piece.
            unsafe {
                if op == Op::Read {
                    at.write_unaligned(self.ports.read(port, 4));
                } else {
                    self.ports.write(port, 4, at.read_unaligned());
                }
            }
        }
        Ok(())
    }

    /// After an error: resets the drives and tries once more, through the data port.
    #[cold]
    fn again(&mut self, request: &Request) -> Result<()> {
        log::warn!("ide: error (status {:#x}), resetting the channel", self.status());
        if let Some(master) = self.place.master {
            self.ports.write(master + MASTER_COMMAND, 1, 0);
        }
        self.control(RESET | NO_INTERRUPTS);
        let start = hal_core::clock::now_ns();
        wait_for(1_000_000, || hal_core::clock::now_ns() - start > 10_000);
        self.control(NO_INTERRUPTS);
        if self.wait(5_000_000_000).is_err() {
            log::error!("ide: the channel does not come back; it is not used any more");
            self.failed = true;
            return Err(Error::Device("the disk does not come back after an error"));
        }
        self.by_port(request)
    }

    /// Collects what is finished and starts what waits.
    pub fn poll(&mut self, finished: &mut impl FnMut(Finished)) {
        let Some((_, since)) = &self.current else {
            return;
        };
        let late = hal_core::clock::now_ns().saturating_sub(*since) > PATIENCE_NS;
        let Some((master_status, status)) = self.line.take().or(late.then_some((MASTER_ERROR, 0))) else {
            return;
        };
        // Shared lines interrupt without a cause.
        if status & BUSY != 0 && !late {
            return;
        }
        let Some((request, _)) = self.current.take() else {
            return;
        };
        if let Some(master) = self.place.master {
            self.ports.write(master + MASTER_COMMAND, 1, 0);
        }
        fence(Ordering::Acquire);
        let bad = status & (ERROR | FAULT) != 0 || master_status & MASTER_ERROR != 0;
        let result = if bad { self.again(&request) } else { Ok(()) };
        finished((request.done, result));
        if self.failed {
            for request in core::mem::take(&mut self.waiting) {
                finished((request.done, Err(Error::Gone)));
            }
        }
        self.start_waiting(finished);
    }
}
