//! `ioctl` on sockets: how much is there, and the old way to ask about interfaces.

use base::{Errno, Result};
use net::Interface;

use super::file::{Kind, SocketFile};
use super::stack;
use crate::mm::user;

const FIONREAD: u32 = 0x541b;
const SIOCOUTQ: u32 = 0x5411;
const SIOCOUTQNSD: u32 = 0x894b;
const SIOCATMARK: u32 = 0x8905;
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCGIFMAP: u32 = 0x8970;

/// `struct ifreq`: a name of 16 bytes and a union of 24.
const IFREQ: usize = 40;

pub(super) fn ioctl(socket: &SocketFile, command: u32, arg: usize) -> Result<u64> {
    let number = match (command, &socket.kind) {
        (FIONREAD, Kind::Tcp(tcp)) => tcp.readable(),
        (FIONREAD, Kind::Udp(udp)) => udp.readable(),
        (FIONREAD, Kind::Unix(unix)) => unix.readable(),
        (SIOCOUTQ, Kind::Tcp(tcp)) => tcp.unsent().0,
        (SIOCOUTQNSD, Kind::Tcp(tcp)) => tcp.unsent().1,
        (SIOCOUTQ, _) => 0,
        (SIOCATMARK, Kind::Tcp(_)) => 0,
        (SIOCGIFCONF, _) => return configuration(arg),
        (SIOCGIFNAME | SIOCGIFFLAGS..=SIOCGIFMAP, _) => return interface(command, arg),
        _ => return Err(Errno::ENOTTY),
    };
    user::write(arg, &(number.min(i32::MAX as usize) as i32))?;
    Ok(0)
}

fn sockaddr4(ip: net::Ip) -> [u8; 16] {
    let mut b = [0; 16];
    b[0..2].copy_from_slice(&super::family::INET.to_ne_bytes());
    b[4..8].copy_from_slice(&ip.v4_bytes());
    b
}

/// IFF_* of an interface (linux/if.h).
pub(super) fn flags(interface: &Interface) -> u32 {
    let mut flags = 0;
    if interface.is_up() {
        flags |= 0x1 | 0x40; // UP, RUNNING
    }
    if interface.is_loopback() {
        flags | 0x8
    } else {
        flags | 0x2 | 0x1000 // BROADCAST, MULTICAST
    }
}

fn configuration(arg: usize) -> Result<u64> {
    // struct ifconf: int length, pointer.
    let room = usize::try_from(user::read::<i32>(arg)?).map_err(|_| Errno::EINVAL)?;
    let buffer: usize = user::read(arg + 8)?;
    let mut used = 0;
    for interface in stack().interfaces() {
        for address in interface.addresses().iter().filter(|a| a.ip.is_v4()) {
            if buffer != 0 {
                if used + IFREQ > room {
                    break;
                }
                let mut request = [0u8; IFREQ];
                let name = interface.name.as_bytes();
                request[..name.len().min(15)].copy_from_slice(&name[..name.len().min(15)]);
                request[16..32].copy_from_slice(&sockaddr4(address.ip));
                user::write_bytes(buffer + used, &request)?;
            }
            used += IFREQ;
        }
    }
    user::write(arg, &(used as i32))?;
    Ok(0)
}

fn interface(command: u32, arg: usize) -> Result<u64> {
    let mut request = [0u8; IFREQ];
    user::read_bytes(arg, &mut request)?;
    let found = if command == SIOCGIFNAME {
        stack().interface(u32::from_ne_bytes([request[16], request[17], request[18], request[19]]))
    } else {
        let name = request[..16].split(|b| *b == 0).next().unwrap_or(&[]);
        // An alias (`eth0:1`) is its interface.
        let name = name.split(|b| *b == b':').next().unwrap_or(&[]);
        stack().interfaces().find(|i| i.name.as_bytes() == name)
    };
    let interface = found.ok_or(Errno::ENODEV)?;
    let first = interface.addresses().iter().find(|a| a.ip.is_v4()).copied();
    let mut word = |value: u32| request[16..20].copy_from_slice(&value.to_ne_bytes());
    match command {
        SIOCGIFNAME => {
            request[..16].fill(0);
            let name = interface.name.as_bytes();
            request[..name.len().min(15)].copy_from_slice(&name[..name.len().min(15)]);
        }
        SIOCGIFFLAGS => {
            let flags = flags(interface) as u16;
            request[16..18].copy_from_slice(&flags.to_ne_bytes());
        }
        SIOCGIFMTU => word(interface.mtu(true).min(65536) as u32),
        SIOCGIFINDEX => word(interface.index),
        SIOCGIFMETRIC => word(0),
        SIOCGIFTXQLEN => word(1000),
        SIOCGIFHWADDR => {
            let kind: u16 = if interface.is_loopback() { 772 } else { 1 };
            request[16..18].copy_from_slice(&kind.to_ne_bytes());
            request[18..24].copy_from_slice(&interface.caps.mac);
        }
        SIOCGIFMAP => request[16..].fill(0),
        SIOCGIFADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK => {
            let address = first.ok_or(Errno::EADDRNOTAVAIL)?;
            let mask = u32::MAX.checked_shl(32 - u32::from(address.prefix)).unwrap_or(0);
            let bits = match command {
                SIOCGIFADDR => address.ip.v4_bits(),
                SIOCGIFNETMASK => mask,
                _ if interface.is_loopback() => 0,
                _ => address.ip.v4_bits() | !mask,
            };
            request[16..32].copy_from_slice(&sockaddr4(net::Ip::from_v4(bits)));
        }
        _ => return Err(Errno::EPERM), // changing an interface is not for programs
    }
    user::write_bytes(arg, &request)?;
    Ok(0)
}
