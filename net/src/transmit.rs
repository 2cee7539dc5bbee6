//! The way of a packet out: IP headers, fragments, the neighbour, the frame.

use alloc::sync::Arc;

use hal_core::device::{NetBuf, Offload};

use crate::addr::Ip;
use crate::fragment;
use crate::interface::{Interface, count};
use crate::neighbour::Resolution;
use crate::packet::{self, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4How};
use crate::stack::{Hop, Stack, Tx};
use crate::{arp, ndp};

/// The fields of an IP header to send.
#[derive(Clone, Copy)]
pub(crate) struct SendIp {
    pub src: Ip,
    pub dst: Ip,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    pub dont_fragment: bool,
}

impl Stack {
    /// Queues a whole frame.
    #[inline]
    pub(crate) fn push_frame(&self, interface: &Interface, buf: NetBuf, tx: &mut Tx) {
        count(&interface.counters.tx_packets, 1);
        count(&interface.counters.tx_bytes, buf.len() as u64);
        if let Some(device) = &interface.device {
            device.push(buf);
            tx.dirty |= 1 << (interface.index - 1);
        }
    }

    /// Puts the Ethernet header before a packet and queues it.
    pub(crate) fn push_with_header(&self, interface: &Interface, to: [u8; 6], kind: u16, mut buf: NetBuf, tx: &mut Tx) {
        let checksum = buf.offload.checksum.map(|(at, field)| (at + ETHERNET_LEN as u16, field));
        buf.offload.checksum = checksum;
        if let Some(cut) = &mut buf.offload.segment {
            cut.header_len += ETHERNET_LEN as u16;
        }
        let Some(h) = buf.push_front(ETHERNET_LEN) else {
            count(&interface.counters.tx_dropped, 1);
            return;
        };
        h[..6].copy_from_slice(&to);
        h[6..12].copy_from_slice(&interface.caps.mac);
        h[12..].copy_from_slice(&kind.to_be_bytes());
        self.push_frame(interface, buf, tx);
    }

    /// Sends an IP packet (headers written, no link header) to a neighbour.
    pub(crate) fn send_packet(&self, interface: &Arc<Interface>, next: Ip, buf: NetBuf, now: u64, tx: &mut Tx) {
        if interface.is_loopback() {
            count(&interface.counters.tx_packets, 1);
            count(&interface.counters.tx_bytes, buf.len() as u64);
            tx.local.push_back(buf);
            return;
        }
        let kind = if next.is_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        if next.is_multicast() {
            return self.push_with_header(interface, next.multicast_mac(), kind, buf, tx);
        }
        if next.is_v4() && interface.is_broadcast(next) {
            return self.push_with_header(interface, [0xff; 6], kind, buf, tx);
        }
        match interface.neighbours.resolve(next, buf, now) {
            Resolution::Known(mac, buf) => self.push_with_header(interface, mac, kind, buf, tx),
            Resolution::Wait => {}
            Resolution::Ask => {
                self.ask(interface, next, None, now, tx);
                self.timers().set(self.env(), interface, now + 1_000_000_000);
            }
        }
    }

    pub(crate) fn ask(&self, interface: &Arc<Interface>, ip: Ip, to: Option<[u8; 6]>, now: u64, tx: &mut Tx) {
        if ip.is_v4() {
            arp::request(self, interface, ip, to, tx);
        } else {
            ndp::solicit(self, interface, ip, to.is_some(), now, tx);
        }
    }

    /// Takes news of a neighbour and sends what waited for it.
    pub(crate) fn learn(&self, interface: &Arc<Interface>, ip: Ip, mac: [u8; 6], create: bool, now: u64, tx: &mut Tx) {
        let (waiting, changed) = interface.neighbours.learn(ip, mac, create, now);
        let kind = if ip.is_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        for buf in waiting {
            self.push_with_header(interface, mac, kind, buf, tx);
        }
        if changed {
            self.bump();
            self.timers().set(self.env(), interface, now + 30_000_000_000);
        }
    }

    /// Writes the IP header before a transport packet and sends it, in fragments if it is too big. There is room
    /// in front for the header.
    pub(crate) fn send_ip(&self, hop: &Hop, how: SendIp, buf: NetBuf, now: u64, tx: &mut Tx) {
        let header = if how.dst.is_v4() { 20 } else { 40 };
        let mtu = hop.interface.mtu(how.dst.is_v4());
        if header + buf.len() > mtu && !hop.interface.is_loopback() {
            return self.send_fragments(hop, how, &buf, mtu, now, tx);
        }
        let how_v4 = Ipv4How {
            ttl: how.ttl,
            tos: how.tos,
            id: if how.dont_fragment { 0 } else { self.next_ip_id() },
            flags: if how.dont_fragment { 0x4000 } else { 0 },
        };
        self.send_with_header(hop, how, how_v4, buf, now, tx);
    }

    fn send_with_header(&self, hop: &Hop, how: SendIp, v4: Ipv4How, mut buf: NetBuf, now: u64, tx: &mut Tx) {
        let Some(buf) = with_header(how, v4, &mut buf).then_some(buf) else {
            count(&hop.interface.counters.tx_dropped, 1);
            return;
        };
        self.send_packet(&hop.interface, hop.next, buf, now, tx);
    }

    #[cold]
    fn send_fragments(&self, hop: &Hop, how: SendIp, buf: &NetBuf, mtu: usize, now: u64, tx: &mut Tx) {
        let v4 = how.dst.is_v4();
        let room = mtu.saturating_sub(if v4 { 20 } else { 48 });
        let id = self.next_ip_id();
        for (offset, piece, more) in fragment::cut(buf.bytes(), room) {
            let extra = if v4 { 0 } else { 8 };
            let mut part = NetBuf::new(extra + piece.len());
            part.set_len(extra + piece.len());
            part.bytes_mut()[extra..].copy_from_slice(piece);
            let mut how = how;
            if !v4 {
                let place = offset as u16 | u16::from(more);
                let h = part.bytes_mut();
                h[0] = how.protocol;
                h[2..4].copy_from_slice(&place.to_be_bytes());
                h[6..8].copy_from_slice(&id.to_be_bytes());
                how.protocol = 44;
            }
            let flags = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            let how_v4 = Ipv4How { ttl: how.ttl, tos: how.tos, id, flags };
            self.send_with_header(hop, how, how_v4, part, now, tx);
        }
    }

    /// Delivers a copy of a multicast or broadcast packet to this machine, as if it came in on `interface`.
    pub(crate) fn loop_back(
        self: &Arc<Self>,
        interface: &Arc<Interface>,
        how: SendIp,
        mut buf: NetBuf,
        now: u64,
        tx: &mut Tx,
    ) {
        let v4 = Ipv4How { ttl: how.ttl, tos: how.tos, id: 0, flags: 0 };
        if with_header(how, v4, &mut buf) {
            buf.offload = Offload { checksum_valid: true, ..Offload::default() };
            self.ip_input(interface, buf, now, tx);
        }
    }

    /// Enters a multicast group on an interface.
    pub(crate) fn join_group(&self, interface: &Interface, group: Ip) {
        interface.join(group);
    }

    /// Leaves a multicast group.
    pub(crate) fn leave_group(&self, interface: &Interface, group: Ip) {
        interface.leave(group);
    }
}

fn with_header(how: SendIp, v4: Ipv4How, buf: &mut NetBuf) -> bool {
    let payload = buf.len();
    let header = if how.dst.is_v4() { 20 } else { 40 };
    buf.offload.checksum = buf.offload.checksum.map(|(at, field)| (at + header as u16, field));
    let Some(h) = buf.push_front(header) else {
        return false;
    };
    if how.dst.is_v4() {
        packet::write_v4(h, how.src, how.dst, how.protocol, payload, v4)
    } else {
        packet::write_v6(h, how.src, how.dst, how.protocol, payload, how.ttl, how.tos)
    }
}
