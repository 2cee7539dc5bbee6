//! The clock of a PV guest: the conversion in the VCPU's part of the shared information, and the VCPU's one-shot timer, which
//! counts in the same system time.

use core::sync::atomic::Ordering;

use hal_core::clock::{self, PARAMS};
use hal_core::{Error, Result};
use hal_x86::{pc, tsc};

use super::cpu::PvCpu;
use crate::{hypercall, shared};

/// An event this close is as good as now.
const SLACK_NS: u64 = 500;

fn read() -> Option<hal_x86::pvclock::Conversion> {
    shared::vcpu(0)?.time.read()
}

/// Starts the clock.
pub fn init() -> Result<()> {
    let info = read().ok_or(Error::Device("Xen's clock makes no sense"))?;
    tsc::set_told("xen", (info.tsc, info.ns), info.mult, info.shift, info.frequency(), again);
    let wall = shared::wall_ns().wrapping_add(clock::now_ns());
    pc::set_wall_ns(wall);
    Ok(())
}

/// Takes over what Xen changed, without a step back.
fn again(_now: u64) {
    let Some(info) = read() else { return };
    let counter = clock::tsc();
    let before = PARAMS.ns_at(counter);
    let passed = (u128::from(counter.saturating_sub(info.tsc)) * u128::from(info.mult)) >> info.shift;
    let after = info.ns.wrapping_add(passed as u64);
    PARAMS.update(counter, after.max(before), info.mult, info.shift);
}

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
    // Xen refuses a VCPU that is not the caller's, and nothing else.
    let armed = hypercall::set_timer(hal_core::percpu::cpu_id() as u32, deadline_ns);
    debug_assert!(armed.is_ok());
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
