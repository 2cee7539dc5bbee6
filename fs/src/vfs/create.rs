//! Making names: mkdir, mknod, symlink, link.

use alloc::sync::Arc;

use base::{Errno, Result};

use super::mount::Path;
use super::walk::{Found, Last, Resolve, Walk};
use crate::inode::New;
use crate::notify::{self, Change};
use crate::types::{FileType, MAY_EXEC, MAY_WRITE};

impl Walk<'_> {
    /// May names be added to and removed from this directory?
    pub(super) fn may_change(&self, dir: &Path) -> Result<()> {
        self.permission(dir, MAY_WRITE | MAY_EXEC)
    }

    /// A place for a new name: `EEXIST` before `EROFS` before `EACCES`, as Linux.
    pub(super) fn vacant(&self, found: &Found, directory: bool) -> Result<()> {
        let Last::Name(name) = &found.last else {
            return Err(Errno::EEXIST);
        };
        if found.dir.inode()?.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let there = self.last(found, Resolve::empty())?;
        if there.dentry.inode().is_some() {
            return Err(Errno::EEXIST);
        }
        if found.slash && !directory {
            return Err(Errno::ENOENT);
        }
        found.dir.mount.writable()?;
        if found.dir.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let _ = name;
        self.may_change(&found.dir)
    }

    /// Makes `path`: a directory, a node, a symbolic link. The umask has been applied to `mode`.
    pub fn create(&self, path: &[u8], new: New<'_>, mode: u32) -> Result<Path> {
        if let New::Symlink(target) = new {
            if target.is_empty() {
                return Err(Errno::ENOENT);
            }
            if target.len() >= crate::types::PATH_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
        }
        let found = self.parent(path, Resolve::empty())?;
        let directory = matches!(new, New::Directory);
        let _change = found.dir.dentry.change_lock().lock();
        self.vacant(&found, directory)?;
        self.create_in(&found, new, mode)
    }

    /// Makes the vacant name of `found`, whose directory's change lock is held.
    pub(super) fn create_in(&self, found: &Found, new: New<'_>, mode: u32) -> Result<Path> {
        let name = found.name_or(Errno::EEXIST)?;
        let dir = found.dir.inode()?;
        let directory = matches!(new, New::Directory);
        let inode = dir.create(name, new, mode, self.cred)?;
        let dentry = found.dir.dentry.add_child(name, inode);
        let change = if directory { Change::CREATE | Change::ISDIR } else { Change::CREATE };
        notify::in_directory(&**dir, change, name, 0);
        Ok(Path::new(found.dir.mount.clone(), dentry))
    }

    /// Makes `path` a further name of `old`.
    pub fn link(&self, old: &Path, path: &[u8]) -> Result<()> {
        let inode = old.inode()?.clone();
        let found = self.parent(path, Resolve::empty())?;
        let _change = found.dir.dentry.change_lock().lock();
        self.vacant(&found, false)?;
        if !Arc::ptr_eq(&old.mount, &found.dir.mount) {
            return Err(Errno::EXDEV);
        }
        if inode.kind() == FileType::Directory {
            return Err(Errno::EPERM);
        }
        let name = found.name_or(Errno::EEXIST)?;
        let dir = found.dir.inode()?;
        dir.link(name, &inode)?;
        found.dir.dentry.add_child(name, inode.clone());
        notify::in_directory(&**dir, Change::CREATE, name, 0);
        notify::to_inode(&*inode, Change::ATTRIB);
        Ok(())
    }
}
