//! The DHCPv4 client (RFC 2131); messages by smoltcp.

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::SpinLock;
use hal_core::device::NetBuf;
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

use crate::addr::Ip;
use crate::checksum;
use crate::interface::{Address, Interface};
use crate::packet::{self, protocol};
use crate::route::{Origin, Route};
use crate::stack::{Hop, Stack, Tx};
use crate::timers::{NEVER, Timed, TimerSlot};
use crate::transmit::SendIp;

const SECOND: u64 = 1_000_000_000;
const MAX_RETRY: u64 = 64 * SECOND;
/// subnet mask, router, DNS servers, MTU would be 26; lease, renewal and rebinding times.
const PARAMETERS: &[u8] = &[1, 3, 6, 51, 58, 59];

enum Phase {
    /// Nobody has offered anything yet.
    Discover,
    /// This was offered, by this server, and we ask for it.
    Request { ip: Ip, server: Ip },
    /// We have an address: renew it, ask anybody for it, give it up at these times.
    Bound { ip: Ip, server: Ip, renew: u64, rebind: u64, end: u64 },
}

struct State {
    phase: Phase,
    transaction: u32,
    started: u64,
    next: u64,
    retry: u64,
    dns: Vec<Ip>,
}

/// The client of one interface.
pub(crate) struct Dhcp {
    interface: Arc<Interface>,
    state: SpinLock<State>,
    slot: TimerSlot,
}

impl Dhcp {
    /// Starts to look for a server.
    pub fn start(stack: &Arc<Stack>, interface: &Arc<Interface>, now: u64) {
        let dhcp = interface.dhcp.call_once(|| {
            Arc::new(Self {
                interface: interface.clone(),
                state: SpinLock::new(State {
                    phase: Phase::Discover,
                    transaction: stack.env().random() as u32,
                    started: now,
                    next: now,
                    retry: SECOND,
                    dns: Vec::new(),
                }),
                slot: TimerSlot::new(),
            })
        });
        stack.timers().set(stack.env(), dhcp, now);
    }

    /// Name servers that came with the lease.
    pub fn dns(&self) -> Vec<Ip> {
        self.state.lock().dns.clone()
    }

    fn lose(&self, stack: &Stack, state: &mut State, ip: Ip, now: u64) {
        let index = self.interface.index;
        stack.remove_address(&self.interface, ip);
        stack.routes.write().remove(|r| r.interface == index && r.origin == Origin::Dhcp);
        stack.bump();
        state.phase = Phase::Discover;
        state.started = now;
        state.retry = SECOND;
        state.dns = Vec::new();
    }

    fn message(&self, stack: &Arc<Stack>, state: &State, now: u64, tx: &mut Tx) {
        let any = Ip::ANY4.to_v4();
        let mac = EthernetAddress(self.interface.caps.mac);
        let mut repr = DhcpRepr {
            message_type: DhcpMessageType::Request,
            transaction_id: state.transaction,
            secs: ((now - state.started) / SECOND).min(65535) as u16,
            client_hardware_address: mac,
            client_ip: any,
            your_ip: any,
            server_ip: any,
            router: None,
            subnet_mask: None,
            relay_agent_ip: any,
            broadcast: false,
            requested_ip: None,
            client_identifier: Some(mac),
            server_identifier: None,
            parameter_request_list: Some(PARAMETERS),
            dns_servers: None,
            max_size: Some(1432),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let (mut src, mut dst) = (Ip::ANY4, Ip::BROADCAST);
        match state.phase {
            Phase::Discover => repr.message_type = DhcpMessageType::Discover,
            Phase::Request { ip, server } => {
                repr.requested_ip = Some(ip.to_v4());
                repr.server_identifier = Some(server.to_v4());
            }
            Phase::Bound { ip, server, rebind, .. } => {
                repr.client_ip = ip.to_v4();
                src = ip;
                if now < rebind {
                    dst = server;
                }
            }
        }
        let len = 8 + repr.buffer_len();
        let mut buf = NetBuf::new(len);
        buf.set_len(len);
        if repr.emit(&mut DhcpPacket::new_unchecked(&mut buf.bytes_mut()[8..])).is_err() {
            return;
        }
        let b = buf.bytes_mut();
        b[..6].copy_from_slice(&[0, 68, 0, 67, (len >> 8) as u8, len as u8]);
        let pseudo = checksum::add_len(checksum::pseudo(src, dst, protocol::UDP), len);
        let sum = checksum::finish(checksum::add(pseudo, b));
        b[6..8].copy_from_slice(&sum);
        let how = SendIp { src, dst, protocol: protocol::UDP, ttl: 64, tos: 0x10, dont_fragment: false };
        let hop = match stack.route(dst, Some(self.interface.index)) {
            Ok(hop) if dst != Ip::BROADCAST => hop,
            _ => Hop { interface: self.interface.clone(), next: dst },
        };
        stack.send_ip(&hop, how, buf, now, tx);
    }

    fn offer(&self, stack: &Arc<Stack>, repr: &DhcpRepr<'_>, now: u64, tx: &mut Tx) {
        let mut state = self.state.lock();
        if repr.transaction_id != state.transaction || repr.client_hardware_address.0 != self.interface.caps.mac {
            return;
        }
        let server = repr.server_identifier.unwrap_or(repr.server_ip);
        let (ip, server) = (Ip::from(repr.your_ip), Ip::from(server));
        match (repr.message_type, &state.phase) {
            (DhcpMessageType::Offer, Phase::Discover) => {
                if !ip.is_unicast() || ip.is_loopback() {
                    return;
                }
                state.phase = Phase::Request { ip, server };
                state.retry = SECOND;
                state.next = now + SECOND;
                self.message(stack, &state, now, tx);
            }
            (DhcpMessageType::Ack, Phase::Request { ip: asked, .. } | Phase::Bound { ip: asked, .. }) => {
                if ip != *asked || !ip.is_unicast() {
                    return;
                }
                self.bind(stack, &mut state, repr, ip, server, now, tx);
            }
            (DhcpMessageType::Nak, Phase::Request { server: from, .. }) if *from == server => {
                state.phase = Phase::Discover;
                state.next = now + SECOND;
            }
            (DhcpMessageType::Nak, Phase::Bound { ip, .. }) => {
                let ip = *ip;
                self.lose(stack, &mut state, ip, now);
                state.next = now + SECOND;
            }
            _ => {}
        }
        let next = state.next;
        drop(state);
        if let Some(dhcp) = self.interface.dhcp.get() {
            stack.timers().set(stack.env(), dhcp, next);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn bind(
        &self,
        stack: &Arc<Stack>,
        state: &mut State,
        repr: &DhcpRepr<'_>,
        ip: Ip,
        server: Ip,
        now: u64,
        tx: &mut Tx,
    ) {
        let mask = repr.subnet_mask.map_or(u32::MAX << 8, |m| m.to_bits());
        let prefix = mask.leading_ones() as u8;
        let lease = u64::from(repr.lease_duration.unwrap_or(3600).max(60)) * SECOND;
        let renew = repr.renew_duration.map_or(lease / 2, |s| u64::from(s) * SECOND).min(lease);
        let rebind = repr.rebind_duration.map_or(lease / 8 * 7, |s| u64::from(s) * SECOND).clamp(renew, lease);
        let first = !matches!(state.phase, Phase::Bound { .. });
        stack.insert_address(
            &self.interface,
            Address { ip, prefix, valid_until: now + lease, dynamic: true, detect_until: 0 },
        );
        if let Some(router) = repr.router {
            stack.add_route(Route {
                dst: Ip::ANY4,
                prefix: 0,
                gateway: Some(router.into()),
                interface: self.interface.index,
                metric: 100,
                origin: Origin::Dhcp,
            });
        }
        state.dns = repr.dns_servers.iter().flatten().map(|a| Ip::from(*a)).collect();
        state.phase = Phase::Bound { ip, server, renew: now + renew, rebind: now + rebind, end: now + lease };
        state.next = now + renew;
        state.transaction = stack.env().random() as u32;
        if first {
            log::info!("{}: {ip}/{prefix} from DHCP server {server}", self.interface.name);
            crate::arp::announce(stack, &self.interface, ip, tx);
        }
    }
}

/// Takes a datagram to port 68 (UDP header in front); true if it was the client's.
pub(crate) fn input(stack: &Arc<Stack>, interface: &Arc<Interface>, buf: &NetBuf, now: u64, tx: &mut Tx) -> bool {
    let Some(dhcp) = interface.dhcp.get() else {
        return false;
    };
    let bytes = packet::flatten(buf);
    let body = &bytes[8..];
    if let Ok(message) = DhcpPacket::new_checked(body)
        && let Ok(repr) = DhcpRepr::parse(&message)
    {
        dhcp.offer(stack, &repr, now, tx);
    }
    true
}

impl Timed for Dhcp {
    fn slot(&self) -> &TimerSlot {
        &self.slot
    }

    fn on_timer(self: Arc<Self>, stack: &Arc<Stack>, now: u64, tx: &mut Tx) -> u64 {
        let mut state = self.state.lock();
        if now < state.next {
            return state.next;
        }
        match state.phase {
            Phase::Request { .. } if state.retry > 8 * SECOND => {
                state.phase = Phase::Discover;
                state.retry = SECOND;
            }
            Phase::Bound { ip, end, .. } if now >= end => {
                log::warn!("{}: the lease of {ip} ran out", self.interface.name);
                self.lose(stack, &mut state, ip, now);
            }
            _ => {}
        }
        self.message(stack, &state, now, tx);
        let jitter = stack.env().random() % (SECOND / 4);
        state.next = match state.phase {
            Phase::Bound { renew, rebind, end, .. } => {
                // Half of what is left of this phase, but not more often than once a minute (RFC 2131, 4.4.5).
                let border = if now < rebind { rebind } else { end };
                let _ = renew;
                (now + ((border.saturating_sub(now)) / 2).max(60 * SECOND))
                    .min(border.max(now + SECOND))
                    .min(end.max(now + SECOND))
            }
            _ => {
                let wait = state.retry;
                state.retry = (state.retry * 2).min(MAX_RETRY);
                now + wait + jitter
            }
        };
        if state.next == NEVER { NEVER } else { state.next }
    }
}
