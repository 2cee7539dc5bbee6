//! TCP and UDP sockets: Linux's addresses and messages on one side, the stack on the other.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use base::io::{In, Out};
use base::time::{now_ns, wall_ns};
use base::{Errno, Result};
use net::tcp::Tcp;
use net::udp::Udp;
use net::{Endpoint, Family, Ip};

use super::address::Address;
use super::control::{IP_PKTINFO, IPV6_PKTINFO, SOL_IP, SOL_IPV6, SOL_SOCKET};
use super::file::{Kind, SocketFile};
use super::message::{Control, Flags, Received, SendControl};
use super::{family, kind, stack};

const IPPROTO_TCP: i32 = 6;
const IPPROTO_UDP: i32 = 17;
const IP_TOS: i32 = 1;
const IP_TTL: i32 = 2;
const IPV6_HOPLIMIT: i32 = 52;
const IPV6_TCLASS: i32 = 67;
const SO_TIMESTAMP: i32 = 29;
const SO_TIMESTAMPNS: i32 = 35;

/// Makes what a socket of this type and protocol needs.
pub(super) fn create(family: u16, socket_type: i32, protocol: i32) -> Result<Kind> {
    let family = if family == family::INET { Family::V4 } else { Family::V6 };
    match (socket_type, protocol) {
        (kind::STREAM, 0 | IPPROTO_TCP) => Ok(Kind::Tcp(Tcp::new(stack(), family))),
        (kind::DGRAM, 0 | IPPROTO_UDP) => Ok(Kind::Udp(Udp::new(stack(), family))),
        (kind::STREAM | kind::DGRAM | kind::RAW, _) => Err(Errno::EPROTONOSUPPORT),
        (1..=10, _) => Err(Errno::ESOCKTNOSUPPORT),
        _ => Err(Errno::EINVAL),
    }
}

/// The endpoint to bind to.
pub(super) fn bind_address(socket: &SocketFile, address: &Address) -> Result<Endpoint> {
    match address {
        // As Linux: AF_UNSPEC stands for AF_INET if the address is any.
        Address::None if !socket.is_v6() => Ok(Endpoint::new(Ip::ANY4, 0)),
        Address::V4(_) | Address::V6(..) => {
            let (endpoint, _) = address.endpoint(socket.is_v6()).map_err(|_| match socket.is_v6() {
                true => Errno::EINVAL,
                false => Errno::EAFNOSUPPORT,
            })?;
            Ok(endpoint)
        }
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// The endpoint to connect or send to. An IPv6 socket takes an IPv4 address only mapped.
fn target(socket: &SocketFile, address: &Address) -> Result<(Endpoint, u32)> {
    match address {
        Address::V4(e) if socket.is_v6() => Ok((*e, 0)),
        _ => address.endpoint(socket.is_v6()).map_err(|_| Errno::EAFNOSUPPORT),
    }
}

pub(super) fn connect_tcp(socket: &SocketFile, tcp: &Arc<Tcp>, address: &Address) -> Result<()> {
    if *address == Address::None {
        return tcp.shutdown(net::tcp::Shutdown::Both).or(Ok(()));
    }
    let (endpoint, scope) = target(socket, address)?;
    if scope != 0 && endpoint.ip.is_link_local6() {
        tcp.set_options(|o| o.device = scope);
    }
    tcp.connect(endpoint)
}

pub(super) fn connect_udp(socket: &SocketFile, udp: &Arc<Udp>, address: &Address) -> Result<()> {
    if *address == Address::None {
        return udp.connect(None);
    }
    let (endpoint, scope) = target(socket, address)?;
    if scope != 0 && endpoint.ip.is_link_local6() {
        udp.set_options(|o| o.device = scope);
    }
    udp.connect(Some(endpoint))
}

pub(super) fn send_udp(
    socket: &SocketFile,
    udp: &Arc<Udp>,
    input: &mut In<'_>,
    to: Option<&Address>,
    control: &SendControl,
) -> Result<usize> {
    let mut source = control.source;
    let to = match to {
        None | Some(Address::None) => None,
        Some(address) => {
            let (endpoint, scope) = target(socket, address)?;
            if scope != 0 && endpoint.ip.is_link_local6() && source.is_none() {
                source = Some((Ip::ANY, scope));
            }
            Some(endpoint)
        }
    };
    udp.send(input, to, source)
}

pub(super) fn receive_tcp(tcp: &Arc<Tcp>, out: &mut Out<'_>, flags: Flags) -> Result<Received> {
    let len = if flags.contains(Flags::TRUNC) && !flags.contains(Flags::PEEK) {
        tcp.discard(out.remaining())?
    } else {
        tcp.recv(out, flags.contains(Flags::PEEK))?
    };
    Ok(Received { len, ..Received::default() })
}

pub(super) fn receive_udp(socket: &SocketFile, udp: &Arc<Udp>, out: &mut Out<'_>, flags: Flags) -> Result<Received> {
    let item = match udp.recv(flags.contains(Flags::PEEK)) {
        Err(Errno::EAGAIN) if udp.read_shut() => return Ok(Received::default()),
        other => other?,
    };
    let moved = item.copy(out)?;
    let mut received = Received { len: moved, ..Received::default() };
    if moved < item.len() {
        received.flags |= Flags::TRUNC;
        if flags.contains(Flags::TRUNC) {
            received.len = item.len();
        }
    }
    received.from = Some(Address::of(item.from, socket.is_v6(), item.interface));
    let extra = &socket.extra;
    let v6 = !item.to.is_v4();
    if extra.packet_info.load(Ordering::Relaxed) {
        let mut data = Vec::new();
        if socket.is_v6() {
            data.extend_from_slice(&item.to.v6_bytes());
            data.extend_from_slice(&item.interface.to_ne_bytes());
            received.control.push(Control { level: SOL_IPV6, kind: IPV6_PKTINFO, data });
        } else {
            data.extend_from_slice(&item.interface.to_ne_bytes());
            data.extend_from_slice(&item.to.v4_bytes());
            data.extend_from_slice(&item.to.v4_bytes());
            received.control.push(Control { level: SOL_IP, kind: IP_PKTINFO, data });
        }
    }
    let mut byte = |on: bool, kinds: (i32, i32), value: u8| {
        if on {
            let (level, kind) = if v6 { (SOL_IPV6, kinds.1) } else { (SOL_IP, kinds.0) };
            let data = match kind {
                IP_TOS => Vec::from([value]),
                _ => i32::from(value).to_ne_bytes().to_vec(),
            };
            received.control.push(Control { level, kind, data });
        }
    };
    byte(extra.receive_ttl.load(Ordering::Relaxed), (IP_TTL, IPV6_HOPLIMIT), item.ttl);
    byte(extra.receive_tos.load(Ordering::Relaxed), (IP_TOS, IPV6_TCLASS), item.tos);
    let stamp = extra.timestamp.load(Ordering::Relaxed);
    if stamp != 0 {
        let wall = wall_ns().saturating_sub(now_ns().saturating_sub(item.time));
        let (kind, part) = if stamp == 1 { (SO_TIMESTAMP, 1000) } else { (SO_TIMESTAMPNS, 1) };
        let mut data = (wall / 1_000_000_000).to_ne_bytes().to_vec();
        data.extend_from_slice(&(wall % 1_000_000_000 / part).to_ne_bytes());
        received.control.push(Control { level: SOL_SOCKET, kind, data });
    }
    Ok(received)
}
