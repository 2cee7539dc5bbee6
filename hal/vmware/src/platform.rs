//! Detection and the clock.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hal_core::{Backend, BootInfo};
use hal_x86::platform::PcPlatform;
use hal_x86::{arch, dmi, pc, signature, tsc};

use crate::{answers, backdoor};

/// VMware ESXi, Workstation, Fusion.
pub static VMWARE: Backend = Backend {
    name: "vmware",
    detect,
    init: |info| {
        pc::init_early(info);
        &PLATFORM
    },
};

static PLATFORM: PcPlatform = PcPlatform { name: "vmware", told_by, start_clock, set_wall_clock };

/// In VMware's knowledge base, article 1009458.
const SIGNATURE: &[u8; 12] = b"VMwareVMware";
/// From the first leaf to that with the frequencies.
const TIMING: u32 = 0x10;
const SCORE: u8 = 80;

/// The first CPUID leaf; 0: told by firmware.
static LEAF: AtomicU32 = AtomicU32::new(0);
/// The backdoor answers.
static BACKDOOR: AtomicBool = AtomicBool::new(false);

fn told_by() -> &'static str {
    if LEAF.load(Ordering::Relaxed) != 0 { "CPUID VMwareVMware" } else { "DMI serial number and backdoor port" }
}

fn detect(info: &'static BootInfo) -> Option<u8> {
    if arch::cpuid(1, 0)[2] & 1 << 31 != 0
        && let Some(leaf) = signature::find(SIGNATURE, |leaf| arch::cpuid(leaf, 0))
    {
        LEAF.store(leaf, Ordering::Relaxed);
        return Some(SCORE);
    }
    // CPUID can be hidden (`hypervisor.cpuid.v0 = FALSE`). The serial number alone could be anybody's.
    let serial = dmi::read(info)?.serial()?;
    (serial.starts_with(b"VMware-") && has_backdoor()).then_some(SCORE)
}

/// The backdoor answers. (Its port may be closed: `isolation.tools.getVersion.disable`; not at ring 3.)
fn has_backdoor() -> bool {
    arch::ring() == 0 && answers::is_vmware(backdoor::call(backdoor::GET_VERSION))
}

/// Takes the hypervisor's word for the counter's frequency; if it says nothing, it is measured as on any PC.
fn start_clock(info: &BootInfo) {
    let leaf = LEAF.load(Ordering::Relaxed);
    let backdoor = has_backdoor();
    BACKDOOR.store(backdoor, Ordering::Relaxed);
    let by_leaf = || {
        let timing = leaf.checked_add(TIMING).filter(|_| leaf != 0)?;
        let hz = answers::leaf_hz(arch::cpuid(leaf, 0)[0], timing, arch::cpuid(timing, 0))?;
        Some((hz, "tsc, told by CPUID"))
    };
    let by_backdoor = || {
        let hz = answers::backdoor_hz(backdoor::call(backdoor::GET_HZ))?;
        Some((hz, "tsc, told by the backdoor"))
    };
    if let Some((hz, source)) = by_leaf().or_else(|| if backdoor { by_backdoor() } else { None }) {
        tsc::set_frequency(source, hz, info.entry_tsc);
    }
}

/// The time of day from the backdoor.
fn set_wall_clock() -> bool {
    let backdoor = BACKDOOR.load(Ordering::Relaxed);
    log::info!(
        "vmware: told by {}; the backdoor {}",
        if LEAF.load(Ordering::Relaxed) != 0 { "CPUID" } else { "DMI" },
        if backdoor { "answers" } else { "is closed" }
    );
    if !backdoor {
        return false;
    }
    let now = answers::full_time(backdoor::call(backdoor::GET_TIME_FULL))
        .or_else(|| answers::short_time(backdoor::call(backdoor::GET_TIME)));
    now.map(pc::set_wall_ns).is_some()
}
