//! Sending: a ring of extended descriptors (8254x manual, sections 3.3.6 and 3.3.7). A context descriptor says where
//! checksums and headers are, and holds until the next one; a packet is one data descriptor or more. Sent packets are freed
//! when the next ones are sent; the device interrupts only after the ring was full.

use alloc::collections::VecDeque;
use core::sync::atomic::{Ordering, fence};

use driver_kit::{DmaArea, Io};
use hal_core::Result;
use hal_core::device::{NetBuf, Offload};
use hal_core::memory::phys_of;

use crate::header;
use crate::registers::*;

/// Descriptors; a power of two.
pub(crate) const RING: u32 = 256;
/// Most bytes of a data descriptor (section 3.3.3's limit is 16288).
const PIECE: usize = 16 * 1024 - 128;
/// Packets of more pieces are copied together.
const MAX_PIECES: usize = 32;

const AT_STATUS: usize = 12;

/// A context: where the checksums go, and how to cut. All zeroes is none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Context {
    /// First and second word: the IP header's and the TCP or UDP header's places.
    pub ip: u32,
    /// See `ip`.
    pub transport: u32,
    /// Third word: payload, type, commands.
    pub command: u32,
    /// Fourth word: header length, segment size.
    pub cut: u32,
}

/// The sender.
pub(crate) struct Tx {
    ring: DmaArea,
    /// Descriptors written, shown to the device, and done, since the start.
    head: u32,
    shown: u32,
    done: u32,
    /// Packets with the device, and the count behind their last descriptor.
    packets: VecDeque<(u32, NetBuf)>,
    context: Context,
    checksum: bool,
    tso: bool,
}

impl Tx {
    /// An empty ring, which the device gets by [`Tx::start`].
    pub fn new(checksum: bool, tso: bool) -> Result<Self> {
        Ok(Self {
            ring: DmaArea::new(RING as usize * DESCRIPTOR)?,
            head: 0,
            shown: 0,
            done: 0,
            packets: VecDeque::with_capacity(RING as usize),
            context: Context::default(),
            checksum,
            tso,
        })
    }

    /// Hands the ring to the device.
    pub fn start(&self, io: &dyn Io) {
        let at = self.ring.phys(0).0;
        io.write(TDBAL, at as u32);
        io.write(TDBAH, (at >> 32) as u32);
        io.write(TDLEN, RING * DESCRIPTOR as u32);
        io.write(TDH, 0);
        io.write(TDT, 0);
    }

    fn place(&self, count: u32) -> usize {
        (count % RING) as usize * DESCRIPTOR
    }

    /// Descriptors that may be written; one stays free, since a full ring looks like an empty one.
    fn room(&self) -> usize {
        (RING - 1 - (self.head.wrapping_sub(self.done))) as usize
    }

    /// Frees what was sent.
    #[inline]
    pub fn reap(&mut self) {
        while let Some((end, _)) = self.packets.front() {
            let last = self.place(end.wrapping_sub(1));
            // What is written but not shown yet cannot be done, whatever the device says.
            if self.shown.wrapping_sub(*end) > RING || self.ring.byte(last + AT_STATUS) & TX_DD == 0 {
                return;
            }
            fence(Ordering::Acquire);
            self.done = *end;
            self.packets.pop_front();
        }
    }

    /// Queues from the front of `packets` what fits and tells the device once. `wait` asks for an interrupt when
    /// something was sent.
    pub fn send(&mut self, io: &dyn Io, packets: &mut VecDeque<NetBuf>, wait: impl Fn()) {
        // Freeing late is cheap, but the packets of a long pause shall not stay: the ring half full is the time.
        if self.room() < RING as usize / 2 {
            self.reap();
        }
        while let Some(packet) = packets.pop_front() {
            if !self.allowed(&packet) {
                continue;
            }
            let packet = if pieces(&packet) > MAX_PIECES { joined(packet) } else { packet };
            // The context is one more.
            let needed = pieces(&packet) + 1;
            if self.room() < needed && !self.make_room(io, needed, &wait) {
                packets.push_front(packet);
                break;
            }
            self.add(packet);
        }
        self.show(io);
    }

    fn show(&mut self, io: &dyn Io) {
        if self.shown != self.head {
            self.shown = self.head;
            fence(Ordering::Release);
            io.write(TDT, self.head % RING);
        }
    }

    /// Asks only for what the device can do; a packet that asks for more is the stack's mistake and is dropped.
    #[inline]
    fn allowed(&self, packet: &NetBuf) -> bool {
        (packet.offload.segment.is_none_or(|s| self.tso && !s.ipv6))
            && (packet.offload.checksum.is_none() || self.checksum)
            && !packet.is_empty()
    }

    /// The ring is full: frees what was sent, else asks for an interrupt. True if there is room now.
    #[cold]
    fn make_room(&mut self, io: &dyn Io, needed: usize, wait: &impl Fn()) -> bool {
        self.show(io);
        self.reap();
        if self.room() < needed {
            wait();
            // It may have sent something between the look and the wish.
            self.reap();
        }
        self.room() >= needed
    }

    /// Puts a packet, for which there is room, on the ring.
    fn add(&mut self, mut packet: NetBuf) {
        let Some((context, options)) = context_of(&mut packet) else {
            return;
        };
        let offloaded = context != Context::default();
        // The device counts a cut packet down in its context: each has its own.
        let stale = context != self.context || context.command & TX_TSE != 0;
        if offloaded && stale {
            let at = self.place(self.head);
            self.ring.put(at, [context.ip, context.transport, context.command, context.cut]);
            self.head = self.head.wrapping_add(1);
            self.context = context;
        }
        let cut = if context.command & TX_TSE != 0 { TX_TSE } else { 0 };
        let mut last = 0;
        for part in core::iter::once(&packet).chain(&packet.more) {
            for piece in part.bytes().chunks(PIECE) {
                last = self.place(self.head);
                self.ring.put(last, phys_of(piece.as_ptr()).0);
                self.ring.put(last + 8, [piece.len() as u32 | TX_DATA | TX_DEXT | TX_IFCS | cut, options]);
                self.head = self.head.wrapping_add(1);
            }
        }
        let size = self.ring_word(last + 8);
        self.ring.put(last + 8, size | TX_EOP | TX_RS);
        self.packets.push_back((self.head, packet));
    }

    fn ring_word(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        self.ring.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }
}

/// Data descriptors that a packet needs.
fn pieces(packet: &NetBuf) -> usize {
    core::iter::once(packet).chain(&packet.more).map(|part| part.len().div_ceil(PIECE)).sum()
}

/// The context and the options that a packet's offload needs; `None` if its headers make no sense.
fn context_of(packet: &mut NetBuf) -> Option<(Context, u32)> {
    let Offload { checksum, segment, .. } = packet.offload;
    if let Some(cut) = segment {
        return Some((header::segmentation(packet, checksum?, cut)?, TX_TXSM | TX_IXSM));
    }
    let Some((start, field)) = checksum else {
        return Some((Context::default(), 0));
    };
    let transport = u32::from(u8::try_from(start).ok()?);
    let at = u32::from(u8::try_from(start.checked_add(field)?).ok()?);
    // An end of 0 is the packet's.
    Some((Context { ip: 0, transport: transport | at << 8, command: TX_DEXT, cut: 0 }, TX_TXSM))
}

/// The packet in one buffer.
#[cold]
fn joined(packet: NetBuf) -> NetBuf {
    let total = packet.len() + packet.more.iter().map(NetBuf::len).sum::<usize>();
    let mut whole = NetBuf::new(total);
    whole.set_len(total);
    whole.offload = packet.offload;
    let mut at = 0;
    for part in core::iter::once(&packet).chain(&packet.more) {
        whole.bytes_mut()[at..at + part.len()].copy_from_slice(part.bytes());
        at += part.len();
    }
    whole
}
