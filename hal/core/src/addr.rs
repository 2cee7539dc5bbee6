//! Addresses.

use core::fmt;

/// Bytes in a page and in a frame.
pub const PAGE_SIZE: usize = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// Rounds down to a multiple of `align`, a power of two.
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }
            /// Rounds up to a multiple of `align`, a power of two; wraps at the end of the address space.
            #[must_use]
            pub const fn align_up(self, align: u64) -> Self {
                Self(self.0.wrapping_add(align - 1) & !(align - 1))
            }
            /// True if a multiple of `align`, a power of two.
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }
            /// The page (or frame) number.
            pub const fn page(self) -> u64 {
                self.0 / PAGE_SIZE as u64
            }
        }

        impl core::ops::Add<u64> for $name {
            type Output = Self;
            fn add(self, rhs: u64) -> Self {
                Self(self.0 + rhs)
            }
        }

        impl core::ops::Sub<$name> for $name {
            type Output = u64;
            fn sub(self, rhs: $name) -> u64 {
                self.0 - rhs.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// A guest-physical address: what the guest believes. Where a hypervisor translates frames
    /// (Xen PV), only [`crate::Mmu`] and DMA know the machine's own numbers.
    PhysAddr
);
address!(
    /// A virtual address, of the kernel or of an application.
    VirtAddr
);
