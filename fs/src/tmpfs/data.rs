//! A tmpfs file's data: pages here, pages from the lower file, holes.

mod extent;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use base::frame::FRAME_SIZE;
use base::io::{In, Out};
use base::sync::{Mutex, SpinLock};
use base::{Errno, Frame, PageSource, Result};

use super::inode::TmpInode;
use crate::inode::Place;
use crate::pagemap::PageMap;

const PAGE: u64 = FRAME_SIZE as u64;
/// Largest file: as Linux, `MAX_LFS_FILESIZE`.
const MAX_SIZE: u64 = i64::MAX as u64;
/// Pages read at once from the lower file: at first, and at most when reading goes on in order.
const AHEAD_MIN: u64 = 8;
const AHEAD_MAX: u64 = 128;

/// `F_SEAL_*` of uapi/linux/fcntl.h.
const SEAL_SEAL: u32 = 1;
const SEAL_SHRINK: u32 = 2;
const SEAL_GROW: u32 = 4;
const SEAL_WRITE: u32 = 8;
const SEAL_FUTURE_WRITE: u32 = 16;
const SEALS: u32 = 31;

/// The data of a regular file.
pub(super) struct Data {
    size: AtomicU64,
    /// Bytes of the lower file that still show through; whole pages, unless it is the lower file's length.
    lower_end: AtomicU64,
    pages: SpinLock<PageMap>,
    /// Pages that are only here (charged to the file system).
    dirty: AtomicU64,
    /// Writes, truncation and allocation exclude each other.
    write: Mutex<()>,
    /// Where the next read from the lower file is expected, and how many pages it takes.
    ahead: SpinLock<(u64, u64)>,
    seals: AtomicU32,
}

impl Data {
    pub fn new(lower_size: u64) -> Self {
        Self {
            size: AtomicU64::new(lower_size),
            lower_end: AtomicU64::new(lower_size),
            pages: SpinLock::new(PageMap::new()),
            dirty: AtomicU64::new(0),
            write: Mutex::new(()),
            ahead: SpinLock::new((0, AHEAD_MIN)),
            seals: AtomicU32::new(SEAL_SEAL),
        }
    }

    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub fn blocks(&self) -> u64 {
        let lower = self.lower_end.load(Ordering::Relaxed).div_ceil(PAGE);
        (self.dirty.load(Ordering::Relaxed).max(lower)) * (PAGE / 512)
    }

    pub fn dirty_pages(&mut self) -> u64 {
        *self.dirty.get_mut()
    }

    pub fn seals(&self) -> u32 {
        self.seals.load(Ordering::Acquire)
    }

    pub fn add_seals(&self, seals: u32) -> Result<()> {
        if seals & !SEALS != 0 {
            return Err(Errno::EINVAL);
        }
        let _write = self.write.lock();
        if self.seals() & SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        self.seals.fetch_or(seals, Ordering::AcqRel);
        Ok(())
    }

    fn sealed(&self, seals: u32) -> Result<()> {
        if self.seals() & seals != 0 { Err(Errno::EPERM) } else { Ok(()) }
    }

    pub fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        let size = self.size();
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let pages = self.pages.lock();
        let lower_end = self.lower_end.load(Ordering::Relaxed);
        let is_data = |index: u64| index * PAGE < lower_end || pages.get(index).is_some();
        let mut index = offset / PAGE;
        if !hole {
            if is_data(index) {
                return Ok(offset);
            }
            return match pages.next_from(index) {
                Some(next) if next * PAGE < size => Ok(next * PAGE),
                _ => Err(Errno::ENXIO),
            };
        }
        while index * PAGE < size && is_data(index) {
            index = if index * PAGE < lower_end { lower_end.div_ceil(PAGE) } else { index + 1 };
        }
        Ok((index * PAGE).max(offset).min(size))
    }
}

impl TmpInode {
    /// Files that `memfd_create` makes start without the seal that forbids seals.
    pub fn allow_seals(&self) {
        if let Ok(data) = self.data() {
            data.seals.store(0, Ordering::Release);
        }
    }

    /// The page, if it is here or in the lower file; `None` is a hole.
    #[inline]
    fn present(&self, data: &Data, index: u64) -> Result<Option<Frame>> {
        if let Some(frame) = data.pages.lock().get(index) {
            return Ok(Some(frame.clone()));
        }
        if index * PAGE >= data.lower_end.load(Ordering::Acquire) {
            return Ok(None);
        }
        self.load(data, index)
    }

    /// Reads the page, and some after it, from the lower file.
    #[cold]
    fn load(&self, data: &Data, index: u64) -> Result<Option<Frame>> {
        let count = {
            let mut ahead = data.ahead.lock();
            let window = if ahead.0 == index { (ahead.1 * 2).min(AHEAD_MAX) } else { AHEAD_MIN };
            *ahead = (index + window, window);
            window
        };
        // If a page cannot be read, those before and after it still can.
        self.read_lower(data, index, count).or_else(|_| self.read_lower(data, index, 1))?;
        Ok(data.pages.lock().get(index).cloned())
    }

    fn read_lower(&self, data: &Data, index: u64, count: u64) -> Result<()> {
        let Some(lower) = &self.lower else {
            return Ok(());
        };
        let end = data.lower_end.load(Ordering::Acquire).div_ceil(PAGE);
        let next = data.pages.lock().next_from(index).unwrap_or(u64::MAX);
        let count = count.min(end.min(next).saturating_sub(index)).max(1);
        lower.pages(index, count, &mut |index, frame| {
            let mut pages = data.pages.lock();
            // Truncation lowers the end under this lock; and what is here already is newer.
            let counts = index * PAGE < data.lower_end.load(Ordering::Acquire);
            if counts && pages.get(index).is_none() {
                pages.insert(index, frame, false);
            }
        })?;
        if !self.listed.swap(true, Ordering::Relaxed) {
            super::RECLAIMABLE.lock().push_back(self.this.clone());
        }
        Ok(())
    }

    pub(super) fn fetch(&self, first: u64, count: u64) {
        let Ok(data) = self.data() else {
            return;
        };
        let mut index = first;
        let end = data.lower_end.load(Ordering::Acquire).div_ceil(PAGE).min(first + count);
        while index < end {
            if data.pages.lock().get(index).is_none()
                && self.read_lower(data, index, (end - index).min(AHEAD_MAX)).is_err()
            {
                return;
            }
            index += 1;
        }
    }

    pub(super) fn not_listed(&self) {
        self.listed.store(false, Ordering::Relaxed);
    }

    /// Drops pages that can be read again and that nothing maps.
    pub(super) fn drop_clean_pages(&self, wanted: usize) -> usize {
        let Ok(data) = self.data() else {
            return 0;
        };
        let Some(mut pages) = data.pages.try_lock() else {
            return 0;
        };
        let (mut chosen, mut freed) = (0, 0);
        pages.remove_range(
            0,
            u64::MAX,
            &mut |_, frame, dirty| {
                let take = !dirty && chosen < wanted && frame.references() == 1;
                chosen += usize::from(take);
                take
            },
            &mut |frame| {
                drop(frame);
                freed += 1;
            },
        );
        freed
    }

    /// The page, made if it is a hole, and marked as changed.
    fn page_to_write(&self, data: &Data, index: u64, whole: bool) -> Result<Frame> {
        if !whole || data.pages.lock().get(index).is_some() {
            // A partly written page needs what the lower file has.
            if let Some(frame) = self.present(data, index)? {
                return self.dirty(data, index).map(|()| frame);
            }
        }
        let fresh = Frame::zeroed().map_err(|_| Errno::ENOSPC)?;
        self.fs.charge(1)?;
        let mut pages = data.pages.lock();
        if let Some(frame) = pages.get(index).cloned() {
            drop(pages);
            self.fs.uncharge(1);
            return self.dirty(data, index).map(|()| frame);
        }
        pages.insert(index, fresh.clone(), true);
        data.dirty.fetch_add(1, Ordering::Relaxed);
        Ok(fresh)
    }

    /// Marks a page that is here as changed, and charges for it if it was not.
    fn dirty(&self, data: &Data, index: u64) -> Result<()> {
        let mut pages = data.pages.lock();
        if pages.is_dirty(index) {
            return Ok(());
        }
        self.fs.charge(1)?;
        if pages.mark_dirty(index) {
            data.dirty.fetch_add(1, Ordering::Relaxed);
        } else {
            self.fs.uncharge(1);
        }
        Ok(())
    }

    pub(super) fn read_data(&self, offset: u64, out: &mut Out<'_>) -> Result<usize> {
        let data = self.data()?;
        let size = data.size();
        if offset >= size {
            return Ok(0);
        }
        let wanted = (out.remaining() as u64).min(size - offset) as usize;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let (index, start) = (at / PAGE, (at % PAGE) as usize);
            let n = (FRAME_SIZE - start).min(wanted - done);
            let moved = match self.present(data, index) {
                Ok(Some(frame)) => out.write_frame(&frame, start, n),
                Ok(None) => out.write_zeroes(n),
                Err(error) => Err(error),
            };
            match moved {
                Ok(moved) => {
                    done += moved;
                    if moved < n {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    pub(super) fn write_data(&self, place: Place, input: &mut In<'_>) -> Result<(usize, u64)> {
        let data = self.data()?;
        let wanted = input.remaining();
        let _write = data.write.lock();
        let size = data.size();
        let start = match place {
            Place::At(offset) => offset,
            Place::End => size,
        };
        if wanted == 0 {
            return Ok((0, start));
        }
        data.sealed(SEAL_WRITE | SEAL_FUTURE_WRITE)?;
        if start >= MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let mut wanted = wanted.min((MAX_SIZE - start).min(usize::MAX as u64) as usize);
        if start + wanted as u64 > size && data.seals() & SEAL_GROW != 0 {
            if start >= size {
                return Err(Errno::EPERM);
            }
            wanted = (size - start) as usize;
        }
        self.change();
        let mut at = start;
        let mut failed = None;
        while at < start + wanted as u64 {
            let (index, within) = (at / PAGE, (at % PAGE) as usize);
            let n = (FRAME_SIZE - within).min((start + wanted as u64 - at) as usize);
            let moved =
                self.page_to_write(data, index, n == FRAME_SIZE).and_then(|frame| input.read_frame(&frame, within, n));
            match moved {
                Ok(moved) => {
                    at += moved as u64;
                    if moved < n {
                        break;
                    }
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        data.size.fetch_max(at, Ordering::AcqRel);
        if at == start {
            return Err(failed.unwrap_or(Errno::EFAULT));
        }
        self.touch(true);
        Ok(((at - start) as usize, at))
    }
}

impl PageSource for TmpInode {
    fn page(&self, index: u64) -> Result<Frame> {
        let data = self.data()?;
        if index >= data.size().div_ceil(PAGE) {
            return Err(Errno::ENXIO);
        }
        if let Some(frame) = self.present(data, index)? {
            return Ok(frame);
        }
        self.page_to_write(data, index, false)
    }

    fn page_if_cached(&self, index: u64) -> Option<Frame> {
        let data = self.data().ok()?;
        if index >= data.size().div_ceil(PAGE) {
            return None;
        }
        data.pages.lock().get(index).cloned()
    }

    fn mark_dirty(&self, index: u64) {
        if let Ok(data) = self.data() {
            self.change();
            // Out of budget: the page is here already and must stay, so it counts beyond the limit.
            if self.dirty(data, index).is_err() && data.pages.lock().mark_dirty(index) {
                data.dirty.fetch_add(1, Ordering::Relaxed);
                self.fs.used.fetch_add(1, Ordering::Relaxed);
            }
            self.touch(true);
        }
    }

    fn identity(&self) -> (u64, u64) {
        (self.fs.dev, self.ino)
    }
}
