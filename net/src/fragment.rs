//! IP fragments: putting received ones together within limits, cutting what is too big for the link.
//!
//! Overlapping fragments end their packet (RFC 5722): no honest sender makes them.

use alloc::vec::Vec;

use base::SpinLock;
use hal_core::device::NetBuf;

use crate::addr::Ip;
use crate::packet::{Fragment, Meta, total_len};

/// Most packets in pieces at a time, bytes of all of them, and how long one may take.
const MAX_PACKETS: usize = 64;
const MAX_BYTES: usize = 1 << 20;
const MAX_PIECES: usize = 128;
const TIMEOUT: u64 = 30_000_000_000;

struct Partial {
    key: (Ip, Ip, u32, u8),
    since: u64,
    /// Offset and piece, ordered.
    pieces: Vec<(u32, NetBuf)>,
    bytes: usize,
    /// Length of the whole, once the last piece is there.
    total: Option<u32>,
    meta: Meta,
}

pub(crate) struct Reassembly(SpinLock<Vec<Partial>>);

impl Reassembly {
    pub const fn new() -> Self {
        Self(SpinLock::new(Vec::new()))
    }

    /// Takes a fragment (at its payload); returns the packet if this completed it.
    pub fn insert(&self, meta: Meta, at: Fragment, buf: NetBuf, now: u64) -> Option<(Meta, NetBuf)> {
        let len = total_len(&buf) as u32;
        let end = at.offset + len;
        if len == 0 || end > 65535 || at.more && !len.is_multiple_of(8) {
            return None;
        }
        let key = (meta.src, meta.dst, at.id, meta.protocol);
        let mut list = self.0.lock();
        list.retain(|p| now.saturating_sub(p.since) < TIMEOUT);
        let total: usize = list.iter().map(|p| p.bytes).sum();
        if total + len as usize > MAX_BYTES && !list.is_empty() {
            list.remove(0);
        }
        let index = match list.iter().position(|p| p.key == key) {
            Some(i) => i,
            None => {
                if list.len() >= MAX_PACKETS {
                    list.remove(0);
                }
                list.push(Partial { key, since: now, pieces: Vec::new(), bytes: 0, total: None, meta });
                list.len() - 1
            }
        };
        let p = &mut list[index];
        let place = p.pieces.partition_point(|(o, _)| *o < at.offset);
        let before = place.checked_sub(1).map(|i| &p.pieces[i]);
        if let Some((o, b)) = p.pieces.get(place)
            && *o == at.offset
            && total_len(b) as u32 == len
        {
            return None; // the same piece again
        }
        let clash = before.is_some_and(|(o, b)| o + total_len(b) as u32 > at.offset)
            || p.pieces.get(place).is_some_and(|(o, _)| end > *o)
            || p.total.is_some_and(|t| end > t || !at.more && end != t)
            || p.pieces.len() >= MAX_PIECES;
        if clash {
            list.remove(index);
            return None;
        }
        if !at.more {
            if p.pieces.last().is_some_and(|(o, b)| o + total_len(b) as u32 > end) {
                list.remove(index);
                return None;
            }
            p.total = Some(end);
        }
        if at.offset == 0 {
            p.meta = meta;
        }
        p.bytes += len as usize;
        p.pieces.insert(place, (at.offset, buf));
        if p.total != Some(p.bytes as u32) {
            return None;
        }
        let done = list.swap_remove(index);
        drop(list);
        let header = usize::from(done.meta.header_len);
        let mut whole = NetBuf::new(header + done.bytes);
        whole.set_len(header + done.bytes);
        whole.pull_front(header);
        for (offset, piece) in &done.pieces {
            let mut at = *offset as usize;
            for bytes in core::iter::once(piece.bytes()).chain(piece.more.iter().map(NetBuf::bytes)) {
                whole.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
                at += bytes.len();
            }
        }
        let mut meta = done.meta;
        meta.valid = false; // what the device checked was each piece
        Some((meta, whole))
    }
}

/// Cuts a transport packet into pieces for `mtu`: each with its offset and whether more follow.
pub(crate) fn cut(payload: &[u8], room: usize) -> impl Iterator<Item = (usize, &[u8], bool)> {
    let size = room / 8 * 8;
    let count = payload.len().div_ceil(size.max(8));
    payload.chunks(size.max(8)).enumerate().map(move |(i, piece)| (i * size.max(8), piece, i + 1 < count))
}
