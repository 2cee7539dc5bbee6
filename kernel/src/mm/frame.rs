//! Frames of physical memory: blocks of 4 KiB << order, contiguous, reference-counted.
//!
//! Single frames come from the CPU's own stock (no shared lock); larger blocks and refills from the arenas
//! (`section`). A little memory is kept for the kernel itself, so that a program that eats all memory is
//! refused while the kernel can still clean up after it.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base::sync::IrqSpinLock;
use hal_core::memory::direct;
use hal_core::{PAGE_SIZE, PhysAddr};
use mm_core::buddy::{FrameMeta, state};

use super::local::{self, BATCH, STOCK};
use super::{section, shrink};

/// The largest order: 16 MiB.
pub use mm_core::buddy::MAX_ORDER;

/// Frames that only the kernel itself may use.
static RESERVE: AtomicUsize = AtomicUsize::new(0);

/// Who asks for memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// On a program's behalf: refused when only the reserve is left.
    User,
    /// The kernel's own objects.
    Kernel,
}

/// Numbers of frames.
#[derive(Clone, Copy, Debug)]
pub struct FrameStats {
    /// Managed by the allocator.
    pub total: usize,
    /// Free, including those in per-CPU stocks.
    pub free: usize,
    /// The part of `free` in per-CPU stocks.
    pub cached: usize,
}

#[inline]
fn number(address: PhysAddr) -> u32 {
    (address.0 / PAGE_SIZE as u64) as u32
}

#[inline]
fn address(frame: u32) -> PhysAddr {
    PhysAddr(u64::from(frame) * PAGE_SIZE as u64)
}

#[inline]
fn meta(at: PhysAddr) -> &'static FrameMeta {
    section::meta(number(at))
}

/// Fixes the kernel's reserve: 1/32 of memory, at most 16 MiB. What the kernel allocates for its own objects cannot
/// everywhere be refused, so this much is out of the programs' reach.
pub(super) fn init() {
    let pages = (section::total_frames() / 32).min((16 << 20) / PAGE_SIZE);
    RESERVE.store(pages, Ordering::Relaxed);
    SPARE.lock().most = (section::total_frames() / 4096).min(SPARES);
}

/// A block of 4 KiB << `order` for a program, not zeroed, with one reference. `None` when memory is out.
pub fn alloc(order: u8) -> Option<PhysAddr> {
    alloc_for(order, Purpose::User)
}

/// A zeroed frame for a program.
pub fn alloc_zeroed() -> Option<PhysAddr> {
    let frame = alloc_for(0, Purpose::User)?;
    // SAFETY: just allocated, one frame.
    unsafe { zero(direct(frame), 1) };
    Some(frame)
}

/// As [`alloc`], for `purpose`.
pub fn alloc_for(order: u8, purpose: Purpose) -> Option<PhysAddr> {
    let frame = if order == 0 {
        alloc_single(purpose)?
    } else {
        if !allowed(purpose, 1 << order) {
            return None;
        }
        let mut frame = None;
        section::take(order, 1, |f| frame = Some(f));
        while frame.is_none() && purpose == Purpose::Kernel && release_spare() {
            section::take(order, 1, |f| frame = Some(f));
        }
        frame?
    };
    section::meta(frame).refs.store(1, Ordering::Relaxed);
    Some(address(frame))
}

/// True if `frames` more may be taken without touching the kernel's reserve.
fn allowed(purpose: Purpose, frames: usize) -> bool {
    purpose == Purpose::Kernel || section::free_frames() >= RESERVE.load(Ordering::Relaxed) + frames
}

#[inline]
fn alloc_single(purpose: Purpose) -> Option<u32> {
    let stocked = local::with(|local| {
        let left = local.frame_count.load(Ordering::Relaxed).checked_sub(1)?;
        local.frame_count.store(left, Ordering::Relaxed);
        Some(local.frames[left as usize])
    });
    match stocked.flatten() {
        None => refill(purpose),
        stocked => stocked,
    }
}

/// Takes a batch from the arenas: one frame to return, the others for the stock. Not under [`local::with`],
/// because opening a section may allocate.
#[cold]
fn refill(purpose: Purpose) -> Option<u32> {
    if !allowed(purpose, 1) {
        return None;
    }
    let mut first = None;
    // Near the end single frames are taken, so that no CPU hoards the last ones.
    if allowed(Purpose::User, 16 * BATCH) {
        section::take(BATCH.trailing_zeros() as u8, 1, |block| first = Some(block));
    }
    let Some(first) = first else {
        section::take(0, 1, |frame| first = Some(frame));
        while first.is_none() && purpose == Purpose::Kernel && release_spare() {
            section::take(0, 1, |frame| first = Some(frame));
        }
        if purpose == Purpose::Kernel && nearly_out() {
            shrink::note_shortage();
        }
        return first;
    };
    for frame in first..first + BATCH as u32 {
        let meta = section::meta(frame);
        meta.order.store(0, Ordering::Relaxed);
        meta.state.store(state::USED, Ordering::Relaxed);
    }
    let rest = first + 1..first + BATCH as u32;
    let kept = local::with(|local| {
        let count = local.frame_count.load(Ordering::Relaxed) as usize;
        // The stock was empty a moment ago; an interrupt handler may have freed something.
        let room = local.frames.get_mut(count..count + rest.len())?;
        // The lowest address goes out first: neighbours in time are neighbours in memory.
        for (slot, frame) in room.iter_mut().zip(rest.clone().rev()) {
            *slot = frame;
        }
        local.frame_count.store((count + rest.len()) as u32, Ordering::Relaxed);
        Some(())
    });
    if kept.flatten().is_none() {
        for frame in rest {
            section::give(0, frame);
        }
    }
    Some(first)
}

/// Puts a free frame into this CPU's stock; a full stock gives half of itself to the arenas.
fn stock(frame: u32) {
    let kept = local::with(|local| {
        let mut count = local.frame_count.load(Ordering::Relaxed) as usize;
        if count == STOCK {
            section::give_singles(&local.frames[BATCH..]);
            count = BATCH;
        }
        local.frames[count] = frame;
        local.frame_count.store(count as u32 + 1, Ordering::Relaxed);
    });
    if kept.is_none() {
        section::give(0, frame);
    }
}

/// Frees a block.
///
/// # Safety
/// It was allocated with this order, and nobody uses it any more.
pub unsafe fn free(at: PhysAddr, order: u8) {
    let frame = number(at);
    debug_assert_eq!(section::meta(frame).state.load(Ordering::Relaxed), state::USED);
    debug_assert_eq!(section::meta(frame).order.load(Ordering::Relaxed), order);
    if order == 0 {
        stock(frame);
    } else {
        section::give(order, frame);
    }
}

/// Adds a reference to an allocated block, by the address of its first frame.
#[inline]
pub fn get(at: PhysAddr) {
    meta(at).refs.fetch_add(1, Ordering::Relaxed);
}

/// Drops a reference; the block is freed with the last one.
///
/// # Safety
/// The caller owns the reference that it drops.
#[inline]
pub unsafe fn put(at: PhysAddr) {
    let meta = meta(at);
    // The only reference is ours: nobody else can add one.
    if meta.refs.load(Ordering::Acquire) == 1 || meta.refs.fetch_sub(1, Ordering::AcqRel) == 1 {
        // SAFETY: that was the last reference; the order is the block's.
        unsafe { free(at, meta.order.load(Ordering::Relaxed)) };
    }
}

/// How many references a block has.
#[inline]
pub fn refs(at: PhysAddr) -> u32 {
    meta(at).refs.load(Ordering::Acquire)
}

/// Makes the 2^order frames of a block single frames, each with one reference.
///
/// # Safety
/// The caller owns the block's only reference.
pub unsafe fn split(at: PhysAddr, order: u8) {
    let first = number(at);
    for frame in first..first + (1 << order) {
        let meta = section::meta(frame);
        meta.refs.store(1, Ordering::Relaxed);
        meta.order.store(0, Ordering::Relaxed);
        meta.state.store(state::USED, Ordering::Relaxed);
    }
}

/// Gives memory to the allocator that was reserved at boot: a module that was consumed, ACPI tables.
///
/// # Safety
/// Nobody uses it any more, it was not given before, and it is mapped in the direct map.
#[allow(dead_code, reason = "the way back for memory reserved at boot, which nothing gives up yet")]
pub unsafe fn release(start: PhysAddr, len: u64) {
    let end = number(PhysAddr(start.0 + len));
    section::give_range(number(start.align_up(PAGE_SIZE as u64)), end);
}

/// A counted handle to a frame that was reserved at boot (of the kernel's image, of a module) and stays so: the handle never
/// frees it. `None` if there is no memory for its metadata.
///
/// # Safety
/// The frame is reserved for good and mapped in the direct map.
pub unsafe fn of_reserved(at: PhysAddr) -> Option<base::Frame> {
    // One reference for ever, one for the handle.
    section::ensure(number(at)).then_some(())?;
    section::meta(number(at)).refs.fetch_add(2, Ordering::Relaxed);
    let address = core::ptr::NonNull::new(hal_core::memory::direct(at))?;
    // SAFETY: the frame has metadata, is mapped by the caller's word, and the handle's reference was just added.
    Some(unsafe { base::Frame::from_raw(address) })
}

/// Writes zeroes over `frames` frames from `at`.
///
/// # Safety
/// They are writable and the caller's; `at` is 8-byte aligned.
#[inline]
pub unsafe fn zero(at: *mut u8, frames: usize) {
    // SAFETY: by the caller; the direction flag is clear in all Rust code.
    unsafe {
        core::arch::asm!("rep stosq", inout("rcx") frames * (PAGE_SIZE / 8) => _, inout("rdi") at => _,
            in("rax") 0u64, options(nostack, preserves_flags));
    }
}

/// Copies one frame.
///
/// # Safety
/// `to` is the caller's frame, `from` is readable; both are in the direct map.
#[inline]
pub unsafe fn copy(to: PhysAddr, from: PhysAddr) {
    // SAFETY: by the caller; the direction flag is clear in all Rust code.
    unsafe {
        core::arch::asm!("rep movsq", inout("rcx") PAGE_SIZE / 8 => _, inout("rdi") direct::<u8>(to) => _,
            inout("rsi") direct::<u8>(from) => _, options(nostack, preserves_flags));
    }
}

/// Blocks set aside whole: the reserve's single frames do not help an object that needs several in a row.
static SPARE: IrqSpinLock<Spare> = IrqSpinLock::new(Spare { blocks: [0; SPARES], count: 0, most: 0 });
const SPARES: usize = 4;
/// 128 KiB each.
const SPARE_ORDER: u8 = 5;

struct Spare {
    blocks: [u32; SPARES],
    count: usize,
    /// How many this machine keeps.
    most: usize,
}

/// Gives one spare block to the arenas; false if there is none.
#[cold]
fn release_spare() -> bool {
    let block = {
        let mut spare = SPARE.lock();
        spare.count = match spare.count.checked_sub(1) {
            Some(count) => count,
            None => return false,
        };
        spare.blocks[spare.count]
    };
    SHORT_OF_SPARES.store(true, Ordering::Relaxed);
    shrink::note_shortage();
    section::give(SPARE_ORDER, block);
    true
}

/// Sets spare blocks aside again while there is enough.
fn keep_spares() {
    while section::free_frames() > 4 * RESERVE.load(Ordering::Relaxed) {
        let mut taken = None;
        section::take(SPARE_ORDER, 1, |block| taken = Some(block));
        let Some(block) = taken else {
            return;
        };
        let mut spare = SPARE.lock();
        let count = spare.count;
        if count == spare.most {
            drop(spare);
            return section::give(SPARE_ORDER, block);
        }
        spare.blocks[count] = block;
        spare.count = count + 1;
        SHORT_OF_SPARES.store(spare.count < spare.most, Ordering::Relaxed);
        if spare.count == spare.most {
            return;
        }
    }
}

/// True if [`keep_spares`] has something to do.
static SHORT_OF_SPARES: AtomicBool = AtomicBool::new(true);

/// Frames that must be free beyond the reserve before the kernel makes new objects for a program.
const ROOM: usize = 32;

/// True if even the kernel's reserve is half used.
pub fn nearly_out() -> bool {
    section::free_frames() < RESERVE.load(Ordering::Relaxed) / 2
}

/// `ENOMEM` if a program has eaten all but the kernel's reserve: asked before the kernel makes objects on its behalf.
pub fn check_room() -> base::Result<()> {
    if SHORT_OF_SPARES.load(Ordering::Relaxed) {
        keep_spares();
    }
    if allowed(Purpose::User, ROOM) || shrink::shrink(2 * ROOM) > 0 { Ok(()) } else { Err(base::Errno::ENOMEM) }
}

/// As [`check_room`], for an operation that takes about `frames` frames.
pub fn check_room_for(frames: usize) -> base::Result<()> {
    let fits = || allowed(Purpose::User, frames);
    if fits() || (shrink::shrink(frames.max(BATCH)) > 0 && fits()) { Ok(()) } else { Err(base::Errno::ENOMEM) }
}

/// Takes `get` work, and if memory is out, asks the shrinkers for some and tries again. May sleep: hold no lock.
pub fn with_reclaim<T>(mut get: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(got) = get() {
            return Some(got);
        }
        if shrink::shrink(BATCH) == 0 {
            return None;
        }
    }
}

/// Free frames without those in per-CPU stocks: cheap.
pub fn approximate_free() -> usize {
    section::free_frames()
}

/// All frames that the allocator manages.
pub fn total() -> usize {
    section::total_frames()
}

/// Numbers for /proc/meminfo.
pub fn stats() -> FrameStats {
    let cached = local::stocked_frames();
    FrameStats { total: section::total_frames(), free: section::free_frames() + cached, cached }
}
