//! The modern PCI transport (virtio 1.2, section 4.1): registers in memory BARs, found by capabilities.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use hal_core::bus::{Bar, PciFunction};
use hal_core::{Error, Result};

use super::msix::{NO_VECTOR, Vectors};
use super::{MAX_QUEUES, Messages, Source, Transport};
use crate::ring::RingAddresses;
use driver_kit::IrqLock;
use driver_kit::Registers;

const VENDOR: u16 = 0x1af4;

/// The kind of virtio device that a PCI function is (section 4.1.2), if it is one.
pub(crate) fn device_type(pci: &dyn PciFunction) -> Option<u32> {
    match pci.id() {
        (VENDOR, id @ 0x1041..=0x107f) => Some(u32::from(id - 0x1040)),
        (VENDOR, 0x1000..=0x103f) => Some(u32::from(pci.subsystem().1)),
        _ => None,
    }
}

/// Offsets in the common configuration structure (section 4.1.4.3).
mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    pub const DEVICE_FEATURE: usize = 4;
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    pub const DRIVER_FEATURE: usize = 12;
    pub const CONFIG_VECTOR: usize = 16;
    pub const NUM_QUEUES: usize = 18;
    pub const STATUS: usize = 20;
    pub const GENERATION: usize = 21;
    pub const QUEUE_SELECT: usize = 22;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_VECTOR: usize = 26;
    pub const QUEUE_ENABLE: usize = 28;
    pub const QUEUE_NOTIFY_OFF: usize = 30;
    pub const QUEUE_DESCRIPTORS: usize = 32;
    pub const QUEUE_AVAILABLE: usize = 40;
    pub const QUEUE_USED: usize = 48;
    pub const LEN: u32 = 56;
}

/// One capability: a place in a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    bar: u8,
    offset: u32,
    len: u32,
}

/// What the capabilities say (section 4.1.4).
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    common: Option<Place>,
    notify: Option<(Place, u32)>,
    isr: Option<Place>,
    device: Option<Place>,
}

/// Walks the capability list. Of each kind the first usable one counts.
fn find_places(pci: &dyn PciFunction) -> Places {
    const STATUS_HAS_LIST: u32 = 1 << 20;
    const VENDOR_SPECIFIC: u32 = 9;
    let mut found = Places::default();
    if pci.read(4) & STATUS_HAS_LIST == 0 {
        return found;
    }
    let mut at = pci.read(0x34) as u16 & 0xfc;
    // 48 capabilities fill the configuration space: a longer list is a loop.
    for _ in 0..48 {
        if at < 0x40 {
            break;
        }
        let head = pci.read(at);
        if head & 0xff == VENDOR_SPECIFIC && at <= 0x100 - 16 {
            let place = Place { bar: pci.read(at + 4) as u8, offset: pci.read(at + 8), len: pci.read(at + 12) };
            let kind = (head >> 24) as u8;
            let smallest = match kind {
                1 => common::LEN,
                2 => 2,
                3 | 4 => 1,
                _ => u32::MAX,
            };
            if place.len >= smallest && fits(pci, &place) {
                match kind {
                    1 => found.common = found.common.or(Some(place)),
                    2 if at <= 0x100 - 20 => {
                        let multiplier = pci.read(at + 16);
                        found.notify = found.notify.or(Some((place, multiplier)));
                    }
                    3 => found.isr = found.isr.or(Some(place)),
                    4 => found.device = found.device.or(Some(place)),
                    _ => {}
                }
            }
        }
        at = (head >> 8) as u16 & 0xfc;
    }
    found
}

/// True if the place lies inside a memory BAR.
fn fits(pci: &dyn PciFunction, place: &Place) -> bool {
    place.bar <= 5
        && match pci.bar(place.bar) {
            Some(Bar::Memory(_, len, _)) => u64::from(place.offset) + u64::from(place.len) <= len,
            _ => false,
        }
}

/// A modern PCI device.
pub(crate) struct PciTransport {
    pci: Arc<dyn PciFunction>,
    device_type: u32,
    common: Registers,
    isr: Registers,
    device: Option<Registers>,
    notify: Registers,
    notify_multiplier: u32,
    /// Per queue, where its doorbell is in `notify`.
    doorbells: Box<[AtomicU32]>,
    vectors: Vectors,
    messages: fn(usize, hal_core::interrupt::Handler) -> Result<hal_core::interrupt::MsiMessage>,
    /// Selecting a queue and using its registers is one step.
    select: IrqLock<()>,
}

impl PciTransport {
    /// Takes the function over; `None` if it has no modern interface.
    pub fn open(
        pci: &Arc<dyn PciFunction>,
        device_type: u32,
        messages: fn(usize, hal_core::interrupt::Handler) -> Result<hal_core::interrupt::MsiMessage>,
    ) -> Option<Result<Self>> {
        let places = find_places(&**pci);
        let (Some(common), Some((notify, notify_multiplier)), Some(isr)) = (places.common, places.notify, places.isr)
        else {
            return None;
        };
        pci.enable();
        let map = |place: Place| -> Result<Registers> {
            let (base, len) = pci.map_bar(place.bar)?;
            // SAFETY: the platform maps the whole BAR for ever, and this driver alone has the function.
            unsafe { Registers::new(base, len as usize) }
                .part(u64::from(place.offset), u64::from(place.len))
                .ok_or(Error::Device("a capability lies outside its BAR"))
        };
        Some((|| {
            let common = map(common)?;
            Ok(Self {
                pci: pci.clone(),
                device_type,
                common,
                isr: map(isr)?,
                device: places.device.map(map).transpose()?,
                notify: map(notify)?,
                notify_multiplier,
                doorbells: (0..MAX_QUEUES).map(|_| AtomicU32::new(u32::MAX)).collect(),
                vectors: Vectors::new(),
                messages,
                select: IrqLock::new(()),
            })
        })())
    }
}

impl Transport for PciTransport {
    fn device_type(&self) -> u32 {
        self.device_type
    }
    fn is_legacy(&self) -> bool {
        false
    }
    fn features(&self) -> u64 {
        let _one = self.select.lock();
        let half = |which| {
            self.common.write32(common::DEVICE_FEATURE_SELECT, which);
            u64::from(self.common.read32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }
    fn accept(&self, features: u64) {
        let _one = self.select.lock();
        for (which, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.common.write32(common::DRIVER_FEATURE_SELECT, which);
            self.common.write32(common::DRIVER_FEATURE, half);
        }
    }
    fn status(&self) -> u8 {
        self.common.read8(common::STATUS)
    }
    fn set_status(&self, status: u8) {
        self.common.write8(common::STATUS, status);
    }
    fn queue_size(&self, queue: u16) -> u16 {
        // Asked anew each time: the number may grow with the features that were agreed on (QEMU's network).
        if queue >= self.common.read16(common::NUM_QUEUES).min(MAX_QUEUES) {
            return 0;
        }
        let _one = self.select.lock();
        self.common.write16(common::QUEUE_SELECT, queue);
        self.common.read16(common::QUEUE_SIZE)
    }
    fn start_queue(&self, queue: u16, ring: &RingAddresses) -> Result<()> {
        let _one = self.select.lock();
        let c = &self.common;
        c.write16(common::QUEUE_SELECT, queue);
        c.write16(common::QUEUE_SIZE, ring.size);
        let vector = self.vectors.queue(queue);
        c.write16(common::QUEUE_VECTOR, vector);
        if vector != NO_VECTOR && c.read16(common::QUEUE_VECTOR) != vector {
            return Err(Error::Device("the device refuses a queue's vector"));
        }
        c.write64(common::QUEUE_DESCRIPTORS, ring.descriptors.0);
        c.write64(common::QUEUE_AVAILABLE, ring.available.0);
        c.write64(common::QUEUE_USED, ring.used.0);
        let offset = u64::from(c.read16(common::QUEUE_NOTIFY_OFF)) * u64::from(self.notify_multiplier);
        if offset + 2 > self.notify.len() as u64 {
            return Err(Error::Device("a doorbell lies outside its BAR"));
        }
        self.doorbells.get(usize::from(queue)).ok_or(Error::Invalid)?.store(offset as u32, Ordering::Relaxed);
        c.write16(common::QUEUE_ENABLE, 1);
        Ok(())
    }
    #[inline]
    fn notify(&self, queue: u16) {
        if let Some(doorbell) = self.doorbells.get(usize::from(queue)) {
            self.notify.write16(doorbell.load(Ordering::Relaxed) as usize, queue);
        }
    }
    fn config_read(&self, offset: usize, width: u8) -> u32 {
        self.device.map_or(u32::MAX, |d| d.read(offset, width))
    }
    fn config_write(&self, offset: usize, width: u8, value: u32) {
        if let Some(device) = self.device {
            device.write(offset, width, value);
        }
    }
    fn config_generation(&self) -> u32 {
        u32::from(self.common.read8(common::GENERATION))
    }
    fn connect(&self, sources: Vec<Source>) -> Result<()> {
        let isr = self.isr;
        let messages: Messages<'_> = &self.messages;
        self.vectors.connect(&*self.pci, messages, sources, move || isr.read8(0))?;
        let vector = self.vectors.config();
        self.common.write16(common::CONFIG_VECTOR, vector);
        if vector != NO_VECTOR && self.common.read16(common::CONFIG_VECTOR) != vector {
            return Err(Error::Device("the device refuses the vector of its configuration"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "pci_tests.rs"]
mod tests;
