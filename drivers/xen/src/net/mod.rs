//! The network interface (netfront; xen/include/public/io/netif.h): queue pairs that know nothing of one another, checksums and
//! segmentation left to the other side both ways, since most packets never see a wire.
//!
//! While no backend is there packets are lost, as on any wire that is pulled.

mod abi;
mod rx;
#[cfg(test)]
mod tests;
mod tx;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use driver_kit::{DmaArea, Lock};
use hal_core::device::{NetBuf, NetCaps, NetDevice};
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};
use hal_xen::services::Services;

use crate::frontend::{self, Front, Handshake, Phase};
use crate::pages::{Page, Pool, end_ring, grant_ring};
use crate::ring::FrontRing;
use crate::xenbus::{Node, State, is_on, number, queue_name};
use rx::Rx;
use tx::{Abilities, Tx};

const DEFAULT_MTU: u16 = 1500;
/// Smallest MTU that IPv6 can live with, and the largest that fits a packet.
const MTUS: core::ops::RangeInclusive<u64> = 1280..=65521;
/// Pages of a queue: its two rings full.
const MOST_PAGES: usize = 512;

/// What a queue has with a backend.
struct Link {
    rx: Rx,
    tx: Tx,
    references: Vec<u32>,
    port: u32,
}

/// A pair of rings. Pairs do not share cache lines.
#[repr(align(128))]
struct Pair(Lock<Queue>);

struct Queue {
    link: Option<Link>,
    pool: Pool,
    /// Memory of rings that are over.
    spare: Vec<DmaArea>,
}

/// A network interface.
pub(crate) struct Net {
    services: Arc<dyn Services>,
    handshake: Handshake,
    pairs: Vec<Pair>,
    /// Pairs in use.
    active: AtomicUsize,
    handlers: Vec<&'static Handler>,
    caps: spin::Once<NetCaps>,
    mac: [u8; 6],
    mtu: u16,
    handler: spin::Once<Arc<dyn Fn(u16) + Send + Sync>>,
    /// The backend works.
    up: AtomicBool,
}

impl Net {
    /// Brings the interface up.
    pub fn start(services: Arc<dyn Services>, path: &str, cpus: usize) -> Result<Arc<Self>> {
        let (handshake, domain) = Handshake::new(services.clone(), path)?;
        let values = services.read(&[&format!("{path}/mac"), &format!("{path}/mtu")])?;
        let mac = values[0].as_deref().and_then(parse_mac).ok_or(Error::Device("the interface's address is absurd"))?;
        let mtu = number(values[1].as_ref()).filter(|mtu| MTUS.contains(mtu)).map_or(DEFAULT_MTU, |mtu| mtu as u16);
        let cpus = cpus.clamp(1, 256);
        let of_it = services.clone();
        let queue = || Queue { link: None, pool: Pool::new(of_it.clone(), domain, MOST_PAGES), spare: Vec::new() };
        let net = Arc::new_cyclic(|me: &Weak<Self>| Self {
            handshake,
            pairs: (0..cpus).map(|_| Pair(Lock::new(queue()))).collect(),
            active: AtomicUsize::new(1),
            handlers: (0..cpus)
                .map(|pair| crate::interrupt(me.clone(), move |net: &Self| net.interrupted(pair as u16)))
                .collect(),
            caps: spin::Once::new(),
            mac,
            mtu,
            handler: spin::Once::new(),
            up: AtomicBool::new(false),
            services,
        });
        frontend::begin(&net, Phase::Told)?;
        Ok(net)
    }

    fn interrupted(&self, pair: u16) {
        if let Some(handler) = self.handler.get() {
            handler(pair);
        }
    }

    /// Runs `body` on a pair that has a backend; then notifies it if `body` says so, and ends it if it lied.
    #[inline]
    fn with<T>(&self, queue: u16, body: impl FnOnce(&mut Link, &mut Pool) -> (T, bool)) -> Option<T> {
        let mut guard = self.pairs.get(usize::from(queue))?.0.lock();
        let Queue { link, pool, .. } = &mut *guard;
        let link = link.as_mut()?;
        let (result, notify) = body(link, pool);
        let broken = link.rx.ring.broken().or(link.tx.ring.broken());
        let port = link.port;
        drop(guard);
        if notify {
            self.services.notify(port);
        }
        if let Some(why) = broken {
            frontend::fail(self, why);
        }
        Some(result)
    }
}

impl Queue {
    fn ring(&mut self, stride: usize) -> Result<FrontRing> {
        match self.spare.pop() {
            Some(area) => Ok(FrontRing::over(area, 1, stride)),
            None => FrontRing::new(1, stride),
        }
    }

    /// Makes rings for the backend in `domain`; their references: of the sending one, of the receiving one.
    fn connect(&mut self, services: &dyn Services, domain: u16, port: u32, abilities: Abilities) -> Result<(u32, u32)> {
        self.pool.move_to(domain);
        let tx = self.ring(size_of::<abi::TxRequest>())?;
        let rx = self.ring(size_of::<abi::RxRequest>())?;
        let mut references = grant_ring(services, domain, &tx)?;
        references.extend(grant_ring(services, domain, &rx)?);
        let mut rx = Rx::new(rx, &mut self.pool)?;
        rx.ring.publish();
        let told = (references[0], references[1]);
        self.link = Some(Link { rx, tx: Tx::new(tx, abilities), references, port });
        Ok(told)
    }

    /// Ends the connection. Pages that the backend still has mapped stay its own.
    fn disconnect(&mut self, services: &dyn Services) {
        let Some(link) = self.link.take() else { return };
        services.close(link.port);
        let ended = end_ring(services, &link.references);
        let (rx, posted) = link.rx.into_parts();
        let (tx, sent) = link.tx.into_parts();
        let pages: Vec<Page> = posted.chain(sent).collect();
        pages.into_iter().for_each(|page| self.pool.take_back(page));
        if ended {
            self.spare.extend([rx.into_area(), tx.into_area()]);
        } else {
            self.pool.lose_ring(2);
        }
    }
}

impl Front for Net {
    const TOLD: State = State::Connected;

    fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    fn tell(&self, node: &Node) -> Result<Vec<(String, String)>> {
        let values = node.backend_values(&[
            "multi-queue-max-queues",
            "feature-rx-copy",
            "feature-sg",
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-no-csum-offload",
            "feature-ipv6-csum-offload",
        ])?;
        let on = |index: usize| is_on(values[index].as_ref());
        if !on(1) {
            return Err(Error::Device("the backend cannot copy received packets (feature-rx-copy)"));
        }
        // The stack asks for checksums of both kinds or of none.
        let checksum = !on(5) && on(6);
        let scatter = on(2);
        let segments = checksum && scatter;
        let new = Abilities { checksum, scatter, tso4: segments && on(3), tso6: segments && on(4) };
        let most = number(values[0].as_ref()).unwrap_or(1).clamp(1, 256) as usize;
        let active = most.min(self.pairs.len());
        let caps = self.caps.call_once(|| NetCaps {
            mac: self.mac,
            mtu: if scatter { self.mtu } else { self.mtu.min(DEFAULT_MTU) },
            queues: active as u16,
            tx_checksum: new.checksum,
            tso4: new.tso4,
            tso6: new.tso6,
            lro: true,
        });
        let old = Abilities { checksum: caps.tx_checksum, tso4: caps.tso4, tso6: caps.tso6, scatter };
        if (old.checksum && !new.checksum) || (old.tso4 && !new.tso4) || (old.tso6 && !new.tso6) {
            return Err(Error::Device("a backend that can do less came back"));
        }
        let active = active.min(usize::from(caps.queues));
        let mut told: Vec<(String, String)> = ["request-rx-copy", "feature-rx-notify", "feature-sg"]
            .into_iter()
            .chain(["feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload"])
            .map(|name| (String::from(name), String::from("1")))
            .collect();
        let mut tell = |name: String, value: u64| told.push((name, format!("{value}")));
        if active > 1 {
            tell(String::from("multi-queue-num-queues"), active as u64);
        }
        for (index, pair) in self.pairs[..active].iter().enumerate() {
            let port = self.services.channel(node.domain, index, self.handlers[index])?;
            let connected = pair.0.lock().connect(&*self.services, node.domain, port, new);
            let (tx, rx) = connected.inspect_err(|_| self.services.close(port))?;
            tell(queue_name(active, index, "tx-ring-ref"), u64::from(tx));
            tell(queue_name(active, index, "rx-ring-ref"), u64::from(rx));
            tell(queue_name(active, index, "event-channel"), u64::from(port));
        }
        self.active.store(active, Ordering::Release);
        Ok(told)
    }

    fn finish(&self, _node: &Node) -> Result<()> {
        self.up.store(true, Ordering::Release);
        Ok(())
    }

    fn disconnect(&self) {
        self.up.store(false, Ordering::Release);
        for pair in &self.pairs {
            pair.0.lock().disconnect(&*self.services);
        }
    }

    fn came_up(&self) {
        // Frames may have come, and places for others, before the handler heard.
        for index in 0..self.active.load(Ordering::Acquire) {
            self.interrupted(index as u16);
        }
    }

    fn give_up(&self, _why: &'static str) {
        self.disconnect();
    }
}

/// "00:16:3e:12:34:56".
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

impl NetDevice for Net {
    fn caps(&self) -> NetCaps {
        *self.caps.get().expect("an interface is given out when it is told")
    }

    fn receive(&self, queue: u16, budget: usize, sink: &mut dyn FnMut(NetBuf)) -> usize {
        self.with(queue, |link, pool| link.rx.receive(budget, pool, sink)).unwrap_or(0)
    }

    fn send(&self, queue: u16, packets: &mut VecDeque<NetBuf>) {
        let queue = usize::from(queue) % self.active.load(Ordering::Acquire);
        if self.with(queue as u16, |link, pool| ((), link.tx.send(pool, packets))).is_none() {
            packets.clear();
        }
    }

    fn reap(&self, queue: u16) {
        self.with(queue, |link, pool| (link.tx.reap(pool), false));
    }

    fn set_receive_interrupt(&self, queue: u16, on: bool) -> bool {
        // Turned off it is by itself: there is one event for each wish.
        on && self.with(queue, |link, _| (link.rx.ring.ask_event(0), false)).unwrap_or(false)
    }

    fn on_interrupt(&self, handler: Arc<dyn Fn(u16) + Send + Sync>) {
        self.handler.call_once(|| handler);
    }

    fn link_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }
}
