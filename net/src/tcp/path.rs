//! The way to a connection's peer: interface, next hop, and the headers before TCP's, ready to be copied.
//! Built anew when the stack's epoch says that a route, an address or a neighbour has changed.

use alloc::sync::Arc;

use base::Result;

use crate::addr::{FlowKey, Ip};
use crate::checksum;
use crate::interface::Interface;
use crate::packet::{self, ETHERNET_LEN, Ipv4How, protocol};
use crate::stack::Stack;

/// Ethernet and IPv6.
const MAX_HEADER: usize = ETHERNET_LEN + 40;

pub(crate) struct Path {
    epoch: u64,
    pub interface: Arc<Interface>,
    /// Who gets the frame.
    pub next: Ip,
    header: [u8; MAX_HEADER],
    header_len: u8,
    /// The link header is in front; else there is none, or the neighbour is not known yet.
    pub linked: bool,
    /// Sum of the IPv4 header without length and checksum.
    ip_sum: u64,
    /// Sum of the pseudo-header without the length.
    pub pseudo: u64,
    /// Path MTU as routers told, if they did.
    pub mtu_limit: u16,
}

impl Path {
    /// Finds the way. Errors as of [`Stack::route`].
    pub fn new(stack: &Stack, key: &FlowKey, ttl: u8, tos: u8, device: u32) -> Result<Self> {
        let epoch = stack.epoch();
        let hop = stack.route(key.remote.ip, (device != 0).then_some(device))?;
        let mut path = Self {
            epoch,
            interface: hop.interface,
            next: hop.next,
            header: [0; MAX_HEADER],
            header_len: 0,
            linked: false,
            ip_sum: 0,
            pseudo: checksum::pseudo(key.local.ip, key.remote.ip, protocol::TCP),
            mtu_limit: u16::MAX,
        };
        path.build(key, ttl, tos);
        Ok(path)
    }

    fn build(&mut self, key: &FlowKey, ttl: u8, tos: u8) {
        let v4 = key.remote.ip.is_v4();
        let mut at = 0;
        self.linked = false;
        if !self.interface.is_loopback()
            && let Some(mac) = self.interface.neighbours.lookup(self.next)
        {
            self.header[..6].copy_from_slice(&mac);
            self.header[6..12].copy_from_slice(&self.interface.caps.mac);
            let kind = if v4 { packet::ETHERTYPE_IPV4 } else { packet::ETHERTYPE_IPV6 };
            self.header[12..14].copy_from_slice(&kind.to_be_bytes());
            at = ETHERNET_LEN;
            self.linked = true;
        }
        let (src, dst) = (key.local.ip, key.remote.ip);
        if v4 {
            let how = Ipv4How { ttl, tos, id: 0, flags: 0x4000 };
            packet::write_v4(&mut self.header[at..], src, dst, protocol::TCP, 0, how);
            self.header[at + 2..at + 4].fill(0);
            self.header[at + 10..at + 12].fill(0);
            self.ip_sum = checksum::add(0, &self.header[at..at + 20]);
            self.header_len = at as u8 + 20;
        } else {
            packet::write_v6(&mut self.header[at..], src, dst, protocol::TCP, 0, ttl, tos);
            self.header_len = at as u8 + 40;
        }
    }

    /// Looks again if something has changed. Keeps the old way if there is none now.
    #[inline]
    pub fn refresh(&mut self, stack: &Stack, key: &FlowKey, ttl: u8, tos: u8, device: u32) {
        if self.epoch != stack.epoch() {
            self.refresh_slow(stack, key, ttl, tos, device);
        }
    }

    #[cold]
    fn refresh_slow(&mut self, stack: &Stack, key: &FlowKey, ttl: u8, tos: u8, device: u32) {
        let epoch = stack.epoch();
        if let Ok(hop) = stack.route(key.remote.ip, (device != 0).then_some(device)) {
            self.interface = hop.interface;
            self.next = hop.next;
            self.epoch = epoch;
            self.build(key, ttl, tos);
        }
    }

    /// Makes the next packet look again whatever the epoch.
    pub fn invalidate(&mut self) {
        self.epoch = u64::MAX;
    }

    /// The headers before TCP's.
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_len)]
    }

    /// Bytes of link header in [`Self::header`].
    #[inline]
    pub fn link_len(&self) -> usize {
        if self.linked { ETHERNET_LEN } else { 0 }
    }

    /// Puts the length, and for IPv4 the checksum, into a copy of the IP header.
    #[inline]
    pub fn finish(&self, ip: &mut [u8], payload: usize) {
        if ip[0] >> 4 == 4 {
            let len = ((payload + 20) as u16).to_be_bytes();
            ip[2..4].copy_from_slice(&len);
            let sum = checksum::finish(self.ip_sum + u64::from(u16::from_le_bytes(len)));
            ip[10..12].copy_from_slice(&sum);
        } else {
            ip[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
        }
    }

    /// Largest segment by the interface and the path.
    pub fn mss(&self) -> u32 {
        let v4 = self.pseudo_is_v4();
        let mtu = self.interface.mtu(v4).min(usize::from(self.mtu_limit));
        mtu.saturating_sub(if v4 { 40 } else { 60 }).max(64) as u32
    }

    /// The header is IPv4's.
    #[inline]
    pub fn pseudo_is_v4(&self) -> bool {
        usize::from(self.header_len) - self.link_len() == 20
    }

    /// Most payload that one packet may carry with the device cutting it; 0 if it cannot.
    #[inline]
    pub fn big(&self) -> usize {
        let caps = &self.interface.caps;
        if if self.pseudo_is_v4() { caps.tso4 } else { caps.tso6 } { 65535 - 120 } else { 0 }
    }
}
