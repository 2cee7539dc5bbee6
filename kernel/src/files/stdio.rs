//! Descriptors 0, 1 and 2 of the first process, on the kernel's console: plain byte streams, framed or not
//! (docs/command-line.md, section 3), or a terminal.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};

use base::io::{In, Out};
use base::{Errno, Events, Once, Result, SpinLock, Subject};
use fs::tty::Winsize;
use fs::types::{FileType, OpenFlags, Stat, Time, makedev};
use fs::{File, IoFlags, Status};

use super::FdTable;
use super::tty::{Device, Tty, TtyFile};
use crate::devices::console;
use crate::process::{ids, signal};

/// Data link escape: starts a sequence in both directions.
const DLE: u8 = 0x10;
/// Input that waits at most, bytes; more is dropped, as by any serial line.
const INPUT_MAX: usize = 64 << 10;
/// `VEOF` of a new terminal.
const END_OF_TRANSMISSION: u8 = 4;

/// How the three descriptors are to be.
pub struct Options {
    /// A terminal with this many rows and columns.
    pub terminal: Option<(u16, u16)>,
    /// Output and input carry escapes.
    pub framing: bool,
    /// Descriptor 0 gets the console's input; else it is always at its end.
    pub input: bool,
}

static FRAMING: AtomicBool = AtomicBool::new(false);
/// The channel that output goes to, as the host knows it.
static CHANNEL: SpinLock<u8> = SpinLock::new(b'1');
static ROOM: Subject = Subject::new();
static INPUT: Input =
    Input { bytes: SpinLock::new(VecDeque::new()), ended: AtomicBool::new(false), subject: Subject::new() };
static DECODER: SpinLock<Decoder> = SpinLock::new(Decoder { sequence: Vec::new() });
static TERMINAL: Once<Arc<Tty>> = Once::new();

/// What came from the host and was not read yet.
struct Input {
    bytes: SpinLock<VecDeque<u8>>,
    ended: AtomicBool,
    subject: Subject,
}

/// Makes the three descriptors. Called once.
pub fn open(options: &Options) -> Result<Arc<FdTable>> {
    FRAMING.store(options.framing, Ordering::Relaxed);
    if options.framing {
        crate::klog::control(format_args!("coracle:framing"));
    }
    let table = FdTable::new();
    let install = |file: Arc<dyn File>| table.install(file, false, 0, 3).map(|_| ());
    match options.terminal {
        Some((rows, columns)) => {
            let tty = Tty::new((5, 1), Box::new(Screen));
            tty.resize(Winsize { rows, columns, ..Winsize::default() });
            TERMINAL.call_once(|| tty.clone());
            // The first process, whose id is 1, leads the session that the terminal controls.
            tty.assign(1, 1);
            let file = TtyFile::new(&tty, OpenFlags::RDWR | OpenFlags::NOCTTY, None);
            for _ in 0..3 {
                install(file.clone())?;
            }
        }
        None => {
            INPUT.ended.store(!options.input, Ordering::Relaxed);
            install(Arc::new(Stream::new(0)))?;
            install(Arc::new(Stream::new(b'1')))?;
            install(Arc::new(Stream::new(b'2')))?;
        }
    }
    console::on_room(|| {
        ROOM.notify(Events::OUT | Events::WRNORM);
        if let Some(tty) = TERMINAL.get() {
            tty.room_came();
        }
    });
    if options.input {
        console::on_input(received);
    }
    Ok(table)
}

/// Opens /dev/console: the terminal, or a stream in the direction that is asked for.
pub fn reopen(flags: OpenFlags) -> Arc<dyn File> {
    match TERMINAL.get() {
        Some(tty) => TtyFile::new(tty, flags, None),
        None => Arc::new(Stream::with(if flags.writable() { b'1' } else { 0 }, flags)),
    }
}

/// Writes to a channel; returns the bytes taken.
fn send(channel: u8, bytes: &[u8]) -> usize {
    let mut current = CHANNEL.lock();
    if !FRAMING.load(Ordering::Relaxed) {
        return console::write(&bytes[..bytes.len().min(console::room())]);
    }
    // Each byte takes two at most, and a change of the channel two more.
    let n = bytes.len().min(console::room().saturating_sub(2) / 2);
    if n == 0 {
        return 0;
    }
    let mut framed = Vec::with_capacity(n + 16);
    if *current != channel {
        framed.extend_from_slice(&[DLE, channel]);
        *current = channel;
    }
    for &byte in &bytes[..n] {
        match byte {
            DLE => framed.extend_from_slice(&[DLE, b'P']),
            0x1e => framed.extend_from_slice(&[DLE, b'^']),
            0x1f => framed.extend_from_slice(&[DLE, b'_']),
            byte => framed.push(byte),
        }
    }
    console::write(&framed);
    n
}

/// The console as a terminal's device.
struct Screen;

impl Device for Screen {
    fn write(&self, bytes: &[u8]) -> usize {
        send(b'1', bytes)
    }
    fn room(&self) -> usize {
        console::room() / 2
    }
}

/// Takes sequences apart that may come in pieces.
struct Decoder {
    /// The bytes after a DLE so far; empty outside of a sequence. The DLE itself is the first.
    sequence: Vec<u8>,
}

/// What input means.
enum Event {
    Byte(u8),
    End,
    Signal(i32),
    Window(Winsize),
}

impl Decoder {
    fn take(&mut self, byte: u8) -> Option<Event> {
        if self.sequence.is_empty() {
            if byte != DLE || !FRAMING.load(Ordering::Relaxed) {
                return Some(Event::Byte(byte));
            }
            self.sequence.push(byte);
            return None;
        }
        self.sequence.push(byte);
        let number = |digits: &[u8], radix: u32| {
            core::str::from_utf8(digits).ok().and_then(|text| u32::from_str_radix(text, radix).ok())
        };
        let event = match *self.sequence.as_slice() {
            [_, b'P'] => Some(Event::Byte(DLE)),
            [_, b'0'] => Some(Event::End),
            [_, b's' | b'w'] | [_, b's', _] => return None,
            [_, b's', a, b] => number(&[a, b], 10).map(|n| Event::Signal(n as i32)),
            [_, b'w', ref rest @ ..] if rest.len() < 8 => return None,
            [_, b'w', ref rest @ ..] => number(&rest[..4], 16).zip(number(&rest[4..], 16)).map(|(rows, columns)| {
                Event::Window(Winsize { rows: rows as u16, columns: columns as u16, ..Winsize::default() })
            }),
            // Not one that we know: dropped.
            _ => None,
        };
        self.sequence.clear();
        event
    }
}

/// Bytes came from the host. Runs as deferred work.
fn received(bytes: &[u8]) {
    for &byte in bytes {
        let event = DECODER.lock().take(byte);
        match (event, TERMINAL.get()) {
            (None, _) => {}
            (Some(Event::Byte(byte)), Some(tty)) => tty.input(&[byte]),
            (Some(Event::Byte(byte)), None) => {
                let mut waiting = INPUT.bytes.lock();
                if waiting.len() < INPUT_MAX {
                    waiting.push_back(byte);
                }
            }
            (Some(Event::End), Some(tty)) => tty.input(&[END_OF_TRANSMISSION]),
            (Some(Event::End), None) => INPUT.ended.store(true, Ordering::SeqCst),
            (Some(Event::Signal(number)), _) => {
                if let (Some(first), 1..=64) = (ids::process(1), number) {
                    // It may be ending just now; then there is nobody to tell.
                    let _ = signal::send_process(&first, signal::SigInfo::kernel(number));
                }
            }
            (Some(Event::Window(size)), Some(tty)) => tty.resize(size),
            (Some(Event::Window(_)), None) => {}
        }
    }
    INPUT.subject.notify(Events::IN | Events::RDNORM);
}

/// One of the three streams: 0 is input, else the output channel's letter.
struct Stream {
    channel: u8,
    status: Status,
    opened: Time,
}

impl Stream {
    fn new(channel: u8) -> Self {
        let flags = if channel == 0 { OpenFlags::empty() } else { OpenFlags::WRONLY };
        Self::with(channel, flags)
    }

    fn with(channel: u8, flags: OpenFlags) -> Self {
        Self { channel, status: Status::new(flags), opened: Time::now() }
    }
}

impl File for Stream {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        if self.channel != 0 {
            return Err(Errno::EBADF);
        }
        let data: Vec<u8> = {
            let mut waiting = INPUT.bytes.lock();
            let len = waiting.len().min(out.remaining());
            waiting.drain(..len).collect()
        };
        if data.is_empty() && out.remaining() > 0 && !INPUT.ended.load(Ordering::SeqCst) {
            return Err(Errno::EAGAIN);
        }
        out.write(&data)
    }

    fn write(&self, input: &mut In<'_>, _flags: IoFlags) -> Result<usize> {
        if self.channel == 0 {
            return Err(Errno::EBADF);
        }
        let mut chunk = [0; 512];
        let mut total = 0;
        while input.remaining() > 0 {
            // Only this much: what was read here must go out, since it cannot be put back.
            let room = console::room().saturating_sub(2) / 2;
            let len = chunk.len().min(input.remaining()).min(room);
            if len == 0 {
                return if total > 0 { Ok(total) } else { Err(Errno::EAGAIN) };
            }
            let moved = match input.read(&mut chunk[..len]) {
                Ok(moved) => moved,
                Err(error) => return if total > 0 { Ok(total) } else { Err(error) },
            };
            let mut sent = 0;
            while sent < moved {
                // Another thread may have taken the room meanwhile.
                match send(self.channel, &chunk[sent..moved]) {
                    0 => crate::sched::yield_now(),
                    n => sent += n,
                }
            }
            total += moved;
        }
        Ok(total)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self) -> Events {
        if self.channel == 0 {
            let ended = INPUT.ended.load(Ordering::SeqCst);
            let some = !INPUT.bytes.lock().is_empty();
            let mut events = if ended { Events::HUP } else { Events::empty() };
            if some || ended {
                events |= Events::IN | Events::RDNORM;
            }
            events
        } else if console::room() >= console::LEAST_ROOM {
            Events::OUT | Events::WRNORM
        } else {
            Events::empty()
        }
    }

    fn subject(&self) -> &Subject {
        if self.channel == 0 { &INPUT.subject } else { &ROOM }
    }

    fn reopen(&self, flags: OpenFlags) -> Result<Arc<dyn File>> {
        Ok(Arc::new(Self::with(self.channel, flags)))
    }

    fn stat(&self) -> Result<Stat> {
        Ok(Stat {
            ino: 4 + u64::from(self.channel),
            mode: FileType::Char.mode_bits() | 0o600,
            nlink: 1,
            rdev: makedev(5, 1),
            blksize: 4096,
            atime: self.opened,
            mtime: self.opened,
            ctime: self.opened,
            btime: self.opened,
            ..Stat::default()
        })
    }

    fn describe(&self) -> String {
        String::from("/dev/console")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
