//! Pipes and FIFOs: a ring of page frames between writers and readers.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use base::frame::FRAME_SIZE;
use base::io::{In, Out};
use base::{Errno, Events, Frame, Mutex, Result, Subject};
use fs::types::{FileType, OpenFlags, Stat, Time};
use fs::{File, IoFlags, Status};

use crate::sched::wait::wait_for;

/// Writes of up to this many bytes are never mixed with others (`PIPE_BUF`).
pub const ATOMIC: usize = 4096;
/// Pages of a new pipe.
const DEFAULT_PAGES: usize = 16;
/// Most pages that `F_SETPIPE_SZ` gives (`/proc/sys/fs/pipe-max-size`).
const MAX_PAGES: usize = 256;

/// `FIONREAD` (asm-generic/ioctls.h).
const FIONREAD: u32 = 0x541b;

struct Piece {
    frame: Frame,
    start: usize,
    end: usize,
    /// Written with `O_DIRECT`: a read takes from this piece alone, and the rest of it is lost.
    packet: bool,
}

#[derive(Default)]
struct Ring {
    pieces: VecDeque<Piece>,
    /// An emptied frame, kept for the next write.
    spare: Option<Frame>,
    bytes: usize,
}

/// The object between the two ends.
pub struct Pipe {
    ring: Mutex<Ring>,
    pages: AtomicUsize,
    readers: AtomicUsize,
    writers: AtomicUsize,
    /// Openings for reading and for writing so far, for FIFO opens that wait for the other side.
    reader_count: AtomicUsize,
    writer_count: AtomicUsize,
    subject: Subject,
    number: u64,
    created: Time,
}

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// A new pipe: reading and writing end. `flags`: `O_NONBLOCK`, `O_DIRECT`.
pub fn create(flags: OpenFlags) -> (Arc<dyn File>, Arc<dyn File>) {
    let pipe = Pipe::new();
    let kept = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    (PipeEnd::new(&pipe, kept), PipeEnd::new(&pipe, kept | OpenFlags::WRONLY))
}

impl Pipe {
    /// A pipe without ends yet: for a FIFO's inode.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            ring: Mutex::new(Ring::default()),
            pages: AtomicUsize::new(DEFAULT_PAGES),
            readers: AtomicUsize::new(0),
            writers: AtomicUsize::new(0),
            reader_count: AtomicUsize::new(0),
            writer_count: AtomicUsize::new(0),
            subject: Subject::new(),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            created: Time::now(),
        })
    }

    /// Opens an end of a FIFO; waits for the other side unless `O_NONBLOCK` or `O_RDWR` is given.
    ///
    /// # Errors
    /// `ENXIO` for writing with `O_NONBLOCK` when nobody reads; `ERESTARTSYS` for a signal.
    pub fn open(self: &Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        let nonblocking = flags.contains(OpenFlags::NONBLOCK);
        if !flags.readable() && nonblocking && self.readers.load(Ordering::SeqCst) == 0 {
            return Err(Errno::ENXIO);
        }
        let (readers, writers) = (self.reader_count.load(Ordering::SeqCst), self.writer_count.load(Ordering::SeqCst));
        let end = PipeEnd::new(self, flags);
        self.subject.notify(Events::all());
        if !(nonblocking || flags.readable() && flags.writable()) {
            // The other side may come and go before we run: an opening since we came counts.
            wait_for(&self.subject, Events::all(), None, || {
                let other_side = if flags.readable() {
                    self.writers.load(Ordering::SeqCst) > 0 || self.writer_count.load(Ordering::SeqCst) != writers
                } else {
                    self.readers.load(Ordering::SeqCst) > 0 || self.reader_count.load(Ordering::SeqCst) != readers
                };
                if other_side { Ok(()) } else { Err(Errno::EAGAIN) }
            })?;
        }
        Ok(end)
    }

    /// Bytes waiting to be read.
    pub fn len(&self) -> usize {
        self.ring.lock().bytes
    }

    /// Bytes that a write would take now, at least. `EPIPE` without a reader, `EAGAIN` if there is no room.
    pub fn room(&self) -> Result<usize> {
        if self.readers.load(Ordering::SeqCst) == 0 {
            return Err(Errno::EPIPE);
        }
        let free = self.pages.load(Ordering::Relaxed).saturating_sub(self.ring.lock().pieces.len());
        if free == 0 { Err(Errno::EAGAIN) } else { Ok(free * FRAME_SIZE) }
    }

    /// Copies up to `most` bytes without taking them (`tee`). `EAGAIN` if there are none; nothing at the end.
    pub fn peek(&self, most: usize) -> Result<Vec<u8>> {
        let ring = self.ring.lock();
        if ring.bytes == 0 {
            return if self.writers.load(Ordering::SeqCst) == 0 { Ok(Vec::new()) } else { Err(Errno::EAGAIN) };
        }
        let mut data = alloc::vec![0; most.min(ring.bytes)];
        let mut done = 0;
        for piece in &ring.pieces {
            let end = data.len().min(done + piece.end - piece.start);
            done += piece.frame.read(piece.start, &mut data[done..end]);
        }
        Ok(data)
    }

    fn has_room(&self, ring: &Ring) -> bool {
        ring.pieces.len() < self.pages.load(Ordering::Relaxed)
    }

    fn read(&self, out: &mut Out<'_>) -> Result<usize> {
        if out.remaining() == 0 {
            return Ok(0);
        }
        let mut ring = self.ring.lock();
        if ring.bytes == 0 {
            return if self.writers.load(Ordering::SeqCst) == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let was_full = !self.has_room(&ring);
        let mut total = 0;
        let mut result = Ok(());
        while let Some(piece) = ring.pieces.front_mut() {
            let wanted = out.remaining().min(piece.end - piece.start);
            if wanted == 0 {
                break;
            }
            let moved = match out.write_frame(&piece.frame, piece.start, wanted) {
                Ok(moved) => moved,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            piece.start += moved;
            total += moved;
            let (packet, left) = (piece.packet, piece.end - piece.start);
            ring.bytes -= moved;
            if left == 0 || packet {
                ring.bytes -= left;
                ring.spare = ring.pieces.pop_front().map(|piece| piece.frame).filter(|f| f.references() == 1);
            }
            if packet || moved < wanted {
                break;
            }
        }
        let has_room = self.has_room(&ring);
        drop(ring);
        if was_full && has_room {
            self.subject.notify(Events::OUT | Events::WRNORM);
        }
        if total > 0 { Ok(total) } else { result.map(|()| 0) }
    }

    fn write(&self, input: &mut In<'_>, packets: bool) -> Result<usize> {
        let len = input.remaining();
        if self.readers.load(Ordering::SeqCst) == 0 {
            return Err(Errno::EPIPE);
        }
        if len == 0 {
            return Ok(0);
        }
        let mut ring = self.ring.lock();
        let mut total = 0;
        let mut result = Ok(());
        // What fits behind the last bytes goes there, if that does not tear a short write.
        let pages = self.pages.load(Ordering::Relaxed);
        let room_ahead = ring.pieces.len() < pages;
        if let Some(last) = ring.pieces.back_mut().filter(|last| !last.packet && !packets) {
            let tail = FRAME_SIZE - last.end;
            if tail > 0 && (len <= tail || (len > ATOMIC || room_ahead)) && last.frame.references() == 1 {
                match input.read_frame(&last.frame, last.end, len.min(tail)) {
                    Ok(moved) => {
                        last.end += moved;
                        ring.bytes += moved;
                        total += moved;
                    }
                    Err(error) => result = Err(error),
                }
            }
        }
        while total < len && result.is_ok() && ring.pieces.len() < pages {
            let frame = match ring.spare.take() {
                Some(frame) => frame,
                None => match Frame::zeroed() {
                    Ok(frame) => frame,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                },
            };
            let wanted = (len - total).min(FRAME_SIZE);
            match input.read_frame(&frame, 0, wanted) {
                Ok(moved) => {
                    ring.pieces.push_back(Piece { frame, start: 0, end: moved, packet: packets });
                    ring.bytes += moved;
                    total += moved;
                    if moved < wanted {
                        break;
                    }
                }
                Err(error) => result = Err(error),
            }
        }
        drop(ring);
        if total > 0 {
            self.subject.notify(Events::IN | Events::RDNORM);
            return Ok(total);
        }
        result?;
        Err(Errno::EAGAIN)
    }

    fn set_capacity(&self, bytes: usize) -> Result<usize> {
        let pages = bytes.div_ceil(FRAME_SIZE).max(1).next_power_of_two();
        if pages > MAX_PAGES {
            return Err(Errno::EPERM);
        }
        let ring = self.ring.lock();
        if ring.pieces.len() > pages {
            return Err(Errno::EBUSY);
        }
        self.pages.store(pages, Ordering::Relaxed);
        drop(ring);
        self.subject.notify(Events::OUT | Events::WRNORM);
        Ok(pages * FRAME_SIZE)
    }
}

/// One opening of a pipe.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    status: Status,
    reads: bool,
    writes: bool,
}

impl PipeEnd {
    fn new(pipe: &Arc<Pipe>, flags: OpenFlags) -> Arc<Self> {
        let (reads, writes) = (flags.readable(), flags.writable());
        if reads {
            pipe.readers.fetch_add(1, Ordering::SeqCst);
            pipe.reader_count.fetch_add(1, Ordering::SeqCst);
        }
        if writes {
            pipe.writers.fetch_add(1, Ordering::SeqCst);
            pipe.writer_count.fetch_add(1, Ordering::SeqCst);
        }
        Arc::new(Self { pipe: pipe.clone(), status: Status::new(flags), reads, writes })
    }

    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// `F_GETPIPE_SZ`: bytes that fit.
    pub fn capacity(&self) -> usize {
        self.pipe.pages.load(Ordering::Relaxed) * FRAME_SIZE
    }

    /// `F_SETPIPE_SZ`: rounds up to a power of two of pages and returns the new capacity. `EBUSY` if more is in it,
    /// `EPERM` beyond 1 MiB.
    pub fn set_capacity(&self, bytes: usize) -> Result<usize> {
        self.pipe.set_capacity(bytes)
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        if self.reads {
            self.pipe.readers.fetch_sub(1, Ordering::SeqCst);
        }
        if self.writes {
            self.pipe.writers.fetch_sub(1, Ordering::SeqCst);
        }
        self.pipe.subject.notify(Events::all());
    }
}

impl File for PipeEnd {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        if !self.reads {
            return Err(Errno::EBADF);
        }
        self.pipe.read(out)
    }

    fn write(&self, input: &mut In<'_>, _flags: IoFlags) -> Result<usize> {
        if !self.writes {
            return Err(Errno::EBADF);
        }
        self.pipe.write(input, self.status.get().contains(OpenFlags::DIRECT))
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self) -> Events {
        let ring = self.pipe.ring.lock();
        let mut events = Events::empty();
        if self.reads {
            if ring.bytes > 0 {
                events |= Events::IN | Events::RDNORM;
            }
            // A FIFO that nobody has written to yet is not hung up.
            let had_writer = self.pipe.writer_count.load(Ordering::SeqCst) > 0;
            if self.pipe.writers.load(Ordering::SeqCst) == 0 && had_writer {
                events |= Events::HUP;
            }
        }
        if self.writes {
            if self.pipe.has_room(&ring) {
                events |= Events::OUT | Events::WRNORM;
            }
            if self.pipe.readers.load(Ordering::SeqCst) == 0 {
                events |= Events::ERR;
            }
        }
        events
    }

    fn subject(&self) -> &Subject {
        &self.pipe.subject
    }

    fn ioctl(&self, command: u32, arg: usize) -> Result<u64> {
        match command {
            FIONREAD => {
                let bytes = self.pipe.len().min(i32::MAX as usize) as i32;
                match Out::user(arg, 4).write(&bytes.to_ne_bytes())? {
                    4 => Ok(0),
                    _ => Err(Errno::EFAULT),
                }
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn stat(&self) -> Result<Stat> {
        Ok(Stat {
            ino: self.pipe.number,
            mode: FileType::Fifo.mode_bits() | 0o600,
            nlink: 1,
            blksize: FRAME_SIZE as u32,
            atime: self.pipe.created,
            mtime: self.pipe.created,
            ctime: self.pipe.created,
            btime: self.pipe.created,
            ..Stat::default()
        })
    }

    fn reopen(&self, flags: OpenFlags) -> Result<Arc<dyn File>> {
        self.pipe.open(flags)
    }

    fn describe(&self) -> String {
        format!("pipe:[{}]", self.pipe.number)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
