//! The two platforms of this crate: [`KVM`] and the plain [`PC`].

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hal_core::{Backend, BootInfo, Platform};
use hal_x86::platform::PcPlatform;
use hal_x86::{arch, pc, signature};

use crate::pvclock;

/// KVM, whatever its user-space part (QEMU, Firecracker, Cloud Hypervisor).
pub static KVM: Backend = Backend { name: "kvm", detect: detect_kvm, init: |info| start(info, &KVM_PLATFORM) };

/// A PC with or without a hypervisor that nobody here knows; QEMU's TCG among them.
pub static PC: Backend = Backend { name: "pc", detect: |_| Some(1), init: |info| start(info, &PC_PLATFORM) };

static KVM_PLATFORM: PcPlatform = PcPlatform {
    name: "kvm",
    told_by: || "CPUID KVMKVMKVM",
    start_clock: start_kvm_clock,
    set_wall_clock: || PARAVIRTUAL.load(Ordering::Relaxed),
};
static PC_PLATFORM: PcPlatform =
    PcPlatform { name: "pc", told_by: || "nothing: a plain PC", start_clock: |_| {}, set_wall_clock: || false };

/// KVM's signature (Linux Documentation/virt/kvm/x86/cpuid.rst).
const SIGNATURE: &[u8; 12] = b"KVMKVMKVM\0\0\0";

/// KVM's first CPUID leaf, 0 if there is none.
static LEAF: AtomicU32 = AtomicU32::new(0);
/// KVM's clock is in use.
static PARAVIRTUAL: AtomicBool = AtomicBool::new(false);

fn detect_kvm(_info: &'static BootInfo) -> Option<u8> {
    // The leaves mean something only if a hypervisor says that it is there.
    if arch::cpuid(1, 0)[2] & 1 << 31 == 0 {
        return None;
    }
    let leaf = signature::find(SIGNATURE, |leaf| arch::cpuid(leaf, 0))?;
    LEAF.store(leaf, Ordering::Relaxed);
    Some(50)
}

fn start(info: &'static BootInfo, platform: &'static PcPlatform) -> &'static dyn Platform {
    pc::init_early(info);
    platform
}

/// Sets both clocks.
fn start_kvm_clock(_info: &BootInfo) {
    start_clock();
}

/// Sets both clocks, if there is KVM's interface, of KVM or of a hypervisor that imitates it; true if that worked.
pub fn start_clock() -> bool {
    let leaf = LEAF.load(Ordering::Relaxed);
    let works = leaf != 0 && pvclock::init(leaf);
    PARAVIRTUAL.store(works, Ordering::Relaxed);
    works
}
