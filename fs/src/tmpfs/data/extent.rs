//! What changes a tmpfs file's extent: truncation, allocation, holes. Not here: reading and writing its bytes.

use core::sync::atomic::Ordering;

use base::frame::FRAME_SIZE;
use base::{Errno, PageSource, Result};

use super::{Data, MAX_SIZE, PAGE, SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SHRINK, SEAL_WRITE};
use crate::tmpfs::inode::TmpInode;

impl TmpInode {
    pub(in crate::tmpfs) fn set_size(&self, len: u64) -> Result<()> {
        let data = self.data()?;
        if len > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let _write = data.write.lock();
        let old = data.size();
        if len < old {
            data.sealed(SEAL_SHRINK)?;
        } else if len > old {
            data.sealed(SEAL_GROW)?;
        }
        self.change();
        if len < old {
            let (index, within) = (len / PAGE, (len % PAGE) as usize);
            if within != 0
                && let Some(frame) = self.present(data, index)?
            {
                self.dirty(data, index)?;
                frame.zero(within..FRAME_SIZE);
            }
            data.size.store(len, Ordering::Release);
            self.cut(data, len.div_ceil(PAGE), u64::MAX, true);
        } else {
            data.size.store(len, Ordering::Release);
        }
        self.touch(true);
        Ok(())
    }

    /// Removes the pages of `first..end`; with `lower` what the lower file has there is gone too.
    fn cut(&self, data: &Data, first: u64, end: u64, lower: bool) {
        let mut gone = alloc::vec::Vec::new();
        let mut dirty_gone = 0;
        {
            let mut pages = data.pages.lock();
            if lower {
                data.lower_end.fetch_min(first.saturating_mul(PAGE), Ordering::AcqRel);
            }
            pages.remove_range(
                first,
                end,
                &mut |_, _, dirty| {
                    dirty_gone += u64::from(dirty);
                    true
                },
                &mut |frame| gone.push(frame),
            );
        }
        data.dirty.fetch_sub(dirty_gone, Ordering::Relaxed);
        self.fs.uncharge(dirty_gone);
        // Mappings must not show what is gone.
        if gone.iter().any(|frame| frame.references() > 1)
            && let Some(unmap) = crate::tmpfs::UNMAP.get()
        {
            unmap(self.identity(), first..end);
        }
    }

    pub(in crate::tmpfs) fn allocate_data(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        const KEEP_SIZE: u32 = 1;
        const PUNCH_HOLE: u32 = 2;
        const ZERO_RANGE: u32 = 16;
        let data = self.data()?;
        let end = offset.checked_add(len).filter(|&e| e <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let punch = match mode & !KEEP_SIZE {
            0 => false,
            PUNCH_HOLE if mode & KEEP_SIZE != 0 => true,
            ZERO_RANGE => true,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let _write = data.write.lock();
        let size = data.size();
        if punch {
            data.sealed(SEAL_WRITE | SEAL_FUTURE_WRITE)?;
        }
        let grows = mode & KEEP_SIZE == 0 && end > size;
        if grows {
            data.sealed(SEAL_GROW)?;
        }
        self.change();
        if punch {
            self.zero_range(data, offset, end.min(size.max(offset)))?;
        } else {
            // Room for all of it, or nothing at all.
            let (first, last) = (offset / PAGE, end.div_ceil(PAGE));
            let fs = &self.fs;
            if last - first > fs.limit.load(Ordering::Relaxed) {
                return Err(Errno::ENOSPC);
            }
            for index in first..last {
                if let Err(error) = self.page_to_write(data, index, false) {
                    let keep = size.div_ceil(PAGE).max(first);
                    self.cut(data, keep, last, false);
                    return Err(error);
                }
            }
        }
        if grows {
            data.size.store(end, Ordering::Release);
        }
        self.touch(true);
        Ok(())
    }

    fn zero_range(&self, data: &Data, offset: u64, end: u64) -> Result<()> {
        if offset >= end {
            return Ok(());
        }
        let (first, last) = (offset.div_ceil(PAGE), end / PAGE);
        let partial = |at: u64, to: u64| -> Result<()> {
            let index = at / PAGE;
            if at < to
                && let Some(frame) = self.present(data, index)?
            {
                self.dirty(data, index)?;
                frame.zero((at % PAGE) as usize..(at % PAGE + (to - at)) as usize);
            }
            Ok(())
        };
        if first > last {
            return partial(offset, end);
        }
        partial(offset, first * PAGE)?;
        partial(last * PAGE, end)?;
        self.cut(data, first, last, false);
        // Where the lower file would show through, zeroes must stand.
        let lower = data.lower_end.load(Ordering::Acquire).div_ceil(PAGE);
        for index in first..last.min(lower) {
            self.page_to_write(data, index, true)?;
        }
        Ok(())
    }
}
