//! From the loader's jump to `kernel_main`: `entry` (32-bit assembly), `early` (identity-mapped: relocation and page
//! tables), `start` (in the final place: start info to [`hal_core::BootInfo`]).

mod early;
mod entry;
mod start;

use core::sync::atomic::{AtomicU64, Ordering};

/// Physical address of the image.
static LOAD: AtomicU64 = AtomicU64::new(0);
/// Virtual address of the image.
static BASE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static coracle_boot_stack_guard: u8;
    static coracle_boot_pml4: u8;
    static coracle_entry_tsc: u64;
}

/// Where a linker symbol is now.
macro_rules! symbol {
    ($name:ident) => {
        (&raw const $crate::boot::$name) as u64
    };
}
pub(crate) use symbol;

/// Length of the image in bytes, a multiple of the page size.
pub fn image_len() -> u64 {
    symbol!(__image_end) - symbol!(__image_start)
}

/// Physical address of the image's first byte.
pub fn image_phys() -> u64 {
    LOAD.load(Ordering::Relaxed)
}

/// Physical address of something in the image (a static).
pub fn phys_of_static<T>(item: *const T) -> u64 {
    (item as u64).wrapping_sub(BASE.load(Ordering::Relaxed)).wrapping_add(image_phys())
}

/// Says where the image is: for an entry that does not go through this module's.
pub fn set_place(load: u64, base: u64) {
    LOAD.store(load, Ordering::Relaxed);
    BASE.store(base, Ordering::Relaxed);
    hal_core::memory::set_image_offset(base.wrapping_sub(load));
}

/// The image's parts, as offsets from its first byte.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// End of the code.
    pub text: u64,
    /// End of the constants.
    pub rodata: u64,
    /// The page below the boot stack, which must not be mapped.
    pub guard: u64,
}

/// The image's parts.
pub fn layout() -> Layout {
    let start = symbol!(__image_start);
    Layout {
        text: symbol!(__text_end) - start,
        rodata: symbol!(__rodata_end) - start,
        guard: symbol!(coracle_boot_stack_guard) - start,
    }
}

/// The time-stamp counter at the kernel's entry.
pub fn entry_tsc() -> u64 {
    // SAFETY: written by the entry code only.
    unsafe { (&raw const coracle_entry_tsc).read_volatile() }
}

/// The root table that also maps the low 4 GiB to themselves: for starting CPUs.
pub fn identity_root() -> u64 {
    phys_of_static(&raw const coracle_boot_pml4)
}
