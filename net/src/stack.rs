//! The stack: its interfaces, routes and tables, the way of a packet in and out.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use base::{Errno, Once, Result, RwLock};
use hal_core::device::{NetBuf, NetCaps};

use crate::addr::{FlowKey, Ip};
use crate::arp;
use crate::checksum;
use crate::env::{Env, Transmit};
use crate::interface::{Address, Interface, LOOPBACK, count};
use crate::neighbour::Resolution;
use crate::packet::{self, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4How, Meta, protocol};
use crate::route::{Origin, Route, Routes};
use crate::tcp::Tcp;
use crate::tcp::tables::Tables;
use crate::timers::{NEVER, Timed, TimerSlot, Timers};

const MAX_INTERFACES: usize = 32;

/// What one call of the stack leaves to be done without locks: packets for this machine itself, connections that
/// have something to send, interfaces to be told.
#[derive(Default)]
pub struct Tx {
    local: VecDeque<NetBuf>,
    pub(crate) again: Vec<Arc<Tcp>>,
    dirty: u32,
}

impl Tx {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

/// The way to a destination.
#[derive(Clone)]
pub struct Hop {
    /// Interface to send on.
    pub interface: Arc<Interface>,
    /// Who gets the frame.
    pub next: Ip,
}

/// The network stack.
pub struct Stack {
    env: Arc<dyn Env>,
    secret: [u64; 2],
    interfaces: [Once<Arc<Interface>>; MAX_INTERFACES],
    interface_count: AtomicU32,
    pub(crate) routes: RwLock<Routes>,
    epoch: AtomicU64,
    timers: Timers,
    tcp: Arc<Tables>,
    ip_id: AtomicU32,
}

impl Stack {
    /// A stack with a loopback interface.
    pub fn new(env: Arc<dyn Env>) -> Arc<Self> {
        let secret = [env.random(), env.random()];
        let stack = Arc::new(Self {
            tcp: Tables::new([env.random(), env.random()]),
            ip_id: AtomicU32::new(env.random() as u32),
            env,
            secret,
            interfaces: [const { Once::new() }; MAX_INTERFACES],
            interface_count: AtomicU32::new(0),
            routes: RwLock::new(Routes::new()),
            epoch: AtomicU64::new(1),
            timers: Timers::new(),
        });
        let caps = NetCaps {
            mac: [0; 6],
            mtu: 65535,
            queues: 1,
            tx_checksum: true,
            tso4: true,
            tso6: true,
            lro: true,
        };
        let lo = stack.register("lo".to_string(), caps, None);
        if let Ok(lo) = lo {
            stack.add_address(&lo, Ip::LOOPBACK4, 8);
            stack.add_address(&lo, Ip::LOOPBACK6, 128);
        }
        stack
    }

    fn register(&self, name: String, caps: NetCaps, device: Option<Arc<dyn Transmit>>) -> Result<Arc<Interface>> {
        let slot = self.interface_count.fetch_add(1, Ordering::SeqCst);
        let place = self.interfaces.get(slot as usize).ok_or(Errno::ENFILE)?;
        Ok(place
            .call_once(|| Arc::new(Interface::new(slot + 1, name, caps, device)))
            .clone())
    }

    /// Adds a network interface, without addresses, as `eth0`, `eth1` and so on. `ENFILE` if there are too many.
    pub fn add_interface(&self, device: Arc<dyn Transmit>) -> Result<Arc<Interface>> {
        let number = self.interface_count.load(Ordering::SeqCst).saturating_sub(1);
        let caps = device.caps();
        self.register(alloc::format!("eth{number}"), caps, Some(device))
    }

    /// The world.
    #[inline]
    pub fn env(&self) -> &dyn Env {
        &*self.env
    }
    #[inline]
    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }
    #[inline]
    pub(crate) fn tcp(&self) -> &Arc<Tables> {
        &self.tcp
    }
    /// Changes whenever a route, an address or a neighbour does.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
    pub(crate) fn bump(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// The interface of this index.
    #[inline]
    pub fn interface(&self, index: u32) -> Option<&Arc<Interface>> {
        self.interfaces.get((index as usize).checked_sub(1)?)?.get()
    }
    /// All interfaces in order.
    pub fn interfaces(&self) -> impl Iterator<Item = &Arc<Interface>> {
        self.interfaces.iter().map_while(Once::get)
    }
    fn loopback(&self) -> Option<&Arc<Interface>> {
        self.interface(LOOPBACK)
    }
    /// All TCP sockets that are connected or listening.
    pub fn tcp_sockets(&self) -> Vec<Arc<Tcp>> {
        self.tcp.all()
    }
    /// Connections in the table, and how many of these are in TIME-WAIT.
    pub fn tcp_count(&self) -> (usize, usize) {
        self.tcp.count()
    }

    /// Gives an interface an address at once, and the route to its network.
    pub fn add_address(&self, interface: &Arc<Interface>, ip: Ip, prefix: u8) {
        self.insert_address(
            interface,
            Address { ip, prefix, tentative: false, valid_until: NEVER, dynamic: false },
        );
        if ip.is_v4() && !interface.is_loopback() {
            let mut tx = Tx::new();
            arp::announce(self, interface, ip, &mut tx);
            self.flush(&mut tx);
        }
    }

    pub(crate) fn insert_address(&self, interface: &Arc<Interface>, address: Address) {
        let mut list = interface.addresses.write();
        list.retain(|a| a.ip != address.ip);
        list.push(address);
        drop(list);
        let most = if address.ip.is_v4() { 32 } else { 128 };
        if address.prefix < most {
            self.routes.write().add(Route {
                dst: address.ip.mask(address.prefix),
                prefix: address.prefix,
                gateway: None,
                interface: interface.index,
                metric: 0,
                origin: Origin::Kernel,
            });
        }
        self.bump();
    }

    /// Takes an address away, and the route to its network if no other address needs it.
    pub fn remove_address(&self, interface: &Arc<Interface>, ip: Ip) {
        let mut list = interface.addresses.write();
        let Some(at) = list.iter().position(|a| a.ip == ip) else {
            return;
        };
        let gone = list.remove(at);
        let net = ip.mask(gone.prefix);
        let needed = list.iter().any(|a| a.prefix == gone.prefix && a.ip.mask(a.prefix) == net);
        drop(list);
        if !needed {
            self.routes.write().remove(|r| {
                r.interface == interface.index && r.origin == Origin::Kernel && r.prefix == gone.prefix && r.dst == net
            });
        }
        self.bump();
    }

    /// Adds a route.
    pub fn add_route(&self, route: Route) {
        self.routes.write().add(route);
        self.bump();
    }

    /// The routing table.
    pub fn routes(&self) -> Vec<Route> {
        self.routes.read().all().to_vec()
    }

    /// True if packets to `ip` are for this machine.
    pub fn is_local(&self, ip: Ip) -> bool {
        ip.is_loopback() || self.interfaces().any(|i| i.addresses.read().iter().any(|a| a.ip == ip && !a.tentative))
    }

    /// Finds the way to `dst`. `ENETUNREACH` if there is none.
    pub fn route(&self, dst: Ip, only: Option<u32>) -> Result<Hop> {
        if self.is_local(dst) {
            let interface = self.loopback().ok_or(Errno::ENETUNREACH)?.clone();
            return Ok(Hop { interface, next: dst });
        }
        let to = |index, next| {
            let interface = self.interface(index).ok_or(Errno::ENETUNREACH)?.clone();
            Ok(Hop { interface, next })
        };
        if let Some(route) = self.routes.read().lookup(dst, only) {
            let on_link = dst.is_multicast() || dst == Ip::BROADCAST;
            return to(route.interface, route.gateway.filter(|_| !on_link).unwrap_or(dst));
        }
        if let Some(index) = only {
            return to(index, dst); // the caller knows better
        }
        if dst.is_multicast() || dst == Ip::BROADCAST || dst.is_link_local6() {
            let first = self.interfaces().find(|i| !i.is_loopback() && i.is_up());
            return to(first.ok_or(Errno::ENETUNREACH)?.index, dst);
        }
        Err(Errno::ENETUNREACH)
    }

    /// The address from which to speak to `dst`.
    pub fn source_for(&self, dst: Ip, device: u32) -> Result<Ip> {
        let hop = self.route(dst, (device != 0).then_some(device))?;
        if hop.interface.is_loopback() {
            return Ok(dst); // speaking to itself
        }
        hop.interface.source_for(dst).ok_or(Errno::EADDRNOTAVAIL)
    }

    /// RFC 6528: sequence numbers that grow with time for each pair of endpoints, unpredictable from outside.
    pub(crate) fn initial_sequence(&self, key: &FlowKey, now: u64) -> u32 {
        ((key.hash(self.secret) >> 16) as u32).wrapping_add((now / 4096) as u32)
    }

    pub(crate) fn next_ip_id(&self) -> u16 {
        self.ip_id.fetch_add(1, Ordering::Relaxed) as u16
    }

    // ---- in ----

    /// Takes a batch of received Ethernet frames and leaves the vector empty, its memory kept.
    pub fn input(self: &Arc<Self>, interface: &Arc<Interface>, batch: &mut Vec<NetBuf>) {
        let now = self.env.now_ns();
        let mut tx = Tx::new();
        for frame in batch.drain(..) {
            self.frame(interface, frame, now, &mut tx);
        }
        self.finish(&mut tx, now);
    }

    fn frame(self: &Arc<Self>, interface: &Arc<Interface>, mut buf: NetBuf, now: u64, tx: &mut Tx) {
        count(&interface.counters.rx_packets, 1);
        count(&interface.counters.rx_bytes, packet::total_len(&buf) as u64);
        let Some(h) = buf.bytes().first_chunk::<ETHERNET_LEN>() else {
            count(&interface.counters.rx_errors, 1);
            return;
        };
        let kind = u16::from_be_bytes([h[12], h[13]]);
        let for_us = h[0] & 1 != 0 || h[..6] == interface.caps.mac;
        buf.pull_front(ETHERNET_LEN);
        if !for_us || !interface.is_up() {
            count(&interface.counters.rx_dropped, 1);
            return;
        }
        match kind {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => self.ip_input(interface, buf, now, tx),
            ETHERTYPE_ARP => arp::input(self, interface, &buf, now, tx),
            _ => count(&interface.counters.rx_dropped, 1),
        }
    }

    fn ip_input(self: &Arc<Self>, interface: &Arc<Interface>, mut buf: NetBuf, now: u64, tx: &mut Tx) {
        let Some((meta, fragment)) = packet::parse_ip(&mut buf, interface.index) else {
            count(&interface.counters.rx_errors, 1);
            return;
        };
        if !interface.is_loopback() && (meta.src.is_loopback() || meta.dst.is_loopback()) {
            count(&interface.counters.rx_dropped, 1); // martians
            return;
        }
        if fragment.is_some() {
            count(&interface.counters.rx_dropped, 1);
            return;
        }
        self.transport(interface, meta, buf, now, tx);
    }

    fn transport(self: &Arc<Self>, interface: &Arc<Interface>, meta: Meta, buf: NetBuf, now: u64, tx: &mut Tx) {
        match meta.protocol {
            protocol::TCP => self.tcp_input(interface, &meta, buf, now, tx),
            _ => count(&interface.counters.rx_dropped, 1),
        }
    }

    // ---- out ----

    /// Queues a whole frame.
    #[inline]
    pub(crate) fn push_frame(&self, interface: &Interface, buf: NetBuf, tx: &mut Tx) {
        count(&interface.counters.tx_packets, 1);
        count(&interface.counters.tx_bytes, buf.len() as u64);
        if let Some(device) = &interface.device {
            device.push(buf);
            tx.dirty |= 1 << (interface.index - 1);
        }
    }

    /// Puts the Ethernet header before a packet and queues it.
    pub(crate) fn push_with_header(&self, interface: &Interface, to: [u8; 6], kind: u16, mut buf: NetBuf, tx: &mut Tx) {
        let checksum = buf.offload.checksum.map(|(at, field)| (at + ETHERNET_LEN as u16, field));
        buf.offload.checksum = checksum;
        if let Some(cut) = &mut buf.offload.segment {
            cut.header_len += ETHERNET_LEN as u16;
        }
        let Some(h) = buf.push_front(ETHERNET_LEN) else {
            count(&interface.counters.tx_dropped, 1);
            return;
        };
        h[..6].copy_from_slice(&to);
        h[6..12].copy_from_slice(&interface.caps.mac);
        h[12..].copy_from_slice(&kind.to_be_bytes());
        self.push_frame(interface, buf, tx);
    }

    /// Sends an IP packet (headers written, no link header) to a neighbour.
    pub(crate) fn send_packet(&self, interface: &Arc<Interface>, next: Ip, buf: NetBuf, now: u64, tx: &mut Tx) {
        if interface.is_loopback() {
            count(&interface.counters.tx_packets, 1);
            count(&interface.counters.tx_bytes, buf.len() as u64);
            tx.local.push_back(buf);
            return;
        }
        let kind = if next.is_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        if next.is_multicast() {
            return self.push_with_header(interface, next.multicast_mac(), kind, buf, tx);
        }
        if next.is_v4() && interface.is_broadcast(next) {
            return self.push_with_header(interface, [0xff; 6], kind, buf, tx);
        }
        match interface.neighbours.resolve(next, buf, now) {
            Resolution::Known(mac, buf) => self.push_with_header(interface, mac, kind, buf, tx),
            Resolution::Wait => {}
            Resolution::Ask => {
                self.ask(interface, next, None, tx);
                self.timers.set(self.env(), interface, now + 1_000_000_000);
            }
        }
    }

    fn ask(&self, interface: &Arc<Interface>, ip: Ip, to: Option<[u8; 6]>, tx: &mut Tx) {
        if ip.is_v4() {
            arp::request(self, interface, ip, to, tx);
        }
    }

    /// Takes news of a neighbour and sends what waited for it.
    pub(crate) fn learn(&self, interface: &Arc<Interface>, ip: Ip, mac: [u8; 6], create: bool, now: u64, tx: &mut Tx) {
        let (waiting, changed) = interface.neighbours.learn(ip, mac, create, now);
        let kind = if ip.is_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        for buf in waiting {
            self.push_with_header(interface, mac, kind, buf, tx);
        }
        if changed {
            self.bump();
            self.timers.set(self.env(), interface, now + 30_000_000_000);
        }
    }

    /// Writes the IP header before a transport packet and sends it. The header's room is in front.
    pub(crate) fn send_ip(&self, hop: &Hop, how: SendIp, mut buf: NetBuf, now: u64, tx: &mut Tx) {
        let payload = buf.len();
        let header = if how.dst.is_v4() { 20 } else { 40 };
        buf.offload.checksum = buf.offload.checksum.map(|(at, field)| (at + header as u16, field));
        let Some(h) = buf.push_front(header) else {
            count(&hop.interface.counters.tx_dropped, 1);
            return;
        };
        if how.dst.is_v4() {
            let v4 = Ipv4How {
                ttl: how.ttl,
                tos: how.tos,
                id: if how.dont_fragment { 0 } else { self.next_ip_id() },
                flags: if how.dont_fragment { 0x4000 } else { 0 },
            };
            packet::write_v4(h, how.src, how.dst, how.protocol, payload, v4);
        } else {
            packet::write_v6(h, how.src, how.dst, how.protocol, payload, how.ttl, how.tos);
        }
        self.send_packet(&hop.interface, hop.next, buf, now, tx);
    }

    // ---- work that is left ----

    /// Does what a call has left: delivers packets to this machine, lets connections send, tells devices. Holds
    /// no lock.
    #[inline]
    pub(crate) fn finish(self: &Arc<Self>, tx: &mut Tx, now: u64) {
        while !tx.local.is_empty() || !tx.again.is_empty() {
            while let Some(buf) = tx.local.pop_front() {
                if let Some(lo) = self.loopback() {
                    count(&lo.counters.rx_packets, 1);
                    count(&lo.counters.rx_bytes, buf.len() as u64);
                    self.ip_input(lo, buf, now, tx);
                }
            }
            for flow in core::mem::take(&mut tx.again) {
                flow.run_output(now, tx);
            }
        }
        if tx.dirty != 0 {
            self.flush(tx);
        }
    }

    fn flush(&self, tx: &mut Tx) {
        let mut dirty = core::mem::take(&mut tx.dirty);
        while dirty != 0 {
            let index = dirty.trailing_zeros();
            dirty &= dirty - 1;
            if let Some(device) = self.interface(index + 1).and_then(|i| i.device.as_ref()) {
                device.flush();
            }
        }
    }

    /// Runs every timer that is due; asks for the next call through [`Env::set_timer`].
    pub fn run_timers(self: &Arc<Self>) {
        let now = self.env.now_ns();
        let mut tx = Tx::new();
        self.timers.run(self, now, &mut tx);
        self.finish(&mut tx, now);
    }

    /// When the next timer is due, monotonic ns; `u64::MAX`: none is.
    pub fn next_timer(&self) -> u64 {
        self.timers.next()
    }
}

/// The fields of an IP header to send.
#[derive(Clone, Copy)]
pub(crate) struct SendIp {
    pub src: Ip,
    pub dst: Ip,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    pub dont_fragment: bool,
}

impl Timed for Interface {
    fn slot(&self) -> &TimerSlot {
        &self.neighbour_timer
    }

    fn on_timer(self: Arc<Self>, stack: &Arc<Stack>, now: u64, tx: &mut Tx) -> u64 {
        let todo = self.neighbours.upkeep(now);
        for (ip, mac) in todo.ask {
            stack.ask(&self, ip, mac, tx);
        }
        if todo.changed {
            stack.bump();
        }
        count(&self.counters.tx_dropped, todo.failed.len() as u64);
        todo.next.unwrap_or(NEVER)
    }
}

/// True if the transport checksum over the pseudo-header is right, or known to be.
pub(crate) fn checksum_good(meta: &Meta, buf: &NetBuf) -> bool {
    if meta.valid {
        return true;
    }
    let pseudo = checksum::pseudo(meta.src, meta.dst, meta.protocol);
    let sum = packet::sum(buf, checksum::add_len(pseudo, packet::total_len(buf)));
    checksum::fold(sum) == 0xffff
}
