//! Changing the rights of regions (`mprotect`), and finding what was written through shared mappings (`msync`).

use core::ops::Range;

use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, PageSource, Result};
use hal_core::mmu::{Pte, PteFlags};
use hal_core::{PAGE_SIZE, PhysAddr};

use super::frame;
use super::map::check_cut;
use super::space::AddressSpace;
use super::table::{self, CACHED, ENTRIES, HUGE_SIZE, mmu};
use super::vma::{Prot, Vma, VmaFlags, page_range};
use super::zap::{Gather, OutOfMemory, Piece};

/// Entries rewritten at once.
const CHUNK: usize = 32;

impl AddressSpace {
    /// Changes rights, like `mprotect(2)`: `EINVAL`, `ENOMEM` if part of the range is not mapped, `EACCES`.
    pub fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<()> {
        let range = page_range(addr, len, Errno::ENOMEM)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut layout = self.layout.write();
        if !layout.regions.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        if layout.regions.overlapping(range.clone()).any(|(_, vma)| !vma.max_prot.contains(prot)) {
            return Err(Errno::EACCES);
        }
        check_cut(&layout, &range)?;
        self.split_edges(&range).map_err(|_| Errno::ENOMEM)?;
        if prot.is_empty() {
            self.split_all(&range).map_err(|_| Errno::ENOMEM)?;
        }
        layout.regions.update(range.clone(), |_, vma| vma.prot = prot);
        let mut gather = Gather::new(self);
        for (region, vma) in layout.regions.overlapping(range.clone()) {
            let part = region.start.max(range.start)..region.end.min(range.end);
            self.rewrite(&mut gather, part, vma);
        }
        gather.finish();
        Ok(())
    }

    /// Splits every huge page in `range`.
    fn split_all(&self, range: &Range<usize>) -> core::result::Result<(), OutOfMemory> {
        loop {
            let mut found = [0; 32];
            let mut count = 0;
            self.visit(range.clone(), &mut |piece| {
                if let Piece::Huge { at, .. } = piece
                    && count < found.len()
                {
                    found[count] = at;
                    count += 1;
                }
            })?;
            for &at in &found[..count] {
                // Part of a huge page: the visit splits it.
                self.visit(at..at + PAGE_SIZE, &mut |_| ())?;
            }
            if count < found.len() {
                return Ok(());
            }
        }
    }

    /// Gives the pages of `range` the rights that `vma` has now. The layout is locked for writing; huge pages are whole.
    fn rewrite(&self, gather: &mut Gather, range: Range<usize>, vma: &Vma) {
        let done = self.visit(range, &mut |piece| match piece {
            Piece::Leaf { table, first, count, at } => {
                for start in (0..count).step_by(CHUNK) {
                    let mut new = [Pte::EMPTY; CHUNK];
                    for (i, slot) in new.iter_mut().enumerate().take(count - start) {
                        // SAFETY: a live leaf table, its lock held.
                        let entry = unsafe { table::read(table, first + start + i) };
                        *slot = rewritten(gather, entry, at + (start + i) * PAGE_SIZE, vma);
                    }
                    // SAFETY: as above; the entries keep their frames. Accessed and dirty bits that the CPU sets in between
                    // mean nothing: writes are noticed by faults.
                    unsafe { table::write_runs(table, first + start, &new) };
                }
            }
            Piece::Huge { table, index, entry, at } => {
                let mmu = mmu();
                let (block, old) = mmu.decode(entry, 2);
                // A huge page is this space's alone.
                let new = vma.leaf_flags(vma.prot.contains(Prot::WRITE));
                // SAFETY: the entry's lock is held; it maps the same block.
                unsafe { mmu.exchange(table, index, mmu.leaf(block, new | PteFlags::HUGE, 2)) };
                if loses(old, new) {
                    gather.touched(at..at + HUGE_SIZE);
                }
            }
        });
        debug_assert!(done.is_ok());
    }

    /// Marks dirty what was written through shared mappings in the regions that were just removed.
    pub(super) fn sync_removed(&self, removed: &[(Range<usize>, Vma)]) {
        for (range, vma) in removed {
            self.collect_written(range.clone(), range.start, vma);
        }
    }

    /// Like `msync(2)` with `MS_SYNC` if `wait`, else `MS_ASYNC`: `ENOMEM` if part of the range is not mapped, `EIO`.
    pub fn sync(&self, addr: usize, len: usize, wait: bool) -> Result<()> {
        let range = page_range(addr, len, Errno::ENOMEM)?;
        let mut sources: Vec<(Arc<dyn PageSource>, Range<u64>)> = Vec::new();
        let layout = self.layout.write();
        let covered = layout.regions.covers(range.clone());
        for (region, vma) in layout.regions.overlapping(range.clone()) {
            let part = region.start.max(range.start)..region.end.min(range.end);
            self.collect_written(part.clone(), region.start, vma);
            if let Some((source, first)) = vma.file_page(region.start, part.start)
                && !vma.is_private()
                && wait
            {
                sources.push((source.clone(), first..first + (part.len() / PAGE_SIZE) as u64));
            }
        }
        drop(layout);
        for (source, pages) in sources {
            source.write_back(pages)?;
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Takes the right to write from the shared file pages in `range`, so that the next write is noticed, and tells
    /// the source which had it. The layout is locked.
    pub(super) fn collect_written(&self, range: Range<usize>, start: usize, vma: &Vma) {
        if !vma.flags.contains(VmaFlags::SHARED) || !vma.max_prot.contains(Prot::WRITE) {
            return;
        }
        let mut at = range.start;
        while at < range.end {
            let Some((source, _)) = vma.file_page(start, at) else {
                return;
            };
            // One leaf table at a time: `mark_dirty` is called without its lock.
            let mut written = [0u64; ENTRIES / 64];
            let mut base = None;
            let mut gather = Gather::new(self);
            let done = self.visit_first(at..range.end, &mut |piece| {
                if let Piece::Leaf { table, first, count, at } = piece {
                    base = Some((at, count));
                    for i in 0..count {
                        if take_write(table, first + i) {
                            written[i / 64] |= 1 << (i % 64);
                            gather.touched(at + i * PAGE_SIZE..at + (i + 1) * PAGE_SIZE);
                        }
                    }
                }
            });
            gather.finish();
            let Some((base, count)) = base else {
                return;
            };
            for i in (0..count).filter(|i| written[i / 64] & (1 << (i % 64)) != 0) {
                if let Some((_, index)) = vma.file_page(start, base + i * PAGE_SIZE) {
                    source.mark_dirty(index);
                }
            }
            at = done;
        }
    }
}

/// Makes a writable entry read-only; true if it was writable.
fn take_write(table: PhysAddr, index: usize) -> bool {
    let mmu = mmu();
    // SAFETY: a live leaf table, its lock held; the entry keeps its frame.
    unsafe {
        let entry = table::read(table, index);
        if !entry.is_present() {
            return false;
        }
        let (frame, flags) = table::decode(entry);
        if !flags.contains(PteFlags::WRITE) || flags.contains(PteFlags::SPECIAL) {
            return false;
        }
        mmu.exchange(table, index, table::leaf(frame, flags - (PteFlags::WRITE | PteFlags::DIRTY)));
        true
    }
}

/// True if an entry with the flags `new` allows less than `old` did.
fn loses(old: PteFlags, new: PteFlags) -> bool {
    let rights = PteFlags::WRITE | PteFlags::EXEC;
    !(new & rights).contains(old & rights)
}

/// What becomes of an entry when its region has the rights of `vma`. The entry's lock is held.
fn rewritten(gather: &mut Gather, entry: Pte, at: usize, vma: &Vma) -> Pte {
    let (frame, old, present) = match table::held(entry) {
        Some((frame, flags)) => (frame, flags, false),
        None if entry.is_present() => {
            let (frame, flags) = table::decode(entry);
            (frame, flags, true)
        }
        None => return Pte::EMPTY,
    };
    let keep = old & (PteFlags::SPECIAL | CACHED);
    let (new, loses) = if vma.prot.is_empty() {
        (table::hold(frame, keep), present)
    } else {
        // A private page that is ours alone may be written at once; a shared one only if its source knows already.
        let writable = vma.prot.contains(Prot::WRITE)
            && if vma.is_private() {
                keep.is_empty() && frame::refs(frame) == 1
            } else {
                old.contains(PteFlags::WRITE)
            };
        let new = vma.leaf_flags(writable);
        (table::leaf(frame, new | keep), present && loses(old, new))
    };
    if loses {
        gather.touched(at..at + PAGE_SIZE);
    }
    new
}
