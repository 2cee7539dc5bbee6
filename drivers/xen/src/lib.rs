//! Drivers of Xen's split devices: the front ends of disk and network (xen/include/public/io). The other half is a driver in
//! another domain, which is not trusted: what it writes to a ring is copied, checked, and the first lie ends its use; memory that it
//! can reach holds nothing but what is meant for it.
//!
//! What they need from Xen is [`hal_xen::services::Services`]: they run against a fake under `cargo test`.
//! Unsafe code is in `ring`, `pages`, and where data is copied between the two and the kernel's buffers.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

mod block;
mod frontend;
mod net;
mod pages;
mod ring;
mod xenbus;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
pub mod fuzz;

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use hal_core::Result;
use hal_core::bus::{BusDevice, Driver};
use hal_core::device::Device;
use hal_core::interrupt::Handler;
use hal_xen::services::Services;

/// The driver of every split device.
pub struct Xen;

/// The one instance, for the kernel's list.
pub static DRIVER: Xen = Xen;

impl Driver for Xen {
    fn name(&self) -> &'static str {
        "xen"
    }

    fn probe(&self, device: &BusDevice, cpus: usize) -> Option<Result<Vec<Device>>> {
        let BusDevice::Named { kind, path } = device else { return None };
        start(services()?, kind, path, cpus).map(|device| Ok(alloc::vec![device?]))
    }
}

/// Brings a device up; `None` if its kind is nobody's here.
pub(crate) fn start(services: Arc<dyn Services>, kind: &str, path: &str, cpus: usize) -> Option<Result<Device>> {
    match kind {
        "vbd" => Some(block::Block::start(services, path, cpus).map(|d| Device::Block(d))),
        "vif" => Some(net::Net::start(services, path, cpus).map(|d| Device::Net(d))),
        _ => None,
    }
}

#[cfg(target_os = "none")]
fn services() -> Option<Arc<dyn Services>> {
    Some(Arc::new(hal_xen::services::Xen))
}

#[cfg(not(target_os = "none"))]
fn services() -> Option<Arc<dyn Services>> {
    None
}

/// A channel's handler that calls `run` of a device: leaked, since it may be running whenever the channel is closed.
pub(crate) fn interrupt<T: Send + Sync + 'static>(
    device: Weak<T>,
    run: impl Fn(&T) + Send + Sync + 'static,
) -> &'static Handler {
    let handler: Handler = Arc::new(move || {
        if let Some(device) = device.upgrade() {
            run(&device);
        }
    });
    Box::leak(Box::new(handler))
}

/// This CPU's number; 0 on the host.
#[inline]
fn this_cpu() -> usize {
    #[cfg(target_os = "none")]
    return hal_core::percpu::cpu_id();
    #[cfg(not(target_os = "none"))]
    return 0;
}
