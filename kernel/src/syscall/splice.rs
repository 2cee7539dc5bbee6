//! splice, tee, vmsplice: moving data through pipes. The data is copied, not moved by page.

use base::io::In;
use base::{Errno, Result};
use fs::{File, FileType, IoFlags, OpenFlags};

use super::transfer::{self, MAX_BYTES, Memory, readable, writable};
use super::{Args, calls, file};
use crate::files::pipe::PipeEnd;
use crate::mm::user;

const NONBLOCK: u32 = 2;
const KNOWN: u32 = 15;

fn end(file: &dyn File) -> Option<&PipeEnd> {
    file.as_any().downcast_ref()
}

fn io_flags(flags: u32) -> Result<IoFlags> {
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(if flags & NONBLOCK != 0 { IoFlags::NOWAIT } else { IoFlags::empty() })
}

fn splice(args: &Args) -> Result<u64> {
    let flags = io_flags(args.u32(5))?;
    let len = args.usize(4).min(MAX_BYTES);
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (readable(args.int(0))?, writable(args.int(2))?);
    let (from_pipe, to_pipe) = (end(&*from), end(&*to));
    if from_pipe.is_none() && to_pipe.is_none() {
        return Err(Errno::EINVAL);
    }
    if let (Some(a), Some(b)) = (from_pipe, to_pipe)
        && alloc::sync::Arc::ptr_eq(a.pipe(), b.pipe())
    {
        return Err(Errno::EINVAL);
    }
    let offset = |slot: usize, is_pipe: bool| -> Result<Option<u64>> {
        match args.optional(slot) {
            None => Ok(None),
            Some(_) if is_pipe => Err(Errno::ESPIPE),
            Some(address) => u64::try_from(user::read::<i64>(address)?).map(Some).map_err(|_| Errno::EINVAL),
        }
    };
    let from_at = offset(1, from_pipe.is_some())?;
    let to_at = offset(3, to_pipe.is_some())?;
    if to_pipe.is_none() && to.status().get().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    // No more than fits, so that nothing is taken from the source that the pipe has no room for.
    let len = match to_pipe {
        Some(pipe) => {
            let events = base::Events::OUT;
            len.min(transfer::waiting(&*to, events, None, flags, || pipe.pipe().room())?)
        }
        None => len.min(64 << 10),
    };
    let result = file::copy(&*from, from_at, &*to, to_at, len, flags);
    if result == Err(Errno::EPIPE) {
        transfer::broken_pipe();
    }
    let n = result?;
    for (slot, at) in [(1, from_at), (3, to_at)] {
        if let (Some(address), Some(at)) = (args.optional(slot), at) {
            user::write(address, &((at + n as u64) as i64))?;
        }
    }
    Ok(n as u64)
}

fn tee(args: &Args) -> Result<u64> {
    let flags = io_flags(args.u32(3))?;
    let len = args.usize(2).min(MAX_BYTES);
    let (from, to) = (readable(args.int(0))?, writable(args.int(1))?);
    let (Some(from_pipe), Some(to_pipe)) = (end(&*from), end(&*to)) else {
        return Err(Errno::EINVAL);
    };
    if alloc::sync::Arc::ptr_eq(from_pipe.pipe(), to_pipe.pipe()) {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let room = transfer::waiting(&*to, base::Events::OUT, None, flags, || to_pipe.pipe().room())?;
    let data = transfer::waiting(&*from, base::Events::IN, None, flags, || from_pipe.pipe().peek(len.min(room)))?;
    if data.is_empty() {
        return Ok(0);
    }
    to.write(&mut In::kernel(&data), flags).map(|n| n as u64)
}

fn vmsplice(args: &Args) -> Result<u64> {
    let flags = io_flags(args.u32(3))?;
    let pipe = crate::files::get(args.int(0))?;
    if end(&*pipe).is_none() {
        return Err(Errno::EBADF);
    }
    let memory = Memory::vector(args.usize(1), args.usize(2))?;
    if pipe.status().get().writable() {
        transfer::write(&*pipe, &memory, None, flags)
    } else {
        transfer::read(&*pipe, &memory, None, flags)
    }
}

fn sync_file_range(args: &Args) -> Result<u64> {
    if args.long(1) < 0 || args.long(2) < 0 || args.u32(3) & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let file = crate::files::get(args.int(0))?;
    match file.path().ok_or(Errno::ESPIPE)?.inode()?.kind() {
        FileType::Regular | FileType::Block | FileType::Directory | FileType::Symlink => file.sync(true).map(|()| 0),
        _ => Err(Errno::ESPIPE),
    }
}

calls! {
    275 splice, "complete; copies, SPLICE_F_MOVE and SPLICE_F_GIFT have no effect";
    276 tee, "complete; copies";
    277 sync_file_range, "as fdatasync of the whole file";
    278 vmsplice, "complete; copies";
}
