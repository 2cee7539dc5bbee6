//! Pages that stay granted to a backend: what goes to and from it is copied through them.
//!
//! A copy costs less than it looks: it saves two changes of the grant table per page, and the backend its mapping and the flush
//! that undoes it (io/blkif.h: feature-persistent). And it is what makes a hostile backend harmless: it can only ever reach pages
//! that hold nothing else, also when it keeps them mapped, and what it sent cannot change after it was copied out.

use alloc::sync::Arc;
use alloc::vec::Vec;

use driver_kit::DmaArea;
use hal_core::{Error, PAGE_SIZE, Result};
use hal_xen::services::Services;

/// One page, granted.
pub(crate) struct Page {
    area: DmaArea,
    /// The reference to tell the backend.
    pub reference: u32,
}

impl Page {
    /// Copies bytes in.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes.
    #[inline]
    pub unsafe fn fill(&self, offset: usize, from: *const u8, len: usize) {
        assert!(offset + len <= PAGE_SIZE, "inside the page");
        // SAFETY: `from` by the caller; the page is ours, checked, and no other object.
        unsafe { core::ptr::copy_nonoverlapping(from, self.area.at::<u8>(0).add(offset), len) };
    }

    /// Copies bytes out. The backend may write them meanwhile: then the copy is a mixture.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    #[inline]
    pub unsafe fn copy_to(&self, offset: usize, to: *mut u8, len: usize) {
        assert!(offset + len <= PAGE_SIZE, "inside the page");
        // SAFETY: as in `fill`.
        unsafe { core::ptr::copy_nonoverlapping(self.area.at::<u8>(0).add(offset), to, len) };
    }

    /// Writes a structure.
    pub fn put<T: Copy>(&self, offset: usize, value: T) {
        self.area.put(offset, value);
    }
}

/// Free pages granted to one backend. The one used last is used next, since a backend may map only some of them for long.
pub(crate) struct Pool {
    services: Arc<dyn Services>,
    domain: u16,
    free: Vec<Page>,
    /// Pages that exist, and the most that may.
    count: usize,
    most: usize,
    /// Pages that backends kept. One that takes as many as the pool may have gets no more: it would take all memory in time.
    lost: usize,
}

impl Pool {
    /// An empty pool for the backend in `domain`.
    pub fn new(services: Arc<dyn Services>, domain: u16, most: usize) -> Self {
        Self { services, domain, free: Vec::new(), count: 0, most, lost: 0 }
    }

    /// Makes sure that `pages` are free; false if there cannot be so many now.
    pub fn reserve(&mut self, pages: usize) -> bool {
        while self.free.len() < pages {
            match self.make() {
                Ok(page) => self.free.push(page),
                Err(_) => return false,
            }
        }
        true
    }

    /// A free page.
    pub fn take(&mut self) -> Result<Page> {
        match self.free.pop() {
            Some(page) => Ok(page),
            None => self.make(),
        }
    }

    fn make(&mut self) -> Result<Page> {
        if self.count >= self.most || self.lost > self.most {
            return Err(Error::Exhausted);
        }
        let area = DmaArea::new(PAGE_SIZE)?;
        let reference = self.services.grant(self.domain, area.phys(0), false)?;
        self.count += 1;
        Ok(Page { area, reference })
    }

    /// Puts a page back that the backend has answered for.
    #[inline]
    pub fn put(&mut self, page: Page) {
        self.free.push(page);
    }

    /// Puts a page back for which no answer came. A backend that still has it mapped may yet use it: then it is its for ever.
    pub fn take_back(&mut self, page: Page) {
        let ended = self.services.end_grant(page.reference);
        match ended.then(|| self.services.grant(self.domain, page.area.phys(0), false)) {
            Some(Ok(reference)) => self.free.push(Page { reference, ..page }),
            _ => self.lose(page),
        }
    }

    /// A page that is never used again: the backend may do with it what it likes. (A [`DmaArea`] is never freed.)
    pub fn lose(&mut self, _page: Page) {
        self.count -= 1;
        self.lost += 1;
    }

    /// Memory of a ring that a backend kept.
    pub fn lose_ring(&mut self, pages: usize) {
        self.lost += pages;
    }

    /// From now on for the backend in `domain`. Pages of the old one that it still has mapped are its for ever.
    pub fn move_to(&mut self, domain: u16) {
        if domain == self.domain {
            return;
        }
        self.domain = domain;
        for page in core::mem::take(&mut self.free) {
            self.take_back(page);
        }
    }
}

/// Grants of a ring's pages.
pub(crate) fn grant_ring(services: &dyn Services, domain: u16, ring: &crate::ring::FrontRing) -> Result<Vec<u32>> {
    let mut references = Vec::new();
    for frame in ring.frames() {
        match services.grant(domain, frame, false) {
            Ok(reference) => references.push(reference),
            Err(error) => {
                end_ring(services, &references);
                return Err(error);
            }
        }
    }
    Ok(references)
}

/// Takes a ring back; true if the backend has nothing of it mapped, so that its memory may serve again. Else nobody ever uses it.
pub(crate) fn end_ring(services: &dyn Services, references: &[u32]) -> bool {
    // Each one is tried.
    references.iter().filter(|&&reference| !services.end_grant(reference)).count() == 0
}
