//! The way of a packet in: frames, IP packets, the classifier that hands them to connections and protocols.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hal_core::device::NetBuf;

use crate::interface::{Interface, count};
use crate::packet::{self, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Meta, protocol};
use crate::stack::{Stack, Tx};
use crate::{arp, checksum, icmp};

impl Stack {
    /// Takes a batch of received Ethernet frames and leaves the vector empty, its memory kept.
    pub fn input(self: &Arc<Self>, interface: &Arc<Interface>, batch: &mut Vec<NetBuf>) {
        let now = self.env().now_ns();
        let mut tx = Tx::new();
        for frame in batch.drain(..) {
            self.frame(interface, frame, now, &mut tx);
        }
        self.finish(&mut tx, now);
    }

    fn frame(self: &Arc<Self>, interface: &Arc<Interface>, mut buf: NetBuf, now: u64, tx: &mut Tx) {
        count(&interface.counters.rx_packets, 1);
        count(&interface.counters.rx_bytes, packet::total_len(&buf) as u64);
        let Some(h) = buf.bytes().first_chunk::<ETHERNET_LEN>() else {
            count(&interface.counters.rx_errors, 1);
            return;
        };
        let kind = u16::from_be_bytes([h[12], h[13]]);
        let for_us = h[0] & 1 != 0 || h[..6] == interface.caps.mac;
        buf.pull_front(ETHERNET_LEN);
        if !for_us || !interface.is_up() {
            count(&interface.counters.rx_dropped, 1);
            return;
        }
        match kind {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => self.ip_input(interface, buf, now, tx),
            ETHERTYPE_ARP => arp::input(self, interface, &buf, now, tx),
            _ => count(&interface.counters.rx_dropped, 1),
        }
    }

    pub(crate) fn ip_input(self: &Arc<Self>, interface: &Arc<Interface>, mut buf: NetBuf, now: u64, tx: &mut Tx) {
        let Some((meta, fragment)) = packet::parse_ip(&mut buf, interface.index) else {
            count(&interface.counters.rx_errors, 1);
            return;
        };
        if !interface.is_loopback() && (meta.src.is_loopback() || meta.dst.is_loopback()) {
            count(&interface.counters.rx_dropped, 1); // martians
            return;
        }
        if let Some(fragment) = fragment {
            if let Some((meta, whole)) = self.reassembly.insert(meta, fragment, buf, now) {
                self.transport(interface, meta, whole, now, tx);
            }
            return;
        }
        self.transport(interface, meta, buf, now, tx);
    }

    fn transport(self: &Arc<Self>, interface: &Arc<Interface>, meta: Meta, mut buf: NetBuf, now: u64, tx: &mut Tx) {
        match meta.protocol {
            protocol::TCP => self.tcp_input(interface, &meta, buf, now, tx),
            protocol::UDP => self.udp_input(interface, &meta, buf, now, tx),
            protocol::ICMP if meta.dst.is_v4() => icmp::input_v4(self, interface, &meta, &buf, now, tx),
            protocol::ICMPV6 if !meta.dst.is_v4() => {
                if self.is_local(meta.dst) || interface.in_group(meta.dst) {
                    icmp::input_v6(self, interface, &meta, &buf, now, tx);
                }
            }
            _ => {
                count(&interface.counters.rx_dropped, 1);
                icmp::protocol_unreachable(self, interface, &meta, &mut buf, now, tx);
            }
        }
    }
}

/// True if the transport checksum over the pseudo-header is right, or known to be.
pub(crate) fn checksum_good(meta: &Meta, buf: &NetBuf) -> bool {
    if meta.valid {
        return true;
    }
    let pseudo = checksum::pseudo(meta.src, meta.dst, meta.protocol);
    let sum = packet::sum(buf, checksum::add_len(pseudo, packet::total_len(buf)));
    checksum::fold(sum) == 0xffff
}
