//! What differs between PV and HVM in the parts that all guests share, as plain function values chosen at boot.

use hal_core::{PhysAddr, Result, VirtAddr};
use spin::Once;

/// A guest's kind.
pub struct Mode {
    /// The number by which Xen knows a guest-physical frame: the same for HVM and PVH, the machine's for PV.
    pub frame_number: fn(PhysAddr) -> u64,
    /// Makes frame `index` of the grant table accessible and tells where. Called once for each, in order.
    pub map_grant_frame: fn(index: u32) -> Result<VirtAddr>,
    /// Xen's number of this kernel's CPU `cpu`, which runs or is the boot CPU.
    pub vcpu: fn(cpu: usize) -> u32,
}

static MODE: Once<&'static Mode> = Once::new();

/// Fixes the guest's kind. Before anything else of this crate is used.
pub fn set(mode: &'static Mode) {
    MODE.call_once(|| mode);
}

/// The guest's kind.
pub fn get() -> &'static Mode {
    MODE.get().expect("a Xen guest's kind is set first")
}
