//! Detection and the clock.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hal_core::{Backend, BootInfo};
use hal_x86::platform::PcPlatform;
use hal_x86::{acpi, dmi, pc, pci};

use crate::evidence;

/// VirtualBox.
pub static VIRTUALBOX: Backend = Backend {
    name: "virtualbox",
    detect,
    init: |info| {
        pc::init_early(info);
        &PLATFORM
    },
};

static PLATFORM: PcPlatform = PcPlatform { name: "virtualbox", told_by, start_clock, set_wall_clock };

/// More than the backend whose signature it shows.
const SCORE: u8 = 70;

/// Which of the evidence told, in the order in which it is looked at.
static TOLD_BY: AtomicUsize = AtomicUsize::new(0);

/// The clock page that VirtualBox offers is in use.
static PARAVIRTUAL: AtomicBool = AtomicBool::new(false);

fn detect(info: &'static BootInfo) -> Option<u8> {
    let by_acpi = |info: &BootInfo| acpi::root_oem(info).is_some_and(evidence::is_oem);
    let by_dmi = |info: &BootInfo| {
        let Some(dmi) = dmi::read(info) else { return false };
        evidence::is_machine(dmi.bios_vendor(), dmi.product())
    };
    // The last resort: it costs 32 register reads.
    let by_device = |info: &BootInfo| info.rsdp.is_none() && pci::is_on_first_bus(evidence::VMM_DEVICE);
    let found = [by_acpi as fn(&_) -> _, by_dmi, by_device].iter().position(|is_there| is_there(info))?;
    TOLD_BY.store(found, Ordering::Relaxed);
    Some(SCORE)
}

fn told_by() -> &'static str {
    ["ACPI OEM VBOX", "DMI innotek GmbH", "PCI 80ee:cafe"].get(TOLD_BY.load(Ordering::Relaxed)).unwrap_or(&"")
}

fn start_clock(_info: &BootInfo) {
    PARAVIRTUAL.store(hal_kvm::start_clock(), Ordering::Relaxed);
}

fn set_wall_clock() -> bool {
    PARAVIRTUAL.load(Ordering::Relaxed)
}
