//! Ends of a run on a PC: exit code to the host, ACPI soft-off, reset.

use core::sync::atomic::{AtomicU64, Ordering};

use hal_core::{Platform, Power};

use crate::acpi::{Register, try_machine};
use crate::arch::{cli, hlt, outb, outl, outw};
use crate::serial;

/// QEMU's `isa-debug-exit` (docs/command-line.md, section 4).
const DEBUG_EXIT: u16 = 0xf4;
/// PM1 control: sleep type in bits 10-12, sleep enable in bit 13 (ACPI 6.4, table 4-17).
const SLEEP_ENABLE: u16 = 1 << 13;
/// Where QEMU's chipsets have PM1 control when firmware says nothing.
const USUAL_CONTROL: [u16; 2] = [0x604, 0xb004];

static SLEEP_REGISTER: AtomicU64 = AtomicU64::new(0);
static RESET_REGISTER: AtomicU64 = AtomicU64::new(0);

/// Maps what must be reachable later, when nothing can be allocated.
pub fn init(platform: &dyn Platform) {
    let Some(machine) = try_machine() else { return };
    if let Some(Register::Memory(at)) = machine.power.sleep_control
        && let Ok(mapped) = platform.mmu().map_device(at, 1)
    {
        SLEEP_REGISTER.store(mapped.0, Ordering::Relaxed);
    }
    if let Some((at, _)) = machine.power.reset_memory
        && let Ok(mapped) = platform.mmu().map_device(at, 1)
    {
        RESET_REGISTER.store(mapped.0, Ordering::Relaxed);
    }
}

/// A PC's power.
pub struct PcPower;

fn soft_off() {
    if let Some(machine) = try_machine()
        && let Some((a, b)) = machine.power.s5
    {
        // SAFETY: the registers that firmware names for going to sleep.
        unsafe {
            match machine.power.sleep_control {
                // ACPI 6.4, table 4-19: type in bits 2-4, enable in bit 5.
                Some(Register::Port(port)) => outb(port, a << 2 | 1 << 5),
                Some(Register::Memory(_)) => {
                    let at = SLEEP_REGISTER.load(Ordering::Relaxed) as *mut u8;
                    if !at.is_null() {
                        at.write_volatile(a << 2 | 1 << 5);
                    }
                }
                None => {}
            }
            for (port, kind) in machine.power.control.iter().zip([a, b]) {
                if let Some(port) = port {
                    outw(*port, u16::from(kind & 7) << 10 | SLEEP_ENABLE);
                }
            }
        }
    }
    for port in USUAL_CONTROL {
        // SAFETY: the machine is at its end: what these ports do on another chipset does not matter any more.
        unsafe { outw(port, SLEEP_ENABLE) };
    }
}

fn reset() -> ! {
    // SAFETY: each of these resets a machine that has it; nothing runs any more.
    unsafe {
        if let Some(machine) = try_machine() {
            if let Some((port, value)) = machine.power.reset_port {
                outb(port, value);
            }
            let at = RESET_REGISTER.load(Ordering::Relaxed) as *mut u8;
            if let Some((_, value)) = machine.power.reset_memory
                && !at.is_null()
            {
                at.write_volatile(value);
            }
        }
        outb(0xcf9, 0x02);
        outb(0xcf9, 0x06);
        outb(0x64, 0xfe);
        // A triple fault: no interrupt table, then an exception.
        let nothing = [0u16; 5];
        core::arch::asm!("lidt [{}]", "ud2", in(reg) &nothing, options(nostack, noreturn));
    }
}

impl Power for PcPower {
    fn exit(&self, code: u8) -> ! {
        cli();
        serial::COM1.drain();
        // SAFETY: QEMU ends; without that device nothing is at this port.
        unsafe { outl(DEBUG_EXIT, u32::from(code)) };
        soft_off();
        // Soft-off may take a moment.
        let start = hal_core::clock::tsc();
        while hal_core::clock::tsc().wrapping_sub(start) < 1 << 30 {
            core::hint::spin_loop();
        }
        reset()
    }

    fn reboot(&self) -> ! {
        cli();
        serial::COM1.drain();
        reset()
    }
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        cli();
        hlt();
    }
}
