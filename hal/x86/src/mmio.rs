//! Memory-mapped devices that the command line names, and plain register access.

use alloc::vec::Vec;

use hal_core::bus::{BusDevice, MmioDevice};
use hal_core::{PhysAddr, VirtAddr};

use crate::mmio_line;

/// Writes a 32-bit register.
pub fn write32(at: VirtAddr, value: u32) {
    // SAFETY: callers pass addresses that `map_device` gave, inside of the range that they mapped.
    unsafe { (at.0 as *mut u32).write_volatile(value) };
}

/// The devices of `virtio_mmio.device=SIZE@ADDRESS:IRQ`.
pub fn enumerate(command_line: &str) -> Vec<BusDevice> {
    command_line
        .split_ascii_whitespace()
        .filter_map(|token| token.strip_prefix("virtio_mmio.device="))
        .filter_map(|value| {
            let device = mmio_line::parse(value);
            if device.is_none() {
                log::warn!("virtio_mmio.device={value}: not SIZE@ADDRESS:IRQ");
            }
            device
        })
        .map(|(len, base, irq)| {
            // The number is the global system interrupt. Beyond the ISA ones (QEMU's microvm with two I/O APICs) lines
            // are level-triggered, as its DSDT says: an edge that came before the line was routed would be lost.
            let (gsi, level) = match u8::try_from(irq) {
                Ok(isa) if isa < 16 => (crate::pc::isa_line(isa).0, crate::pc::isa_line(isa).1),
                _ => (irq, true),
            };
            BusDevice::Mmio(MmioDevice { compatible: "virtio-mmio", base: PhysAddr(base), len, gsi, level })
        })
        .collect()
}
