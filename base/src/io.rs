//! Where data of a read goes and data of a write comes from: user memory or a kernel buffer, in one or
//! more segments (iovec), without a copy in between.
//!
//! Copies to user memory may fault and sleep: hold no spin lock. Under one, use the `try_` forms: they stop
//! at the first page that is not there; drop the lock, call `fault_in`, and go on.

use crate::errno::{Errno, Result};
use crate::frame::{FRAME_SIZE, Frame};
use crate::hooks;

/// A piece of memory: address and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub address: usize,
    /// Bytes.
    pub len: usize,
}

#[derive(Clone, Copy, Debug)]
enum Segments<'a> {
    One(Segment),
    Many(&'a [Segment]),
}

/// Position in a list of segments; the shared part of [`Out`] and [`In`].
#[derive(Debug)]
struct Cursor<'a> {
    segments: Segments<'a>,
    user: bool,
    index: usize,
    offset: usize,
    done: usize,
}

impl Cursor<'_> {
    #[inline]
    fn slice(&self) -> &[Segment] {
        match &self.segments {
            Segments::One(s) => core::slice::from_ref(s),
            Segments::Many(s) => s,
        }
    }

    #[inline]
    fn remaining(&self) -> usize {
        if let Segments::One(s) = &self.segments {
            return if self.index == 0 { s.len - self.offset } else { 0 };
        }
        self.slice()[self.index.min(self.slice().len())..].iter().map(|s| s.len).sum::<usize>() - self.offset
    }

    /// The next contiguous piece, at most `max` bytes.
    #[inline]
    fn next(&mut self, max: usize) -> Option<Segment> {
        loop {
            let s = *self.slice().get(self.index)?;
            if self.offset < s.len {
                return Some(Segment { address: s.address + self.offset, len: max.min(s.len - self.offset) });
            }
            self.index += 1;
            self.offset = 0;
        }
    }

    #[inline]
    fn advance(&mut self, n: usize) {
        self.offset += n;
        self.done += n;
    }

    /// Moves `len` bytes piece by piece with `copy(piece address, position, bytes, may sleep) -> bytes left`.
    fn each(&mut self, len: usize, copy: impl Fn(usize, usize, usize) -> usize) -> (usize, bool) {
        let mut moved = 0;
        while moved < len {
            let Some(piece) = self.next(len - moved) else {
                break;
            };
            let left = copy(piece.address, moved, piece.len).min(piece.len);
            self.advance(piece.len - left);
            moved += piece.len - left;
            if left != 0 {
                return (moved, true);
            }
        }
        (moved, false)
    }
}

fn outcome((moved, faulted): (usize, bool)) -> Result<usize> {
    if faulted && moved == 0 { Err(Errno::EFAULT) } else { Ok(moved) }
}

/// The destination of a read.
#[derive(Debug)]
pub struct Out<'a>(Cursor<'a>);

/// The source of a write.
#[derive(Debug)]
pub struct In<'a>(Cursor<'a>);

macro_rules! common {
    ($name:ident) => {
        impl<'a> $name<'a> {
            /// Over one piece of user memory. The address need not be valid: a copy then fails with `EFAULT`.
            #[inline]
            pub fn user(address: usize, len: usize) -> Self {
                Self(Cursor {
                    segments: Segments::One(Segment { address, len }),
                    user: true,
                    index: 0,
                    offset: 0,
                    done: 0,
                })
            }
            /// Over several pieces of user memory, in order.
            #[inline]
            pub fn user_segments(segments: &'a [Segment]) -> Self {
                Self(Cursor { segments: Segments::Many(segments), user: true, index: 0, offset: 0, done: 0 })
            }
            /// Bytes that still fit (or are still there).
            #[inline]
            pub fn remaining(&self) -> usize {
                self.0.remaining()
            }
            /// Bytes moved so far.
            #[inline]
            pub fn done(&self) -> usize {
                self.0.done
            }
            /// Makes the next page accessible, sleeping if need be, after a `try_` call moved less than it
            /// could. `EFAULT` if the memory is not there at all.
            pub fn fault_in(&mut self) -> Result<()> {
                let Some(piece) = self.0.next(1) else {
                    return Ok(());
                };
                let write = $name::WRITES;
                // SAFETY: the hook checks that the address is the application's.
                if !self.0.user || unsafe { hooks::__coracle_fault_in(piece.address, write) } {
                    Ok(())
                } else {
                    Err(Errno::EFAULT)
                }
            }
        }
    };
}
common!(Out);
common!(In);

impl<'a> Out<'a> {
    const WRITES: bool = true;

    /// Into a kernel buffer.
    pub fn kernel(buffer: &'a mut [u8]) -> Self {
        let segment = Segment { address: buffer.as_mut_ptr() as usize, len: buffer.len() };
        Self(Cursor { segments: Segments::One(segment), user: false, index: 0, offset: 0, done: 0 })
    }

    fn copy(&mut self, from: *const u8, len: usize, sleep: bool) -> (usize, bool) {
        let user = self.0.user;
        self.0.each(len, |address, at, n| {
            // SAFETY: `from` is readable for `len` bytes (both callers); the destination is user memory,
            // which the hook checks, or the exclusively borrowed kernel buffer.
            unsafe {
                if user {
                    hooks::__coracle_copy_to_user(address, from.add(at), n, sleep)
                } else {
                    core::ptr::copy_nonoverlapping(from.add(at), address as *mut u8, n);
                    0
                }
            }
        })
    }

    /// Writes as much of `data` as fits; returns the bytes moved. May sleep. `EFAULT` if nothing could be.
    pub fn write(&mut self, data: &[u8]) -> Result<usize> {
        outcome(self.copy(data.as_ptr(), data.len(), true))
    }

    /// As [`Out::write`] without sleeping; stops at a page that is not there and returns what was moved.
    pub fn try_write(&mut self, data: &[u8]) -> usize {
        self.copy(data.as_ptr(), data.len(), false).0
    }

    /// Writes `len` bytes of a frame from `offset` on (cut to the frame). May sleep.
    #[inline]
    pub fn write_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize> {
        let offset = offset.min(FRAME_SIZE);
        let len = len.min(FRAME_SIZE - offset);
        // SAFETY: within the frame, which the borrow keeps alive.
        let from = unsafe { frame.address().as_ptr().add(offset) };
        outcome(self.copy(from, len, true))
    }

    /// Writes `len` zeroes. May sleep.
    pub fn write_zeroes(&mut self, len: usize) -> Result<usize> {
        static ZEROES: [u8; FRAME_SIZE] = [0; FRAME_SIZE];
        let mut total = 0;
        while total < len {
            match self.write(&ZEROES[..FRAME_SIZE.min(len - total)]) {
                Ok(0) => break,
                Ok(n) => total += n,
                Err(e) if total == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(total)
    }
}

impl<'a> In<'a> {
    const WRITES: bool = false;

    /// From a kernel buffer.
    pub fn kernel(buffer: &'a [u8]) -> Self {
        let segment = Segment { address: buffer.as_ptr() as usize, len: buffer.len() };
        Self(Cursor { segments: Segments::One(segment), user: false, index: 0, offset: 0, done: 0 })
    }

    fn copy(&mut self, to: *mut u8, len: usize, sleep: bool) -> (usize, bool) {
        let user = self.0.user;
        self.0.each(len, |address, at, n| {
            // SAFETY: `to` is writable for `len` bytes (both callers); the source is user memory, which
            // the hook checks, or the borrowed kernel buffer.
            unsafe {
                if user {
                    hooks::__coracle_copy_from_user(to.add(at), address, n, sleep)
                } else {
                    core::ptr::copy_nonoverlapping(address as *const u8, to.add(at), n);
                    0
                }
            }
        })
    }

    /// Fills as much of `to` as there is; returns the bytes moved. May sleep. `EFAULT` if nothing could be.
    pub fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        outcome(self.copy(to.as_mut_ptr(), to.len(), true))
    }

    /// As [`In::read`] without sleeping; stops at a page that is not there and returns what was moved.
    pub fn try_read(&mut self, to: &mut [u8]) -> usize {
        self.copy(to.as_mut_ptr(), to.len(), false).0
    }

    /// Fills `len` bytes of a frame from `offset` on (cut to the frame). May sleep.
    #[inline]
    pub fn read_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize> {
        let offset = offset.min(FRAME_SIZE);
        let len = len.min(FRAME_SIZE - offset);
        // SAFETY: within the frame, which the borrow keeps alive; sharing as in `Frame::write`.
        let to = unsafe { frame.address().as_ptr().add(offset) };
        outcome(self.copy(to, len, true))
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;

    #[test]
    fn moves_over_segments_and_stops_at_a_fault() {
        let (mut a, mut b) = ([0u8; 3], [0u8; 5]);
        let segments = [
            Segment { address: a.as_mut_ptr() as usize, len: 3 },
            Segment { address: 0, len: 0 },
            Segment { address: b.as_mut_ptr() as usize, len: 5 },
            Segment { address: 1, len: 5 }, // the host's hook refuses the first page
        ];
        let mut out = Out::user_segments(&segments);
        assert_eq!(out.remaining(), 13);
        assert_eq!(out.write(b"0123456789").unwrap(), 8);
        assert_eq!(out.write(b"x"), Err(Errno::EFAULT));
        assert_eq!((&a, &b), (b"012", b"34567"));
        let mut got = [0u8; 16];
        let mut input = In::kernel(b"hello");
        assert_eq!(input.read(&mut got).unwrap(), 5);
        assert_eq!(input.remaining(), 0);
    }
}
