//! The power button, by which a host asks the guest to shut down: ACPI's fixed event, reported by the system control
//! interrupt (ACPI 6.4, sections 4.8.2 and 4.8.3.1). Hardware-reduced machines have none.

use alloc::sync::Arc;

use hal_core::Platform;

use crate::acpi::{EventBlock, Machine};
use crate::arch::{inb, inw, outb, outw};
use crate::pc;

/// Power button: in the status and in the enable register.
const BUTTON: u16 = 1 << 8;
/// PM1 control: ACPI has the machine, and not the BIOS.
const SCI_ENABLE: u16 = 1;

/// Listens to the button, if there is one.
pub fn init(platform: &dyn Platform, machine: &Machine) {
    let (Some(events), Some(sci)) = (machine.events, machine.sci) else {
        return;
    };
    if !take_over(machine) {
        log::warn!("the firmware does not hand ACPI over: the power button does nothing");
        return;
    }
    let Ok(isa) = u8::try_from(sci) else { return };
    let (gsi, level, active_low) = pc::pci_line(isa);
    let handler = Arc::new(move || pressed(&events));
    // SAFETY: the registers that firmware names for events; only the button is wanted.
    unsafe {
        for port in events.status() {
            outw(port, BUTTON);
        }
        for port in events.enable() {
            outw(port, BUTTON);
        }
    }
    if let Err(error) = platform.interrupts().attach_line(gsi, level, active_low, handler) {
        log::warn!("no interrupt for the power button: {error:?}");
    }
}

/// Makes the firmware report events by interrupts (section 4.8.2.5).
fn take_over(machine: &Machine) -> bool {
    let Some(control) = machine.power.control[0] else {
        return false;
    };
    // SAFETY: reads the control register that firmware names.
    let ready = || unsafe { inw(control) } & SCI_ENABLE != 0;
    if ready() {
        return true;
    }
    let Some((port, value)) = machine.enable else {
        return false;
    };
    // SAFETY: the write that firmware asks for.
    unsafe { outb(port, value) };
    // Emulators do it at once; a real BIOS takes its time. A port that nothing is at takes a microsecond.
    (0..100_000).any(|_| {
        // SAFETY: the POST code port: a delay.
        unsafe { inb(0x80) };
        ready()
    })
}

/// The interrupt, whose line others may share.
fn pressed(events: &EventBlock) {
    for port in events.status() {
        // SAFETY: the status register; ones clear.
        let button = unsafe {
            let button = inw(port) & BUTTON != 0;
            if button {
                outw(port, BUTTON);
            }
            button
        };
        if button && let Some(kernel) = hal_core::kernel() {
            kernel.shutdown_requested();
        }
    }
}
