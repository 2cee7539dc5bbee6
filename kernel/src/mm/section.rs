//! Sections: 16 MiB pieces of guest-physical memory, opened when they are first needed.
//!
//! Opening maps a section in the direct map, takes 16 of its frames for the metadata of its 4096 frames
//! and gives the rest to the arena of the CPU that asked. So boot touches one section, whatever the size of
//! RAM. An *arena* is a buddy allocator with its lock; every section belongs to one arena for ever.
//!
//! Metadata is found by frame number through two tables: a root of 512 entries, each for 512 sections (8 GiB).

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use base::sync::{IrqSpinLock, Once};
use hal_core::boot::{BootInfo, MemoryKind};
use hal_core::memory::direct;
use hal_core::{PAGE_SIZE, PhysAddr, percpu};
use mm_core::buddy::{Buddy, FrameMeta, FrameTable, SECTION_FRAMES};

/// How many arenas there are; CPUs are spread over them.
pub const ARENAS: usize = 8;
const FRAMES: u64 = SECTION_FRAMES as u64;
const META_FRAMES: u64 = FRAMES * size_of::<FrameMeta>() as u64 / PAGE_SIZE as u64;
const FAN_OUT: usize = 512;
/// The first frame number beyond what the tables reach (4 TiB).
const LIMIT: u64 = FAN_OUT as u64 * FAN_OUT as u64 * FRAMES;

/// Entries are the address of a section's metadata plus its arena's number; 0 if it is not open.
type Leaf = [AtomicU64; FAN_OUT];

static ROOT: [AtomicU64; FAN_OUT] = [const { AtomicU64::new(0) }; FAN_OUT];
/// The leaf of the first 8 GiB, so that the first section needs no memory for its leaf.
static FIRST_LEAF: Leaf = [const { AtomicU64::new(0) }; FAN_OUT];

/// One buddy allocator. The alignment keeps two locks off one cache line.
#[repr(align(64))]
pub struct Arena {
    buddy: IrqSpinLock<Buddy>,
    /// Copy of the buddy's count, read without the lock.
    free: AtomicUsize,
}

static ARENA: [Arena; ARENAS] =
    [const { Arena { buddy: IrqSpinLock::new(Buddy::new()), free: AtomicUsize::new(0) } }; ARENAS];

static INFO: Once<&'static BootInfo> = Once::new();
/// Next section number to look at for opening.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Usable frames in sections that are not open yet.
static UNOPENED: AtomicUsize = AtomicUsize::new(0);
/// Usable frames in all, without metadata of open sections.
static TOTAL: AtomicUsize = AtomicUsize::new(0);
/// 1 + the CPU that is opening a section, 0 if none is.
static OPENING: AtomicU32 = AtomicU32::new(0);

/// The tables above, as the buddy wants them.
pub struct Sections;

#[inline]
fn entry(frame: u32) -> u64 {
    let section = frame as usize / SECTION_FRAMES as usize;
    let leaf = ROOT[section / FAN_OUT % FAN_OUT].load(Ordering::Acquire) as *const Leaf;
    if leaf.is_null() {
        return 0;
    }
    // SAFETY: entries of ROOT are null or leaves, which are never freed.
    let leaf = unsafe { &*leaf };
    leaf[section % FAN_OUT].load(Ordering::Acquire)
}

/// The metadata of `frame`, which must be in an open section (any frame that was allocated is).
#[inline]
pub fn meta(frame: u32) -> &'static FrameMeta {
    let at = entry(frame) & !(PAGE_SIZE as u64 - 1);
    debug_assert!(at != 0, "frame {frame:#x} is in no open section");
    let index = (frame % SECTION_FRAMES) as usize;
    // SAFETY: an open section has SECTION_FRAMES entries there, which are never freed.
    unsafe { &*(at as *const FrameMeta).add(index) }
}

impl FrameTable for Sections {
    #[inline]
    fn meta(&self, frame: u32) -> &FrameMeta {
        meta(frame)
    }
}

/// Free frames in arenas and in sections not yet open, without per-CPU stocks.
pub fn free_frames() -> usize {
    let open: usize = ARENA.iter().map(|a| a.free.load(Ordering::Relaxed)).sum();
    open + UNOPENED.load(Ordering::Relaxed)
}

/// All frames that the allocator manages.
pub fn total_frames() -> usize {
    TOTAL.load(Ordering::Relaxed)
}

impl Arena {
    fn with<T>(&self, work: impl FnOnce(&mut Buddy) -> T) -> T {
        let mut buddy = self.buddy.lock();
        let result = work(&mut buddy);
        self.free.store(buddy.free_frames(), Ordering::Relaxed);
        result
    }
}

fn home() -> usize {
    percpu::cpu_id() % ARENAS
}

/// Below this many free frames an arena opens a section before it must: opening may itself need a frame
/// (a page table of the direct map).
const LOW: usize = 64;

/// Takes blocks of `order` until `take` refuses one more or memory is out; returns how many it took.
/// This CPU's arena first, then a new section, then the other arenas.
pub fn take(order: u8, count: usize, mut take: impl FnMut(u32)) -> usize {
    let home = home();
    let mut taken = 0;
    if ARENA[home].free.load(Ordering::Relaxed) < LOW {
        open_next(home);
    }
    loop {
        ARENA[home].with(|buddy| {
            while taken < count {
                let Some(frame) = buddy.alloc(&Sections, order) else {
                    break;
                };
                take(frame);
                taken += 1;
            }
        });
        if taken == count || !open_next(home) {
            break;
        }
    }
    for arena in ARENA.iter().cycle().skip(home + 1).take(ARENAS - 1) {
        // For a stock, what was found will do; an empty arena's lock is left alone.
        if taken > 0 {
            break;
        }
        if arena.free.load(Ordering::Relaxed) >> order == 0 {
            continue;
        }
        arena.with(|buddy| {
            while taken < count {
                let Some(frame) = buddy.alloc(&Sections, order) else {
                    break;
                };
                take(frame);
                taken += 1;
            }
        });
    }
    taken
}

/// Gives a block back to the arena of its section.
pub fn give(order: u8, frame: u32) {
    ARENA[entry(frame) as usize % ARENAS].with(|buddy| buddy.free(&Sections, frame, order));
}

/// Gives single frames back. Neighbours that follow each other, upwards or downwards, go as one: that is what the end of a
/// process brings.
pub fn give_singles(frames: &[u32]) {
    let arena_of = |frame: u32| entry(frame) as usize % ARENAS;
    let mut rest = frames;
    while let Some(&first) = rest.first() {
        let arena = arena_of(first);
        ARENA[arena].with(|buddy| {
            while let Some(&first) = rest.first() {
                if arena_of(first) != arena {
                    break;
                }
                let section = first / SECTION_FRAMES;
                let (mut low, mut high) = (first, first);
                let mut len = 1;
                for &frame in &rest[1..] {
                    match frame {
                        _ if frame / SECTION_FRAMES != section => break,
                        _ if frame == high + 1 => high = frame,
                        _ if frame + 1 == low => low = frame,
                        _ => break,
                    }
                    len += 1;
                }
                buddy.free_run(&Sections, low, high + 1);
                rest = &rest[len..];
            }
        });
    }
}

/// Gives `start..end` to the allocator: memory that was reserved at boot and is in use no more.
#[allow(dead_code, reason = "behind frame::release")]
pub fn give_range(start: u32, end: u32) {
    let mut at = start.max(1);
    while at < end {
        let stop = end.min((at / SECTION_FRAMES + 1) * SECTION_FRAMES);
        // What lies in a section that is not open stays reserved: its opening goes by the boot information.
        if entry(at) != 0 {
            ARENA[entry(at) as usize % ARENAS].with(|buddy| buddy.free_run(&Sections, at, stop));
            TOTAL.fetch_add((stop - at) as usize, Ordering::Relaxed);
        }
        at = stop;
    }
}

/// Calls `each(start, end)` for the free runs of frames in `start..end` by the boot information.
fn usable(info: &BootInfo, start: u64, end: u64, each: &mut dyn FnMut(u64, u64)) {
    let page = PAGE_SIZE as u64;
    for range in info.memory.iter().filter(|r| r.kind == MemoryKind::Usable) {
        let last = (range.start.0 + range.len) / page;
        // Frame 0 stays out: 0 means "no frame".
        let mut at = range.start.0.div_ceil(page).max(start).max(1);
        let stop = last.min(end);
        while at < stop {
            // The reserved range that covers `at`, or the nearest one above it.
            let mut next = stop;
            let mut covered = None;
            for r in info.reserved.iter().filter(|r| r.len != 0) {
                let (low, high) = (r.start.0 / page, (r.start.0 + r.len).div_ceil(page));
                if low <= at && at < high {
                    covered = Some(high.max(covered.unwrap_or(0)));
                } else if low > at {
                    next = next.min(low);
                }
            }
            if let Some(high) = covered {
                at = high;
            } else {
                each(at, next);
                at = next;
            }
        }
    }
}

/// Opens the next section that has usable memory, for arena `home`. False if there is none, or if this
/// CPU is opening one already (the opening itself needed a frame).
fn open_next(home: usize) -> bool {
    let me = percpu::cpu_id() as u32 + 1;
    loop {
        if UNOPENED.load(Ordering::Acquire) == 0 {
            return false;
        }
        match OPENING.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => break,
            Err(cpu) if cpu == me => return false,
            Err(_) => {
                while OPENING.load(Ordering::Relaxed) != 0 {
                    core::hint::spin_loop();
                }
                // The other CPU's section may do.
                if ARENA.iter().any(|a| a.free.load(Ordering::Relaxed) >= LOW) {
                    return false;
                }
            }
        }
    }
    let mut opened = false;
    if let Some(info) = INFO.get() {
        while let Some(section) = next_section(info) {
            NEXT.store(section + 1, Ordering::Relaxed);
            // Opened out of its turn by `ensure`.
            if entry((section * FRAMES) as u32) != 0 {
                continue;
            }
            opened = open(info, section, home);
            if opened {
                break;
            }
        }
    }
    if !opened {
        UNOPENED.store(0, Ordering::Release);
    }
    OPENING.store(0, Ordering::Release);
    opened
}

/// The next section from NEXT on that a usable range touches.
fn next_section(info: &BootInfo) -> Option<u64> {
    let next = NEXT.load(Ordering::Relaxed);
    let bytes = FRAMES * PAGE_SIZE as u64;
    info.memory
        .iter()
        .filter(|r| r.kind == MemoryKind::Usable && r.len >= PAGE_SIZE as u64)
        .filter(|r| (r.start.0 + r.len - 1) / bytes >= next)
        .map(|r| (r.start.0 / bytes).max(next))
        .min()
        .filter(|section| section * FRAMES < LIMIT)
}

/// Opens one section; false if too little of it is usable or it cannot be mapped.
fn open(info: &BootInfo, section: u64, home: usize) -> bool {
    const HUGE: u64 = 512;
    let (start, end) = (section * FRAMES, (section + 1) * FRAMES);
    let mut frames = 0;
    let mut metadata = None;
    let mut mapped = true;
    let leaf_slot = &ROOT[section as usize / FAN_OUT];
    let leaf_frames = u64::from(leaf_slot.load(Ordering::Relaxed) == 0 && section as usize >= FAN_OUT);
    usable(info, start, end, &mut |from, to| {
        frames += to - from;
        if metadata.is_none() && to - from >= META_FRAMES + leaf_frames {
            metadata = Some(from);
        }
        let low = from / HUGE * HUGE;
        let len = to.next_multiple_of(HUGE) - low;
        let low = PhysAddr(low * PAGE_SIZE as u64);
        mapped &= hal_core::platform().mmu().map_direct(low, len * PAGE_SIZE as u64).is_ok();
    });
    UNOPENED.fetch_sub(frames as usize, Ordering::Relaxed);
    let (Some(metadata), true) = (metadata, mapped) else {
        TOTAL.fetch_sub(frames as usize, Ordering::Relaxed);
        return false;
    };
    let taken = META_FRAMES + leaf_frames;
    TOTAL.fetch_sub(taken as usize, Ordering::Relaxed);
    let at: *mut FrameMeta = direct(PhysAddr(metadata * PAGE_SIZE as u64));
    // SAFETY: these frames are usable memory that nobody has, mapped just now. All-zero metadata is valid.
    unsafe { super::frame::zero(at.cast(), taken as usize) };
    if leaf_slot.load(Ordering::Relaxed) == 0 {
        let leaf = if leaf_frames == 0 {
            (&raw const FIRST_LEAF) as u64
        } else {
            direct::<Leaf>(PhysAddr((metadata + META_FRAMES) * PAGE_SIZE as u64)) as u64
        };
        leaf_slot.store(leaf, Ordering::Release);
    }
    // SAFETY: the slot holds a leaf, which lives for ever.
    let leaf = unsafe { &*(leaf_slot.load(Ordering::Relaxed) as *const Leaf) };
    leaf[section as usize % FAN_OUT].store(at as u64 | home as u64, Ordering::Release);
    ARENA[home].with(|buddy| {
        usable(info, start, end, &mut |from, to| {
            let from = if from == metadata { from + taken } else { from };
            buddy.free_run(&Sections, from as u32, to as u32);
        });
    });
    true
}

/// Gives `frame` metadata if it has none: opens its section out of its turn or, where too little of that is usable (a
/// boot module fills it), takes memory for the metadata elsewhere. False if there is no memory for that.
pub fn ensure(frame: u32) -> bool {
    let section = u64::from(frame) / FRAMES;
    if entry(frame) != 0 {
        return true;
    }
    // Before the lock: taking frames may open a section itself.
    let Some(spare) = super::frame::alloc_for(META_FRAMES.trailing_zeros() as u8, super::frame::Purpose::Kernel) else {
        return false;
    };
    let me = percpu::cpu_id() as u32 + 1;
    while OPENING.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_err() {
        core::hint::spin_loop();
    }
    let opened = entry(frame) != 0 || INFO.get().is_some_and(|info| open(info, section, home()));
    let leaf = ROOT[section as usize / FAN_OUT % FAN_OUT].load(Ordering::Acquire) as *const Leaf;
    let leaf = if leaf.is_null() && section < FAN_OUT as u64 { &raw const FIRST_LEAF } else { leaf };
    let adopted = !opened && !leaf.is_null();
    if adopted {
        let at: *mut FrameMeta = direct(spare);
        // SAFETY: just allocated. All-zero metadata is valid.
        unsafe { super::frame::zero(at.cast(), META_FRAMES as usize) };
        ROOT[section as usize / FAN_OUT].store(leaf as u64, Ordering::Release);
        // SAFETY: a leaf, which lives for ever.
        let leaf = unsafe { &*leaf };
        leaf[section as usize % FAN_OUT].store(at as u64 | home() as u64, Ordering::Release);
    }
    OPENING.store(0, Ordering::Release);
    if !adopted {
        // SAFETY: allocated above, and not used.
        unsafe { super::frame::free(spare, META_FRAMES.trailing_zeros() as u8) };
    }
    opened || adopted
}

/// Takes over the memory map.
pub fn init(info: &'static BootInfo) {
    INFO.call_once(|| info);
    let mut frames = 0;
    usable(info, 0, LIMIT, &mut |from, to| frames += to - from);
    TOTAL.store(frames as usize, Ordering::Relaxed);
    UNOPENED.store(frames as usize, Ordering::Relaxed);
    let mut beyond = 0;
    usable(info, LIMIT, u64::MAX / PAGE_SIZE as u64, &mut |from, to| beyond += to - from);
    if beyond != 0 {
        log::warn!("memory above 4 TiB is left unused: {beyond} pages");
    }
    open_next(home());
}
