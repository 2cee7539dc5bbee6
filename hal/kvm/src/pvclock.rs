//! KVM's clock: a page that says how to turn the time-stamp counter into nanoseconds (Linux
//! Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW and MSR_KVM_WALL_CLOCK_NEW).

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

use hal_core::clock::PARAMS;
use hal_x86::pvclock::{STABLE, TimeInfo};
use hal_x86::{arch, boot, tsc};

const WALL_CLOCK: u32 = 0x4b56_4d00;
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const FEATURE_CLOCK: u32 = 1 << 3;
const ENABLE: u64 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
struct WallClock {
    version: u32,
    seconds: u32,
    ns: u32,
}

#[repr(C, align(64))]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: written by the hypervisor, read by `read_volatile`.
unsafe impl<T> Sync for Shared<T> {}

#[repr(C, align(64))]
struct Aligned(TimeInfo);

static TIME: Aligned = Aligned(TimeInfo::EMPTY);
static WALL: Shared<WallClock> = Shared(UnsafeCell::new(WallClock { version: 0, seconds: 0, ns: 0 }));

/// Starts the clock. `base` is KVM's first CPUID leaf. False if this KVM has none, or one that differs between CPUs.
pub fn init(base: u32) -> bool {
    if arch::cpuid(base + 1, 0)[0] & FEATURE_CLOCK == 0 {
        return false;
    }
    // SAFETY: CPUID offers these registers; the pages are static, so the hypervisor may write to them for ever.
    unsafe {
        arch::wrmsr(SYSTEM_TIME, boot::phys_of_static(&raw const TIME) | ENABLE);
        arch::wrmsr(WALL_CLOCK, boot::phys_of_static(WALL.0.get()));
    }
    let Some(now) = TIME.0.read().filter(|c| c.flags & STABLE != 0) else {
        // SAFETY: turns the page off again.
        unsafe { arch::wrmsr(SYSTEM_TIME, 0) };
        return false;
    };
    tsc::set_told("kvmclock", (now.tsc, now.ns), now.mult, now.shift, now.frequency(), again);
    // SAFETY: written by the hypervisor during the register write above.
    let wall = unsafe { WALL.0.get().read_volatile() };
    PARAMS.wall_offset_ns.store(u64::from(wall.seconds) * 1_000_000_000 + u64::from(wall.ns), Ordering::Relaxed);
    true
}

/// Takes over what the hypervisor changed (after a migration the counter runs at another speed).
fn again(_now: u64) {
    if let Some(now) = TIME.0.read() {
        PARAMS.update(now.tsc, now.ns, now.mult, now.shift);
    }
}
