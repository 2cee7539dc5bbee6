//! The memory balloon (virtio 1.2, section 5.5), without statistics and free page reporting.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use driver_kit::wait_for;

use hal_core::device::BalloonDevice;
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use crate::ring::{Piece, Ring};
use crate::transport::{Shared, Source};
use driver_kit::DmaArea;
use driver_kit::Lock;

/// The host wants to know before a page of the balloon is used again; we always tell it.
const MUST_TELL_HOST: u64 = 1 << 0;
const AT_TARGET: usize = 0;
const AT_ACTUAL: usize = 4;
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
/// Frame numbers in one request: a page full.
const BATCH: usize = 1024;
const RING_SIZE: u16 = 4;

struct Queue {
    ring: Ring<()>,
    numbers: DmaArea,
}

/// A balloon.
pub(crate) struct Balloon {
    transport: Shared,
    queues: [Lock<Queue>; 2],
    held: AtomicU32,
    handler: spin::Once<Handler>,
    failed: AtomicBool,
}

impl Balloon {
    /// Brings the device up.
    pub fn start(transport: Shared) -> Result<Arc<Self>> {
        let t = &*transport;
        let agreed = t.negotiate(|_| MUST_TELL_HOST)?;
        let queue = |index| -> Result<_> {
            let mut ring = Ring::new(t.choose_size(index, RING_SIZE)?, t.ring_options(agreed))?;
            // Requests are waited for in place.
            ring.disable_interrupts();
            let numbers = DmaArea::new(BATCH * 4)?;
            Ok(Lock::new(Queue { ring, numbers }))
        };
        let device = Arc::new(Self {
            transport: transport.clone(),
            queues: [queue(INFLATE)?, queue(DEFLATE)?],
            held: AtomicU32::new(0),
            handler: spin::Once::new(),
            failed: AtomicBool::new(false),
        });
        let me = device.clone();
        t.connect(alloc::vec![Source {
            queues: alloc::vec![],
            cpu: 0,
            handler: Arc::new(move || {
                if let Some(handler) = me.handler.get() {
                    handler();
                }
            }),
        }])?;
        for index in [INFLATE, DEFLATE] {
            let addresses = device.queues[usize::from(index)].lock().ring.addresses();
            t.start_queue(index, &addresses)?;
        }
        t.start();
        Ok(device)
    }

    /// Sends frame numbers through a queue and waits until the host has taken them.
    fn tell(&self, index: u16, frames: &[u64]) -> Result<()> {
        if frames.iter().any(|&f| f > u64::from(u32::MAX)) {
            return Err(Error::Invalid);
        }
        for batch in frames.chunks(BATCH) {
            let mut queue = self.queues[usize::from(index)].lock();
            if self.failed.load(Ordering::Acquire) {
                return Err(Error::Gone);
            }
            for (i, &frame) in batch.iter().enumerate() {
                queue.numbers.put(4 * i, frame as u32);
            }
            let piece = Piece { address: queue.numbers.phys(0), len: 4 * batch.len() as u32, writable: false };
            // SAFETY: the area lives for ever; it is written again only after the pop, below.
            unsafe { queue.ring.add(&[piece], ()) }.map_err(|()| Error::Exhausted)?;
            if queue.ring.publish() {
                self.transport.notify(index);
            }
            let told = wait_for(10_000_000_000, || queue.ring.pop().is_some() || queue.ring.broken().is_some());
            if let Some(why) = queue.ring.broken().or((!told).then_some("no answer")) {
                self.failed.store(true, Ordering::Release);
                log::error!("balloon: {why}; the device is not used any more");
                self.transport.give_up();
                return Err(Error::Device(why));
            }
            drop(queue);
            let n = batch.len() as u32;
            let held = match index {
                INFLATE => self.held.fetch_add(n, Ordering::Relaxed).wrapping_add(n),
                _ => self.held.fetch_sub(n, Ordering::Relaxed).wrapping_sub(n),
            };
            self.transport.config_write(AT_ACTUAL, 4, held);
        }
        Ok(())
    }
}

impl BalloonDevice for Balloon {
    fn target(&self) -> u32 {
        if self.failed.load(Ordering::Relaxed) {
            return self.held.load(Ordering::Relaxed);
        }
        self.transport.config_read(AT_TARGET, 4)
    }
    fn inflate(&self, frames: &[u64]) -> Result<()> {
        self.tell(INFLATE, frames)
    }
    fn deflate(&self, frames: &[u64]) -> Result<()> {
        if frames.len() as u64 > u64::from(self.held.load(Ordering::Relaxed)) {
            return Err(Error::Invalid);
        }
        self.tell(DEFLATE, frames)
    }
    fn on_change(&self, handler: Handler) {
        self.handler.call_once(|| handler);
    }
}
