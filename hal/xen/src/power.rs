//! Ends of a domain: the hypervisor is told why.

use hal_core::Power;

use crate::abi::sched;
use crate::{console, hypercall};

/// Power by `SCHEDOP_shutdown`. The exit code is on the console's last line (docs/command-line.md, section 4), which is waited for.
pub struct XenPower;

impl Power for XenPower {
    fn exit(&self, _code: u8) -> ! {
        console::drain();
        hypercall::shutdown(sched::REASON_POWEROFF)
    }

    fn reboot(&self) -> ! {
        console::drain();
        hypercall::shutdown(sched::REASON_REBOOT)
    }
}
