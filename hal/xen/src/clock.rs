//! The clock: Xen's conversion of the time-stamp counter, its one-shot timer, its wall clock.
//!
//! The kernel's monotonic time is Xen's system time less what that was when the domain began to run.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use hal_core::clock::{PARAMS, tsc};
use hal_core::interrupt::Handler;
use hal_core::{Error, Result, percpu};
use hal_x86::pvclock::STABLE;
use hal_x86::{timer, tsc as counter};
use spin::Once;

use crate::abi::{evtchn, op, vcpu};
use crate::{event, hypercall, mode, shared};

/// Xen's system time at the kernel's time 0.
static START: AtomicU64 = AtomicU64::new(0);
static TIMER: Once<&'static Handler> = Once::new();

/// Starts the monotonic and the wall clock from the boot CPU's part of the shared info.
pub fn init() -> Result<()> {
    let now = shared::vcpu(0).and_then(|part| part.time.read()).ok_or(Error::Device("Xen gives no clock"))?;
    if now.flags & STABLE == 0 {
        // Xen keeps the counters of a domain's CPUs in step, or emulates them; it does not promise it for migrations.
        log::debug!("Xen does not promise that the CPUs' time-stamp counters agree");
    }
    let now = now.through(tsc());
    START.store(now.ns, Ordering::Relaxed);
    counter::set_told("xen", (now.tsc, 0), now.mult, now.shift, now.frequency(), again);
    PARAMS.wall_offset_ns.store(shared::wall_ns().wrapping_add(now.ns), Ordering::Relaxed);
    Ok(())
}

/// Xen's system time at the kernel's monotonic time `ns`.
pub fn system_time(ns: u64) -> u64 {
    ns.saturating_add(START.load(Ordering::Relaxed))
}

/// Takes over what Xen changed.
fn again(_now: u64) {
    if let Some(now) = shared::vcpu(0).and_then(|part| part.time.read()) {
        let now = now.through(tsc());
        // Xen's corrections may put the time back a little; the kernel's never goes back.
        let ns = now.ns.saturating_sub(START.load(Ordering::Relaxed)).max(PARAMS.ns_at(now.tsc));
        PARAMS.update(now.tsc, ns, now.mult, now.shift);
    }
}

/// Makes this CPU's events by Xen's timer. The same on every CPU.
pub fn init_timer(cpu: usize) -> Result<()> {
    let handler = *TIMER.call_once(|| {
        let handler: Handler = Arc::new(timer::interrupt);
        Box::leak(Box::new(handler))
    });
    let number = u64::from((mode::get().vcpu)(cpu));
    // SAFETY: fewer interrupts break nothing. A domain starts without that timer, except on old versions.
    let _ = unsafe { hypercall::call(op::VCPU, [vcpu::STOP_PERIODIC_TIMER, number, 0, 0, 0]) };
    event::bind_virq(evtchn::VIRQ_TIMER, cpu, handler)?;
    timer::use_foreign("xen timer", arm);
    Ok(())
}

fn arm(deadline_ns: u64) {
    let number = (mode::get().vcpu)(percpu::cpu_id());
    if hypercall::set_timer(number, system_time(deadline_ns)).is_err() && deadline_ns != u64::MAX {
        // Only a time that Xen holds for absurd is refused (years ahead): as good as none.
        let _ = hypercall::set_timer(number, u64::MAX);
    }
}
