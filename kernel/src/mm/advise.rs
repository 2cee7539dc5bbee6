//! Advice about memory (`madvise`), locking, and which pages are there (`mincore`).

use core::ops::Range;

use alloc::vec::Vec;
use base::{Errno, Result};
use hal_core::PAGE_SIZE;
use hal_core::mmu::Pte;

use super::map::check_cut;
use super::space::AddressSpace;
use super::table;
use super::vma::{Prot, Vma, VmaFlags, page_range};
use super::zap::{Gather, Piece};

/// What `madvise(2)` is asked for; the numbers are in `syscall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing special: takes back `Random`.
    Normal,
    /// Pages are used in no order.
    Random,
    /// Hints that change nothing here: sequential, will need, cold, page out, (un)mergeable.
    Hint,
    /// Takes the pages away: zeroes, or the file's content, come back.
    DontNeed,
    /// As `DontNeed`, for private anonymous memory only.
    Free,
    /// A child does not get, or gets, the region.
    DontFork,
    /// As it says.
    DoFork,
    /// A child gets zeroes, or the contents.
    WipeOnFork,
    /// As it says.
    KeepOnFork,
    /// Left out of core dumps, or not.
    DontDump,
    /// As it says.
    DoDump,
    /// Huge pages at once, or never.
    HugePage,
    /// As it says.
    NoHugePage,
    /// Brings the pages in for reading.
    PopulateRead,
    /// Brings the pages in for writing.
    PopulateWrite,
}

impl AddressSpace {
    /// Like `madvise(2)`: `EINVAL`, `ENOMEM` if part of the range is not mapped (the rest is done), `EFAULT` and `EIO` for
    /// populating.
    pub fn advise(&self, addr: usize, len: usize, advice: Advice) -> Result<()> {
        let range = page_range(addr, len, Errno::EINVAL)?;
        if range.is_empty() {
            return Ok(());
        }
        let (set, clear) = match advice {
            Advice::Hint => {
                let layout = self.layout.read();
                return if layout.regions.covers(range) { Ok(()) } else { Err(Errno::ENOMEM) };
            }
            Advice::DontNeed | Advice::Free => return self.discard(range, advice == Advice::Free),
            Advice::PopulateRead => return self.populate_checked(range, false),
            Advice::PopulateWrite => return self.populate_checked(range, true),
            Advice::Normal => (VmaFlags::empty(), VmaFlags::RANDOM),
            Advice::Random => (VmaFlags::RANDOM, VmaFlags::empty()),
            Advice::DontFork => (VmaFlags::DONTFORK, VmaFlags::empty()),
            Advice::DoFork => (VmaFlags::empty(), VmaFlags::DONTFORK),
            Advice::WipeOnFork => (VmaFlags::WIPEONFORK, VmaFlags::empty()),
            Advice::KeepOnFork => (VmaFlags::empty(), VmaFlags::WIPEONFORK),
            Advice::DontDump => (VmaFlags::DONTDUMP, VmaFlags::empty()),
            Advice::DoDump => (VmaFlags::empty(), VmaFlags::DONTDUMP),
            Advice::HugePage => (VmaFlags::HUGE, VmaFlags::NOHUGE),
            Advice::NoHugePage => (VmaFlags::NOHUGE, VmaFlags::HUGE),
        };
        let mut layout = self.layout.write();
        let covered = layout.regions.covers(range.clone());
        let private_only = advice == Advice::WipeOnFork;
        let private = |vma: &Vma| vma.is_anonymous() && vma.is_private();
        if private_only && layout.regions.overlapping(range.clone()).any(|(_, vma)| !private(vma)) {
            return Err(Errno::EINVAL);
        }
        check_cut(&layout, &range)?;
        layout.regions.update(range, |_, vma| vma.flags = (vma.flags | set) - clear);
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Takes the pages of `range` away. Holds the layout for reading only: allocators do this all the time, in parallel.
    fn discard(&self, range: Range<usize>, private_only: bool) -> Result<()> {
        let layout = self.layout.read();
        let mut gather = Gather::new(self);
        let mut at = range.start;
        let mut result = Ok(());
        for (region, vma) in layout.regions.overlapping(range.clone()) {
            if vma.flags.contains(VmaFlags::LOCKED) || (private_only && !(vma.is_anonymous() && vma.is_private())) {
                result = Err(Errno::EINVAL);
                break;
            }
            if region.start > at {
                result = Err(Errno::ENOMEM);
            }
            let part = region.start.max(range.start)..region.end.min(range.end);
            at = part.end;
            self.collect_written(part.clone(), region.start, vma);
            if self.zap_pages(&mut gather, part).is_err() {
                result = Err(Errno::ENOMEM);
                break;
            }
        }
        if at < range.end && result == Ok(()) {
            result = Err(Errno::ENOMEM);
        }
        gather.finish();
        result
    }

    fn populate_checked(&self, range: Range<usize>, write: bool) -> Result<()> {
        let needed = if write { Prot::WRITE } else { Prot::all() };
        let layout = self.layout.read();
        if !layout.regions.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        if layout.regions.overlapping(range.clone()).any(|(_, vma)| !vma.prot.intersects(needed)) {
            return Err(Errno::EINVAL);
        }
        drop(layout);
        self.populate(range, write)
            .map_err(|fault| if fault.is_out_of_memory() { Errno::ENOMEM } else { Errno::EFAULT })
    }

    /// Marks a range as locked and brings it in (`mlock`), or unmarks it. `ENOMEM` if part of it is not mapped. Nothing is ever
    /// swapped, so this is accounting.
    pub fn lock_pages(&self, addr: usize, len: usize, lock: bool) -> Result<()> {
        let start = addr & !(PAGE_SIZE - 1);
        let range = page_range(start, len.saturating_add(addr - start), Errno::ENOMEM)?;
        let mut layout = self.layout.write();
        if !layout.regions.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        check_cut(&layout, &range)?;
        layout.regions.update(range.clone(), |_, vma| vma.flags.set(VmaFlags::LOCKED, lock));
        drop(layout);
        if lock {
            // Pages that may not be accessed stay out, as on Linux.
            self.populate_what_can(range);
        }
        Ok(())
    }

    /// Marks everything mapped now as locked, or unmarks it (`mlockall` with `MCL_CURRENT`, `munlockall`).
    pub fn lock_all(&self, lock: bool) {
        let mut layout = self.layout.write();
        let end = super::vma::USER_END;
        layout.regions.update(0..end, |_, vma| vma.flags.set(VmaFlags::LOCKED, lock));
        drop(layout);
        if lock {
            self.populate_what_can(0..end);
        }
    }

    fn populate_what_can(&self, range: Range<usize>) {
        let mut at = range.start;
        loop {
            let layout = self.layout.read();
            let Some((region, vma)) = layout.regions.next(at).filter(|(r, _)| r.start < range.end) else {
                return;
            };
            let part = region.start.max(at)..region.end.min(range.end);
            let write = vma.prot.contains(Prot::WRITE) && vma.is_private();
            let readable = !vma.prot.is_empty();
            drop(layout);
            if readable && self.populate(part.clone(), write).is_err_and(super::Fault::is_out_of_memory) {
                return;
            }
            at = part.end;
        }
    }

    /// For each page of a range, 1 if it is in memory, like `mincore(2)`. `EINVAL`, `ENOMEM`.
    pub fn resident(&self, addr: usize, len: usize) -> Result<Vec<u8>> {
        let range = page_range(addr, len, Errno::ENOMEM)?;
        let pages = range.len() / PAGE_SIZE;
        let mut present = Vec::new();
        present.try_reserve_exact(pages).map_err(|_| Errno::ENOMEM)?;
        present.resize(pages, 0u8);
        let layout = self.layout.read();
        if !layout.regions.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        let done = self.visit_whole(range.clone(), &mut |piece| match piece {
            Piece::Leaf { table, first, count, at } => {
                for i in 0..count {
                    // SAFETY: a live leaf table, its lock held.
                    let there = unsafe { table::read(table, first + i) } != Pte::EMPTY;
                    present[(at - range.start) / PAGE_SIZE + i] = u8::from(there);
                }
            }
            Piece::Huge { at, .. } => {
                let from = at.max(range.start);
                let to = (at + table::HUGE_SIZE).min(range.end);
                present[(from - range.start) / PAGE_SIZE..(to - range.start) / PAGE_SIZE].fill(1);
            }
        });
        debug_assert!(done.is_ok());
        for (region, vma) in layout.regions.overlapping(range.clone()) {
            for at in (region.start.max(range.start)..region.end.min(range.end)).step_by(PAGE_SIZE) {
                let slot = &mut present[(at - range.start) / PAGE_SIZE];
                if *slot == 0
                    && let Some((source, index)) = vma.file_page(region.start, at)
                {
                    *slot = u8::from(source.page_if_cached(index).is_some());
                }
            }
        }
        Ok(present)
    }
}
