//! Metadata: stat and statx, access, statfs, readlink.

use base::{Errno, Result};
use fs::types::{MAY_EXEC, MAY_READ, MAY_WRITE, Time, major, minor};
use fs::vfs::Resolve;
use fs::{Credentials, FileType, OpenFlags, Path, Stat};

use super::at::{self, EMPTY_PATH, FDCWD, NO_AUTOMOUNT, SYMLINK_NOFOLLOW, View};
use super::{Args, calls};
use crate::files;
use crate::mm::user;
use crate::sched;

/// Writes `struct stat` of x86-64.
fn put_stat(address: usize, stat: &Stat) -> Result<u64> {
    let time = |t: Time| [t.sec as u64, t.nsec.into()];
    let ([a, an], [m, mn], [c, cn]) = (time(stat.atime), time(stat.mtime), time(stat.ctime));
    let words: [u64; 18] = [
        stat.dev,
        stat.ino,
        stat.nlink.into(),
        u64::from(stat.mode) | u64::from(stat.uid) << 32,
        stat.gid.into(),
        stat.rdev,
        stat.size,
        stat.blksize.into(),
        stat.blocks,
        a,
        an,
        m,
        mn,
        c,
        cn,
        0,
        0,
        0,
    ];
    user::write(address, &words).map(|()| 0)
}

fn stat_of(dirfd: i32, path: &[u8], flags: u32, follow: bool) -> Result<Stat> {
    if path.is_empty() && flags & EMPTY_PATH != 0 && dirfd != FDCWD {
        return files::get(dirfd)?.stat();
    }
    at::lookup(dirfd, path, flags, follow)?.inode()?.stat()
}

fn stat(args: &Args) -> Result<u64> {
    put_stat(args.usize(1), &stat_of(FDCWD, &at::path(args.usize(0))?, 0, true)?)
}

fn lstat(args: &Args) -> Result<u64> {
    put_stat(args.usize(1), &stat_of(FDCWD, &at::path(args.usize(0))?, 0, false)?)
}

fn fstat(args: &Args) -> Result<u64> {
    put_stat(args.usize(1), &files::get(args.int(0))?.stat()?)
}

fn newfstatat(args: &Args) -> Result<u64> {
    let flags = args.u32(3);
    at::check_flags(flags, SYMLINK_NOFOLLOW | EMPTY_PATH | NO_AUTOMOUNT)?;
    let path = path_or_empty(args.usize(1), flags)?;
    put_stat(args.usize(2), &stat_of(args.int(0), &path, flags, flags & SYMLINK_NOFOLLOW == 0)?)
}

/// With `AT_EMPTY_PATH` a null pointer is an empty path (Linux 6.11).
fn path_or_empty(address: usize, flags: u32) -> Result<alloc::vec::Vec<u8>> {
    if address == 0 && flags & EMPTY_PATH != 0 { Ok(alloc::vec::Vec::new()) } else { at::path(address) }
}

fn statx(args: &Args) -> Result<u64> {
    const BASIC: u32 = 0x7ff;
    const BTIME: u32 = 0x800;
    const MNT_ID: u32 = 0x1000;
    const RESERVED: u32 = 0x8000_0000;
    let (dirfd, flags) = (args.int(0), args.u32(2));
    at::check_flags(flags, SYMLINK_NOFOLLOW | EMPTY_PATH | NO_AUTOMOUNT | at::STATX_SYNC_TYPE)?;
    if args.u32(3) & RESERVED != 0 || flags & at::STATX_SYNC_TYPE == at::STATX_SYNC_TYPE {
        return Err(Errno::EINVAL);
    }
    let path = path_or_empty(args.usize(1), flags)?;
    let follow = flags & SYMLINK_NOFOLLOW == 0;
    let (stat, mount) = if path.is_empty() && flags & EMPTY_PATH != 0 && dirfd != FDCWD {
        let file = files::get(dirfd)?;
        (file.stat()?, file.path().map(|path| path.mount().id()))
    } else {
        let found = at::lookup(dirfd, &path, flags, follow)?;
        (found.inode()?.stat()?, Some(found.mount().id()))
    };
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let mut words = [0u64; 32];
    words[0] = pair(BASIC | BTIME | if mount.is_some() { MNT_ID } else { 0 }, stat.blksize);
    words[2] = pair(stat.nlink, stat.uid);
    words[3] = pair(stat.gid, stat.mode & 0xffff);
    words[4] = stat.ino;
    words[5] = stat.size;
    words[6] = stat.blocks;
    for (index, time) in [stat.atime, stat.btime, stat.ctime, stat.mtime].into_iter().enumerate() {
        words[8 + 2 * index] = time.sec as u64;
        words[9 + 2 * index] = time.nsec.into();
    }
    words[16] = pair(major(stat.rdev), minor(stat.rdev));
    words[17] = pair(major(stat.dev), minor(stat.dev));
    words[18] = mount.unwrap_or(0);
    user::write(args.usize(4), &words).map(|()| 0)
}

fn check_access(dirfd: i32, path: &[u8], mode: u32, flags: u32) -> Result<u64> {
    const EACCESS: u32 = at::REMOVEDIR;
    at::check_flags(flags, EACCESS | SYMLINK_NOFOLLOW | EMPTY_PATH)?;
    if mode & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let mut view = View::new(dirfd, path)?;
    if flags & EACCESS == 0
        && let Some(process) = sched::current().process()
    {
        let ids = process.credentials();
        view.cred = Credentials { uid: ids.uid.real, gid: ids.gid.real, groups: ids.groups.clone() };
    }
    let mut how = Resolve::empty();
    how.set(Resolve::FOLLOW, flags & SYMLINK_NOFOLLOW == 0);
    how.set(Resolve::EMPTY, flags & EMPTY_PATH != 0);
    let walk = view.walk();
    let found = walk.lookup(path, how)?;
    let mut wanted = 0;
    for (bit, may) in [(4, MAY_READ), (2, MAY_WRITE), (1, MAY_EXEC)] {
        if mode & bit != 0 {
            wanted |= may;
        }
    }
    let kind = found.inode()?.kind();
    let special = matches!(kind, FileType::Char | FileType::Block | FileType::Fifo | FileType::Socket);
    walk.permission(&found, wanted)?;
    if mode & 2 != 0 && !special {
        found.mount().writable()?;
    }
    Ok(0)
}

fn access(args: &Args) -> Result<u64> {
    check_access(FDCWD, &at::path(args.usize(0))?, args.u32(1), 0)
}

fn faccessat(args: &Args) -> Result<u64> {
    check_access(args.int(0), &at::path(args.usize(1))?, args.u32(2), 0)
}

fn faccessat2(args: &Args) -> Result<u64> {
    let flags = args.u32(3);
    check_access(args.int(0), &path_or_empty(args.usize(1), flags)?, args.u32(2), flags)
}

fn put_statfs(address: usize, path: &Path) -> Result<u64> {
    const RDONLY: u64 = 1;
    const VALID: u64 = 0x20;
    const RELATIME: u64 = 0x1000;
    let stat = path.inode()?.statfs()?;
    let dev = path.inode()?.stat()?.dev;
    let mut flags = VALID | RELATIME;
    if path.mount().read_only() {
        flags |= RDONLY;
    }
    let words: [u64; 15] = [
        stat.kind,
        stat.block_size,
        stat.blocks,
        stat.free,
        stat.free,
        stat.files,
        stat.files_free,
        dev,
        255,
        stat.block_size,
        flags,
        0,
        0,
        0,
        0,
    ];
    user::write(address, &words).map(|()| 0)
}

fn statfs(args: &Args) -> Result<u64> {
    put_statfs(args.usize(1), &at::lookup(FDCWD, &at::path(args.usize(0))?, 0, true)?)
}

fn fstatfs(args: &Args) -> Result<u64> {
    let file = files::get(args.int(0))?;
    match file.path() {
        Some(path) => put_statfs(args.usize(1), path),
        None => {
            // What Linux says of its pipe and socket file systems, without sizes.
            let kind = if file.as_any().is::<files::pipe::PipeEnd>() { 0x5049_5045 } else { 0x0904_1934 };
            let mut words = [0u64; 15];
            (words[0], words[1], words[8], words[9], words[10]) = (kind, 4096, 255, 4096, 0x20);
            user::write(args.usize(1), &words).map(|()| 0)
        }
    }
}

fn read_link(dirfd: i32, address: usize, buffer: usize, size: i32) -> Result<u64> {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = at::path(address)?;
    let view = View::new(dirfd, &path)?;
    let found = view.walk().lookup(&path, Resolve::EMPTY)?;
    let inode = found.inode()?;
    if inode.kind() != FileType::Symlink {
        return Err(if path.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
    }
    let target = inode.readlink()?;
    let n = target.len().min(size as usize);
    user::write_bytes(buffer, &target[..n])?;
    Ok(n as u64)
}

fn readlink(args: &Args) -> Result<u64> {
    read_link(FDCWD, args.usize(0), args.usize(1), args.int(2))
}

fn readlinkat(args: &Args) -> Result<u64> {
    read_link(args.int(0), args.usize(1), args.usize(2), args.int(3))
}

fn fadvise64(args: &Args) -> Result<u64> {
    const WILLNEED: u32 = 3;
    let file = files::get(args.int(0))?;
    if file.as_any().is::<files::pipe::PipeEnd>() {
        return Err(Errno::ESPIPE);
    }
    if args.u32(3) > 5 || args.long(2) < 0 {
        return Err(Errno::EINVAL);
    }
    if args.u32(3) == WILLNEED
        && let Some(path) = file.path()
    {
        let len = if args.u64(2) == 0 { u64::MAX / 2 } else { args.u64(2) };
        path.inode()?.read_ahead(args.u64(1), len);
    }
    Ok(0)
}

fn readahead(args: &Args) -> Result<u64> {
    let file = files::get(args.int(0))?;
    if !file.status().get().readable() || file.status().get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let inode = file.path().ok_or(Errno::EINVAL)?.inode()?;
    if inode.kind() != FileType::Regular {
        return Err(Errno::EINVAL);
    }
    inode.read_ahead(args.u64(1), args.u64(2));
    Ok(0)
}

calls! {
    4 stat, "complete";
    5 fstat, "complete";
    6 lstat, "complete";
    21 access, "complete";
    89 readlink, "complete";
    137 statfs, "complete; free inodes are free pages";
    138 fstatfs, "as statfs";
    187 readahead, "complete";
    221 fadvise64, "POSIX_FADV_WILLNEED reads ahead, others have no effect";
    262 newfstatat, "complete";
    267 readlinkat, "complete";
    269 faccessat, "complete";
    332 statx, "basic fields, birth time and mount id";
    439 faccessat2, "complete";
}
