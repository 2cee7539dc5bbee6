//! Memory management's own data of each CPU: stocks of frames and of small heap objects.
//!
//! Touched by its CPU alone ([`with`]), without a lock and with interrupts as they are; counts are read by others for statistics.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering, compiler_fence};

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

/// What `PerCpu::kernel` points to.
struct Slot {
    /// True while [`with`] works: an interrupt handler that comes in between goes without.
    busy: AtomicBool,
    local: UnsafeCell<Local>,
}

const _: () = assert!(size_of::<Slot>() <= PAGE_SIZE);

/// All CPUs' slots, for the statistics.
static SLOTS: [AtomicPtr<Slot>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

/// Runs `work` on this CPU's data. `None` in an interrupt handler that came while the interrupted code was here, and if
/// there is no memory for the data: the caller then does without the stock.
#[inline]
pub fn with<T>(work: impl FnOnce(&mut Local) -> T) -> Option<T> {
    // The kernel is not preempted, so this CPU stays this one; handlers run to their end before we go on.
    let mut slot: *mut Slot = percpu::this().kernel.load(Ordering::Relaxed).cast();
    if slot.is_null() {
        slot = create();
    }
    // SAFETY: null, or a slot, which is never freed.
    let slot = unsafe { slot.as_ref() }?;
    if slot.busy.load(Ordering::Relaxed) {
        return None;
    }
    slot.busy.store(true, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    // SAFETY: the data is this CPU's alone, and `busy` keeps its handlers out. No `work` comes here again: all of them only
    // move numbers and pointers, or give frames back. So this is the only reference.
    let result = work(unsafe { &mut *slot.local.get() });
    compiler_fence(Ordering::SeqCst);
    slot.busy.store(false, Ordering::Relaxed);
    Some(result)
}

/// Makes the boot CPU's data.
pub fn init() {
    with(|_| ()).expect("the first section has memory");
}

/// Called once per CPU, by its first allocation.
#[cold]
fn create() -> *mut Slot {
    let mut first = 0;
    if section::take(0, 1, |frame| first = frame) == 0 {
        return core::ptr::null_mut();
    }
    let irq = irq_save();
    let place = &percpu::this().kernel;
    let mut slot: *mut Slot = place.load(Ordering::Relaxed).cast();
    if slot.is_null() {
        slot = direct(PhysAddr(u64::from(first) * PAGE_SIZE as u64));
        // SAFETY: a frame just allocated; all-zero is a valid slot (not busy, no frames, no objects).
        unsafe { frame::zero(slot.cast(), 1) };
        place.store(slot.cast(), Ordering::Relaxed);
        SLOTS[percpu::cpu_id() % MAX_CPUS].store(slot, Ordering::Release);
        irq_restore(irq);
    } else {
        // Opening a section, or an interrupt handler, allocated and so came here first.
        irq_restore(irq);
        section::give(0, first);
    }
    slot
}

/// Frames in the stocks of all CPUs.
pub fn stocked_frames() -> usize {
    let cpus = hal_core::platform().cpu().count().min(MAX_CPUS);
    SLOTS[..cpus]
        .iter()
        .map(|slot| {
            let slot = slot.load(Ordering::Acquire);
            // SAFETY: null, or a slot that is never freed; only its atomic count is read, by its address.
            unsafe { slot.as_ref().map_or(0, |slot| (*slot.local.get()).frame_count.load(Ordering::Relaxed) as usize) }
        })
        .sum()
}
