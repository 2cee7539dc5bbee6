//! Addresses. One 128-bit form for both families (IPv4 as `::ffff:a.b.c.d`), so that keys compare and hash
//! alike and a dual-stack socket needs no second table. Which packets are on the wire is decided by
//! [`Ip::is_v4`]; a mapped address in a real IPv6 packet is refused by the classifier.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const MAPPED: u128 = 0xffff_0000_0000;

/// An IPv4 or IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ip(pub u128);

impl Ip {
    /// `::`, which also stands for "any address of either family".
    pub const ANY: Self = Self(0);
    /// `0.0.0.0`.
    pub const ANY4: Self = Self(MAPPED);
    /// `255.255.255.255`.
    pub const BROADCAST: Self = Self(MAPPED | 0xffff_ffff);
    /// `127.0.0.1`.
    pub const LOOPBACK4: Self = Self(MAPPED | 0x7f00_0001);
    /// `::1`.
    pub const LOOPBACK6: Self = Self(1);
    /// `ff02::1`.
    pub const ALL_NODES: Self = Self(0xff02 << 112 | 1);
    /// `ff02::2`.
    pub const ALL_ROUTERS: Self = Self(0xff02 << 112 | 2);

    /// From the four bytes as a number in host order.
    #[inline]
    pub const fn from_v4(bits: u32) -> Self {
        Self(MAPPED | bits as u128)
    }
    /// From network bytes.
    #[inline]
    pub const fn from_v4_bytes(b: [u8; 4]) -> Self {
        Self::from_v4(u32::from_be_bytes(b))
    }
    /// From network bytes.
    #[inline]
    pub const fn from_v6_bytes(b: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(b))
    }
    /// An IPv4 address.
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == MAPPED >> 32
    }
    /// The IPv4 bits in host order (the low half of anything else).
    #[inline]
    pub const fn v4_bits(self) -> u32 {
        self.0 as u32
    }
    /// The IPv4 bytes in network order.
    #[inline]
    pub const fn v4_bytes(self) -> [u8; 4] {
        self.v4_bits().to_be_bytes()
    }
    /// The 16 bytes in network order (mapped for IPv4).
    #[inline]
    pub const fn v6_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
    /// As the standard type, IPv4 unmapped.
    pub fn to_std(self) -> IpAddr {
        if self.is_v4() { IpAddr::V4(self.to_v4()) } else { IpAddr::V6(self.to_v6()) }
    }
    /// As an IPv4 address (the low bits of anything else).
    pub fn to_v4(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.v4_bits())
    }
    /// As an IPv6 address (mapped for IPv4).
    pub fn to_v6(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.0)
    }
    /// `0.0.0.0` or `::`.
    #[inline]
    pub const fn is_unspecified(self) -> bool {
        self.0 == 0 || self.0 == MAPPED
    }
    /// `127.0.0.0/8` or `::1`.
    #[inline]
    pub const fn is_loopback(self) -> bool {
        self.0 == 1 || self.0 >> 24 == (MAPPED | 0x7f00_0000) >> 24
    }
    /// `224.0.0.0/4` or `ff00::/8`.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0 >> 120 == 0xff || self.0 >> 28 == (MAPPED | 0xe000_0000) >> 28
    }
    /// `fe80::/10`.
    #[inline]
    pub const fn is_link_local6(self) -> bool {
        self.0 >> 118 == 0xfe80 >> 6
    }
    /// A usable address of one host.
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_unspecified() && !self.is_multicast() && self != Self::BROADCAST
    }
    /// The solicited-node multicast group of an IPv6 address (RFC 4291, 2.7.1).
    pub const fn solicited_node(self) -> Self {
        Self(0xff02 << 112 | 0x1_ff00_0000 | (self.0 & 0xff_ffff))
    }
    /// True if both have the first `prefix` bits (of 32 for IPv4, of 128 for IPv6) in common.
    pub fn in_prefix(self, net: Self, prefix: u8) -> bool {
        if self.is_v4() != net.is_v4() {
            return false;
        }
        let bits = u32::from(prefix) + if self.is_v4() { 96 } else { 0 };
        bits == 0 || bits <= 128 && (self.0 ^ net.0) >> (128 - bits) == 0
    }
    /// The network part.
    pub fn mask(self, prefix: u8) -> Self {
        let bits = (u32::from(prefix) + if self.is_v4() { 96 } else { 0 }).min(128);
        Self(if bits == 0 { 0 } else { self.0 & (u128::MAX << (128 - bits)) })
    }
    /// The multicast hardware address (RFC 1112, RFC 2464).
    pub fn multicast_mac(self) -> [u8; 6] {
        let b = self.v6_bytes();
        if self.is_v4() {
            [0x01, 0x00, 0x5e, b[13] & 0x7f, b[14], b[15]]
        } else {
            [0x33, 0x33, b[12], b[13], b[14], b[15]]
        }
    }
}

impl From<Ipv4Addr> for Ip {
    fn from(a: Ipv4Addr) -> Self {
        Self::from_v4(a.to_bits())
    }
}
impl From<Ipv6Addr> for Ip {
    fn from(a: Ipv6Addr) -> Self {
        Self(a.to_bits())
    }
}
impl From<IpAddr> for Ip {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => a.into(),
            IpAddr::V6(a) => a.into(),
        }
    }
}
impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_std().fmt(f)
    }
}
impl fmt::Debug for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_std().fmt(f)
    }
}

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub ip: Ip,
    /// Port in host order.
    pub port: u16,
}

impl Endpoint {
    /// Puts both together.
    pub const fn new(ip: Ip, port: u16) -> Self {
        Self { ip, port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ip.is_v4() { write!(f, "{}:{}", self.ip, self.port) } else { write!(f, "[{}]:{}", self.ip, self.port) }
    }
}
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address family of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6.
    V6,
}

/// What names a connection: both ends, seen from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowKey {
    /// Our end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
}

impl FlowKey {
    /// A keyed hash: two folded multiplications (as wyhash), so that a peer cannot choose collisions
    /// without knowing the secret.
    #[inline]
    pub fn hash(&self, secret: [u64; 2]) -> u64 {
        let ports = u64::from(self.local.port) << 16 | u64::from(self.remote.port);
        let (l, r) = (self.local.ip.0, self.remote.ip.0);
        let first = fold(l as u64 ^ ports.rotate_left(32) ^ secret[0], r as u64 ^ secret[1]);
        let high = (l >> 64) as u64 ^ ((r >> 64) as u64).rotate_left(29);
        fold(first ^ high ^ secret[1], ports ^ secret[0])
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_addresses() {
        let ip = |s: &str| Ip::from(s.parse::<IpAddr>().unwrap());
        assert!(ip("127.3.2.1").is_loopback() && ip("::1").is_loopback());
        assert!(ip("224.0.0.251").is_multicast() && ip("ff02::1").is_multicast());
        assert!(!ip("10.0.2.15").is_multicast() && !ip("fe80::1").is_multicast());
        assert!(ip("fe80::1").is_link_local6() && !ip("fec0::1").is_link_local6());
        assert!(ip("10.0.2.15").in_prefix(ip("10.0.2.0"), 24));
        assert!(!ip("10.0.3.15").in_prefix(ip("10.0.2.0"), 24));
        assert!(ip("8.8.8.8").in_prefix(Ip::ANY4, 0) && !ip("::8").in_prefix(Ip::ANY4, 0));
        assert_eq!(ip("10.0.2.15").mask(24), ip("10.0.2.0"));
        assert_eq!(ip("fe80::12:3456").solicited_node(), ip("ff02::1:ff12:3456"));
        assert_eq!(ip("fe80::12:3456").multicast_mac(), [0x33, 0x33, 0, 0x12, 0x34, 0x56]);
    }
}
