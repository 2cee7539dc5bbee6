//! `getsockopt` and `setsockopt`. An option that is not here gives `ENOPROTOOPT`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use base::{Errno, Result};
use net::tcp::{MAX_BUFFER, State, Tcp};
use net::{Ip, tcp, udp};

use super::file::{Kind, SocketFile};
use super::stack;
use crate::mm::user;

const SOL_SOCKET: i32 = 1;
const SOL_IP: i32 = 0;
const SOL_TCP: i32 = 6;
const SOL_IPV6: i32 = 41;
const SOL_NETLINK: i32 = 270;

/// Options that are stored and given back, and have no effect here; a bit of `Extra::kept` each.
const KEPT: &[(i32, i32)] = &[
    (SOL_SOCKET, 10),  // SO_OOBINLINE: there is no urgent data
    (SOL_SOCKET, 5),   // SO_DONTROUTE
    (SOL_SOCKET, 11),  // SO_NO_CHECK
    (SOL_SOCKET, 1),   // SO_DEBUG
    (SOL_IP, 11),      // IP_RECVERR: errors come through SO_ERROR
    (SOL_IP, 15),      // IP_FREEBIND
    (SOL_IP, 24),      // IP_BIND_ADDRESS_NO_PORT
    (SOL_IP, 49),      // IP_MULTICAST_ALL
    (SOL_IPV6, 25),    // IPV6_RECVERR
    (SOL_IPV6, 78),    // IPV6_FREEBIND
    (SOL_IPV6, 70),    // IPV6_AUTOFLOWLABEL
    (SOL_TCP, 9),      // TCP_DEFER_ACCEPT
    (SOL_TCP, 23),     // TCP_FASTOPEN: the handshake is an ordinary one
    (SOL_TCP, 30),     // TCP_FASTOPEN_CONNECT
    (SOL_TCP, 25),     // TCP_NOTSENT_LOWAT
    (SOL_TCP, 10),     // TCP_WINDOW_CLAMP
    (SOL_TCP, 7),      // TCP_SYNCNT
    (SOL_TCP, 8),      // TCP_LINGER2
    (SOL_SOCKET, 46),  // SO_BUSY_POLL
    (SOL_SOCKET, 44),  // SO_LOCK_FILTER
    (SOL_NETLINK, 10), // NETLINK_EXT_ACK
    (SOL_NETLINK, 11), // NETLINK_CAP_ACK
    (SOL_NETLINK, 12), // NETLINK_GET_STRICT_CHK
    (SOL_NETLINK, 3),  // NETLINK_PKTINFO
    (SOL_NETLINK, 5),  // NETLINK_NO_ENOBUFS
];

/// A value from the program: an `int`, a byte where Linux takes one, or bytes.
struct Value {
    at: usize,
    len: usize,
}

impl Value {
    fn int(&self) -> Result<i32> {
        if self.len < 4 {
            return Err(Errno::EINVAL);
        }
        user::read(self.at)
    }
    fn flag(&self) -> Result<bool> {
        Ok(self.int()? != 0)
    }
    /// The IP level also takes a single byte.
    fn small(&self) -> Result<i32> {
        match self.len {
            0 => Err(Errno::EINVAL),
            1..=3 => user::read::<u8>(self.at).map(i32::from),
            _ => user::read(self.at),
        }
    }
    fn bytes<const N: usize>(&self) -> Result<[u8; N]> {
        if self.len < N {
            return Err(Errno::EINVAL);
        }
        user::read(self.at)
    }
    /// A `struct timeval`, in ns; 0 for none. `EDOM` as Linux has it.
    fn timeout(&self) -> Result<u64> {
        if self.len < 16 {
            return Err(Errno::EINVAL);
        }
        let [seconds, micros]: [i64; 2] = user::read(self.at)?;
        if !(0..1_000_000).contains(&micros) {
            return Err(Errno::EDOM);
        }
        if seconds < 0 {
            return Ok(1); // over at once
        }
        Ok((seconds as u64).saturating_mul(1_000_000_000).saturating_add(micros as u64 * 1000))
    }
}

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

/// `setsockopt`.
pub fn set(socket: &SocketFile, level: i32, name: i32, at: usize, len: usize) -> Result<()> {
    let value = Value { at, len };
    if let Some(bit) = KEPT.iter().position(|k| *k == (level, name)) {
        let bit = 1 << bit;
        if value.small()? != 0 {
            socket.extra.kept.fetch_or(bit, Ordering::Relaxed);
        } else {
            socket.extra.kept.fetch_and(!bit, Ordering::Relaxed);
        }
        return Ok(());
    }
    match (level, &socket.kind) {
        (SOL_SOCKET, _) => set_socket(socket, name, &value),
        (SOL_TCP, Kind::Tcp(tcp)) => set_tcp(tcp, name, &value),
        (SOL_IP, Kind::Tcp(_) | Kind::Udp(_)) => set_ip(socket, name, &value),
        (SOL_IPV6, Kind::Tcp(_) | Kind::Udp(_)) if socket.is_v6() => set_ipv6(socket, name, &value),
        (SOL_NETLINK, Kind::Netlink(netlink)) => match name {
            1 => netlink.group(value.int()?, true),
            2 => netlink.group(value.int()?, false),
            _ => Err(Errno::ENOPROTOOPT),
        },
        (SOL_TCP | SOL_IP | SOL_IPV6, Kind::Unix(_)) => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn set_socket(socket: &SocketFile, name: i32, value: &Value) -> Result<()> {
    let extra = &socket.extra;
    match name {
        // SO_REUSEADDR, SO_REUSEPORT, SO_BROADCAST, SO_KEEPALIVE
        2 | 15 | 6 | 9 => {
            let on = value.flag()?;
            both(
                socket,
                |o| match name {
                    2 => o.reuse_address = on,
                    15 => o.reuse_port = on,
                    9 => o.keepalive = on,
                    _ => {}
                },
                |o| match name {
                    2 => o.reuse_address = on,
                    15 => o.reuse_port = on,
                    6 => o.broadcast = on,
                    _ => {}
                },
            );
        }
        7 | 32 => {
            let bytes = buffer(value.int()?);
            both(socket, |o| o.send_buffer = bytes, |_| ());
            if let Kind::Unix(unix) = &socket.kind {
                unix.set_limit(bytes as usize);
            }
        }
        8 | 33 => {
            let bytes = buffer(value.int()?);
            match &socket.kind {
                Kind::Tcp(tcp) => tcp.set_options(|o| o.receive_buffer = bytes),
                Kind::Udp(udp) => {
                    udp.receive_buffer(Some(bytes as usize));
                }
                _ => {}
            }
        }
        13 => {
            let b: [u8; 8] = value.bytes()?;
            let [on, seconds] = [0, 4].map(|at| i32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]));
            let linger = (on != 0).then_some(seconds.max(0) as u32);
            both(socket, |o| o.linger = linger, |_| ());
        }
        16 => extra.pass_credentials.store(value.flag()?, Ordering::Relaxed),
        12 => extra.priority.store(value.int()? as u32, Ordering::Relaxed),
        36 => extra.mark.store(value.int()? as u32, Ordering::Relaxed),
        18 => {
            let low = value.int()?.max(1) as u32;
            both(socket, |o| o.low_water = low, |_| ());
        }
        20 | 66 => extra.receive_timeout.store(value.timeout()?, Ordering::Relaxed),
        21 | 67 => extra.send_timeout.store(value.timeout()?, Ordering::Relaxed),
        29 | 63 => extra.timestamp.store(u32::from(value.flag()?), Ordering::Relaxed),
        35 | 64 => extra.timestamp.store(2 * u32::from(value.flag()?), Ordering::Relaxed),
        25 => {
            let device = device_by_name(value)?;
            both(socket, |o| o.device = device, |o| o.device = device);
        }
        3 | 4 | 28 | 30 | 38 | 39 => return Err(Errno::ENOPROTOOPT), // read only
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

// What a program asks for; Linux doubles it for its bookkeeping and says so when asked.
fn buffer(value: i32) -> u32 {
    (value.max(0) as u32).clamp(2304, MAX_BUFFER)
}

fn device_by_name(value: &Value) -> Result<u32> {
    let mut name = [0u8; 16];
    let len = value.len.min(15);
    user::read_bytes(value.at, &mut name[..len])?;
    let name = name.split(|b| *b == 0).next().unwrap_or(&[]);
    if name.is_empty() {
        return Ok(0);
    }
    stack().interfaces().find(|i| i.name.as_bytes() == name).map(|i| i.index).ok_or(Errno::ENODEV)
}

fn both(socket: &SocketFile, tcp: impl FnOnce(&mut tcp::Options), udp: impl FnOnce(&mut udp::Options)) {
    match &socket.kind {
        Kind::Tcp(t) => t.set_options(tcp),
        Kind::Udp(u) => u.set_options(udp),
        _ => {}
    }
}

fn set_tcp(tcp: &Arc<Tcp>, name: i32, value: &Value) -> Result<()> {
    let range = |value: i32, most: i32| if (1..=most).contains(&value) { Ok(value) } else { Err(Errno::EINVAL) };
    if name == 13 {
        // TCP_CONGESTION: there is one.
        let mut text = [0u8; 16];
        let len = value.len.min(16);
        user::read_bytes(value.at, &mut text[..len])?;
        let text = text[..len].split(|b| *b == 0).next().unwrap_or(&[]);
        return if matches!(text, b"cubic" | b"reno") { Ok(()) } else { Err(Errno::ENOENT) };
    }
    if name == 31 {
        return Err(Errno::ENOENT); // TCP_ULP: no kernel TLS
    }
    let n = value.int()?;
    match name {
        1 => tcp.set_options(|o| o.nodelay = n != 0),
        2 => {
            if !(88..=32767).contains(&n) {
                return Err(Errno::EINVAL);
            }
            tcp.set_options(|o| o.max_segment = n as u32);
        }
        3 => tcp.set_options(|o| o.cork = n != 0),
        4 => {
            let n = range(n, 32767)?;
            tcp.set_options(|o| o.keep_idle = n as u32);
        }
        5 => {
            let n = range(n, 32767)?;
            tcp.set_options(|o| o.keep_interval = n as u32);
        }
        6 => {
            let n = range(n, 127)?;
            tcp.set_options(|o| o.keep_count = n as u8);
        }
        12 => tcp.quick_ack(n != 0),
        18 => {
            if n < 0 {
                return Err(Errno::EINVAL);
            }
            tcp.set_options(|o| o.user_timeout = n as u32);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

fn set_ip(socket: &SocketFile, name: i32, value: &Value) -> Result<()> {
    let extra = &socket.extra;
    match name {
        1 => {
            let tos = value.small()? as u8;
            both(socket, |o| o.tos = tos, |o| o.tos = tos);
        }
        2 => {
            let ttl = match value.small()? {
                -1 => 64,
                n @ 1..=255 => n as u8,
                _ => return Err(Errno::EINVAL),
            };
            both(socket, |o| o.ttl = ttl, |o| o.ttl = ttl);
        }
        8 => extra.packet_info.store(value.small()? != 0, Ordering::Relaxed),
        12 => extra.receive_ttl.store(value.small()? != 0, Ordering::Relaxed),
        13 => extra.receive_tos.store(value.small()? != 0, Ordering::Relaxed),
        10 => {
            let how = value.small()?;
            if !(0..=5).contains(&how) {
                return Err(Errno::EINVAL);
            }
            both(socket, |_| (), |o| o.dont_fragment = matches!(how, 2 | 3));
        }
        32 => {
            let index = multicast_interface(value)?;
            both(socket, |_| (), |o| o.multicast_interface = index);
        }
        33 => {
            let ttl = match value.small()? {
                -1 => 1,
                n @ 0..=255 => n as u8,
                _ => return Err(Errno::EINVAL),
            };
            both(socket, |_| (), |o| o.multicast_ttl = ttl);
        }
        34 => {
            let on = value.small()? != 0;
            both(socket, |_| (), |o| o.multicast_loop = on);
        }
        35 | 36 => {
            let Kind::Udp(udp) = &socket.kind else { return Err(Errno::EPROTO) };
            let b: [u8; 8] = value.bytes()?;
            let group = Ip::from_v4_bytes([b[0], b[1], b[2], b[3]]);
            let index = if value.len >= 12 {
                let b: [u8; 12] = value.bytes()?;
                u32::from_ne_bytes([b[8], b[9], b[10], b[11]])
            } else {
                by_address(Ip::from_v4_bytes([b[4], b[5], b[6], b[7]]))?
            };
            return udp.membership(group, index, name == 35);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

fn by_address(ip: Ip) -> Result<u32> {
    if ip.is_unspecified() {
        return Ok(0);
    }
    let found = stack().interfaces().find(|i| i.addresses().iter().any(|a| a.ip == ip));
    found.map(|i| i.index).ok_or(Errno::ENODEV)
}

fn multicast_interface(value: &Value) -> Result<u32> {
    if value.len >= 12 {
        let b: [u8; 12] = value.bytes()?;
        return Ok(u32::from_ne_bytes([b[8], b[9], b[10], b[11]]));
    }
    by_address(Ip::from_v4_bytes(value.bytes()?)).map_err(|_| Errno::EADDRNOTAVAIL)
}

fn set_ipv6(socket: &SocketFile, name: i32, value: &Value) -> Result<()> {
    let extra = &socket.extra;
    match name {
        26 => {
            let on = value.flag()?;
            let bound = match &socket.kind {
                Kind::Tcp(tcp) => tcp.local().port != 0,
                Kind::Udp(udp) => udp.local().port != 0,
                _ => false,
            };
            if bound {
                return Err(Errno::EINVAL);
            }
            both(socket, |o| o.v6_only = on, |o| o.v6_only = on);
        }
        16 | 18 => {
            let hops = match value.int()? {
                -1 if name == 16 => 64,
                -1 => 1,
                n @ 0..=255 => n as u8,
                _ => return Err(Errno::EINVAL),
            };
            if name == 16 {
                both(socket, |o| o.ttl = hops, |o| o.ttl = hops);
            } else {
                both(socket, |_| (), |o| o.multicast_ttl = hops);
            }
        }
        17 => {
            let index = value.int()? as u32;
            if index != 0 && stack().interface(index).is_none() {
                return Err(Errno::ENODEV);
            }
            both(socket, |_| (), |o| o.multicast_interface = index);
        }
        19 => {
            let on = value.flag()?;
            both(socket, |_| (), |o| o.multicast_loop = on);
        }
        20 | 21 => {
            let Kind::Udp(udp) = &socket.kind else { return Err(Errno::EPROTO) };
            let b: [u8; 20] = value.bytes()?;
            let mut ip = [0; 16];
            ip.copy_from_slice(&b[..16]);
            let index = u32::from_ne_bytes([b[16], b[17], b[18], b[19]]);
            return udp.membership(Ip::from_v6_bytes(ip), index, name == 20);
        }
        23 => {
            let how = value.int()?;
            both(socket, |_| (), |o| o.dont_fragment = matches!(how, 2 | 3));
        }
        49 => extra.packet_info.store(value.flag()?, Ordering::Relaxed),
        51 => extra.receive_ttl.store(value.flag()?, Ordering::Relaxed),
        66 => extra.receive_tos.store(value.flag()?, Ordering::Relaxed),
        67 => {
            let class = value.int()?.max(0) as u8;
            both(socket, |o| o.tos = class, |o| o.tos = class);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
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

// struct tcp_info (linux/tcp.h).
fn tcp_info(info: &tcp::Info) -> Vec<u8> {
    let state = match (info.listening, info.state) {
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
    };
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
