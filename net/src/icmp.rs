//! ICMP for both families: echo, errors to and from the network. Formats by smoltcp; nothing here is hot.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use base::Errno;
use hal_core::device::NetBuf;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, Icmpv6Repr};

use crate::addr::{Endpoint, FlowKey, Ip};
use crate::checksum;
use crate::interface::{Interface, count};
use crate::ndp;
use crate::packet::{self, Meta, protocol};
use crate::stack::{Stack, Tx};
use crate::transmit::SendIp;

/// Errors are sent at most this often: one per this many ns on average, with a burst.
const ERROR_INTERVAL: u64 = 1_000_000;
const ERROR_BURST: u64 = 100 * ERROR_INTERVAL;

/// A token bucket as one word: the virtual time of the next error.
pub(crate) struct Limit(AtomicU64);

impl Limit {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
    fn allow(&self, now: u64) -> bool {
        let next = self.0.load(Ordering::Relaxed).max(now.saturating_sub(ERROR_BURST));
        if next > now {
            return false;
        }
        self.0.store(next + ERROR_INTERVAL, Ordering::Relaxed);
        true
    }
}

/// Takes an ICMP packet for IPv4.
pub(crate) fn input_v4(
    stack: &Arc<Stack>,
    interface: &Arc<Interface>,
    meta: &Meta,
    buf: &NetBuf,
    now: u64,
    tx: &mut Tx,
) {
    let bytes = packet::flatten(buf);
    let Ok(icmp) = Icmpv4Packet::new_checked(&bytes[..]) else {
        count(&interface.counters.rx_errors, 1);
        return;
    };
    if !meta.valid && !icmp.verify_checksum() {
        count(&interface.counters.rx_errors, 1);
        return;
    }
    match (bytes[0], bytes.get(1).copied().unwrap_or(0)) {
        (8, 0) if stack.is_local(meta.dst) => echo(stack, meta, &bytes, 0, now, tx),
        (3, code) => {
            let mtu = u16::from_be_bytes([bytes[6], bytes[7]]);
            let error = match code {
                0 | 6 | 9 => Errno::ENETUNREACH,
                2 => Errno::ENOPROTOOPT,
                3 => Errno::ECONNREFUSED,
                4 => Errno::EMSGSIZE,
                _ => Errno::EHOSTUNREACH,
            };
            let mtu = (code == 4).then_some(mtu);
            deliver_error(stack, &bytes[8..], error, mtu, now, tx);
        }
        _ => {}
    }
}

/// Takes an ICMP packet for IPv6.
pub(crate) fn input_v6(
    stack: &Arc<Stack>,
    interface: &Arc<Interface>,
    meta: &Meta,
    buf: &NetBuf,
    now: u64,
    tx: &mut Tx,
) {
    let bytes = packet::flatten(buf);
    if bytes.len() < 8 {
        count(&interface.counters.rx_errors, 1);
        return;
    }
    let (src, dst) = (meta.src.to_v6(), meta.dst.to_v6());
    if !meta.valid {
        let pseudo = checksum::pseudo(meta.src, meta.dst, protocol::ICMPV6);
        let sum = checksum::add(checksum::add_len(pseudo, bytes.len()), &bytes);
        if checksum::fold(sum) != 0xffff {
            count(&interface.counters.rx_errors, 1);
            return;
        }
    }
    match (bytes[0], bytes[1]) {
        (128, 0) if stack.is_local(meta.dst) || meta.dst.is_multicast() => echo(stack, meta, &bytes, 129, now, tx),
        (1, code) => {
            let error = match code {
                0 => Errno::ENETUNREACH,
                1 => Errno::EACCES,
                4 => Errno::ECONNREFUSED,
                _ => Errno::EHOSTUNREACH,
            };
            deliver_error(stack, &bytes[8..], error, None, now, tx);
        }
        (2, _) => {
            let mtu = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            let mtu = Some(mtu.clamp(1280, 65535) as u16);
            deliver_error(stack, &bytes[8..], Errno::EMSGSIZE, mtu, now, tx);
        }
        (133..=137, 0) if meta.ttl == 255 => {
            let Ok(icmp) = Icmpv6Packet::new_checked(&bytes[..]) else {
                return;
            };
            if let Ok(Icmpv6Repr::Ndisc(message)) =
                Icmpv6Repr::parse(&src, &dst, &icmp, &ChecksumCapabilities::ignored())
            {
                ndp::input(stack, interface, meta, &message, now, tx);
            }
        }
        _ => {}
    }
}

fn echo(stack: &Arc<Stack>, meta: &Meta, request: &[u8], kind: u8, now: u64, tx: &mut Tx) {
    let source = if meta.dst.is_multicast() { stack.source_for(meta.src, 0) } else { Ok(meta.dst) };
    if let Ok(source) = source {
        let mut reply = request.to_vec();
        reply[0] = kind;
        send(stack, source, meta.src, 64, reply, now, tx);
    }
}

/// Sends an ICMP message: fills its checksum in.
pub(crate) fn send(stack: &Arc<Stack>, src: Ip, dst: Ip, ttl: u8, message: Vec<u8>, now: u64, tx: &mut Tx) {
    let only = (dst.is_multicast() || dst.is_link_local6()).then(|| stack.interface_of(src)).flatten();
    let Ok(hop) = stack.route(dst, only) else { return };
    send_over(stack, &hop, src, dst, ttl, message, now, tx);
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn send_over(
    stack: &Stack,
    hop: &crate::stack::Hop,
    src: Ip,
    dst: Ip,
    ttl: u8,
    mut message: Vec<u8>,
    now: u64,
    tx: &mut Tx,
) {
    message[2..4].fill(0);
    let protocol = if dst.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
    let start = if dst.is_v4() { 0 } else { checksum::add_len(checksum::pseudo(src, dst, protocol), message.len()) };
    let sum = checksum::finish(checksum::add(start, &message));
    message[2..4].copy_from_slice(&sum);
    let mut buf = NetBuf::new(message.len());
    buf.set_len(message.len());
    buf.bytes_mut().copy_from_slice(&message);
    let how = SendIp { src, dst, protocol, ttl, tos: 0, dont_fragment: false };
    stack.send_ip(hop, how, buf, now, tx);
}

/// Tells the sender of a datagram that nobody listens on its port. `buf` is at the transport header.
pub(crate) fn port_unreachable(
    stack: &Arc<Stack>,
    interface: &Interface,
    meta: &Meta,
    buf: &mut NetBuf,
    now: u64,
    tx: &mut Tx,
) {
    let code = if meta.dst.is_v4() { (3, 3) } else { (1, 4) };
    unreachable(stack, interface, meta, buf, code, now, tx);
}

/// Tells the sender that nobody speaks the protocol of its packet.
pub(crate) fn protocol_unreachable(
    stack: &Arc<Stack>,
    interface: &Interface,
    meta: &Meta,
    buf: &mut NetBuf,
    now: u64,
    tx: &mut Tx,
) {
    if meta.dst.is_v4() {
        unreachable(stack, interface, meta, buf, (3, 2), now, tx);
    }
}

fn unreachable(
    stack: &Arc<Stack>,
    _interface: &Interface,
    meta: &Meta,
    buf: &mut NetBuf,
    (kind, code): (u8, u8),
    now: u64,
    tx: &mut Tx,
) {
    if !meta.src.is_unicast() || !stack.is_local(meta.dst) || !stack.icmp_limit().allow(now) {
        return;
    }
    if buf.push_front(usize::from(meta.header_len)).is_none() {
        return;
    }
    let most = if meta.dst.is_v4() { 548 } else { 1232 };
    let mut message = alloc::vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&buf.bytes()[..buf.len().min(most)]);
    send(stack, meta.dst, meta.src, 64, message, now, tx);
}

/// Gives an error to the socket that sent `original` (an IP packet, perhaps cut off).
pub(crate) fn deliver_error(
    stack: &Arc<Stack>,
    original: &[u8],
    error: Errno,
    mtu: Option<u16>,
    now: u64,
    tx: &mut Tx,
) {
    let Some((src, dst, protocol, rest)) = embedded(original) else {
        return;
    };
    let Some(ports) = rest.first_chunk::<8>() else { return };
    let local = Endpoint::new(src, u16::from_be_bytes([ports[0], ports[1]]));
    let remote = Endpoint::new(dst, u16::from_be_bytes([ports[2], ports[3]]));
    match protocol {
        protocol::TCP => {
            let seq = u32::from_be_bytes([ports[4], ports[5], ports[6], ports[7]]);
            if let Some(tcp) = stack.tcp().get(&FlowKey { local, remote }) {
                tcp.on_error(error, mtu, seq, now, tx);
            }
        }
        protocol::UDP => {
            for udp in stack.udp().on_port(local.port) {
                udp.on_error(remote, error);
            }
        }
        _ => {}
    }
}

fn embedded(b: &[u8]) -> Option<(Ip, Ip, u8, &[u8])> {
    match b.first()? >> 4 {
        4 => {
            let h: &[u8; 20] = b.first_chunk()?;
            let src = Ip::from_v4_bytes(*h[12..].first_chunk()?);
            let dst = Ip::from_v4_bytes(*h[16..].first_chunk()?);
            Some((src, dst, h[9], b.get(usize::from(h[0] & 15) * 4..)?))
        }
        6 => {
            let h: &[u8; 40] = b.first_chunk()?;
            let src = Ip::from_v6_bytes(*h[8..].first_chunk()?);
            let dst = Ip::from_v6_bytes(*h[24..].first_chunk()?);
            Some((src, dst, h[6], &b[40..]))
        }
        _ => None,
    }
}
