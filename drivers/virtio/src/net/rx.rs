//! Receiving: the ring is kept full of buffers of a page each; a frame leaves in its own buffer, or as a copy
//! when it is small, so that little frames in long queues do not hold a page each.

use alloc::boxed::Box;

use driver_kit::Buffer;
use hal_core::PAGE_SIZE;
use hal_core::device::{NET_HEADROOM, NetBuf};

use super::header::{self, LONG};
use crate::ring::{Piece, Ring};

/// Frames up to this size are copied.
const COPY_LIMIT: usize = 256;
/// Buffers given to the device at first; it grows towards the ring's size when the device runs short.
const FIRST_TARGET: u16 = 64;
/// Frames that the header starts before, in a buffer: the frame itself starts at `NET_HEADROOM`.
const fn data_start(header_len: usize) -> usize {
    NET_HEADROOM - header_len
}

/// The receiving half of a queue pair.
pub(crate) struct Rx {
    pub ring: Ring<Buffer>,
    header_len: usize,
    mergeable: bool,
    buffer_len: usize,
    target: u16,
    /// A frame of which buffers are still to come, and how many.
    joining: Option<(NetBuf, u16)>,
    /// What is wrong with the device beyond its ring.
    lie: Option<&'static str>,
}

impl Rx {
    /// An empty ring becomes a receiver of frames of up to `frame` bytes.
    pub fn new(ring: Ring<Buffer>, header_len: usize, mergeable: bool, frame: usize) -> Self {
        let wanted = (NET_HEADROOM + frame).next_multiple_of(PAGE_SIZE);
        let buffer_len = if mergeable { PAGE_SIZE } else { wanted };
        let target = ring.size().min(FIRST_TARGET);
        let mut rx = Self { ring, header_len, mergeable, buffer_len, target, joining: None, lie: None };
        rx.fill();
        rx
    }

    /// Why the device is not to be believed any more.
    #[inline]
    pub fn broken(&self) -> Option<&'static str> {
        self.ring.broken().or(self.lie)
    }

    /// Gives the device a buffer.
    #[inline]
    fn give(&mut self, buffer: Buffer) {
        let start = data_start(self.header_len);
        let piece = Piece { address: buffer.phys(start), len: (buffer.len() - start) as u32, writable: true };
        // SAFETY: the token owns the memory, and only gives it out after the pop.
        // If there is no room the buffer is dropped, which is all right.
        drop(unsafe { self.ring.add_one(&piece, buffer) });
    }

    /// Fills the ring up to the target.
    fn fill(&mut self) {
        while self.ring.in_flight() < self.target && self.ring.has_room(1) {
            let Some(buffer) = Buffer::new(self.buffer_len) else {
                break;
            };
            self.give(buffer);
        }
    }

    /// Takes up to `budget` frames. Returns how many, and if the device is to be notified of new buffers.
    pub fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(NetBuf)) -> (usize, bool) {
        let mut frames = 0;
        let before = self.ring.in_flight();
        let mut taken = 0;
        while frames < budget && self.lie.is_none() {
            let Some((buffer, len)) = self.ring.pop() else {
                break;
            };
            taken += 1;
            frames += usize::from(self.take(buffer, len as usize, sink));
        }
        if taken > 0 {
            // The device used most of what it had: give it more next time.
            if taken > before / 2 && self.target < self.ring.size() {
                self.target = self.target.saturating_mul(2).min(self.ring.size());
            }
            if self.ring.in_flight() < self.target {
                self.fill();
            }
        }
        (frames, self.ring.publish())
    }

    /// One used buffer: a frame, which goes to `sink`, a part of one, or nothing of use. Its place in the ring is
    /// filled again. True if it was a frame, or the last part of one.
    #[inline]
    fn take(&mut self, buffer: Buffer, len: usize, sink: &mut dyn FnMut(NetBuf)) -> bool {
        if self.joining.is_some() {
            return self.join(buffer, len).map(sink).is_some();
        }
        if len < self.header_len {
            self.lie = Some("a received buffer has no header");
            return false;
        }
        // There is room for the long form in each buffer, even if the device uses the short one.
        let header = buffer.array::<LONG>(data_start(self.header_len));
        let parts = if self.mergeable { header::buffers(&header) } else { 1 };
        let len = len - self.header_len;
        if parts != 1 {
            self.first_part(buffer, len, parts);
            return false;
        }
        let Some(offload) = header::decode(&header, len) else {
            self.give(buffer);
            return false;
        };
        let frame = if len <= COPY_LIMIT {
            let copy = buffer.copy(NET_HEADROOM, len);
            self.give(buffer);
            copy
        } else {
            self.keep(buffer, NET_HEADROOM, len)
        };
        match frame {
            Some(mut frame) => {
                frame.offload = offload;
                sink(frame);
                true
            }
            None => false,
        }
    }

    /// The first buffer of a frame of several.
    fn first_part(&mut self, buffer: Buffer, len: usize, parts: u16) {
        if parts == 0 || parts > self.ring.size() {
            self.lie = Some("a frame of an impossible number of buffers");
            return;
        }
        // The header is judged when the whole length is known; it stays in the headroom until then. Out of memory: the
        // rest of the frame must still be skipped.
        let first = self.keep(buffer, NET_HEADROOM, len);
        let first = first.unwrap_or_else(|| NetBuf::from_box(Box::default(), 0, 0));
        self.joining = Some((first, parts - 1));
    }

    /// Turns a buffer into part of a frame, if there is another to take its place.
    #[inline]
    fn keep(&mut self, buffer: Buffer, start: usize, len: usize) -> Option<NetBuf> {
        match Buffer::new(self.buffer_len) {
            Some(fresh) => {
                self.give(fresh);
                Some(NetBuf::from_box(buffer.into_bytes(), start, len))
            }
            None => {
                self.give(buffer);
                None
            }
        }
    }

    /// A further buffer of a frame.
    fn join(&mut self, buffer: Buffer, len: usize) -> Option<NetBuf> {
        let part = self.keep(buffer, data_start(self.header_len), len);
        let (mut frame, left) = self.joining.take()?;
        let lost = frame.headroom() == 0;
        match part {
            Some(part) if !lost => frame.more.push(part),
            // A part is missing: the frame is lost, but its remaining buffers must be skipped.
            _ => frame = NetBuf::from_box(Box::default(), 0, 0),
        }
        if left > 1 {
            self.joining = Some((frame, left - 1));
            return None;
        }
        if frame.headroom() == 0 {
            return None;
        }
        let total = frame.len() + frame.more.iter().map(NetBuf::len).sum::<usize>();
        let start = data_start(self.header_len);
        let header = frame.raw().0.get(start..)?.first_chunk()?;
        frame.offload = header::decode(header, total)?;
        Some(frame)
    }
}
