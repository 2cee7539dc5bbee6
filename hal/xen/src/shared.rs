//! The page that Xen shares with the domain: event bits, wall clock, and each VCPU's part (xen.h: `struct shared_info`).

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use hal_core::cpu::MAX_CPUS;
use hal_x86::pvclock::TimeInfo;

/// `struct vcpu_info`.
#[repr(C)]
pub struct VcpuInfo {
    /// An event came; written by Xen and by this VCPU.
    pub upcall_pending: AtomicU8,
    /// PV: no events now.
    pub upcall_mask: AtomicU8,
    pad: [u8; 6],
    /// Which words of the event bits to look at.
    pub pending_selector: AtomicU64,
    /// PV: the address of the last page fault.
    pub cr2: AtomicU64,
    pad2: u64,
    /// The VCPU's clock.
    pub time: TimeInfo,
}

/// VCPUs whose part lies in the shared page; others must register one.
pub const LEGACY_VCPUS: usize = 32;

/// `struct shared_info`.
#[repr(C)]
pub struct SharedInfo {
    vcpus: [VcpuInfo; LEGACY_VCPUS],
    /// An event came for the channel.
    pub pending: [AtomicU64; 64],
    /// The channel's events shall wait.
    pub mask: [AtomicU64; 64],
    wall_version: AtomicU32,
    wall_seconds: AtomicU32,
    wall_ns: AtomicU32,
    wall_seconds_high: AtomicU32,
    /// PV: the domain's memory, for tools.
    pub arch: [u64; 6],
}

const _: () = assert!(size_of::<VcpuInfo>() == 64 && core::mem::offset_of!(SharedInfo, wall_version) == 3072);

static SHARED: AtomicPtr<SharedInfo> = AtomicPtr::new(core::ptr::null_mut());
static VCPUS: [AtomicPtr<VcpuInfo>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

/// Says where the page is mapped.
///
/// # Safety
/// `page` is the shared page and stays mapped for ever.
pub unsafe fn set(page: *mut SharedInfo) {
    SHARED.store(page, Ordering::Release);
}

/// The page. Panics before [`set`].
pub fn get() -> &'static SharedInfo {
    // SAFETY: `set`'s caller vouches for it; all fields that Xen writes are atomic or read as volatile.
    unsafe { SHARED.load(Ordering::Acquire).as_ref() }.expect("the shared info is mapped early")
}

/// Says where CPU `cpu`, which is VCPU `vcpu`, has its part: in the page if `registered` is `None`.
///
/// # Safety
/// A registered part was registered with Xen and stays mapped for ever.
pub unsafe fn set_vcpu(cpu: usize, vcpu: u32, registered: Option<*mut VcpuInfo>) {
    let part = registered.unwrap_or_else(|| (&raw const get().vcpus[vcpu as usize]).cast_mut());
    VCPUS[cpu].store(part, Ordering::Release);
}

/// The part of CPU `cpu`.
#[inline]
pub fn vcpu(cpu: usize) -> Option<&'static VcpuInfo> {
    // SAFETY: as in `get`.
    unsafe { VCPUS.get(cpu)?.load(Ordering::Acquire).as_ref() }
}

/// Nanoseconds since 1970 at system time 0.
pub fn wall_ns() -> u64 {
    let page = get();
    loop {
        let version = page.wall_version.load(Ordering::Acquire);
        let seconds = u64::from(page.wall_seconds_high.load(Ordering::Relaxed)) << 32
            | u64::from(page.wall_seconds.load(Ordering::Relaxed));
        let ns = u64::from(page.wall_ns.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if version & 1 == 0 && page.wall_version.load(Ordering::Relaxed) == version {
            return seconds.wrapping_mul(1_000_000_000).wrapping_add(ns);
        }
        core::hint::spin_loop();
    }
}
