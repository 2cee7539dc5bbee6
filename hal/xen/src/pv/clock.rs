//! A PV guest's clock events: by the VCPU's one-shot timer, which counts in Xen's system time (`crate::clock`).

use core::sync::atomic::Ordering;

use hal_core::clock;
use hal_x86::tsc;

use super::cpu::PvCpu;
use crate::clock::system_time;
use crate::hypercall;

/// An event this close is as good as now.
const SLACK_NS: u64 = 500;

/// The timer's event; events are masked.
pub fn interrupt() {
    let cpu = PvCpu::this();
    let deadline = cpu.deadline.load(Ordering::Relaxed);
    if deadline == u64::MAX {
        return;
    }
    let now = clock::now_ns();
    tsc::refresh(now);
    if deadline > now.saturating_add(SLACK_NS) {
        arm(deadline);
        return;
    }
    cpu.deadline.store(u64::MAX, Ordering::Relaxed);
    if let Some(kernel) = hal_core::kernel() {
        kernel.timer();
    }
}

fn arm(deadline_ns: u64) {
    let number = hal_core::percpu::cpu_id() as u32;
    if hypercall::set_timer(number, system_time(deadline_ns)).is_err() {
        // Only a time that Xen holds for absurd is refused (years ahead): as good as none.
        let _ = hypercall::set_timer(number, u64::MAX);
    }
}

/// [`hal_core::Clock`] of a PV guest.
pub struct PvClock;

impl hal_core::Clock for PvClock {
    fn source(&self) -> &'static str {
        tsc::source()
    }
    fn tsc_khz(&self) -> u64 {
        tsc::khz()
    }
    fn set_event(&self, deadline_ns: u64) {
        PvCpu::this().deadline.store(deadline_ns, Ordering::Relaxed);
        arm(deadline_ns);
    }
}
