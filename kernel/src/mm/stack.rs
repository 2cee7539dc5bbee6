//! Kernel stacks: 16 KiB with an unmapped page below, so that an overflow faults instead of corrupting.
//!
//! Each lies in its own slot of the kernel area. Stacks of threads that ended are kept mapped for the next
//! ones; memory pressure takes them back.

use alloc::vec::Vec;

use base::{Errno, Result, SpinLock};
use hal_core::cpu::{CpuSet, MAX_CPUS};
use hal_core::mmu::{Flush, Pte, PteFlags};
use hal_core::{PAGE_SIZE, VirtAddr, platform};

use super::frame::{self, Purpose};
use super::table;

/// Bytes of a stack.
pub const STACK_SIZE: usize = 4 * PAGE_SIZE;
const STACK_ORDER: u8 = 2;
/// A slot: guard pages, then the stack.
const SLOT_SIZE: usize = 2 * STACK_SIZE;
/// Stacks that stay mapped under memory pressure.
const KEEP: usize = 8;

/// Slots, by number.
struct Slots {
    /// Mapped and free; the latest first.
    ready: Vec<u32>,
    /// Not mapped, below `next`.
    unmapped: Vec<u32>,
    /// All from here on were never used.
    next: u32,
}

static SLOTS: SpinLock<Slots> = SpinLock::new(Slots { ready: Vec::new(), unmapped: Vec::new(), next: 0 });

/// A stack for a kernel thread or for a thread's system calls.
#[derive(Debug)]
pub struct KernelStack {
    slot: u32,
}

fn bottom(slot: u32) -> VirtAddr {
    let (area, _) = platform().mmu().kernel_area();
    area + slot as u64 * SLOT_SIZE as u64 + (SLOT_SIZE - STACK_SIZE) as u64
}

impl KernelStack {
    /// A stack whose contents are undefined. `ENOMEM` when memory or slots are out.
    pub fn new() -> Result<Self> {
        let slot = {
            let mut slots = SLOTS.lock();
            if let Some(slot) = slots.ready.pop() {
                return Ok(Self { slot });
            }
            // Room for every slot in either list, so that dropping a stack never allocates.
            let used = slots.next as usize + 1;
            let (ready, unmapped) = (slots.ready.len(), slots.unmapped.len());
            slots.ready.try_reserve(used - ready).map_err(|_| Errno::ENOMEM)?;
            slots.unmapped.try_reserve(used - unmapped).map_err(|_| Errno::ENOMEM)?;
            match slots.unmapped.pop() {
                Some(slot) => slot,
                None => {
                    let (_, len) = platform().mmu().kernel_area();
                    if (u64::from(slots.next) + 1) * SLOT_SIZE as u64 > len {
                        return Err(Errno::ENOMEM);
                    }
                    slots.next += 1;
                    slots.next - 1
                }
            }
        };
        map(slot).inspect_err(|_| SLOTS.lock().unmapped.push(slot))?;
        Ok(Self { slot })
    }

    /// The end of the stack, where it starts to grow down; 16-byte aligned.
    pub fn top(&self) -> VirtAddr {
        bottom(self.slot) + STACK_SIZE as u64
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        SLOTS.lock().ready.push(self.slot);
    }
}

fn map(slot: u32) -> Result<()> {
    let block = frame::alloc_for(STACK_ORDER, Purpose::User).ok_or(Errno::ENOMEM)?;
    let mmu = platform().mmu();
    let flags = PteFlags::WRITE | PteFlags::GLOBAL | PteFlags::ACCESSED | PteFlags::DIRTY;
    let at = bottom(slot);
    let Some(leaf) = table::ensure_kernel(at) else {
        // SAFETY: just allocated, used nowhere.
        unsafe { frame::put(block) };
        return Err(Errno::ENOMEM);
    };
    let entries: [Pte; STACK_SIZE / PAGE_SIZE] =
        core::array::from_fn(|page| mmu.leaf(block + (page * PAGE_SIZE) as u64, flags, 1));
    // SAFETY: the slot is ours and lies within one leaf table (slots are aligned to their size).
    unsafe { mmu.write(leaf, table::index(at, 1), &entries) };
    Ok(())
}

/// Unmaps stacks that nobody uses; returns the frames freed. Interrupts are enabled.
pub(super) fn shrink(pages: usize) -> usize {
    let mut freed = 0;
    let cpus = platform().cpu().count();
    let mut all = CpuSet::EMPTY;
    (0..cpus.min(MAX_CPUS)).for_each(|cpu| all.insert(cpu));
    while freed < pages {
        let slot = {
            let mut slots = SLOTS.lock();
            if slots.ready.len() <= KEEP {
                break;
            }
            slots.ready.swap_remove(0)
        };
        let at = bottom(slot);
        let mmu = platform().mmu();
        if let Some(leaf) = table::ensure_kernel(at) {
            // SAFETY: the stack is mapped and ours; it is flushed everywhere before the block is freed.
            unsafe {
                let (block, _) = mmu.decode(mmu.read(leaf, table::index(at, 1)), 1);
                mmu.write(leaf, table::index(at, 1), &[Pte::EMPTY; STACK_SIZE / PAGE_SIZE]);
                mmu.flush_cpus(&all, Flush::Range(at, STACK_SIZE / PAGE_SIZE));
                frame::put(block);
            }
            freed += 1 << STACK_ORDER;
        }
        SLOTS.lock().unmapped.push(slot);
    }
    freed
}
