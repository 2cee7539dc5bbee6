//! Removing and moving names: unlink, rmdir, rename.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use base::sync::Mutex;
use base::{Errno, Result};

use super::mount::Path;
use super::walk::{Found, Last, Resolve, Walk};
use crate::notify::{self, Change};
use crate::types::FileType;

/// `RENAME_NOREPLACE`.
pub const NOREPLACE: u32 = 1;
/// `RENAME_EXCHANGE`.
pub const EXCHANGE: u32 = 2;

// One rename between different directories at a time: so that no loop can arise.
static MOVES: Mutex<()> = Mutex::new(());
static COOKIE: AtomicU32 = AtomicU32::new(1);

impl Walk<'_> {
    /// May the caller remove `child` from `dir`? The sticky bit restricts it to owners.
    fn may_remove(&self, dir: &Path, child: &Path) -> Result<()> {
        self.may_change(dir)?;
        if self.cred.uid != 0 {
            let stat = dir.inode()?.stat()?;
            if stat.mode & 0o1000 != 0 && !self.cred.owns(&stat) && !self.cred.owns(&child.inode()?.stat()?) {
                return Err(Errno::EPERM);
            }
        }
        Ok(())
    }

    /// The entry itself, whatever is mounted on it.
    fn entry(&self, found: &Found, name: &[u8]) -> Result<Path> {
        if name.len() > crate::types::NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if found.dir.inode()?.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(Path::new(found.dir.mount.clone(), found.dir.dentry.lookup(name)?))
    }

    /// Removes a file's name.
    pub fn unlink(&self, path: &[u8]) -> Result<()> {
        let found = self.parent(path, Resolve::empty())?;
        let name = found.name_or(Errno::EISDIR)?;
        let _change = found.dir.dentry.change_lock().lock();
        let child = self.entry(&found, name)?;
        let inode = child.inode()?.clone();
        if found.slash {
            return Err(match inode.kind() {
                FileType::Directory => Errno::EISDIR,
                _ => Errno::ENOTDIR,
            });
        }
        found.dir.mount.writable()?;
        self.may_remove(&found.dir, &child)?;
        if inode.kind() == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        if child.is_mount_point() {
            return Err(Errno::EBUSY);
        }
        self.remove(&found, name, &child)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, path: &[u8]) -> Result<()> {
        let found = self.parent(path, Resolve::empty())?;
        let name = match &found.last {
            Last::Name(name) => name,
            Last::Dot => return Err(Errno::EINVAL),
            Last::DotDot => return Err(Errno::ENOTEMPTY),
            Last::Root => return Err(Errno::EBUSY),
        };
        let _change = found.dir.dentry.change_lock().lock();
        let child = self.entry(&found, name)?;
        let inode = child.inode()?.clone();
        found.dir.mount.writable()?;
        self.may_remove(&found.dir, &child)?;
        if inode.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        if child.is_mount_point() {
            return Err(Errno::EBUSY);
        }
        // Nothing may be made in it while it goes.
        let _inside = child.dentry.change_lock().lock();
        self.remove(&found, name, &child)
    }

    fn remove(&self, found: &Found, name: &[u8], child: &Path) -> Result<()> {
        let dir = found.dir.inode()?;
        let inode = child.inode()?;
        dir.unlink(name, inode)?;
        found.dir.dentry.remove_child(&child.dentry);
        if notify::active() {
            let mut change = Change::DELETE;
            if inode.kind() == FileType::Directory {
                change |= Change::ISDIR;
            }
            notify::in_directory(&**dir, change, name, 0);
            let links = inode.stat().map_or(0, |s| s.nlink);
            notify::to_inode(&**inode, Change::ATTRIB);
            if links == 0 || inode.kind() == FileType::Directory {
                notify::to_inode(&**inode, Change::DELETE_SELF);
            }
        }
        Ok(())
    }

    /// Moves `old`, as resolved by this walk, to `new`, as resolved by `to`. `flags`: [`NOREPLACE`], [`EXCHANGE`].
    pub fn rename(&self, old: &[u8], to: &Walk<'_>, new: &[u8], flags: u32) -> Result<()> {
        if flags & !(NOREPLACE | EXCHANGE) != 0 || flags == NOREPLACE | EXCHANGE {
            return Err(Errno::EINVAL);
        }
        let from = self.parent(old, Resolve::empty())?;
        let into = to.parent(new, Resolve::empty())?;
        if !Arc::ptr_eq(&from.dir.mount, &into.dir.mount) {
            return Err(Errno::EXDEV);
        }
        let old_name = from.name_or(Errno::EBUSY)?;
        let busy = if flags & NOREPLACE != 0 { Errno::EEXIST } else { Errno::EBUSY };
        let new_name = into.name_or(busy)?;
        from.dir.mount.writable()?;
        let same = Arc::ptr_eq(&from.dir.dentry, &into.dir.dentry);
        let _moves = (!same).then(|| MOVES.lock());
        // Ancestors first; otherwise by address. Under MOVES the tree does not change.
        let (a, b) = (&from.dir.dentry, &into.dir.dentry);
        let a_first = same || b.is_within(a) || (!a.is_within(b) && Arc::as_ptr(a) < Arc::as_ptr(b));
        let (first, second) = if a_first { (a, b) } else { (b, a) };
        let _first = first.change_lock().lock();
        let _second = (!same).then(|| second.change_lock().lock());

        let child = self.entry(&from, old_name)?;
        let inode = child.inode()?.clone();
        let target = to.entry(&into, new_name)?;
        let existing = target.dentry.inode().cloned();
        if flags & NOREPLACE != 0 && existing.is_some() {
            return Err(Errno::EEXIST);
        }
        if flags & EXCHANGE != 0 && existing.is_none() {
            return Err(Errno::ENOENT);
        }
        let is_dir = inode.kind() == FileType::Directory;
        if !is_dir && flags & EXCHANGE == 0 && (from.slash || into.slash) {
            return Err(Errno::ENOTDIR);
        }
        // Into itself, or over its own ancestor.
        if into.dir.dentry.is_within(&child.dentry) {
            return Err(Errno::EINVAL);
        }
        if from.dir.dentry.is_within(&target.dentry) {
            return Err(if flags & EXCHANGE != 0 { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if let Some(existing) = &existing
            && Arc::ptr_eq(existing, &inode)
        {
            return Ok(());
        }
        self.may_remove(&from.dir, &child)?;
        match &existing {
            None => to.may_change(&into.dir)?,
            Some(existing) => {
                to.may_remove(&into.dir, &target)?;
                let target_is_dir = existing.kind() == FileType::Directory;
                if flags & EXCHANGE == 0 && is_dir != target_is_dir {
                    return Err(if is_dir { Errno::ENOTDIR } else { Errno::EISDIR });
                }
            }
        }
        if child.is_mount_point() || target.is_mount_point() {
            return Err(Errno::EBUSY);
        }
        let (dir, new_dir) = (from.dir.inode()?, into.dir.inode()?);
        dir.rename(old_name, new_dir, new_name, flags & EXCHANGE != 0)?;
        if flags & EXCHANGE != 0 {
            a.exchange(&child.dentry, b, &target.dentry);
        } else {
            if existing.is_some() {
                b.remove_child(&target.dentry);
            }
            a.move_child(&child.dentry, b, new_name);
        }
        if notify::active() {
            let dir_flag = if is_dir { Change::ISDIR } else { Change::empty() };
            let cookie = COOKIE.fetch_add(1, Ordering::Relaxed);
            notify::in_directory(&**dir, Change::MOVED_FROM | dir_flag, old_name, cookie);
            notify::in_directory(&**new_dir, Change::MOVED_TO | dir_flag, new_name, cookie);
            notify::to_inode(&*inode, Change::MOVE_SELF);
            if let Some(existing) = existing
                && flags & EXCHANGE == 0
            {
                notify::to_inode(&*existing, Change::DELETE_SELF);
            }
        }
        Ok(())
    }
}
