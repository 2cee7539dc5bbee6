//! Feature bits that mean the same for every device (virtio 1.2, section 6).

/// The device understands any order of pieces (legacy devices; implied by [`VERSION_1`]).
pub(crate) const ANY_LAYOUT: u64 = 1 << 27;
/// Descriptors may point to tables of descriptors.
pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
/// Notifications are suppressed by index instead of by flag.
pub(crate) const EVENT_IDX: u64 = 1 << 29;
/// Not a legacy device.
pub(crate) const VERSION_1: u64 = 1 << 32;
/// The device's memory accesses go the platform's way. We give guest-physical addresses, which are that way
/// as long as no IOMMU is programmed, and we program none.
pub(crate) const ACCESS_PLATFORM: u64 = 1 << 33;

/// Status bits of the device (section 2.1).
pub(crate) mod status {
    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u8 = 8;
    /// The device has given up.
    #[cfg(any(test, feature = "fake"))]
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}
