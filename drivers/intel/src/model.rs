//! The chips that are driven, by PCI device id.

/// A chip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    /// PCI device id; the vendor is 8086.
    pub id: u16,
    /// Cuts TCP segments.
    pub segmentation: bool,
    /// Has MSI-X vectors, for queues and others.
    pub messages: bool,
}

/// Intel.
const VENDOR: u16 = 0x8086;

const MODELS: [Model; 5] = [
    // 82543GC
    Model { id: 0x1004, segmentation: false, messages: false },
    // 82540EM: VirtualBox's default, QEMU's e1000
    Model { id: 0x100e, segmentation: true, messages: false },
    // 82545EM, copper: VMware's
    Model { id: 0x100f, segmentation: true, messages: false },
    // 82545EM, fibre
    Model { id: 0x1011, segmentation: true, messages: false },
    // 82574L: QEMU's and VMware's e1000e
    Model { id: 0x10d3, segmentation: true, messages: true },
];

/// The chip with this PCI id.
pub(crate) fn find((vendor, device): (u16, u16)) -> Option<&'static Model> {
    MODELS.iter().find(|m| vendor == VENDOR && m.id == device)
}
