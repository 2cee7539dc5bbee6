//! Address spaces: the object, which CPUs use it, its birth and its end.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::ops::Range;
use core::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use base::{Errno, Result, SleepRwLock, SpinLock};
use hal_core::cpu::{CpuSet, MAX_CPUS};
use hal_core::memory::direct;
use hal_core::mmu::Flush;
use hal_core::{PAGE_SIZE, PhysAddr, VirtAddr, percpu};
use mm_core::region::Regions;

use super::frame::{self, Purpose};
use super::table::{self, mmu};
use super::vma::{Backing, USER_END, Vma};
use super::zap::Gather;

/// Locks for the leaf tables of one space, by address; faults in different 2 MiB rarely meet.
const LEAF_LOCKS: usize = 32;

/// What is mapped where, under the space's lock.
pub(super) struct Layout {
    pub(super) regions: Regions<Vma>,
    /// Regions that are placed automatically end below this.
    pub(super) mmap_top: usize,
    /// The heap: where it starts and its current end, which need not be a page boundary.
    pub(super) brk_start: usize,
    pub(super) brk: usize,
}

/// A program's address space. Threads share it by `Arc`; dropping the last one frees everything.
pub struct AddressSpace {
    pub(super) root: PhysAddr,
    pub(super) layout: SleepRwLock<Layout>,
    /// Held while entries of a leaf table (or the entry that points to it) change, if `layout` is only held for
    /// reading.
    pub(super) leaves: [SpinLock<()>; LEAF_LOCKS],
    /// Held while a table between the root and the leaf tables is added.
    pub(super) upper: SpinLock<()>,
    /// CPUs that have the root loaded.
    cpus: [AtomicU64; MAX_CPUS / 64],
    /// Pages present: private and anonymous; and the pages of files.
    pub(super) anonymous_pages: AtomicIsize,
    pub(super) file_pages: AtomicIsize,
    pub(super) peak_pages: AtomicUsize,
    /// Bytes that may be mapped (`RLIMIT_AS`), and that a stack may grow to (`RLIMIT_STACK`).
    pub(super) limit: AtomicUsize,
    pub(super) stack_limit: AtomicUsize,
}

/// All spaces, by root.
static SPACES: SpinLock<BTreeMap<u64, Weak<AddressSpace>>> = SpinLock::new(BTreeMap::new());

/// A file (device and inode number) has lost these pages: takes them out of every mapping, so that the next access asks the file
/// again. Private copies stay. May sleep.
pub fn forget_pages(identity: (u64, u64), pages: Range<u64>) {
    let mut after = 0;
    loop {
        let next = SPACES.lock().range(after..).find_map(|(&root, space)| Some((root, space.upgrade()?)));
        let Some((root, space)) = next else {
            return;
        };
        space.forget(identity, &pages);
        after = root + 1;
    }
}

/// The space that each CPU has loaded; null for none.
static LOADED: [AtomicPtr<AddressSpace>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

impl core::fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AddressSpace").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Entries of the root that are the application's; the others are the kernel's, the same everywhere.
pub(super) const USER_ROOT_ENTRIES: usize = 256;

impl AddressSpace {
    /// An empty space. `ENOMEM` when memory is out.
    pub fn new() -> Result<Arc<Self>> {
        let root = frame::with_reclaim(table::new_root).ok_or(Errno::ENOMEM)?;
        let space = Arc::new(Self {
            root,
            layout: SleepRwLock::new(Layout {
                regions: Regions::new(),
                mmap_top: USER_END - (64 << 20),
                brk_start: 0,
                brk: 0,
            }),
            leaves: [const { SpinLock::new(()) }; LEAF_LOCKS],
            upper: SpinLock::new(()),
            cpus: [const { AtomicU64::new(0) }; MAX_CPUS / 64],
            anonymous_pages: AtomicIsize::new(0),
            file_pages: AtomicIsize::new(0),
            peak_pages: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            stack_limit: AtomicUsize::new(8 << 20),
        });
        SPACES.lock().insert(root.0, Arc::downgrade(&space));
        Ok(space)
    }

    /// Makes this CPU use the space. The caller keeps it alive until another one is activated here.
    /// Interrupts are disabled.
    pub fn activate(self: &Arc<Self>) {
        let cpu = percpu::cpu_id();
        let old = LOADED[cpu].load(Ordering::Relaxed);
        if core::ptr::eq(old, Arc::as_ptr(self)) {
            return;
        }
        // In the set before the root is loaded: a flush that comes in between is superfluous, not missing.
        self.cpus[cpu / 64].fetch_or(1 << (cpu % 64), Ordering::SeqCst);
        // SAFETY: the root has the kernel's half; the caller keeps the space alive while it is loaded.
        unsafe { mmu().switch_root(self.root) };
        LOADED[cpu].store(Arc::as_ptr(self).cast_mut(), Ordering::Release);
        Self::left(old, cpu);
    }

    /// Makes this CPU use no application's space. Interrupts are disabled.
    pub fn activate_kernel() {
        let cpu = percpu::cpu_id();
        let old = LOADED[cpu].swap(core::ptr::null_mut(), Ordering::Relaxed);
        let mmu = mmu();
        // SAFETY: the kernel's own root.
        unsafe { mmu.switch_root(mmu.kernel_root()) };
        Self::left(old, cpu);
    }

    fn left(old: *mut Self, cpu: usize) {
        // SAFETY: null, or the space that was loaded until now, which its activator still keeps alive.
        if let Some(old) = unsafe { old.as_ref() } {
            old.cpus[cpu / 64].fetch_and(!(1 << (cpu % 64)), Ordering::SeqCst);
        }
    }

    /// The space that this CPU has loaded: the running thread's own, if it has one.
    #[inline]
    pub fn loaded() -> Option<&'static Self> {
        let loaded = LOADED[percpu::cpu_id()].load(Ordering::Relaxed);
        // SAFETY: what is loaded is kept alive by the running thread or, in a switch, by the scheduler; callers
        // are threads with a space and use it no longer than their own system call.
        unsafe { loaded.as_ref() }
    }

    /// The CPUs that may have entries of this space in their TLB.
    fn users(&self) -> CpuSet {
        CpuSet::from_words(core::array::from_fn(|word| self.cpus[word].load(Ordering::SeqCst)))
    }

    /// Flushes on every CPU that uses the space, and waits for it. Interrupts are enabled, unless no other CPU uses it.
    pub(super) fn flush(&self, what: Flush) {
        let mut others = self.users();
        let me = percpu::cpu_id();
        if others.contains(me) {
            mmu().flush_local(what);
            others.remove(me);
        }
        if !others.is_empty() {
            mmu().flush_cpus(&others, what);
        }
    }

    /// Flushes `pages` pages from `at`.
    pub(super) fn flush_pages(&self, at: usize, pages: usize) {
        /// Above so many pages one flush of everything is cheaper.
        const MANY: usize = 33;
        self.flush(if pages > MANY { Flush::Space } else { Flush::Range(VirtAddr(at as u64), pages) });
    }

    /// The lock for the leaf table of `at`.
    #[inline]
    pub(super) fn leaf_lock(&self, at: usize) -> &SpinLock<()> {
        &self.leaves[(at >> 21) % LEAF_LOCKS]
    }

    /// Unmaps everything: a process ends while others still hold the space.
    pub fn clear(&self) {
        let mut layout = self.layout.write();
        let removed = layout.regions.remove(0..USER_END);
        self.sync_removed(&removed);
        let mut gather = Gather::new(self);
        self.zap(&mut gather, 0..USER_END, 0..usize::MAX);
        gather.finish();
        drop(layout);
        // Files are closed without the lock: that may sleep.
        drop(removed);
    }

    fn forget(&self, identity: (u64, u64), pages: &Range<u64>) {
        let layout = self.layout.read();
        let mut gather = Gather::new(self);
        for (range, vma) in layout.regions.iter() {
            let Backing::File { source, offset } = &vma.backing else {
                continue;
            };
            if source.identity() != identity {
                continue;
            }
            let end = offset + (range.len() / PAGE_SIZE) as u64;
            let (first, last) = (pages.start.max(*offset), pages.end.min(end));
            if first < last {
                let at = |page: u64| range.start + (page - offset) as usize * PAGE_SIZE;
                self.zap_cached(&mut gather, at(first)..at(last));
            }
        }
        gather.finish();
    }

    /// Fixes where the heap starts and below what regions are placed: by `execve`.
    pub fn set_layout(&self, mmap_top: usize, brk_start: usize) {
        let mut layout = self.layout.write();
        layout.mmap_top = mmap_top.min(USER_END) & !(PAGE_SIZE - 1);
        layout.brk_start = brk_start;
        layout.brk = brk_start;
    }

    /// Sets `RLIMIT_AS`, in bytes.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Sets `RLIMIT_STACK`, in bytes: how far a stack grows.
    pub fn set_stack_limit(&self, bytes: usize) {
        self.stack_limit.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        let me = percpu::cpu_id();
        // Loaded here only if the scheduler has not switched since the last thread's end.
        if core::ptr::eq(LOADED[me].load(Ordering::Relaxed), self) {
            let irq = hal_core::cpu::irq_save();
            Self::activate_kernel();
            hal_core::cpu::irq_restore(irq);
        }
        let removed = self.layout.get_mut().regions.remove(0..USER_END);
        self.sync_removed(&removed);
        // SAFETY: whoever has the root loaded keeps the space alive, and nobody does.
        unsafe { mmu().close_root(self.root) };
        let mut gather = Gather::new(self);
        self.zap(&mut gather, 0..USER_END, 0..usize::MAX);
        gather.finish();
        drop(removed);
        SPACES.lock().remove(&self.root.0);
        // SAFETY: no CPU has the root loaded: whoever has keeps the space alive.
        unsafe {
            table::free_table(self.root, 4);
        }
    }
}

/// The frame of zeroes that read faults map.
pub(super) fn zero_frame() -> PhysAddr {
    static ZERO: AtomicU64 = AtomicU64::new(0);
    match ZERO.load(Ordering::Acquire) {
        0 => {
            // Two CPUs may come here: the loser's frame is wasted once.
            let frame = frame::alloc_for(0, Purpose::Kernel).expect("one frame at the first fault");
            // SAFETY: just allocated.
            unsafe { frame::zero(direct(frame), 1) };
            match ZERO.compare_exchange(0, frame.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => frame,
                Err(other) => PhysAddr(other),
            }
        }
        frame => PhysAddr(frame),
    }
}
