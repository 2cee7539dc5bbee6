//! Moving and resizing regions: `mremap`.

use core::ops::Range;

use alloc::vec::Vec;
use base::{Errno, Result};
use hal_core::mmu::Pte;
use hal_core::{PAGE_SIZE, VirtAddr};
use mm_core::region::Region;

use super::frame;
use super::map::place;
use super::space::{AddressSpace, Layout};
use super::table::{self, HUGE_SIZE, mmu};
use super::vma::{Backing, USER_START, Vma, VmaFlags, page_range, round_up};
use super::zap::{Gather, OutOfMemory, Piece};

bitflags::bitflags! {
    /// `MREMAP_*` (uapi/linux/mman.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RemapFlags: u32 {
        /// May move.
        const MAYMOVE = 1;
        /// Moves to the given address.
        const FIXED = 2;
        /// Leaves the old region, empty.
        const DONTUNMAP = 4;
    }
}

/// What is dropped after the layout is unlocked: regions hold files.
type Removed = Vec<(Range<usize>, Vma)>;

impl AddressSpace {
    /// Resizes or moves a region, like `mremap(2)`; returns its address. `EINVAL`, `EFAULT`, `ENOMEM`.
    pub fn remap(&self, old: usize, old_len: usize, new_len: usize, flags: RemapFlags, target: usize) -> Result<usize> {
        let (old_len, new_len) = (round_up(old_len).ok_or(Errno::EINVAL)?, round_up(new_len).ok_or(Errno::EINVAL)?);
        let moves = flags.intersects(RemapFlags::FIXED | RemapFlags::DONTUNMAP);
        if !old.is_multiple_of(PAGE_SIZE)
            || new_len == 0
            || (moves && !flags.contains(RemapFlags::MAYMOVE))
            || (flags.contains(RemapFlags::DONTUNMAP) && old_len != new_len)
        {
            return Err(Errno::EINVAL);
        }
        let from = page_range(old, old_len, Errno::EINVAL)?;
        let to = if flags.contains(RemapFlags::FIXED) {
            let to = page_range(target, new_len, Errno::EINVAL)?;
            if to.start < from.end && from.start < to.end {
                return Err(Errno::EINVAL);
            }
            if to.start < USER_START {
                return Err(Errno::EPERM);
            }
            Some(to)
        } else {
            None
        };
        frame::check_room()?;
        let mut removed = Vec::new();
        let mut layout = self.layout.write();
        let result = self.remap_locked(&mut layout, from, new_len, flags, to, &mut removed);
        drop(layout);
        drop(removed);
        result
    }

    fn remap_locked(
        &self,
        layout: &mut Layout,
        from: Range<usize>,
        new_len: usize,
        flags: RemapFlags,
        to: Option<Range<usize>>,
        removed: &mut Removed,
    ) -> Result<usize> {
        let (region, vma) = layout.regions.find(from.start).ok_or(Errno::EFAULT)?;
        let vma = {
            let mut vma = vma.clone();
            if from.start > region.start { vma.split(from.start - region.start) } else { vma }
        };
        if from.end > region.end {
            return Err(Errno::EFAULT);
        }
        if from.is_empty() && (vma.is_private() || !flags.contains(RemapFlags::MAYMOVE)) {
            // An old length of 0 asks for a second view, which only shared memory can have.
            return Err(Errno::EINVAL);
        }
        if flags.contains(RemapFlags::DONTUNMAP) && !vma.is_anonymous() && vma.is_private() {
            return Err(Errno::EINVAL);
        }
        let stays = to.is_none() && !flags.contains(RemapFlags::DONTUNMAP) && !from.is_empty();
        if stays && new_len <= from.len() {
            if new_len < from.len() {
                *removed = self.remove(layout, &(from.start + new_len..from.end))?;
            }
            return Ok(from.start);
        }
        let more = new_len.saturating_sub(from.len());
        if stays && from.end == region.end && self.extend(layout, &from, more, &vma)? {
            return Ok(from.start);
        }
        if !flags.contains(RemapFlags::MAYMOVE) {
            return Err(Errno::ENOMEM);
        }
        let to = match to {
            Some(to) => {
                if !layout.regions.is_free(to.clone()) {
                    *removed = self.remove(layout, &to)?;
                }
                to
            }
            None => {
                let at = place(layout, 0, new_len, &vma).ok_or(Errno::ENOMEM)?;
                at..at + new_len
            }
        };
        self.check_room(layout, if flags.contains(RemapFlags::DONTUNMAP) { new_len } else { more })?;
        let moved = from.start..from.start + from.len().min(new_len);
        self.move_pages(moved, to.start).map_err(|_| Errno::ENOMEM)?;
        layout.regions.insert(to.clone(), vma);
        if !flags.contains(RemapFlags::DONTUNMAP) && !from.is_empty() {
            removed.append(&mut self.remove(layout, &from)?);
        }
        Ok(to.start)
    }

    /// Makes the region longer where it is; false if there is no room behind it.
    fn extend(&self, layout: &mut Layout, from: &Range<usize>, more: usize, vma: &Vma) -> Result<bool> {
        let grown = page_range(from.end, more, Errno::ENOMEM);
        let Ok(grown) = grown else {
            return Ok(false);
        };
        let free = layout
            .regions
            .next(from.end)
            .is_none_or(|(above, next)| above.start.saturating_sub(next.guard()) >= grown.end);
        if !free || !layout.regions.is_free(grown.clone()) {
            return Ok(false);
        }
        self.check_room(layout, more)?;
        let mut tail = vma.clone();
        let tail = tail.split(from.len());
        layout.regions.insert(grown, tail);
        Ok(true)
    }

    /// Moves the pages of `from` to `to`, where nothing is mapped. The layout is locked for writing. On failure nothing has moved.
    fn move_pages(&self, from: Range<usize>, to: usize) -> core::result::Result<(), OutOfMemory> {
        if from.is_empty() {
            return Ok(());
        }
        self.split_edges(&from)?;
        let target = |at: usize| to + (at - from.start);
        // First everything that can fail.
        let mut failed = false;
        self.visit(from.clone(), &mut |piece| {
            let (first, last) = match piece {
                Piece::Leaf { count, at, .. } => (target(at), target(at + (count - 1) * PAGE_SIZE)),
                Piece::Huge { table, index, at, .. } => {
                    // SAFETY: a whole huge page of this space; its leaf lock is held.
                    failed |= unsafe { table::split_huge(table, index) }.is_none();
                    (target(at), target(at + HUGE_SIZE - PAGE_SIZE))
                }
            };
            failed |= self.ensure_leaf(first).is_none() || self.ensure_leaf(last).is_none();
        })?;
        if failed {
            return Err(OutOfMemory);
        }
        let mmu = mmu();
        let mut gather = Gather::new(self);
        self.visit(from.clone(), &mut |piece| {
            let Piece::Leaf { table, first, count, at } = piece else {
                return;
            };
            for i in 0..count {
                let new = target(at + i * PAGE_SIZE);
                // SAFETY: live leaf tables, the layout locked for writing; the page's reference moves along.
                unsafe {
                    if table::read(table, first + i) == Pte::EMPTY {
                        continue;
                    }
                    let entry = mmu.exchange(table, first + i, Pte::EMPTY);
                    if let Some(leaf) = self.ensure_leaf(new) {
                        mmu.write(leaf, table::index(VirtAddr(new as u64), 1), &[entry]);
                    }
                }
            }
            gather.touched(at..at + count * PAGE_SIZE);
        })?;
        gather.finish();
        Ok(())
    }

    /// The identity of the shared object at `addr` and the byte in it: what a shared futex is known by. `None` for
    /// private memory.
    pub fn shared_object(&self, addr: usize) -> Option<((u64, u64), u64)> {
        let layout = self.layout.read();
        let (range, vma) = layout.regions.find(addr)?;
        if !vma.flags.contains(VmaFlags::SHARED) {
            return None;
        }
        match &vma.backing {
            Backing::File { source, offset } => {
                Some((source.identity(), offset * PAGE_SIZE as u64 + (addr - range.start) as u64))
            }
            Backing::Frames { start } => Some(((0, 0), start.0 + (addr - range.start) as u64)),
            Backing::Anonymous => None,
        }
    }
}
