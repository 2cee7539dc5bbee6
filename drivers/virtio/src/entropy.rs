//! The source of randomness (virtio 1.2, section 5.4).

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use hal_core::device::EntropyDevice;
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use crate::ring::{Piece, Ring};
use crate::transport::{Shared, Source};
use driver_kit::DmaArea;
use driver_kit::Lock;

/// Bytes per request, and requests at once.
const CHUNK: usize = 256;
const RING_SIZE: u16 = 8;

type Done = Box<dyn FnOnce(&[u8]) + Send>;

struct State {
    ring: Ring<(u16, Done)>,
    cells: DmaArea,
}

/// An entropy device.
pub(crate) struct Entropy {
    transport: Shared,
    state: Lock<State>,
    handler: spin::Once<Handler>,
    failed: AtomicBool,
}

impl Entropy {
    /// Brings the device up.
    pub fn start(transport: Shared) -> Result<Arc<Self>> {
        let t = &*transport;
        let agreed = t.negotiate(|_| 0)?;
        let size = t.choose_size(0, RING_SIZE)?;
        let ring = Ring::new(size, t.ring_options(agreed))?;
        let addresses = ring.addresses();
        let device = Arc::new(Self {
            transport: transport.clone(),
            state: Lock::new(State { ring, cells: DmaArea::new(CHUNK * usize::from(size))? }),
            handler: spin::Once::new(),
            failed: AtomicBool::new(false),
        });
        let me = device.clone();
        t.connect(alloc::vec![Source {
            queues: alloc::vec![0],
            cpu: 0,
            handler: Arc::new(move || {
                if let Some(handler) = me.handler.get() {
                    handler();
                }
            }),
        }])?;
        t.start_queue(0, &addresses)?;
        t.start();
        Ok(device)
    }

    #[cold]
    fn fail(&self, why: &'static str) {
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        log::error!("entropy: {why}; the device is not used any more");
        self.transport.give_up();
        let lost = self.state.lock().ring.drain(why);
        for (_, done) in lost {
            done(&[]);
        }
    }
}

impl EntropyDevice for Entropy {
    fn request(&self, len: usize, done: Done) -> Result<()> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::Gone);
        }
        if len == 0 {
            return Err(Error::Invalid);
        }
        if !state.ring.has_room(1) {
            return Err(Error::Exhausted);
        }
        let number = state.ring.next_head();
        let piece = Piece {
            address: state.cells.phys(CHUNK * usize::from(number)),
            len: len.min(CHUNK) as u32,
            writable: true,
        };
        // SAFETY: the cell lives for ever and belongs to this request until it is popped.
        unsafe { state.ring.add(&[piece], (number, done)) }.map_err(|_| Error::Exhausted)?;
        if state.ring.publish() {
            self.transport.notify(0);
        }
        Ok(())
    }

    fn poll(&self) {
        loop {
            let mut state = self.state.lock();
            match state.ring.pop() {
                Some(((number, done), len)) => {
                    let mut bytes = [0; CHUNK];
                    let bytes = &mut bytes[..len as usize];
                    state.cells.read(CHUNK * usize::from(number), bytes);
                    drop(state);
                    done(bytes);
                }
                None => {
                    let broken = state.ring.broken();
                    let more = state.ring.enable_interrupts();
                    drop(state);
                    if let Some(why) = broken {
                        return self.fail(why);
                    }
                    if !more {
                        return;
                    }
                }
            }
        }
    }

    fn on_interrupt(&self, handler: Handler) {
        self.handler.call_once(|| handler);
    }
}
