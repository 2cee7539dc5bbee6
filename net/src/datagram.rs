//! What UDP, raw and packet sockets share: a bounded queue of received packets.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use base::io::Out;
use base::{Errno, Result};
use hal_core::device::NetBuf;

use crate::addr::{Endpoint, Ip};
use crate::packet;

/// A received packet and what the control messages of `recvmsg` tell about it.
pub struct Received {
    /// Sender.
    pub from: Endpoint,
    /// Destination address in the packet.
    pub to: Ip,
    /// Interface index.
    pub interface: u32,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// When it came, monotonic ns.
    pub time: u64,
    /// Ethernet type, and the kind as `sll_pkttype` has it (packet sockets).
    pub link: (u16, u8),
    /// Sender's hardware address (packet sockets).
    pub mac: [u8; 6],
    data: NetBuf,
}

impl Received {
    pub(crate) fn new(from: Endpoint, meta: &packet::Meta, time: u64, data: NetBuf) -> Self {
        Self {
            from,
            to: meta.dst,
            interface: meta.interface,
            ttl: meta.ttl,
            tos: meta.tos,
            time,
            link: (0, 0),
            mac: [0; 6],
            data,
        }
    }

    /// Bytes of payload.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        packet::total_len(&self.data)
    }

    /// Copies as much as fits to `to`; may sleep. Returns the bytes moved.
    pub fn copy(&self, to: &mut Out<'_>) -> Result<usize> {
        let mut moved = 0;
        for bytes in core::iter::once(self.data.bytes()).chain(self.data.more.iter().map(NetBuf::bytes)) {
            let mut at = 0;
            while at < bytes.len() && to.remaining() > 0 {
                at += to.write(&bytes[at..])?;
            }
            moved += at;
        }
        Ok(moved)
    }

    fn memory(&self) -> usize {
        let one = |b: &NetBuf| b.headroom() + b.len() + b.tailroom();
        size_of::<Self>() + one(&self.data) + self.data.more.iter().map(one).sum::<usize>()
    }
}

/// Packets that wait to be read.
pub(crate) struct Queue {
    items: VecDeque<Arc<Received>>,
    memory: usize,
    bytes: usize,
    /// SO_RCVBUF.
    pub limit: usize,
    pub dropped: u64,
}

/// Linux's rmem_default.
pub(crate) const DEFAULT_LIMIT: usize = 212_992;

impl Queue {
    pub fn new() -> Self {
        Self { items: VecDeque::new(), memory: 0, bytes: 0, limit: DEFAULT_LIMIT, dropped: 0 }
    }

    /// False if there is no room.
    pub fn push(&mut self, item: Received) -> bool {
        let memory = item.memory();
        // Driver buffers are bigger than small packets: allow for that, as the limit is the application's.
        if self.bytes + item.len() > self.limit || self.memory + memory > 4 * self.limit.max(65536) {
            self.dropped += 1;
            return false;
        }
        self.memory += memory;
        self.bytes += item.len();
        self.items.push_back(Arc::new(item));
        true
    }

    pub fn pop(&mut self, peek: bool) -> Result<Arc<Received>> {
        if peek {
            return self.items.front().cloned().ok_or(Errno::EAGAIN);
        }
        let item = self.items.pop_front().ok_or(Errno::EAGAIN)?;
        self.memory -= item.memory();
        self.bytes -= item.len();
        Ok(item)
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of the first packet.
    pub fn first_len(&self) -> usize {
        self.items.front().map_or(0, |i| i.len())
    }

    pub fn clear(&mut self) {
        self.items.clear();
        self.memory = 0;
        self.bytes = 0;
    }
}

/// Copies a packet, its buffers joined, with room for headers in front.
pub(crate) fn duplicate(buf: &NetBuf) -> NetBuf {
    let mut copy = NetBuf::new(packet::total_len(buf));
    copy.set_len(packet::total_len(buf));
    let mut at = 0;
    for bytes in core::iter::once(buf.bytes()).chain(buf.more.iter().map(NetBuf::bytes)) {
        copy.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    }
    copy.offload = buf.offload;
    copy
}
