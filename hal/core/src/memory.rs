//! The direct map: all memory of the guest, mapped at a base chosen at boot.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::PhysAddr;

static DIRECT_BASE: AtomicU64 = AtomicU64::new(0);

/// Fixes the base of the direct map. Called once by the boot code, before the kernel's main function.
pub fn set_direct_base(base: u64) {
    DIRECT_BASE.store(base, Ordering::Relaxed);
}

/// The base of the direct map.
#[inline]
pub fn direct_base() -> u64 {
    DIRECT_BASE.load(Ordering::Relaxed)
}

static IMAGE_OFFSET: AtomicU64 = AtomicU64::new(0);

/// Fixes the distance from the kernel image's guest-physical place to its virtual one. Called once by the boot code.
pub fn set_image_offset(offset: u64) {
    IMAGE_OFFSET.store(offset, Ordering::Relaxed);
}

/// The guest-physical address of something in the kernel's image: a static.
pub fn image_phys_of<T: ?Sized>(pointer: *const T) -> PhysAddr {
    PhysAddr((pointer.cast::<u8>() as u64).wrapping_sub(IMAGE_OFFSET.load(Ordering::Relaxed)))
}

/// Where guest-physical `address` is in the direct map. Only memory that was mapped there
/// ([`crate::Mmu::map_direct`]) may be accessed.
#[inline]
pub fn direct<T>(address: PhysAddr) -> *mut T {
    (direct_base() + address.0) as *mut T
}

/// The guest-physical address of something in the direct map (any kernel heap memory).
#[inline]
pub fn phys_of<T: ?Sized>(pointer: *const T) -> PhysAddr {
    PhysAddr((pointer.cast::<u8>() as u64).wrapping_sub(direct_base()))
}
