//! Copying an address space for `fork`: private pages become shared until one side writes.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use base::{Errno, Result};
use hal_core::mmu::{Pte, PteFlags};
use hal_core::{PAGE_SIZE, PhysAddr};

use super::frame;
use super::space::AddressSpace;
use super::table::{self, CACHED, ENTRIES, mmu};
use super::vma::{Backing, Vma, VmaFlags};
use super::zap::{Gather, OutOfMemory, Piece};

/// Entries copied at once.
const CHUNK: usize = 64;

impl AddressSpace {
    /// A copy of the space. Costs work for each page that is mapped and private; pages of files are left to the child's faults.
    /// `ENOMEM` when memory is out.
    pub fn fork(&self) -> Result<Arc<Self>> {
        frame::check_room()?;
        let child = Self::new()?;
        child.limit.store(self.limit.load(Ordering::Relaxed), Ordering::Relaxed);
        child.stack_limit.store(self.stack_limit.load(Ordering::Relaxed), Ordering::Relaxed);
        let layout = self.layout.write();
        let mut copy = child.layout.write();
        copy.regions = layout.regions.clone();
        copy.mmap_top = layout.mmap_top;
        copy.brk_start = layout.brk_start;
        copy.brk = layout.brk;
        let mut copied = Ok(());
        let mut gather = Gather::new(self);
        for (range, vma) in layout.regions.iter() {
            if vma.flags.contains(VmaFlags::DONTFORK) {
                // Nothing of it has been copied; dropping the description needs no lock.
                drop(copy.regions.remove(range));
            } else if has_private_pages(vma) {
                copied = self.copy_pages(&child, &mut gather, range);
                if copied.is_err() {
                    break;
                }
            }
        }
        // Before the child runs, this space's threads must have lost the right to write.
        gather.finish();
        drop(copy);
        drop(layout);
        copied.map_err(|_| Errno::ENOMEM)?;
        Ok(child)
    }

    /// Shares the private pages in `range` with the child. Both layouts are locked for writing.
    fn copy_pages(
        &self,
        child: &Self,
        gather: &mut Gather,
        range: Range<usize>,
    ) -> core::result::Result<(), OutOfMemory> {
        let mut failed = false;
        self.visit(range, &mut |piece| {
            let (table, first, count, at) = match piece {
                Piece::Leaf { table, first, count, at } => (table, first, count, at),
                // Frames are counted one by one from here on.
                // SAFETY: a whole huge page of this space; its leaf lock is held.
                Piece::Huge { table, index, at, .. } => match unsafe { table::split_huge(table, index) } {
                    Some(leaf) => (leaf, 0, ENTRIES, at),
                    None => {
                        failed = true;
                        return;
                    }
                },
            };
            failed |= failed || copy_table(child, gather, table, first, count, at).is_err();
        })?;
        if failed { Err(OutOfMemory) } else { Ok(()) }
    }
}

/// True for regions whose pages a child could not get again by faulting.
fn has_private_pages(vma: &Vma) -> bool {
    vma.is_private() && !vma.flags.contains(VmaFlags::WIPEONFORK) && !matches!(vma.backing, Backing::Frames { .. })
}

fn copy_table(
    child: &AddressSpace,
    gather: &mut Gather,
    table: PhysAddr,
    first: usize,
    count: usize,
    at: usize,
) -> core::result::Result<(), OutOfMemory> {
    let mmu = mmu();
    let mut target = None;
    let mut pages = 0;
    for start in (0..count).step_by(CHUNK) {
        let n = CHUNK.min(count - start);
        let mut mine = [Pte::EMPTY; CHUNK];
        let mut theirs = [Pte::EMPTY; CHUNK];
        let mut any = false;
        let mut lost = None::<(usize, usize)>;
        for i in 0..n {
            // SAFETY: a live leaf table, its lock held.
            let entry = unsafe { table::read(table, first + start + i) };
            mine[i] = entry;
            if entry == Pte::EMPTY {
                continue;
            }
            let (frame, flags) = match table::held(entry) {
                Some(held) => held,
                None => table::decode(entry),
            };
            // A file's page comes again by a fault, from the same cache.
            if flags.contains(CACHED) {
                continue;
            }
            if flags.contains(PteFlags::WRITE) {
                mine[i] = table::without_write(entry);
                lost = Some((lost.map_or(i, |(from, _)| from), i + 1));
            }
            if !flags.contains(PteFlags::SPECIAL) {
                frame::get(frame);
                pages += 1;
            }
            theirs[i] = mine[i];
            any = true;
        }
        if !any {
            continue;
        }
        let leaf = match target {
            Some(leaf) => leaf,
            None => match child.ensure_leaf(at) {
                Some(leaf) => *target.insert(leaf),
                None => {
                    release(&theirs[..n]);
                    return Err(OutOfMemory);
                }
            },
        };
        // SAFETY: the parent's table is locked by the visit, the child's by its layout; each entry of the child's has
        // its own reference. Accessed and dirty bits of private pages mean nothing to us, so none can be lost.
        unsafe {
            if let Some((from, to)) = lost {
                mmu.write(table, first + start + from, &mine[from..to]);
                let base = at + start * PAGE_SIZE;
                gather.touched(base + from * PAGE_SIZE..base + to * PAGE_SIZE);
            }
            mmu.write(leaf, first + start, &theirs[..n]);
        }
    }
    child.anonymous_pages.fetch_add(pages, Ordering::Relaxed);
    Ok(())
}

/// Gives back the references of entries that were not written.
fn release(entries: &[Pte]) {
    for &entry in entries.iter().filter(|&&entry| entry != Pte::EMPTY) {
        let (frame, flags) = table::held(entry).unwrap_or_else(|| table::decode(entry));
        if !flags.contains(PteFlags::SPECIAL) {
            // SAFETY: the reference was added for this entry.
            unsafe { frame::put(frame) };
        }
    }
}
