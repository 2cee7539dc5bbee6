//! Changing files: mode, owner, times, length, durability, extended attributes.

use alloc::vec::Vec;

use base::{Errno, Result};
use fs::notify::{self, Change};
use fs::types::{MAY_WRITE, NAME_MAX};
use fs::{FileType, OpenFlags, Path, SetAttr, Time};

use super::at::{self, EMPTY_PATH, FDCWD, SYMLINK_NOFOLLOW, View};
use super::{Args, calls};
use crate::files;
use crate::mm::user;

/// The place of an open file; `EBADF` for one opened with `O_PATH`.
fn opened(fd: i32) -> Result<Option<Path>> {
    let file = files::get(fd)?;
    if file.status().get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    Ok(file.path().cloned())
}

fn change(path: &Path, attr: &SetAttr) -> Result<u64> {
    path.mount().writable()?;
    path.inode()?.set_attr(attr)?;
    notify::to_path(path, Change::ATTRIB);
    Ok(0)
}

fn set_mode(path: &Path, mode: u32) -> Result<u64> {
    path.mount().writable()?;
    let cred = files::credentials();
    let stat = path.inode()?.stat()?;
    if !cred.owns(&stat) {
        return Err(Errno::EPERM);
    }
    let mut mode = mode & 0o7777;
    // A file of a foreign group does not get set-group-id.
    if cred.uid != 0 && !cred.in_group(stat.gid) {
        mode &= !0o2000;
    }
    change(path, &SetAttr { mode: Some(mode), ..SetAttr::default() })
}

fn chmod(args: &Args) -> Result<u64> {
    set_mode(&at::lookup(FDCWD, &at::path(args.usize(0))?, 0, true)?, args.u32(1))
}

fn fchmod(args: &Args) -> Result<u64> {
    // What has no path has no mode that anything looks at.
    opened(args.int(0))?.map_or(Ok(0), |path| set_mode(&path, args.u32(1)))
}

fn fchmodat(args: &Args) -> Result<u64> {
    set_mode(&at::lookup(args.int(0), &at::path(args.usize(1))?, 0, true)?, args.u32(2))
}

fn fchmodat2(args: &Args) -> Result<u64> {
    let flags = args.u32(3);
    at::check_flags(flags, SYMLINK_NOFOLLOW | EMPTY_PATH)?;
    let path = at::lookup(args.int(0), &at::path(args.usize(1))?, flags, flags & SYMLINK_NOFOLLOW == 0)?;
    if path.inode()?.kind() == FileType::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    set_mode(&path, args.u32(2))
}

fn set_owner(path: &Path, uid: u32, gid: u32) -> Result<u64> {
    const KEEP: u32 = u32::MAX;
    path.mount().writable()?;
    let cred = files::credentials();
    let stat = path.inode()?.stat()?;
    if cred.uid != 0 {
        let group_only = (uid == KEEP || uid == stat.uid) && (gid == KEEP || cred.in_group(gid));
        if !cred.owns(&stat) || !group_only {
            return Err(Errno::EPERM);
        }
    }
    let mut attr =
        SetAttr { uid: (uid != KEEP).then_some(uid), gid: (gid != KEEP).then_some(gid), ..SetAttr::default() };
    // A changed owner loses set-user-id, and set-group-id where it means that.
    if path.inode()?.kind() == FileType::Regular && stat.mode & 0o6000 != 0 {
        let lost = 0o4000 | if stat.mode & 0o010 != 0 { 0o2000 } else { 0 };
        attr.mode = Some(stat.mode & 0o7777 & !lost);
    }
    change(path, &attr)
}

fn chown(args: &Args) -> Result<u64> {
    set_owner(&at::lookup(FDCWD, &at::path(args.usize(0))?, 0, true)?, args.u32(1), args.u32(2))
}

fn lchown(args: &Args) -> Result<u64> {
    set_owner(&at::lookup(FDCWD, &at::path(args.usize(0))?, 0, false)?, args.u32(1), args.u32(2))
}

fn fchown(args: &Args) -> Result<u64> {
    opened(args.int(0))?.map_or(Ok(0), |path| set_owner(&path, args.u32(1), args.u32(2)))
}

fn fchownat(args: &Args) -> Result<u64> {
    let flags = args.u32(4);
    at::check_flags(flags, SYMLINK_NOFOLLOW | EMPTY_PATH)?;
    let path = at::lookup(args.int(0), &at::path(args.usize(1))?, flags, flags & SYMLINK_NOFOLLOW == 0)?;
    set_owner(&path, args.u32(2), args.u32(3))
}

/// A time to set: a value, now, or not at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    At(Time),
    Now,
    Keep,
}

fn set_times(path: &Path, times: [When; 2]) -> Result<u64> {
    if times == [When::Keep; 2] {
        return Ok(0);
    }
    path.mount().writable()?;
    let view = View::new(FDCWD, b".")?;
    let stat = path.inode()?.stat()?;
    if !view.cred.owns(&stat) {
        if times != [When::Now; 2] {
            return Err(Errno::EPERM);
        }
        view.walk().permission(path, MAY_WRITE)?;
    }
    let now = Time::now();
    let value = |when| match when {
        When::At(time) => Some(time),
        When::Now => Some(now),
        When::Keep => None,
    };
    change(path, &SetAttr { atime: value(times[0]), mtime: value(times[1]), ..SetAttr::default() })
}

fn utimensat(args: &Args) -> Result<u64> {
    const NOW: i64 = 0x3fff_ffff;
    const OMIT: i64 = 0x3fff_fffe;
    let times = match args.optional(2) {
        None => [When::Now; 2],
        Some(address) => {
            let raw: [[i64; 2]; 2] = user::read(address)?;
            let mut times = [When::Keep; 2];
            for (time, [sec, nsec]) in times.iter_mut().zip(raw) {
                *time = match nsec {
                    NOW => When::Now,
                    OMIT => When::Keep,
                    0..1_000_000_000 => When::At(Time { sec, nsec: nsec as u32 }),
                    _ => return Err(Errno::EINVAL),
                };
            }
            times
        }
    };
    let flags = args.u32(3);
    let Some(address) = args.optional(1) else {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        return opened(args.int(0))?.map_or(Ok(0), |path| set_times(&path, times));
    };
    at::check_flags(flags, SYMLINK_NOFOLLOW | EMPTY_PATH)?;
    let path = at::lookup(args.int(0), &at::path(address)?, flags, flags & SYMLINK_NOFOLLOW == 0)?;
    set_times(&path, times)
}

/// `struct timeval` pairs.
fn micro_times(address: Option<usize>) -> Result<[When; 2]> {
    let Some(address) = address else {
        return Ok([When::Now; 2]);
    };
    let raw: [[i64; 2]; 2] = user::read(address)?;
    let mut times = [When::Now; 2];
    for (time, [sec, usec]) in times.iter_mut().zip(raw) {
        if !(0..1_000_000).contains(&usec) {
            return Err(Errno::EINVAL);
        }
        *time = When::At(Time { sec, nsec: usec as u32 * 1000 });
    }
    Ok(times)
}

fn utimes(args: &Args) -> Result<u64> {
    let times = micro_times(args.optional(1))?;
    set_times(&at::lookup(FDCWD, &at::path(args.usize(0))?, 0, true)?, times)
}

fn futimesat(args: &Args) -> Result<u64> {
    let times = micro_times(args.optional(2))?;
    match args.optional(1) {
        None => opened(args.int(0))?.map_or(Ok(0), |path| set_times(&path, times)),
        Some(address) => set_times(&at::lookup(args.int(0), &at::path(address)?, 0, true)?, times),
    }
}

fn utime(args: &Args) -> Result<u64> {
    let times = match args.optional(1) {
        None => [When::Now; 2],
        Some(address) => user::read::<[i64; 2]>(address)?.map(|sec| When::At(Time { sec, nsec: 0 })),
    };
    set_times(&at::lookup(FDCWD, &at::path(args.usize(0))?, 0, true)?, times)
}

fn truncate(args: &Args) -> Result<u64> {
    let len = u64::try_from(args.long(1)).map_err(|_| Errno::EINVAL)?;
    let path = at::path(args.usize(0))?;
    let view = View::new(FDCWD, &path)?;
    let walk = view.walk();
    let at = walk.lookup(&path, fs::vfs::Resolve::FOLLOW)?;
    match at.inode()?.kind() {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    at.mount().writable()?;
    walk.permission(&at, MAY_WRITE)?;
    at.inode()?.truncate(len)?;
    notify::to_path(&at, Change::MODIFY);
    Ok(0)
}

fn ftruncate(args: &Args) -> Result<u64> {
    let len = u64::try_from(args.long(1)).map_err(|_| Errno::EINVAL)?;
    let file = files::get(args.int(0))?;
    if !file.status().get().writable() {
        return Err(if file.status().get().contains(OpenFlags::PATH) { Errno::EBADF } else { Errno::EINVAL });
    }
    file.truncate(len).map(|()| 0)
}

fn fallocate(args: &Args) -> Result<u64> {
    let (offset, len) = (args.long(2), args.long(3));
    let file = files::get(args.int(0))?;
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    if !file.status().get().writable() {
        return Err(Errno::EBADF);
    }
    file.allocate(args.u32(1), offset as u64, len as u64).map(|()| 0)
}

fn fsync(args: &Args) -> Result<u64> {
    let file = files::get(args.int(0))?;
    if file.status().get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    file.sync(false).map(|()| 0)
}

fn fdatasync(args: &Args) -> Result<u64> {
    let file = files::get(args.int(0))?;
    if file.status().get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    file.sync(true).map(|()| 0)
}

// Every file system is in memory so far: there is nothing to write out.
fn sync(_args: &Args) -> Result<u64> {
    Ok(0)
}

fn syncfs(args: &Args) -> Result<u64> {
    opened(args.int(0)).map(|_| 0)
}

/// Longest attribute value and list (linux/limits.h).
const XATTR_SIZE_MAX: usize = 65_536;

fn xattr_name(address: usize) -> Result<Vec<u8>> {
    match user::read_cstr(address, NAME_MAX + 1) {
        Ok(name) if name.is_empty() => Err(Errno::ERANGE),
        Err(Errno::ENAMETOOLONG) => Err(Errno::ERANGE),
        other => other,
    }
}

fn give(value: &[u8], address: usize, size: usize) -> Result<u64> {
    if size == 0 {
        return Ok(value.len() as u64);
    }
    if size < value.len() {
        return Err(Errno::ERANGE);
    }
    user::write_bytes(address, value)?;
    Ok(value.len() as u64)
}

fn set_xattr(path: &Path, args: &Args) -> Result<u64> {
    let (name, size, flags) = (xattr_name(args.usize(1))?, args.usize(3), args.u32(4));
    if flags & !3 != 0 {
        return Err(Errno::EINVAL);
    }
    if size > XATTR_SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let value: Vec<u8> = user::read_slice(args.usize(2), size)?;
    path.mount().writable()?;
    writable_xattr(path, &name)?;
    path.inode()?.set_xattr(&name, &value, flags)?;
    notify::to_path(path, Change::ATTRIB);
    Ok(0)
}

/// `user.` attributes are for files and directories, others for the superuser.
fn writable_xattr(path: &Path, name: &[u8]) -> Result<()> {
    if name.starts_with(b"user.") {
        return match path.inode()?.kind() {
            FileType::Regular | FileType::Directory => View::new(FDCWD, b".")?.walk().permission(path, MAY_WRITE),
            _ => Err(Errno::EPERM),
        };
    }
    if at::privileged() { Ok(()) } else { Err(Errno::EPERM) }
}

fn get_xattr(path: &Path, args: &Args) -> Result<u64> {
    let name = xattr_name(args.usize(1))?;
    give(&path.inode()?.get_xattr(&name)?, args.usize(2), args.usize(3))
}

fn list_xattr(path: &Path, args: &Args) -> Result<u64> {
    let mut all = Vec::new();
    for name in path.inode()?.list_xattr()? {
        all.extend_from_slice(&name);
        all.push(0);
    }
    give(&all, args.usize(1), args.usize(2))
}

fn remove_xattr(path: &Path, args: &Args) -> Result<u64> {
    let name = xattr_name(args.usize(1))?;
    path.mount().writable()?;
    writable_xattr(path, &name)?;
    path.inode()?.remove_xattr(&name)?;
    Ok(0)
}

macro_rules! xattr_calls {
    ($($by_path:ident $by_link:ident $by_fd:ident $does:ident;)*) => { $(
        fn $by_path(args: &Args) -> Result<u64> {
            $does(&at::lookup(FDCWD, &at::path(args.usize(0))?, 0, true)?, args)
        }
        fn $by_link(args: &Args) -> Result<u64> {
            $does(&at::lookup(FDCWD, &at::path(args.usize(0))?, 0, false)?, args)
        }
        fn $by_fd(args: &Args) -> Result<u64> {
            $does(&opened(args.int(0))?.ok_or(Errno::EOPNOTSUPP)?, args)
        }
    )* };
}

xattr_calls! {
    setxattr lsetxattr fsetxattr set_xattr;
    getxattr lgetxattr fgetxattr get_xattr;
    listxattr llistxattr flistxattr list_xattr;
    removexattr lremovexattr fremovexattr remove_xattr;
}

calls! {
    74 fsync, "complete; every file system is in memory";
    75 fdatasync, "as fsync";
    76 truncate, "complete";
    77 ftruncate, "complete";
    90 chmod, "complete";
    91 fchmod, "complete";
    92 chown, "complete";
    93 fchown, "complete";
    94 lchown, "complete";
    132 utime, "complete";
    162 sync, "complete; every file system is in memory";
    188 setxattr, "user., trusted. and security. attributes on tmpfs and the root";
    189 lsetxattr, "as setxattr";
    190 fsetxattr, "as setxattr";
    191 getxattr, "as setxattr; attributes in the image are not seen";
    192 lgetxattr, "as getxattr";
    193 fgetxattr, "as getxattr";
    194 listxattr, "as getxattr";
    195 llistxattr, "as getxattr";
    196 flistxattr, "as getxattr";
    197 removexattr, "as setxattr";
    198 lremovexattr, "as setxattr";
    199 fremovexattr, "as setxattr";
    235 utimes, "complete";
    260 fchownat, "complete";
    261 futimesat, "complete";
    268 fchmodat, "complete";
    280 utimensat, "complete";
    285 fallocate, "allocation, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE; others EOPNOTSUPP";
    306 syncfs, "complete; every file system is in memory";
    452 fchmodat2, "complete";
}
