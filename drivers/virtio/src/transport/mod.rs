//! How a device is reached: PCI (modern and legacy) or memory-mapped registers.

use alloc::sync::Arc;
use alloc::vec::Vec;
use driver_kit::wait_for;

use hal_core::interrupt::{Handler, Interrupts, MsiMessage};
use hal_core::{Error, Result};

use crate::features::{self, status};
use crate::ring::RingAddresses;

pub(crate) mod legacy;
pub(crate) mod mmio;
pub(crate) mod msix;
pub(crate) mod pci;

/// The most queues that are looked at: more than any device here has for [`hal_core::cpu::MAX_CPUS`].
pub(crate) const MAX_QUEUES: u16 = 1024;

/// Somebody who wants interrupts, and of what.
pub(crate) struct Source {
    /// The queues; none: the device's configuration changed.
    pub queues: Vec<u16>,
    /// The CPU to interrupt.
    pub cpu: usize,
    /// Runs in the interrupt; may run without a cause.
    pub handler: Handler,
}

/// A device on its bus. Registers are only accessed by the one driver that has the device.
pub(crate) trait Transport: Send + Sync {
    /// Kind of device (virtio 1.2, section 5).
    fn device_type(&self) -> u32;
    /// True for a device of before virtio 1.0.
    fn is_legacy(&self) -> bool;
    /// What the device offers.
    fn features(&self) -> u64;
    /// Tells it what is accepted.
    fn accept(&self, features: u64);
    /// Status register.
    fn status(&self) -> u8;
    /// Writes the status register; 0 resets.
    fn set_status(&self, status: u8);
    /// Largest size of a queue, 0 if it is not there. A legacy device takes exactly this size.
    fn queue_size(&self, queue: u16) -> u16;
    /// Hands a ring over and starts the queue, with the interrupts of [`Transport::connect`].
    fn start_queue(&self, queue: u16, ring: &RingAddresses) -> Result<()>;
    /// The doorbell.
    fn notify(&self, queue: u16);
    /// Reads 1, 2 or 4 bytes of the device's own configuration, naturally aligned; all ones where there is nothing.
    fn config_read(&self, offset: usize, width: u8) -> u32;
    /// Writes 1, 2 or 4 bytes of it.
    fn config_write(&self, offset: usize, width: u8, value: u32);
    /// Changes when the configuration changes under a reader's hands.
    fn config_generation(&self) -> u32;
    /// Connects interrupts; before the queues start.
    fn connect(&self, sources: Vec<Source>) -> Result<()>;
}

impl dyn Transport + '_ {
    /// Resets the device and waits until it has done so (section 2.4.2).
    pub fn reset(&self) -> Result<()> {
        self.set_status(0);
        wait_for(1_000_000_000, || self.status() == 0).then_some(()).ok_or(Error::Device("the device does not reset"))
    }

    /// Reset, acknowledge, features (section 3.1.1, steps 1 to 6). `choose` tells, from what the device offers,
    /// what of its own features is wanted. Returns what was agreed on.
    pub fn negotiate(&self, choose: impl FnOnce(u64) -> u64) -> Result<u64> {
        self.reset()?;
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let offered = self.features();
        let wanted = choose(offered);
        let common = features::INDIRECT_DESC | features::EVENT_IDX | features::ACCESS_PLATFORM;
        if self.is_legacy() {
            let agreed = offered & (wanted | common | features::ANY_LAYOUT) & 0xffff_ffff;
            self.accept(agreed);
            return Ok(agreed);
        }
        if offered & features::VERSION_1 == 0 {
            return Err(Error::Device("neither a legacy nor a 1.0 device"));
        }
        let agreed = offered & (wanted | common | features::VERSION_1);
        self.accept(agreed);
        let now = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.set_status(now);
        if self.status() & status::FEATURES_OK == 0 {
            return Err(Error::Device("the device refuses every set of features"));
        }
        Ok(agreed)
    }

    /// The driver is ready (step 8).
    pub fn start(&self) {
        self.set_status(self.status() | status::DRIVER_OK);
    }

    /// The driver gives up: resets, so that the device lets go of its memory, and says so.
    pub fn give_up(&self) {
        // A device that does not even reset cannot be stopped by any other means either.
        let _ = self.reset();
        self.set_status(status::FAILED);
    }

    /// Reads configuration fields that belong together (section 2.5.1).
    pub fn config<T>(&self, mut read: impl FnMut() -> T) -> Result<T> {
        for _ in 0..100 {
            let before = self.config_generation();
            let value = read();
            if self.config_generation() == before {
                return Ok(value);
            }
        }
        Err(Error::Device("the configuration never settles"))
    }

    /// Reads 64 bits of configuration.
    pub fn config_read64(&self, offset: usize) -> u64 {
        u64::from(self.config_read(offset, 4)) | u64::from(self.config_read(offset + 4, 4)) << 32
    }

    /// The options for rings after [`negotiate`](#method.negotiate) agreed on `features`.
    pub fn ring_options(&self, agreed: u64) -> crate::ring::RingOptions {
        crate::ring::RingOptions {
            event_idx: agreed & features::EVENT_IDX != 0,
            indirect: agreed & features::INDIRECT_DESC != 0,
            lenient: self.is_legacy(),
        }
    }

    /// The size to make queue `queue`, at most `wanted` where the device leaves the choice.
    pub fn choose_size(&self, queue: u16, wanted: u16) -> Result<u16> {
        let largest = self.queue_size(queue);
        if largest == 0 {
            return Err(Error::Device("a queue is missing"));
        }
        if !largest.is_power_of_two() {
            return Err(Error::Device("a queue's size is not a power of two"));
        }
        Ok(if self.is_legacy() { largest } else { largest.min(wanted) })
    }
}

/// Allocates message interrupts. The platform's; a trait object so that tests have their own.
pub(crate) type Messages<'a> = &'a dyn Fn(usize, Handler) -> Result<MsiMessage>;

/// The platform's message interrupts.
pub(crate) fn platform_messages(cpu: usize, handler: Handler) -> Result<MsiMessage> {
    let interrupts: &dyn Interrupts = hal_core::platform().interrupts();
    interrupts.allocate_message(cpu, handler)
}

impl Source {
    /// True if a shared interrupt with this status (bit 0: queues, bit 1: configuration; section 4.1.4.5) is for it.
    pub fn wants(&self, interrupt_status: u32) -> bool {
        let bit = if self.queues.is_empty() { 2 } else { 1 };
        interrupt_status & bit != 0
    }
}

/// Runs the handlers that a shared interrupt with this status is for.
pub(crate) fn dispatch(sources: &[Source], interrupt_status: u32) {
    for source in sources.iter().filter(|s| s.wants(interrupt_status)) {
        (source.handler)();
    }
}

/// A shared transport.
pub(crate) type Shared = Arc<dyn Transport>;
