//! Receiving: the ring is kept full of buffers of a page each; a frame leaves in its own buffer, or as a copy
//! when it is small, so that little frames in long queues do not hold a page each.

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;

use hal_core::PAGE_SIZE;
use hal_core::device::{NET_HEADROOM, NetBuf};
use hal_core::memory::phys_of;

use super::header::{self, LONG, SHORT};
use crate::ring::{Piece, Ring};

/// Frames up to this size are copied.
const COPY_LIMIT: usize = 256;
/// Room before a copied frame: what a reply in place may add.
const COPY_HEADROOM: usize = 32;
/// Buffers given to the device at first; it grows towards the ring's size when the device runs short.
const FIRST_TARGET: u16 = 64;
/// Frames that the header starts before, in a buffer: the frame itself starts at `NET_HEADROOM`.
const fn data_start(header_len: usize) -> usize {
    NET_HEADROOM - header_len
}

/// Heap memory that the device may be writing to.
pub(crate) struct Buffer {
    memory: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for Buffer {}

impl Buffer {
    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len, 1).ok()
    }

    /// A buffer of `len` bytes, more than 0, not cleared; `None` when memory is out.
    fn new(len: usize) -> Option<Self> {
        // SAFETY: the length is above zero.
        let memory = NonNull::new(unsafe { alloc(Self::layout(len)?) })?;
        Some(Self { memory, len })
    }

    /// The memory as bytes: after the device is done with it.
    #[inline]
    fn into_bytes(self) -> Box<[u8]> {
        let (memory, len) = (self.memory.as_ptr(), self.len);
        core::mem::forget(self);
        // SAFETY: the assembly stands for the device, which may have written every byte; what it did not write
        // is whatever was in memory, but a value. The pointer and its length are those of a global allocation
        // with alignment 1, which is what a box of bytes is.
        unsafe {
            core::arch::asm!("/* {} */", in(reg) memory, options(nostack, preserves_flags));
            Box::from_raw(core::ptr::slice_from_raw_parts_mut(memory, len))
        }
    }

    /// The `len` bytes at `offset`, after the device is done with them.
    #[inline]
    fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset + len <= self.len, "inside the buffer");
        // SAFETY: inside, checked; the assembly stands for the device, which may have written every byte.
        unsafe {
            core::arch::asm!("/* {} */", in(reg) self.memory.as_ptr(), options(nostack, preserves_flags));
            core::slice::from_raw_parts(self.memory.as_ptr().add(offset), len)
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: allocated with this layout, and still owned.
            unsafe { dealloc(self.memory.as_ptr(), layout) };
        }
    }
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
        // SAFETY: inside the allocation.
        let first = unsafe { buffer.memory.as_ptr().add(start) };
        let piece = Piece { address: phys_of(first), len: (buffer.len - start) as u32, writable: true };
        // SAFETY: the token owns the memory, and only gives it out after the pop.
        // If there is no room the buffer is dropped, which is all right.
        drop(unsafe { self.ring.add(&[piece], buffer) });
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
            if let Some(frame) = self.take(buffer, len as usize) {
                frames += 1;
                sink(frame);
            }
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

    /// One used buffer: a frame, a part of one, or nothing of use. Its place in the ring is filled again.
    #[inline]
    fn take(&mut self, buffer: Buffer, len: usize) -> Option<NetBuf> {
        if self.joining.is_some() {
            return self.join(buffer, len);
        }
        if len < self.header_len {
            self.lie = Some("a received buffer has no header");
            return None;
        }
        let start = data_start(self.header_len);
        let mut long = [0; LONG];
        long[..self.header_len].copy_from_slice(buffer.bytes(start, self.header_len));
        let parts = if self.mergeable { header::buffers(&long) } else { 1 };
        if parts == 0 || parts > self.ring.size() {
            self.lie = Some("a frame of an impossible number of buffers");
            return None;
        }
        let len = len - self.header_len;
        if parts == 1 {
            let mut short = [0; SHORT];
            short.copy_from_slice(&long[..SHORT]);
            let Some(offload) = header::decode(&short, len) else {
                self.give(buffer);
                return None;
            };
            let mut frame = if len <= COPY_LIMIT {
                let copy = copy_of(&buffer, len);
                self.give(buffer);
                copy
            } else {
                self.keep(buffer, NET_HEADROOM, len)?
            };
            frame.offload = offload;
            return Some(frame);
        }
        // The header is judged when the whole length is known; it stays in the headroom until then.
        match self.keep(buffer, NET_HEADROOM, len) {
            Some(first) => self.joining = Some((first, parts - 1)),
            // Out of memory: the rest of the frame must still be skipped.
            None => {
                let nothing = NetBuf::from_box(Box::default(), 0, 0);
                self.joining = Some((nothing, parts - 1));
            }
        }
        None
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
        let mut short = [0; SHORT];
        short.copy_from_slice(&frame.raw().0[start..start + SHORT]);
        frame.offload = header::decode(&short, total)?;
        Some(frame)
    }
}

/// A copy of the `len` bytes of a frame.
#[inline]
fn copy_of(buffer: &Buffer, len: usize) -> NetBuf {
    let mut bytes = Vec::with_capacity(COPY_HEADROOM + len);
    bytes.extend_from_slice(&[0; COPY_HEADROOM]);
    bytes.extend_from_slice(buffer.bytes(NET_HEADROOM, len));
    NetBuf::from_box(bytes.into_boxed_slice(), COPY_HEADROOM, len)
}
