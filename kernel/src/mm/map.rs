//! Making and removing regions: `mmap`, `munmap`, `brk`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use base::{Errno, Result};
use hal_core::cpu::PageFault;
use hal_core::{PAGE_SIZE, VirtAddr};

use super::frame;
use super::shared::SharedMemory;
use super::space::{AddressSpace, Layout};
use super::table::HUGE_SIZE;
use super::vma::{Backing, Name, Prot, USER_END, USER_START, Vma, VmaFlags, page_range, round_up};
use super::zap::Gather;

/// What to do with an address that the program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// It is a hint.
    No,
    /// Exactly there; what was there goes (`MAP_FIXED`).
    Replace,
    /// Exactly there, or `EEXIST` (`MAP_FIXED_NOREPLACE`).
    NoReplace,
}

/// A region to be made.
#[derive(Clone)]
pub struct Map {
    /// Where, or 0.
    pub hint: usize,
    /// How binding `hint` is.
    pub fixed: Fixed,
    /// Bytes; rounded up to pages.
    pub len: usize,
    /// Rights.
    pub prot: Prot,
    /// Rights that `mprotect` may give later.
    pub max_prot: Prot,
    /// Properties.
    pub flags: VmaFlags,
    /// What is behind it.
    pub backing: Backing,
    /// For `/proc/PID/maps`.
    pub name: Name,
    /// Brings all pages in at once (`MAP_POPULATE`).
    pub populate: bool,
}

impl Map {
    /// Private zeroed memory, anywhere.
    pub fn anonymous(len: usize, prot: Prot) -> Self {
        Self {
            hint: 0,
            fixed: Fixed::No,
            len,
            prot,
            max_prot: Prot::all(),
            flags: VmaFlags::empty(),
            backing: Backing::Anonymous,
            name: Name::None,
            populate: false,
        }
    }

    /// Exactly at `at`, replacing what is there.
    #[must_use]
    pub fn at(mut self, at: usize) -> Self {
        self.hint = at;
        self.fixed = Fixed::Replace;
        self
    }
}

/// How many regions a space may have (Linux's default `vm.max_map_count`).
const MAX_REGIONS: usize = 65_530;
/// Alignment of large anonymous regions, so that huge pages fit.
const LARGE: usize = 2 * HUGE_SIZE;

/// Pages that a region counts for when memory for it is promised.
fn accounted(prot: Prot, flags: VmaFlags) -> bool {
    prot.contains(Prot::WRITE) && !flags.intersects(VmaFlags::SHARED | VmaFlags::NORESERVE)
}

/// Refuses only what can never be (Linux's heuristic overcommit): more than all memory at once.
fn check_overcommit(len: usize) -> Result<()> {
    if len / PAGE_SIZE > frame::total() { Err(Errno::ENOMEM) } else { Ok(()) }
}

impl AddressSpace {
    /// Makes a region and returns its address. Errors as `mmap(2)`: `EINVAL`, `ENOMEM`, `EEXIST`, `EPERM`.
    pub fn map(&self, mut map: Map) -> Result<usize> {
        if map.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = round_up(map.len).filter(|&len| len <= USER_END).ok_or(Errno::ENOMEM)?;
        let wanted = if map.fixed == Fixed::No {
            None
        } else {
            if !map.hint.is_multiple_of(PAGE_SIZE) {
                return Err(Errno::EINVAL);
            }
            let range = page_range(map.hint, len, Errno::ENOMEM)?;
            if range.start < USER_START {
                return Err(Errno::EPERM);
            }
            Some(range)
        };
        if accounted(map.prot, map.flags) {
            check_overcommit(len)?;
        }
        if matches!(map.backing, Backing::Anonymous) && map.flags.contains(VmaFlags::SHARED) {
            map.backing = Backing::File { source: SharedMemory::create(len / PAGE_SIZE)?, offset: 0 };
            if matches!(map.name, Name::None) {
                map.name = Name::Path(Arc::from("/dev/zero (deleted)"));
            }
        }
        let vma =
            Vma { prot: map.prot, max_prot: map.max_prot, flags: map.flags, backing: map.backing, name: map.name };
        frame::check_room()?;
        let mut layout = self.layout.write();
        let mut removed = Vec::new();
        let range = match wanted {
            Some(range) => {
                if !layout.regions.is_free(range.clone()) {
                    if map.fixed == Fixed::NoReplace {
                        return Err(Errno::EEXIST);
                    }
                    removed = self.remove(&mut layout, &range)?;
                }
                range
            }
            None => {
                let at = place(&mut layout, map.hint, len, &vma).ok_or(Errno::ENOMEM)?;
                at..at + len
            }
        };
        self.check_room(&layout, len)?;
        let write = vma.prot.contains(Prot::WRITE);
        let populate = map.populate && !vma.prot.is_empty();
        layout.regions.insert(range.clone(), vma);
        drop(layout);
        // Files are closed without the lock: that may sleep.
        drop(removed);
        if populate {
            // As on Linux the mapping stands even if not all of it could be brought in.
            let _ = self.populate(range.clone(), write);
        }
        Ok(range.start)
    }

    /// `ENOMEM` if the space may not have another region of `len` bytes.
    pub(super) fn check_room(&self, layout: &Layout, len: usize) -> Result<()> {
        let limit = self.limit.load(Ordering::Relaxed);
        if layout.regions.len() >= MAX_REGIONS || layout.regions.bytes().saturating_add(len) > limit {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// Removes what is mapped in a range, like `munmap(2)`: `EINVAL`, or `ENOMEM` if a huge page cannot be split.
    pub fn unmap(&self, addr: usize, len: usize) -> Result<()> {
        let range = page_range(addr, len, Errno::EINVAL)?;
        if range.is_empty() {
            return Err(Errno::EINVAL);
        }
        let mut layout = self.layout.write();
        let removed = self.remove(&mut layout, &range)?;
        drop(layout);
        drop(removed);
        Ok(())
    }

    /// Removes regions and their pages. The caller drops what is returned after it has unlocked.
    pub(super) fn remove(&self, layout: &mut Layout, range: &Range<usize>) -> Result<Vec<(Range<usize>, Vma)>> {
        check_cut(layout, range)?;
        self.split_edges(range).map_err(|_| Errno::ENOMEM)?;
        let removed = layout.regions.remove(range.clone());
        if removed.is_empty() {
            return Ok(removed);
        }
        self.sync_removed(&removed);
        let hole = layout.regions.hole_around(range.clone());
        let mut gather = Gather::new(self);
        self.zap(&mut gather, range.clone(), hole);
        gather.finish();
        Ok(removed)
    }

    /// Brings in every page of `range`, for writing if `write`. The fault of the first page that cannot come.
    pub(super) fn populate(&self, range: Range<usize>, write: bool) -> core::result::Result<(), super::Fault> {
        for at in range.step_by(PAGE_SIZE) {
            let address = VirtAddr(at as u64);
            self.fault(&PageFault { address, write, fetch: false, present: false, reserved: false })?;
        }
        Ok(())
    }

    /// Moves the end of the heap to `to` and returns the end as it then is (`brk(2)`: unchanged on failure).
    pub fn brk(&self, to: usize) -> usize {
        let mut layout = self.layout.write();
        let old = layout.brk;
        if to < layout.brk_start || layout.brk_start == 0 {
            return old;
        }
        let (Some(old_end), Some(new_end)) = (round_up(old), round_up(to)) else {
            return old;
        };
        let mut removed = Vec::new();
        if new_end > old_end {
            if !self.grow_heap(&mut layout, old_end..new_end) {
                return old;
            }
        } else if new_end < old_end {
            match self.remove(&mut layout, &(new_end..old_end)) {
                Ok(regions) => removed = regions,
                Err(_) => return old,
            }
        }
        layout.brk = to;
        drop(layout);
        drop(removed);
        to
    }

    fn grow_heap(&self, layout: &mut Layout, range: Range<usize>) -> bool {
        if range.end > USER_END
            || !layout.regions.is_free(range.start..range.end + PAGE_SIZE)
            || check_overcommit(range.len()).is_err()
            || self.check_room(layout, range.len()).is_err()
        {
            return false;
        }
        let heap = Vma {
            prot: Prot::READ | Prot::WRITE,
            max_prot: Prot::all(),
            flags: VmaFlags::empty(),
            backing: Backing::Anonymous,
            name: Name::Fixed("[heap]"),
        };
        layout.regions.insert(range, heap);
        true
    }
}

/// `ENOMEM` if a change of `range` would cut regions and there may not be more of them.
pub(super) fn check_cut(layout: &Layout, range: &Range<usize>) -> Result<()> {
    let cuts = |at| layout.regions.find(at).is_some_and(|(region, _)| region.start < at);
    if !cuts(range.start) && !cuts(range.end) {
        return Ok(());
    }
    if layout.regions.len() + 2 > MAX_REGIONS || frame::nearly_out() { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// A place for `len` bytes: at the hint if that is free, else near the top.
pub(super) fn place(layout: &mut Layout, hint: usize, len: usize, vma: &Vma) -> Option<usize> {
    let hint = hint & !(PAGE_SIZE - 1);
    if hint >= USER_START
        && hint.checked_add(len).is_some_and(|end| end <= USER_END)
        && layout.regions.is_free(hint..hint + len)
        && layout.regions.next(hint + len).is_none_or(|(above, v)| {
            use mm_core::region::Region;
            above.start - v.guard().min(above.start) >= hint + len
        })
    {
        return Some(hint);
    }
    let bounds = USER_START..layout.mmap_top;
    if vma.is_anonymous() && len >= LARGE {
        let aligned = layout.regions.find_gap(len, HUGE_SIZE, bounds.clone());
        if aligned.is_some() {
            return aligned;
        }
    }
    let found = layout.regions.find_gap(len, PAGE_SIZE, bounds);
    found.or_else(|| layout.regions.find_gap_up(len, PAGE_SIZE, USER_START..USER_END))
}
