//! Network interfaces: from the interrupt to the stack in batches, and from the stack to the device's queues.
//!
//! Receiving: the interrupt marks its queue; deferred work on that CPU turns the queue's interrupt off, takes frames up to a
//! budget, and turns it on when there are no more. Sending: each CPU has a queue of its own if the device
//! has enough; frames are pushed, then flushed with one doorbell.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use base::{Once, SpinLock};
use hal_core::device::{NetBuf, NetCaps, NetDevice};

use crate::sched::work::{self, WorkId};

/// Frames taken in one go before others get their turn.
const BUDGET: usize = 64;
/// Frames that wait for a full device, per queue; more are dropped.
const BACKLOG: usize = 4096;

static NICS: Once<Vec<Arc<Nic>>> = Once::new();
static WORK: Once<WorkId> = Once::new();

/// The interfaces in the order in which they were found.
pub fn nics() -> &'static [Arc<Nic>] {
    NICS.get().map_or(&[], |n| &n[..])
}

pub(super) fn set(found: Vec<Arc<Nic>>) {
    NICS.call_once(|| found);
}

/// Gives the interfaces to the stack: frames flow from now on. Returns them as the stack knows them.
pub fn attach(stack: &Arc<net::Stack>) -> Vec<Arc<net::Interface>> {
    let mut interfaces = Vec::new();
    for nic in nics() {
        match stack.add_interface(nic.clone()) {
            Ok(interface) => {
                nic.up.call_once(|| (stack.clone(), interface.clone()));
                // What came before is still in the rings.
                for queue in 0..nic.caps.queues {
                    nic.queues[usize::from(queue)].pending.store(true, Ordering::Release);
                }
                interfaces.push(interface);
            }
            Err(error) => log::error!("network interface left out: {error}"),
        }
    }
    if let Some(&work) = WORK.get() {
        work::raise(work);
    }
    interfaces
}

/// One pair of queues.
#[repr(align(128))]
struct Queue {
    /// The interrupt came and the work has not run yet.
    pending: AtomicBool,
    /// Frames pushed and not yet with the device.
    sending: SpinLock<VecDeque<NetBuf>>,
    /// Reused from batch to batch.
    batch: SpinLock<Vec<NetBuf>>,
}

/// A network interface.
pub struct Nic {
    driver: &'static str,
    device: Arc<dyn NetDevice>,
    caps: NetCaps,
    queues: Vec<Queue>,
    /// Frames dropped because the device did not keep up.
    dropped: AtomicU64,
    up: Once<(Arc<net::Stack>, Arc<net::Interface>)>,
}

impl Nic {
    pub(super) fn new(device: Arc<dyn NetDevice>, driver: &'static str) -> Arc<Self> {
        let work = *WORK.call_once(|| work::register(run));
        let caps = device.caps();
        let queues = (0..caps.queues.max(1))
            .map(|_| Queue {
                pending: AtomicBool::new(false),
                sending: SpinLock::new(VecDeque::new()),
                batch: SpinLock::new(Vec::new()),
            })
            .collect();
        let nic = Arc::new(Self { driver, device, caps, queues, dropped: AtomicU64::new(0), up: Once::new() });
        let me = nic.clone();
        nic.device.on_interrupt(Arc::new(move |queue| {
            if let Some(queue) = me.queues.get(usize::from(queue)) {
                queue.pending.store(true, Ordering::Release);
                work::raise(work);
            }
        }));
        nic
    }

    /// Its driver's name.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// What it is.
    pub fn caps(&self) -> &NetCaps {
        &self.caps
    }

    /// True if the link is up.
    pub fn link_up(&self) -> bool {
        self.device.link_up()
    }

    /// Frames dropped because the device did not keep up.
    #[allow(dead_code, reason = "no file of /proc shows it yet")]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// This CPU's queue.
    #[inline]
    fn mine(&self) -> u16 {
        (hal_core::percpu::cpu_id() % self.queues.len()) as u16
    }

    /// Hands what was pushed to the device.
    #[inline]
    fn transmit(&self, number: u16, queue: &Queue) {
        let mut sending = queue.sending.lock();
        if !sending.is_empty() {
            self.device.send(number, &mut sending);
        }
    }

    /// Takes what arrived on a queue; true if the budget was not enough.
    fn receive(&self, number: u16, queue: &Queue) -> bool {
        let Some((stack, interface)) = self.up.get() else {
            return false;
        };
        // Another CPU may be at it, if its interrupt comes there (a shared line): it looks again at the end.
        let Some(mut batch) = queue.batch.try_lock() else {
            queue.pending.store(true, Ordering::Release);
            return true;
        };
        self.device.set_receive_interrupt(number, false);
        // A device that was full has room now, or has news of what it sent.
        self.device.reap(number);
        self.transmit(number, queue);
        loop {
            let taken = self.device.receive(number, BUDGET, &mut |frame| batch.push(frame));
            if !batch.is_empty() {
                stack.input(interface, &mut batch);
            }
            if taken >= BUDGET {
                return true;
            }
            if !self.device.set_receive_interrupt(number, true) {
                return false;
            }
            self.device.set_receive_interrupt(number, false);
        }
    }
}

/// Deferred work: every queue whose interrupt came.
fn run(_cpu: usize) {
    let mut again = false;
    for nic in nics() {
        for (number, queue) in nic.queues.iter().enumerate() {
            if queue.pending.load(Ordering::Relaxed)
                && queue.pending.swap(false, Ordering::AcqRel)
                && nic.receive(number as u16, queue)
            {
                queue.pending.store(true, Ordering::Release);
                again = true;
            }
        }
    }
    if again && let Some(&work) = WORK.get() {
        work::raise(work);
    }
}

impl net::Transmit for Nic {
    fn caps(&self) -> NetCaps {
        self.caps
    }

    fn push(&self, frame: NetBuf) {
        let number = self.mine();
        let mut sending = self.queues[usize::from(number)].sending.lock();
        if sending.len() < BACKLOG {
            sending.push_back(frame);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let number = self.mine();
        self.transmit(number, &self.queues[usize::from(number)]);
    }
}
