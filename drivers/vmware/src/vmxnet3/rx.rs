//! Receiving: a ring of buffers of a page for the start of each frame, and one for what does not fit there (joined segments).
//! A frame leaves in its own buffers, or as a copy when it is small.

use alloc::boxed::Box;
use core::sync::atomic::{Ordering, fence};

use driver_kit::{Buffer, DmaArea};
use hal_core::device::{NET_HEADROOM, NetBuf, Offload};
use hal_core::{PAGE_SIZE, PhysAddr, Result};

use super::abi::*;
use super::completions::Completions;

/// Buffers in a ring, at most one less than this; a multiple of 32.
pub(crate) const RING: u16 = 256;
/// Buffers given to the device at first; more when it runs short.
const FIRST_HEADS: u16 = 128;
/// Enough for a frame of 64 KiB.
const FIRST_BODIES: u16 = 24;
/// Pieces of a frame, at most.
pub(crate) const MAX_PIECES: u16 = 24;
/// Frames up to this size are copied.
const COPY_LIMIT: usize = 256;

/// A ring of buffers that the device fills in order.
struct Ring {
    area: DmaArea,
    slots: Box<[Option<Buffer>]>,
    /// Oldest buffer with the device, and how many there are.
    next: u16,
    filled: u16,
    /// How many there shall be.
    target: u16,
    /// How many came back since the driver last caught up with the device.
    streak: u16,
    /// Where the next one goes, and the generation there.
    fill: u16,
    generation: bool,
    /// What is before the bytes in each buffer.
    start: usize,
    /// [`RX_BODY`] or 0.
    kind: u32,
}

impl Ring {
    fn new(start: usize, kind: u32, target: u16) -> Result<Self> {
        Ok(Self {
            area: DmaArea::new(usize::from(RING) * DESCRIPTOR)?,
            slots: (0..RING).map(|_| None).collect(),
            next: 0,
            filled: 0,
            target,
            streak: 0,
            fill: 0,
            generation: true,
            start,
            kind,
        })
    }

    /// Gives the device a buffer, for which there is room.
    #[inline]
    fn give(&mut self, buffer: Buffer) {
        let at = usize::from(self.fill) * DESCRIPTOR;
        let generation = if self.generation { RX_GENERATION } else { 0 };
        let word = (buffer.len() - self.start) as u32 | self.kind | generation;
        self.area.put(at, buffer.phys(self.start).0);
        self.slots[usize::from(self.fill)] = Some(buffer);
        fence(Ordering::Release);
        let place = self.area.at::<u32>(at + 8);
        // SAFETY: inside the area and aligned. From here on the descriptor, and the buffer, are the device's.
        unsafe { place.write_volatile(word) };
        self.filled += 1;
        self.fill += 1;
        if self.fill == RING {
            self.fill = 0;
            self.generation = !self.generation;
        }
    }

    /// Some buffers came back. If the device used most of what it had before the driver caught up, it gets more.
    fn taken(&mut self, count: u16, caught_up: bool) {
        self.streak = self.streak.saturating_add(count);
        if self.streak > self.target / 2 {
            self.target = self.target.saturating_mul(2).min(RING - 1);
        }
        if caught_up {
            self.streak = 0;
        }
        if count > 0 {
            self.top_up();
        }
    }

    fn top_up(&mut self) {
        while self.filled < self.target {
            let Some(buffer) = Buffer::new(PAGE_SIZE) else {
                break;
            };
            self.give(buffer);
        }
    }

    /// Takes buffer `index` back. The device may have passed over some before it: they are given to it anew. `None` if it
    /// did not have that buffer.
    #[inline]
    fn take(&mut self, index: u16) -> Option<Buffer> {
        if index >= RING {
            return None;
        }
        let passed = (index + RING - self.next) % RING;
        if passed >= self.filled {
            return None;
        }
        for _ in 0..passed {
            let skipped = self.advance()?;
            self.give(skipped);
        }
        self.advance()
    }

    #[inline]
    fn advance(&mut self) -> Option<Buffer> {
        let buffer = self.slots[usize::from(self.next)].take();
        self.next = (self.next + 1) % RING;
        self.filled -= 1;
        buffer
    }

    /// The device is not active: every buffer comes back, and goes in again from the start.
    fn reset(&mut self) {
        for index in 0..RING {
            self.slots[usize::from(index)] = None;
            self.area.put(usize::from(index) * DESCRIPTOR + 8, 0u32);
        }
        (self.next, self.filled, self.fill, self.generation) = (0, 0, 0, true);
        self.top_up();
    }
}

/// A frame of which more pieces come; `None`: a piece of it is lost, and it with it.
type Joining = Option<Option<NetBuf>>;

/// The receiver of a queue.
pub(crate) struct Rx {
    rings: [Ring; 2],
    pub completions: Completions,
    /// The numbers that the device has for the two rings.
    numbers: [u32; 2],
    joining: Joining,
    broken: Option<&'static str>,
}

impl Rx {
    /// The receiver of queue `queue` of `queues`, its rings filled.
    pub fn new(queue: u16, queues: u16) -> Result<Self> {
        let mut rx = Self {
            rings: [Ring::new(NET_HEADROOM, 0, FIRST_HEADS)?, Ring::new(0, RX_BODY, FIRST_BODIES)?],
            completions: Completions::new(2 * RING)?,
            numbers: [u32::from(queue), u32::from(queue) + u32::from(queues)],
            joining: None,
            broken: None,
        };
        rx.rings.iter_mut().for_each(Ring::top_up);
        Ok(rx)
    }

    /// Where the rings are.
    pub fn phys(&self) -> [PhysAddr; 2] {
        [self.rings[0].area.phys(0), self.rings[1].area.phys(0)]
    }

    /// Where the next buffers go, for the device.
    pub fn producers(&self) -> [u32; 2] {
        [u32::from(self.rings[0].fill), u32::from(self.rings[1].fill)]
    }

    /// Why the device is not to be believed any more.
    #[inline]
    pub fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    /// Takes up to `budget` frames; returns how many, and whether the device has new buffers.
    pub fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(NetBuf)) -> (usize, bool) {
        let mut frames = 0;
        let mut taken = [0; 2];
        let mut caught_up = false;
        while frames < budget && self.broken.is_none() {
            let Some(words) = self.completions.pop() else {
                caught_up = true;
                break;
            };
            if let Some(ring) = self.ring_of(words) {
                taken[ring] += 1;
                frames += usize::from(self.piece(ring, words, sink));
            }
        }
        for (ring, count) in self.rings.iter_mut().zip(taken) {
            ring.taken(count, caught_up);
        }
        (frames, taken != [0, 0])
    }

    fn ring_of(&mut self, words: [u32; 4]) -> Option<usize> {
        let number = words[0] >> RX_QUEUE_SHIFT & RX_QUEUE;
        let ring = self.numbers.iter().position(|n| *n == number);
        if ring.is_none() {
            self.broken = Some("a completion of another queue's ring");
        }
        ring
    }

    /// One filled buffer. True if a frame went to `sink`.
    #[inline]
    fn piece(&mut self, ring: usize, words: [u32; 4], sink: &mut dyn FnMut(NetBuf)) -> bool {
        let Some(buffer) = self.rings[ring].take((words[0] & INDEX) as u16) else {
            self.broken = Some("a completion of a buffer that the device does not have");
            return false;
        };
        let len = (words[2] & RX_LEN) as usize;
        let start = self.rings[ring].start;
        if len > buffer.len() - start {
            self.broken = Some("a frame longer than its buffer");
            return false;
        }
        let is_end = words[0] & RX_END != 0;
        if words[0] & RX_START != 0 {
            if self.joining.is_some() || ring != 0 {
                self.broken = Some("a frame begins where it must not");
                return false;
            }
            if is_end && len <= COPY_LIMIT {
                let copy = if len > 0 && words[2] & RX_ERROR == 0 { buffer.copy(start, len) } else { None };
                self.rings[ring].give(buffer);
                return deliver(copy, words, sink);
            }
            let first = self.keep(ring, buffer, len);
            self.joining = Some(first);
        } else {
            let Some(frame) = self.joining.take() else {
                self.broken = Some("a piece of no frame");
                return false;
            };
            let part = self.keep(ring, buffer, len);
            self.joining = Some(frame.zip(part).and_then(|(mut frame, part)| {
                frame.more.push(part);
                (frame.more.len() < usize::from(MAX_PIECES)).then_some(frame)
            }));
        }
        if !is_end {
            return false;
        }
        let frame = self.joining.take().flatten().filter(|_| words[2] & RX_ERROR == 0);
        deliver(frame, words, sink)
    }

    /// Turns a buffer into part of a frame, if there is another to take its place.
    #[inline]
    fn keep(&mut self, ring: usize, buffer: Buffer, len: usize) -> Option<NetBuf> {
        let start = self.rings[ring].start;
        match Buffer::new(PAGE_SIZE) {
            Some(fresh) if len > 0 => {
                self.rings[ring].give(fresh);
                Some(NetBuf::from_box(buffer.into_bytes(), start, len))
            }
            _ => {
                self.rings[ring].give(buffer);
                None
            }
        }
    }

    /// As at the start: the device is not active.
    pub fn reset(&mut self) {
        self.rings.iter_mut().for_each(Ring::reset);
        self.completions.reset();
        self.joining = None;
        self.broken = None;
    }
}

/// Hands a whole frame over, with what its last completion says of checksums.
#[inline]
fn deliver(frame: Option<NetBuf>, words: [u32; 4], sink: &mut dyn FnMut(NetBuf)) -> bool {
    let Some(mut frame) = frame else {
        return false;
    };
    frame.offload = Offload { checksum_valid: is_checked(words), ..Offload::default() };
    sink(frame);
    true
}

/// The device has looked at every checksum of the frame, and they are right.
#[inline]
fn is_checked(words: [u32; 4]) -> bool {
    let what = words[3];
    words[0] & RX_NO_CHECKSUM == 0
        && what & RX_L4_GOOD != 0
        && what & (RX_TCP | RX_UDP) != 0
        && what & RX_FRAGMENT == 0
        && (what & RX_V4 == 0 || what & RX_IP_GOOD != 0)
}
