//! What is mapped, for `/proc/PID/maps`, `statm`, `status`; and the memory of another process.

use core::ops::Range;
use core::sync::atomic::Ordering;

use base::{Errno, Result};
use hal_core::cpu::PageFault;
use hal_core::memory::direct;
use hal_core::mmu::PteFlags;
use hal_core::{PAGE_SIZE, PhysAddr, VirtAddr};

use super::frame;
use super::space::AddressSpace;
use super::table;
use super::vma::{Backing, Name, Prot, VmaFlags};

/// One region as `/proc/PID/maps` shows it.
#[derive(Clone, Debug)]
pub struct VmaInfo {
    /// Addresses.
    pub range: Range<usize>,
    /// Rights.
    pub prot: Prot,
    /// Properties.
    pub flags: VmaFlags,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Device and inode; zeroes for none.
    pub identity: (u64, u64),
    /// Path or name.
    pub name: Name,
}

/// Sums, in pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceStats {
    /// Mapped.
    pub mapped: usize,
    /// Present and private.
    pub anonymous: usize,
    /// Present pages of files and shared memory.
    pub file: usize,
    /// The most that was present at once, as far as it was looked at.
    pub peak: usize,
    /// Locked.
    pub locked: usize,
    /// Private and writable: data; stacks; executable.
    pub data: usize,
    /// Stacks.
    pub stack: usize,
    /// Executable files.
    pub text: usize,
}

impl AddressSpace {
    /// Calls `each` for every region, ascending. The layout is locked meanwhile: only copy out, do not touch the application's memory.
    pub fn for_each_vma(&self, mut each: impl FnMut(&VmaInfo)) {
        let layout = self.layout.read();
        for (range, vma) in layout.regions.iter() {
            let (offset, identity) = match &vma.backing {
                Backing::File { source, offset } => (offset * PAGE_SIZE as u64, source.identity()),
                _ => (0, (0, 0)),
            };
            let name = vma.name.clone();
            each(&VmaInfo { range, prot: vma.prot, flags: vma.flags, offset, identity, name });
        }
    }

    /// Sums over all regions.
    pub fn stats(&self) -> SpaceStats {
        let pages = |count: &core::sync::atomic::AtomicIsize| count.load(Ordering::Relaxed).max(0) as usize;
        let mut stats = SpaceStats {
            anonymous: pages(&self.anonymous_pages),
            file: pages(&self.file_pages),
            ..SpaceStats::default()
        };
        let layout = self.layout.read();
        stats.mapped = layout.regions.bytes() / PAGE_SIZE;
        for (range, vma) in layout.regions.iter() {
            let len = range.len() / PAGE_SIZE;
            if vma.flags.contains(VmaFlags::LOCKED) {
                stats.locked += len;
            }
            if vma.flags.contains(VmaFlags::GROWSDOWN) {
                stats.stack += len;
            } else if vma.prot.contains(Prot::WRITE) && vma.is_private() {
                stats.data += len;
            } else if vma.prot.contains(Prot::EXEC) {
                stats.text += len;
            }
        }
        drop(layout);
        self.note_peak();
        stats.peak = self.peak_pages.load(Ordering::Relaxed);
        stats
    }

    /// Pages that are there and private, without a look at the regions.
    pub fn private_pages(&self) -> usize {
        self.anonymous_pages.load(Ordering::Relaxed).max(0) as usize
    }

    /// Remembers how much is present, before some of it goes.
    pub(super) fn note_peak(&self) {
        let now = self.anonymous_pages.load(Ordering::Relaxed) + self.file_pages.load(Ordering::Relaxed);
        self.peak_pages.fetch_max(now.max(0) as usize, Ordering::Relaxed);
    }

    /// Present pages in a range.
    pub fn present_pages(&self, range: Range<usize>) -> usize {
        let _layout = self.layout.read();
        let mut present = 0;
        let done = self.visit_whole(range, &mut |piece| match piece {
            super::zap::Piece::Leaf { table, first, count, .. } => {
                // SAFETY: a live leaf table, its lock held.
                present += (first..first + count).filter(|&i| unsafe { table::read(table, i) }.is_present()).count();
            }
            super::zap::Piece::Huge { .. } => present += table::ENTRIES,
        });
        debug_assert!(done.is_ok());
        present
    }

    /// Copies from this space, which need not be the loaded one (`process_vm_readv`, `/proc/PID/mem`); returns the bytes read before
    /// the first page that cannot come. `EFAULT` if that is the first.
    pub fn read_from(&self, addr: usize, to: &mut [u8]) -> Result<usize> {
        let (pointer, len) = (to.as_mut_ptr(), to.len());
        // SAFETY: each piece lies within `to`; the page is pinned by its reference.
        self.each_page(addr, len, false, |page, offset, at, n| unsafe {
            core::ptr::copy_nonoverlapping(direct::<u8>(page).add(offset), pointer.add(at), n);
        })
    }

    /// As [`AddressSpace::read_from`], writing (`exec` fills the new program's stack).
    pub fn write_to(&self, addr: usize, from: &[u8]) -> Result<usize> {
        // SAFETY: each piece lies within `from`; the page is this space's own, writable and pinned by its reference.
        self.each_page(addr, from.len(), true, |page, offset, at, n| unsafe {
            core::ptr::copy_nonoverlapping(from.as_ptr().add(at), direct::<u8>(page).add(offset), n);
        })
    }

    /// Calls `each(frame, offset in it, position, bytes)` for the pages of a range, each brought in.
    fn each_page(
        &self,
        addr: usize,
        len: usize,
        write: bool,
        mut each: impl FnMut(PhysAddr, usize, usize, usize),
    ) -> Result<usize> {
        let mut done = 0;
        while done < len {
            let Some(at) = addr.checked_add(done) else {
                break;
            };
            let offset = at % PAGE_SIZE;
            let n = (PAGE_SIZE - offset).min(len - done);
            let Some((page, counted)) = self.pin(at, write) else {
                break;
            };
            each(page, offset, done, n);
            if counted {
                // SAFETY: `pin` added the reference.
                unsafe { frame::put(page) };
            }
            done += n;
        }
        if done == 0 && len != 0 { Err(Errno::EFAULT) } else { Ok(done) }
    }

    /// Brings a page in and adds a reference to its frame (a huge page is split for that); true if it is counted, which the
    /// kernel's own frames are not.
    fn pin(&self, at: usize, write: bool) -> Option<(PhysAddr, bool)> {
        let address = VirtAddr(at as u64);
        // Between the fault and the look another thread may take the page away; a few tries are enough for all but malice.
        for _ in 0..16 {
            self.fault(&PageFault { address, write, fetch: false, present: false, reserved: false }).ok()?;
            let _layout = self.layout.read();
            let _guard = self.leaf_lock(at).lock();
            let leaf = self.ensure_leaf(at)?;
            // SAFETY: a live leaf table, its lock held.
            let entry = unsafe { table::read(leaf, table::index(address, 1)) };
            if !entry.is_present() {
                continue;
            }
            let (page, flags) = table::decode(entry);
            if write && !flags.contains(PteFlags::WRITE) {
                continue;
            }
            let counted = !flags.contains(PteFlags::SPECIAL);
            if counted {
                frame::get(page);
            }
            return Some((page, counted));
        }
        None
    }
}
