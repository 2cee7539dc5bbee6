//! The network interface (virtio 1.2, section 5.1): queue pairs that know nothing of one another, each with its own
//! interrupt vector on its own CPU.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use hal_core::device::{NetBuf, NetCaps, NetDevice};
use hal_core::{Error, Result};

use crate::features::{ANY_LAYOUT, VERSION_1};
use crate::ring::Ring;
use crate::transport::{Shared, Source, Transport};
use driver_kit::Lock;

mod control;
mod header;
mod rx;
mod tx;

use rx::Rx;
use tx::Tx;

// Feature bits (section 5.1.3).
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const MTU: u64 = 1 << 3;
const MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const MRG_RXBUF: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;
const CTRL_VQ: u64 = 1 << 17;
const MQ: u64 = 1 << 22;

// Offsets in the configuration (section 5.1.4).
const AT_MAC: usize = 0;
const AT_STATUS: usize = 6;
const AT_MAX_PAIRS: usize = 8;
const AT_MTU: usize = 10;
const LINK_UP: u32 = 1;

/// Descriptors per queue that are worth having.
const RING_SIZE: u16 = 256;
const DEFAULT_MTU: u16 = 1500;
/// Smallest MTU that IPv6 can live with; a device that says less is not believed.
const SMALLEST_MTU: u16 = 1280;
/// Link header with one VLAN tag.
const LINK_HEADER: usize = 18;

/// Pairs do not share cache lines.
#[repr(align(128))]
struct Pair {
    rx: Lock<Rx>,
    tx: Lock<Tx>,
}

/// A network interface.
pub(crate) struct Net {
    transport: Shared,
    caps: NetCaps,
    pairs: Vec<Pair>,
    /// The device tells if the link is up.
    has_status: bool,
    link: AtomicBool,
    handler: spin::Once<Arc<dyn Fn(u16) + Send + Sync>>,
    failed: AtomicBool,
}

impl Net {
    /// Brings the interface up.
    pub fn start(transport: Shared, cpus: usize) -> Result<Arc<Self>> {
        let t = &*transport;
        let agreed = t.negotiate(choose)?;
        let has = |bit| agreed & bit != 0;
        let (mut caps, max_pairs) = read_config(t, agreed, cpus)?;
        let header_len = if has(VERSION_1) || has(MRG_RXBUF) { header::LONG } else { header::SHORT };
        let mut control = None;
        if caps.queues > 1 {
            let index = 2 * max_pairs;
            let ring = Ring::<()>::new(t.choose_size(index, 16)?, t.ring_options(agreed))?;
            control = Some((index, ring));
        }
        let mut pairs = Vec::new();
        let mut addresses = Vec::new();
        for pair in 0..caps.queues {
            let size = t.choose_size(2 * pair, RING_SIZE)?;
            let ring = Ring::new(size, t.ring_options(agreed))?;
            let frame = LINK_HEADER + usize::from(caps.mtu);
            let mut rx = Rx::new(ring, header_len, has(MRG_RXBUF), frame);
            rx.ring.publish();
            let size = t.choose_size(2 * pair + 1, RING_SIZE)?;
            if size < 4 {
                return Err(Error::Device("a queue is too small to send a packet"));
            }
            let ring = Ring::new(size, t.ring_options(agreed))?;
            let any_layout = has(VERSION_1) || has(ANY_LAYOUT);
            let tso = (caps.tso4, caps.tso6);
            let tx = Tx::new(ring, header_len, any_layout, caps.tx_checksum, tso)?;
            addresses.push((2 * pair, rx.ring.addresses()));
            addresses.push((2 * pair + 1, tx.ring.addresses()));
            pairs.push(Pair { rx: Lock::new(rx), tx: Lock::new(tx) });
        }
        if let Some((index, ring)) = &control {
            addresses.push((*index, ring.addresses()));
        }
        // The handlers need the interface, which is finished only when the device has agreed to its queues.
        let slot: Arc<spin::Once<Arc<Self>>> = Arc::new(spin::Once::new());
        t.connect(sources(&slot, caps.queues))?;
        for (index, ring) in &addresses {
            t.start_queue(*index, ring)?;
        }
        t.start();
        if let Some((index, ring)) = &mut control
            && let Err(error) = control::set_pairs(t, *index, ring, caps.queues)
        {
            log::warn!("network: one queue pair only: {error:?}");
            caps.queues = 1;
            // The device knows the others' rings and buffers: they stay.
            core::mem::forget(pairs.split_off(1));
        }
        for pair in 0..caps.queues {
            t.notify(2 * pair);
        }
        let net = Arc::new(Self {
            transport: transport.clone(),
            caps,
            pairs,
            has_status: has(STATUS),
            link: AtomicBool::new(true),
            handler: spin::Once::new(),
            failed: AtomicBool::new(false),
        });
        net.look_at_link();
        slot.call_once(|| net.clone());
        Ok(net)
    }

    fn look_at_link(&self) {
        if self.has_status {
            let up = self.transport.config_read(AT_STATUS, 2) & LINK_UP != 0;
            self.link.store(up, Ordering::Relaxed);
        }
    }

    fn interrupt(&self, pair: u16) {
        if let Some(handler) = self.handler.get() {
            handler(pair);
        }
    }

    /// Ends the use of the device. Packets on their way are lost, as on any wire.
    #[cold]
    fn fail(&self, why: &'static str) {
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        log::error!("network: {why}; the device is not used any more");
        self.transport.give_up();
        for pair in &self.pairs {
            drop(pair.rx.lock().ring.drain(why));
            drop(pair.tx.lock().ring.drain(why));
        }
    }

    fn pair(&self, queue: u16) -> Option<&Pair> {
        self.pairs.get(usize::from(queue))
    }
}

/// One source per pair, and one for changes of the link.
fn sources(slot: &Arc<spin::Once<Arc<Net>>>, pairs: u16) -> Vec<Source> {
    let per_pair = (0..pairs).map(|pair| {
        let slot = slot.clone();
        Source {
            queues: alloc::vec![2 * pair, 2 * pair + 1],
            cpu: usize::from(pair),
            handler: Arc::new(move || {
                if let Some(net) = slot.get() {
                    net.interrupt(pair);
                }
            }),
        }
    });
    let slot = slot.clone();
    let link = Source {
        queues: Vec::new(),
        cpu: 0,
        handler: Arc::new(move || {
            if let Some(net) = slot.get() {
                net.look_at_link();
            }
        }),
    };
    per_pair.chain(core::iter::once(link)).collect()
}

/// Features that go together, of those offered.
fn choose(offered: u64) -> u64 {
    let mut wanted = MTU | MAC | STATUS | MRG_RXBUF | CSUM | GUEST_CSUM;
    if offered & CSUM != 0 {
        wanted |= HOST_TSO4 | HOST_TSO6;
    }
    // Joined segments are up to 64 KiB, which only mergeable buffers of a page can take.
    if offered & (GUEST_CSUM | MRG_RXBUF) == GUEST_CSUM | MRG_RXBUF {
        wanted |= GUEST_TSO4 | GUEST_TSO6;
    }
    // More than one pair needs the control queue to say so.
    if offered & (MQ | CTRL_VQ) == MQ | CTRL_VQ {
        wanted |= MQ | CTRL_VQ;
    }
    wanted
}

/// What the interface can do, with as many pairs as are of use, and how many pairs the device has.
fn read_config(t: &dyn Transport, agreed: u64, cpus: usize) -> Result<(NetCaps, u16)> {
    let has = |bit| agreed & bit != 0;
    let mac = if has(MAC) {
        t.config(|| core::array::from_fn(|i| t.config_read(AT_MAC + i, 1) as u8))?
    } else {
        // Locally administered; differs from run to run.
        let mut mac = [0; 6];
        mac.copy_from_slice(&hal_core::clock::tsc().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[..6]);
        mac[0] = mac[0] & 0xfc | 2;
        mac
    };
    let mtu = if has(MTU) {
        let mtu = t.config(|| t.config_read(AT_MTU, 2) as u16)?;
        if mtu < SMALLEST_MTU {
            return Err(Error::Device("the device's MTU is absurd"));
        }
        mtu
    } else {
        DEFAULT_MTU
    };
    let max_pairs = if has(MQ) {
        let pairs = t.config(|| t.config_read(AT_MAX_PAIRS, 2) as u16)?;
        // The control queue comes behind them all, and queue numbers have 16 bits.
        if !(1..0x8000).contains(&pairs) {
            return Err(Error::Device("the device's number of queues is absurd"));
        }
        pairs
    } else {
        1
    };
    let caps = NetCaps {
        mac,
        mtu,
        queues: max_pairs.min(cpus.clamp(1, 256) as u16),
        tx_checksum: has(CSUM),
        tso4: has(HOST_TSO4),
        tso6: has(HOST_TSO6),
        lro: has(GUEST_TSO4) || has(GUEST_TSO6),
    };
    Ok((caps, max_pairs))
}

impl NetDevice for Net {
    fn caps(&self) -> NetCaps {
        self.caps
    }

    fn receive(&self, queue: u16, budget: usize, sink: &mut dyn FnMut(NetBuf)) -> usize {
        let Some(pair) = self.pair(queue) else {
            return 0;
        };
        let mut rx = pair.rx.lock();
        let (frames, notify) = rx.receive(budget, sink);
        let broken = rx.broken();
        drop(rx);
        if notify {
            self.transport.notify(2 * queue);
        }
        if let Some(why) = broken {
            self.fail(why);
        }
        frames
    }

    fn send(&self, queue: u16, packets: &mut VecDeque<NetBuf>) {
        let Some(pair) = self.pair(queue) else {
            return packets.clear();
        };
        let mut tx = pair.tx.lock();
        if self.failed.load(Ordering::Acquire) {
            return packets.clear();
        }
        let notify = tx.send(packets);
        let broken = tx.ring.broken();
        drop(tx);
        if notify {
            self.transport.notify(2 * queue + 1);
        }
        if let Some(why) = broken {
            self.fail(why);
            packets.clear();
        }
    }

    fn reap(&self, queue: u16) {
        if let Some(pair) = self.pair(queue) {
            let mut tx = pair.tx.lock();
            tx.reap();
            let broken = tx.ring.broken();
            drop(tx);
            if let Some(why) = broken {
                self.fail(why);
            }
        }
    }

    fn set_receive_interrupt(&self, queue: u16, on: bool) -> bool {
        let Some(pair) = self.pair(queue) else {
            return false;
        };
        let mut rx = pair.rx.lock();
        if on {
            rx.ring.enable_interrupts()
        } else {
            rx.ring.disable_interrupts();
            false
        }
    }

    fn on_interrupt(&self, handler: Arc<dyn Fn(u16) + Send + Sync>) {
        self.handler.call_once(|| handler);
    }

    fn link_up(&self) -> bool {
        self.link.load(Ordering::Relaxed) && !self.failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[path = "net_tests.rs"]
mod tests;
