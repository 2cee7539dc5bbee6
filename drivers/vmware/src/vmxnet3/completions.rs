//! A ring of completions: the device writes each with a generation bit that changes with every round.

use core::sync::atomic::{Ordering, fence};

use driver_kit::DmaArea;
use hal_core::{PhysAddr, Result};

use super::abi::{COMPLETION_GENERATION, DESCRIPTOR};

/// The ring, as the driver reads it.
pub(crate) struct Completions {
    area: DmaArea,
    size: u16,
    next: u16,
    generation: bool,
}

impl Completions {
    /// An empty ring.
    pub fn new(size: u16) -> Result<Self> {
        let area = DmaArea::new(usize::from(size) * DESCRIPTOR)?;
        Ok(Self { area, size, next: 0, generation: true })
    }

    /// For the device.
    pub fn phys(&self) -> PhysAddr {
        self.area.phys(0)
    }

    /// Its number of entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    fn word(&self, index: usize) -> u32 {
        let at = self.area.at::<u32>(usize::from(self.next) * DESCRIPTOR + 4 * index);
        // SAFETY: inside the area and aligned; every value is one.
        unsafe { at.read_volatile() }
    }

    /// True if there is one to take.
    #[inline]
    pub fn ready(&self) -> bool {
        (self.word(3) & COMPLETION_GENERATION != 0) == self.generation
    }

    /// Takes the next one, each word read once; `None` if the device has not written it yet.
    #[inline]
    pub fn pop(&mut self) -> Option<[u32; 4]> {
        let last = self.word(3);
        if (last & COMPLETION_GENERATION != 0) != self.generation {
            return None;
        }
        // The device writes this word last.
        fence(Ordering::Acquire);
        let words = [self.word(0), self.word(1), self.word(2), last];
        self.next += 1;
        if self.next == self.size {
            self.next = 0;
            self.generation = !self.generation;
        }
        Some(words)
    }

    /// Empty again: the device is not active.
    pub fn reset(&mut self) {
        for word in 0..usize::from(self.size) * 2 {
            self.area.put(word * 8, 0u64);
        }
        self.next = 0;
        self.generation = true;
    }
}
