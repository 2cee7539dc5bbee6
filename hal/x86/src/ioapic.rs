//! I/O APICs (Intel 82093AA): lines to vectors.

use alloc::vec::Vec;

use hal_core::{Error, PhysAddr, Platform, Result, VirtAddr};
use spin::Mutex;

const VERSION: u32 = 1;
const TABLE: u32 = 0x10;
const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const ACTIVE_LOW: u64 = 1 << 13;

struct IoApic {
    registers: VirtAddr,
    first: u32,
    lines: u32,
}

static CHIPS: Mutex<Vec<IoApic>> = Mutex::new(Vec::new());

impl IoApic {
    fn read(&self, register: u32) -> u32 {
        let base = self.registers.0 as *mut u32;
        // SAFETY: the chip's registers are mapped for ever, and the lock of `CHIPS` is held.
        unsafe {
            base.write_volatile(register);
            base.add(4).read_volatile()
        }
    }
    fn write(&self, register: u32, value: u32) {
        let base = self.registers.0 as *mut u32;
        // SAFETY: as in `read`.
        unsafe {
            base.write_volatile(register);
            base.add(4).write_volatile(value);
        }
    }
    fn set(&self, line: u32, entry: u64) {
        self.write(TABLE + 2 * line, MASKED as u32);
        self.write(TABLE + 2 * line + 1, (entry >> 32) as u32);
        self.write(TABLE + 2 * line, entry as u32);
    }
}

/// Takes over a chip that serves lines from `first` on; masks them all.
pub fn add(platform: &dyn Platform, registers: PhysAddr, first: u32) -> Result<()> {
    let mut chip = IoApic { registers: platform.mmu().map_device(registers, 4096)?, first, lines: 0 };
    let mut chips = CHIPS.lock();
    chip.lines = (chip.read(VERSION) >> 16 & 0xff) + 1;
    for line in 0..chip.lines {
        chip.write(TABLE + 2 * line, MASKED as u32);
    }
    chips.push(chip);
    Ok(())
}

/// Sends line `gsi` to `vector` of the CPU with APIC number `target`, and unmasks it.
pub fn route(gsi: u32, vector: u8, target: u8, level: bool, active_low: bool) -> Result<()> {
    let chips = CHIPS.lock();
    let chip = chips.iter().find(|c| (c.first..c.first + c.lines).contains(&gsi)).ok_or(Error::Invalid)?;
    let mut entry = u64::from(vector) | u64::from(target) << 56;
    if level {
        entry |= LEVEL;
    }
    if active_low {
        entry |= ACTIVE_LOW;
    }
    chip.set(gsi - chip.first, entry);
    Ok(())
}

/// Masks the two 8259s for good, with their vectors out of the exceptions' way (Intel 8259A data sheet).
pub fn mask_legacy() {
    // SAFETY: the ports of the legacy interrupt controllers, which nobody else drives. Where there is none, writes are
    // ignored.
    unsafe {
        for (port, value) in [
            (0x20, 0x11),
            (0xa0, 0x11),
            (0x21, 0x20),
            (0xa1, 0x28),
            (0x21, 4),
            (0xa1, 2),
            (0x21, 1),
            (0xa1, 1),
            (0x21, 0xff),
            (0xa1, 0xff),
        ] {
            crate::arch::outb(port, value);
        }
    }
}
