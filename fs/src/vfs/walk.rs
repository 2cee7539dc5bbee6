//! Path resolution: components, symbolic links, mounts, permissions.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use base::{Errno, Result};

use super::mount::Path;
use crate::types::{Credentials, FileType, MAX_LINKS, MAY_EXEC, NAME_MAX, PATH_MAX};

bitflags::bitflags! {
    /// How a path is resolved. The low bits are `RESOLVE_*` of uapi/linux/openat2.h.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Resolve: u32 {
        /// Do not cross mounts (`EXDEV`).
        const NO_XDEV = 0x01;
        /// Do not follow links that are more than text (`ELOOP`).
        const NO_MAGICLINKS = 0x02;
        /// Follow no symbolic link at all (`ELOOP`).
        const NO_SYMLINKS = 0x04;
        /// Stay below the starting directory (`EXDEV`).
        const BENEATH = 0x08;
        /// The starting directory is the root.
        const IN_ROOT = 0x10;
        /// Follow a symbolic link at the end.
        const FOLLOW = 0x1_0000;
        /// An empty path is the starting point itself.
        const EMPTY = 0x2_0000;
    }
}

/// Who resolves, and from where.
pub struct Walk<'a> {
    /// The caller's root.
    pub root: &'a Path,
    /// Where a relative path starts.
    pub start: &'a Path,
    /// Whose permissions count.
    pub cred: &'a Credentials,
}

/// The last component of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// An ordinary name.
    Name(Vec<u8>),
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// The path is `/` (or slashes only).
    Root,
}

/// A directory and the last component in it.
pub struct Found {
    /// The directory.
    pub dir: Path,
    /// The last component.
    pub last: Last,
    /// Slashes follow it: it must be a directory.
    pub slash: bool,
    pub(super) links: u32,
}

impl Found {
    /// The name, or this error for `.`, `..` and the root.
    pub fn name_or(&self, error: Errno) -> Result<&[u8]> {
        match &self.last {
            Last::Name(name) => Ok(name),
            _ => Err(error),
        }
    }
}

impl Walk<'_> {
    /// Finds what `path` names. `ENOENT` if there is nothing.
    pub fn lookup(&self, path: &[u8], how: Resolve) -> Result<Path> {
        if path.is_empty() {
            return if how.contains(Resolve::EMPTY) { Ok(self.start.clone()) } else { Err(Errno::ENOENT) };
        }
        let found = self.parent(path, how)?;
        self.finish(found, how)
    }

    /// From a directory and a last component to what is there.
    pub(super) fn finish(&self, mut found: Found, how: Resolve) -> Result<Path> {
        loop {
            let path = self.last(&found, how)?;
            let inode = path.inode()?;
            if inode.kind() == FileType::Symlink && (found.slash || how.contains(Resolve::FOLLOW)) {
                match self.follow(&path, &found, how)? {
                    Followed::Path(path) => return directory_if(path, found.slash),
                    Followed::Found(next) => {
                        let slash = found.slash;
                        found = next;
                        found.slash |= slash;
                        continue;
                    }
                }
            }
            return directory_if(path, found.slash);
        }
    }

    /// The last component looked up; may be negative.
    pub(super) fn last(&self, found: &Found, how: Resolve) -> Result<Path> {
        match &found.last {
            Last::Name(name) => self.step(&found.dir, name, how),
            Last::Dot | Last::Root => Ok(found.dir.clone()),
            Last::DotDot => self.up(&found.dir, how),
        }
    }

    /// Follows the link at `path`, the last component of `found`.
    pub(super) fn follow(&self, path: &Path, found: &Found, how: Resolve) -> Result<Followed> {
        let links = found.links + 1;
        if links > MAX_LINKS || how.contains(Resolve::NO_SYMLINKS) {
            return Err(Errno::ELOOP);
        }
        let inode = path.inode()?;
        if let Some(target) = inode.jump() {
            return if how.contains(Resolve::NO_MAGICLINKS) {
                Err(Errno::ELOOP)
            } else if how.intersects(Resolve::BENEATH | Resolve::IN_ROOT) {
                Err(Errno::EXDEV)
            } else {
                target.map(Followed::Path)
            };
        }
        let target = inode.readlink()?;
        self.walk(found.dir.clone(), &target, how, links).map(Followed::Found)
    }

    /// The directory that holds the last component of `path`, which is not looked up.
    pub fn parent(&self, path: &[u8], how: Resolve) -> Result<Found> {
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.walk(self.start.clone(), path, how, 0)
    }

    fn top(&self, how: Resolve) -> Result<Path> {
        if how.contains(Resolve::BENEATH) {
            Err(Errno::EXDEV)
        } else if how.contains(Resolve::IN_ROOT) {
            Ok(self.start.clone())
        } else {
            Ok(self.root.clone())
        }
    }

    fn up(&self, at: &Path, how: Resolve) -> Result<Path> {
        if how.intersects(Resolve::BENEATH | Resolve::IN_ROOT) && at.same(self.start) {
            return if how.contains(Resolve::BENEATH) { Err(Errno::EXDEV) } else { Ok(at.clone()) };
        }
        let up = at.parent_within(self.root);
        if how.contains(Resolve::NO_XDEV) && up.mount.id() != at.mount.id() {
            return Err(Errno::EXDEV);
        }
        Ok(up)
    }

    fn step(&self, dir: &Path, name: &[u8], how: Resolve) -> Result<Path> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let dentry = dir.dentry.lookup(name)?;
        if !dentry.mounted() {
            return Ok(Path::new(dir.mount.clone(), dentry));
        }
        let path = Path::new(dir.mount.clone(), dentry).enter_mounts();
        if how.contains(Resolve::NO_XDEV) && path.mount.id() != dir.mount.id() {
            return Err(Errno::EXDEV);
        }
        Ok(path)
    }

    fn walk(&self, start: Path, path: &[u8], how: Resolve, mut links: u32) -> Result<Found> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut at = if path[0] == b'/' { self.top(how)? } else { start };
        let mut rest: Cow<'_, [u8]> = Cow::Borrowed(path);
        let mut position = 0;
        loop {
            while rest.get(position) == Some(&b'/') {
                position += 1;
            }
            if position == rest.len() {
                return Ok(Found { dir: at, last: Last::Root, slash: true, links });
            }
            let end = rest[position..].iter().position(|&b| b == b'/').map_or(rest.len(), |n| position + n);
            let name = &rest[position..end];
            let slash = end < rest.len();
            let is_last = rest[end..].iter().all(|&b| b == b'/');
            self.may_search(&at)?;
            if is_last {
                let last = match name {
                    b"." => Last::Dot,
                    b".." => Last::DotDot,
                    _ => Last::Name(name.to_vec()),
                };
                return Ok(Found { dir: at, last, slash, links });
            }
            let next = match name {
                b"." => {
                    position = end;
                    continue;
                }
                b".." => self.up(&at, how)?,
                _ => self.step(&at, name, how)?,
            };
            let inode = next.inode()?;
            if inode.kind() != FileType::Symlink {
                at = next;
                position = end;
                continue;
            }
            links += 1;
            if links > MAX_LINKS || how.contains(Resolve::NO_SYMLINKS) {
                return Err(Errno::ELOOP);
            }
            if let Some(target) = inode.jump() {
                if how.contains(Resolve::NO_MAGICLINKS) {
                    return Err(Errno::ELOOP);
                }
                if how.intersects(Resolve::BENEATH | Resolve::IN_ROOT) {
                    return Err(Errno::EXDEV);
                }
                at = target?;
                position = end;
                continue;
            }
            let mut target = inode.readlink()?;
            match target.first() {
                None => return Err(Errno::ENOENT),
                Some(b'/') => at = self.top(how)?,
                Some(_) => {}
            }
            target.extend_from_slice(&rest[end..]);
            rest = Cow::Owned(target);
            position = 0;
        }
    }

    /// A directory that may be searched: `ENOTDIR`, `EACCES`.
    fn may_search(&self, at: &Path) -> Result<()> {
        let inode = at.inode()?;
        if inode.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.permission(at, MAY_EXEC)
    }

    /// Checks the caller's permission bits.
    pub fn permission(&self, at: &Path, wanted: u32) -> Result<()> {
        // The superuser may search any directory.
        if self.cred.uid == 0 && wanted & MAY_EXEC == 0 {
            return Ok(());
        }
        let inode = at.inode()?;
        if self.cred.uid == 0 && inode.kind() == FileType::Directory {
            return Ok(());
        }
        self.cred.check(&inode.stat()?, wanted)
    }
}

pub(super) enum Followed {
    Path(Path),
    Found(Found),
}

fn directory_if(path: Path, wanted: bool) -> Result<Path> {
    if wanted && path.inode()?.kind() != FileType::Directory { Err(Errno::ENOTDIR) } else { Ok(path) }
}
