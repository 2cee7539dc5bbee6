//! tmpfs: files in memory; and, given a read-only file system to stand on, the writable root.
//!
//! An inode may have a [`Lower`] one. Then a directory's names are those of the lower directory, except for what
//! was added, removed or moved here; and a file's pages that are not here come from the lower file. So writing to,
//! renaming or linking a file of the image copies nothing but the pages written, and one set of pages serves read,
//! write and mmap, before and after the first write.

mod data;
mod dir;
mod inode;

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use base::sync::SpinLock;
use base::{Errno, Frame, Result};
use hashbrown::HashMap;

pub use inode::TmpInode;

use crate::types::{FileType, Stat, Time};
use crate::vfs::Dentry;

/// An inode of a read-only file system below.
pub trait Lower: Send + Sync {
    /// Metadata. The inode number is unique in its file system and below 2^48.
    fn stat(&self) -> Stat;
    /// Finds a name. `ENOENT` if it is not there.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Lower>>;
    /// Lists all names but `.` and `..`.
    fn readdir(&self, emit: &mut dyn FnMut(&[u8], u64, FileType)) -> Result<()>;
    /// The target of a symbolic link.
    fn readlink(&self) -> Result<Vec<u8>>;
    /// Reads up to `count` pages from `first` on, at least one; what lies beyond the end is zero. They become the
    /// caller's: it may write to them.
    fn pages(&self, first: u64, count: u64, put: &mut dyn FnMut(u64, Frame)) -> Result<()>;
}

/// Inode numbers of files made here start above those of any lower file system.
const FIRST_INO: u64 = 1 << 48;

enum Known {
    Clean(Weak<TmpInode>),
    Changed(Arc<TmpInode>),
}

/// One mounted tmpfs.
pub struct TmpFs {
    dev: u64,
    magic: u64,
    next_ino: AtomicU64,
    used: AtomicU64,
    limit: AtomicU64,
    /// Names made here, each with an inode: they take the kernel's memory, too.
    names: AtomicU64,
    /// Inodes that stand on a lower one, by its number. Changed ones are kept.
    known: SpinLock<HashMap<u64, Known>>,
}

static NEXT_DEV: AtomicU64 = AtomicU64::new(20);

/// A fresh anonymous device number.
pub fn anonymous_dev() -> u64 {
    NEXT_DEV.fetch_add(1, Ordering::Relaxed)
}

impl TmpFs {
    /// An empty file system that holds at most `limit` pages of data; returns its root.
    pub fn root(limit: u64, mode: u32) -> Arc<Dentry> {
        let fs = Self::new(limit, 0x0102_1994);
        Dentry::root(fs.fresh(FileType::Directory, mode, 0, 0, 0))
    }

    /// The writable view of `lower`; at most `limit` pages of changes. Returns its root.
    pub fn over(lower: Arc<dyn Lower>, limit: u64) -> Arc<Dentry> {
        let fs = Self::new(limit, 0x794c_7630);
        Dentry::root(fs.wrap(lower))
    }

    /// For files without a name.
    pub fn new(limit: u64, magic: u64) -> Arc<Self> {
        Arc::new(Self {
            dev: anonymous_dev(),
            magic,
            next_ino: AtomicU64::new(FIRST_INO),
            used: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
            names: AtomicU64::new(0),
            known: SpinLock::default(),
        })
    }

    /// Pages of data that it holds.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// A new inode without a name.
    pub fn fresh(self: &Arc<Self>, kind: FileType, mode: u32, uid: u32, gid: u32, rdev: u64) -> Arc<TmpInode> {
        let now = Time::now();
        let stat = Stat {
            dev: self.dev,
            ino: self.next_ino.fetch_add(1, Ordering::Relaxed),
            mode: kind.mode_bits() | mode & 0o7777,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid,
            gid,
            rdev,
            blksize: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            ..Stat::default()
        };
        TmpInode::new(self.clone(), kind, stat, None)
    }

    /// The inode that stands on `lower`: always the same one while it is used or changed.
    fn wrap(self: &Arc<Self>, lower: Arc<dyn Lower>) -> Arc<TmpInode> {
        let mut stat = lower.stat();
        stat.dev = self.dev;
        let kind = FileType::from_mode(stat.mode).unwrap_or(FileType::Regular);
        let new = TmpInode::new(self.clone(), kind, stat, Some(lower));
        let mut known = self.known.lock();
        let there = match known.get(&stat.ino) {
            Some(Known::Changed(inode)) => Some(inode.clone()),
            Some(Known::Clean(inode)) => inode.upgrade(),
            None => None,
        };
        match there {
            Some(inode) => {
                drop(known);
                inode
            }
            None => {
                known.insert(stat.ino, Known::Clean(Arc::downgrade(&new)));
                new
            }
        }
    }

    fn keep(&self, ino: u64, inode: Arc<TmpInode>) {
        self.known.lock().insert(ino, Known::Changed(inode));
    }

    /// The last name of a changed inode is gone: it lives as long as it is open.
    fn release(&self, ino: u64) {
        let old = {
            let mut known = self.known.lock();
            match known.get(&ino) {
                Some(Known::Changed(inode)) => {
                    let weak = Arc::downgrade(inode);
                    known.insert(ino, Known::Clean(weak))
                }
                _ => None,
            }
        };
        drop(old);
    }

    fn forget(&self, ino: u64) {
        let mut known = self.known.lock();
        if let Some(Known::Clean(inode)) = known.get(&ino)
            && inode.strong_count() == 0
        {
            known.remove(&ino);
        }
    }

    /// Room for one more name. A name with its inode takes about 1 KiB, so names may take a half of what data may.
    fn charge_name(&self) -> Result<()> {
        let limit = self.limit.load(Ordering::Relaxed).saturating_mul(2);
        self.names
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |names| (names < limit).then_some(names + 1))
            .map(|_| ())
            .map_err(|_| Errno::ENOSPC)
    }

    fn uncharge_name(&self) {
        // Names of the lower file system were not counted.
        let _ = self.names.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |names| names.checked_sub(1));
    }

    fn charge(&self, pages: u64) -> Result<()> {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used + pages <= limit).then_some(used + pages))
            .map(|_| ())
            .map_err(|_| Errno::ENOSPC)
    }

    fn uncharge(&self, pages: u64) {
        self.used.fetch_sub(pages, Ordering::Relaxed);
    }
}

/// Takes these pages of the file with this identity out of all mappings.
pub type Unmap = fn((u64, u64), core::ops::Range<u64>);

static UNMAP: base::Once<Unmap> = base::Once::new();

/// Tells once how pages that a file has lost go out of mappings: the kernel's part.
pub fn set_unmap(unmap: Unmap) {
    UNMAP.call_once(|| unmap);
}

// Inodes that may have pages which can be read again.
static RECLAIMABLE: SpinLock<VecDeque<Weak<TmpInode>>> = SpinLock::new(VecDeque::new());

/// Frees up to about `wanted` page frames that can be read again from the image, and cached names; returns how many
/// frames. Takes no lock that its
/// caller could hold, so it may run wherever memory is allocated.
pub fn reclaim(wanted: usize) -> usize {
    crate::vfs::shrink(wanted);
    let mut freed = crate::erofs::drop_caches();
    let Some(turns) = RECLAIMABLE.try_lock().map(|list| list.len()) else {
        return 0;
    };
    for _ in 0..turns {
        if freed >= wanted {
            break;
        }
        let Some(weak) = RECLAIMABLE.try_lock().and_then(|mut list| list.pop_front()) else {
            break;
        };
        let Some(inode) = weak.upgrade() else {
            continue;
        };
        freed += inode.drop_clean_pages(wanted - freed);
        if let Some(mut list) = RECLAIMABLE.try_lock() {
            list.push_back(weak);
        } else {
            inode.not_listed();
        }
    }
    freed
}

#[cfg(all(test, feature = "host"))]
mod tests;
