//! Change events of files, for inotify. One atomic load when nobody watches.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::inode::Inode;
use crate::vfs::Path;

bitflags::bitflags! {
    /// Events with the values of uapi/linux/inotify.h.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Change: u32 {
        /// Read.
        const ACCESS = 0x1;
        /// Written or truncated.
        const MODIFY = 0x2;
        /// Metadata changed.
        const ATTRIB = 0x4;
        /// Closed after being open for writing.
        const CLOSE_WRITE = 0x8;
        /// Closed, was read-only.
        const CLOSE_NOWRITE = 0x10;
        /// Opened.
        const OPEN = 0x20;
        /// Moved away from the directory.
        const MOVED_FROM = 0x40;
        /// Moved into the directory.
        const MOVED_TO = 0x80;
        /// Made in the directory.
        const CREATE = 0x100;
        /// Removed from the directory.
        const DELETE = 0x200;
        /// The watched file itself was removed.
        const DELETE_SELF = 0x400;
        /// The watched file itself was moved.
        const MOVE_SELF = 0x800;
        /// The subject is a directory.
        const ISDIR = 0x4000_0000;
    }
}

/// Watches in the whole system.
pub(crate) static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// True if anybody watches anything.
#[inline]
pub fn active() -> bool {
    WATCHES.load(Ordering::Relaxed) != 0
}

/// Something happened to the name `name` in `dir`.
pub fn in_directory(dir: &dyn Inode, change: Change, name: &[u8], cookie: u32) {
    if active()
        && let Ok(stat) = dir.stat()
    {
        crate::inotify::deliver((stat.dev, stat.ino), change, name, cookie);
    }
}

/// Something happened to the inode itself.
pub fn to_inode(inode: &dyn Inode, change: Change) {
    if active()
        && let Ok(stat) = inode.stat()
    {
        crate::inotify::deliver((stat.dev, stat.ino), change, b"", 0);
    }
}

/// Something happened to an open file: its own watchers and its directory's are told.
pub fn to_path(path: &Path, mut change: Change) {
    if !active() {
        return;
    }
    let Ok(inode) = path.inode() else {
        return;
    };
    if inode.kind() == crate::FileType::Directory {
        change |= Change::ISDIR;
    }
    to_inode(&**inode, change);
    let (parent, name) = path.dentry().parent_and_name();
    if let Some(parent) = parent
        && let Some(dir) = parent.inode()
    {
        in_directory(&**dir, change, &name, 0);
    }
}
