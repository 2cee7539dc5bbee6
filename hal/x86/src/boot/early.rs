//! Identity-mapped start: chooses the kernel's addresses and builds the kernel's page tables.
//!
//! The image is relocated twice: to its physical address, so that this code runs like any other, and to its final
//! place at the end. In between nothing can be printed.

use core::sync::atomic::Ordering;

use super::symbol;
use crate::paging::{self, Frame, pte};

/// The top 2 GiB: the image goes to a page in the first of them.
const IMAGE_AREA: u64 = 0xffff_ffff_8000_0000;
/// The image's page tables map this much (`kernel.ld` checks the size).
const IMAGE_MAX: u64 = 16 << 20;
/// Root entries from which the direct map's base is chosen. Those below 272 belong to Xen for its own
/// guests; the map may grow behind its base.
const DIRECT_SLOTS: core::ops::Range<u64> = 288..400;

static IMAGE_PDPT: Frame = Frame::new();
static IMAGE_PD: Frame = Frame::new();
static IMAGE_PT: [Frame; 9] = [const { Frame::new() }; 9];
static AREA_PDPT: Frame = Frame::new();

/// Returns the distance from the identity-mapped image to the final one.
#[unsafe(no_mangle)]
extern "C" fn coracle_early(start_info: u64, load: u64) -> u64 {
    let random = if wants_fixed_addresses(start_info) { 0 } else { crate::arch::early_random() };
    let pages = ((1 << 30) - IMAGE_MAX) / 4096;
    let base = IMAGE_AREA
        + if random == 0 {
            (load % (1 << 30)).min((1 << 30) - IMAGE_MAX)
        } else {
            (random & 0xffff_ffff) % pages * 4096
        };
    let slots = DIRECT_SLOTS.end - DIRECT_SLOTS.start;
    let direct = (0xffff << 48) | (DIRECT_SLOTS.start + (random >> 32) % slots) << 39;
    super::LOAD.store(load, Ordering::Relaxed);
    super::BASE.store(base, Ordering::Relaxed);
    // SAFETY: nothing else runs; the tables are zeroed (.bss) and the image is writable through the identity map.
    unsafe {
        map_image(load, base);
        paging::early_direct(direct, load, super::image_len());
        let root = paging::KERNEL_ROOT.as_mut_ptr();
        (*root)[paging::AREA_SLOT] = AREA_PDPT.address() | pte::TABLE;
        let boot = symbol!(coracle_boot_pml4) as *mut [u64; 512];
        (&mut (*boot))[256..].copy_from_slice(&(&(*root))[256..]);
    }
    hal_core::memory::set_direct_base(direct);
    hal_core::memory::set_image_offset(base.wrapping_sub(load));
    base.wrapping_sub(load)
}

/// True if the command line has the word `nokaslr`.
fn wants_fixed_addresses(start_info: u64) -> bool {
    const WORD: &[u8; 7] = b"nokaslr";
    // SAFETY: the loader's start info (start_info.h: cmdline_paddr at 24) and its string lie in the identity map.
    let mut text = unsafe { *((start_info + 24) as *const u64) } as *const u8;
    if text.is_null() || text as u64 >= 1 << 32 {
        return false;
    }
    let mut matched = 0;
    let mut start = true;
    loop {
        // SAFETY: as above; the string ends with a zero byte.
        let byte = unsafe { *text };
        let space = byte == 0 || byte == b' ';
        if space && start && matched == WORD.len() {
            return true;
        }
        if byte == 0 {
            return false;
        }
        if space {
            start = true;
            matched = 0;
        } else if start && matched < WORD.len() && byte == WORD[matched] {
            matched += 1;
        } else {
            start = false;
        }
        // SAFETY: not at the end yet.
        text = unsafe { text.add(1) };
    }
}

/// Applies the relative relocations (gABI: RELR): adds `delta` to each word that the table names. Pure: it may run
/// before the image is relocated, so it is given the table.
///
/// # Safety
/// `start..end` is the image's RELR table, and the image at `load` is writable.
#[unsafe(no_mangle)]
unsafe extern "C" fn coracle_relocate(load: u64, delta: u64, start: *const u64, end: *const u64) {
    let mut entry = start;
    let mut at = load;
    // SAFETY: the linker made the table: every word lies in the image and is aligned.
    unsafe {
        while entry < end {
            let value = *entry;
            if value & 1 == 0 {
                let word = (load + value) as *mut u64;
                *word = (*word).wrapping_add(delta);
                at = load + value + 8;
            } else {
                let mut bits = value >> 1;
                let mut word = at as *mut u64;
                while bits != 0 {
                    if bits & 1 != 0 {
                        *word = (*word).wrapping_add(delta);
                    }
                    bits >>= 1;
                    word = word.add(1);
                }
                at += 63 * 8;
            }
            entry = entry.add(1);
        }
    }
}

/// Maps the image at `base`: text executable, constants read-only, the rest writable, the boot stack's guard not.
///
/// # Safety
/// The tables are unused and zero.
unsafe fn map_image(load: u64, base: u64) {
    // SAFETY: static tables, used by this function alone.
    unsafe {
        let root = paging::KERNEL_ROOT.as_mut_ptr();
        (*root)[511] = IMAGE_PDPT.address() | pte::TABLE;
        (*IMAGE_PDPT.as_mut_ptr())[(base >> 30 & 511) as usize] = IMAGE_PD.address() | pte::TABLE;
        let text = symbol!(__text_end) - load;
        let rodata = symbol!(__rodata_end) - load;
        let guard = symbol!(coracle_boot_stack_guard) - load;
        let first = base >> 21;
        let mut offset = 0;
        while offset < super::image_len() {
            let flags = if offset < text {
                pte::PRESENT | pte::GLOBAL | pte::ACCESSED
            } else if offset < rodata {
                pte::PRESENT | pte::GLOBAL | pte::ACCESSED | pte::NO_EXECUTE
            } else {
                pte::PRESENT | pte::GLOBAL | pte::ACCESSED | pte::NO_EXECUTE | pte::WRITE | pte::DIRTY
            };
            let address = base + offset;
            let table = (address >> 21) - first;
            let pt = (&raw const IMAGE_PT).cast::<Frame>().add(table as usize);
            (*IMAGE_PD.as_mut_ptr())[(address >> 21 & 511) as usize] = (*pt).address() | pte::TABLE;
            if offset != guard {
                (*(*pt).as_mut_ptr())[(address >> 12 & 511) as usize] = (load + offset) | flags;
            }
            offset += 4096;
        }
    }
}
