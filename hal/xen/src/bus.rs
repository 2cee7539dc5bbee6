//! The bus of Xen's split devices: what the tool stack wrote below `device` in the XenStore.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hal_core::bus::BusDevice;

use crate::store;

/// Kinds that somebody drives. The console is the platform's own.
const KINDS: [&str; 2] = ["vif", "vbd"];

/// All devices, of each kind by number.
pub fn enumerate() -> Vec<BusDevice> {
    let mut devices = Vec::new();
    for kind in store::list("device").unwrap_or_default() {
        if !KINDS.contains(&kind.as_str()) {
            log::debug!("xenbus: nobody drives a {kind}");
            continue;
        }
        let mut names = store::list(&format!("device/{kind}")).unwrap_or_default();
        names.sort_by_key(|name| name.parse::<u32>().unwrap_or(u32::MAX));
        for name in names {
            devices.push(BusDevice::Named { kind: String::from(&kind), path: format!("device/{kind}/{name}") });
        }
    }
    devices
}

/// Disks and network interfaces among them.
pub fn has(devices: &[BusDevice], wanted: &str) -> bool {
    devices.iter().any(|device| matches!(device, BusDevice::Named { kind, .. } if kind == wanted))
}
