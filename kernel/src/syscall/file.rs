//! read, write and their relatives; seeking and copying between files.

use base::io::{In, Out};
use base::{Errno, Result};
use fs::file::Whence;
use fs::{File, FileType, IoFlags, OpenFlags};

use super::transfer::{self, MAX_BYTES, Memory, readable, writable};
use super::{Args, calls};
use crate::files;
use crate::mm::user;
use crate::sched;

fn read(args: &Args) -> Result<u64> {
    let file = readable(args.int(0))?;
    transfer::read(&*file, &Memory::one(args.usize(1), args.usize(2))?, None, IoFlags::empty())
}

fn write(args: &Args) -> Result<u64> {
    let file = writable(args.int(0))?;
    transfer::write(&*file, &Memory::one(args.usize(1), args.usize(2))?, None, IoFlags::empty())
}

fn offset(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Errno::EINVAL)
}

fn pread64(args: &Args) -> Result<u64> {
    let offset = offset(args.long(3))?;
    let file = readable(args.int(0))?;
    transfer::read(&*file, &Memory::one(args.usize(1), args.usize(2))?, Some(offset), IoFlags::empty())
}

fn pwrite64(args: &Args) -> Result<u64> {
    let offset = offset(args.long(3))?;
    let file = writable(args.int(0))?;
    transfer::write(&*file, &Memory::one(args.usize(1), args.usize(2))?, Some(offset), IoFlags::empty())
}

fn readv(args: &Args) -> Result<u64> {
    let file = readable(args.int(0))?;
    transfer::read(&*file, &Memory::vector(args.usize(1), args.usize(2))?, None, IoFlags::empty())
}

fn writev(args: &Args) -> Result<u64> {
    let file = writable(args.int(0))?;
    transfer::write(&*file, &Memory::vector(args.usize(1), args.usize(2))?, None, IoFlags::empty())
}

fn preadv(args: &Args) -> Result<u64> {
    let offset = offset(args.long(3))?;
    let file = readable(args.int(0))?;
    transfer::read(&*file, &Memory::vector(args.usize(1), args.usize(2))?, Some(offset), IoFlags::empty())
}

fn pwritev(args: &Args) -> Result<u64> {
    let offset = offset(args.long(3))?;
    let file = writable(args.int(0))?;
    transfer::write(&*file, &Memory::vector(args.usize(1), args.usize(2))?, Some(offset), IoFlags::empty())
}

/// Offset and flags of the second forms: an offset of -1 is the position.
fn second_form(args: &Args) -> Result<(Option<u64>, IoFlags, bool)> {
    const HIPRI: u32 = 1;
    const DSYNC: u32 = 2;
    const SYNC: u32 = 4;
    const NOWAIT: u32 = 8;
    const APPEND: u32 = 16;
    let raw = args.u32(5);
    if raw & !(HIPRI | DSYNC | SYNC | NOWAIT | APPEND) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut flags = IoFlags::empty();
    flags.set(IoFlags::NOWAIT, raw & NOWAIT != 0);
    flags.set(IoFlags::APPEND, raw & APPEND != 0);
    let at = if args.long(3) == -1 { None } else { Some(offset(args.long(3))?) };
    Ok((at, flags, raw & (DSYNC | SYNC) != 0))
}

fn preadv2(args: &Args) -> Result<u64> {
    let (offset, flags, _) = second_form(args)?;
    let file = readable(args.int(0))?;
    transfer::read(&*file, &Memory::vector(args.usize(1), args.usize(2))?, offset, flags)
}

fn pwritev2(args: &Args) -> Result<u64> {
    let (offset, flags, sync) = second_form(args)?;
    let file = writable(args.int(0))?;
    let n = transfer::write(&*file, &Memory::vector(args.usize(1), args.usize(2))?, offset, flags)?;
    if sync && file.path().is_some() {
        file.sync(true)?;
    }
    Ok(n)
}

fn lseek(args: &Args) -> Result<u64> {
    let file = files::get(args.int(0))?;
    if file.status().get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let whence = match args.u32(2) {
        0 => Whence::Set,
        1 => Whence::Current,
        2 => Whence::End,
        3 => Whence::Data,
        4 => Whence::Hole,
        _ => return Err(Errno::EINVAL),
    };
    file.seek(args.long(1), whence)
}

/// Copies through a kernel buffer, up to `len` bytes, as far as the source has data now.
pub(super) fn copy(
    from: &dyn File,
    mut from_at: Option<u64>,
    to: &dyn File,
    mut to_at: Option<u64>,
    len: usize,
    flags: IoFlags,
) -> Result<usize> {
    const CHUNK: usize = 64 << 10;
    let mut buffer = alloc::vec::Vec::new();
    let size = len.min(CHUNK);
    buffer.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(size, 0);
    let mut total = 0;
    while total < len {
        let wanted = (len - total).min(CHUNK);
        let read = transfer::waiting(from, base::Events::IN | base::Events::RDHUP, None, flags, || {
            let mut out = Out::kernel(&mut buffer[..wanted]);
            match from_at {
                None => from.read(&mut out, flags),
                Some(at) => from.read_at(at, &mut out, flags),
            }
        });
        let read = match read {
            Ok(0) => break,
            Ok(n) => n,
            Err(_) if total > 0 => break,
            Err(error) => return Err(error),
        };
        let mut written = 0;
        let mut failed = None;
        while written < read {
            let done = if let Some(at) = to_at {
                to.write_at(at + written as u64, &mut In::kernel(&buffer[written..read]), flags)
            } else {
                let mut input = In::kernel(&buffer[written..read]);
                transfer::write_stream(to, &mut input, to.write_timeout_ns(), flags)
            };
            match done {
                Ok(0) => break,
                Ok(n) => written += n,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        total += written;
        from_at = from_at.map(|at| at + written as u64);
        to_at = to_at.map(|at| at + written as u64);
        if written < read {
            // What was read and not written goes back, where there is a position to set back.
            if from_at.is_none() {
                let _ = from.seek(written as i64 - read as i64, Whence::Current);
            }
            match failed {
                Some(error) if total == 0 => return Err(error),
                _ => break,
            }
        }
        if read < wanted {
            break;
        }
        // A long copy lets others run, and a signal end it.
        if sched::current().interrupted() {
            break;
        }
        sched::schedule_if_needed();
    }
    Ok(total)
}

fn sendfile(args: &Args) -> Result<u64> {
    let from = readable(args.int(1))?;
    let to = writable(args.int(0))?;
    let at = match args.optional(2) {
        None => None,
        Some(address) => Some(offset(user::read::<i64>(address)?)?),
    };
    // The source must have positions; a pipe is read by splice.
    if from.path().is_none() || from.path().is_some_and(|p| p.inode().is_ok_and(|i| i.kind() == FileType::Directory)) {
        return Err(Errno::EINVAL);
    }
    if to.status().get().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let len = args.usize(3).min(MAX_BYTES);
    let result = copy(&*from, at, &*to, None, len, IoFlags::empty());
    if result == Err(Errno::EPIPE) {
        transfer::broken_pipe();
    }
    let n = result?;
    if let (Some(address), Some(at)) = (args.optional(2), at) {
        user::write(address, &((at + n as u64) as i64))?;
    }
    Ok(n as u64)
}

fn copy_file_range(args: &Args) -> Result<u64> {
    if args.u32(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (readable(args.int(0))?, writable(args.int(2))?);
    if to.status().get().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    for file in [&from, &to] {
        match file.path().ok_or(Errno::EINVAL)?.inode()?.kind() {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
    }
    let position = |n: usize| -> Result<Option<u64>> {
        args.optional(n).map(|address| offset(user::read::<i64>(address)?)).transpose()
    };
    let (from_at, to_at) = (position(1)?, position(3)?);
    let len = args.usize(4).min(MAX_BYTES);
    let same = from.path().zip(to.path()).is_some_and(|(a, b)| a.same(b));
    if same {
        let a = from_at.map_or_else(|| from.seek(0, Whence::Current), Ok)?;
        let b = to_at.map_or_else(|| to.seek(0, Whence::Current), Ok)?;
        if a.abs_diff(b) < len as u64 && from.stat()?.size > a {
            return Err(Errno::EINVAL);
        }
    }
    let n = copy(&*from, from_at, &*to, to_at, len, IoFlags::empty())?;
    for (slot, at) in [(1, from_at), (3, to_at)] {
        if let (Some(address), Some(at)) = (args.optional(slot), at) {
            user::write(address, &((at + n as u64) as i64))?;
        }
    }
    Ok(n as u64)
}

calls! {
    0 read, "complete";
    1 write, "complete";
    8 lseek, "complete, with SEEK_DATA and SEEK_HOLE";
    17 pread64, "complete";
    18 pwrite64, "complete";
    19 readv, "complete";
    20 writev, "complete";
    40 sendfile, "complete; copies through the kernel";
    295 preadv, "complete";
    296 pwritev, "complete";
    326 copy_file_range, "complete; copies";
    327 preadv2, "RWF_NOWAIT, RWF_HIPRI (no effect); others EOPNOTSUPP";
    328 pwritev2, "RWF_NOWAIT, RWF_APPEND, RWF_DSYNC, RWF_SYNC, RWF_HIPRI (no effect); others EOPNOTSUPP";
}
