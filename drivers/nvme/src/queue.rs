//! A pair of queues (NVM Express 1.4, section 4.1): submissions in, completions out, and who waits for which.
//!
//! A command's number is its slot here; a completion that names a slot that is not in flight is a lie and breaks the queue.

use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use driver_kit::{DmaArea, Io};
use hal_core::{Error, PhysAddr, Result};

use crate::registers::*;

/// Bytes of memory that each slot has for its list of pages, or other data: 256 addresses.
pub(crate) const SCRATCH: usize = 2048;

/// A command: the words that differ (figure 104).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Command {
    /// What to do.
    pub opcode: u8,
    /// Namespace.
    pub namespace: u32,
    /// First and second page, or the list of the others.
    pub pages: [u64; 2],
    /// Words 10 to 12.
    pub words: [u32; 3],
}

/// A completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completed {
    /// The command's own word.
    pub result: u32,
    /// Status: 0 is success.
    pub status: u16,
}

struct Slot<T> {
    since: u64,
    token: T,
}

/// A pair of queues with a token for each command in flight.
pub(crate) struct Queue<T> {
    io: alloc::sync::Arc<dyn Io>,
    submissions: DmaArea,
    completions: DmaArea,
    scratch: DmaArea,
    size: u16,
    tail: u16,
    shown_tail: u16,
    head: u16,
    shown_head: u16,
    /// What the phase bit of a new completion is.
    phase: bool,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u16>,
    /// Where the two doorbells are.
    doorbells: (usize, usize),
    lie: Option<&'static str>,
}

impl<T> Queue<T> {
    /// Queues of `size` entries, from 2 to 256, with these doorbells.
    pub fn new(io: alloc::sync::Arc<dyn Io>, size: u16, doorbells: (usize, usize)) -> Result<Self> {
        let n = usize::from(size);
        let mut queue = Self {
            io,
            submissions: DmaArea::new(n * SUBMISSION)?,
            completions: DmaArea::new(n * COMPLETION)?,
            scratch: DmaArea::new(n * SCRATCH)?,
            size,
            tail: 0,
            shown_tail: 0,
            head: 0,
            shown_head: 0,
            phase: true,
            slots: (0..size).map(|_| None).collect(),
            free: Vec::with_capacity(n),
            doorbells,
            lie: None,
        };
        queue.reset();
        Ok(queue)
    }

    /// As new, for a controller that was reset. Nothing is in flight.
    pub fn reset(&mut self) {
        (self.tail, self.shown_tail, self.head, self.shown_head, self.phase) = (0, 0, 0, 0, true);
        self.lie = None;
        for entry in 0..usize::from(self.size) {
            self.completions.put(entry * COMPLETION, [0u64; 2]);
        }
        // One entry stays free, since a full queue looks like an empty one.
        self.free.clear();
        self.free.extend((0..self.size - 1).rev());
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where the submissions and the completions are.
    pub fn places(&self) -> (PhysAddr, PhysAddr) {
        (self.submissions.phys(0), self.completions.phys(0))
    }

    /// The memory of a slot, for the device to read.
    pub fn scratch(&self, slot: u16) -> (&DmaArea, usize) {
        (&self.scratch, usize::from(slot) * SCRATCH)
    }

    /// The slot that the next command gets, if there is one.
    pub fn next_slot(&self) -> Option<u16> {
        if self.lie.is_some() { None } else { self.free.last().copied() }
    }

    /// Why the device is not to be believed any more.
    pub fn broken(&self) -> Option<&'static str> {
        self.lie
    }

    /// True if nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.free.len() + 1 == usize::from(self.size)
    }

    /// Writes a command to its slot, which is [`Queue::next_slot`]; [`Queue::ring`] shows it to the device.
    pub fn add(&mut self, command: &Command, token: T) {
        let Some(slot) = self.free.pop() else {
            return;
        };
        let at = usize::from(self.tail) * SUBMISSION;
        let first = u32::from(command.opcode) | u32::from(slot) << 16;
        let [a, b] = command.pages;
        let [w10, w11, w12] = command.words;
        let words = [
            first,
            command.namespace,
            0,
            0,
            0,
            0,
            a as u32,
            (a >> 32) as u32,
            b as u32,
            (b >> 32) as u32,
            w10,
            w11,
            w12,
            0,
            0,
            0,
        ];
        self.submissions.put::<[u32; 16]>(at, words);
        self.tail = (self.tail + 1) % self.size;
        self.slots[usize::from(slot)] = Some(Slot { since: hal_core::clock::now_ns(), token });
    }

    /// Tells the device of new submissions, if there are any.
    pub fn ring(&mut self) {
        if self.tail != self.shown_tail {
            self.shown_tail = self.tail;
            fence(Ordering::Release);
            self.io.write(self.doorbells.0, u32::from(self.tail));
        }
    }

    /// Takes a completion.
    pub fn pop(&mut self) -> Option<(T, Completed)> {
        if self.lie.is_some() {
            return None;
        }
        let at = usize::from(self.head) * COMPLETION;
        // SAFETY: inside the area, aligned, and every value is one; the device may write it meanwhile.
        let last = unsafe { self.completions.at::<u32>(at + 12).read_volatile() };
        if (last >> 16 & 1 != 0) != self.phase {
            return None;
        }
        fence(Ordering::Acquire);
        // SAFETY: as above.
        let result = unsafe { self.completions.at::<u32>(at).read_volatile() };
        let slot = last as u16;
        let Some(done) = self.slots.get_mut(usize::from(slot)).and_then(Option::take) else {
            self.lie = Some("a completion for a command that is not in flight");
            return None;
        };
        self.free.push(slot);
        self.head += 1;
        if self.head == self.size {
            self.head = 0;
            self.phase = !self.phase;
        }
        Some((done.token, Completed { result, status: (last >> 17) as u16 }))
    }

    /// Tells the device which completions were taken.
    pub fn acknowledge(&mut self) {
        if self.head != self.shown_head {
            self.shown_head = self.head;
            self.io.write(self.doorbells.1, u32::from(self.head));
        }
    }

    /// True if the device has a command since before `then`.
    pub fn any_since(&self, then: u64) -> bool {
        self.slots.iter().flatten().any(|slot| slot.since < then)
    }

    /// Takes all that is in flight, after the device was stopped.
    pub fn drain(&mut self) -> Vec<T> {
        self.lie = Some("the controller was stopped");
        self.slots.iter_mut().filter_map(Option::take).map(|slot| slot.token).collect()
    }
}

impl Queue<()> {
    /// Runs one command and waits for it: for the admin queue.
    pub fn run(&mut self, command: &Command) -> Result<u32> {
        self.add(command, ());
        self.ring();
        let mut completed = None;
        driver_kit::wait_for(10_000_000_000, || {
            completed = self.pop();
            completed.is_some() || self.lie.is_some()
        });
        self.acknowledge();
        match completed {
            Some(((), Completed { result, status: 0 })) => Ok(result),
            Some(_) => Err(Error::Device("the controller refuses a command")),
            None => Err(Error::Device("the controller does not answer")),
        }
    }
}
