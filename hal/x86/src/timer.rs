//! Each CPU's one-shot clock event by its local APIC: TSC-deadline mode where the CPU has it, else the counter. Or by the
//! hypervisor's own timer, if the backend says so.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hal_core::clock;
use spin::Once;

use crate::arch::{self, msr};
use crate::local::CpuLocal;
use crate::{apic, tsc};

static DEADLINE_MODE: AtomicBool = AtomicBool::new(false);
type Foreign = (&'static str, fn(u64));

/// The hypervisor's timer: its name, and what arms it for a time (`u64::MAX` disarms).
static FOREIGN: Once<Foreign> = Once::new();
/// Counter ticks per nanosecond, times 2^32.
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(1 << 32);

/// An event this close is as good as now; it saves arming the hardware again for a rounding error.
const SLACK_NS: u64 = 500;

/// Fixes how events are made. `count_khz` is the APIC counter's frequency.
pub fn init(count_khz: u64) {
    let deadline = arch::cpuid(1, 0)[2] & 1 << 24 != 0;
    DEADLINE_MODE.store(deadline, Ordering::Relaxed);
    TICKS_PER_NS.store(((u128::from(count_khz) << 32) / 1_000_000) as u64, Ordering::Relaxed);
    init_this_cpu();
}

/// Makes events by the hypervisor's timer from now on; its interrupt must call [`interrupt`].
pub fn use_foreign(name: &'static str, arm: fn(u64)) {
    FOREIGN.call_once(|| (name, arm));
}

/// Prepares this CPU's timer.
pub fn init_this_cpu() {
    apic::init_timer(DEADLINE_MODE.load(Ordering::Relaxed));
}

/// "tsc-deadline", "apic-counter", or the hypervisor's name for its timer.
pub fn mode() -> &'static str {
    if let Some((name, _)) = FOREIGN.get() {
        return name;
    }
    if DEADLINE_MODE.load(Ordering::Relaxed) { "tsc-deadline" } else { "apic-counter" }
}

/// Arms this CPU's event; `u64::MAX` disarms.
pub fn set_event(deadline_ns: u64) {
    let local = CpuLocal::this();
    local.deadline.store(deadline_ns, Ordering::Relaxed);
    arm(deadline_ns);
}

fn arm(deadline_ns: u64) {
    if let Some((_, arm)) = FOREIGN.get() {
        return arm(deadline_ns);
    }
    if deadline_ns == u64::MAX {
        if DEADLINE_MODE.load(Ordering::Relaxed) {
            // SAFETY: the mode is on.
            unsafe { arch::wrmsr(msr::TSC_DEADLINE, 0) };
        } else {
            apic::start_count(0);
        }
        return;
    }
    let counter = clock::tsc();
    let delta = deadline_ns.saturating_sub(clock::PARAMS.ns_at(counter));
    if DEADLINE_MODE.load(Ordering::Relaxed) {
        let at = counter.saturating_add(tsc::ticks(delta)).max(1);
        // SAFETY: the mode is on.
        unsafe { arch::wrmsr(msr::TSC_DEADLINE, at) };
    } else {
        let ticks = (u128::from(delta) * u128::from(TICKS_PER_NS.load(Ordering::Relaxed))) >> 32;
        // Beyond the counter's range: `interrupt` arms it again.
        apic::start_count(ticks.clamp(1, u128::from(u32::MAX)) as u32);
    }
}

/// The timer's interrupt; interrupts are disabled.
pub fn interrupt() {
    let local = CpuLocal::this();
    let deadline = local.deadline.load(Ordering::Relaxed);
    if deadline == u64::MAX {
        return;
    }
    let now = clock::now_ns();
    tsc::refresh(now);
    if deadline > now.saturating_add(SLACK_NS) {
        arm(deadline);
        return;
    }
    local.deadline.store(u64::MAX, Ordering::Relaxed);
    if let Some(kernel) = hal_core::kernel() {
        kernel.timer();
    }
}

/// The clock of a CPU with a time-stamp counter.
pub struct TscClock;

impl hal_core::Clock for TscClock {
    fn source(&self) -> &'static str {
        tsc::source()
    }
    fn tsc_khz(&self) -> u64 {
        tsc::khz()
    }
    fn set_event(&self, deadline_ns: u64) {
        set_event(deadline_ns);
    }
}
