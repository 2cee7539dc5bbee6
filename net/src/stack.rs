//! The stack: its interfaces, routes and tables, the way of a packet in and out.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use base::{Errno, Once, Result, RwLock, SpinLock};
use hal_core::device::{NetBuf, NetCaps};

use crate::addr::{FlowKey, Ip};
use crate::env::{Env, Transmit};
use crate::fragment::Reassembly;
use crate::interface::{Address, Interface, LOOPBACK, count};
use crate::route::{Origin, Route, Routes};
use crate::tcp::Tcp;
use crate::tcp::tables::Tables;
use crate::timers::{NEVER, Timed, TimerSlot, Timers};
use crate::{arp, icmp, udp};

const MAX_INTERFACES: usize = 32;

/// What one call of the stack leaves to be done without locks: packets for this machine itself, connections that
/// have something to send, interfaces to be told.
#[derive(Default)]
pub struct Tx {
    pub(crate) local: VecDeque<NetBuf>,
    pub(crate) again: Vec<Arc<Tcp>>,
    pub(crate) dirty: u32,
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
    udp: udp::Table,
    pub(crate) reassembly: Reassembly,
    icmp_limit: icmp::Limit,
    pub(crate) static_dns: SpinLock<Vec<Ip>>,
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
            udp: udp::Table::new(),
            reassembly: Reassembly::new(),
            icmp_limit: icmp::Limit::new(),
            static_dns: SpinLock::new(Vec::new()),
        });
        let caps = NetCaps { mac: [0; 6], mtu: 65535, queues: 1, tx_checksum: true, tso4: true, tso6: true, lro: true };
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
        Ok(place.call_once(|| Arc::new(Interface::new(slot + 1, name, caps, device))).clone())
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
    pub(crate) fn udp(&self) -> &udp::Table {
        &self.udp
    }
    pub(crate) fn icmp_limit(&self) -> &icmp::Limit {
        &self.icmp_limit
    }
    pub(crate) fn secret(&self) -> u64 {
        self.secret[0]
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
    /// All bound UDP sockets.
    pub fn udp_sockets(&self) -> Vec<Arc<udp::Udp>> {
        self.udp.all()
    }
    /// The interface that has this address.
    pub(crate) fn interface_of(&self, ip: Ip) -> Option<u32> {
        self.interfaces().find(|i| i.addresses.read().iter().any(|a| a.ip == ip)).map(|i| i.index)
    }
    /// Connections in the table, and how many of these are in TIME-WAIT.
    pub fn tcp_count(&self) -> (usize, usize) {
        self.tcp.count()
    }

    /// Gives an interface an address at once, and the route to its network.
    pub fn add_address(&self, interface: &Arc<Interface>, ip: Ip, prefix: u8) {
        self.insert_address(interface, Address { ip, prefix, valid_until: NEVER, dynamic: false, detect_until: 0 });
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
        ip.is_loopback() || self.interfaces().any(|i| i.addresses.read().iter().any(|a| a.ip == ip))
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

impl Timed for Interface {
    fn slot(&self) -> &TimerSlot {
        &self.neighbour_timer
    }

    fn on_timer(self: Arc<Self>, stack: &Arc<Stack>, now: u64, tx: &mut Tx) -> u64 {
        let todo = self.neighbours.upkeep(now);
        for (ip, mac) in todo.ask {
            stack.ask(&self, ip, mac, now, tx);
        }
        if todo.changed {
            stack.bump();
        }
        count(&self.counters.tx_dropped, todo.failed.len() as u64);
        for packet in todo.failed {
            icmp::deliver_error(stack, packet.bytes(), Errno::EHOSTUNREACH, None, now, tx);
        }
        todo.next.unwrap_or(NEVER)
    }
}
