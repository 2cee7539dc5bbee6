//! The disk (blkfront; xen/include/public/io/blkif.h): a queue per CPU where the backend has them, data through pages that stay granted.
//!
//! A backend that goes away is waited for: requests that it had are asked again of the one that comes. A backend that lies is not
//! used any more, and everything asked of it fails.

mod abi;
#[cfg(test)]
mod medium;
mod queue;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use driver_kit::Lock;
use hal_core::device::{BlockCaps, BlockDevice, BlockOp, Completion, Dma, check_request};
use hal_core::interrupt::Handler;
use hal_core::{Error, PAGE_SIZE, Result};
use hal_xen::services::Services;

use crate::frontend::{self, Front, Handshake, Phase};
use crate::xenbus::{Node, State, number, queue_name};
use abi::{DIRECT_SEGMENTS, SECTOR, SEGMENTS_PER_PAGE};
use queue::{Queue, Request, refuse};

/// Segments in a request that are worth having: 256 KiB.
const WANTED_SEGMENTS: usize = 64;
/// Pages of a ring that are worth having, as a power of two: 128 requests.
const WANTED_ORDER: u64 = 2;
/// Bit of `info`.
const READ_ONLY: u64 = 4;

/// What a backend offers, beyond the disk's capabilities.
#[derive(Clone, Copy, Debug)]
struct Offer {
    caps: BlockCaps,
    cached: bool,
    /// Discards must be aligned to this many bytes, from this byte on.
    discard: (u64, u64),
}

/// A disk.
pub(crate) struct Block {
    services: Arc<dyn Services>,
    handshake: Handshake,
    queues: Vec<Lock<Queue>>,
    /// Queues in use.
    active: AtomicUsize,
    handlers: Vec<&'static Handler>,
    offer: spin::Once<Offer>,
    cached: AtomicBool,
    handler: spin::Once<Handler>,
}

impl Block {
    /// Brings a disk up.
    pub fn start(services: Arc<dyn Services>, path: &str, cpus: usize) -> Result<Arc<Self>> {
        let (handshake, domain) = Handshake::new(services.clone(), path)?;
        let kind = services.read(&[&format!("{path}/device-type")])?;
        if let [Some(kind)] = &kind[..]
            && kind != "disk"
        {
            return Err(Error::Unsupported);
        }
        let cpus = cpus.max(1);
        let disk = Arc::new_cyclic(|me: &Weak<Self>| Self {
            handshake,
            queues: (0..cpus).map(|_| Lock::new(Queue::new(services.clone(), domain))).collect(),
            active: AtomicUsize::new(1),
            handlers: (0..cpus).map(|_| crate::interrupt(me.clone(), Self::interrupted)).collect(),
            offer: spin::Once::new(),
            cached: AtomicBool::new(false),
            handler: spin::Once::new(),
            services,
        });
        frontend::begin(&disk, Phase::Up)?;
        Ok(disk)
    }

    fn interrupted(&self) {
        if let Some(handler) = self.handler.get() {
            handler();
        }
    }

    /// Takes answers and starts what waits; completions run without the lock.
    fn poll_queue(&self, index: usize) {
        let mut finished = None;
        loop {
            let mut queue = self.queues[index].lock();
            if let Some(pages) = finished.take() {
                queue.recycle(pages);
            }
            if let Some((entry, status)) = queue.take() {
                drop(queue);
                if status == abi::OKAY {
                    entry.copy_out();
                }
                let (request, pages) = entry.split();
                finished = Some(pages);
                let result = self.outcome(request.operation, status);
                (request.done)(result);
                continue;
            }
            if let Some(why) = queue.broken() {
                drop(queue);
                return frontend::fail(self, why);
            }
            let refused = queue.start_waiting();
            queue.publish();
            if refused.is_none() && !queue.ask_event() {
                return;
            }
            drop(queue);
            refused.into_iter().for_each(refuse);
        }
    }

    fn outcome(&self, operation: u8, status: i16) -> Result<()> {
        match status {
            abi::OKAY => Ok(()),
            abi::NOT_SUPPORTED if operation == abi::FLUSH => {
                // It offers flushing and has no cache after all (io/blkif.h: feature-flush-cache).
                self.cached.store(false, Ordering::Relaxed);
                Ok(())
            }
            abi::NOT_SUPPORTED => Err(Error::Unsupported),
            _ => Err(Error::Device("the disk reports an error")),
        }
    }

    fn poll_all(&self) {
        (0..self.queues.len()).for_each(|index| self.poll_queue(index));
    }

    /// Checks what is asked for; `None` if there is nothing to do.
    fn translate(&self, offer: &Offer, op: BlockOp, position: u64, buffers: &[Dma]) -> Result<Option<(u8, u64, u64)>> {
        let caps = &offer.caps;
        let len: u64 = buffers.iter().map(|b| b.len as u64).sum();
        let operation = match op {
            BlockOp::Read => abi::READ,
            BlockOp::Write if caps.read_only => return Err(Error::Unsupported),
            BlockOp::Write => abi::WRITE,
            BlockOp::Flush | BlockOp::Discard(_) if !buffers.is_empty() => return Err(Error::Invalid),
            BlockOp::Flush => return Ok(self.cached.load(Ordering::Relaxed).then_some((abi::FLUSH, 0, 0))),
            BlockOp::Discard(bytes) => {
                if !caps.discard || caps.read_only {
                    return Err(Error::Unsupported);
                }
                check_request(caps, position, bytes)?;
                // Only whole units can be discarded; the rest may keep its contents.
                let (unit, first) = offer.discard;
                let start = position.saturating_sub(first).next_multiple_of(unit) + first;
                let end = (position + bytes).checked_sub(first).map_or(first, |end| end / unit * unit + first);
                let inside = start < end && start >= position;
                return Ok(inside.then(|| (abi::DISCARD, start / SECTOR, end - start)));
            }
        };
        let fits = len > 0
            && len <= u64::from(caps.max_request)
            && buffers.len() <= usize::from(caps.max_pieces)
            && buffers.iter().all(|b| b.len > 0);
        if !fits {
            return Err(Error::Invalid);
        }
        check_request(caps, position, len)?;
        Ok(Some((operation, position / SECTOR, len)))
    }
}

impl Front for Block {
    const TOLD: State = State::Initialised;

    fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    fn tell(&self, node: &Node) -> Result<Vec<(String, String)>> {
        let values = node.backend_values(&["multi-queue-max-queues", "max-ring-page-order"])?;
        let most = number(values[0].as_ref()).unwrap_or(1).clamp(1, 256) as usize;
        let order = number(values[1].as_ref()).unwrap_or(0).min(WANTED_ORDER);
        let active = most.min(self.queues.len());
        let mut told: Vec<(String, String)> = alloc::vec![
            (String::from("protocol"), String::from("x86_64-abi")),
            (String::from("feature-persistent"), String::from("1")),
        ];
        let mut tell = |name: String, value: u64| told.push((name, format!("{value}")));
        if active > 1 {
            tell(String::from("multi-queue-num-queues"), active as u64);
        }
        if order > 0 {
            tell(String::from("ring-page-order"), order);
        }
        for (index, queue) in self.queues[..active].iter().enumerate() {
            let port = self.services.channel(node.domain, index, self.handlers[index])?;
            let mut queue = queue.lock();
            let references = queue.connect(node.domain, 1 << order, port)?;
            for (page, &reference) in references.iter().enumerate() {
                let name = if order == 0 { String::from("ring-ref") } else { format!("ring-ref{page}") };
                tell(queue_name(active, index, &name), u64::from(reference));
            }
            tell(queue_name(active, index, "event-channel"), u64::from(port));
        }
        self.active.store(active, Ordering::Release);
        Ok(told)
    }

    fn finish(&self, node: &Node) -> Result<()> {
        let new = read_offer(node, self.active.load(Ordering::Relaxed))?;
        let old = self.offer.call_once(|| new);
        let same = new.caps.block_size == old.caps.block_size
            && new.caps.size >= old.caps.size
            && (old.caps.read_only || !new.caps.read_only)
            && new.caps.max_pieces >= old.caps.max_pieces;
        if !same {
            return Err(Error::Device("another disk came back"));
        }
        self.cached.store(new.cached, Ordering::Relaxed);
        let active = self.active.load(Ordering::Relaxed);
        // This backend may have fewer queues than the last.
        let orphans: Vec<Request> =
            self.queues[active..].iter().flat_map(|queue| queue.lock().take_waiting()).collect();
        self.queues[0].lock().wait(orphans);
        self.queues[..active].iter().for_each(|queue| queue.lock().open());
        Ok(())
    }

    fn disconnect(&self) {
        self.queues.iter().for_each(|queue| queue.lock().disconnect());
    }

    fn came_up(&self) {
        self.poll_all();
    }

    fn give_up(&self, why: &'static str) {
        for queue in &self.queues {
            let lost = queue.lock().give_up();
            lost.into_iter().for_each(|request| (request.done)(Err(Error::Device(why))));
        }
    }
}

fn read_offer(node: &Node, queues: usize) -> Result<Offer> {
    let names = [
        "sectors",
        "sector-size",
        "info",
        "feature-flush-cache",
        "feature-discard",
        "discard-granularity",
        "discard-alignment",
        "feature-max-indirect-segments",
    ];
    let values = node.backend_values(&names)?;
    let value = |index: usize| number(values[index].as_ref());
    let block_size = value(1).unwrap_or(SECTOR);
    let size = value(0).and_then(|sectors| sectors.checked_mul(SECTOR));
    let Some(size) = size.filter(|_| block_size.is_power_of_two() && (SECTOR..=PAGE_SIZE as u64).contains(&block_size))
    else {
        return Err(Error::Device("the backend's size or block size is absurd"));
    };
    let indirect = value(7).unwrap_or(0).min(WANTED_SEGMENTS.min(SEGMENTS_PER_PAGE) as u64) as usize;
    let segments = indirect.max(DIRECT_SEGMENTS);
    let unit = value(5).unwrap_or(block_size).max(block_size);
    let first = value(6).unwrap_or(0) % unit;
    let aligned = |n: u64| n.is_multiple_of(block_size);
    Ok(Offer {
        caps: BlockCaps {
            size,
            block_size: block_size as u32,
            read_only: value(2).unwrap_or(0) & READ_ONLY != 0,
            discard: value(4).unwrap_or(0) != 0 && aligned(unit) && aligned(first),
            max_request: (segments * PAGE_SIZE) as u32,
            // Buffers are copied together, so their number does not matter to the backend.
            max_pieces: (segments * 4) as u16,
            queues: queues as u16,
        },
        cached: value(3).unwrap_or(0) != 0,
        discard: (unit, first),
    })
}

impl BlockDevice for Block {
    fn caps(&self) -> BlockCaps {
        self.offer.get().expect("a disk is given out when it is up").caps
    }

    unsafe fn submit(&self, op: BlockOp, position: u64, buffers: &[Dma], done: Completion) {
        let Some(offer) = self.offer.get() else { return done(Err(Error::Gone)) };
        let (operation, sector, len) = match self.translate(offer, op, position, buffers) {
            Ok(Some(asked)) => asked,
            Ok(None) if !self.handshake.is_dead() => return done(Ok(())),
            Ok(None) => return done(Err(Error::Gone)),
            Err(error) => return done(Err(error)),
        };
        let mut queue = loop {
            let index = crate::this_cpu() % self.active.load(Ordering::Acquire);
            let queue = self.queues[index].lock();
            // Under the lock: who makes queues fewer takes what waits on the others afterwards.
            if index < self.active.load(Ordering::Acquire) {
                break queue;
            }
        };
        // Likewise: who ends the device takes what waits afterwards.
        if self.handshake.is_dead() {
            drop(queue);
            return done(Err(Error::Gone));
        }
        let refused = queue.add(Request { operation, sector, len, buffers: buffers.into(), done });
        queue.publish();
        drop(queue);
        refused.into_iter().for_each(refuse);
    }

    fn poll(&self) {
        self.poll_all();
    }

    fn on_interrupt(&self, handler: Handler) {
        self.handler.call_once(|| handler);
    }

    fn serial(&self) -> String {
        self.handshake.name().rsplit('/').next().map(String::from).unwrap_or_default()
    }
}
