//! `getsockopt`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use base::{Errno, Result};
use net::tcp::{State, Tcp};
use net::{Ip, tcp, udp};

use super::{KEPT, SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP};
use crate::sockets::file::{Kind, SocketFile};
use crate::sockets::stack;

fn ne(word: u32) -> Vec<u8> {
    word.to_ne_bytes().to_vec()
}

fn flag(on: bool) -> Vec<u8> {
    ne(u32::from(on))
}

fn timeval(ns: u64) -> Vec<u8> {
    let mut b = (ns / 1_000_000_000).to_ne_bytes().to_vec();
    b.extend_from_slice(&(ns % 1_000_000_000 / 1000).to_ne_bytes());
    b
}

/// `getsockopt`: the value's bytes, to be cut to the program's buffer.
pub fn get(socket: &SocketFile, level: i32, name: i32) -> Result<Vec<u8>> {
    if let Some(bit) = KEPT.iter().position(|k| *k == (level, name)) {
        return Ok(flag(socket.extra.kept.load(Ordering::Relaxed) & 1 << bit != 0));
    }
    match (level, &socket.kind) {
        (SOL_SOCKET, _) => get_socket(socket, name),
        (SOL_TCP, Kind::Tcp(tcp)) => get_tcp(tcp, name),
        (SOL_IP | SOL_IPV6, Kind::Tcp(tcp)) => get_ip(socket, level, name, &tcp.options().into(), Some(tcp)),
        (SOL_IP | SOL_IPV6, Kind::Udp(udp)) => get_ip(socket, level, name, &udp.options().into(), None),
        (SOL_TCP | SOL_IP | SOL_IPV6, Kind::Unix(_)) => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn get_socket(socket: &SocketFile, name: i32) -> Result<Vec<u8>> {
    let extra = &socket.extra;
    let tcp_options = match &socket.kind {
        Kind::Tcp(tcp) => Some(tcp.options()),
        _ => None,
    };
    let udp_options = match &socket.kind {
        Kind::Udp(udp) => Some(udp.options()),
        _ => None,
    };
    Ok(match name {
        2 => flag(tcp_options.map_or(udp_options.is_some_and(|o| o.reuse_address), |o| o.reuse_address)),
        15 => flag(tcp_options.map_or(udp_options.is_some_and(|o| o.reuse_port), |o| o.reuse_port)),
        6 => flag(udp_options.is_some_and(|o| o.broadcast)),
        9 => flag(tcp_options.is_some_and(|o| o.keepalive)),
        3 => ne(socket.socket_type as u32),
        4 => {
            let error = match &socket.kind {
                Kind::Tcp(tcp) => tcp.take_error(),
                Kind::Udp(udp) => udp.take_error(),
                Kind::Unix(unix) => unix.take_error(),
                Kind::Netlink(_) => None,
            };
            ne(error.map_or(0, |e| e.code() as u32))
        }
        7 => ne(2 * match &socket.kind {
            Kind::Tcp(_) => tcp_options.map_or(0, |o| o.send_buffer),
            Kind::Unix(unix) => unix.limit() as u32,
            _ => 212_992 / 2,
        }),
        8 => ne(match &socket.kind {
            Kind::Tcp(_) => tcp_options.map_or(0, |o| 2 * o.receive_buffer),
            Kind::Udp(udp) => udp.receive_buffer(None) as u32,
            _ => 212_992,
        }),
        13 => {
            let linger = tcp_options.and_then(|o| o.linger);
            let mut b = flag(linger.is_some());
            b.extend_from_slice(&linger.unwrap_or(0).to_ne_bytes());
            b
        }
        16 => flag(extra.pass_credentials.load(Ordering::Relaxed)),
        12 => ne(extra.priority.load(Ordering::Relaxed)),
        36 => ne(extra.mark.load(Ordering::Relaxed)),
        17 => match &socket.kind {
            Kind::Unix(unix) => unix.peer_credentials().to_bytes().to_vec(),
            _ => {
                let mut b = ne(0);
                b.extend_from_slice(&[0xff; 8]);
                b
            }
        },
        18 => ne(tcp_options.map_or(1, |o| o.low_water)),
        19 => ne(1),
        20 | 66 => timeval(extra.receive_timeout.load(Ordering::Relaxed)),
        21 | 67 => timeval(extra.send_timeout.load(Ordering::Relaxed)),
        29 | 63 => flag(extra.timestamp.load(Ordering::Relaxed) == 1),
        35 | 64 => flag(extra.timestamp.load(Ordering::Relaxed) == 2),
        25 => {
            let index = tcp_options.map_or(udp_options.map_or(0, |o| o.device), |o| o.device);
            match stack().interface(index) {
                Some(interface) => {
                    let mut name = interface.name.as_bytes().to_vec();
                    name.push(0);
                    name
                }
                None => Vec::new(),
            }
        }
        30 => flag(match &socket.kind {
            Kind::Tcp(tcp) => tcp.info().listening,
            Kind::Unix(unix) => unix.is_listening(),
            _ => false,
        }),
        38 => ne(match (&socket.kind, socket.protocol) {
            (Kind::Tcp(_), 0) => 6,
            (Kind::Udp(_), 0) => 17,
            (_, p) => p as u32,
        }),
        39 => ne(u32::from(socket.family)),
        49 => ne(hal_core::percpu::cpu_id() as u32),
        57 => socket.number().to_ne_bytes().to_vec(),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

fn get_tcp(tcp: &Arc<Tcp>, name: i32) -> Result<Vec<u8>> {
    let o = tcp.options();
    Ok(match name {
        1 => flag(o.nodelay),
        2 => ne(if o.max_segment != 0 { o.max_segment } else { tcp.info().send_mss }),
        3 => flag(o.cork),
        4 => ne(o.keep_idle),
        5 => ne(o.keep_interval),
        6 => ne(u32::from(o.keep_count)),
        11 => tcp_info(&tcp.info()),
        12 => flag(true),
        13 => b"cubic\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        18 => ne(o.user_timeout),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

// The part of both families' options that programs ask for.
struct IpOptions {
    tos: u8,
    ttl: u8,
    v6_only: bool,
    multicast: (u8, bool, u32),
    dont_fragment: bool,
}

impl From<tcp::Options> for IpOptions {
    fn from(o: tcp::Options) -> Self {
        Self { tos: o.tos, ttl: o.ttl, v6_only: o.v6_only, multicast: (1, true, 0), dont_fragment: true }
    }
}

impl From<udp::Options> for IpOptions {
    fn from(o: udp::Options) -> Self {
        let multicast = (o.multicast_ttl, o.multicast_loop, o.multicast_interface);
        Self { tos: o.tos, ttl: o.ttl, v6_only: o.v6_only, multicast, dont_fragment: o.dont_fragment }
    }
}

fn get_ip(socket: &SocketFile, level: i32, name: i32, o: &IpOptions, tcp: Option<&Arc<Tcp>>) -> Result<Vec<u8>> {
    let extra = &socket.extra;
    if level == SOL_IPV6 && !socket.is_v6() {
        return Err(Errno::ENOPROTOOPT);
    }
    let mtu = || match tcp {
        Some(tcp) if tcp.remote().is_ok() => Ok(ne(tcp.info().path_mtu)),
        _ => Err(Errno::ENOTCONN),
    };
    Ok(match (level, name) {
        (SOL_IP, 1) | (SOL_IPV6, 67) => ne(u32::from(o.tos)),
        (SOL_IP, 2) | (SOL_IPV6, 16) => ne(u32::from(o.ttl)),
        (SOL_IP, 8) | (SOL_IPV6, 49) => flag(extra.packet_info.load(Ordering::Relaxed)),
        (SOL_IP, 12) | (SOL_IPV6, 51) => flag(extra.receive_ttl.load(Ordering::Relaxed)),
        (SOL_IP, 13) | (SOL_IPV6, 66) => flag(extra.receive_tos.load(Ordering::Relaxed)),
        (SOL_IP, 10) | (SOL_IPV6, 23) => ne(if o.dont_fragment { 2 } else { 1 }),
        (SOL_IP, 14) | (SOL_IPV6, 24) => mtu()?,
        (SOL_IP, 33) | (SOL_IPV6, 18) => ne(u32::from(o.multicast.0)),
        (SOL_IP, 34) | (SOL_IPV6, 19) => flag(o.multicast.1),
        (SOL_IP, 32) => {
            let interface = stack().interface(o.multicast.2);
            let ip = interface.and_then(|i| i.addresses().iter().find(|a| a.ip.is_v4()).map(|a| a.ip));
            ip.unwrap_or(Ip::ANY4).v4_bytes().to_vec()
        }
        (SOL_IPV6, 17) => ne(o.multicast.2),
        (SOL_IPV6, 26) => flag(o.v6_only),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

/// The number of a connection's state (linux/tcp_states.h).
pub(in crate::sockets) fn linux_state(info: &tcp::Info) -> u8 {
    match (info.listening, info.state) {
        (true, _) => 10,
        (_, Some(State::Established)) => 1,
        (_, Some(State::SynSent)) => 2,
        (_, Some(State::SynReceived)) => 3,
        (_, Some(State::FinWait1)) => 4,
        (_, Some(State::FinWait2)) => 5,
        (_, Some(State::TimeWait)) => 6,
        (_, Some(State::CloseWait)) => 8,
        (_, Some(State::LastAck)) => 9,
        (_, Some(State::Closing)) => 11,
        _ => 7,
    }
}

// struct tcp_info (linux/tcp.h).
fn tcp_info(info: &tcp::Info) -> Vec<u8> {
    let state = linux_state(info);
    let mut b = alloc::vec![0u8; 232];
    b[0] = state;
    b[2] = info.backoff;
    b[4] = info.backoff;
    b[5] = u8::from(info.sack) << 1 | u8::from(info.window_scale.is_some()) << 2;
    if let Some((send, receive)) = info.window_scale {
        b[6] = send | receive << 4;
    }
    let mut word = |at: usize, value: u64| {
        b[at..at + 4].copy_from_slice(&(value.min(u64::from(u32::MAX)) as u32).to_ne_bytes());
    };
    word(8, info.rto_ns / 1000);
    word(12, 40_000);
    word(16, u64::from(info.send_mss));
    word(20, u64::from(info.receive_mss));
    word(24, u64::from(info.unacked));
    word(36, u64::from(info.backoff));
    word(60, u64::from(info.path_mtu));
    word(68, info.rtt_ns / 1000);
    word(72, info.rtt_var_ns / 1000);
    word(76, u64::from(info.threshold));
    word(80, u64::from(info.window));
    word(84, u64::from(info.send_mss));
    word(100, u64::from(info.retransmits));
    word(136, u64::from(info.segments_out));
    word(140, u64::from(info.segments_in));
    b[120..128].copy_from_slice(&info.bytes_acked.to_ne_bytes());
    b[128..136].copy_from_slice(&info.bytes_received.to_ne_bytes());
    b
}
