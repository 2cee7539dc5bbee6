//! The one list of linked hypervisor backends and device drivers.

use hal_core::bus::Driver;
use hal_core::{Backend, BootInfo, Platform};

/// Device drivers; each device is offered to them in this order.
pub static DRIVERS: &[&dyn Driver] = &[&virtio::DRIVER, &vmware::DRIVER, &intel::DRIVER, &ahci::DRIVER, &nvme::DRIVER];

/// Every backend. The one whose `detect` is surest is taken; the plain PC always can.
static BACKENDS: &[&Backend] = &[&hal_vmware::VMWARE, &hal_virtualbox::VIRTUALBOX, &hal_kvm::KVM, &hal_kvm::PC];

/// Chooses the backend and starts its first half.
pub fn choose(info: &'static BootInfo) -> &'static dyn Platform {
    let best = BACKENDS
        .iter()
        .filter_map(|backend| Some(((backend.detect)(info)?, backend)))
        .max_by_key(|(score, _)| *score)
        .map(|(_, backend)| backend)
        .expect("the plain PC is always there");
    (best.init)(info)
}
