//! Open regular files and directories: position, append, and the inode's data behind them.

use alloc::sync::Arc;

use base::io::{In, Out};
use base::sync::Mutex;
use base::{Errno, PageSource, Result};

use crate::file::{File, IoFlags, Status, Whence};
use crate::inode::{Inode, Place};
use crate::notify::{self, Change};
use crate::types::{DirEntry, FileType, OpenFlags, Stat};
use crate::vfs::Path;

/// An open regular file.
pub struct RegularFile {
    path: Path,
    inode: Arc<dyn Inode>,
    status: Status,
    position: Mutex<u64>,
}

impl RegularFile {
    /// Opened at `path`, which is not negative.
    pub fn new(path: Path, flags: OpenFlags) -> Self {
        let inode = path.inode_arc();
        Self { path, inode, status: Status::new(flags), position: Mutex::new(0) }
    }

    /// The inode behind it.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    fn wrote(&self, n: usize) -> Result<()> {
        if n > 0 {
            if notify::active() {
                notify::to_path(&self.path, Change::MODIFY);
            }
            if self.status.get().contains(OpenFlags::DSYNC) {
                self.inode.sync()?;
            }
        }
        Ok(())
    }
}

/// New position of a seek, for a file of `size` bytes.
pub fn seek_position(
    position: u64,
    offset: i64,
    whence: Whence,
    size: u64,
    find: impl Fn(u64, bool) -> Result<u64>,
) -> Result<u64> {
    let base = match whence {
        Whence::Set => 0,
        Whence::Current => position,
        Whence::End => size,
        Whence::Data | Whence::Hole => {
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            return find(offset, whence == Whence::Hole);
        }
    };
    (base as i64).checked_add(offset).ok_or(Errno::EOVERFLOW).and_then(|p| u64::try_from(p).map_err(|_| Errno::EINVAL))
}

impl File for RegularFile {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        let mut position = self.position.lock();
        let n = self.inode.read_at(*position, out)?;
        *position += n as u64;
        drop(position);
        if n > 0 && notify::active() {
            notify::to_path(&self.path, Change::ACCESS);
        }
        Ok(n)
    }

    fn write(&self, input: &mut In<'_>, flags: IoFlags) -> Result<usize> {
        let mut position = self.position.lock();
        let append = self.status.get().contains(OpenFlags::APPEND) || flags.contains(IoFlags::APPEND);
        let place = if append { Place::End } else { Place::At(*position) };
        let (n, after) = self.inode.write_at(place, input)?;
        *position = after;
        drop(position);
        self.wrote(n)?;
        Ok(n)
    }

    fn read_at(&self, offset: u64, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        let n = self.inode.read_at(offset, out)?;
        if n > 0 && notify::active() {
            notify::to_path(&self.path, Change::ACCESS);
        }
        Ok(n)
    }

    fn write_at(&self, offset: u64, input: &mut In<'_>, flags: IoFlags) -> Result<usize> {
        // As Linux: with O_APPEND the offset does not count.
        let append = self.status.get().contains(OpenFlags::APPEND) || flags.contains(IoFlags::APPEND);
        let place = if append { Place::End } else { Place::At(offset) };
        let (n, _) = self.inode.write_at(place, input)?;
        self.wrote(n)?;
        Ok(n)
    }

    fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        let mut position = self.position.lock();
        *position =
            seek_position(*position, offset, whence, self.inode.size(), |o, hole| self.inode.seek_data(o, hole))?;
        Ok(*position)
    }

    fn can_epoll(&self) -> bool {
        false
    }

    fn stat(&self) -> Result<Stat> {
        self.inode.stat()
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        self.inode.sync()
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.inode.truncate(len)?;
        notify::to_path(&self.path, Change::MODIFY);
        Ok(())
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.inode.allocate(mode, offset, len)
    }

    fn page_source(&self) -> Option<Arc<dyn PageSource>> {
        self.inode.clone().page_source()
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

impl Drop for RegularFile {
    fn drop(&mut self) {
        self.status.release_locks(core::ptr::from_ref(self) as usize);
        closed(&self.path, self.status.get());
    }
}

fn closed(path: &Path, flags: OpenFlags) {
    if notify::active() {
        let change = if flags.writable() { Change::CLOSE_WRITE } else { Change::CLOSE_NOWRITE };
        notify::to_path(path, change);
    }
}

/// An open directory, or with `O_PATH` anything.
pub struct DirectoryFile {
    path: Path,
    inode: Arc<dyn Inode>,
    status: Status,
    position: Mutex<u64>,
}

impl DirectoryFile {
    /// Opened at `path`, which is not negative.
    pub fn new(path: Path, flags: OpenFlags) -> Self {
        let inode = path.inode_arc();
        Self { path, inode, status: Status::new(flags), position: Mutex::new(0) }
    }
}

// Positions 0 and 1 are `.` and `..`; the inode's own come after them.
const OWN: u64 = 2;

impl File for DirectoryFile {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, _out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        Err(self.refusal())
    }

    fn read_at(&self, _offset: u64, _out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        Err(self.refusal())
    }

    fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        if self.inode.kind() != FileType::Directory {
            return Err(Errno::EBADF);
        }
        let mut position = self.position.lock();
        *position = seek_position(*position, offset, whence, 0, |_, _| Err(Errno::EINVAL))?;
        Ok(*position)
    }

    fn can_epoll(&self) -> bool {
        false
    }

    fn stat(&self) -> Result<Stat> {
        self.inode.stat()
    }

    fn readdir(&self, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        if self.inode.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut position = self.position.lock();
        while *position < OWN {
            let (name, path): (&[u8], Path) =
                if *position == 0 { (b".", self.path.clone()) } else { (b"..", self.path.parent()) };
            let entry =
                DirEntry { name, ino: path.inode()?.stat()?.ino, kind: FileType::Directory, next: *position + 1 };
            if !emit(&entry) {
                return Ok(());
            }
            *position += 1;
        }
        self.inode.readdir(*position - OWN, &mut |entry| {
            let next = entry.next + OWN;
            let more = emit(&DirEntry { next, ..*entry });
            if more {
                *position = next;
            }
            more
        })
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        self.inode.sync()
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

impl DirectoryFile {
    fn refusal(&self) -> Errno {
        if self.status.get().contains(OpenFlags::PATH) { Errno::EBADF } else { Errno::EISDIR }
    }
}

impl Drop for DirectoryFile {
    fn drop(&mut self) {
        self.status.release_locks(core::ptr::from_ref(self) as usize);
        if !self.status.get().contains(OpenFlags::PATH) {
            closed(&self.path, self.status.get());
        }
    }
}
