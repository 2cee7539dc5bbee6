//! open, close, dup, fcntl, ioctl, flock.

use alloc::sync::Arc;

use base::{Errno, Result};
use fs::regular::RegularFile;
use fs::vfs::{How, Resolve};
use fs::{File, OpenFlags};

use super::at::{self, FDCWD, View};
use super::{Args, calls};
use crate::files::{self, locks, pipe::PipeEnd, pty::Master};
use crate::mm::user;

fn open_at(dirfd: i32, path: usize, flags: OpenFlags, mode: u32, resolve: Resolve) -> Result<u64> {
    let path = at::path(path)?;
    let mode = if flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE) { at::masked(mode)? } else { 0 };
    let view = View::new(dirfd, &path)?;
    let file = view.walk().open(&path, How { flags, mode, resolve })?;
    files::install(file, flags.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
}

/// What `open` and `openat` make of their flags: unknown bits are dropped, `O_PATH` drops all but a few.
fn lenient(raw: u32) -> Result<OpenFlags> {
    let mut flags = OpenFlags::from_bits_truncate(raw);
    if flags.contains(OpenFlags::PATH) {
        flags &= OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    }
    if flags.contains(OpenFlags::TMPFILE) && !flags.contains(OpenFlags::DIRECTORY) {
        return Err(Errno::EINVAL);
    }
    Ok(flags | OpenFlags::LARGEFILE)
}

fn open(args: &Args) -> Result<u64> {
    open_at(FDCWD, args.usize(0), lenient(args.u32(1))?, args.u32(2), Resolve::empty())
}

fn openat(args: &Args) -> Result<u64> {
    open_at(args.int(0), args.usize(1), lenient(args.u32(2))?, args.u32(3), Resolve::empty())
}

fn creat(args: &Args) -> Result<u64> {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC | OpenFlags::LARGEFILE;
    open_at(FDCWD, args.usize(0), flags, args.u32(1), Resolve::empty())
}

fn openat2(args: &Args) -> Result<u64> {
    let (address, size) = (args.usize(2), args.usize(3));
    if size < 24 {
        return Err(Errno::EINVAL);
    }
    let [raw, mode, resolve]: [u64; 3] = user::read(address)?;
    // A longer structure is fine as long as what we do not know is zero.
    for at in 24..size.min(4096) {
        if user::read::<u8>(address + at)? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    let flags = u32::try_from(raw).ok().and_then(OpenFlags::from_bits).ok_or(Errno::EINVAL)?;
    let known = Resolve::NO_XDEV | Resolve::NO_MAGICLINKS | Resolve::NO_SYMLINKS | Resolve::BENEATH | Resolve::IN_ROOT;
    let resolve =
        u32::try_from(resolve).ok().and_then(Resolve::from_bits).filter(|r| known.contains(*r)).ok_or(Errno::EINVAL)?;
    if resolve.contains(Resolve::BENEATH | Resolve::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    let creates = flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE);
    if mode & !0o7777 != 0 || (mode != 0 && !creates) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(OpenFlags::TMPFILE) && (!flags.contains(OpenFlags::DIRECTORY) || !flags.writable()) {
        return Err(Errno::EINVAL);
    }
    let with_path = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    if flags.contains(OpenFlags::PATH) && !with_path.contains(flags) {
        return Err(Errno::EINVAL);
    }
    open_at(args.int(0), args.usize(1), flags | OpenFlags::LARGEFILE, mode as u32, resolve)
}

fn close(args: &Args) -> Result<u64> {
    files::close_fd(args.int(0)).map(|()| 0)
}

fn close_range(args: &Args) -> Result<u64> {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    let (first, last, flags) = (args.u32(0), args.u32(1), args.u32(2));
    if first > last || flags & !(UNSHARE | CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & UNSHARE != 0 {
        files::unshare_table()?;
    }
    if flags & CLOEXEC != 0 {
        return files::with_table(|table| {
            table.mark_range(first, last);
            Ok(0)
        });
    }
    let closed = files::with_table(|table| Ok(table.remove_range(first, last, |_| true)))?;
    for file in closed {
        files::closed(&file);
    }
    Ok(0)
}

fn dup(args: &Args) -> Result<u64> {
    files::install(files::get(args.int(0))?, false).map(|fd| fd as u64)
}

fn dup_to(old: i32, new: i32, close_on_exec: bool) -> Result<u64> {
    let limit = files::nofile();
    if new < 0 || new as u64 >= limit {
        // A bad old descriptor is EBADF, too.
        return Err(Errno::EBADF);
    }
    let replaced = files::with_table(|table| {
        let file = table.get(old)?;
        table.replace(new, file, close_on_exec, limit)
    })?;
    if let Some(file) = replaced {
        files::closed(&file);
    }
    Ok(new as u64)
}

fn dup2(args: &Args) -> Result<u64> {
    let (old, new) = (args.int(0), args.int(1));
    if old == new {
        return files::get(old).map(|_| new as u64);
    }
    dup_to(old, new, false)
}

fn dup3(args: &Args) -> Result<u64> {
    let (old, new, flags) = (args.int(0), args.int(1), args.u32(2));
    if flags & !OpenFlags::CLOEXEC.bits() != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    dup_to(old, new, flags != 0)
}

/// Commands of `fcntl` (asm-generic/fcntl.h, linux/fcntl.h).
mod command {
    pub const DUPFD: u32 = 0;
    pub const GETFD: u32 = 1;
    pub const SETFD: u32 = 2;
    pub const GETFL: u32 = 3;
    pub const SETFL: u32 = 4;
    pub const GETLK: u32 = 5;
    pub const SETLK: u32 = 6;
    pub const SETLKW: u32 = 7;
    pub const SETOWN: u32 = 8;
    pub const GETOWN: u32 = 9;
    pub const SETSIG: u32 = 10;
    pub const GETSIG: u32 = 11;
    pub const OFD_GETLK: u32 = 36;
    pub const OFD_SETLK: u32 = 37;
    pub const OFD_SETLKW: u32 = 38;
    pub const DUPFD_CLOEXEC: u32 = 1030;
    pub const SETPIPE_SZ: u32 = 1031;
    pub const GETPIPE_SZ: u32 = 1032;
    pub const ADD_SEALS: u32 = 1033;
    pub const GET_SEALS: u32 = 1034;
}

fn fcntl(args: &Args) -> Result<u64> {
    use command::*;
    let (fd, arg) = (args.int(0), args.u64(2));
    let file = files::get(fd)?;
    let status = file.status().get();
    let with_path = [DUPFD, DUPFD_CLOEXEC, GETFD, SETFD, GETFL];
    if status.contains(OpenFlags::PATH) && !with_path.contains(&args.u32(1)) {
        return Err(Errno::EBADF);
    }
    match args.u32(1) {
        c @ (DUPFD | DUPFD_CLOEXEC) => {
            let from = arg as u32 as i32;
            if from < 0 || from as u64 >= files::nofile() {
                return Err(Errno::EINVAL);
            }
            files::install_from(file, c == DUPFD_CLOEXEC, from as usize).map(|fd| fd as u64)
        }
        GETFD => files::with_table(|table| table.close_on_exec(fd)).map(u64::from),
        SETFD => files::with_table(|table| table.set_close_on_exec(fd, arg & 1 != 0)).map(|()| 0),
        GETFL => Ok((status & !OpenFlags::creation()).bits().into()),
        SETFL => {
            file.status().set(OpenFlags::from_bits_retain(arg as u32));
            Ok(0)
        }
        c @ (GETLK | SETLK | SETLKW) => locks::control(&file, c - GETLK, args.usize(2), false),
        c @ (OFD_GETLK | OFD_SETLK | OFD_SETLKW) => locks::control(&file, c - OFD_GETLK, args.usize(2), true),
        // Signal-driven I/O is not there: the owner is refused rather than forgotten.
        SETOWN | SETSIG if arg == 0 => Ok(0),
        SETOWN | SETSIG => {
            log::warn!("fcntl: signal-driven I/O (F_SETOWN, F_SETSIG) is not supported");
            Ok(0)
        }
        GETOWN | GETSIG => Ok(0),
        SETPIPE_SZ => {
            let end = file.as_any().downcast_ref::<PipeEnd>().ok_or(Errno::EBADF)?;
            end.set_capacity(arg as u32 as usize).map(|n| n as u64)
        }
        GETPIPE_SZ => {
            let end = file.as_any().downcast_ref::<PipeEnd>().ok_or(Errno::EBADF)?;
            Ok(end.capacity() as u64)
        }
        ADD_SEALS => {
            let file = file.as_any().downcast_ref::<RegularFile>().ok_or(Errno::EINVAL)?;
            if !status.writable() {
                return Err(Errno::EPERM);
            }
            file.inode().add_seals(arg as u32).map(|()| 0)
        }
        GET_SEALS => {
            let file = file.as_any().downcast_ref::<RegularFile>().ok_or(Errno::EINVAL)?;
            file.inode().seals().map(u64::from)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn flock(args: &Args) -> Result<u64> {
    let file = files::get(args.int(0))?;
    locks::flock(&file, args.u32(1)).map(|()| 0)
}

fn ioctl(args: &Args) -> Result<u64> {
    const FIONBIO: u32 = 0x5421;
    const FIOASYNC: u32 = 0x5452;
    const FIONCLEX: u32 = 0x5450;
    const FIOCLEX: u32 = 0x5451;
    const FIONREAD: u32 = 0x541b;
    let (fd, request, arg) = (args.int(0), args.u32(1), args.usize(2));
    let file = files::get(fd)?;
    if file.status().get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    match request {
        FIOCLEX | FIONCLEX => files::with_table(|table| table.set_close_on_exec(fd, request == FIOCLEX)).map(|()| 0),
        FIONBIO | FIOASYNC => {
            let on = user::read::<i32>(arg)? != 0;
            let flag = if request == FIONBIO { OpenFlags::NONBLOCK } else { OpenFlags::ASYNC };
            file.status().assign(flag, on);
            Ok(0)
        }
        FIONREAD if file.as_any().is::<RegularFile>() => {
            let at = file.seek(0, fs::file::Whence::Current)?;
            let left = file.stat()?.size.saturating_sub(at).min(i32::MAX as u64) as i32;
            user::write(arg, &left).map(|()| 0)
        }
        FIONREAD if file.as_any().is::<fs::inotify::Inotify>() => {
            let bytes = file.as_any().downcast_ref::<fs::inotify::Inotify>().map_or(0, |i| i.readable());
            user::write(arg, &(bytes as i32)).map(|()| 0)
        }
        _ if Master::is_open_peer(request) => {
            let master = file.as_any().downcast_ref::<Master>().ok_or(Errno::ENOTTY)?;
            let flags = OpenFlags::from_bits_truncate(arg as u32);
            let peer: Arc<dyn File> = master.open_peer(flags);
            files::install(peer, flags.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
        }
        _ => file.ioctl(request, arg),
    }
}

calls! {
    2 open, "complete; O_ASYNC and O_DIRECT are accepted without effect";
    3 close, "complete";
    16 ioctl, "terminals, FIONREAD, FIONBIO, FIOASYNC (no effect), FIOCLEX, FIONCLEX, and what each file knows";
    32 dup, "complete";
    33 dup2, "complete";
    72 fcntl, "descriptors, status flags, POSIX and OFD locks, pipe size, seals; no signal-driven I/O, no leases";
    73 flock, "complete";
    85 creat, "complete";
    257 openat, "as open";
    292 dup3, "complete";
    436 close_range, "complete";
    437 openat2, "complete but RESOLVE_CACHED";
}
