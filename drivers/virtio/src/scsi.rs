//! The SCSI host adapter (virtio 1.2, section 5.6): commands of the `scsi` crate on one queue per CPU. Events (disks that
//! come and go) are not asked for.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use driver_kit::{DmaArea, Lock};
use hal_core::device::Device;
use hal_core::interrupt::Handler;
use hal_core::memory::phys_of;
use hal_core::{Error, Result};
use scsi::{Address, Direction, Host, Limits, Outcome, Task};

use crate::ring::{Piece, Ring, RingOptions};
use crate::transport::{Shared, Source, Transport};

// Offsets in the configuration (section 5.6.4).
const AT_NUM_QUEUES: usize = 0;
const AT_SEG_MAX: usize = 4;
const AT_MAX_SECTORS: usize = 8;
const AT_MAX_TARGET: usize = 30;

/// The first request queue; before it are those for control and events.
const FIRST_QUEUE: u16 = 2;
/// Descriptors per queue that are worth having.
const RING_SIZE: u16 = 256;
const MAX_PIECES: u32 = 254;
const SECTOR: u32 = 512;

// Response codes (section 5.6.6.1.1).
const S_OK: u8 = 0;
const S_OVERRUN: u8 = 1;
const S_ABORTED: u8 = 2;
const S_BAD_TARGET: u8 = 3;
const S_RESET: u8 = 4;
const S_BUSY: u8 = 5;
/// Not a code of the protocol: the device has not written one.
const S_NONE: u8 = 0xff;

/// Per request in flight: what the device reads, and what it writes. The sizes of command and sense data are the
/// defaults after a reset.
const CELL: usize = 192;
const HEADER_LEN: usize = 51;
const AT_CDB: usize = 19;
const CELL_RESPONSE: usize = 64;
const RESPONSE_LEN: usize = 108;
const AT_STATUS: usize = 10;
const AT_RESPONSE: usize = 11;
const AT_SENSE: usize = 12;
const SENSE_LEN: usize = 96;

struct InFlight {
    cell: u16,
    task: Task,
}

struct Queue {
    ring: Ring<InFlight>,
    cells: DmaArea,
    waiting: VecDeque<Task>,
    scratch: Vec<Piece>,
}

/// The adapter.
struct Adapter {
    transport: Shared,
    limits: Limits,
    queues: Vec<Lock<Queue>>,
    /// Control and events: the device may want to see rings there.
    _other: [Ring<()>; 2],
    handler: spin::Once<Handler>,
    failed: AtomicBool,
}

/// Brings the adapter up and gives its disks.
pub(crate) fn start(transport: Shared, cpus: usize) -> Result<Vec<Device>> {
    let t = &*transport;
    let agreed = t.negotiate(|_| 0)?;
    let (limits, targets) = t.config(|| read_config(t, cpus))?;
    let mut queues = Vec::new();
    for index in 0..limits.queues {
        let size = t.choose_size(FIRST_QUEUE + index, RING_SIZE)?;
        queues.push(Lock::new(Queue {
            // QEMU counts what it read, too, so that a write's used length is greater than the part for the device. The
            // length is not used here: the response tells its own.
            ring: Ring::new(size, RingOptions { lenient: true, ..t.ring_options(agreed) })?,
            cells: DmaArea::new(CELL * usize::from(size))?,
            waiting: VecDeque::new(),
            scratch: Vec::new(),
        }));
    }
    let room = queues.iter_mut().map(|q| q.get_mut().ring.size()).min().unwrap_or(0);
    if room < 3 {
        return Err(Error::Device("a SCSI adapter's queue is too small for a command"));
    }
    let limits = Limits { max_pieces: limits.max_pieces.min(room - 2), ..limits };
    let other = |queue| Ring::new(t.choose_size(queue, 16)?, t.ring_options(agreed));
    let other = [other(0)?, other(1)?];
    let slot: Arc<spin::Once<Arc<Adapter>>> = Arc::new(spin::Once::new());
    let sources = (0..limits.queues).map(|queue| source(&slot, queue)).collect();
    t.connect(sources)?;
    for (index, ring) in other.iter().enumerate() {
        t.start_queue(index as u16, &ring.addresses())?;
    }
    for (index, queue) in queues.iter_mut().enumerate() {
        t.start_queue(FIRST_QUEUE + index as u16, &queue.get_mut().ring.addresses())?;
    }
    t.start();
    let handler = spin::Once::new();
    let adapter = Arc::new(Adapter {
        transport: transport.clone(),
        limits,
        queues,
        _other: other,
        handler,
        failed: AtomicBool::new(false),
    });
    slot.call_once(|| adapter.clone());
    let host: Arc<dyn Host> = adapter;
    let disks = scsi::scan(&host, 0..targets)?;
    Ok(disks.into_iter().map(|disk| Device::Block(disk)).collect())
}

fn source(slot: &Arc<spin::Once<Arc<Adapter>>>, queue: u16) -> Source {
    let slot = slot.clone();
    Source {
        queues: alloc::vec![FIRST_QUEUE + queue],
        cpu: usize::from(queue),
        handler: Arc::new(move || {
            if let Some(handler) = slot.get().and_then(|a| a.handler.get()) {
                handler();
            }
        }),
    }
}

/// What the adapter can do, and the number of targets that there may be.
fn read_config(t: &dyn Transport, cpus: usize) -> (Limits, u16) {
    let queues = (t.config_read(AT_NUM_QUEUES, 4) as usize).clamp(1, cpus.clamp(1, 256));
    let sectors = t.config_read(AT_MAX_SECTORS, 4);
    let limits = Limits {
        max_bytes: if sectors == 0 { u32::MAX } else { sectors.saturating_mul(SECTOR) },
        max_pieces: t.config_read(AT_SEG_MAX, 4).clamp(1, MAX_PIECES) as u16,
        queues: queues as u16,
    };
    // A target's number is one byte of the address.
    let targets = t.config_read(AT_MAX_TARGET, 2).min(255) as u16 + 1;
    (limits, targets)
}

impl Adapter {
    /// Takes finished commands of a queue and starts waiting ones.
    fn poll_queue(&self, index: usize) {
        loop {
            let mut queue = self.queues[index].lock();
            if let Some((done, _)) = queue.ring.pop() {
                let mut response = [0; RESPONSE_LEN];
                queue.cells.read(CELL * usize::from(done.cell) + CELL_RESPONSE, &mut response);
                drop(queue);
                done.task.finish(self, outcome(&response));
                continue;
            }
            if let Some(why) = queue.ring.broken() {
                drop(queue);
                return self.fail(why);
            }
            if !queue.waiting.is_empty() {
                queue.start_waiting();
                if queue.ring.publish() {
                    self.transport.notify(FIRST_QUEUE + index as u16);
                }
            }
            if !queue.ring.enable_interrupts() {
                return;
            }
        }
    }

    /// Ends the use of the device: every command gets an error.
    #[cold]
    fn fail(&self, why: &'static str) {
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        log::error!("scsi: {why}; the device is not used any more");
        self.transport.give_up();
        for queue in &self.queues {
            let mut queue = queue.lock();
            let lost = queue.ring.drain(why);
            let waiting = core::mem::take(&mut queue.waiting);
            drop(queue);
            for task in lost.into_iter().map(|l| l.task).chain(waiting) {
                task.finish(self, Outcome::Failed(Error::Device(why)));
            }
        }
    }
}

/// What a response says.
fn outcome(response: &[u8; RESPONSE_LEN]) -> Outcome<'_> {
    let word = |at: usize| u32::from_le_bytes([response[at], response[at + 1], response[at + 2], response[at + 3]]);
    match response[AT_RESPONSE] {
        S_OK | S_OVERRUN => Outcome::Answered {
            status: response[AT_STATUS],
            sense: &response[AT_SENSE..][..(word(0) as usize).min(SENSE_LEN)],
            residual: Some(word(4)),
        },
        S_ABORTED | S_RESET => Outcome::Aborted,
        S_BUSY => Outcome::Answered { status: scsi::sense::BUSY, sense: &[], residual: Some(0) },
        S_BAD_TARGET => Outcome::NoTarget,
        S_NONE => Outcome::Failed(Error::Device("the SCSI adapter gave no answer")),
        _ => Outcome::Failed(Error::Device("the SCSI adapter could not carry the command")),
    }
}

/// A unit's address in a request (section 5.6.6.1): 1, the target, then the unit by flat addressing.
fn lun_bytes(address: Address) -> [u8; 8] {
    let [high, low] = (address.lun & 0x3fff | 0x4000).to_be_bytes();
    [1, address.target, high, low, 0, 0, 0, 0]
}

impl Queue {
    fn has_room(&self, task: &Task) -> bool {
        self.ring.has_room(task.pieces.len() + 2)
    }

    /// Moves waiting commands to the ring, which the caller then publishes.
    fn start_waiting(&mut self) {
        while self.ring.broken().is_none()
            && let Some(task) = self.waiting.pop_front_if(|task| self.ring.has_room(task.pieces.len() + 2))
        {
            self.add(task);
        }
    }

    /// Puts a command, for which there is room, on the ring.
    fn add(&mut self, task: Task) {
        let number = self.ring.next_head();
        let cell = CELL * usize::from(number);
        let mut header = [0; HEADER_LEN];
        header[..8].copy_from_slice(&lun_bytes(task.address));
        header[8..16].copy_from_slice(&u64::from(number).to_le_bytes());
        header[AT_CDB..AT_CDB + 16].copy_from_slice(task.cdb.padded());
        self.cells.write(cell, &header);
        self.cells.write(cell + CELL_RESPONSE, &[0; RESPONSE_LEN]);
        self.cells.put(cell + CELL_RESPONSE + AT_RESPONSE, S_NONE);
        let own = |offset, len, writable| Piece { address: self.cells.phys(cell + offset), len: len as u32, writable };
        let writable = task.direction == Direction::In;
        let data =
            task.pieces.iter().map(|d| Piece { address: phys_of(d.address as *const u8), len: d.len as u32, writable });
        self.scratch.clear();
        self.scratch.push(own(0, HEADER_LEN, false));
        let response = own(CELL_RESPONSE, RESPONSE_LEN, true);
        if writable {
            self.scratch.push(response);
            self.scratch.extend(data);
        } else {
            self.scratch.extend(data);
            self.scratch.push(response);
        }
        // SAFETY: whoever started the task keeps its memory until it is finished, which happens after the pop, or after
        // the reset in `fail`; the cells live for ever and no other command in flight has this one.
        let added = unsafe { self.ring.add(&self.scratch, InFlight { cell: number, task }) };
        // The room was looked at by the caller, but a broken ring takes nothing: `fail` will find the task.
        if let Err(refused) = added {
            self.waiting.push_back(refused.task);
        }
    }
}

impl Host for Adapter {
    fn limits(&self) -> Limits {
        self.limits
    }

    unsafe fn start(&self, task: Task) {
        let index = crate::this_cpu() % self.queues.len();
        let mut queue = self.queues[index].lock();
        if self.failed.load(Ordering::Acquire) {
            drop(queue);
            return task.finish(self, Outcome::Failed(Error::Gone));
        }
        if queue.waiting.is_empty() && queue.has_room(&task) && queue.ring.broken().is_none() {
            queue.add(task);
        } else {
            queue.waiting.push_back(task);
            queue.start_waiting();
        }
        if queue.ring.publish() {
            self.transport.notify(FIRST_QUEUE + index as u16);
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

    fn give_up(&self) {
        self.fail("a target does not answer");
    }
}

#[cfg(test)]
#[path = "scsi_tests.rs"]
mod tests;
