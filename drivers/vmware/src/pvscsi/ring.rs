//! The rings: requests go out with a slot's number, completions come back with it. What matters for safety is kept in the
//! driver's own memory; the first lie makes the rings broken for good. Locking is the owner's.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use driver_kit::DmaArea;
use hal_core::memory::phys_of;
use hal_core::{PAGE_SIZE, Result};
use scsi::{Direction, Task};

use super::abi::{self, Completion, Element, Request};

/// Pages of each ring; 32 requests fit in one.
const PAGES: usize = 8;
/// Requests in the ring, and in flight.
pub(crate) const REQUESTS: usize = PAGES * PAGE_SIZE / size_of::<Request>();
/// Completions in their ring: more than requests in flight, so it never overflows.
const COMPLETIONS: usize = PAGES * PAGE_SIZE / size_of::<Completion>();
const _: () = assert!(PAGES <= abi::SETUP_PAGES && COMPLETIONS >= REQUESTS);

/// In a slot's page: the list, then the sense data.
const AT_SENSE: usize = abi::LIST_LEN * size_of::<Element>();
/// Bytes of sense data.
pub(crate) const SENSE_LEN: usize = 96;

/// A request that may be in flight.
struct Slot {
    task: Option<Task>,
    /// Changes with each use, so that a completion that comes twice is noticed.
    turn: u32,
    /// Made when the slot is first used.
    page: Option<DmaArea>,
}

/// A request that came back.
pub(crate) struct Finished {
    pub task: Task,
    pub answer: Completion,
    pub sense: [u8; SENSE_LEN],
}

/// The rings.
pub(crate) struct Rings {
    state: DmaArea,
    requests: DmaArea,
    completions: DmaArea,
    slots: Box<[Slot]>,
    /// Unused slots; the one used last comes first.
    free: Vec<u16>,
    produced: u32,
    consumed: u32,
    /// Completions seen and not taken yet.
    ready: u32,
    broken: Option<&'static str>,
}

impl Rings {
    /// Empty rings.
    pub fn new() -> Result<Self> {
        let state = DmaArea::new(PAGE_SIZE)?;
        Ok(Self {
            state,
            requests: DmaArea::new(PAGES * PAGE_SIZE)?,
            completions: DmaArea::new(PAGES * PAGE_SIZE)?,
            slots: (0..REQUESTS).map(|_| Slot { task: None, turn: 0, page: None }).collect(),
            free: (0..REQUESTS as u16).rev().collect(),
            produced: 0,
            consumed: 0,
            ready: 0,
            broken: None,
        })
    }

    /// The words of SETUP_RINGS: numbers of pages, the state's page, the rings' pages.
    pub fn setup(&self) -> Vec<u32> {
        self.word(abi::REQUEST_LOG2).store(REQUESTS.ilog2(), Ordering::Relaxed);
        self.word(abi::COMPLETION_LOG2).store(COMPLETIONS.ilog2(), Ordering::Relaxed);
        let mut words = alloc::vec![PAGES as u32, PAGES as u32];
        let mut push = |page: u64| words.extend([page as u32, (page >> 32) as u32]);
        push(self.state.phys(0).page());
        for ring in [&self.requests, &self.completions] {
            for page in 0..abi::SETUP_PAGES {
                push(if page < PAGES { ring.phys(page * PAGE_SIZE).page() } else { 0 });
            }
        }
        words
    }

    /// A word of the rings' state.
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `at` checks the place; offsets are multiples of 4 and the area is page-aligned; accessed atomically only.
        unsafe { &*self.state.at::<AtomicU32>(offset) }
    }

    /// True if a request can be added.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Why the rings are broken.
    pub fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    fn in_flight(&self) -> u32 {
        (REQUESTS - self.free.len()) as u32
    }

    /// Adds a request; the adapter sees it at once, but may have to be told. Gives the task back if there is no room or no
    /// memory.
    ///
    /// # Safety
    /// The memory of the task's pieces stays valid, and what the adapter writes is not otherwise used, until the task comes
    /// out of [`Rings::pop`], or out of [`Rings::drain`] after a reset of the adapter.
    pub unsafe fn add(&mut self, task: Task) -> core::result::Result<(), Task> {
        if self.broken.is_some() || task.pieces.len() > abi::LIST_LEN {
            return Err(task);
        }
        let Some(number) = self.free.pop() else {
            return Err(task);
        };
        let slot = &mut self.slots[usize::from(number)];
        if slot.page.is_none() {
            slot.page = DmaArea::new(PAGE_SIZE).ok();
        }
        let Some(page) = &slot.page else {
            self.free.push(number);
            return Err(task);
        };
        slot.turn = slot.turn.wrapping_add(1);
        let mut flags = match task.direction {
            Direction::None => abi::FLAG_NO_DATA,
            Direction::In => abi::FLAG_TO_HOST,
            Direction::Out => abi::FLAG_TO_DEVICE,
        };
        let data = match &task.pieces[..] {
            [] => 0,
            [one] => phys_of(one.address as *const u8).0,
            many => {
                flags |= abi::FLAG_LIST;
                for (i, piece) in many.iter().enumerate() {
                    let address = phys_of(piece.address as *const u8).0;
                    page.put(i * size_of::<Element>(), Element { address, len: piece.len as u32, flags: 0 });
                }
                page.phys(0).0
            }
        };
        let [high, low] = task.address.lun.to_be_bytes();
        let request = Request {
            context: u64::from(slot.turn) << 32 | u64::from(number),
            data,
            data_len: u64::from(task.len),
            sense: page.phys(AT_SENSE).0,
            sense_len: SENSE_LEN as u32,
            flags,
            cdb: *task.cdb.padded(),
            cdb_len: task.cdb.bytes().len() as u8,
            // A number below 256 in the second byte, or flat addressing (SAM-5, section 4.7).
            lun: [if high == 0 { 0 } else { 0x40 | high }, low, 0, 0, 0, 0, 0, 0],
            tag: abi::SIMPLE_TAG,
            bus: 0,
            target: task.address.target,
            cpu: 0,
            unused: [0; 59],
        };
        self.requests.put(self.produced as usize % REQUESTS * size_of::<Request>(), request);
        slot.task = Some(task);
        self.produced = self.produced.wrapping_add(1);
        self.word(abi::REQUEST_PRODUCER).store(self.produced, Ordering::Release);
        Ok(())
    }

    /// Requests that the adapter has not looked at yet have reached its threshold: it wants to be told.
    pub fn reached_threshold(&self) -> bool {
        fence(Ordering::SeqCst);
        let waiting = self.produced.wrapping_sub(self.word(abi::REQUEST_CONSUMER).load(Ordering::Relaxed));
        waiting >= self.word(abi::CALL_THRESHOLD).load(Ordering::Relaxed)
    }

    /// Takes the next request that the adapter is done with. `None` if there is none now, or if the rings are broken.
    pub fn pop(&mut self) -> Option<Finished> {
        if self.ready == 0 {
            let ready = self.word(abi::COMPLETION_PRODUCER).load(Ordering::Acquire).wrapping_sub(self.consumed);
            if ready == 0 || self.broken.is_some() {
                return None;
            }
            if ready > self.in_flight() {
                return self.fail("the completion index jumped");
            }
            self.ready = ready;
        }
        let at = self.completions.at::<Completion>(self.consumed as usize % COMPLETIONS * size_of::<Completion>());
        // SAFETY: inside the area; every byte pattern is a value; read once, so that what is checked is what is used.
        let answer = unsafe { at.read_volatile() };
        let number = answer.context as u32 as usize;
        let Some(slot) = self.slots.get_mut(number) else {
            return self.fail("a completion of a request that cannot be");
        };
        if slot.turn != (answer.context >> 32) as u32 {
            return self.fail("a completion of a request of another time");
        }
        let Some(task) = slot.task.take() else {
            return self.fail("a completion of a request that is not in flight");
        };
        let mut sense = [0; SENSE_LEN];
        if let Some(page) = &slot.page
            && answer.sense_len != 0
        {
            page.read(AT_SENSE, &mut sense);
        }
        self.free.push(number as u16);
        self.ready -= 1;
        self.consumed = self.consumed.wrapping_add(1);
        self.word(abi::COMPLETION_CONSUMER).store(self.consumed, Ordering::Release);
        Some(Finished { task, answer, sense })
    }

    #[cold]
    fn fail(&mut self, why: &'static str) -> Option<Finished> {
        self.broken = Some(why);
        self.ready = 0;
        None
    }

    /// Every task that the adapter still has, after it was reset: the rings are broken from now on.
    pub fn drain(&mut self, why: &'static str) -> Vec<Task> {
        self.broken.get_or_insert(why);
        self.ready = 0;
        self.slots.iter_mut().filter_map(|slot| slot.task.take()).collect()
    }
}
