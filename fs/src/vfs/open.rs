//! Opening: `open`, `openat2`, `O_CREAT`, `O_TMPFILE`, `O_PATH`.

use alloc::sync::Arc;

use base::{Errno, Result};

use super::dentry::Dentry;
use super::mount::Path;
use super::walk::{Followed, Found, Last, Resolve, Walk};
use crate::file::File;
use crate::inode::New;
use crate::notify::{self, Change};
use crate::regular::DirectoryFile;
use crate::types::{FileType, MAY_READ, MAY_WRITE, OpenFlags};

/// How to open.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Flags of `open`.
    pub flags: OpenFlags,
    /// Permission bits of a new file, with the umask applied.
    pub mode: u32,
    /// Restrictions of `openat2`.
    pub resolve: Resolve,
}

impl Walk<'_> {
    /// Opens `path`.
    pub fn open(&self, path: &[u8], how: How) -> Result<Arc<dyn File>> {
        let flags = how.flags;
        let mut resolve = how.resolve;
        if !flags.contains(OpenFlags::NOFOLLOW) {
            resolve |= Resolve::FOLLOW;
        }
        if flags.contains(OpenFlags::PATH) {
            let at = self.lookup(path, resolve)?;
            if flags.contains(OpenFlags::DIRECTORY) && at.inode()?.kind() != FileType::Directory {
                return Err(Errno::ENOTDIR);
            }
            return Ok(Arc::new(DirectoryFile::new(at, flags)));
        }
        if flags.contains(OpenFlags::TMPFILE) {
            return self.open_unnamed(path, how, resolve);
        }
        if !flags.contains(OpenFlags::CREAT) {
            let at = self.lookup(path, resolve)?;
            return self.open_path(&at, flags);
        }
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut found = self.parent(path, resolve)?;
        loop {
            if !matches!(found.last, Last::Name(_)) {
                // `.`, `..` and `/` are there, and directories.
                return Err(if flags.contains(OpenFlags::EXCL) { Errno::EEXIST } else { Errno::EISDIR });
            }
            if found.slash {
                return Err(Errno::EISDIR);
            }
            let at = self.last(&found, resolve)?;
            let Some(inode) = at.dentry.inode() else {
                match self.create_file(&found, how) {
                    // Somebody else made it meanwhile.
                    Err(Errno::EEXIST) if !flags.contains(OpenFlags::EXCL) => continue,
                    other => return other,
                }
            };
            if flags.contains(OpenFlags::EXCL) {
                return Err(Errno::EEXIST);
            }
            if inode.kind() == FileType::Symlink {
                if flags.contains(OpenFlags::NOFOLLOW) {
                    return Err(Errno::ELOOP);
                }
                match self.follow(&at, &found, resolve)? {
                    Followed::Path(at) => return self.open_existing(&at, flags),
                    Followed::Found(next) => found = next,
                }
                continue;
            }
            return self.open_existing(&at, flags);
        }
    }

    fn open_existing(&self, at: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        if at.inode()?.kind() == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        self.open_path(at, flags)
    }

    fn create_file(&self, found: &Found, how: How) -> Result<Arc<dyn File>> {
        let at = {
            let _change = found.dir.dentry.change_lock().lock();
            self.vacant(found, false)?;
            self.create_in(found, New::File, how.mode)?
        };
        // The creator gets what it asked for, whatever the new file's mode is.
        let file = at.inode()?.open(at.inode()?, &at, how.flags)?;
        notify::to_path(&at, Change::OPEN);
        Ok(file)
    }

    fn open_unnamed(&self, path: &[u8], how: How, resolve: Resolve) -> Result<Arc<dyn File>> {
        if !how.flags.writable() {
            return Err(Errno::EINVAL);
        }
        let dir = self.lookup(path, resolve | Resolve::FOLLOW)?;
        if dir.inode()?.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        dir.mount.writable()?;
        self.may_change(&dir)?;
        let inode = dir.inode()?.create_unnamed(how.mode, self.cred)?;
        let name = alloc::format!("#{}", inode.stat()?.ino);
        let dentry = Dentry::unnamed(inode, Some(dir.dentry.clone()), name.as_bytes());
        let at = Path::new(dir.mount.clone(), dentry);
        at.inode()?.open(at.inode()?, &at, how.flags)
    }

    /// Opens what is at `at`, after the checks of `open` without `O_CREAT`.
    pub fn open_path(&self, at: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        let inode = at.inode()?;
        let kind = inode.kind();
        if kind == FileType::Symlink {
            return Err(if flags.contains(OpenFlags::DIRECTORY) { Errno::ENOTDIR } else { Errno::ELOOP });
        }
        if flags.contains(OpenFlags::DIRECTORY) && kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let truncates = flags.contains(OpenFlags::TRUNC);
        let writes = flags.writable() || truncates;
        if kind == FileType::Directory && writes {
            return Err(Errno::EISDIR);
        }
        if kind == FileType::Socket {
            return Err(Errno::ENXIO);
        }
        let mut wanted = 0;
        if flags.readable() {
            wanted |= MAY_READ;
        }
        if writes {
            wanted |= MAY_WRITE;
        }
        // Devices can be written on a read-only mount.
        if writes && kind == FileType::Regular {
            at.mount.writable()?;
        }
        self.permission(at, wanted)?;
        if flags.contains(OpenFlags::NOATIME) && !self.cred.owns(&inode.stat()?) {
            return Err(Errno::EPERM);
        }
        if truncates && kind == FileType::Regular {
            inode.truncate(0)?;
            notify::to_path(at, Change::MODIFY);
        }
        let file = inode.open(inode, at, flags)?;
        notify::to_path(at, Change::OPEN);
        Ok(file)
    }
}
