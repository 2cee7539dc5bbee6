//! The descriptor table: numbers -> open files.
//!
//! A look-up takes one uncontended lock and one reference; the lowest free number comes from a bitmap of words.

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::{Errno, Result, SpinLock};
use fs::File;

use crate::mm;

#[derive(Clone)]
struct Slot {
    file: Arc<dyn File>,
    close_on_exec: bool,
}

#[derive(Clone, Default)]
struct Inner {
    slots: Vec<Option<Slot>>,
    /// One bit per number that is in use; as many words as `slots` needs.
    used: Vec<u64>,
    /// No number below this one is free.
    first_free: usize,
}

/// What `CLONE_FILES` shares.
#[derive(Default)]
pub struct FdTable {
    inner: SpinLock<Inner>,
}

/// Numbers are below this, whatever the limit says (fs/nr_open).
pub const MAX_FD: usize = 1 << 20;

impl Inner {
    fn lowest_free(&self, from: usize) -> usize {
        let start = from.max(self.first_free);
        let mut word = start / 64;
        let mut mask = !0u64 << (start % 64);
        while word < self.used.len() {
            let free = !self.used[word] & mask;
            if free != 0 {
                return word * 64 + free.trailing_zeros() as usize;
            }
            mask = !0;
            word += 1;
        }
        start.max(self.used.len() * 64)
    }

    /// `ENOMEM` if the table cannot grow.
    fn put(&mut self, fd: usize, slot: Slot) -> Result<Option<Slot>> {
        if fd >= self.slots.len() {
            let len = (fd + 1).next_multiple_of(64);
            self.slots.try_reserve(len - self.slots.len()).map_err(|_| Errno::ENOMEM)?;
            self.used.try_reserve(len / 64 - self.used.len()).map_err(|_| Errno::ENOMEM)?;
            self.slots.resize(len, None);
            self.used.resize(len / 64, 0);
        }
        self.used[fd / 64] |= 1 << (fd % 64);
        if fd == self.first_free {
            self.first_free = fd + 1;
        }
        Ok(self.slots[fd].replace(slot))
    }

    fn take(&mut self, fd: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(fd)?.take()?;
        self.used[fd / 64] &= !(1 << (fd % 64));
        self.first_free = self.first_free.min(fd);
        Some(slot)
    }

    fn slot(&mut self, fd: i32) -> Result<&mut Slot> {
        usize::try_from(fd).ok().and_then(|fd| self.slots.get_mut(fd)?.as_mut()).ok_or(Errno::EBADF)
    }
}

impl FdTable {
    /// Without files.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The file behind a number. `EBADF` if there is none.
    #[inline]
    pub fn get(&self, fd: i32) -> Result<Arc<dyn File>> {
        let inner = self.inner.lock();
        // A negative number becomes one that is too large.
        match inner.slots.get(fd as u32 as usize) {
            Some(Some(slot)) => Ok(slot.file.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    /// Gives `file` the lowest free number from `from` on, below `limit` (`RLIMIT_NOFILE`). `EMFILE`.
    pub fn install(&self, file: Arc<dyn File>, close_on_exec: bool, from: usize, limit: u64) -> Result<i32> {
        let limit = usize::try_from(limit).unwrap_or(MAX_FD).min(MAX_FD);
        let mut inner = self.inner.lock();
        let fd = inner.lowest_free(from);
        if fd >= limit {
            drop(inner);
            return Err(Errno::EMFILE);
        }
        inner.put(fd, Slot { file, close_on_exec }).map(|_| fd as i32)
    }

    /// Puts `file` at `fd` (below `limit`, else `EBADF`); returns what was there, which is thereby closed.
    pub fn replace(
        &self,
        fd: i32,
        file: Arc<dyn File>,
        close_on_exec: bool,
        limit: u64,
    ) -> Result<Option<Arc<dyn File>>> {
        let fd = usize::try_from(fd).ok().filter(|&fd| fd < MAX_FD && (fd as u64) < limit).ok_or(Errno::EBADF)?;
        // A far number makes the table grow to it at once.
        if fd >= 4096 {
            mm::frame::check_room_for(fd * size_of::<Option<Slot>>() / hal_core::PAGE_SIZE)?;
        }
        let old = self.inner.lock().put(fd, Slot { file, close_on_exec })?;
        Ok(old.map(|slot| slot.file))
    }

    /// Frees a number; the caller drops the file, outside of the table's lock.
    pub fn remove(&self, fd: i32) -> Result<Arc<dyn File>> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.inner.lock().take(fd).map(|slot| slot.file).ok_or(Errno::EBADF)
    }

    /// `FD_CLOEXEC`.
    pub fn close_on_exec(&self, fd: i32) -> Result<bool> {
        self.inner.lock().slot(fd).map(|slot| slot.close_on_exec)
    }

    /// Sets `FD_CLOEXEC`.
    pub fn set_close_on_exec(&self, fd: i32, on: bool) -> Result<()> {
        self.inner.lock().slot(fd).map(|slot| slot.close_on_exec = on)
    }

    /// A table of its own with the same files (fork).
    pub fn duplicate(&self) -> Arc<Self> {
        let inner = self.inner.lock().clone();
        Arc::new(Self { inner: SpinLock::new(inner) })
    }

    /// Frees the numbers of `first..=last` for which `which(close_on_exec)` is true, and hands their files over.
    pub fn remove_range(&self, first: u32, last: u32, which: impl Fn(bool) -> bool) -> Vec<Arc<dyn File>> {
        let mut inner = self.inner.lock();
        let end = (last as usize).saturating_add(1).min(inner.slots.len());
        let mut files = Vec::new();
        for fd in first as usize..end {
            if inner.slots[fd].as_ref().is_some_and(|slot| which(slot.close_on_exec)) {
                files.extend(inner.take(fd).map(|slot| slot.file));
            }
        }
        files
    }

    /// Sets `FD_CLOEXEC` in a range (`close_range` with `CLOSE_RANGE_CLOEXEC`).
    pub fn mark_range(&self, first: u32, last: u32) {
        let mut inner = self.inner.lock();
        let end = (last as usize).saturating_add(1).min(inner.slots.len());
        for slot in inner.slots.iter_mut().take(end).skip(first as usize).flatten() {
            slot.close_on_exec = true;
        }
    }

    /// The numbers in use, in order.
    pub fn numbers(&self) -> Vec<i32> {
        let inner = self.inner.lock();
        (0..inner.slots.len()).filter(|&fd| inner.slots[fd].is_some()).map(|fd| fd as i32).collect()
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        // The process ends: as if it closed each.
        let slots = core::mem::take(&mut self.inner.get_mut().slots);
        for slot in slots.into_iter().flatten() {
            super::closed(&slot.file);
        }
    }
}
