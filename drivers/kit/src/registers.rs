//! A window of memory-mapped registers, bounds-checked: what lies outside reads as all ones and swallows writes.

use hal_core::VirtAddr;

/// A window of device registers, mapped for ever.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: usize,
    len: usize,
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        /// Reads a register (naturally aligned).
        #[inline]
        pub fn $read(&self, offset: usize) -> $type {
            match self.pointer::<$type>(offset) {
                // SAFETY: inside the window that `new`'s caller vouched for, and aligned.
                Some(p) => unsafe { p.read_volatile() },
                None => <$type>::MAX,
            }
        }
        /// Writes a register (naturally aligned).
        #[inline]
        pub fn $write(&self, offset: usize, value: $type) {
            if let Some(p) = self.pointer::<$type>(offset) {
                // SAFETY: as for reading.
                unsafe { p.write_volatile(value) }
            }
        }
    };
}

impl Registers {
    /// A window of `len` bytes.
    ///
    /// # Safety
    /// The range is mapped for ever, and is device memory that nothing else uses.
    pub unsafe fn new(base: VirtAddr, len: usize) -> Self {
        Self { base: base.0 as usize, len }
    }

    /// A part of the window; `None` if it is not inside.
    pub fn part(&self, offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.len as u64).then(|| Self { base: self.base + offset as usize, len: len as usize })
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks for an empty window")]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn pointer<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        let address = self.base.wrapping_add(offset);
        (end <= self.len && address.is_multiple_of(size_of::<T>())).then_some(address as *mut T)
    }

    access!(read8, write8, u8);
    access!(read16, write16, u16);
    access!(read32, write32, u32);

    /// Reads 1, 2 or 4 bytes.
    pub fn read(&self, offset: usize, width: u8) -> u32 {
        match width {
            1 => u32::from(self.read8(offset)),
            2 => u32::from(self.read16(offset)),
            _ => self.read32(offset),
        }
    }

    /// Writes 1, 2 or 4 bytes.
    pub fn write(&self, offset: usize, width: u8, value: u32) {
        match width {
            1 => self.write8(offset, value as u8),
            2 => self.write16(offset, value as u16),
            _ => self.write32(offset, value),
        }
    }

    /// Writes 64 bits as two halves, low first (virtio 1.2, section 4.1.3.1).
    pub fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}
