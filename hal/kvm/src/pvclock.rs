//! KVM's clock: a page that says how to turn the time-stamp counter into nanoseconds (Linux
//! Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW and MSR_KVM_WALL_CLOCK_NEW).

use core::cell::UnsafeCell;
use core::sync::atomic::{Ordering, fence};

use hal_core::clock::PARAMS;
use hal_x86::{arch, boot, tsc};

const WALL_CLOCK: u32 = 0x4b56_4d00;
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const FEATURE_CLOCK: u32 = 1 << 3;
const ENABLE: u64 = 1;
/// The counters of all CPUs agree.
const FLAG_STABLE: u8 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
struct TimeInfo {
    version: u32,
    pad0: u32,
    tsc: u64,
    ns: u64,
    mult: u32,
    shift: i8,
    flags: u8,
    pad: [u8; 2],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct WallClock {
    version: u32,
    seconds: u32,
    ns: u32,
}

#[repr(C, align(64))]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: written by the hypervisor, read by `read_volatile` under its version counter.
unsafe impl<T> Sync for Shared<T> {}

static TIME: Shared<TimeInfo> =
    Shared(UnsafeCell::new(TimeInfo { version: 0, pad0: 0, tsc: 0, ns: 0, mult: 0, shift: 0, flags: 0, pad: [0; 2] }));
static WALL: Shared<WallClock> = Shared(UnsafeCell::new(WallClock { version: 0, seconds: 0, ns: 0 }));

fn read() -> TimeInfo {
    loop {
        // SAFETY: a static that only the hypervisor writes.
        let info = unsafe { TIME.0.get().read_volatile() };
        fence(Ordering::Acquire);
        // SAFETY: as above.
        let version = unsafe { (&raw const (*TIME.0.get()).version).read_volatile() };
        if info.version & 1 == 0 && info.version == version {
            return info;
        }
        core::hint::spin_loop();
    }
}

/// `ns = ((tsc << shift) * mult) >> 32`, as one multiplication and one right shift.
fn conversion(info: &TimeInfo) -> (u32, u32) {
    (info.mult, (32 - i32::from(info.shift)) as u32)
}

/// Frequency in Hz that the conversion implies.
fn frequency(info: &TimeInfo) -> u64 {
    let (mult, shift) = conversion(info);
    ((1_000_000_000u128 << shift) / u128::from(mult.max(1))) as u64
}

/// Starts the clock. `base` is KVM's first CPUID leaf. False if this KVM has none, or one that differs between CPUs.
pub fn init(base: u32) -> bool {
    if arch::cpuid(base + 1, 0)[0] & FEATURE_CLOCK == 0 {
        return false;
    }
    // SAFETY: CPUID offers these registers; the pages are static, so the hypervisor may write to them for ever.
    unsafe {
        arch::wrmsr(SYSTEM_TIME, boot::phys_of_static(TIME.0.get()) | ENABLE);
        arch::wrmsr(WALL_CLOCK, boot::phys_of_static(WALL.0.get()));
    }
    let info = read();
    if info.mult == 0 || info.flags & FLAG_STABLE == 0 || !(-31..=31).contains(&info.shift) {
        // SAFETY: turns the page off again.
        unsafe { arch::wrmsr(SYSTEM_TIME, 0) };
        return false;
    }
    let (mult, shift) = conversion(&info);
    tsc::set_told("kvmclock", (info.tsc, info.ns), mult, shift, frequency(&info), again);
    // SAFETY: written by the hypervisor during the register write above.
    let wall = unsafe { WALL.0.get().read_volatile() };
    PARAMS.wall_offset_ns.store(u64::from(wall.seconds) * 1_000_000_000 + u64::from(wall.ns), Ordering::Relaxed);
    true
}

/// Takes over what the hypervisor changed (after a migration the counter runs at another speed).
fn again(_now: u64) {
    let info = read();
    let (mult, shift) = conversion(&info);
    PARAMS.update(info.tsc, info.ns, mult, shift);
}
