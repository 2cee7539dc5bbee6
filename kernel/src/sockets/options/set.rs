//! `setsockopt`.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use base::{Errno, Result};
use net::tcp::{MAX_BUFFER, Tcp};
use net::{Ip, tcp, udp};

use super::{KEPT, SOL_IP, SOL_IPV6, SOL_NETLINK, SOL_SOCKET, SOL_TCP};
use crate::mm::user;
use crate::sockets::file::{Kind, SocketFile};
use crate::sockets::stack;

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
