//! Inodes: what a file system provides.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use base::io::{In, Out};
use base::sync::SpinLock;
use base::{Errno, Once, PageSource, Result};

use crate::file::File;
use crate::regular::{DirectoryFile, RegularFile};
use crate::types::{Credentials, DirEntry, FileType, OpenFlags, SetAttr, Stat, StatFs};
use crate::vfs::Path;

/// What [`Inode::create`] makes.
#[derive(Clone, Copy, Debug)]
pub enum New<'a> {
    /// An empty file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(&'a [u8]),
    /// A device, FIFO or socket node with this device number.
    Node(FileType, u64),
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this byte.
    At(u64),
    /// At the end, atomically.
    End,
}

/// Something the kernel keeps with an inode while it is open or bound: a FIFO's pipe, a UNIX socket.
pub type Attachment = SpinLock<Option<Arc<dyn Any + Send + Sync>>>;

/// A file system object. Directory operations are called with the directory's lock held (`vfs`), so two changes
/// of one directory never run at once; everything else may run concurrently.
pub trait Inode: Send + Sync + 'static {
    /// Its type; never changes.
    fn kind(&self) -> FileType;
    /// Metadata.
    fn stat(&self) -> Result<Stat>;
    /// For file systems to recognise their own.
    fn as_any(&self) -> &dyn Any;

    /// Changes metadata; the caller has checked permissions.
    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        let _ = attr;
        Err(Errno::EPERM)
    }
    /// Of the file system.
    fn statfs(&self) -> Result<StatFs>;
    /// False if names come and go by themselves (`/proc`): then nothing is cached.
    fn cacheable(&self) -> bool {
        true
    }

    // Directories.

    /// Finds a name. `ENOENT` if it is not there.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let _ = name;
        Err(Errno::ENOTDIR)
    }
    /// Makes a name that does not exist.
    fn create(&self, name: &[u8], new: New<'_>, mode: u32, cred: &Credentials) -> Result<Arc<dyn Inode>> {
        let _ = (name, new, mode, cred);
        Err(Errno::EPERM)
    }
    /// Makes a file without a name (`O_TMPFILE`).
    fn create_unnamed(&self, mode: u32, cred: &Credentials) -> Result<Arc<dyn Inode>> {
        let _ = (mode, cred);
        Err(Errno::EOPNOTSUPP)
    }
    /// A further name for `inode`, which is not a directory.
    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let _ = (name, inode);
        Err(Errno::EPERM)
    }
    /// Removes a name; of a directory, only an empty one (`ENOTEMPTY`).
    fn unlink(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let _ = (name, inode);
        Err(Errno::EPERM)
    }
    /// Moves `old` to `new` in `new_dir`, replacing what is there (an empty directory or another file), or with
    /// `exchange` swapping both. Types have been checked.
    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], exchange: bool) -> Result<()> {
        let _ = (old, new_dir, new, exchange);
        Err(Errno::EPERM)
    }
    /// Lists names from position `from` on (0 at first), without `.` and `..`, until `emit` returns false.
    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let _ = (from, emit);
        Err(Errno::ENOTDIR)
    }

    // Symbolic links.

    /// The target. `EINVAL` if this is not a symbolic link.
    fn readlink(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }
    /// Where a link leads that is more than text (`/proc/self/fd/3`).
    fn jump(&self) -> Option<Result<Path>> {
        None
    }

    // Data.

    /// Bytes now.
    fn size(&self) -> u64 {
        0
    }
    /// Reads; 0 at the end.
    fn read_at(&self, offset: u64, out: &mut Out<'_>) -> Result<usize> {
        let _ = (offset, out);
        Err(Errno::EINVAL)
    }
    /// Writes; returns the bytes taken and the position after them.
    fn write_at(&self, place: Place, input: &mut In<'_>) -> Result<(usize, u64)> {
        let _ = (place, input);
        Err(Errno::EINVAL)
    }
    /// Sets the length.
    fn truncate(&self, len: u64) -> Result<()> {
        let _ = len;
        Err(Errno::EINVAL)
    }
    /// As `fallocate`, with its `mode` bits.
    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        let _ = (mode, offset, len);
        Err(Errno::EOPNOTSUPP)
    }
    /// The next byte at or after `offset` that is data (or a hole). `ENXIO` beyond the end.
    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        let size = self.size();
        match offset < size {
            true if hole => Ok(size),
            true => Ok(offset),
            false => Err(Errno::ENXIO),
        }
    }
    /// Makes the data durable.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    /// The pages, to be mapped.
    fn page_source(self: Arc<Self>) -> Option<Arc<dyn PageSource>> {
        None
    }
    /// Starts reading ahead of use.
    fn read_ahead(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// `F_GET_SEALS`.
    fn seals(&self) -> Result<u32> {
        Err(Errno::EINVAL)
    }
    /// `F_ADD_SEALS`.
    fn add_seals(&self, seals: u32) -> Result<()> {
        let _ = seals;
        Err(Errno::EINVAL)
    }

    // Extended attributes.

    /// Value of an attribute. `ENODATA` if it is not there.
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let _ = name;
        Err(Errno::EOPNOTSUPP)
    }
    /// Sets an attribute (`flags`: 1 create, 2 replace).
    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let _ = (name, value, flags);
        Err(Errno::EOPNOTSUPP)
    }
    /// Removes an attribute.
    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        let _ = name;
        Err(Errno::EOPNOTSUPP)
    }
    /// The names.
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    /// What the kernel keeps here; `None` if this file system has no FIFOs and sockets.
    fn attachment(&self) -> Option<&Attachment> {
        None
    }

    /// Opens it; `this` is the inode itself and `path` is where it was found.
    fn open(&self, this: &Arc<dyn Inode>, path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        open_default(this, path, flags)
    }
}

/// Opens FIFOs and device nodes: the kernel's part.
pub type OpenSpecial = fn(&Arc<dyn Inode>, &Path, OpenFlags) -> Result<Arc<dyn File>>;

static OPEN_SPECIAL: Once<OpenSpecial> = Once::new();

/// Tells once how FIFOs and devices are opened.
pub fn set_open_special(open: OpenSpecial) {
    OPEN_SPECIAL.call_once(|| open);
}

/// Opens by type: what most inodes do.
pub fn open_default(inode: &Arc<dyn Inode>, path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
    match inode.kind() {
        FileType::Regular => Ok(Arc::new(RegularFile::new(path.clone(), flags))),
        FileType::Directory => Ok(Arc::new(DirectoryFile::new(path.clone(), flags))),
        FileType::Symlink => Err(Errno::ELOOP),
        FileType::Char | FileType::Block | FileType::Fifo | FileType::Socket => {
            OPEN_SPECIAL.get().ok_or(Errno::ENXIO)?(inode, path, flags)
        }
    }
}
