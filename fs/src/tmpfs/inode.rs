//! The tmpfs inode: metadata, and the operations by type.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};

use base::io::{In, Out};
use base::sync::SpinLock;
use base::{Errno, PageSource, Result};

use super::data::Data;
use super::dir::Entries;
use super::{Lower, TmpFs};
use crate::inode::{Attachment, Inode, New, Place};
use crate::types::{Credentials, DirEntry, FileType, SetAttr, Stat, StatFs, Time};

pub(super) enum Body {
    File(Data),
    Directory(SpinLock<Entries>),
    /// The target; empty: ask the lower inode.
    Symlink(Vec<u8>),
    Node,
}

/// An inode of a tmpfs.
pub struct TmpInode {
    pub(super) this: Weak<TmpInode>,
    pub(super) fs: Arc<TmpFs>,
    kind: FileType,
    pub(super) ino: u64,
    // Size and blocks are not kept here.
    pub(super) meta: SpinLock<Stat>,
    pub(super) body: Body,
    pub(super) lower: Option<Arc<dyn Lower>>,
    changed: AtomicBool,
    pub(super) listed: AtomicBool,
    xattrs: SpinLock<Xattrs>,
    attachment: Attachment,
}

/// Largest extended attribute, bytes.
const XATTR_MAX: usize = 65_536;
/// All attributes of one inode, bytes.
const XATTR_TOTAL: usize = 4 * XATTR_MAX;

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

fn xattr_bytes(xattrs: &Xattrs) -> usize {
    xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
}

fn pages(bytes: usize) -> u64 {
    bytes.div_ceil(4096) as u64
}

impl TmpInode {
    pub(super) fn new(fs: Arc<TmpFs>, kind: FileType, stat: Stat, lower: Option<Arc<dyn Lower>>) -> Arc<Self> {
        Self::with_body(
            fs,
            kind,
            stat,
            match kind {
                FileType::Regular => Body::File(Data::new(if lower.is_some() { stat.size } else { 0 })),
                FileType::Directory => Body::Directory(SpinLock::default()),
                FileType::Symlink => Body::Symlink(Vec::new()),
                _ => Body::Node,
            },
            lower,
        )
    }

    fn with_body(fs: Arc<TmpFs>, kind: FileType, stat: Stat, body: Body, lower: Option<Arc<dyn Lower>>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            fs,
            kind,
            ino: stat.ino,
            meta: SpinLock::new(stat),
            body,
            lower,
            changed: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            xattrs: SpinLock::default(),
            attachment: SpinLock::new(None),
        })
    }

    pub(super) fn arc(&self) -> Arc<Self> {
        self.this.upgrade().expect("borrowed from an Arc")
    }

    pub(super) fn data(&self) -> Result<&Data> {
        match &self.body {
            Body::File(data) => Ok(data),
            Body::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn entries(&self) -> Result<&SpinLock<Entries>> {
        match &self.body {
            Body::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// From now on this inode differs from its lower one and must be kept while it has a name.
    pub(super) fn change(&self) {
        if self.lower.is_some() && !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::Relaxed);
            self.fs.keep(self.ino, self.arc());
        }
    }

    pub(super) fn touch(&self, data: bool) {
        let now = Time::now();
        let mut meta = self.meta.lock();
        meta.ctime = now;
        if data {
            meta.mtime = now;
        }
    }

    /// One link more or fewer.
    pub(super) fn add_links(&self, n: i32) {
        self.change();
        let left = {
            let mut meta = self.meta.lock();
            meta.nlink = meta.nlink.saturating_add_signed(n);
            meta.ctime = Time::now();
            meta.nlink
        };
        if left == 0 && self.lower.is_some() {
            self.fs.release(self.ino);
        }
    }

    /// An inode for `new`, owned by `cred`, as a child of this directory.
    pub(super) fn make(&self, new: New<'_>, mode: u32, cred: &Credentials) -> Arc<Self> {
        let (kind, rdev) = match new {
            New::File => (FileType::Regular, 0),
            New::Directory => (FileType::Directory, 0),
            New::Symlink(_) => (FileType::Symlink, 0),
            New::Node(kind, rdev) => (kind, rdev),
        };
        let (mut gid, mut mode) = (cred.gid, mode);
        let parent = *self.meta.lock();
        if parent.mode & 0o2000 != 0 {
            gid = parent.gid;
            if kind == FileType::Directory {
                mode |= 0o2000;
            }
        }
        if let New::Symlink(target) = new {
            let inode = self.fs.fresh(kind, 0o777, cred.uid, gid, 0);
            let stat = *inode.meta.lock();
            return Self::with_body(self.fs.clone(), kind, stat, Body::Symlink(target.to_vec()), None);
        }
        self.fs.fresh(kind, mode, cred.uid, gid, rdev)
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        if let Body::File(data) = &mut self.body {
            self.fs.uncharge(data.dirty_pages());
        }
        self.fs.uncharge(pages(xattr_bytes(self.xattrs.get_mut())));
        // What only this directory held goes one by one: a tree may be deeper than a stack.
        let mut left: Vec<Arc<Self>> = match &mut self.body {
            Body::Directory(entries) => entries.get_mut().drain().collect(),
            _ => Vec::new(),
        };
        while let Some(inode) = left.pop() {
            if let Some(mut inode) = Arc::into_inner(inode)
                && let Body::Directory(entries) = &mut inode.body
            {
                left.extend(entries.get_mut().drain());
            }
        }
        if self.lower.is_some() {
            self.fs.forget(self.ino);
        }
    }
}

impl Inode for TmpInode {
    fn kind(&self) -> FileType {
        self.kind
    }

    fn stat(&self) -> Result<Stat> {
        let mut stat = *self.meta.lock();
        match &self.body {
            Body::File(data) => {
                stat.size = data.size();
                stat.blocks = data.blocks();
            }
            Body::Directory(entries) => stat.size = 40 + 20 * entries.lock().len() as u64,
            Body::Symlink(target) if !target.is_empty() => stat.size = target.len() as u64,
            _ => {}
        }
        Ok(stat)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        self.change();
        let now = Time::now();
        let mut meta = self.meta.lock();
        if let Some(mode) = attr.mode {
            meta.mode = meta.mode & !0o7777 | mode & 0o7777;
        }
        meta.uid = attr.uid.unwrap_or(meta.uid);
        meta.gid = attr.gid.unwrap_or(meta.gid);
        meta.atime = attr.atime.unwrap_or(meta.atime);
        meta.mtime = attr.mtime.unwrap_or(meta.mtime);
        meta.ctime = now;
        Ok(())
    }

    fn statfs(&self) -> Result<StatFs> {
        let blocks = self.fs.limit.load(Ordering::Relaxed);
        Ok(StatFs {
            kind: self.fs.magic,
            block_size: 4096,
            blocks,
            free: blocks.saturating_sub(self.fs.used()),
            files: 2 * blocks,
            files_free: (2 * blocks).saturating_sub(self.fs.names.load(Ordering::Relaxed)),
        })
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.find(name).map(|inode| inode as Arc<dyn Inode>)
    }

    fn create(&self, name: &[u8], new: New<'_>, mode: u32, cred: &Credentials) -> Result<Arc<dyn Inode>> {
        let inode = self.make(new, mode, cred);
        self.add_entry(name, inode.clone())?;
        Ok(inode)
    }

    fn create_unnamed(&self, mode: u32, cred: &Credentials) -> Result<Arc<dyn Inode>> {
        let inode = self.make(New::File, mode, cred);
        inode.meta.lock().nlink = 0;
        Ok(inode)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let inode = inode.as_any().downcast_ref::<Self>().ok_or(Errno::EXDEV)?;
        if inode.meta.lock().nlink >= 65_000 {
            return Err(Errno::EMLINK);
        }
        self.add_entry(name, inode.arc())?;
        inode.add_links(1);
        Ok(())
    }

    fn unlink(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let inode = inode.as_any().downcast_ref::<Self>().ok_or(Errno::EXDEV)?;
        self.remove_entry(name, inode)
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], exchange: bool) -> Result<()> {
        let new_dir = new_dir.as_any().downcast_ref::<Self>().ok_or(Errno::EXDEV)?;
        self.move_entry(old, new_dir, new, exchange)
    }

    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        self.list(from, emit)
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        match &self.body {
            Body::Symlink(target) if !target.is_empty() => Ok(target.clone()),
            Body::Symlink(_) => self.lower.as_ref().ok_or(Errno::EIO)?.readlink(),
            _ => Err(Errno::EINVAL),
        }
    }

    fn size(&self) -> u64 {
        self.data().map_or(0, |data| data.size())
    }

    fn read_at(&self, offset: u64, out: &mut Out<'_>) -> Result<usize> {
        let n = self.read_data(offset, out)?;
        // As relatime: only the first access after a change is written down.
        let mut meta = self.meta.lock();
        if n > 0 && (meta.atime <= meta.mtime || meta.atime <= meta.ctime) {
            meta.atime = Time::now().max(meta.mtime).max(meta.ctime);
            meta.atime.nsec = (meta.atime.nsec + 1).min(999_999_999);
        }
        Ok(n)
    }

    fn write_at(&self, place: Place, input: &mut In<'_>) -> Result<(usize, u64)> {
        self.write_data(place, input)
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.set_size(len)
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.allocate_data(mode, offset, len)
    }

    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        self.data()?.seek_data(offset, hole)
    }

    fn page_source(self: Arc<Self>) -> Option<Arc<dyn PageSource>> {
        (self.kind == FileType::Regular).then_some(self as Arc<dyn PageSource>)
    }

    fn read_ahead(&self, offset: u64, len: u64) {
        self.fetch(offset / 4096, len.div_ceil(4096).min(1024));
    }

    fn seals(&self) -> Result<u32> {
        Ok(self.data()?.seals())
    }

    fn add_seals(&self, seals: u32) -> Result<()> {
        self.data()?.add_seals(seals)
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.xattrs.lock().get(name).cloned().ok_or(Errno::ENODATA)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let known = [&b"user."[..], b"trusted.", b"security."];
        if !known.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(Errno::EOPNOTSUPP);
        }
        if value.len() > XATTR_MAX {
            return Err(Errno::E2BIG);
        }
        self.change();
        let mut xattrs = self.xattrs.lock();
        match (xattrs.contains_key(name), flags) {
            (true, 1) => return Err(Errno::EEXIST),
            (false, 2) => return Err(Errno::ENODATA),
            _ => {}
        }
        let total = xattr_bytes(&xattrs);
        let gone = xattrs.get(name).map_or(0, |old| name.len() + old.len());
        let new = total - gone + name.len() + value.len();
        if new > XATTR_TOTAL {
            return Err(Errno::ENOSPC);
        }
        let (before, after) = (pages(total), pages(new));
        if after > before {
            self.fs.charge(after - before)?;
        } else {
            self.fs.uncharge(before - after);
        }
        xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        let mut xattrs = self.xattrs.lock();
        let before = pages(xattr_bytes(&xattrs));
        xattrs.remove(name).ok_or(Errno::ENODATA)?;
        self.fs.uncharge(before - pages(xattr_bytes(&xattrs)));
        Ok(())
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.xattrs.lock().keys().cloned().collect())
    }

    fn attachment(&self) -> Option<&Attachment> {
        Some(&self.attachment)
    }
}
