//! What the tool stack asks of the domain through `control/shutdown` (docs/misc/xenstore-paths.pandoc): power off, reboot. Saving is
//! refused.

use alloc::sync::Arc;

use hal_core::Result;

use crate::{power, store};

const REQUEST: &str = "control/shutdown";

/// Says what this guest can do, and listens.
pub fn init() -> Result<()> {
    // An old tool stack does not let a domain write these; nothing depends on them.
    let _ = store::write(&[
        ("control/feature-poweroff", "1"),
        ("control/feature-reboot", "1"),
        ("control/feature-suspend", "0"),
    ]);
    store::watch(REQUEST, Arc::new(requested))
}

/// Deferred work: the node changed.
fn requested() {
    let Ok(mut values) = store::read(&[REQUEST]) else { return };
    let Some(request) = values.pop().flatten() else { return };
    match request.as_str() {
        // Also our own acknowledgement.
        "" => {}
        "poweroff" | "halt" | "reboot" => {
            if let Err(error) = store::write(&[(REQUEST, "")]) {
                log::warn!("{REQUEST} cannot be acknowledged: {error:?}");
            }
            log::info!("Xen asks for {request}");
            if request == "reboot" {
                power::reboot_at_exit();
            }
            if let Some(kernel) = hal_core::kernel() {
                kernel.shutdown_requested();
            }
        }
        // Neither is acknowledged: the tool stack gives up with an error, after its minute, and the domain goes on.
        "suspend" => log::error!("Xen asks to suspend the domain, to save or migrate it: Coracle cannot, and goes on"),
        other => log::error!("Xen asks for {other:?}, which Coracle does not do: it goes on"),
    }
}
