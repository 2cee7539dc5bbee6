//! The contents of /proc/net and of /etc/resolv.conf, for those who make these files.

use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use net::{Endpoint, Ip};

use super::options::get::linux_state;
use super::{ioctl, stack};

fn hex(e: Endpoint, v6: bool) -> String {
    let mut s = String::new();
    if v6 {
        for word in e.ip.v6_bytes().as_chunks::<4>().0 {
            let _ = write!(s, "{:08X}", u32::from_ne_bytes(*word));
        }
    } else {
        let _ = write!(s, "{:08X}", u32::from_ne_bytes(e.ip.v4_bytes()));
    }
    let _ = write!(s, ":{:04X}", e.port);
    s
}

const HEADER: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

fn line(s: &mut String, number: usize, ends: (Endpoint, Endpoint), v6: bool, state: u8, queues: (usize, usize)) {
    let _ = writeln!(
        s,
        "{number:4}: {} {} {state:02X} {:08X}:{:08X} 00:00000000 00000000     0        0 0 1 0000000000000000 100 0 0 10 0",
        hex(ends.0, v6),
        hex(ends.1, v6),
        queues.0,
        queues.1
    );
}

/// /proc/net/tcp and tcp6.
pub fn tcp(v6: bool) -> String {
    let mut s = String::from(HEADER);
    let none = Endpoint::new(if v6 { Ip::ANY } else { Ip::ANY4 }, 0);
    let family = if v6 { net::Family::V6 } else { net::Family::V4 };
    for (number, socket) in stack().tcp_sockets().iter().filter(|t| t.family() == family).enumerate() {
        let state = linux_state(&socket.info());
        let remote = socket.remote().unwrap_or(none);
        line(&mut s, number, (socket.local(), remote), v6, state, (socket.unsent().0, socket.readable()));
    }
    s
}

/// /proc/net/udp and udp6.
pub fn udp(v6: bool) -> String {
    let mut s = String::from(HEADER);
    let none = Endpoint::new(if v6 { Ip::ANY } else { Ip::ANY4 }, 0);
    let family = if v6 { net::Family::V6 } else { net::Family::V4 };
    for (number, socket) in stack().udp_sockets().iter().filter(|u| u.family() == family).enumerate() {
        let remote = socket.remote();
        let state = if remote.is_ok() { 1 } else { 7 };
        line(&mut s, number, (socket.local(), remote.unwrap_or(none)), v6, state, (0, socket.readable()));
    }
    s
}

/// /proc/net/dev.
pub fn dev() -> String {
    let mut s = String::from(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    );
    for interface in stack().interfaces() {
        let c = &interface.counters;
        let get = |v: &core::sync::atomic::AtomicU64| v.load(Ordering::Relaxed);
        let _ = writeln!(
            s,
            "{:>6}: {:7} {:7} {:4} {:4}    0     0          0         0 {:8} {:7}    0 {:4}    0     0       0          0",
            interface.name,
            get(&c.rx_bytes),
            get(&c.rx_packets),
            get(&c.rx_errors),
            get(&c.rx_dropped),
            get(&c.tx_bytes),
            get(&c.tx_packets),
            get(&c.tx_dropped),
        );
    }
    s
}

/// /proc/net/route.
pub fn route() -> String {
    let mut s = String::from("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n");
    for r in stack().routes().iter().filter(|r| r.dst.is_v4()) {
        let Some(interface) = stack().interface(r.interface).filter(|i| !i.is_loopback()) else {
            continue;
        };
        let number = |ip: Ip| u32::from_ne_bytes(ip.v4_bytes());
        let mask = u32::MAX.checked_shl(32 - u32::from(r.prefix)).unwrap_or(0);
        let _ = writeln!(
            s,
            "{}\t{:08X}\t{:08X}\t{:04X}\t0\t0\t{}\t{:08X}\t0\t0\t0",
            interface.name,
            number(r.dst),
            r.gateway.map_or(0, number),
            1 | u32::from(r.gateway.is_some()) << 1,
            r.metric,
            mask.swap_bytes(),
        );
    }
    s
}

/// /proc/net/arp.
pub fn arp() -> String {
    let mut s = String::from("IP address       HW type     Flags       HW address            Mask     Device\n");
    for interface in stack().interfaces() {
        for n in interface.neighbours().iter().filter(|n| n.ip.is_v4()) {
            let [a, b, c, d, e, f] = n.mac.unwrap_or_default();
            let _ = writeln!(
                s,
                "{:<16} 0x1         {:#x}         {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}     *        {}",
                alloc::format!("{}", n.ip),
                if n.mac.is_some() { 2 } else { 0 },
                interface.name
            );
        }
    }
    s
}

/// /proc/net/if_inet6.
pub fn if_inet6() -> String {
    let mut s = String::new();
    for interface in stack().interfaces() {
        for a in interface.addresses().iter().filter(|a| !a.ip.is_v4()) {
            for byte in a.ip.v6_bytes() {
                let _ = write!(s, "{byte:02x}");
            }
            let scope = if a.ip.is_loopback() {
                0x10
            } else if a.ip.is_link_local6() {
                0x20
            } else {
                0
            };
            let flags = if a.dynamic { 0 } else { 0x80 };
            let _ =
                writeln!(s, " {:02x} {:02x} {scope:02x} {flags:02x} {:>8}", interface.index, a.prefix, interface.name);
        }
    }
    s
}

/// Names, indices, hardware addresses, MTUs and flags of the interfaces, for /sys/class/net.
#[allow(dead_code, reason = "/sys/class/net does not ask yet")]
pub fn interfaces() -> alloc::vec::Vec<(String, u32, [u8; 6], usize, u32)> {
    stack().interfaces().map(|i| (i.name.clone(), i.index, i.caps.mac, i.mtu(true), ioctl::flags(i))).collect()
}
