//! The buffers of one connection. All start empty and without memory.
//!
//! - [`SendBuf`]: bytes from the application until they are acknowledged, a ring that grows when it is full.
//! - [`RecvQueue`]: received packets in order; the bytes are copied once, to the application.
//! - [`Reorder`]: received packets that wait for a gap to be filled.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use base::io::{In, Out};
use hal_core::device::NetBuf;

use super::segment::{MAX_SACKS, before};

const FIRST_CAPACITY: usize = 2048;
/// A ring up to this size stays while its connection is idle.
const KEEP_CAPACITY: usize = 4096;

/// Bytes to send.
#[derive(Default)]
pub(crate) struct SendBuf {
    ring: Vec<u8>, // its length is a power of two, or 0
    head: usize,
    len: usize,
}

impl SendBuf {
    pub fn len(&self) -> usize {
        self.len
    }

    fn reserve(&mut self, need: usize) {
        if need <= self.ring.len() {
            return;
        }
        let capacity = need.next_power_of_two().max(FIRST_CAPACITY);
        let mut ring = Vec::with_capacity(capacity);
        let (a, b) = self.pieces(0, self.len);
        ring.extend_from_slice(a);
        ring.extend_from_slice(b);
        ring.resize(capacity, 0);
        self.ring = ring;
        self.head = 0;
    }

    /// Takes bytes in until `limit` are held; returns how many, and true if it stopped at user memory that
    /// is not present.
    pub fn fill(&mut self, from: &mut In<'_>, limit: usize) -> (usize, bool) {
        let want = limit.saturating_sub(self.len).min(from.remaining());
        if want == 0 {
            return (0, false);
        }
        self.reserve(self.len + want);
        let mask = self.ring.len() - 1;
        let start = (self.head + self.len) & mask;
        let first = want.min(self.ring.len() - start);
        let mut got = from.try_read(&mut self.ring[start..start + first]);
        if got == first && want > first {
            got += from.try_read(&mut self.ring[..want - first]);
        }
        self.len += got;
        (got, got < want)
    }

    /// `n` bytes from `offset` on, as at most two pieces; cut to what there is.
    #[inline]
    pub fn pieces(&self, offset: usize, n: usize) -> (&[u8], &[u8]) {
        let offset = offset.min(self.len);
        let n = n.min(self.len - offset);
        if n == 0 {
            return (&[], &[]);
        }
        let start = (self.head + offset) & (self.ring.len() - 1);
        let first = n.min(self.ring.len() - start);
        (&self.ring[start..start + first], &self.ring[..n - first])
    }

    /// Drops the first `n` bytes: they were acknowledged.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.len -= n;
        if self.len == 0 {
            self.head = 0;
        } else {
            self.head = (self.head + n) & (self.ring.len() - 1);
        }
    }

    /// Gives memory back if nothing is held.
    pub fn shrink(&mut self) {
        if self.len == 0 && self.ring.len() > KEEP_CAPACITY {
            self.ring = Vec::new();
            self.head = 0;
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

fn memory(buf: &NetBuf) -> usize {
    buf.headroom() + buf.len() + buf.tailroom() + size_of::<NetBuf>()
}

/// Received bytes in order.
#[derive(Default)]
pub(crate) struct RecvQueue {
    parts: VecDeque<NetBuf>,
    len: usize,
    memory: usize,
}

/// A payload up to this size is copied behind the last one if it fits there, so that many small segments do
/// not each hold a big buffer.
const COALESCE: usize = 512;

impl RecvQueue {
    /// Bytes held.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }
    /// Memory held, buffers' unused room included.
    #[inline]
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Appends a packet's payload.
    pub fn push(&mut self, mut buf: NetBuf) {
        if !buf.more.is_empty() {
            let more = core::mem::take(&mut buf.more);
            self.push_one(buf);
            for part in more {
                self.push_one(part);
            }
        } else {
            self.push_one(buf);
        }
    }

    #[inline]
    fn push_one(&mut self, buf: NetBuf) {
        let n = buf.len();
        if n == 0 {
            return;
        }
        self.len += n;
        if n <= COALESCE
            && let Some(last) = self.parts.back_mut()
            && last.tailroom() >= n
        {
            let old = last.len();
            last.set_len(old + n);
            last.bytes_mut()[old..].copy_from_slice(buf.bytes());
            return;
        }
        self.memory += memory(&buf);
        self.parts.push_back(buf);
    }

    /// Moves up to `max` bytes to `to`; true if it stopped at user memory that is not present.
    pub fn read(&mut self, to: &mut Out<'_>, max: usize) -> (usize, bool) {
        let mut left = max.min(self.len).min(to.remaining());
        let mut moved = 0;
        while left > 0
            && let Some(part) = self.parts.front_mut()
        {
            let n = part.len().min(left);
            let got = to.try_write(&part.bytes()[..n]);
            moved += got;
            left -= got;
            self.len -= got;
            if got == part.len() {
                self.memory -= memory(part);
                self.parts.pop_front();
            } else {
                part.pull_front(got);
            }
            if got < n {
                return (moved, true);
            }
        }
        (moved, false)
    }

    /// As [`Self::read`], from `offset` on and leaving everything there.
    pub fn peek(&self, to: &mut Out<'_>, mut offset: usize, max: usize) -> (usize, bool) {
        let mut left = max.min(to.remaining());
        let mut moved = 0;
        for part in &self.parts {
            if left == 0 {
                break;
            }
            if offset >= part.len() {
                offset -= part.len();
                continue;
            }
            let n = (part.len() - offset).min(left);
            let got = to.try_write(&part.bytes()[offset..offset + n]);
            offset = 0;
            moved += got;
            left -= got;
            if got < n {
                return (moved, true);
            }
        }
        (moved, false)
    }

    /// Drops up to `max` bytes unread.
    pub fn skip(&mut self, max: usize) -> usize {
        let mut left = max;
        while left > 0
            && let Some(part) = self.parts.front_mut()
        {
            let n = part.len().min(left);
            left -= n;
            self.len -= n;
            if n == part.len() {
                self.memory -= memory(part);
                self.parts.pop_front();
            } else {
                part.pull_front(n);
            }
        }
        max - left
    }

    /// Gives back the queue's own memory if nothing is held.
    pub fn shrink(&mut self) {
        if self.parts.is_empty() {
            self.parts = VecDeque::new();
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Packets beyond a gap, ordered by sequence number. They may overlap.
#[derive(Default)]
pub(crate) struct Reorder {
    parts: Vec<(u32, u32, NetBuf)>,
    memory: usize,
    /// Where the last packet came in: its block is reported first.
    last: u32,
}

const MAX_REORDER: usize = 512;

impl Reorder {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Keeps a packet of `len` payload bytes at `seq`, unless there is no room or it brings nothing.
    pub fn insert(&mut self, seq: u32, len: u32, buf: NetBuf, limit: usize) {
        let size = memory(&buf) + buf.more.iter().map(memory).sum::<usize>();
        if self.parts.len() >= MAX_REORDER || self.memory + size > limit || len == 0 {
            return;
        }
        self.last = seq;
        let end = seq.wrapping_add(len);
        let at = self.parts.partition_point(|(s, _, _)| !before(seq, *s));
        if at > 0 {
            let (s, l, _) = &self.parts[at - 1];
            if !before(s.wrapping_add(*l), end) {
                return; // covered
            }
        }
        self.memory += size;
        self.parts.insert(at, (seq, len, buf));
    }

    /// Takes the packet that continues at `next`, if there is one: its sequence number, length, buffer.
    pub fn take(&mut self, next: u32) -> Option<(u32, u32, NetBuf)> {
        loop {
            let (seq, len, _) = self.parts.first()?;
            if before(next, *seq) {
                return None;
            }
            let useless = !before(next, seq.wrapping_add(*len));
            let part = self.parts.remove(0);
            let size = memory(&part.2) + part.2.more.iter().map(memory).sum::<usize>();
            self.memory -= size;
            if self.parts.is_empty() {
                self.parts = Vec::new();
            }
            if !useless {
                return Some(part);
            }
        }
    }

    /// The blocks held, the latest first (RFC 2018, 4).
    pub fn blocks(&self) -> ([(u32, u32); MAX_SACKS], usize) {
        let mut blocks = [(0, 0); MAX_SACKS];
        let mut count = 0;
        let mut add = |block: (u32, u32)| {
            let latest = !before(self.last, block.0) && before(self.last, block.1);
            if latest && count > 0 {
                if count < MAX_SACKS {
                    blocks[count] = blocks[0];
                    count += 1;
                } else {
                    blocks[MAX_SACKS - 1] = blocks[0];
                }
                blocks[0] = block;
            } else if count < MAX_SACKS {
                blocks[count] = block;
                count += 1;
            }
        };
        let mut current: Option<(u32, u32)> = None;
        for (seq, len, _) in &self.parts {
            let end = seq.wrapping_add(*len);
            match &mut current {
                Some((_, e)) if !before(*e, *seq) => {
                    if before(*e, end) {
                        *e = end;
                    }
                }
                _ => {
                    if let Some(block) = current.replace((*seq, end)) {
                        add(block);
                    }
                }
            }
        }
        if let Some(block) = current {
            add(block);
        }
        (blocks, count)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Drops `n` bytes from the front of a packet over all of its buffers.
pub(crate) fn pull(buf: &mut NetBuf, mut n: usize) {
    let first = n.min(buf.len());
    buf.pull_front(first);
    n -= first;
    for part in &mut buf.more {
        if n == 0 {
            break;
        }
        let k = n.min(part.len());
        part.pull_front(k);
        n -= k;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(bytes: &[u8]) -> NetBuf {
        let mut b = NetBuf::new(bytes.len());
        b.set_len(bytes.len());
        b.bytes_mut().copy_from_slice(bytes);
        b
    }

    #[test]
    fn ring_wraps_and_grows() {
        let mut ring = SendBuf::default();
        let data: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        assert_eq!(ring.fill(&mut In::kernel(&data[..1500]), 4096), (1500, false));
        ring.consume(1000);
        assert_eq!(ring.fill(&mut In::kernel(&data[1500..3000]), 4096), (1500, false));
        assert_eq!(ring.ring.len(), 2048);
        let (a, b) = ring.pieces(100, 1800);
        assert_eq!([a, b].concat(), &data[1100..2900]);
        assert!(!b.is_empty());
        assert_eq!(ring.fill(&mut In::kernel(&data[3000..9000]), 4096), (2096, false));
        let (a, b) = ring.pieces(0, 9999);
        assert_eq!([a, b].concat(), &data[1000..5096]);
        ring.consume(4096);
        ring.shrink();
        assert_eq!(ring.len(), 0);
    }

    #[test]
    fn queue_joins_small_packets_and_reads_across() {
        let mut q = RecvQueue::default();
        let mut first = NetBuf::new(2000);
        first.set_len(3);
        first.bytes_mut().copy_from_slice(b"abc");
        q.push(first);
        q.push(packet(b"def"));
        let mut big = packet(b"ghi");
        big.more.push(packet(&[7; 600]));
        q.push(big);
        assert_eq!((q.len(), q.parts.len()), (609, 2));
        let mut to = [0; 5];
        assert_eq!(q.peek(&mut Out::kernel(&mut to), 2, 9), (5, false));
        assert_eq!(&to, b"cdefg");
        assert_eq!(q.read(&mut Out::kernel(&mut to), 4), (4, false));
        assert_eq!(q.skip(5), 5);
        let mut rest = [0; 700];
        assert_eq!(q.read(&mut Out::kernel(&mut rest), 700), (600, false));
        assert_eq!((q.len(), q.memory()), (0, 0));
    }

    #[test]
    fn reorder_reports_blocks_latest_first() {
        let mut r = Reorder::default();
        let base = u32::MAX - 10;
        for (offset, len) in [(20u32, 5u32), (40, 5), (25, 5), (60, 5), (41, 2)] {
            r.insert(base.wrapping_add(offset), len, packet(&[0; 5]), 1 << 20);
        }
        let (blocks, n) = r.blocks();
        let relative: Vec<_> = blocks[..n].iter().map(|(a, b)| (a.wrapping_sub(base), b.wrapping_sub(base))).collect();
        assert_eq!(relative, [(40, 45), (20, 30), (60, 65)]);
        assert!(r.take(base.wrapping_add(19)).is_none());
        assert_eq!(r.take(base.wrapping_add(20)).unwrap().1, 5);
        assert_eq!(r.take(base.wrapping_add(100)).map(|p| p.0), None);
        assert!(r.is_empty() && r.memory() == 0);
    }
}
