//! What a mapped region is: rights, kind of sharing, what is behind it.

use alloc::sync::Arc;
use core::ops::Range;

use base::{Errno, PageSource, Result};
use hal_core::mmu::PteFlags;
use hal_core::{PAGE_SIZE, PhysAddr};
use mm_core::region::Region;

bitflags::bitflags! {
    /// Rights of a region, with the values of `PROT_*` (uapi/asm-generic/mman-common.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Prot: u32 {
        /// May be read. x86 cannot forbid reading what may be written or executed.
        const READ = 1;
        /// May be written.
        const WRITE = 2;
        /// May be executed.
        const EXEC = 4;
    }
}

bitflags::bitflags! {
    /// Properties of a region.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct VmaFlags: u32 {
        /// Writes are seen by others who map the same (`MAP_SHARED`).
        const SHARED = 1 << 0;
        /// A stack: grows down when the page below it is touched (`MAP_GROWSDOWN`).
        const GROWSDOWN = 1 << 1;
        /// Not counted against memory when it is made (`MAP_NORESERVE`).
        const NORESERVE = 1 << 2;
        /// Counted as locked (`mlock`); nothing is ever swapped.
        const LOCKED = 1 << 3;
        /// A forked child does not get it (`MADV_DONTFORK`).
        const DONTFORK = 1 << 4;
        /// A forked child gets it empty (`MADV_WIPEONFORK`).
        const WIPEONFORK = 1 << 5;
        /// Left out of core dumps (`MADV_DONTDUMP`).
        const DONTDUMP = 1 << 6;
        /// Huge pages wanted at once (`MADV_HUGEPAGE`).
        const HUGE = 1 << 7;
        /// No huge pages (`MADV_NOHUGEPAGE`).
        const NOHUGE = 1 << 8;
        /// Read in no order: no fault-around (`MADV_RANDOM`).
        const RANDOM = 1 << 9;
    }
}

/// What is behind a region.
#[derive(Clone)]
pub enum Backing {
    /// Zeroes at first, private or (as a `File` of its own) shared.
    Anonymous,
    /// Pages of a file or of shared memory.
    File {
        /// Where the pages come from.
        source: Arc<dyn PageSource>,
        /// Page of the source at the start of the region.
        offset: u64,
    },
    /// Frames of the kernel's that stay for ever: vDSO, clock page, device memory. Not reference-counted.
    #[allow(dead_code, reason = "for memory of devices, which no device file shows yet")]
    Frames {
        /// The first one; the region shows consecutive frames.
        start: PhysAddr,
    },
}

/// A name for `/proc/PID/maps`.
#[derive(Clone, Debug)]
pub enum Name {
    /// No name.
    None,
    /// One of the fixed ones: `[stack]`, `[vdso]`.
    Fixed(&'static str),
    /// A file's path.
    Path(Arc<str>),
}

impl Name {
    /// The text, empty for none.
    pub fn as_str(&self) -> &str {
        match self {
            Self::None => "",
            Self::Fixed(name) => name,
            Self::Path(path) => path,
        }
    }

    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(a), Self::Path(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => self.as_str() == other.as_str(),
        }
    }
}

/// One region.
#[derive(Clone)]
pub struct Vma {
    /// Rights now.
    pub prot: Prot,
    /// Rights that `mprotect` may give.
    pub max_prot: Prot,
    /// Properties.
    pub flags: VmaFlags,
    /// What is behind it.
    pub backing: Backing,
    /// For `/proc/PID/maps`.
    pub name: Name,
}

/// Free space that stays below a stack, as on Linux (`stack_guard_gap`): 256 pages.
pub const STACK_GUARD: usize = 256 * PAGE_SIZE;

impl Vma {
    /// True if writes stay in this space.
    #[inline]
    pub fn is_private(&self) -> bool {
        !self.flags.contains(VmaFlags::SHARED)
    }

    /// True for private memory that starts as zeroes.
    #[inline]
    pub fn is_anonymous(&self) -> bool {
        matches!(self.backing, Backing::Anonymous)
    }

    /// Rights and state of a leaf of this region; `writable` for one that may be written now.
    #[inline]
    pub fn leaf_flags(&self, writable: bool) -> PteFlags {
        let mut flags = PteFlags::USER | PteFlags::ACCESSED;
        if self.prot.contains(Prot::EXEC) {
            flags |= PteFlags::EXEC;
        }
        if writable {
            flags |= PteFlags::WRITE | PteFlags::DIRTY;
        }
        flags
    }

    /// The page of the source that is at `at`, for a region that starts at `start`.
    #[inline]
    pub fn file_page(&self, start: usize, at: usize) -> Option<(&Arc<dyn PageSource>, u64)> {
        match &self.backing {
            Backing::File { source, offset } => Some((source, offset + ((at - start) / PAGE_SIZE) as u64)),
            _ => None,
        }
    }
}

impl Region for Vma {
    fn split(&mut self, by: usize) -> Self {
        let mut upper = self.clone();
        match &mut upper.backing {
            Backing::Anonymous => {}
            Backing::File { offset, .. } => *offset += (by / PAGE_SIZE) as u64,
            Backing::Frames { start } => start.0 += by as u64,
        }
        upper
    }

    fn joins(&self, len: usize, next: &Self) -> bool {
        // Two stacks stay two: each grows by itself.
        self.prot == next.prot
            && self.max_prot == next.max_prot
            && self.flags == next.flags
            && !self.flags.contains(VmaFlags::GROWSDOWN)
            && self.name.same(&next.name)
            && match (&self.backing, &next.backing) {
                (Backing::Anonymous, Backing::Anonymous) => true,
                (Backing::File { source: a, offset: at }, Backing::File { source: b, offset: then }) => {
                    core::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b)) && at + (len / PAGE_SIZE) as u64 == *then
                }
                _ => false,
            }
    }

    fn guard(&self) -> usize {
        if self.flags.contains(VmaFlags::GROWSDOWN) { STACK_GUARD } else { 0 }
    }
}

/// The first address that no application has: the last page below the hole in the middle stays empty, so
/// that a `syscall` at the very end cannot return to a non-canonical address.
pub const USER_END: usize = 0x7fff_ffff_f000;
/// The lowest address that may be mapped (Linux's default `vm.mmap_min_addr`).
pub const USER_START: usize = 0x1_0000;

/// Rounds `len` up to whole pages; `None` on overflow.
pub fn round_up(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(PAGE_SIZE)
}

/// `addr..addr + len`, whole pages within the application's half: `EINVAL` if not aligned, `error` if
/// not inside.
pub fn page_range(addr: usize, len: usize, error: Errno) -> Result<Range<usize>> {
    if !addr.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let end = round_up(len).and_then(|len| addr.checked_add(len)).ok_or(error)?;
    if end > USER_END { Err(error) } else { Ok(addr..end) }
}
