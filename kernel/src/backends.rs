//! The one list of linked hypervisor backends and device drivers.

use hal_core::bus::Driver;

/// Device drivers; each device is offered to them in this order.
pub static DRIVERS: &[&dyn Driver] = &[&virtio::DRIVER];
