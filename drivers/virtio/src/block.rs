//! The disk (virtio 1.2, section 5.2): many requests in flight on one queue per CPU; what finds its queue full
//! waits here. Completions run in `poll`, which the kernel calls after the interrupt.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use driver_kit::wait_for;

use hal_core::device::{BlockCaps, BlockDevice, BlockOp, Completion, Dma, check_request};
use hal_core::interrupt::Handler;
use hal_core::memory::phys_of;
use hal_core::{Error, PhysAddr, Result};

use crate::ring::{Piece, Ring};
use crate::transport::{Shared, Source};
use driver_kit::DmaArea;
use driver_kit::Lock;

// Feature bits (section 5.2.3).
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const CONFIG_WCE: u64 = 1 << 11;
const MQ: u64 = 1 << 12;
const DISCARD: u64 = 1 << 13;

// Offsets in the configuration (section 5.2.4).
const AT_CAPACITY: usize = 0;
const AT_SIZE_MAX: usize = 8;
const AT_SEG_MAX: usize = 12;
const AT_BLK_SIZE: usize = 20;
const AT_WRITEBACK: usize = 32;
const AT_NUM_QUEUES: usize = 34;
const AT_MAX_DISCARD_SECTORS: usize = 36;

// Request types and status bytes (section 5.2.6).
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const S_OK: u8 = 0;
const S_UNSUPPORTED: u8 = 2;
/// Not a status of the protocol: the device has not written one.
const S_NONE: u8 = 0xff;

/// The unit of positions in requests, whatever the block size.
const SECTOR: u64 = 512;
/// Descriptors per queue that are worth having.
const RING_SIZE: u16 = 256;
/// Most pieces in a request, and most bytes: bounds of our own, above which nothing gets faster.
const MAX_PIECES: u32 = 254;
const MAX_REQUEST: u32 = 1 << 20;
/// Bytes of a serial number.
const ID_LEN: usize = 20;

/// Per request in flight: the header (16 bytes), the status byte, a discard range (16 bytes), an id.
const CELL: usize = 64;
const CELL_STATUS: usize = 16;
const CELL_RANGE: usize = 24;

#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DiscardRange {
    sector: u64,
    count: u32,
    flags: u32,
}

/// A request in the device's words.
struct Command {
    header: Header,
    range: Option<DiscardRange>,
}

/// A request that waits for room.
struct Request {
    command: Command,
    pieces: Box<[Piece]>,
    done: Completion,
}

struct Queue {
    ring: Ring<InFlight>,
    cells: DmaArea,
    waiting: VecDeque<Request>,
    /// Reused for each request's pieces.
    scratch: Vec<Piece>,
}

struct InFlight {
    cell: u16,
    done: Completion,
}

/// A disk.
pub(crate) struct Block {
    transport: Shared,
    caps: BlockCaps,
    /// Flushing has a meaning: the device has a volatile cache.
    cached: bool,
    max_discard: u64,
    serial: String,
    queues: Vec<Lock<Queue>>,
    handler: spin::Once<Handler>,
    failed: AtomicBool,
}

impl Block {
    /// Brings a disk up.
    pub fn start(transport: Shared, cpus: usize) -> Result<Arc<Self>> {
        let t = &*transport;
        let agreed =
            t.negotiate(|_| SIZE_MAX | SEG_MAX | READ_ONLY | BLK_SIZE | FLUSH | TOPOLOGY | CONFIG_WCE | MQ | DISCARD)?;
        let has = |bit| agreed & bit != 0;
        let (caps, max_discard, cached) = t.config(|| read_config(t, agreed, cpus))??;
        let mut queues = Vec::new();
        for index in 0..caps.queues {
            let size = t.choose_size(index, RING_SIZE)?;
            let ring = Ring::new(size, t.ring_options(agreed))?;
            queues.push(Lock::new(Queue {
                ring,
                cells: DmaArea::new(CELL * usize::from(size))?,
                waiting: VecDeque::new(),
                scratch: Vec::new(),
            }));
        }
        // Without indirect tables a request must fit the ring beside its header and status.
        let room = queues.iter_mut().map(|q| u32::from(q.get_mut().ring.size())).min().unwrap_or(0);
        if room < 3 {
            return Err(Error::Device("a disk's queue is too small for a request"));
        }
        let max_pieces = u32::from(caps.max_pieces).min(room - 2) as u16;
        let mut disk = Self {
            transport: transport.clone(),
            caps: BlockCaps { max_pieces, ..caps },
            cached: cached && has(FLUSH),
            max_discard,
            serial: String::new(),
            queues,
            handler: spin::Once::new(),
            failed: AtomicBool::new(false),
        };
        // The interrupts need the disk's final place, the serial number a working disk: `Arc::new_cyclic` would
        // do for the first, but not for the second.
        let slot: Arc<spin::Once<Arc<Self>>> = Arc::new(spin::Once::new());
        let sources = (0..caps.queues)
            .map(|queue| {
                let slot = slot.clone();
                Source {
                    queues: alloc::vec![queue],
                    cpu: usize::from(queue),
                    handler: Arc::new(move || {
                        if let Some(handler) = slot.get().and_then(|d| d.handler.get()) {
                            handler();
                        }
                    }),
                }
            })
            .collect();
        t.connect(sources)?;
        for (index, queue) in disk.queues.iter_mut().enumerate() {
            t.start_queue(index as u16, &queue.get_mut().ring.addresses())?;
        }
        t.start();
        disk.serial = disk.read_serial();
        let disk = Arc::new(disk);
        slot.call_once(|| disk.clone());
        Ok(disk)
    }

    /// Asks for the serial number (`VIRTIO_BLK_T_GET_ID`); empty if the device has none.
    fn read_serial(&self) -> String {
        let Ok(area) = DmaArea::new(ID_LEN) else {
            return String::new();
        };
        let outcome = Arc::new(spin::Once::new());
        let told = outcome.clone();
        let command = Command { header: Header { kind: T_GET_ID, reserved: 0, sector: 0 }, range: None };
        let place = Piece { address: area.phys(0), len: ID_LEN as u32, writable: true };
        let done = Box::new(move |result| _ = told.call_once(|| result));
        self.enqueue(command, core::iter::once(place), done);
        // `area` is never freed, so an answer that comes too late does no harm.
        let answered = wait_for(1_000_000_000, || {
            self.poll();
            outcome.is_completed()
        });
        if !answered || !matches!(outcome.get(), Some(Ok(()))) {
            return String::new();
        }
        let mut bytes = [0; ID_LEN];
        area.read(0, &mut bytes);
        bytes.iter().take_while(|&&b| b != 0).map(|&b| if b.is_ascii_graphic() { b as char } else { '_' }).collect()
    }

    /// Puts a request on this CPU's queue, or in line behind those that wait there.
    fn enqueue(&self, command: Command, pieces: impl Iterator<Item = Piece>, done: Completion) {
        let index = crate::this_cpu() % self.queues.len();
        let mut queue = self.queues[index].lock();
        if self.failed.load(Ordering::Acquire) {
            drop(queue);
            return done(Err(Error::Gone));
        }
        queue.scratch.clear();
        // The header's place, which is known when the request gets on the ring.
        queue.scratch.push(Piece { address: PhysAddr(0), len: 0, writable: false });
        queue.scratch.extend(pieces);
        let needed = queue.scratch.len() + 1 + usize::from(command.range.is_some());
        if queue.waiting.is_empty() && queue.ring.has_room(needed) && queue.ring.broken().is_none() {
            queue.add(&command, done);
        } else {
            let pieces = queue.scratch.as_slice().into();
            queue.waiting.push_back(Request { command, pieces, done });
            queue.start_waiting();
        }
        if queue.ring.publish() {
            self.transport.notify(index as u16);
        }
    }

    /// Takes finished requests of a queue and starts waiting ones; the completions run without the lock.
    fn poll_queue(&self, index: usize) {
        loop {
            let mut queue = self.queues[index].lock();
            if let Some((request, _)) = queue.ring.pop() {
                let status = queue.cells.byte(CELL * usize::from(request.cell) + CELL_STATUS);
                drop(queue);
                (request.done)(match status {
                    S_OK => Ok(()),
                    S_UNSUPPORTED => Err(Error::Unsupported),
                    _ => Err(Error::Device("the disk reports an error")),
                });
                continue;
            }
            if let Some(why) = queue.ring.broken() {
                drop(queue);
                return self.fail(why);
            }
            if !queue.waiting.is_empty() {
                queue.start_waiting();
                if queue.ring.publish() {
                    self.transport.notify(index as u16);
                }
            }
            if !queue.ring.enable_interrupts() {
                return;
            }
        }
    }

    /// Ends the use of the device: everything in flight or waiting gets an error.
    #[cold]
    fn fail(&self, why: &'static str) {
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        log::error!("disk: {why}; the device is not used any more");
        self.transport.give_up();
        for queue in &self.queues {
            let mut queue = queue.lock();
            let lost = queue.ring.drain(why);
            let waiting = core::mem::take(&mut queue.waiting);
            drop(queue);
            let waiting = waiting.into_iter().map(|r| r.done);
            for done in lost.into_iter().map(|r| r.done).chain(waiting) {
                done(Err(Error::Device(why)));
            }
        }
    }

    /// Checks what is asked for, and puts it in the device's words.
    fn translate(&self, op: BlockOp, position: u64, buffers: &[Dma]) -> Result<Command> {
        let len: u64 = buffers.iter().map(|b| b.len as u64).sum();
        let mut range = None;
        let kind = match op {
            BlockOp::Read => T_IN,
            BlockOp::Write if self.caps.read_only => return Err(Error::Unsupported),
            BlockOp::Write => T_OUT,
            BlockOp::Flush => T_FLUSH,
            BlockOp::Discard(bytes) => {
                if !self.caps.discard || self.caps.read_only {
                    return Err(Error::Unsupported);
                }
                if check_request(&self.caps, position, bytes).is_err() || bytes > self.max_discard {
                    return Err(Error::Invalid);
                }
                range = Some(DiscardRange { sector: position / SECTOR, count: (bytes / SECTOR) as u32, flags: 0 });
                T_DISCARD
            }
        };
        let moves_data = matches!(kind, T_IN | T_OUT);
        let fits = if moves_data {
            len > 0
                && len <= u64::from(self.caps.max_request)
                && buffers.len() <= usize::from(self.caps.max_pieces)
                && buffers.iter().all(|b| b.len > 0)
                && check_request(&self.caps, position, len).is_ok()
        } else {
            buffers.is_empty()
        };
        if !fits {
            return Err(Error::Invalid);
        }
        Ok(Command {
            header: Header {
                kind,
                reserved: 0,
                // Only meaningful for data (section 5.2.6.1).
                sector: if moves_data { position / SECTOR } else { 0 },
            },
            range,
        })
    }
}

impl Queue {
    /// Moves waiting requests to the ring, which the caller then publishes.
    fn start_waiting(&mut self) {
        while let Some(request) = self.waiting.front() {
            let needed = request.pieces.len() + 1 + usize::from(request.command.range.is_some());
            if self.ring.broken().is_some() || !self.ring.has_room(needed) {
                return;
            }
            let Some(request) = self.waiting.pop_front() else {
                return;
            };
            self.scratch.clear();
            self.scratch.extend_from_slice(&request.pieces);
            self.add(&request.command, request.done);
        }
    }

    /// Puts a request, for which there is room, on the ring. Its pieces are in `scratch`, behind a place for the
    /// header's.
    fn add(&mut self, command: &Command, done: Completion) {
        let number = self.ring.next_head();
        let cell = CELL * usize::from(number);
        self.cells.put(cell, command.header);
        self.cells.put(cell + CELL_STATUS, S_NONE);
        let piece =
            |offset, len, writable| Piece { address: self.cells.phys(cell + offset), len: len as u32, writable };
        if let Some(first) = self.scratch.first_mut() {
            *first = piece(0, size_of::<Header>(), false);
        }
        if let Some(range) = command.range {
            self.cells.put(cell + CELL_RANGE, range);
            // A discard has no pieces of its own.
            self.scratch.push(piece(CELL_RANGE, size_of::<DiscardRange>(), false));
        }
        self.scratch.push(piece(CELL_STATUS, 1, true));
        let token = InFlight { cell: number, done };
        // SAFETY: the caller of `submit` keeps the buffers valid until `done` runs, which happens after the pop,
        // or after the reset in `fail`; the cells live for ever and no other request in flight has this one.
        let added = unsafe { self.ring.add(&self.scratch, token) };
        // The room was looked at by the caller, but a broken ring takes nothing.
        if let Err(token) = added {
            (token.done)(Err(Error::Gone));
        }
    }
}

impl BlockDevice for Block {
    fn caps(&self) -> BlockCaps {
        self.caps
    }

    unsafe fn submit(&self, op: BlockOp, position: u64, buffers: &[Dma], done: Completion) {
        if matches!(op, BlockOp::Flush) && !self.cached && !self.failed.load(Ordering::Relaxed) {
            return done(Ok(()));
        }
        match self.translate(op, position, buffers) {
            Ok(command) => {
                let writable = command.header.kind == T_IN;
                let pieces = buffers.iter().map(|b| Piece {
                    address: phys_of(b.address as *const u8),
                    len: b.len as u32,
                    writable,
                });
                self.enqueue(command, pieces, done);
            }
            Err(error) => done(Err(error)),
        }
    }

    fn poll(&self) {
        for index in 0..self.queues.len() {
            self.poll_queue(index);
        }
    }

    fn on_interrupt(&self, handler: Handler) {
        self.handler.call_once(|| handler);
    }

    fn serial(&self) -> String {
        self.serial.clone()
    }
}

type Config = (BlockCaps, u64, bool);

/// Capabilities, the longest discard in bytes, and whether there is a volatile cache.
fn read_config(t: &dyn crate::transport::Transport, agreed: u64, cpus: usize) -> Result<Config> {
    let has = |bit| agreed & bit != 0;
    let size = t.config_read64(AT_CAPACITY).checked_mul(SECTOR).ok_or(Error::Device("a disk's size is absurd"))?;
    let block_size = if has(BLK_SIZE) { t.config_read(AT_BLK_SIZE, 4) } else { SECTOR as u32 };
    if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
        return Err(Error::Device("a disk's block size is absurd"));
    }
    // One piece may be as long as a whole request, so a limit for pieces is one for requests.
    let max_request =
        if has(SIZE_MAX) { t.config_read(AT_SIZE_MAX, 4).min(MAX_REQUEST) & !(block_size - 1) } else { MAX_REQUEST };
    if max_request == 0 {
        return Err(Error::Device("a disk takes no block at once"));
    }
    let max_pieces = if has(SEG_MAX) { t.config_read(AT_SEG_MAX, 4).clamp(1, MAX_PIECES) } else { 1 };
    let queues = if has(MQ) { (t.config_read(AT_NUM_QUEUES, 2) as usize).clamp(1, cpus.max(1)) } else { 1 };
    let max_discard = if has(DISCARD) { u64::from(t.config_read(AT_MAX_DISCARD_SECTORS, 4)) * SECTOR } else { 0 };
    let cached = !has(CONFIG_WCE) || t.config_read(AT_WRITEBACK, 1) != 0;
    let caps = BlockCaps {
        size,
        block_size,
        read_only: has(READ_ONLY),
        discard: max_discard > 0,
        max_request,
        max_pieces: max_pieces as u16,
        queues: queues as u16,
    };
    Ok((caps, max_discard, cached))
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
