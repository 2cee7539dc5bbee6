//! Page faults: bringing in the page that an access needs, or naming the signal that the access deserves.
//!
//! A fault holds the layout for reading, so threads fault in parallel, and the leaf lock of its 2 MiB while it
//! changes entries. It never sleeps under either: a page that must be read comes in with no lock held, and
//! then the fault starts again.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use base::{Errno, Frame, PageSource};
use hal_core::cpu::PageFault;
use hal_core::memory::phys_of;
use hal_core::mmu::{Flush, Pte, PteFlags};
use hal_core::{PAGE_SIZE, PhysAddr, VirtAddr};

use super::frame;
use super::huge;
use super::shrink;
use super::space::{AddressSpace, zero_frame};
use super::table::{self, CACHED, HUGE_SIZE, mmu};
use super::vma::{Backing, Prot, STACK_GUARD, USER_END, USER_START, Vma, VmaFlags};

/// Why an access cannot be: the signal and its `si_code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Number of the signal.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
}

impl Fault {
    /// Nothing is mapped there (`SIGSEGV`, `SEGV_MAPERR`).
    pub const MAPERR: Self = Self { signal: 11, code: 1 };
    /// The region does not allow it (`SIGSEGV`, `SEGV_ACCERR`).
    pub const ACCERR: Self = Self { signal: 11, code: 2 };
    /// The file has no such page, or could not be read (`SIGBUS`, `BUS_ADRERR`).
    pub const BUS: Self = Self { signal: 7, code: 2 };
    /// Memory is out: the process must end (`SIGKILL`).
    pub const OUT_OF_MEMORY: Self = Self { signal: 9, code: 0 };

    /// True if the process must end because memory is out.
    pub fn is_out_of_memory(self) -> bool {
        self == Self::OUT_OF_MEMORY
    }
}

/// Pages that a fault on a file looks at: an aligned window of them, which one leaf table covers.
const AROUND: usize = 16;

/// How far a fault came while it held the locks.
enum Step {
    /// The access will succeed now.
    Done,
    /// As `Done`; the source must hear that its page is being written.
    Dirty(Arc<dyn PageSource>, u64),
    /// This page must be read in, without locks.
    Read(Arc<dyn PageSource>, u64),
    /// Memory is out.
    NoMemory,
}

/// The page that the last [`Step::Read`] brought.
type Supply = Option<(*const (), u64, Frame)>;

/// Where the page belongs.
struct Place<'a> {
    vma: &'a Vma,
    range: &'a Range<usize>,
    page: usize,
}

impl AddressSpace {
    /// Brings in the page that an access of the application (or of the kernel for it) faulted on. May sleep.
    pub fn fault(&self, fault: &PageFault) -> Result<(), Fault> {
        let at = fault.address.0 as usize;
        if at >= USER_END {
            return Err(Fault::MAPERR);
        }
        let needed = match (fault.write, fault.fetch) {
            (true, _) => Prot::WRITE,
            (_, true) => Prot::EXEC,
            // x86 lets read what may be written or executed.
            _ => Prot::all(),
        };
        let mut supply = None;
        loop {
            let layout = self.layout.read();
            let Some((range, vma)) = layout.regions.find(at) else {
                drop(layout);
                if self.grow_stack(at) {
                    continue;
                }
                return Err(Fault::MAPERR);
            };
            if !vma.prot.intersects(needed) {
                return Err(Fault::ACCERR);
            }
            let place = Place { vma, range: &range, page: at & !(PAGE_SIZE - 1) };
            match self.resolve(&place, fault.write, &mut supply) {
                Step::Done => return Ok(()),
                Step::Dirty(source, index) => {
                    drop(layout);
                    source.mark_dirty(index);
                    return Ok(());
                }
                Step::Read(source, index) => {
                    drop(layout);
                    supply = match source.page(index) {
                        Ok(page) => Some((Arc::as_ptr(&source).cast(), index, page)),
                        Err(Errno::ENOMEM) => return Err(Fault::OUT_OF_MEMORY),
                        Err(_) => return Err(Fault::BUS),
                    };
                }
                Step::NoMemory => {
                    drop(layout);
                    if shrink::shrink(AROUND) == 0 {
                        return Err(Fault::OUT_OF_MEMORY);
                    }
                }
            }
        }
    }

    fn resolve(&self, place: &Place, write: bool, supply: &mut Supply) -> Step {
        match &place.vma.backing {
            Backing::File { source, offset } => {
                let index = offset + ((place.page - place.range.start) / PAGE_SIZE) as u64;
                self.resolve_file(place, write, supply, source, index)
            }
            _ => self.resolve_memory(place, write),
        }
    }

    /// A fault on anonymous memory or on the kernel's frames.
    fn resolve_memory(&self, place: &Place, write: bool) -> Step {
        let page = place.page;
        let Some(level2) = self.ensure_level2(page) else {
            return Step::NoMemory;
        };
        let slot = table::index(VirtAddr(page as u64), 2);
        let _guard = self.leaf_lock(page).lock();
        // SAFETY: a live table of this space; the leaf lock makes this thread the entry's only writer.
        let entry = unsafe { table::read(level2, slot) };
        let leaf = if entry.is_present() {
            let mmu = mmu();
            if table::is_huge(entry) {
                let (next, _) = mmu.decode(entry, 2);
                let writable = place.vma.prot.contains(Prot::WRITE);
                let new = mmu.leaf(next, place.vma.leaf_flags(writable) | PteFlags::HUGE, 2);
                // SAFETY: as above; a huge page is this space's alone, so it may be written.
                unsafe { mmu.write(level2, slot, &[new]) };
                mmu.flush_local(Flush::Range(VirtAddr(page as u64), 1));
                return Step::Done;
            }
            table::address(entry, 2)
        } else if write && huge::wanted(place.vma, place.range, page, level2) && self.map_huge(place, level2) {
            return Step::Done;
        } else {
            match self.ensure_leaf(page) {
                Some(leaf) => leaf,
                None => return Step::NoMemory,
            }
        };
        let slot = table::index(VirtAddr(page as u64), 1);
        // SAFETY: a live leaf table, its lock held.
        let entry = unsafe { table::read(leaf, slot) };
        if entry != Pte::EMPTY {
            return self.resolve_present(place, write, leaf, slot, entry);
        }
        let special = match place.vma.backing {
            Backing::Frames { start } => {
                let frame = start + (page - place.range.start) as u64;
                let writable = !place.vma.is_private() && place.vma.prot.contains(Prot::WRITE);
                Some((frame, writable))
            }
            _ if write => None,
            _ => Some((zero_frame(), false)),
        };
        if let Some((frame, writable)) = special {
            self.install(leaf, slot, frame, place.vma.leaf_flags(writable) | PteFlags::SPECIAL);
            if write && !writable {
                // SAFETY: as above.
                let entry = unsafe { table::read(leaf, slot) };
                return self.copy_on_write(place, leaf, slot, entry);
            }
            return Step::Done;
        }
        let Some(frame) = frame::alloc_zeroed() else {
            return Step::NoMemory;
        };
        self.install(leaf, slot, frame, place.vma.leaf_flags(true));
        self.anonymous_pages.fetch_add(1, Ordering::Relaxed);
        Step::Done
    }

    /// Maps a huge page of zeroes; false if there is no block for it.
    fn map_huge(&self, place: &Place, level2: PhysAddr) -> bool {
        let Some(block) = huge::alloc() else {
            return false;
        };
        let mmu = mmu();
        let slot = table::index(VirtAddr(place.page as u64), 2);
        let entry = mmu.leaf(block, place.vma.leaf_flags(true) | PteFlags::HUGE, 2);
        // SAFETY: the entry is empty and ours (the leaf lock is held); the block goes to it.
        unsafe { mmu.write(level2, slot, &[entry]) };
        self.anonymous_pages.fetch_add((HUGE_SIZE / PAGE_SIZE) as isize, Ordering::Relaxed);
        true
    }

    /// Writes an entry that was empty. The leaf lock is held.
    fn install(&self, leaf: PhysAddr, slot: usize, frame: PhysAddr, flags: PteFlags) {
        let mmu = mmu();
        // SAFETY: a live leaf table, its lock held; the caller gives the frame's reference to the entry.
        unsafe { mmu.write(leaf, slot, &[table::leaf(frame, flags)]) };
    }

    /// A fault on a page that is there. The leaf lock is held.
    fn resolve_present(&self, place: &Place, write: bool, leaf: PhysAddr, slot: usize, entry: Pte) -> Step {
        let mmu = mmu();
        if let Some((frame, flags)) = table::held(entry) {
            // The region got rights again since it was held.
            self.install(leaf, slot, frame, place.vma.leaf_flags(false) | flags);
            if !write {
                return Step::Done;
            }
            // SAFETY: a live leaf table, its lock held.
            let entry = unsafe { table::read(leaf, slot) };
            return self.copy_on_write(place, leaf, slot, entry);
        }
        let (_, flags) = table::decode(entry);
        if !write || flags.contains(PteFlags::WRITE) {
            // Another thread was faster, or this CPU remembers fewer rights.
            mmu.flush_local(Flush::Range(VirtAddr(place.page as u64), 1));
            return Step::Done;
        }
        self.copy_on_write(place, leaf, slot, entry)
    }

    /// A write to a page that is present without the right to write. The leaf lock is held.
    fn copy_on_write(&self, place: &Place, leaf: PhysAddr, slot: usize, entry: Pte) -> Step {
        let mmu = mmu();
        let (old, flags) = table::decode(entry);
        let special = flags.contains(PteFlags::SPECIAL);
        let keep = flags & (PteFlags::SPECIAL | CACHED);
        if !place.vma.is_private() {
            self.install(leaf, slot, old, place.vma.leaf_flags(true) | keep);
            mmu.flush_local(Flush::Range(VirtAddr(place.page as u64), 1));
            return match place.vma.file_page(place.range.start, place.page) {
                Some((source, index)) => Step::Dirty(source.clone(), index),
                None => Step::Done,
            };
        }
        if !special && frame::refs(old) == 1 {
            // Ours alone: a fork's other side is gone, or the page cache let go of it.
            self.install(leaf, slot, old, place.vma.leaf_flags(true));
            mmu.flush_local(Flush::Range(VirtAddr(place.page as u64), 1));
            if flags.contains(CACHED) {
                self.count_copied();
            }
            return Step::Done;
        }
        let fresh = if special && old == zero_frame() { frame::alloc_zeroed() } else { frame::alloc(0) };
        let Some(fresh) = fresh else {
            return Step::NoMemory;
        };
        if !(special && old == zero_frame()) {
            // SAFETY: `fresh` is ours, `old` is mapped and so alive.
            unsafe { frame::copy(fresh, old) };
        }
        let new = table::leaf(fresh, place.vma.leaf_flags(true));
        // SAFETY: a live leaf table, its lock held; the entry's reference to `old` is ours now.
        unsafe { mmu.exchange(leaf, slot, new) };
        // Other threads must not read the old page any more once this one has written the new one.
        self.flush_pages(place.page, 1);
        if special {
            self.anonymous_pages.fetch_add(1, Ordering::Relaxed);
        } else {
            if flags.contains(CACHED) {
                self.count_copied();
            }
            // SAFETY: the entry's reference; nobody can reach it through this space after the flush.
            unsafe { frame::put(old) };
        }
        Step::Done
    }

    /// A page of a file became private memory.
    fn count_copied(&self) {
        self.file_pages.fetch_sub(1, Ordering::Relaxed);
        self.anonymous_pages.fetch_add(1, Ordering::Relaxed);
    }

    /// A fault on a page of a file, or of shared memory.
    fn resolve_file(
        &self,
        place: &Place,
        write: bool,
        supply: &mut Supply,
        source: &Arc<dyn PageSource>,
        index: u64,
    ) -> Step {
        let page = place.page;
        let slot = table::index(VirtAddr(page as u64), 1);
        let Some(leaf) = ({
            let _guard = self.leaf_lock(page).lock();
            self.ensure_leaf(page)
        }) else {
            return Step::NoMemory;
        };
        // Leaf tables live while the layout is locked. A first look without the leaf lock: it only decides what to fetch.
        // SAFETY: a live leaf table.
        let entry = unsafe { table::read(leaf, slot) };
        let mut around: [Option<Frame>; AROUND] = [const { None }; AROUND];
        let first = (page / PAGE_SIZE / AROUND * AROUND * PAGE_SIZE).max(place.range.start);
        if entry == Pte::EMPTY {
            let id: *const () = Arc::as_ptr(source).cast();
            let cached = match supply.take() {
                Some((from, at, frame)) if from == id && at == index => Some(frame),
                _ => source.page_if_cached(index),
            };
            let Some(frame) = cached else {
                return Step::Read(source.clone(), index);
            };
            if write && place.vma.is_private() {
                return self.map_copy(place, leaf, slot, &frame);
            }
            around[(page - first) / PAGE_SIZE] = Some(frame);
            if !place.vma.flags.contains(VmaFlags::RANDOM) {
                self.fetch_around(place, leaf, source, index, first, &mut around);
            }
        }
        let _guard = self.leaf_lock(page).lock();
        let start = table::index(VirtAddr(first as u64), 1);
        let mut mapped = 0;
        let mut missed = entry == Pte::EMPTY;
        let mut fresh = [Pte::EMPTY; AROUND];
        for (i, cached) in around.into_iter().enumerate() {
            let Some(cached) = cached else {
                continue;
            };
            // SAFETY: a live leaf table, its lock held from here on.
            if unsafe { table::read(leaf, start + i) } != Pte::EMPTY {
                continue;
            }
            let here = start + i == slot;
            missed &= !here;
            let flags = place.vma.leaf_flags(write && here) | CACHED;
            let frame = phys_of(cached.into_raw().as_ptr());
            fresh[i] = table::leaf(frame, flags);
            mapped += 1;
        }
        // SAFETY: as above; the entries were empty, and the handles' references go to them.
        unsafe { table::write_runs(leaf, start, &fresh) };
        self.file_pages.fetch_add(mapped, Ordering::Relaxed);
        if entry == Pte::EMPTY && !missed {
            return if write { Step::Dirty(source.clone(), index) } else { Step::Done };
        }
        // SAFETY: as above.
        match unsafe { table::read(leaf, slot) } {
            // It was taken away again in between: the access faults once more.
            Pte::EMPTY => Step::Done,
            entry => self.resolve_present(place, write, leaf, slot, entry),
        }
    }

    /// Fills `around` with neighbours that are cached and not mapped, for the window from `first` on.
    fn fetch_around(
        &self,
        place: &Place,
        leaf: PhysAddr,
        source: &Arc<dyn PageSource>,
        index: u64,
        first: usize,
        around: &mut [Option<Frame>; AROUND],
    ) {
        let window = (place.page / PAGE_SIZE / AROUND + 1) * AROUND * PAGE_SIZE;
        let last = window.min(place.range.end);
        for (i, slot) in around.iter_mut().enumerate().take((last - first) / PAGE_SIZE) {
            let at = first + i * PAGE_SIZE;
            // SAFETY: a live leaf table, which covers the whole window.
            let empty = unsafe { table::read(leaf, table::index(VirtAddr(at as u64), 1)) } == Pte::EMPTY;
            if at != place.page && empty {
                // Modulo 2^64, exact for every page of the region.
                let distance = (at as u64).wrapping_sub(place.page as u64) as i64 / PAGE_SIZE as i64;
                *slot = source.page_if_cached(index.wrapping_add_signed(distance));
            }
        }
    }

    /// Maps a private copy of `frame`, which a write wants.
    fn map_copy(&self, place: &Place, leaf: PhysAddr, slot: usize, frame: &Frame) -> Step {
        let Some(fresh) = frame::alloc(0) else {
            return Step::NoMemory;
        };
        // SAFETY: `fresh` is ours, the handle keeps `frame` alive.
        unsafe { frame::copy(fresh, phys_of(frame.address().as_ptr())) };
        let _guard = self.leaf_lock(place.page).lock();
        // SAFETY: a live leaf table, its lock held.
        if unsafe { table::read(leaf, slot) } == Pte::EMPTY {
            self.install(leaf, slot, fresh, place.vma.leaf_flags(true));
            self.anonymous_pages.fetch_add(1, Ordering::Relaxed);
        } else {
            // SAFETY: ours, mapped nowhere. Another thread was faster; the access tells what is left to do.
            unsafe { frame::put(fresh) };
        }
        Step::Done
    }

    /// Grows the stack above `at` down to it, if there is one that may.
    #[cold]
    fn grow_stack(&self, at: usize) -> bool {
        let page = at & !(PAGE_SIZE - 1);
        let mut layout = self.layout.write();
        let Some((range, vma)) = layout.regions.next(at) else {
            return false;
        };
        if range.start <= at {
            return true;
        }
        let may = vma.flags.contains(VmaFlags::GROWSDOWN)
            && range.end - page <= self.stack_limit.load(Ordering::Relaxed)
            && page >= USER_START
            && layout.regions.previous(range.start).is_none_or(|(below, _)| below.end + STACK_GUARD <= page);
        if may {
            layout.regions.grow_down(range.start, page);
        }
        may
    }
}
