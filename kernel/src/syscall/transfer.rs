//! Reading and writing open files with waiting: what read, write and their relatives share.

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::io::{In, Out, Segment};
use base::time::now_ns;
use base::{Errno, Events, Result};
use fs::{File, FileType, IoFlags};

use crate::files;
use crate::mm::user;
use crate::process::limits::{INFINITY, resource};
use crate::process::signal::{self, SigInfo};
use crate::sched;
use crate::sched::wait::wait_for;

/// Most bytes that one call moves (`MAX_RW_COUNT` of Linux).
pub const MAX_BYTES: usize = 0x7fff_f000;
/// Most segments of a vector (`UIO_MAXIOV`).
const MAX_SEGMENTS: usize = 1024;
const SIGPIPE: i32 = 13;
const SIGXFSZ: i32 = 25;

/// Repeats `attempt` while it says `EAGAIN`, sleeping on the file in between, unless the file or the caller does not
/// want to wait.
#[inline]
pub fn waiting<T>(
    file: &dyn File,
    events: Events,
    timeout_ns: Option<u64>,
    flags: IoFlags,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    match attempt() {
        Err(Errno::EAGAIN) if !flags.contains(IoFlags::NOWAIT) && !file.status().nonblocking() => {}
        done => return done,
    }
    let deadline = timeout_ns.map(|timeout| now_ns().saturating_add(timeout));
    match wait_for(file.subject(), events, deadline, attempt) {
        Err(Errno::ETIMEDOUT) if deadline.is_some() => Err(Errno::EAGAIN),
        done => done,
    }
}

const READ_EVENTS: Events = Events::IN.union(Events::RDNORM).union(Events::RDHUP);
const WRITE_EVENTS: Events = Events::OUT.union(Events::WRNORM);

/// A file that may be read. `EBADF`.
#[inline]
pub fn readable(fd: i32) -> Result<Arc<dyn File>> {
    let file = files::get(fd)?;
    if file.status().get().readable() { Ok(file) } else { Err(Errno::EBADF) }
}

/// A file that may be written. `EBADF`.
#[inline]
pub fn writable(fd: i32) -> Result<Arc<dyn File>> {
    let file = files::get(fd)?;
    if file.status().get().writable() { Ok(file) } else { Err(Errno::EBADF) }
}

/// The program's memory of a call: one piece, or a vector.
pub enum Memory {
    /// Address and bytes.
    One(usize, usize),
    /// Checked segments.
    Many(Vec<Segment>),
}

impl Memory {
    /// One piece, cut to what a call may move. `EFAULT` outside of the application's half.
    #[inline]
    pub fn one(address: usize, len: usize) -> Result<Self> {
        if !user::in_range(address, len) {
            return Err(Errno::EFAULT);
        }
        Ok(Self::One(address, len.min(MAX_BYTES)))
    }

    /// From an `iovec` array. `EINVAL` for too many segments or too many bytes.
    pub fn vector(address: usize, count: usize) -> Result<Self> {
        if count > MAX_SEGMENTS {
            return Err(Errno::EINVAL);
        }
        let raw: Vec<[usize; 2]> = user::read_slice(address, count)?;
        let mut segments = Vec::new();
        segments.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        let mut total = 0usize;
        for [address, len] in raw {
            if len > isize::MAX as usize {
                return Err(Errno::EINVAL);
            }
            if !user::in_range(address, len) {
                return Err(Errno::EFAULT);
            }
            let len = len.min(MAX_BYTES - total);
            total += len;
            segments.push(Segment { address, len });
        }
        Ok(Self::Many(segments))
    }

    /// Bytes in all.
    fn len(&self) -> usize {
        match self {
            Self::One(_, len) => *len,
            Self::Many(segments) => segments.iter().map(|segment| segment.len).sum(),
        }
    }

    /// The first `most` bytes of it.
    fn cut(&self, most: usize) -> Self {
        match self {
            Self::One(address, len) => Self::One(*address, (*len).min(most)),
            Self::Many(segments) => {
                let mut left = most;
                let cut = |segment: &Segment| {
                    let len = segment.len.min(left);
                    left -= len;
                    Segment { len, ..*segment }
                };
                Self::Many(segments.iter().map(cut).collect())
            }
        }
    }

    /// As the destination of a read.
    #[inline]
    pub fn out(&self) -> Out<'_> {
        match self {
            Self::One(address, len) => Out::user(*address, *len),
            Self::Many(segments) => Out::user_segments(segments),
        }
    }

    /// As the source of a write.
    #[inline]
    pub fn input(&self) -> In<'_> {
        match self {
            Self::One(address, len) => In::user(*address, *len),
            Self::Many(segments) => In::user_segments(segments),
        }
    }
}

/// Reads at the position, or at `offset`.
#[inline]
pub fn read(file: &dyn File, memory: &Memory, offset: Option<u64>, flags: IoFlags) -> Result<u64> {
    waiting(file, READ_EVENTS, file.read_timeout_ns(), flags, || match offset {
        None => file.read(&mut memory.out(), flags),
        Some(offset) => file.read_at(offset, &mut memory.out(), flags),
    })
    .map(|n| n as u64)
}

/// Writes at the position, or at `offset`: on a blocking stream all of it, else what one attempt takes. `EPIPE` brings
/// SIGPIPE with it.
#[inline]
pub fn write(file: &dyn File, memory: &Memory, offset: Option<u64>, flags: IoFlags) -> Result<u64> {
    let timeout = file.write_timeout_ns();
    let result = match offset {
        None if file.is_stream() => {
            let mut input = memory.input();
            write_stream(file, &mut input, timeout, flags)
        }
        offset => {
            let cut = match file_size_room(file, offset)? {
                Some(room) if room < memory.len() as u64 => Some(memory.cut(room as usize)),
                _ => None,
            };
            let memory = cut.as_ref().unwrap_or(memory);
            waiting(file, WRITE_EVENTS, timeout, flags, || match offset {
                Some(offset) => file.write_at(offset, &mut memory.input(), flags),
                None => file.write(&mut memory.input(), flags),
            })
        }
    };
    if result == Err(Errno::EPIPE) {
        broken_pipe();
    }
    result.map(|n| n as u64)
}

/// Writes all of `input` to a stream, waiting for room; what was taken before an error counts.
pub fn write_stream(file: &dyn File, input: &mut In<'_>, timeout: Option<u64>, flags: IoFlags) -> Result<usize> {
    let wanted = input.remaining();
    let mut total = 0;
    loop {
        match waiting(file, WRITE_EVENTS, timeout, flags, || file.write(input, flags)) {
            Ok(n) => {
                total += n;
                // Counted, not asked of `input`: /dev/null takes bytes without looking at them.
                if n == 0 || total >= wanted {
                    return Ok(total);
                }
            }
            Err(_) if total > 0 => return Ok(total),
            Err(error) => return Err(error),
        }
    }
}

/// SIGPIPE for the running thread.
pub fn broken_pipe() {
    // It only fails for want of a process.
    let _ = signal::send_thread(sched::current(), SigInfo::kernel(SIGPIPE));
}

/// Bytes that `RLIMIT_FSIZE` leaves a write, if it limits it. At the limit the write is refused, with SIGXFSZ.
fn file_size_room(file: &dyn File, offset: Option<u64>) -> Result<Option<u64>> {
    let Some(path) = file.path() else {
        return Ok(None);
    };
    let limit = sched::current().process().map_or(INFINITY, |process| process.limit(resource::FSIZE));
    if limit == INFINITY || path.inode()?.kind() != FileType::Regular {
        return Ok(None);
    }
    let at = match offset {
        Some(offset) => offset,
        None if file.status().get().contains(fs::OpenFlags::APPEND) => path.inode()?.size(),
        None => file.seek(0, fs::file::Whence::Current)?,
    };
    if at < limit {
        return Ok(Some(limit - at));
    }
    let _ = signal::send_thread(sched::current(), SigInfo::kernel(SIGXFSZ));
    Err(Errno::EFBIG)
}
