//! What the domain builder made: where its pieces are, and its page tables, which the kernel goes on using for its image.
//!
//! The builder maps guest frames from 0 on at [`BASE`], all writable but its tables, in this order: the image, the module
//! (unless the notes say that it need not be mapped), the list of machine frames, the start info, the pages of XenStore and
//! console, the page tables, a stack, padding (xen.h, "Start-of-day memory layout").

use hal_x86::boot;
use hal_x86::paging::pte;

use super::tables::Batch;
use super::{direct, frames};
use crate::abi::StartInfo;
use crate::plan::Plan;

/// Virtual address of guest frame 0 (the note in `kernel/kernel.ld`).
pub const BASE: u64 = 0xffff_ffff_8000_0000;
/// Behind the last address that the builder may have mapped.
const END: u64 = 0xffff_ffff_ffe0_0000;
/// `SIF_MOD_START_PFN`: the module is told by frame number.
const MODULE_BY_FRAME: u32 = 1 << 3;

/// Guest-physical address of something that the builder mapped.
pub fn physical(address: u64) -> u64 {
    address - BASE
}

/// The virtual address of a guest frame that the builder mapped.
pub fn mapped(frame: u64) -> u64 {
    BASE + frame * 4096
}

/// Where things are, as guest frame numbers.
pub struct Places {
    /// The image's first frame, and the end of the last thing that the builder made: all between is in use.
    pub used: (u64, u64),
    /// The builder's tables; the root is the first.
    pub tables: (u64, u64),
    /// The module: first byte, length; length 0 without one.
    pub module: (u64, u64),
    /// Frames for the direct map's tables.
    pub direct: (u64, u64),
}

impl Places {
    /// Reads the start info; `image` is the image's virtual address.
    pub fn find(start: &StartInfo, image: u64) -> Self {
        let first = physical(start.page_table) / 4096;
        let tables = (first, first + start.page_table_frames);
        let module = match start.flags & MODULE_BY_FRAME {
            _ if start.module_len == 0 => 0,
            0 => physical(start.module_start),
            _ => start.module_start * 4096,
        };
        let behind = |address: u64, len: u64| (physical(address) + len).div_ceil(4096);
        // The order is the builder's usual one; a boot loader that builds a domain anew has its own.
        let end = behind(image, boot::image_len())
            .max(behind(start.frame_list, start.pages * 8))
            .max(behind(core::ptr::from_ref(start) as u64, size_of::<StartInfo>() as u64))
            .max(tables.1);
        let mut at = end;
        let module_end = (module + start.module_len).div_ceil(4096);
        let count = Plan::len(start.pages);
        if start.module_len != 0 && at < module_end && module / 4096 < at + count {
            at = module_end;
        }
        assert!(at + count < start.pages, "this domain has too little memory");
        Self {
            used: (physical(image) / 4096, end),
            tables,
            module: (module, start.module_len),
            direct: (at, at + count),
        }
    }
}

/// Reads entry `index` of the builder's table in guest frame `table`, by the builder's mapping.
fn read(table: u64, index: u64) -> u64 {
    // SAFETY: the builder mapped its tables, for reading.
    unsafe { (mapped(table) as *const u64).add(index as usize).read_volatile() }
}

/// Changes the entries for the addresses from `from` to `to` to what `change` makes of them.
///
/// # Safety
/// What loses rights is not used so any more.
unsafe fn rewrite(places: &Places, from: u64, to: u64, change: &dyn Fn(u64, u64) -> u64) {
    let mut batch = Batch::new();
    let lower = |table: u64, index: u64| {
        let entry = read(table, index);
        (entry & pte::PRESENT != 0).then(|| frames::guest((entry & pte::ADDRESS) >> 12))
    };
    let mut at = from;
    while at < to {
        let stop = to.min((at | 0x1f_ffff) + 1);
        let leaf = lower(places.tables.0, at >> 39 & 511)
            .and_then(|table| lower(table, at >> 30 & 511))
            .and_then(|table| lower(table, at >> 21 & 511));
        let Some(leaf) = leaf else {
            at = stop;
            continue;
        };
        while at < stop {
            let (index, old) = (at >> 12 & 511, read(leaf, at >> 12 & 511));
            let new = if old & pte::PRESENT == 0 { old } else { change(at, old) };
            if new != old {
                // SAFETY: by the caller.
                unsafe { batch.add(direct::entry_address(leaf, index), new) };
            }
            at += 4096;
        }
    }
    // SAFETY: by the caller.
    unsafe { batch.finish() };
}

/// Gives the image's parts their rights, and takes the mappings of frames away that the kernel will hand out: one of them may
/// become a page table, and then there must be no second, writable mapping.
///
/// # Safety
/// Only the boot VCPU runs, on the boot stack, and nothing writes to code and constants any more.
pub unsafe fn restrict(places: &Places) {
    let layout = boot::layout();
    let image = mapped(places.used.0);
    let rights = |at: u64, old: u64| match at - image {
        offset if offset < layout.text => old & !(pte::WRITE | pte::NO_EXECUTE),
        offset if offset < layout.rodata => old & !pte::WRITE | pte::NO_EXECUTE,
        offset if offset == layout.guard => 0,
        _ => old | pte::NO_EXECUTE,
    };
    // SAFETY: by the caller.
    unsafe {
        rewrite(places, image, image + boot::image_len(), &rights);
        rewrite(places, BASE, image, &|_, _| 0);
        rewrite(places, mapped(places.used.1), END, &|_, _| 0);
        // A boot loader has mapped its last code low.
        let mut batch = Batch::new();
        for index in (0..256).filter(|&index| read(places.tables.0, index) != 0) {
            batch.add(direct::entry_address(places.tables.0, index), 0);
        }
        batch.finish();
    }
}

/// What the direct map needs to know.
pub fn boot(places: &Places) -> direct::Boot {
    direct::Boot { root: places.tables.0, builder: places.tables, tables: places.direct.0 }
}
