//! A ring shared with a backend (xen/include/public/io/ring.h): requests one way, responses the other, in the same slots.
//!
//! The backend's index is read once per look and checked against what was asked: more responses than requests is a lie, and ends
//! the use of the ring. Slots are copied out before they are looked at.

use core::sync::atomic::{AtomicU32, Ordering, fence};

use driver_kit::DmaArea;
use hal_core::{PAGE_SIZE, PhysAddr, Result};

const REQUEST_PRODUCED: usize = 0;
const REQUEST_EVENT: usize = 4;
const RESPONSE_PRODUCED: usize = 8;
const RESPONSE_EVENT: usize = 12;
const SLOTS: usize = 64;

/// The front end of a ring.
pub(crate) struct FrontRing {
    area: DmaArea,
    pages: usize,
    stride: usize,
    /// A power of two.
    size: u32,
    /// Requests written, and those of them that the backend was shown.
    written: u32,
    shown: u32,
    /// Responses taken.
    taken: u32,
    broken: Option<&'static str>,
}

impl FrontRing {
    /// An empty ring of slots of `stride` bytes, the longer one of request and response.
    pub fn new(pages: usize, stride: usize) -> Result<Self> {
        Ok(Self::over(DmaArea::new(pages * PAGE_SIZE)?, pages, stride))
    }

    /// The same, in memory that was a ring before and that no backend has any more.
    pub fn over(area: DmaArea, pages: usize, stride: usize) -> Self {
        let slots = (pages * PAGE_SIZE - SLOTS) / stride;
        let ring = Self { area, pages, stride, size: 1 << slots.ilog2(), written: 0, shown: 0, taken: 0, broken: None };
        for at in (0..pages * PAGE_SIZE).step_by(8) {
            ring.area.put(at, 0u64);
        }
        ring.word(REQUEST_EVENT).store(1, Ordering::Relaxed);
        ring.word(RESPONSE_EVENT).store(1, Ordering::Release);
        ring
    }

    /// The memory, for reuse.
    pub fn into_area(self) -> DmaArea {
        self.area
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: inside the area, which is page-aligned; both sides access these words whole.
        unsafe { &*self.area.at::<AtomicU32>(offset) }
    }

    fn slot(&self, index: u32) -> usize {
        SLOTS + (index & (self.size - 1)) as usize * self.stride
    }

    /// Number of slots.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The frames to grant.
    pub fn frames(&self) -> impl Iterator<Item = PhysAddr> + '_ {
        (0..self.pages).map(|page| self.area.phys(page * PAGE_SIZE))
    }

    /// Free slots.
    #[inline]
    pub fn free(&self) -> u32 {
        self.size - self.in_flight()
    }

    /// Slots that await a response.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.written.wrapping_sub(self.taken)
    }

    /// The slot number of the next request: what the next response but [`FrontRing::in_flight`] has, too.
    #[inline]
    pub fn next_slot(&self) -> usize {
        (self.written & (self.size - 1)) as usize
    }

    /// The slot number of the next response.
    #[inline]
    pub fn response_slot(&self) -> usize {
        (self.taken & (self.size - 1)) as usize
    }

    /// Writes a request, for which there must be room.
    #[inline]
    pub fn put<T: Copy>(&mut self, request: T) {
        assert!(size_of::<T>() <= self.stride && self.free() > 0, "room was looked at");
        self.area.put(self.slot(self.written), request);
        self.written = self.written.wrapping_add(1);
    }

    /// Shows the backend what was written; true if it is to be notified.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.written == self.shown || self.broken.is_some() {
            return false;
        }
        self.word(REQUEST_PRODUCED).store(self.written, Ordering::Release);
        // The backend must see the requests before we look at when it wants to be woken.
        fence(Ordering::SeqCst);
        let event = self.word(REQUEST_EVENT).load(Ordering::Relaxed);
        let new = self.written.wrapping_sub(self.shown);
        let notify = self.written.wrapping_sub(event) < new;
        self.shown = self.written;
        notify
    }

    /// How many responses wait; 0 on a broken ring.
    #[inline]
    fn waiting(&mut self) -> u32 {
        if self.broken.is_some() {
            return 0;
        }
        let waiting = self.word(RESPONSE_PRODUCED).load(Ordering::Acquire).wrapping_sub(self.taken);
        if waiting > self.shown.wrapping_sub(self.taken) {
            self.broken = Some("the backend has more responses than there were requests");
            return 0;
        }
        waiting
    }

    /// The next response.
    #[inline]
    pub fn take<T: Copy>(&mut self) -> Option<T> {
        if self.waiting() == 0 {
            return None;
        }
        assert!(size_of::<T>() <= self.stride, "a response fits its slot");
        let at = self.area.at::<T>(self.slot(self.taken));
        self.taken = self.taken.wrapping_add(1);
        // SAFETY: inside the area, checked by `at`; the backend may write it meanwhile, and every bit pattern is a value of the
        // plain structures that are taken.
        Some(unsafe { at.read_volatile() })
    }

    /// Asks for an event after the next response but `more`. True if as many wait already: then take them and ask again.
    #[inline]
    pub fn ask_event(&mut self, more: u32) -> bool {
        if self.waiting() > more {
            return true;
        }
        self.word(RESPONSE_EVENT).store(self.taken.wrapping_add(1 + more), Ordering::Relaxed);
        // The backend must see the wish before we look again.
        fence(Ordering::SeqCst);
        self.waiting() > more
    }

    /// Why the backend is not to be believed any more.
    #[inline]
    pub fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    /// The owner found a lie in a response.
    pub fn fail(&mut self, why: &'static str) {
        self.broken.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver_kit::random::Random;

    fn set(ring: &FrontRing, word: usize, value: u32) {
        ring.word(word).store(value, Ordering::Relaxed);
    }

    #[test]
    fn sizes() {
        assert_eq!(FrontRing::new(1, 112).unwrap().size(), 32);
        assert_eq!(FrontRing::new(2, 112).unwrap().size(), 64);
        assert_eq!(FrontRing::new(1, 12).unwrap().size(), 256);
        assert_eq!(FrontRing::new(1, 8).unwrap().size(), 256);
    }

    #[test]
    fn notifies_only_when_asked() {
        let mut ring = FrontRing::new(1, 8).unwrap();
        ring.put(1u64);
        assert!(ring.publish(), "the first is always asked for");
        ring.put(2u64);
        assert!(!ring.publish());
        set(&ring, REQUEST_EVENT, 4);
        ring.put(3u64);
        assert!(!ring.publish());
        ring.put(4u64);
        ring.put(5u64);
        assert!(ring.publish());
        assert!(!ring.publish(), "nothing new");
    }

    #[test]
    fn responses_are_bounded() {
        let mut ring = FrontRing::new(1, 8).unwrap();
        ring.put(7u64);
        set(&ring, RESPONSE_PRODUCED, 1);
        assert_eq!(ring.take::<u64>(), None, "it was not even shown");
        assert!(ring.broken().is_some() && !ring.publish());
        let mut ring = FrontRing::new(1, 8).unwrap();
        ring.put(7u64);
        ring.publish();
        assert!(!ring.ask_event(0));
        set(&ring, RESPONSE_PRODUCED, 1);
        assert!(ring.ask_event(0) && !ring.ask_event(1));
        assert_eq!(ring.take::<u64>(), Some(7));
        assert_eq!((ring.take::<u64>(), ring.broken()), (None, None));
        set(&ring, RESPONSE_PRODUCED, 0);
        assert!(!ring.ask_event(0));
        assert!(ring.broken().is_some(), "taken back");
    }

    #[test]
    fn any_indices_at_all() {
        for seed in 1..200 {
            let mut random = Random(seed);
            let mut ring = FrontRing::new(1, 12).unwrap();
            let mut asked = 0u64;
            for _ in 0..500 {
                match random.below(6) {
                    0..=1 if ring.free() > 0 => {
                        ring.put(0u64);
                        asked += 1;
                    }
                    2 => _ = ring.publish(),
                    3 => _ = ring.ask_event(random.below(3) as u32),
                    4 => set(&ring, RESPONSE_PRODUCED, ring.taken.wrapping_add(random.below(4) as u32)),
                    5 if random.below(40) == 0 => set(&ring, RESPONSE_PRODUCED, random.next() as u32),
                    _ => {
                        if ring.take::<u32>().is_some() {
                            asked = asked.checked_sub(1).expect("no more than was asked");
                        }
                    }
                }
                assert!(ring.in_flight() <= ring.size());
            }
        }
    }
}
