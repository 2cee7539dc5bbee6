//! A network interface: a device or the loopback, its addresses, its neighbours, its counters.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use base::{Once, RwLock, SpinLock};
use hal_core::device::NetCaps;

use crate::addr::Ip;
use crate::dhcp::Dhcp;
use crate::env::Transmit;
use crate::ndp::Auto6;
use crate::neighbour::{NeighbourInfo, Neighbours};
use crate::timers::TimerSlot;

/// Index of the loopback interface, as on Linux.
pub const LOOPBACK: u32 = 1;

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// The address.
    pub ip: Ip,
    /// Length of the network part in bits.
    pub prefix: u8,
    /// Until then, monotonic ns, we give it up if somebody says that it is theirs (duplicate address detection).
    pub detect_until: u64,
    /// Until when it is valid, monotonic ns; `u64::MAX`: for ever.
    pub valid_until: u64,
    /// Given by a server or router, not configured.
    pub dynamic: bool,
}

/// Counters, as in /proc/net/dev.
#[derive(Default)]
pub struct Counters {
    /// Frames received.
    pub rx_packets: AtomicU64,
    /// Bytes received.
    pub rx_bytes: AtomicU64,
    /// Received frames that were malformed or failed their checksum.
    pub rx_errors: AtomicU64,
    /// Received frames for nobody, or for which there was no room.
    pub rx_dropped: AtomicU64,
    /// Frames sent.
    pub tx_packets: AtomicU64,
    /// Bytes sent.
    pub tx_bytes: AtomicU64,
    /// Packets to send that could not be delivered.
    pub tx_dropped: AtomicU64,
}

#[inline]
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    // Statistics: a lost update under contention is cheaper than a locked instruction per packet.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// A network interface.
pub struct Interface {
    /// Index, from 1.
    pub index: u32,
    /// Name, such as `lo` or `eth0`.
    pub name: String,
    /// What the device can do.
    pub caps: NetCaps,
    /// Counters.
    pub counters: Counters,
    pub(crate) device: Option<Arc<dyn Transmit>>,
    pub(crate) addresses: RwLock<Vec<Address>>,
    pub(crate) groups: SpinLock<Vec<(Ip, u32)>>,
    pub(crate) neighbours: Neighbours,
    pub(crate) neighbour_timer: TimerSlot,
    /// MTU of IPv6, which a router may lower.
    pub(crate) mtu6: AtomicU32,
    pub(crate) up: AtomicBool,
    pub(crate) dhcp: Once<Arc<Dhcp>>,
    pub(crate) auto6: Once<Arc<Auto6>>,
}

impl Interface {
    pub(crate) fn new(index: u32, name: String, caps: NetCaps, device: Option<Arc<dyn Transmit>>) -> Self {
        Self {
            index,
            name,
            mtu6: AtomicU32::new(u32::from(caps.mtu)),
            caps,
            counters: Counters::default(),
            device,
            addresses: RwLock::new(Vec::new()),
            groups: SpinLock::new(Vec::new()),
            neighbours: Neighbours::new(),
            neighbour_timer: TimerSlot::new(),
            up: AtomicBool::new(true),
            dhcp: Once::new(),
            auto6: Once::new(),
        }
    }

    /// True for `lo`.
    pub fn is_loopback(&self) -> bool {
        self.device.is_none()
    }

    /// True if it is administratively up.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<Address> {
        self.addresses.read().clone()
    }

    /// Its neighbours.
    pub fn neighbours(&self) -> Vec<NeighbourInfo> {
        self.neighbours.list()
    }

    /// Largest IP packet of the family.
    pub fn mtu(&self, v4: bool) -> usize {
        if v4 { usize::from(self.caps.mtu) } else { self.mtu6.load(Ordering::Relaxed) as usize }
    }

    /// The address to send from when `dst` is the destination (RFC 6724 reduced to what one interface
    /// needs: same family, same scope, then longest common prefix).
    pub fn source_for(&self, dst: Ip) -> Option<Ip> {
        self.addresses
            .read()
            .iter()
            .filter(|a| a.ip.is_v4() == dst.is_v4())
            .max_by_key(|a| {
                let scope = a.ip.is_link_local6() == (dst.is_link_local6() || dst.is_multicast() && !dst.is_v4());
                (scope, (a.ip.0 ^ dst.0).leading_zeros().min(96 + u32::from(a.prefix)))
            })
            .map(|a| a.ip)
    }

    /// True if `dst` is the broadcast address of one of its networks.
    pub(crate) fn is_broadcast(&self, dst: Ip) -> bool {
        dst == Ip::BROADCAST
            || dst.is_v4()
                && self.addresses.read().iter().any(|a| {
                    a.ip.is_v4() && a.prefix < 31 && dst.0 == a.ip.mask(a.prefix).0 | u128::from(u32::MAX >> a.prefix)
                })
    }

    /// True if the multicast group has been joined here (or is one that every host is in).
    pub(crate) fn in_group(&self, group: Ip) -> bool {
        if group == Ip::from_v4_bytes([224, 0, 0, 1]) || group == Ip::ALL_NODES {
            return true;
        }
        if group.0 >> 24 == (0xff02 << 112 | 0x1_ff00_0000u128) >> 24
            && self.addresses.read().iter().any(|a| a.ip.solicited_node() == group)
        {
            return true;
        }
        self.groups.lock().iter().any(|(g, _)| *g == group)
    }

    /// Joins a group once more; true if it is new.
    pub(crate) fn join(&self, group: Ip) -> bool {
        let mut groups = self.groups.lock();
        if let Some(entry) = groups.iter_mut().find(|(g, _)| *g == group) {
            entry.1 += 1;
            return false;
        }
        groups.push((group, 1));
        true
    }

    /// Takes one membership back; true if it was the last.
    pub(crate) fn leave(&self, group: Ip) -> bool {
        let mut groups = self.groups.lock();
        let Some(at) = groups.iter().position(|(g, _)| *g == group) else {
            return false;
        };
        groups[at].1 -= 1;
        if groups[at].1 == 0 {
            groups.remove(at);
            return true;
        }
        false
    }
}
