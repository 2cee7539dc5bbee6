//! Memory management's own data of each CPU: stocks of frames and of small heap objects.
//!
//! Touched by its CPU alone, with interrupts disabled ([`with`]); counts are read by others for statistics.

use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use base::sync::Once;
use hal_core::cpu::{MAX_CPUS, irq_restore, irq_save};
use hal_core::memory::direct;
use hal_core::{PAGE_SIZE, PhysAddr, percpu};

use super::heap::CLASSES;
use super::{frame, section};

/// Frames that a CPU keeps at most.
pub const STOCK: usize = 64;
/// Frames moved between a CPU and the arenas at once.
pub const BATCH: usize = STOCK / 2;

/// Free objects of one size, linked through their first word.
#[derive(Clone, Copy)]
pub struct Objects {
    pub head: *mut u8,
    pub count: u32,
}

/// One CPU's data; fits a page.
pub struct Local {
    /// How many of `frames` are there. Read by other CPUs.
    pub frame_count: AtomicU32,
    pub frames: [u32; STOCK],
    pub objects: [Objects; CLASSES],
}

const _: () = assert!(size_of::<Local>() <= PAGE_SIZE);

static LOCAL: [AtomicPtr<Local>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

/// Runs `work` on this CPU's data with interrupts disabled. `None` if there is no memory for that data.
#[inline]
pub fn with<T>(work: impl FnOnce(&mut Local) -> T) -> Option<T> {
    let irq = irq_save();
    let mut local = LOCAL[percpu::cpu_id() % MAX_CPUS].load(Ordering::Relaxed);
    if local.is_null() {
        local = create();
    }
    // SAFETY: the data is this CPU's alone; interrupts are disabled and no `work` comes here again: all of
    // them only move numbers and pointers, or give frames back. So this is the only reference.
    let result = unsafe { local.as_mut() }.map(work);
    irq_restore(irq);
    result
}

/// Makes the boot CPU's data.
pub fn init() {
    with(|_| ()).expect("the first section has memory");
}

/// Called once per CPU, by its first allocation.
#[cold]
fn create() -> *mut Local {
    let mut first = 0;
    if section::take(0, 1, |frame| first = frame) == 0 {
        return core::ptr::null_mut();
    }
    // Opening a section may have allocated, and so have come here first.
    let existing = LOCAL[percpu::cpu_id() % MAX_CPUS].load(Ordering::Relaxed);
    if !existing.is_null() {
        section::give(0, &[first]);
        return existing;
    }
    let local: *mut Local = direct(PhysAddr(u64::from(first) * PAGE_SIZE as u64));
    // SAFETY: a frame just allocated; all-zero is a valid `Local` (no frames, no objects).
    unsafe { frame::zero(local.cast(), 1) };
    LOCAL[percpu::cpu_id() % MAX_CPUS].store(local, Ordering::Release);
    local
}

/// Frames in the stocks of all CPUs.
pub fn stocked_frames() -> usize {
    static COUNT: Once<usize> = Once::new();
    let cpus = *COUNT.call_once(|| hal_core::platform().cpu().count());
    LOCAL[..cpus.min(MAX_CPUS)]
        .iter()
        .map(|local| {
            let local = local.load(Ordering::Acquire);
            // SAFETY: null, or data that is never freed; only its atomic count is read.
            unsafe { local.as_ref() }.map_or(0, |l| l.frame_count.load(Ordering::Relaxed) as usize)
        })
        .sum()
}
