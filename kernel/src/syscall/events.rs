//! Descriptors for events and memory: pipe, eventfd, timerfd, signalfd, inotify, memfd.

use alloc::sync::Arc;

use base::{Errno, Result};
use fs::inotify::Inotify;
use fs::{File, OpenFlags};

use super::at::{self, FDCWD};
use super::{Args, calls};
use crate::files::timerfd::TimerFd;
use crate::files::{self, eventfd, memfd, pipe, signalfd::SignalFd};
use crate::mm::user;

const CLOEXEC: u32 = OpenFlags::CLOEXEC.bits();
const NONBLOCK: u32 = OpenFlags::NONBLOCK.bits();

/// Flags that may be `NONBLOCK` and `CLOEXEC` only; others are `EINVAL`.
fn plain_flags(flags: u32) -> Result<(OpenFlags, bool)> {
    at::check_flags(flags, CLOEXEC | NONBLOCK)?;
    Ok((OpenFlags::from_bits_retain(flags & NONBLOCK), flags & CLOEXEC != 0))
}

fn make_pipe(address: usize, flags: u32) -> Result<u64> {
    let known = OpenFlags::DIRECT.bits();
    let (status, close_on_exec) = plain_flags(flags & !known)?;
    let (reader, writer) = pipe::create(status | OpenFlags::from_bits_retain(flags & known));
    let first = files::install(reader, close_on_exec)?;
    let second = match files::install(writer, close_on_exec) {
        Ok(fd) => fd,
        Err(error) => {
            files::close_fd(first)?;
            return Err(error);
        }
    };
    if let Err(error) = user::write(address, &[first, second]) {
        files::close_fd(first)?;
        files::close_fd(second)?;
        return Err(error);
    }
    Ok(0)
}

fn pipe(args: &Args) -> Result<u64> {
    make_pipe(args.usize(0), 0)
}

fn pipe2(args: &Args) -> Result<u64> {
    make_pipe(args.usize(0), args.u32(1))
}

fn eventfd(args: &Args) -> Result<u64> {
    files::install(eventfd::create(args.u32(0).into(), false, OpenFlags::empty()), false).map(|fd| fd as u64)
}

fn eventfd2(args: &Args) -> Result<u64> {
    const SEMAPHORE: u32 = 1;
    let flags = args.u32(1);
    let (status, close_on_exec) = plain_flags(flags & !SEMAPHORE)?;
    let file = eventfd::create(args.u32(0).into(), flags & SEMAPHORE != 0, status);
    files::install(file, close_on_exec).map(|fd| fd as u64)
}

fn timerfd_create(args: &Args) -> Result<u64> {
    // CLOCK_REALTIME, MONOTONIC, BOOTTIME, REALTIME_ALARM, BOOTTIME_ALARM.
    let realtime = match args.int(0) {
        0 | 8 => true,
        1 | 7 | 9 => false,
        _ => return Err(Errno::EINVAL),
    };
    let (status, close_on_exec) = plain_flags(args.u32(1))?;
    files::install(TimerFd::create(realtime, status), close_on_exec).map(|fd| fd as u64)
}

/// Interval and value of a `struct itimerspec`, ns.
fn itimerspec(address: usize) -> Result<(u64, u64)> {
    let [a, b, c, d]: [i64; 4] = user::read(address)?;
    let ns = |sec: i64, nsec: i64| {
        if sec < 0 || !(0..1_000_000_000).contains(&nsec) {
            return Err(Errno::EINVAL);
        }
        Ok((sec as u64).saturating_mul(1_000_000_000).saturating_add(nsec as u64))
    };
    Ok((ns(a, b)?, ns(c, d)?))
}

fn put_itimerspec(address: usize, (left, interval): (u64, u64)) -> Result<u64> {
    let split = |ns: u64| [ns / 1_000_000_000, ns % 1_000_000_000];
    let ([a, b], [c, d]) = (split(interval), split(left));
    user::write(address, &[a, b, c, d]).map(|()| 0)
}

fn timerfd_settime(args: &Args) -> Result<u64> {
    const ABSTIME: u32 = 1;
    const CANCEL_ON_SET: u32 = 2;
    let flags = args.u32(1);
    at::check_flags(flags, ABSTIME | CANCEL_ON_SET)?;
    let (interval, value) = itimerspec(args.usize(2))?;
    let file = files::get(args.int(0))?;
    let timer = file.as_any().downcast_ref::<TimerFd>().ok_or(Errno::EINVAL)?;
    let old = timer.set(value, interval, flags & ABSTIME != 0);
    args.optional(3).map_or(Ok(0), |address| put_itimerspec(address, old))
}

fn timerfd_gettime(args: &Args) -> Result<u64> {
    let file = files::get(args.int(0))?;
    let timer = file.as_any().downcast_ref::<TimerFd>().ok_or(Errno::EINVAL)?;
    put_itimerspec(args.usize(1), timer.get())
}

fn make_signalfd(args: &Args, flags: u32) -> Result<u64> {
    if args.usize(2) != 8 {
        return Err(Errno::EINVAL);
    }
    let mask: u64 = user::read(args.usize(1))?;
    let (status, close_on_exec) = plain_flags(flags)?;
    if args.int(0) == -1 {
        return files::install(SignalFd::create(mask, status)?, close_on_exec).map(|fd| fd as u64);
    }
    let file = files::get(args.int(0))?;
    let there = file.as_any().downcast_ref::<SignalFd>().ok_or(Errno::EINVAL)?;
    there.set_mask(mask);
    Ok(args.int(0) as u64)
}

fn signalfd(args: &Args) -> Result<u64> {
    make_signalfd(args, 0)
}

fn signalfd4(args: &Args) -> Result<u64> {
    make_signalfd(args, args.u32(3))
}

fn inotify_init(_args: &Args) -> Result<u64> {
    files::install(Inotify::new(OpenFlags::empty()), false).map(|fd| fd as u64)
}

fn inotify_init1(args: &Args) -> Result<u64> {
    let (status, close_on_exec) = plain_flags(args.u32(0))?;
    files::install(Inotify::new(status), close_on_exec).map(|fd| fd as u64)
}

fn inotify_add_watch(args: &Args) -> Result<u64> {
    let mask = args.u32(2);
    let file = files::get(args.int(0))?;
    let inotify = file.as_any().downcast_ref::<Inotify>().ok_or(Errno::EINVAL)?;
    let path = at::lookup(FDCWD, &at::path(args.usize(1))?, 0, Inotify::follows(mask))?;
    inotify.add(&path, mask).map(|wd| wd as u64)
}

fn inotify_rm_watch(args: &Args) -> Result<u64> {
    let file = files::get(args.int(0))?;
    let inotify = file.as_any().downcast_ref::<Inotify>().ok_or(Errno::EINVAL)?;
    inotify.remove(args.int(1)).map(|()| 0)
}

fn memfd_create(args: &Args) -> Result<u64> {
    const MFD_CLOEXEC: u32 = 1;
    const MFD_ALLOW_SEALING: u32 = 2;
    const MFD_NOEXEC_SEAL: u32 = 8;
    const MFD_EXEC: u32 = 16;
    // Longest name without the prefix "memfd:".
    const NAME: usize = 249;
    let flags = args.u32(1);
    at::check_flags(flags, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC)?;
    let name = match user::read_cstr(args.usize(0), NAME + 1) {
        Err(Errno::ENAMETOOLONG) => return Err(Errno::EINVAL),
        other => other?,
    };
    let file: Arc<dyn File> = memfd::create(&name, flags & (MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL) != 0)?;
    files::install(file, flags & MFD_CLOEXEC != 0).map(|fd| fd as u64)
}

calls! {
    22 pipe, "complete";
    253 inotify_init, "complete";
    254 inotify_add_watch, "complete but IN_EXCL_UNLINK (no effect)";
    255 inotify_rm_watch, "complete";
    282 signalfd, "complete";
    283 timerfd_create, "complete; alarm clocks are ordinary ones";
    284 eventfd, "complete";
    286 timerfd_settime, "complete; the wall clock is never set, so TFD_TIMER_CANCEL_ON_SET has no effect";
    287 timerfd_gettime, "complete";
    289 signalfd4, "complete";
    290 eventfd2, "complete";
    293 pipe2, "O_CLOEXEC, O_NONBLOCK, O_DIRECT";
    294 inotify_init1, "complete";
    319 memfd_create, "complete but MFD_HUGETLB";
}
