//! Paths in system calls: the descriptor that a relative path starts at, flags, the caller's view.

use alloc::vec::Vec;

use base::{Errno, Result};
use fs::types::PATH_MAX;
use fs::vfs::Resolve;
use fs::{Credentials, FileType, Path, Walk};

use crate::files;
use crate::mm::user;
use crate::sched;

/// The working directory in place of a descriptor.
pub const FDCWD: i32 = -100;
/// Do not follow a final symbolic link.
pub const SYMLINK_NOFOLLOW: u32 = 0x100;
/// `unlinkat`: a directory. `faccessat`: check with the effective ids.
pub const REMOVEDIR: u32 = 0x200;
/// Follow a final symbolic link.
pub const SYMLINK_FOLLOW: u32 = 0x400;
/// Do not trigger automounts: no meaning here.
pub const NO_AUTOMOUNT: u32 = 0x800;
/// An empty path is the descriptor itself.
pub const EMPTY_PATH: u32 = 0x1000;
/// `statx`: how fresh the answer must be; ours always is.
pub const STATX_SYNC_TYPE: u32 = 0x6000;

/// Copies a path in. `ENAMETOOLONG`, `EFAULT`.
pub fn path(address: usize) -> Result<Vec<u8>> {
    user::read_cstr(address, PATH_MAX)
}

/// The caller's root, identity and a starting point.
pub struct View {
    root: Path,
    start: Path,
    /// The identity that counts.
    pub cred: Credentials,
}

impl View {
    /// For a path that starts at `dirfd` (or at the root, if it is absolute).
    pub fn new(dirfd: i32, path: &[u8]) -> Result<Self> {
        let (root, cwd) = files::with_context(|context| Ok(context.both()))?;
        let cred = files::credentials();
        let start = if path.first() == Some(&b'/') {
            root.clone()
        } else if dirfd == FDCWD {
            cwd
        } else {
            let file = files::get(dirfd)?;
            let at = file.path().ok_or(Errno::ENOTDIR)?;
            if !path.is_empty() && at.inode()?.kind() != FileType::Directory {
                return Err(Errno::ENOTDIR);
            }
            at.clone()
        };
        Ok(Self { root, start, cred })
    }

    /// As a walk.
    pub fn walk(&self) -> Walk<'_> {
        Walk { root: &self.root, start: &self.start, cred: &self.cred }
    }
}

/// What `path` names from `dirfd`, by the `AT_` flags.
pub fn lookup(dirfd: i32, path: &[u8], flags: u32, follow: bool) -> Result<Path> {
    let mut how = Resolve::empty();
    how.set(Resolve::FOLLOW, follow);
    how.set(Resolve::EMPTY, flags & EMPTY_PATH != 0);
    View::new(dirfd, path)?.walk().lookup(path, how)
}

/// Refuses flags that are not in `known`.
pub fn check_flags(flags: u32, known: u32) -> Result<()> {
    if flags & !known != 0 { Err(Errno::EINVAL) } else { Ok(()) }
}

/// New permission bits without those of the umask.
pub fn masked(mode: u32) -> Result<u32> {
    files::with_context(|context| Ok(mode & 0o7777 & !context.umask()))
}

/// True for the superuser.
pub fn privileged() -> bool {
    sched::current().process().is_none_or(|process| process.credentials().uid.fs == 0)
}
