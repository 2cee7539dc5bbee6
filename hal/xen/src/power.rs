//! Ends of a domain: the hypervisor is told why.

use core::sync::atomic::{AtomicBool, Ordering};

use hal_core::Power;

use crate::abi::sched;
use crate::{console, hypercall};

/// Power by `SCHEDOP_shutdown`. The exit code is on the console's last line (docs/command-line.md, section 4), which is waited for.
pub struct XenPower;

static REBOOT: AtomicBool = AtomicBool::new(false);

/// Makes the coming end a reboot.
pub fn reboot_at_exit() {
    REBOOT.store(true, Ordering::Relaxed);
}

impl Power for XenPower {
    fn exit(&self, _code: u8) -> ! {
        console::drain();
        hypercall::shutdown(if REBOOT.load(Ordering::Relaxed) { sched::REASON_REBOOT } else { sched::REASON_POWEROFF })
    }

    fn reboot(&self) -> ! {
        console::drain();
        hypercall::shutdown(sched::REASON_REBOOT)
    }
}
