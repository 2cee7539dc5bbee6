//! Names: directories, links, renaming, nodes; working directory and root; mounts.

use alloc::vec::Vec;

use base::{Errno, Result};
use fs::inode::New;
use fs::types::MAY_EXEC;
use fs::vfs::Resolve;
use fs::{FileType, Path};

use super::at::{self, EMPTY_PATH, FDCWD, REMOVEDIR, SYMLINK_FOLLOW, View};
use super::{Args, calls};
use crate::files;
use crate::mm::user;

fn list(args: &Args, old_format: bool) -> Result<u64> {
    let file = files::get(args.int(0))?;
    if file.status().get().contains(fs::OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let size = args.u32(2) as usize;
    // Filled here first: listing holds the directory's position.
    let room = size.min(64 << 10);
    let mut buffer: Vec<u8> = Vec::new();
    buffer.try_reserve_exact(room).map_err(|_| Errno::ENOMEM)?;
    let mut full = false;
    file.readdir(&mut |entry| {
        let (header, tail) = if old_format { (18, 2) } else { (19, 1) };
        let len = (header + entry.name.len() + tail).next_multiple_of(8);
        if buffer.len() + len > room {
            full = true;
            return false;
        }
        let start = buffer.len();
        buffer.extend_from_slice(&entry.ino.to_le_bytes());
        buffer.extend_from_slice(&entry.next.to_le_bytes());
        buffer.extend_from_slice(&(len as u16).to_le_bytes());
        if !old_format {
            buffer.push(entry.kind.dirent_type());
        }
        buffer.extend_from_slice(entry.name);
        buffer.resize(start + len, 0);
        if old_format {
            buffer[start + len - 1] = entry.kind.dirent_type();
        }
        true
    })?;
    if buffer.is_empty() && full {
        return Err(Errno::EINVAL);
    }
    user::write_bytes(args.usize(1), &buffer)?;
    Ok(buffer.len() as u64)
}

fn getdents(args: &Args) -> Result<u64> {
    list(args, true)
}

fn getdents64(args: &Args) -> Result<u64> {
    list(args, false)
}

fn getcwd(args: &Args) -> Result<u64> {
    let (root, cwd) = files::with_context(|context| Ok(context.both()))?;
    let (mut text, linked) = cwd.render(&root);
    if !linked {
        return Err(Errno::ENOENT);
    }
    text.push(0);
    if text.len() > args.usize(1) {
        return Err(Errno::ERANGE);
    }
    user::write_bytes(args.usize(0), &text)?;
    Ok(text.len() as u64)
}

/// A directory that the caller may search.
fn directory(view: &View, at: Path) -> Result<Path> {
    if at.inode()?.kind() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    view.walk().permission(&at, MAY_EXEC)?;
    Ok(at)
}

fn chdir(args: &Args) -> Result<u64> {
    let path = at::path(args.usize(0))?;
    let view = View::new(FDCWD, &path)?;
    let to = directory(&view, view.walk().lookup(&path, Resolve::FOLLOW)?)?;
    files::with_context(|context| {
        context.set_cwd(to);
        Ok(0)
    })
}

fn fchdir(args: &Args) -> Result<u64> {
    let file = files::get(args.int(0))?;
    let at = file.path().ok_or(Errno::ENOTDIR)?.clone();
    let to = directory(&View::new(FDCWD, b".")?, at)?;
    files::with_context(|context| {
        context.set_cwd(to);
        Ok(0)
    })
}

fn chroot(args: &Args) -> Result<u64> {
    let path = at::path(args.usize(0))?;
    let view = View::new(FDCWD, &path)?;
    let to = directory(&view, view.walk().lookup(&path, Resolve::FOLLOW)?)?;
    if !at::privileged() {
        return Err(Errno::EPERM);
    }
    files::with_context(|context| {
        context.set_root(to);
        Ok(0)
    })
}

fn make_dir(dirfd: i32, address: usize, mode: u32) -> Result<u64> {
    let path = at::path(address)?;
    let mode = at::masked(mode & 0o1777)?;
    View::new(dirfd, &path)?.walk().create(&path, New::Directory, mode).map(|_| 0)
}

fn mkdir(args: &Args) -> Result<u64> {
    make_dir(FDCWD, args.usize(0), args.u32(1))
}

fn mkdirat(args: &Args) -> Result<u64> {
    make_dir(args.int(0), args.usize(1), args.u32(2))
}

fn remove(dirfd: i32, address: usize, directory: bool) -> Result<u64> {
    let path = at::path(address)?;
    let view = View::new(dirfd, &path)?;
    let walk = view.walk();
    if directory { walk.rmdir(&path) } else { walk.unlink(&path) }.map(|()| 0)
}

fn rmdir(args: &Args) -> Result<u64> {
    remove(FDCWD, args.usize(0), true)
}

fn unlink(args: &Args) -> Result<u64> {
    remove(FDCWD, args.usize(0), false)
}

fn unlinkat(args: &Args) -> Result<u64> {
    let flags = args.u32(2);
    at::check_flags(flags, REMOVEDIR)?;
    remove(args.int(0), args.usize(1), flags != 0)
}

fn move_name(from: i32, old: usize, to: i32, new: usize, flags: u32) -> Result<u64> {
    let (old, new) = (at::path(old)?, at::path(new)?);
    let (a, b) = (View::new(from, &old)?, View::new(to, &new)?);
    a.walk().rename(&old, &b.walk(), &new, flags).map(|()| 0)
}

fn rename(args: &Args) -> Result<u64> {
    move_name(FDCWD, args.usize(0), FDCWD, args.usize(1), 0)
}

fn renameat(args: &Args) -> Result<u64> {
    move_name(args.int(0), args.usize(1), args.int(2), args.usize(3), 0)
}

fn renameat2(args: &Args) -> Result<u64> {
    move_name(args.int(0), args.usize(1), args.int(2), args.usize(3), args.u32(4))
}

fn make_link(from: i32, old: usize, to: i32, new: usize, flags: u32) -> Result<u64> {
    at::check_flags(flags, SYMLINK_FOLLOW | EMPTY_PATH)?;
    let (old, new) = (at::path(old)?, at::path(new)?);
    let target = at::lookup(from, &old, flags, flags & SYMLINK_FOLLOW != 0)?;
    View::new(to, &new)?.walk().link(&target, &new).map(|()| 0)
}

fn link(args: &Args) -> Result<u64> {
    make_link(FDCWD, args.usize(0), FDCWD, args.usize(1), 0)
}

fn linkat(args: &Args) -> Result<u64> {
    make_link(args.int(0), args.usize(1), args.int(2), args.usize(3), args.u32(4))
}

fn make_symlink(target: usize, dirfd: i32, address: usize) -> Result<u64> {
    let (target, path) = (at::path(target)?, at::path(address)?);
    View::new(dirfd, &path)?.walk().create(&path, New::Symlink(&target), 0o777).map(|_| 0)
}

fn symlink(args: &Args) -> Result<u64> {
    make_symlink(args.usize(0), FDCWD, args.usize(1))
}

fn symlinkat(args: &Args) -> Result<u64> {
    make_symlink(args.usize(0), args.int(1), args.usize(2))
}

fn make_node(dirfd: i32, address: usize, mode: u32, dev: u64) -> Result<u64> {
    let path = at::path(address)?;
    let new = match FileType::from_mode(mode) {
        None if mode & fs::types::S_IFMT == 0 => New::File,
        Some(FileType::Regular) => New::File,
        Some(kind @ (FileType::Fifo | FileType::Socket)) => New::Node(kind, 0),
        Some(kind @ (FileType::Char | FileType::Block)) => {
            if !at::privileged() {
                return Err(Errno::EPERM);
            }
            New::Node(kind, dev)
        }
        Some(FileType::Directory) => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    View::new(dirfd, &path)?.walk().create(&path, new, at::masked(mode)?).map(|_| 0)
}

fn mknod(args: &Args) -> Result<u64> {
    make_node(FDCWD, args.usize(0), args.u32(1), u64::from(args.u32(2)))
}

fn mknodat(args: &Args) -> Result<u64> {
    make_node(args.int(0), args.usize(1), args.u32(2), u64::from(args.u32(3)))
}

fn mount(args: &Args) -> Result<u64> {
    let text = |n: usize| args.optional(n).map_or(Ok(Vec::new()), at::path);
    let (source, target, kind) = (text(0)?, at::path(args.usize(1))?, text(2)?);
    if !at::privileged() {
        return Err(Errno::EPERM);
    }
    let target = at::lookup(FDCWD, &target, 0, true)?;
    files::mount::mount(&source, &target, &kind, args.u64(3)).map(|()| 0)
}

fn umount2(args: &Args) -> Result<u64> {
    const FORCE: u32 = 1;
    const DETACH: u32 = 2;
    const NOFOLLOW: u32 = 8;
    let flags = args.u32(1);
    at::check_flags(flags, FORCE | DETACH | NOFOLLOW)?;
    let path = at::path(args.usize(0))?;
    if !at::privileged() {
        return Err(Errno::EPERM);
    }
    at::lookup(FDCWD, &path, 0, flags & NOFOLLOW == 0)?.unmount(flags & DETACH != 0).map(|()| 0)
}

fn name_to_handle_at(_args: &Args) -> Result<u64> {
    Err(Errno::EOPNOTSUPP)
}

calls! {
    78 getdents, "complete";
    79 getcwd, "complete";
    80 chdir, "complete";
    81 fchdir, "complete";
    82 rename, "complete";
    83 mkdir, "complete";
    84 rmdir, "complete";
    86 link, "complete";
    87 unlink, "complete";
    88 symlink, "complete";
    133 mknod, "complete; block devices cannot be opened";
    161 chroot, "complete";
    165 mount, "tmpfs, proc, sysfs, devpts, bind, remount ro/rw; others ENODEV";
    166 umount2, "complete";
    217 getdents64, "complete";
    258 mkdirat, "complete";
    259 mknodat, "as mknod";
    263 unlinkat, "complete";
    264 renameat, "complete";
    265 linkat, "complete";
    266 symlinkat, "complete";
    303 name_to_handle_at, "EOPNOTSUPP: there are no file handles";
    316 renameat2, "RENAME_NOREPLACE, RENAME_EXCHANGE; RENAME_WHITEOUT is EINVAL";
}
