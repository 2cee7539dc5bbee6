//! Detection and the clock.

use core::sync::atomic::{AtomicBool, Ordering};

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

static PLATFORM: PcPlatform = PcPlatform { name: "virtualbox", start_clock, set_wall_clock };

/// More than the backend whose signature it shows.
const SCORE: u8 = 70;

/// The clock page that VirtualBox offers is in use.
static PARAVIRTUAL: AtomicBool = AtomicBool::new(false);

fn detect(info: &'static BootInfo) -> Option<u8> {
    let by_acpi = || acpi::root_oem(info).is_some_and(evidence::is_oem);
    let by_dmi = || {
        let Some(dmi) = dmi::read(info) else { return false };
        evidence::is_machine(dmi.bios_vendor(), dmi.product())
    };
    // The last resort: it costs 32 register reads.
    let by_device = || info.rsdp.is_none() && pci::is_on_first_bus(evidence::VMM_DEVICE);
    (by_acpi() || by_dmi() || by_device()).then_some(SCORE)
}

fn start_clock(_info: &BootInfo) {
    PARAVIRTUAL.store(hal_kvm::start_clock(), Ordering::Relaxed);
}

fn set_wall_clock() -> bool {
    PARAVIRTUAL.load(Ordering::Relaxed)
}
