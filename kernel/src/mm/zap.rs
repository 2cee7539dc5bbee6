//! Taking pages away: clearing entries, flushing, and only then freeing what they showed.

use core::mem::MaybeUninit;
use core::ops::Range;
use core::sync::atomic::Ordering;

use hal_core::mmu::{Flush, Pte, PteFlags};
use hal_core::{PAGE_SIZE, PhysAddr, VirtAddr};

use super::frame;
use super::space::{AddressSpace, USER_ROOT_ENTRIES};
use super::table::{self, CACHED, ENTRIES, HUGE_SIZE, mmu};

/// Frames gathered before a flush.
const BATCH: usize = 128;

/// Frames and tables that were unlinked but that a CPU may still know.
pub(super) struct Gather<'a> {
    space: &'a AddressSpace,
    /// Addresses; bits 0..2 hold the level for a table, 0 for a frame.
    items: [MaybeUninit<u64>; BATCH],
    len: usize,
    /// What was unlinked since the last flush.
    range: Range<usize>,
    has_tables: bool,
}

/// Memory for splitting a huge page is out.
#[derive(Debug)]
pub(super) struct OutOfMemory;

/// A range that `touched` widens: its start is above its end.
const NOTHING: Range<usize> = Range { start: usize::MAX, end: 0 };

impl<'a> Gather<'a> {
    pub(super) fn new(space: &'a AddressSpace) -> Self {
        Self { space, items: [const { MaybeUninit::uninit() }; BATCH], len: 0, range: NOTHING, has_tables: false }
    }

    /// Notes that entries for `range` were cleared or lost rights.
    pub(super) fn touched(&mut self, range: Range<usize>) {
        self.range.start = self.range.start.min(range.start);
        self.range.end = self.range.end.max(range.end);
    }

    /// Takes over one reference to a frame.
    pub(super) fn frame(&mut self, frame: PhysAddr) {
        self.push(frame.0);
    }

    fn table(&mut self, table: PhysAddr, level: u8) {
        self.has_tables = true;
        self.push(table.0 | u64::from(level));
    }

    fn push(&mut self, item: u64) {
        if self.len == BATCH {
            self.finish();
        }
        self.items[self.len].write(item);
        self.len += 1;
    }

    /// Flushes and frees what was gathered so far.
    pub(super) fn finish(&mut self) {
        if self.range.start < self.range.end || self.has_tables {
            if self.has_tables || self.range.len() > 32 * PAGE_SIZE {
                self.space.flush(Flush::Space);
            } else {
                self.space.flush_pages(self.range.start, self.range.len() / PAGE_SIZE);
            }
        }
        for item in &self.items[..self.len] {
            // SAFETY: the first `len` were written.
            let item = unsafe { item.assume_init() };
            let address = PhysAddr(item & !(PAGE_SIZE as u64 - 1));
            // SAFETY: the gatherer unlinked it and gave its reference to us; no CPU knows it after the flush.
            unsafe {
                match (item % PAGE_SIZE as u64) as u8 {
                    0 => frame::put(address),
                    level => table::free_table(address, level),
                }
            }
        }
        self.len = 0;
        self.has_tables = false;
        self.range = NOTHING;
    }
}

impl Drop for Gather<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What a visit does with a huge page that its range cuts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Split,
    Whole,
}

/// Entries of one table that a visit covers.
pub(super) enum Piece {
    /// `count` entries of a leaf table from `first` on, for addresses from `at` on.
    Leaf {
        /// The leaf table.
        table: PhysAddr,
        /// The first entry.
        first: usize,
        /// How many.
        count: usize,
        /// Its address.
        at: usize,
    },
    /// A huge page, whole.
    Huge {
        /// The level-2 table.
        table: PhysAddr,
        /// The entry.
        index: usize,
        /// The entry's value.
        entry: Pte,
        /// Its address.
        at: usize,
    },
}

impl AddressSpace {
    /// Calls `visit` for every leaf table and huge page that overlaps `range`, with the leaf lock held. A huge page that
    /// is only partly in it is split first. What is not mapped costs nothing but the look at upper tables.
    pub(super) fn visit(
        &self,
        range: Range<usize>,
        visit: &mut dyn FnMut(Piece),
    ) -> core::result::Result<(), OutOfMemory> {
        let mut at = range.start;
        while at < range.end {
            at = self.step(at, range.end, Cut::Split, visit)?;
        }
        Ok(())
    }

    /// As [`AddressSpace::visit`] for looking only: huge pages are never split, and given whole where the range cuts them.
    pub(super) fn visit_whole(
        &self,
        range: Range<usize>,
        visit: &mut dyn FnMut(Piece),
    ) -> core::result::Result<(), OutOfMemory> {
        let mut at = range.start;
        while at < range.end {
            at = self.step(at, range.end, Cut::Whole, visit)?;
        }
        Ok(())
    }

    /// As [`AddressSpace::visit`], but only for the first piece; returns where to go on. No huge page is cut.
    pub(super) fn visit_first(&self, range: Range<usize>, visit: &mut dyn FnMut(Piece)) -> usize {
        let mut at = range.start;
        let mut found = false;
        while at < range.end && !found {
            at = self
                .step(at, range.end, Cut::Split, &mut |piece| {
                    found = true;
                    visit(piece);
                })
                .unwrap_or(range.end);
        }
        at
    }

    /// Visits what is mapped at `at`, up to the end of its 2 MiB or of the range; returns where to go on.
    fn step(
        &self,
        at: usize,
        end: usize,
        cut: Cut,
        visit: &mut dyn FnMut(Piece),
    ) -> core::result::Result<usize, OutOfMemory> {
        let Some(level2) = self.level2(at) else {
            return Ok(self.skip(at));
        };
        let stop = end.min((at / HUGE_SIZE + 1) * HUGE_SIZE);
        let slot = table::index(VirtAddr(at as u64), 2);
        // SAFETY: a live table of this space; empty entries are just skipped.
        if unsafe { table::read(level2, slot) } == Pte::EMPTY {
            // SAFETY: as above.
            let full = (slot + 1..ENTRIES).find(|&next| unsafe { table::read(level2, next) } != Pte::EMPTY);
            return Ok((at / HUGE_SIZE + full.unwrap_or(ENTRIES) - slot) * HUGE_SIZE);
        }
        let _guard = self.leaf_lock(at).lock();
        // SAFETY: as above, now under the lock, so this thread is the entry's only writer.
        let entry = unsafe { table::read(level2, slot) };
        let huge = table::is_huge(entry);
        if huge && (stop - at == HUGE_SIZE || cut == Cut::Whole) {
            visit(Piece::Huge { table: level2, index: slot, entry, at: at & !(HUGE_SIZE - 1) });
            return Ok(stop);
        }
        // SAFETY: as above.
        let leaf = unsafe {
            if huge { Some(table::split_huge(level2, slot).ok_or(OutOfMemory)?) } else { table::next(level2, slot, 2) }
        };
        if let Some(table) = leaf {
            let first = table::index(VirtAddr(at as u64), 1);
            visit(Piece::Leaf { table, first, count: (stop - at) / PAGE_SIZE, at });
        }
        Ok(stop)
    }

    /// The next address after `at` that an existing level-3 or level-2 table covers.
    fn skip(&self, at: usize) -> usize {
        let address = VirtAddr(at as u64);
        // SAFETY: this space's root.
        let (table, level, limit) = match unsafe { table::next(self.root, table::index(address, 4), 4) } {
            None => (self.root, 4, USER_ROOT_ENTRIES),
            Some(level3) => (level3, 3, ENTRIES),
        };
        let first = table::index(address, level);
        // SAFETY: a live table of this space.
        let next = (first + 1..limit).find(|&index| unsafe { table::read(table, index) } != Pte::EMPTY);
        let span = table::span(level);
        (at / span + next.unwrap_or(limit) - first).saturating_mul(span)
    }

    /// Splits the huge pages that the edges of `range` cut.
    pub(super) fn split_edges(&self, range: &Range<usize>) -> core::result::Result<(), OutOfMemory> {
        for edge in [range.start, range.end] {
            if !edge.is_multiple_of(HUGE_SIZE) {
                self.visit(edge..edge + 1, &mut |_| ())?;
            }
        }
        Ok(())
    }

    /// Takes away every page in `range`, whose edges cut no huge page (see [`AddressSpace::split_edges`]), and the tables whose
    /// whole span lies in `free`. The layout is held for writing.
    pub(super) fn zap(&self, gather: &mut Gather, range: Range<usize>, free: Range<usize>) {
        // No huge page is cut, so no split can run out of memory.
        let done = self.zap_pages(gather, range.clone());
        debug_assert!(done.is_ok());
        self.free_tables(gather, self.root, 4, 0, &range, &free);
    }

    /// Takes away every page in `range`. Fails only if a huge page that the range cuts cannot be split.
    pub(super) fn zap_pages(&self, gather: &mut Gather, range: Range<usize>) -> core::result::Result<(), OutOfMemory> {
        self.note_peak();
        self.visit(range, &mut |piece| match piece {
            Piece::Leaf { table, first, count, at } => self.zap_leaf(gather, table, first, count, at),
            Piece::Huge { table, index, entry, at } => {
                // SAFETY: under the leaf lock; the reference goes to the gatherer.
                unsafe { mmu().exchange(table, index, Pte::EMPTY) };
                gather.touched(at..at + HUGE_SIZE);
                gather.frame(mmu().decode(entry, 2).0);
                self.anonymous_pages.fetch_sub(ENTRIES as isize, Ordering::Relaxed);
            }
        })
    }

    /// Takes away the pages in `range` that belong to a page cache.
    pub(super) fn zap_cached(&self, gather: &mut Gather, range: Range<usize>) {
        // Huge pages are private memory: none is here to be split.
        let done = self.visit_whole(range, &mut |piece| {
            let Piece::Leaf { table, first, count, at } = piece else {
                return;
            };
            for i in 0..count {
                // SAFETY: a live leaf table, its lock held.
                let entry = unsafe { table::read(table, first + i) };
                let (frame, flags) = match table::held(entry) {
                    Some(held) => held,
                    None if entry.is_present() => table::decode(entry),
                    None => continue,
                };
                if !flags.contains(CACHED) || flags.contains(PteFlags::SPECIAL) {
                    continue;
                }
                // SAFETY: as above; the reference goes to the gatherer.
                unsafe { mmu().write(table, first + i, &[Pte::EMPTY]) };
                gather.touched(at + i * PAGE_SIZE..at + (i + 1) * PAGE_SIZE);
                gather.frame(frame);
                self.file_pages.fetch_sub(1, Ordering::Relaxed);
            }
        });
        debug_assert!(done.is_ok());
    }

    fn zap_leaf(&self, gather: &mut Gather, leaf: PhysAddr, first: usize, count: usize, at: usize) {
        const CHUNK: usize = 32;
        let (mut anonymous, mut file) = (0, 0);
        for start in (0..count).step_by(CHUNK) {
            let n = CHUNK.min(count - start);
            let mut old = [Pte::EMPTY; CHUNK];
            let mut any = 0;
            for (i, slot) in old[..n].iter_mut().enumerate() {
                // SAFETY: a live leaf table, its lock held.
                *slot = unsafe { table::read(leaf, first + start + i) };
                any |= slot.0;
            }
            if any == 0 {
                continue;
            }
            // Accessed and dirty bits that the CPU sets in between are lost: writes are noticed by faults, not by them.
            // SAFETY: as above; what the entries showed is freed after a flush.
            unsafe { mmu().write(leaf, first + start, &[Pte::EMPTY; CHUNK][..n]) };
            let base = at + start * PAGE_SIZE;
            if any & 1 != 0 {
                gather.touched(base..base + n * PAGE_SIZE);
            }
            for &entry in old[..n].iter().filter(|entry| **entry != Pte::EMPTY) {
                let (frame, flags) = match table::held(entry) {
                    Some(held) => held,
                    None => table::decode(entry),
                };
                if !flags.contains(PteFlags::SPECIAL) {
                    if flags.contains(CACHED) {
                        file += 1
                    } else {
                        anonymous += 1
                    }
                    gather.frame(frame);
                }
            }
        }
        self.anonymous_pages.fetch_sub(anonymous, Ordering::Relaxed);
        self.file_pages.fetch_sub(file, Ordering::Relaxed);
    }

    /// Frees the tables below `parent` (of `level`, for addresses from `base` on) that lie wholly in `free`, as far as
    /// `range` touches them. They are empty: nothing is mapped in `free`.
    fn free_tables(
        &self,
        gather: &mut Gather,
        parent: PhysAddr,
        level: u8,
        base: usize,
        range: &Range<usize>,
        free: &Range<usize>,
    ) {
        let span = table::span(level);
        let first = range.start.saturating_sub(base) / span;
        let limit = if level == 4 { USER_ROOT_ENTRIES } else { ENTRIES };
        let last = (range.end - base).div_ceil(span).min(limit);
        for index in first..last {
            let at = base + index * span;
            // SAFETY: live tables of this space; huge leaves in the range are gone, those beside it are told apart.
            unsafe {
                let entry = table::read(parent, index);
                if entry == Pte::EMPTY || (level == 2 && table::is_huge(entry)) {
                    continue;
                }
                let child = table::address(entry, level);
                if level > 2 {
                    let inner = range.start.max(at)..range.end.min(at + span);
                    self.free_tables(gather, child, level - 1, at, &inner, free);
                }
                if free.start <= at && at + span <= free.end {
                    mmu().write(parent, index, &[Pte::EMPTY]);
                    gather.touched(at..at + PAGE_SIZE);
                    gather.table(child, level - 1);
                }
            }
        }
    }
}
