//! The network interface: queue pairs that know nothing of one another, with an interrupt vector each for receiving, one
//! for sending that is on only while the ring is full, and one for events.

mod abi;
mod completions;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod rx;
mod shared;
#[cfg(test)]
mod tests;
mod tx;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use driver_kit::{Io, IrqLock, Lock};
use hal_core::device::{NetBuf, NetCaps, NetDevice};
use hal_core::{Error, Result};

use crate::interrupts::{Cause, Causes, Connect};
use abi::*;
use rx::Rx;
use shared::{Config, SharedMemory};
use tx::Tx;

pub(crate) use abi::REGISTERS;

/// The device has eight send queues.
const MAX_PAIRS: usize = 8;
const USUAL_MTU: u16 = 1500;
/// Ways in which the device masks interrupts: 0 is "by itself".
const MASK_MODE_AUTO: u32 = 0;

/// Pairs do not share cache lines.
#[repr(align(128))]
struct Pair {
    rx: Lock<Rx>,
    tx: Lock<Tx>,
    /// The receive interrupt is masked.
    masked: AtomicBool,
    rx_interrupt: u8,
    tx_interrupt: u8,
}

/// A network interface.
pub(crate) struct Nic {
    /// BAR 0: doorbells and masks; BAR 1: commands.
    bells: Box<dyn Io>,
    control: Box<dyn Io>,
    caps: NetCaps,
    auto_mask: bool,
    pairs: Vec<Pair>,
    shared: SharedMemory,
    /// Held for a command and its answer.
    command: IrqLock<()>,
    event_interrupt: u8,
    link: AtomicBool,
    /// A queue has stopped: the device is to be started anew.
    restart: AtomicBool,
    failed: AtomicBool,
    handler: spin::Once<Arc<dyn Fn(u16) + Send + Sync>>,
}

/// Brings the interface up, with a queue pair for each CPU where it can interrupt for each.
pub(crate) fn start(
    bells: Box<dyn Io>,
    control: Box<dyn Io>,
    cpus: usize,
    connect: Connect<'_>,
) -> Result<Arc<dyn NetDevice>> {
    let revisions = control.read(REVISIONS);
    let upt = control.read(UPT_REVISIONS);
    if revisions & 1 == 0 || upt & 1 == 0 || revisions == u32::MAX {
        return Err(Error::Device("the device is of no revision that is known here"));
    }
    control.write(REVISIONS, 1);
    control.write(UPT_REVISIONS, 1);
    control.write(COMMAND, RESET);
    control.write(COMMAND, GET_INTERRUPT_CONFIG);
    let auto_mask = control.read(COMMAND) >> 2 & 3 == MASK_MODE_AUTO;
    let wanted = 1u16 << cpus.clamp(1, MAX_PAIRS).ilog2();
    let slot: Arc<spin::Once<Arc<Nic>>> = Arc::new(spin::Once::new());
    let by_vectors = connect(causes(&slot, wanted))?;
    let pairs = if by_vectors { wanted } else { 1 };
    let event_interrupt = if by_vectors { 2 * pairs as u8 } else { 0 };
    let config =
        Config { pairs, auto_mask, interrupts: event_interrupt + 1, event_interrupt, mtu: USUAL_MTU, lro: true };
    let shared = SharedMemory::new(&config)?;
    let pairs: Vec<Pair> = (0..pairs).map(|pair| new_pair(pair, pairs, by_vectors)).collect::<Result<_>>()?;
    let [a, b, c, d] = control.read(MAC_LOW).to_le_bytes();
    let [e, f, ..] = control.read(MAC_HIGH).to_le_bytes();
    let caps = NetCaps {
        mac: [a, b, c, d, e, f],
        mtu: USUAL_MTU,
        queues: pairs.len() as u16,
        tx_checksum: true,
        tso4: true,
        tso6: true,
        lro: true,
    };
    let nic = Arc::new(Nic {
        bells,
        control,
        caps,
        auto_mask,
        pairs,
        shared,
        command: IrqLock::new(()),
        event_interrupt,
        link: AtomicBool::new(true),
        restart: AtomicBool::new(false),
        failed: AtomicBool::new(false),
        handler: spin::Once::new(),
    });
    nic.activate()?;
    slot.call_once(|| nic.clone());
    Ok(nic)
}

fn new_pair(pair: u16, pairs: u16, by_vectors: bool) -> Result<Pair> {
    Ok(Pair {
        rx: Lock::new(Rx::new(pair, pairs)?),
        tx: Lock::new(Tx::new()?),
        masked: AtomicBool::new(true),
        rx_interrupt: if by_vectors { pair as u8 } else { 0 },
        tx_interrupt: if by_vectors { (pairs + pair) as u8 } else { 0 },
    })
}

/// Vectors: receiving, sending, events.
fn causes(slot: &Arc<spin::Once<Arc<Nic>>>, pairs: u16) -> Causes {
    let cause = |cpu: u16, run: Box<dyn Fn(&Nic) + Send + Sync>| {
        let slot = slot.clone();
        Cause {
            cpu: usize::from(cpu),
            handler: Arc::new(move || {
                if let Some(nic) = slot.get() {
                    run(nic);
                }
            }),
        }
    };
    let receive = (0..pairs).map(|pair| cause(pair, Box::new(move |nic| nic.receive_interrupt(pair))));
    let send = (0..pairs).map(|pair| cause(pair, Box::new(move |nic| nic.send_interrupt(pair))));
    let vectors = receive.chain(send).chain([cause(0, Box::new(Nic::event_interrupt))]).collect();
    let slot = slot.clone();
    let line = Arc::new(move || {
        if let Some(nic) = slot.get() {
            nic.line_interrupt();
        }
    });
    Causes { vectors, line }
}

impl Nic {
    /// Issues a command and reads its answer.
    fn command(&self, code: u32) -> u32 {
        let _one = self.command.lock();
        self.control.write(COMMAND, code);
        self.control.read(COMMAND)
    }

    fn mask(&self, interrupt: u8, masked: bool) {
        self.bells.write(INTERRUPT_MASK + 8 * usize::from(interrupt), u32::from(masked));
    }

    /// Hands everything over; nobody else uses the rings.
    fn activate(&self) -> Result<()> {
        for (index, pair) in self.pairs.iter().enumerate() {
            self.shared.describe(index as u16, &pair.rx.lock(), pair.rx_interrupt, &pair.tx.lock(), pair.tx_interrupt);
            pair.masked.store(true, Ordering::Relaxed);
        }
        let at = self.shared.phys().0;
        self.control.write(SHARED_LOW, at as u32);
        self.control.write(SHARED_HIGH, (at >> 32) as u32);
        if self.command(ACTIVATE) != 0 {
            // It keeps no memory.
            self.control.write(SHARED_LOW, 0);
            self.control.write(SHARED_HIGH, 0);
            self.command(RESET);
            return Err(Error::Device("the device refuses its configuration"));
        }
        for (index, pair) in self.pairs.iter().enumerate() {
            self.tell_buffers(index as u16, &pair.rx.lock());
        }
        // Without an answer.
        self.control.write(COMMAND, UPDATE_RX_MODE);
        self.look_at_link();
        self.shared.enable_interrupts();
        self.mask(self.event_interrupt, false);
        Ok(())
    }

    fn tell_buffers(&self, pair: u16, rx: &Rx) {
        for (ring, producer) in rx.producers().into_iter().enumerate() {
            self.bells.write(RX_PRODUCER + RX_PRODUCER_STEP * ring + 8 * usize::from(pair), producer);
        }
    }

    fn look_at_link(&self) {
        self.link.store(self.command(GET_LINK) & 1 != 0, Ordering::Relaxed);
    }

    fn call(&self, pair: u16) {
        if let Some(handler) = self.handler.get() {
            handler(pair);
        }
    }

    fn receive_interrupt(&self, pair: u16) {
        if self.auto_mask
            && let Some(pair) = self.pairs.get(usize::from(pair))
        {
            pair.masked.store(true, Ordering::Relaxed);
        }
        self.call(pair);
    }

    fn send_interrupt(&self, pair: u16) {
        if let Some(pair) = self.pairs.get(usize::from(pair))
            && !self.auto_mask
        {
            self.mask(pair.tx_interrupt, true);
        }
        self.call(pair);
    }

    fn event_interrupt(&self) {
        self.look_at_events();
        if self.auto_mask {
            self.mask(self.event_interrupt, false);
        }
    }

    /// One interrupt for everything. Reading its cause acknowledges it.
    fn line_interrupt(&self) {
        if self.control.read(INTERRUPT_CAUSE) & 1 == 0 {
            return;
        }
        self.look_at_events();
        self.receive_interrupt(0);
    }

    fn look_at_events(&self) {
        let events = self.shared.events();
        if events == 0 {
            return;
        }
        self.control.write(EVENT_CAUSE, events);
        if events & EVENT_LINK != 0 {
            self.look_at_link();
        }
        if events & (EVENT_RX_ERROR | EVENT_TX_ERROR) != 0 {
            // Not in an interrupt: the queues' locks are needed.
            self.restart.store(true, Ordering::Release);
            self.call(0);
        }
    }

    /// Starts the device anew. Packets on their way are lost, as on any wire.
    #[cold]
    fn restart(&self) {
        self.command(GET_QUEUE_STATUS);
        let reason = self.shared.stopped();
        log::warn!("vmxnet3: a queue has stopped ({:#x}): starting the device anew", reason.unwrap_or(0));
        let mut locks: Vec<_> = self.pairs.iter().map(|pair| (pair.rx.lock(), pair.tx.lock())).collect();
        self.command(QUIESCE);
        self.command(RESET);
        self.shared.reset();
        for (rx, tx) in &mut locks {
            rx.reset();
            tx.reset();
        }
        drop(locks);
        if self.activate().is_err() {
            return self.fail("the device does not start again");
        }
        for pair in 0..self.caps.queues {
            self.call(pair);
        }
    }

    /// Ends the use of the device. Packets on their way are lost.
    #[cold]
    fn fail(&self, why: &'static str) {
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        log::error!("vmxnet3: {why}; the device is not used any more");
        self.command(QUIESCE);
        self.command(RESET);
        self.link.store(false, Ordering::Relaxed);
    }

    fn pair(&self, queue: u16) -> Option<&Pair> {
        self.pairs.get(usize::from(queue)).filter(|_| !self.failed.load(Ordering::Acquire))
    }
}

impl NetDevice for Nic {
    fn caps(&self) -> NetCaps {
        self.caps
    }

    fn receive(&self, queue: u16, budget: usize, sink: &mut dyn FnMut(NetBuf)) -> usize {
        if self.restart.load(Ordering::Relaxed) && self.restart.swap(false, Ordering::AcqRel) {
            self.restart();
        }
        let Some(pair) = self.pair(queue) else {
            return 0;
        };
        let mut rx = pair.rx.lock();
        let (frames, filled) = rx.receive(budget, sink);
        if filled && self.shared.rx_wants_telling(queue) {
            self.tell_buffers(queue, &rx);
        }
        let broken = rx.broken();
        drop(rx);
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
        tx.send(packets, || self.mask(pair.tx_interrupt, false));
        let (deferred, threshold) = self.shared.tx_control(queue);
        if tx.wants_kick(deferred, threshold) {
            self.bells.write(TX_PRODUCER + 8 * usize::from(queue), tx.producer());
        }
        let broken = tx.broken();
        drop(tx);
        if let Some(why) = broken {
            self.fail(why);
            packets.clear();
        }
    }

    fn reap(&self, queue: u16) {
        if let Some(pair) = self.pair(queue) {
            let mut tx = pair.tx.lock();
            tx.reap();
            let broken = tx.broken();
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
        if pair.masked.swap(!on, Ordering::Relaxed) == on {
            self.mask(pair.rx_interrupt, !on);
        }
        on && pair.rx.lock().completions.ready()
    }

    fn on_interrupt(&self, handler: Arc<dyn Fn(u16) + Send + Sync>) {
        self.handler.call_once(|| handler);
    }

    fn link_up(&self) -> bool {
        self.link.load(Ordering::Relaxed)
    }
}
