//! The answers of NETLINK_ROUTE (rtnetlink(7)).

use base::Errno;
use net::interface::Address;
use net::route::{Origin, Route};
use net::{Interface, Ip};

use super::{Answer, Header};
use crate::sockets::{family, ioctl, stack};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_GETRULE: u16 = 34;

const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;

fn of_family(wanted: u8, ip: Ip) -> bool {
    match u16::from(wanted) {
        family::UNSPEC => true,
        family::INET => ip.is_v4(),
        family::INET6 => !ip.is_v4(),
        _ => false,
    }
}

fn family_of(ip: Ip) -> u8 {
    (if ip.is_v4() { family::INET } else { family::INET6 }) as u8
}

fn bytes(ip: Ip) -> ([u8; 16], usize) {
    let mut b = [0; 16];
    if ip.is_v4() {
        b[..4].copy_from_slice(&ip.v4_bytes());
        (b, 4)
    } else {
        (ip.v6_bytes(), 16)
    }
}

fn attribute_ip(answer: &mut Answer, kind: u16, ip: Ip) {
    let (b, n) = bytes(ip);
    answer.attribute(kind, &b[..n]);
}

/// Answers one request.
pub(super) fn answer(answer: &mut Answer, header: Header, body: &[u8]) {
    let wanted = body.first().copied().unwrap_or(0);
    let dump = answer.is_dump();
    match header.kind {
        RTM_GETLINK if dump => stack().interfaces().for_each(|i| link(answer, i)),
        RTM_GETLINK => one_link(answer, body),
        RTM_GETADDR => {
            for interface in stack().interfaces() {
                for a in interface.addresses().iter().filter(|a| of_family(wanted, a.ip)) {
                    address(answer, interface, a);
                }
            }
        }
        RTM_GETROUTE if dump => {
            for r in stack().routes().iter().filter(|r| of_family(wanted, r.dst)) {
                route(answer, r);
            }
            for interface in stack().interfaces() {
                for a in interface.addresses().iter().filter(|a| of_family(wanted, a.ip)) {
                    local_route(answer, interface, a.ip);
                }
            }
        }
        RTM_GETROUTE => one_route(answer, wanted, body),
        RTM_GETNEIGH => {
            for interface in stack().interfaces() {
                for n in interface.neighbours().iter().filter(|n| of_family(wanted, n.ip)) {
                    neighbour(answer, interface, n);
                }
            }
        }
        RTM_GETRULE if dump => {}
        // NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN: nothing to answer.
        0..16 => {}
        // Within each group of four: new, delete, get, set.
        kind if kind % 4 != 2 => answer.error(Errno::EPERM.code()),
        _ => answer.error(Errno::EOPNOTSUPP.code()),
    }
}

fn link(answer: &mut Answer, interface: &Interface) {
    let mut fixed = [0u8; 16];
    let kind: u16 = if interface.is_loopback() { 772 } else { 1 };
    fixed[2..4].copy_from_slice(&kind.to_ne_bytes());
    fixed[4..8].copy_from_slice(&interface.index.to_ne_bytes());
    let flags = ioctl::flags(interface) | 0x10000; // IFF_LOWER_UP
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    answer.open(RTM_NEWLINK, &fixed);
    let mut name = interface.name.as_bytes().to_vec();
    name.push(0);
    answer.attribute(3, &name); // IFLA_IFNAME
    answer.attribute(1, &interface.caps.mac); // IFLA_ADDRESS
    let broadcast = if interface.is_loopback() { [0; 6] } else { [0xff; 6] };
    answer.attribute(2, &broadcast); // IFLA_BROADCAST
    answer.attribute(4, &(interface.mtu(true) as u32).to_ne_bytes()); // IFLA_MTU
    answer.attribute(13, &1000u32.to_ne_bytes()); // IFLA_TXQLEN
    answer.attribute(16, &[if interface.is_loopback() { 0 } else { 6 }]); // IFLA_OPERSTATE
    answer.attribute(17, &[0]); // IFLA_LINKMODE
    answer.attribute(6, b"noqueue\0"); // IFLA_QDISC
    answer.attribute(33, &[1]); // IFLA_CARRIER
    let c = &interface.counters;
    let mut stats = [0u8; 24 * 8];
    let values = [&c.rx_packets, &c.tx_packets, &c.rx_bytes, &c.tx_bytes, &c.rx_errors];
    for (i, value) in values.iter().enumerate() {
        let value = value.load(core::sync::atomic::Ordering::Relaxed);
        stats[i * 8..i * 8 + 8].copy_from_slice(&value.to_ne_bytes());
    }
    answer.attribute(23, &stats); // IFLA_STATS64
    answer.close();
}

// By index, or by the name in an attribute.
fn one_link(answer: &mut Answer, body: &[u8]) {
    let index = body.get(4..8).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let name = attributes(body.get(16..).unwrap_or(&[])).find(|(kind, _)| *kind == 3 || *kind == 53).map(|(_, d)| d);
    let name = name.map(|n| n.split(|b| *b == 0).next().unwrap_or(&[]));
    let found = stack()
        .interfaces()
        .find(|i| if index != 0 { i.index == index } else { name.is_some_and(|n| n == i.name.as_bytes()) });
    match found {
        Some(interface) => link(answer, interface),
        None => answer.error(Errno::ENODEV.code()),
    }
}

fn attributes(mut b: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    core::iter::from_fn(move || {
        let h: &[u8; 4] = b.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([h[0], h[1]]));
        let kind = u16::from_ne_bytes([h[2], h[3]]) & 0x3fff;
        let data = b.get(4..len)?;
        b = b.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, data))
    })
}

fn scope(ip: Ip) -> u8 {
    if ip.is_loopback() {
        254 // host
    } else if ip.is_link_local6() {
        253 // link
    } else {
        0
    }
}

fn address(answer: &mut Answer, interface: &Interface, a: &Address) {
    let permanent = if a.dynamic { 0 } else { 0x80 };
    let mut fixed = [family_of(a.ip), a.prefix, permanent, scope(a.ip), 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&interface.index.to_ne_bytes());
    answer.open(RTM_NEWADDR, &fixed);
    attribute_ip(answer, 1, a.ip); // IFA_ADDRESS
    if a.ip.is_v4() {
        attribute_ip(answer, 2, a.ip); // IFA_LOCAL
        if !interface.is_loopback() && a.prefix < 31 {
            let mask = u32::MAX >> a.prefix;
            attribute_ip(answer, 4, Ip::from_v4(a.ip.v4_bits() | mask)); // IFA_BROADCAST
        }
        let mut name = interface.name.as_bytes().to_vec();
        name.push(0);
        answer.attribute(3, &name); // IFA_LABEL
    }
    answer.attribute(8, &u32::from(permanent).to_ne_bytes()); // IFA_FLAGS
    answer.close();
}

fn route(answer: &mut Answer, r: &Route) {
    let protocol = match r.origin {
        Origin::Kernel => 2,
        Origin::Static => 3,
        Origin::Dhcp => 16,
        Origin::Ra => 9,
    };
    let scope = if r.gateway.is_none() && r.dst.is_v4() { 253 } else { 0 };
    let fixed = [family_of(r.dst), r.prefix, 0, 0, TABLE_MAIN, protocol, scope, 1, 0, 0, 0, 0];
    answer.open(RTM_NEWROUTE, &fixed);
    answer.attribute(15, &u32::from(TABLE_MAIN).to_ne_bytes()); // RTA_TABLE
    if r.prefix > 0 {
        attribute_ip(answer, 1, r.dst); // RTA_DST
    }
    if let Some(gateway) = r.gateway {
        attribute_ip(answer, 5, gateway); // RTA_GATEWAY
    }
    answer.attribute(4, &r.interface.to_ne_bytes()); // RTA_OIF
    if r.metric != 0 {
        answer.attribute(6, &r.metric.to_ne_bytes()); // RTA_PRIORITY
    }
    answer.close();
}

fn local_route(answer: &mut Answer, interface: &Interface, ip: Ip) {
    let prefix = if ip.is_v4() { 32 } else { 128 };
    let fixed = [family_of(ip), prefix, 0, 0, TABLE_LOCAL, 2, 254, 2, 0, 0, 0, 0];
    answer.open(RTM_NEWROUTE, &fixed);
    answer.attribute(15, &u32::from(TABLE_LOCAL).to_ne_bytes());
    attribute_ip(answer, 1, ip);
    attribute_ip(answer, 7, ip); // RTA_PREFSRC
    answer.attribute(4, &interface.index.to_ne_bytes());
    answer.close();
}

// `ip route get`: which way to one destination.
fn one_route(answer: &mut Answer, wanted: u8, body: &[u8]) {
    let dst = attributes(body.get(12..).unwrap_or(&[])).find(|(kind, _)| *kind == 1).and_then(|(_, d)| {
        if u16::from(wanted) == family::INET {
            d.first_chunk::<4>().map(|b| Ip::from_v4_bytes(*b))
        } else {
            d.first_chunk::<16>().map(|b| Ip::from_v6_bytes(*b))
        }
    });
    let Some(dst) = dst else {
        return answer.error(Errno::EINVAL.code());
    };
    let hop = match stack().route(dst, None) {
        Ok(hop) => hop,
        Err(e) => return answer.error(e.code()),
    };
    let most = if dst.is_v4() { 32 } else { 128 };
    let fixed = [family_of(dst), most, 0, 0, TABLE_MAIN, 0, 0, 1, 0, 0, 0, 0];
    answer.open(RTM_NEWROUTE, &fixed);
    answer.attribute(15, &u32::from(TABLE_MAIN).to_ne_bytes());
    attribute_ip(answer, 1, dst);
    if hop.next != dst {
        attribute_ip(answer, 5, hop.next);
    }
    answer.attribute(4, &hop.interface.index.to_ne_bytes());
    if let Ok(source) = stack().source_for(dst, 0) {
        attribute_ip(answer, 7, source);
    }
    answer.close();
}

fn neighbour(answer: &mut Answer, interface: &Interface, n: &net::NeighbourInfo) {
    let state: u16 = if n.mac.is_some() { 2 } else { 1 }; // NUD_REACHABLE, NUD_INCOMPLETE
    let mut fixed = [0u8; 12];
    fixed[0] = family_of(n.ip);
    fixed[4..8].copy_from_slice(&interface.index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    answer.open(RTM_NEWNEIGH, &fixed);
    attribute_ip(answer, 1, n.ip);
    if let Some(mac) = n.mac {
        answer.attribute(2, &mac);
    }
    answer.close();
}
