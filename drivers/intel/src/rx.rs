//! Receiving: a ring of legacy descriptors (8254x manual, section 3.2.3), always full of buffers of a page, of which the
//! device uses 2 KiB. A frame leaves in its own buffer, or as a copy when it is small.
//!
//! What the device writes is read once and checked; which descriptor is next is this driver's own count.

use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use driver_kit::{Buffer, DmaArea, Io};
use hal_core::device::{NET_HEADROOM, NetBuf};
use hal_core::{Error, PAGE_SIZE, Result};

use crate::registers::*;

/// Descriptors; a multiple of 8.
pub(crate) const RING: usize = 256;
/// What the device may write to a buffer: the size set in RCTL.
pub(crate) const BUFFER: usize = 2048;
/// Frames up to this size are copied.
const COPY_LIMIT: usize = 256;
/// Buffers go back to the device in such batches: each is one register access, which a hypervisor has to emulate.
const BATCH: usize = 32;
/// No frame is longer (16 KiB are 82574's jumbo frames and more).
const LONGEST: usize = 16384;

const AT_LENGTH: usize = 8;
const AT_STATUS: usize = 12;
const AT_ERRORS: usize = 13;

/// The receiver.
pub(crate) struct Rx {
    ring: DmaArea,
    slots: Vec<Buffer>,
    /// The next descriptor to look at.
    next: usize,
    /// Descriptors behind it that the device has.
    shown: usize,
    /// The first parts of a frame of several descriptors; empty if one was lost, and the rest is to be skipped.
    chain: Option<Chain>,
    /// What is wrong with the device.
    lie: Option<&'static str>,
}

#[derive(Default)]
struct Chain {
    frame: Option<NetBuf>,
    len: usize,
}

impl Rx {
    /// A full ring, which the device gets by [`Rx::start`].
    pub fn new() -> Result<Self> {
        let mut rx = Self {
            ring: DmaArea::new(RING * DESCRIPTOR)?,
            slots: Vec::with_capacity(RING),
            next: 0,
            shown: 0,
            chain: None,
            lie: None,
        };
        for slot in 0..RING {
            rx.slots.push(Buffer::new(PAGE_SIZE).ok_or(Error::Exhausted)?);
            rx.give(slot);
        }
        Ok(rx)
    }

    /// Writes a slot's descriptor.
    #[inline]
    fn give(&self, slot: usize) {
        self.ring.put(slot * DESCRIPTOR + 8, 0u64);
        self.ring.put(slot * DESCRIPTOR, self.slots[slot].phys(NET_HEADROOM).0);
    }

    /// Hands the ring to the device; one descriptor stays back, since a full ring looks like an empty one.
    pub fn start(&mut self, io: &dyn Io) {
        let at = self.ring.phys(0).0;
        io.write(RDBAL, at as u32);
        io.write(RDBAH, (at >> 32) as u32);
        io.write(RDLEN, (RING * DESCRIPTOR) as u32);
        io.write(RDH, 0);
        self.show(io);
    }

    fn show(&mut self, io: &dyn Io) {
        self.shown = RING - 1;
        fence(Ordering::Release);
        io.write(RDT, ((self.next + self.shown) % RING) as u32);
    }

    /// Why the device is not to be believed any more.
    #[inline]
    pub fn broken(&self) -> Option<&'static str> {
        self.lie
    }

    /// True if a descriptor is done.
    #[inline]
    pub fn waiting(&self) -> bool {
        self.shown > 0 && self.lie.is_none() && self.ring.byte(self.next * DESCRIPTOR + AT_STATUS) & RX_DD != 0
    }

    /// Takes up to `budget` frames, and gives the device buffers if it lacks many.
    pub fn receive(&mut self, io: &dyn Io, budget: usize, sink: &mut dyn FnMut(NetBuf)) -> usize {
        let mut frames = 0;
        while frames < budget && self.waiting() {
            fence(Ordering::Acquire);
            let at = self.next * DESCRIPTOR;
            let status = self.ring.byte(at + AT_STATUS);
            let errors = self.ring.byte(at + AT_ERRORS);
            let len =
                usize::from(u16::from_le_bytes([self.ring.byte(at + AT_LENGTH), self.ring.byte(at + AT_LENGTH + 1)]));
            if len > BUFFER {
                self.lie = Some("a received length is greater than the buffer");
                break;
            }
            frames += usize::from(self.take(status, errors, len, sink));
            self.give(self.next);
            self.next = (self.next + 1) % RING;
            self.shown -= 1;
        }
        if RING - 1 - self.shown >= BATCH && self.lie.is_none() {
            self.show(io);
        }
        frames
    }

    /// One descriptor: a frame, which goes to `sink`, a part of one, or nothing of use. True at a frame's end.
    #[inline]
    fn take(&mut self, status: u8, errors: u8, len: usize, sink: &mut dyn FnMut(NetBuf)) -> bool {
        let end = status & RX_EOP != 0;
        if !end || self.chain.is_some() {
            return self.join(end, status, errors, len, sink);
        }
        if errors & RX_BAD != 0 || len == 0 {
            return false;
        }
        let frame = if len <= COPY_LIMIT { self.slots[self.next].copy(NET_HEADROOM, len) } else { self.keep(len) };
        match frame {
            Some(mut frame) => {
                frame.offload.checksum_valid = checked(status, errors);
                sink(frame);
                true
            }
            None => false,
        }
    }

    /// Takes the buffer of the descriptor looked at, if there is another to take its place.
    #[inline]
    fn keep(&mut self, len: usize) -> Option<NetBuf> {
        let fresh = Buffer::new(PAGE_SIZE)?;
        let buffer = core::mem::replace(&mut self.slots[self.next], fresh);
        Some(NetBuf::from_box(buffer.into_bytes(), NET_HEADROOM, len))
    }

    /// A part of a frame of several.
    #[cold]
    fn join(&mut self, end: bool, status: u8, errors: u8, len: usize, sink: &mut dyn FnMut(NetBuf)) -> bool {
        let first = self.chain.is_none();
        let part = self.keep(len);
        let mut chain = self.chain.take().unwrap_or_default();
        chain.len += len;
        if chain.len > LONGEST || (len == 0 && !end) {
            self.lie = Some("a received frame does not end");
            return false;
        }
        match (part, &mut chain.frame) {
            (Some(part), frame @ None) if first => *frame = Some(part),
            (Some(part), Some(frame)) => frame.more.push(part),
            _ => chain.frame = None,
        }
        if !end {
            self.chain = Some(chain);
            return false;
        }
        match chain.frame {
            // The last descriptor's bits are the whole frame's.
            Some(mut frame) if errors & RX_BAD == 0 => {
                frame.offload.checksum_valid = checked(status, errors);
                sink(frame);
                true
            }
            _ => false,
        }
    }
}

/// The device has found the checksums good.
#[inline]
fn checked(status: u8, errors: u8) -> bool {
    status & (RX_IXSM | RX_TCPCS) == RX_TCPCS && errors & RX_BAD_SUM == 0
}
