//! The one list of linked hypervisor backends and device drivers.

use hal_core::bus::Driver;
use hal_core::{Backend, BootInfo, Platform};

/// Device drivers; each device is offered to them in this order.
pub static DRIVERS: &[&dyn Driver] =
    &[&virtio::DRIVER, &vmware::DRIVER, &intel::DRIVER, &ahci::DRIVER, &nvme::DRIVER, &ide::DRIVER, &xen::DRIVER];

/// The score of a backend that the entry itself names.
const CERTAIN: u8 = 100;

/// Every backend. The one whose `detect` is surest is taken; the plain PC always can.
static BACKENDS: &[&Backend] = &[
    &hal_xen::pv::PV,
    &hal_xen::hvm::HVM,
    &hal_vmware::VMWARE,
    &hal_virtualbox::VIRTUALBOX,
    &hal_kvm::KVM,
    &hal_kvm::PC,
];

/// Chooses the backend and starts its first half.
pub fn choose(info: &'static BootInfo) -> &'static dyn Platform {
    let mut best: Option<(u8, &Backend)> = None;
    for backend in BACKENDS {
        let score = (backend.detect)(info);
        if let Some(score) = score.filter(|&score| best.is_none_or(|(other, _)| score > other)) {
            best = Some((score, backend));
            if score == CERTAIN {
                // The others need not look: where this one knows, their ways to ask may be none.
                break;
            }
        }
    }
    let (_, best) = best.expect("the plain PC is always there");
    (best.init)(info)
}
