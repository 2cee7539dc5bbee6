//! Neighbour discovery (RFC 4861) and stateless address configuration (RFC 4862); formats by smoltcp.
//!
//! Duplicate detection is optimistic (RFC 4429): an address is used at once and taken away when somebody says
//! that it is theirs, because a program must not wait a second for its address.

use alloc::sync::Arc;

use base::SpinLock;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscPrefixInfoFlags, NdiscRepr, RawHardwareAddress,
};

use crate::addr::Ip;
use crate::icmp;
use crate::interface::{Address, Interface};
use crate::packet::Meta;
use crate::route::{Origin, Route};
use crate::stack::{Hop, Stack, Tx};
use crate::timers::{NEVER, Timed, TimerSlot};

const SECOND: u64 = 1_000_000_000;
/// RFC 4861, 10.
const SOLICITATIONS: u8 = 3;
/// How long somebody may say that our new address is theirs.
pub(crate) const DETECTION: u64 = 2 * SECOND;
const SOLICITATION_INTERVAL: u64 = 4 * SECOND;

fn mac_of(address: &Option<RawHardwareAddress>) -> Option<[u8; 6]> {
    address.as_ref()?.as_bytes().first_chunk().copied()
}

/// Takes an NDP message; the hop limit was checked.
pub(crate) fn input(
    stack: &Arc<Stack>,
    interface: &Arc<Interface>,
    meta: &Meta,
    message: &NdiscRepr<'_>,
    now: u64,
    tx: &mut Tx,
) {
    match message {
        NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
            let target = Ip::from(*target_addr);
            if !interface.addresses().iter().any(|a| a.ip == target) {
                return;
            }
            let duplicate_detection = meta.src.is_unspecified();
            if let (Some(mac), false) = (mac_of(lladdr), duplicate_detection) {
                stack.learn(interface, meta.src, mac, true, now, tx);
            }
            let to = if duplicate_detection { Ip::ALL_NODES } else { meta.src };
            advertise(stack, interface, target, to, !duplicate_detection, now, tx);
        }
        NdiscRepr::NeighborAdvert { target_addr, lladdr, .. } => {
            let target = Ip::from(*target_addr);
            if let Some(ours) = interface.addresses().iter().find(|a| a.ip == target) {
                if now >= ours.detect_until {
                    return; // too late: nobody on the link shall take addresses away from us (RFC 4862, 5.4.4)
                }
                log::warn!("{}: {target} is used by another host; not using it", interface.name);
                stack.remove_address(interface, target);
                return;
            }
            if let Some(mac) = mac_of(lladdr) {
                stack.learn(interface, target, mac, false, now, tx);
            }
        }
        NdiscRepr::RouterAdvert { router_lifetime, lladdr, mtu, prefix_info, .. } => {
            let Some(auto) = interface.auto6.get() else { return };
            if !meta.src.is_link_local6() {
                return;
            }
            if let Some(mac) = mac_of(lladdr) {
                stack.learn(interface, meta.src, mac, true, now, tx);
            }
            if let Some(mtu) = mtu
                && (1280..=u32::from(interface.caps.mtu)).contains(mtu)
            {
                interface.mtu6.store(*mtu, core::sync::atomic::Ordering::Relaxed);
            }
            let mut state = auto.state.lock();
            state.left = 0;
            state.next = NEVER;
            let route = Route {
                dst: Ip::ANY,
                prefix: 0,
                gateway: Some(meta.src),
                interface: interface.index,
                metric: 1024,
                origin: Origin::Ra,
            };
            if *router_lifetime == Duration::ZERO {
                state.router_until = NEVER;
                drop(state);
                stack.routes.write().remove(|r| *r == route);
                stack.bump();
            } else {
                state.router_until = now.saturating_add(router_lifetime.total_millis().saturating_mul(1_000_000));
                drop(state);
                stack.add_route(route);
            }
            if let Some(prefix) = prefix_info {
                on_prefix(stack, interface, prefix, now, tx);
            }
            auto.rearm(stack, interface, now);
        }
        _ => {}
    }
}

fn on_prefix(
    stack: &Arc<Stack>,
    interface: &Arc<Interface>,
    prefix: &smoltcp::wire::NdiscPrefixInformation,
    now: u64,
    tx: &mut Tx,
) {
    let net = Ip::from(prefix.prefix);
    if net.is_link_local6() || net.is_multicast() || net.is_v4() || net.is_unspecified() {
        return;
    }
    if prefix.flags.contains(NdiscPrefixInfoFlags::ON_LINK) && prefix.prefix_len <= 128 {
        stack.add_route(Route {
            dst: net.mask(prefix.prefix_len),
            prefix: prefix.prefix_len,
            gateway: None,
            interface: interface.index,
            metric: 256,
            origin: Origin::Ra,
        });
    }
    if !prefix.is_valid_prefix_info() || prefix.prefix_len != 64 {
        return;
    }
    let lifetime = prefix.valid_lifetime.total_millis().saturating_mul(1_000_000);
    let ip = Ip(net.mask(64).0 | u128::from(interface_id(interface.caps.mac)));
    let known = interface.addresses().iter().any(|a| a.ip == ip);
    if lifetime == 0 {
        return; // RFC 4862, 5.5.3 e: an attacker must not end addresses at once
    }
    if !known && interface.addresses().len() >= 16 {
        return;
    }
    stack.insert_address(
        interface,
        Address {
            ip,
            prefix: 64,
            valid_until: now.saturating_add(lifetime),
            dynamic: true,
            detect_until: if known { 0 } else { now + DETECTION },
        },
    );
    if !known {
        detect_duplicates(stack, interface, ip, now, tx);
    }
}

/// The modified EUI-64 of a hardware address (RFC 4291, appendix A).
fn interface_id(mac: [u8; 6]) -> u64 {
    u64::from_be_bytes([mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]])
}

fn emit(stack: &Stack, interface: &Arc<Interface>, src: Ip, dst: Ip, message: NdiscRepr<'_>, now: u64, tx: &mut Tx) {
    let repr = Icmpv6Repr::Ndisc(message);
    let mut bytes = alloc::vec![0; repr.buffer_len()];
    repr.emit(
        &src.to_v6(),
        &dst.to_v6(),
        &mut Icmpv6Packet::new_unchecked(&mut bytes[..]),
        &ChecksumCapabilities::ignored(),
    );
    let hop = Hop { interface: interface.clone(), next: dst };
    icmp::send_over(stack, &hop, src, dst, 255, bytes, now, tx);
}

fn advertise(stack: &Stack, interface: &Arc<Interface>, target: Ip, to: Ip, solicited: bool, now: u64, tx: &mut Tx) {
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    if solicited {
        flags |= NdiscNeighborFlags::SOLICITED;
    }
    let message = NdiscRepr::NeighborAdvert {
        flags,
        target_addr: target.to_v6(),
        lladdr: Some(RawHardwareAddress::from_bytes(&interface.caps.mac)),
    };
    emit(stack, interface, target, to, message, now, tx);
}

/// Asks who has `target`: the group, or the one who had it.
pub(crate) fn solicit(stack: &Stack, interface: &Arc<Interface>, target: Ip, known: bool, now: u64, tx: &mut Tx) {
    let Some(source) = interface.source_for(target) else { return };
    let to = if known { target } else { target.solicited_node() };
    let message = NdiscRepr::NeighborSolicit {
        target_addr: target.to_v6(),
        lladdr: Some(RawHardwareAddress::from_bytes(&interface.caps.mac)),
    };
    emit(stack, interface, source, to, message, now, tx);
}

/// Asks once whether somebody else has our new address.
pub(crate) fn detect_duplicates(stack: &Stack, interface: &Arc<Interface>, ip: Ip, now: u64, tx: &mut Tx) {
    let message = NdiscRepr::NeighborSolicit { target_addr: ip.to_v6(), lladdr: None };
    emit(stack, interface, Ip::ANY, ip.solicited_node(), message, now, tx);
}

struct AutoState {
    /// Router solicitations still to send.
    left: u8,
    next: u64,
    router_until: u64,
}

/// Stateless configuration of one interface.
pub(crate) struct Auto6 {
    interface: Arc<Interface>,
    state: SpinLock<AutoState>,
    slot: TimerSlot,
}

impl Auto6 {
    /// Gives the interface its link-local address and starts to look for routers.
    pub fn start(stack: &Arc<Stack>, interface: &Arc<Interface>, routers: bool, now: u64, tx: &mut Tx) {
        let ip = Ip(0xfe80 << 112 | u128::from(interface_id(interface.caps.mac)));
        stack.insert_address(
            interface,
            Address { ip, prefix: 64, valid_until: NEVER, dynamic: false, detect_until: now + DETECTION },
        );
        detect_duplicates(stack, interface, ip, now, tx);
        if !routers {
            return;
        }
        let auto = interface.auto6.call_once(|| {
            Arc::new(Self {
                interface: interface.clone(),
                state: SpinLock::new(AutoState { left: SOLICITATIONS, next: now, router_until: NEVER }),
                slot: TimerSlot::new(),
            })
        });
        stack.timers().set(stack.env(), auto, now);
    }

    fn rearm(self: &Arc<Self>, stack: &Stack, interface: &Interface, now: u64) {
        let at = self.due(interface);
        if at != NEVER {
            stack.timers().set(stack.env(), self, at.max(now));
        }
    }

    fn due(&self, interface: &Interface) -> u64 {
        let state = self.state.lock();
        let addresses = interface.addresses.read();
        let first = addresses.iter().filter(|a| !a.ip.is_v4()).map(|a| a.valid_until).min();
        state.next.min(state.router_until).min(first.unwrap_or(NEVER))
    }
}

impl Timed for Auto6 {
    fn slot(&self) -> &TimerSlot {
        &self.slot
    }

    fn on_timer(self: Arc<Self>, stack: &Arc<Stack>, now: u64, tx: &mut Tx) -> u64 {
        let interface = &self.interface;
        let mut state = self.state.lock();
        let solicit = now >= state.next && state.left > 0;
        if solicit {
            state.left -= 1;
            state.next = if state.left > 0 { now + SOLICITATION_INTERVAL } else { NEVER };
        } else if now >= state.next {
            state.next = NEVER;
        }
        let lost = now >= state.router_until;
        if lost {
            state.router_until = NEVER;
        }
        drop(state);
        if solicit && let Some(source) = interface.source_for(Ip::ALL_ROUTERS) {
            let message =
                NdiscRepr::RouterSolicit { lladdr: Some(RawHardwareAddress::from_bytes(&interface.caps.mac)) };
            emit(stack, interface, source, Ip::ALL_ROUTERS, message, now, tx);
        }
        if lost {
            stack
                .routes
                .write()
                .remove(|r| r.interface == interface.index && r.origin == Origin::Ra && r.gateway.is_some());
            stack.bump();
        }
        let old: alloc::vec::Vec<Ip> =
            interface.addresses().iter().filter(|a| !a.ip.is_v4() && a.valid_until <= now).map(|a| a.ip).collect();
        for ip in old {
            stack.remove_address(interface, ip);
        }
        self.due(interface)
    }
}
