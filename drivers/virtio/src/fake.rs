//! A device made of memory, for tests and fuzzing: plays the device's side of the rings by the book, or lies.
//! It works on host addresses, which are what the rings hold while the direct map's base is 0.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;

use hal_core::device::Device;
use hal_core::{Error, Result};

use crate::features::{VERSION_1, status};
use crate::ring::RingAddresses;
use crate::transport::{Source, Transport};

/// A piece of a request: address, bytes, writable by the device.
pub type FakePiece = (usize, usize, bool);

#[derive(Default)]
struct Queue {
    ring: Option<RingAddresses>,
    seen: u16,
    used: u16,
    kicks: usize,
}

/// What a lying device does with its status register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manners {
    /// Never finishes a reset.
    pub never_resets: bool,
    /// Refuses every set of features.
    pub refuses_features: bool,
    /// Its configuration changes with every look.
    pub restless: bool,
}

/// The fake.
pub struct FakeDevice {
    kind: u32,
    legacy: bool,
    manners: Manners,
    /// What it offers.
    pub offered: u64,
    sizes: Vec<u16>,
    state: Mutex<State>,
    sources: Mutex<Vec<Source>>,
}

struct State {
    status: u8,
    accepted: u64,
    config: Vec<u8>,
    generation: u32,
    queues: Vec<Queue>,
    resets: usize,
    lied: bool,
}

impl FakeDevice {
    /// A device of this kind with queues of these sizes. `offered` lacks `VERSION_1` for a legacy device.
    pub fn new(kind: u32, offered: u64, sizes: &[u16], config: &[u8], manners: Manners) -> Arc<Self> {
        Arc::new(Self {
            kind,
            legacy: offered & VERSION_1 == 0,
            manners,
            offered,
            sizes: sizes.to_vec(),
            state: Mutex::new(State {
                status: 0,
                accepted: 0,
                config: config.to_vec(),
                generation: 0,
                queues: sizes.iter().map(|_| Queue::default()).collect(),
                resets: 0,
                lied: false,
            }),
            sources: Mutex::new(Vec::new()),
        })
    }

    /// Lets the driver bring it up.
    pub fn start(self: &Arc<Self>, cpus: usize) -> Result<Device> {
        crate::start(self.clone(), cpus)?.into_iter().next().ok_or(Error::Gone)
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// The features that the driver accepted.
    pub fn accepted(&self) -> u64 {
        self.with(|s| s.accepted)
    }

    /// How often the driver has reset it.
    pub fn resets(&self) -> usize {
        self.with(|s| s.resets)
    }

    /// True if the driver has given up, and reset the device before.
    pub fn abandoned(&self) -> bool {
        self.with(|s| s.status == status::FAILED)
    }

    /// Doorbells of a queue so far.
    pub fn kicks(&self, queue: usize) -> usize {
        self.with(|s| s.queues[queue].kicks)
    }

    /// True as long as it has not shown entries that are not there: then what was taken is still its own.
    pub fn honest(&self) -> bool {
        self.with(|s| !s.lied)
    }

    /// The configuration's bytes.
    pub fn config(&self) -> Vec<u8> {
        self.with(|s| s.config.clone())
    }

    /// Changes a byte of the configuration.
    pub fn set_config(&self, offset: usize, value: u8) {
        self.with(|s| {
            s.config[offset] = value;
            s.generation += 1;
        });
    }

    fn ring(&self, queue: usize) -> Option<RingAddresses> {
        self.with(|s| s.queues.get(queue)?.ring)
    }

    /// Takes the next request: its number and pieces. `None` if there is none (or the queue is not started).
    pub fn take(&self, queue: usize) -> Option<(u16, Vec<FakePiece>)> {
        let ring = self.ring(queue)?;
        let available = ring.available.0 as usize;
        let seen = self.with(|s| s.queues[queue].seen);
        // SAFETY: the driver's rings live for ever, and are accessed as the protocol says.
        let (index, head) = unsafe {
            let index = ((available + 2) as *const u16).read_volatile();
            let entry = available + 4 + 2 * usize::from(seen % ring.size);
            (index, (entry as *const u16).read_volatile())
        };
        if index == seen {
            return None;
        }
        self.with(|s| s.queues[queue].seen = seen.wrapping_add(1));
        // After a lie the driver may think that a request is back which the device still has.
        assert!(!self.honest() || index.wrapping_sub(seen) <= ring.size, "the driver overran its ring");
        Some((head, chain(ring.descriptors.0 as usize, head, ring.size)))
    }

    /// Puts an entry on the used ring, true or not, without showing it.
    pub fn put_used(&self, queue: usize, id: u32, len: u32) {
        let Some(ring) = self.ring(queue) else { return };
        let used = self.with(|s| {
            let used = s.queues[queue].used;
            s.queues[queue].used = used.wrapping_add(1);
            used
        });
        let at = ring.used.0 as usize + 4 + 8 * usize::from(used % ring.size);
        // SAFETY: an element of the used ring, which is the device's to write.
        unsafe {
            (at as *mut u32).write_volatile(id);
            ((at + 4) as *mut u32).write_volatile(len);
        }
    }

    /// Shows the used ring as far as it goes, plus `extra` entries that are not there.
    pub fn show_used(&self, queue: usize, extra: u16) {
        let Some(ring) = self.ring(queue) else { return };
        let index = self.with(|s| {
            s.lied |= extra != 0;
            s.queues[queue].used.wrapping_add(extra)
        });
        let at = (ring.used.0 as usize + 2) as *const core::sync::atomic::AtomicU16;
        // SAFETY: the used ring's index, which the driver accesses atomically too.
        unsafe { (*at).store(index, core::sync::atomic::Ordering::SeqCst) };
    }

    /// Finishes a request: used, shown, interrupt.
    pub fn finish(&self, queue: usize, head: u16, len: usize) {
        self.put_used(queue, u32::from(head), len as u32);
        self.show_used(queue, 0);
        self.interrupt(queue);
    }

    /// The index up to which the driver wants no interrupt.
    pub fn used_event(&self, queue: usize) -> u16 {
        let ring = self.ring(queue).expect("a started queue");
        let at = ring.available.0 as usize + 4 + 2 * usize::from(ring.size);
        // SAFETY: the last word of the available ring.
        unsafe { (at as *const u16).read_volatile() }
    }

    /// Says up to which index the device wants no doorbell.
    pub fn set_avail_event(&self, queue: usize, index: u16) {
        let ring = self.ring(queue).expect("a started queue");
        let at = ring.used.0 as usize + 4 + 8 * usize::from(ring.size);
        // SAFETY: the last word of the used ring, the device's to write.
        unsafe { (at as *mut u16).write_volatile(index) }
    }

    /// The handlers that `wanted` picks, to be called without the lock.
    fn handlers(&self, wanted: impl Fn(&Source) -> bool) -> Vec<hal_core::interrupt::Handler> {
        let sources = self.sources.lock().unwrap_or_else(|e| e.into_inner());
        sources.iter().filter(|s| wanted(s)).map(|s| s.handler.clone()).collect()
    }

    /// Interrupts for a queue, as its own vector would.
    pub fn interrupt(&self, queue: usize) {
        for handler in self.handlers(|s| s.queues.contains(&(queue as u16))) {
            handler();
        }
    }

    /// Interrupts as a shared line does, with this status.
    pub fn interrupt_line(&self, status: u32) {
        for handler in self.handlers(|s| s.wants(status)) {
            handler();
        }
    }

    /// Unplugs it: the driver's memory goes with the driver.
    pub fn unplug(&self) {
        self.set_status(0);
        let sources = core::mem::take(&mut *self.sources.lock().unwrap_or_else(|e| e.into_inner()));
        drop(sources);
    }
}

/// The pieces of the chain at `head`, indirect tables included.
fn chain(table: usize, head: u16, size: u16) -> Vec<FakePiece> {
    let mut pieces = Vec::new();
    let (mut table, mut at, mut limit) = (table, head, size);
    loop {
        assert!(at < limit, "the driver's descriptor leads outside its table");
        assert!(pieces.len() <= 4096, "the driver's chain has a loop");
        let place = table + 16 * usize::from(at);
        // SAFETY: inside a table that the driver has given to the device.
        let (address, len, flags, next) = unsafe {
            (
                (place as *const u64).read_volatile() as usize,
                ((place + 8) as *const u32).read_volatile() as usize,
                ((place + 12) as *const u16).read_volatile(),
                ((place + 14) as *const u16).read_volatile(),
            )
        };
        if flags & 4 != 0 {
            assert!(flags & 3 == 0 && len.is_multiple_of(16), "a malformed indirect descriptor");
            (table, at, limit) = (address, 0, (len / 16) as u16);
            continue;
        }
        pieces.push((address, len, flags & 2 != 0));
        if flags & 1 == 0 {
            return pieces;
        }
        at = next;
    }
}

/// Reads all that the device may read of a request.
pub fn gather(pieces: &[FakePiece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(address, len, _) in pieces.iter().filter(|p| !p.2) {
        // SAFETY: the driver gave this memory to the device.
        bytes.extend_from_slice(unsafe { core::slice::from_raw_parts(address as *const u8, len) });
    }
    bytes
}

/// Writes to what the device may write of a request; returns how much fitted.
pub fn scatter(pieces: &[FakePiece], mut bytes: &[u8]) -> usize {
    let before = bytes.len();
    for &(address, len, _) in pieces.iter().filter(|p| p.2) {
        let n = len.min(bytes.len());
        // SAFETY: the driver gave this memory to the device.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, n) };
        bytes = &bytes[n..];
    }
    before - bytes.len()
}

impl Transport for FakeDevice {
    fn device_type(&self) -> u32 {
        self.kind
    }
    fn is_legacy(&self) -> bool {
        self.legacy
    }
    fn features(&self) -> u64 {
        assert!(self.status() & status::DRIVER != 0, "features are read before the driver has said hello");
        self.offered
    }
    fn accept(&self, features: u64) {
        assert_eq!(features & !self.offered, 0, "accepted what was not offered");
        self.with(|s| s.accepted = features);
    }
    fn status(&self) -> u8 {
        self.with(|s| s.status) | if self.manners.never_resets { status::NEEDS_RESET } else { 0 }
    }
    fn set_status(&self, value: u8) {
        self.with(|s| {
            s.status = value;
            if value == 0 {
                s.resets += 1;
                s.queues.iter_mut().for_each(|q| *q = Queue::default());
            }
            if self.manners.refuses_features {
                s.status &= !status::FEATURES_OK;
            }
        });
    }
    fn queue_size(&self, queue: u16) -> u16 {
        self.sizes.get(usize::from(queue)).copied().unwrap_or(0)
    }
    fn start_queue(&self, queue: u16, ring: &RingAddresses) -> Result<()> {
        self.with(|s| {
            assert_eq!(s.status & status::DRIVER_OK, 0, "queues start before the driver is ready");
            let place = s.queues.get_mut(usize::from(queue)).ok_or(Error::Invalid)?;
            place.ring = Some(*ring);
            Ok(())
        })
    }
    fn notify(&self, queue: u16) {
        self.with(|s| {
            assert_ne!(s.status & status::DRIVER_OK, 0, "a doorbell before the driver is ready");
            s.queues[usize::from(queue)].kicks += 1;
        });
    }
    fn config_read(&self, offset: usize, width: u8) -> u32 {
        self.with(|s| {
            let bytes = s.config.get(offset..offset + usize::from(width));
            bytes.map_or(u32::MAX, |b| b.iter().rev().fold(0, |v, &b| v << 8 | u32::from(b)))
        })
    }
    fn config_write(&self, offset: usize, width: u8, value: u32) {
        self.with(|s| {
            for (i, byte) in value.to_le_bytes()[..usize::from(width)].iter().enumerate() {
                if let Some(place) = s.config.get_mut(offset + i) {
                    *place = *byte;
                }
            }
        });
    }
    fn config_generation(&self) -> u32 {
        self.with(|s| {
            s.generation += u32::from(self.manners.restless);
            s.generation
        })
    }
    fn connect(&self, sources: Vec<Source>) -> Result<()> {
        *self.sources.lock().unwrap_or_else(|e| e.into_inner()) = sources;
        Ok(())
    }
}
