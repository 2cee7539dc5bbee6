//! The memory-mapped transport (virtio 1.2, section 4.2), versions 2 and 1 (legacy).

use alloc::vec::Vec;

use hal_core::bus::MmioDevice;
use hal_core::{Error, PAGE_SIZE, Result};

use super::{Source, Transport, dispatch};
use crate::ring::RingAddresses;
use driver_kit::IrqLock;
use driver_kit::Registers;

const MAGIC: usize = 0x00;
const VERSION: usize = 0x04;
const DEVICE_ID: usize = 0x08;
const DEVICE_FEATURES: usize = 0x10;
const DEVICE_FEATURES_SELECT: usize = 0x14;
const DRIVER_FEATURES: usize = 0x20;
const DRIVER_FEATURES_SELECT: usize = 0x24;
const LEGACY_PAGE_SIZE: usize = 0x28;
const QUEUE_SELECT: usize = 0x30;
const QUEUE_SIZE_MAX: usize = 0x34;
const QUEUE_SIZE: usize = 0x38;
const LEGACY_QUEUE_ALIGN: usize = 0x3c;
const LEGACY_QUEUE_PFN: usize = 0x40;
const QUEUE_READY: usize = 0x44;
const QUEUE_NOTIFY: usize = 0x50;
const INTERRUPT_STATUS: usize = 0x60;
const INTERRUPT_ACK: usize = 0x64;
const STATUS: usize = 0x70;
const QUEUE_DESCRIPTORS: usize = 0x80;
const QUEUE_AVAILABLE: usize = 0x90;
const QUEUE_USED: usize = 0xa0;
const CONFIG_GENERATION: usize = 0xfc;
const CONFIG: usize = 0x100;

/// "virt", little-endian.
const MAGIC_VALUE: u32 = 0x7472_6976;

/// Attaches a handler to a line: interrupt number, level-triggered, handler.
pub(crate) type AttachLine = fn(u32, bool, hal_core::interrupt::Handler) -> Result<()>;

/// A memory-mapped device.
pub(crate) struct MmioTransport {
    registers: Registers,
    device_type: u32,
    legacy: bool,
    line: (u32, bool),
    attach: AttachLine,
    select: IrqLock<()>,
}

impl MmioTransport {
    /// Takes the registers over; `None` if there is no device behind them.
    pub fn open(device: &MmioDevice, registers: Registers, attach: AttachLine) -> Option<Result<Self>> {
        if registers.len() < CONFIG || registers.read32(MAGIC) != MAGIC_VALUE {
            return Some(Err(Error::Device("not the registers of such a device")));
        }
        let legacy = match registers.read32(VERSION) {
            1 => true,
            2 => false,
            _ => return Some(Err(Error::Unsupported)),
        };
        let device_type = registers.read32(DEVICE_ID);
        // 0 is an empty slot.
        (device_type != 0).then(|| {
            Ok(Self {
                registers,
                device_type,
                legacy,
                line: (device.gsi, device.level),
                attach,
                select: IrqLock::new(()),
            })
        })
    }
}

impl Transport for MmioTransport {
    fn device_type(&self) -> u32 {
        self.device_type
    }
    fn is_legacy(&self) -> bool {
        self.legacy
    }
    fn features(&self) -> u64 {
        let _one = self.select.lock();
        let half = |which| {
            self.registers.write32(DEVICE_FEATURES_SELECT, which);
            u64::from(self.registers.read32(DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }
    fn accept(&self, features: u64) {
        let _one = self.select.lock();
        for (which, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.registers.write32(DRIVER_FEATURES_SELECT, which);
            self.registers.write32(DRIVER_FEATURES, half);
        }
        if self.legacy {
            self.registers.write32(LEGACY_PAGE_SIZE, PAGE_SIZE as u32);
        }
    }
    fn status(&self) -> u8 {
        self.registers.read32(STATUS) as u8
    }
    fn set_status(&self, status: u8) {
        self.registers.write32(STATUS, u32::from(status));
    }
    fn queue_size(&self, queue: u16) -> u16 {
        let _one = self.select.lock();
        self.registers.write32(QUEUE_SELECT, u32::from(queue));
        let size = self.registers.read32(QUEUE_SIZE_MAX);
        // A size beyond what the ring's indices can count is cut; the driver wants less anyway.
        size.min(0x8000) as u16
    }
    fn start_queue(&self, queue: u16, ring: &RingAddresses) -> Result<()> {
        let _one = self.select.lock();
        let r = &self.registers;
        r.write32(QUEUE_SELECT, u32::from(queue));
        r.write32(QUEUE_SIZE, u32::from(ring.size));
        if self.legacy {
            let frame = u32::try_from(ring.descriptors.0 / PAGE_SIZE as u64).map_err(|_| Error::Unsupported)?;
            r.write32(LEGACY_QUEUE_ALIGN, PAGE_SIZE as u32);
            r.write32(LEGACY_QUEUE_PFN, frame);
        } else {
            r.write64(QUEUE_DESCRIPTORS, ring.descriptors.0);
            r.write64(QUEUE_AVAILABLE, ring.available.0);
            r.write64(QUEUE_USED, ring.used.0);
            r.write32(QUEUE_READY, 1);
        }
        Ok(())
    }
    #[inline]
    fn notify(&self, queue: u16) {
        self.registers.write32(QUEUE_NOTIFY, u32::from(queue));
    }
    fn config_read(&self, offset: usize, width: u8) -> u32 {
        self.registers.read(CONFIG.saturating_add(offset), width)
    }
    fn config_write(&self, offset: usize, width: u8, value: u32) {
        self.registers.write(CONFIG.saturating_add(offset), width, value);
    }
    fn config_generation(&self) -> u32 {
        if self.legacy {
            return 0;
        }
        self.registers.read32(CONFIG_GENERATION)
    }
    fn connect(&self, sources: Vec<Source>) -> Result<()> {
        let registers = self.registers;
        (self.attach)(
            self.line.0,
            self.line.1,
            alloc::sync::Arc::new(move || {
                let status = registers.read32(INTERRUPT_STATUS) & 3;
                if status != 0 {
                    registers.write32(INTERRUPT_ACK, status);
                    dispatch(&sources, status);
                }
            }),
        )
    }
}
