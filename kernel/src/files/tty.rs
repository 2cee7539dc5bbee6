//! Terminals: the line discipline of `fs::tty` between a device (the console, a pty's master) and open files.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use base::io::{In, Out};
use base::time::now_ns;
use base::{Errno, Events, Result, SpinLock, Subject};
use fs::tty::{LineDiscipline, Reaction, Termios, Winsize};
use fs::types::{FileType, OpenFlags, Stat, Time, makedev};
use fs::{File, IoFlags, Status};

use crate::process::signal::{self, SigInfo};
use crate::sched;
use crate::sched::wait::wait_for;

/// ioctl numbers (asm-generic/ioctls.h).
mod request {
    pub const TCGETS: u32 = 0x5401;
    pub const TCSETS: u32 = 0x5402;
    pub const TCSETSW: u32 = 0x5403;
    pub const TCSETSF: u32 = 0x5404;
    pub const TCSBRK: u32 = 0x5409;
    pub const TCXONC: u32 = 0x540a;
    pub const TCFLSH: u32 = 0x540b;
    pub const TIOCSCTTY: u32 = 0x540e;
    pub const TIOCGPGRP: u32 = 0x540f;
    pub const TIOCSPGRP: u32 = 0x5410;
    pub const TIOCOUTQ: u32 = 0x5411;
    pub const TIOCGWINSZ: u32 = 0x5413;
    pub const TIOCSWINSZ: u32 = 0x5414;
    pub const FIONREAD: u32 = 0x541b;
    pub const TIOCNOTTY: u32 = 0x5422;
    pub const TIOCGSID: u32 = 0x5429;
}

const SIGHUP: i32 = 1;
const SIGCONT: i32 = 18;
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;
const SIGWINCH: i32 = 28;

/// Where a terminal's output goes.
pub trait Device: Send + Sync {
    /// Takes processed output; returns how many bytes it took. Must not sleep.
    fn write(&self, bytes: &[u8]) -> usize;
    /// How many bytes it would take now.
    fn room(&self) -> usize;
    /// A program changed the window's size.
    fn resized(&self, _size: Winsize) {}
}

/// A terminal.
pub struct Tty {
    discipline: SpinLock<LineDiscipline>,
    device: Box<dyn Device>,
    subject: Subject,
    /// Session that it controls; 0 if none.
    session: AtomicU32,
    /// Process group that input signals go to; 0 if none.
    foreground: AtomicU32,
    hung_up: AtomicBool,
    number: u64,
}

impl Tty {
    /// A terminal with this device number.
    pub fn new(number: (u32, u32), device: Box<dyn Device>) -> Arc<Self> {
        Arc::new(Self {
            discipline: SpinLock::new(LineDiscipline::default()),
            device,
            subject: Subject::new(),
            session: AtomicU32::new(0),
            foreground: AtomicU32::new(0),
            hung_up: AtomicBool::new(false),
            number: makedev(number.0, number.1),
        })
    }

    /// Who is told when it becomes ready.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The device number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Input came. In a thread or as deferred work.
    pub fn input(&self, bytes: &[u8]) {
        let reaction = self.discipline.lock().receive(bytes);
        self.react(reaction);
    }

    fn react(&self, reaction: Reaction) {
        if !reaction.echo.is_empty() {
            // An echo that does not fit is lost, as on any terminal whose output is full.
            self.device.write(&reaction.echo);
        }
        if let Some(signal) = reaction.signal {
            self.signal_foreground(signal);
        }
        if reaction.readable {
            self.subject.notify(Events::IN | Events::RDNORM);
        }
    }

    fn signal_foreground(&self, signal: i32) {
        let group = self.foreground.load(Ordering::Relaxed);
        if group != 0 {
            // No such group any more: nobody to tell.
            let _ = signal::send_group(group, SigInfo::kernel(signal), false);
        }
    }

    /// The device has room again.
    pub fn room_came(&self) {
        self.subject.notify(Events::OUT | Events::WRNORM);
    }

    /// The other side is gone: reads give end of file, writes fail, the session gets SIGHUP and SIGCONT.
    pub fn hang_up(&self) {
        self.hung_up.store(true, Ordering::SeqCst);
        self.signal_foreground(SIGHUP);
        self.signal_foreground(SIGCONT);
        self.subject.notify(Events::all());
    }

    /// Sets the window's size and tells the foreground group if it changed.
    pub fn resize(&self, size: Winsize) {
        let changed = self.discipline.lock().set_winsize(size);
        if changed {
            self.signal_foreground(SIGWINCH);
        }
    }

    /// The window's size.
    pub fn size(&self) -> Winsize {
        self.discipline.lock().winsize()
    }

    /// Makes this the controlling terminal of the caller's session if the caller leads one without a terminal
    /// and this terminal controls no other.
    pub fn acquire(self: &Arc<Self>) -> bool {
        let Some(process) = sched::current().process() else { return false };
        let session = process.session();
        if session != process.pid
            || self.session.compare_exchange(0, session, Ordering::SeqCst, Ordering::SeqCst).is_err()
        {
            return self.session.load(Ordering::SeqCst) == session;
        }
        self.foreground.store(process.group(), Ordering::SeqCst);
        super::controlling::set(session, self.clone());
        true
    }

    /// Makes this the controlling terminal of a session that has none, with a foreground group: for the first process.
    pub fn assign(self: &Arc<Self>, session: u32, group: u32) {
        self.session.store(session, Ordering::SeqCst);
        self.foreground.store(group, Ordering::SeqCst);
        super::controlling::set(session, self.clone());
    }

    /// The session that it controls, 0 if none.
    pub fn session(&self) -> u32 {
        self.session.load(Ordering::SeqCst)
    }

    /// The foreground process group, 0 if none.
    pub fn foreground(&self) -> u32 {
        self.foreground.load(Ordering::SeqCst)
    }

    /// The session's leader is gone, or gave the terminal up.
    pub fn release(&self) {
        self.signal_foreground(SIGHUP);
        self.signal_foreground(SIGCONT);
        self.session.store(0, Ordering::SeqCst);
        self.foreground.store(0, Ordering::SeqCst);
    }

    /// `EIO` or a stop signal if the caller's group is in the background of this terminal.
    fn check_foreground(&self, signal: i32) -> Result<()> {
        let Some(process) = sched::current().process() else { return Ok(()) };
        let foreground = self.foreground();
        if self.session() != process.session() || foreground == 0 || process.group() == foreground {
            return Ok(());
        }
        let blocked = sched::current().ext.blocked() & signal::set_of(signal) != 0;
        if blocked || process.actions().get(signal).ignores(signal) {
            return if signal == SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        signal::send_group(process.group(), SigInfo::kernel(signal), false)?;
        Err(Errno::ERESTARTSYS)
    }

    /// Reads without waiting: a line, or bytes in raw mode. `EAGAIN` if there is nothing.
    pub fn read(&self, out: &mut Out<'_>) -> Result<usize> {
        self.check_foreground(SIGTTIN)?;
        let wanted = out.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        let limits = self.discipline.lock().raw_limits();
        match limits {
            Some((0, 0)) => match self.take(wanted, 1) {
                Some(data) => out.write(&data),
                None => Ok(0),
            },
            Some((0, time)) => {
                // A read with a time limit of its own; it ends with no bytes, not with an error.
                let deadline = now_ns() + u64::from(time) * 100_000_000;
                match wait_for(&self.subject, Events::IN, Some(deadline), || self.take(wanted, 1).ok_or(Errno::EAGAIN))
                {
                    Ok(data) => out.write(&data),
                    Err(Errno::ETIMEDOUT) => Ok(0),
                    Err(error) => Err(error),
                }
            }
            limits => {
                let least = limits.map_or(1, |(least, _)| least.min(wanted));
                match self.take(wanted, least) {
                    Some(data) => out.write(&data),
                    None if self.hung_up.load(Ordering::SeqCst) => Ok(0),
                    None => Err(Errno::EAGAIN),
                }
            }
        }
    }

    fn take(&self, max: usize, least: usize) -> Option<Vec<u8>> {
        let mut discipline = self.discipline.lock();
        let short = discipline.raw_limits().is_some() && discipline.readable_len() < least;
        if short { None } else { discipline.read(max) }
    }

    /// Writes what the device takes. `EAGAIN` if that is nothing, `EIO` after a hang-up.
    pub fn write(&self, input: &mut In<'_>) -> Result<usize> {
        if self.discipline.lock().termios().local.contains(fs::tty::LocalFlags::TOSTOP) {
            self.check_foreground(SIGTTOU)?;
        }
        let mut total = 0;
        let mut chunk = [0; 512];
        while input.remaining() > 0 {
            if self.hung_up.load(Ordering::SeqCst) {
                return if total > 0 { Ok(total) } else { Err(Errno::EIO) };
            }
            // Processing at most doubles the bytes, tabs aside: those are expanded to eight.
            let room = self.device.room() / 8;
            let stopped = self.discipline.lock().is_stopped();
            if room == 0 || stopped {
                return if total > 0 { Ok(total) } else { Err(Errno::EAGAIN) };
            }
            let len = chunk.len().min(room).min(input.remaining());
            let moved = match input.read(&mut chunk[..len]) {
                Ok(moved) => moved,
                Err(error) => return if total > 0 { Ok(total) } else { Err(error) },
            };
            let mut processed = Vec::new();
            self.discipline.lock().output(&chunk[..moved], &mut processed);
            self.device.write(&processed);
            total += moved;
        }
        Ok(total)
    }

    /// What is ready now.
    pub fn poll(&self) -> Events {
        let (readable, stopped) = {
            let discipline = self.discipline.lock();
            (discipline.is_readable(), discipline.is_stopped())
        };
        let mut events = Events::empty();
        if readable {
            events |= Events::IN | Events::RDNORM;
        }
        if self.hung_up.load(Ordering::SeqCst) {
            events |= Events::IN | Events::RDNORM | Events::HUP;
        }
        if !stopped && self.device.room() >= 8 {
            events |= Events::OUT | Events::WRNORM;
        }
        events
    }

    /// The requests that every terminal knows. `ENOTTY` for others.
    pub fn ioctl(self: &Arc<Self>, command: u32, arg: usize) -> Result<u64> {
        let own_session = || sched::current().process().is_some_and(|process| process.session() == self.session());
        match command {
            request::TCGETS => put(arg, &self.discipline.lock().termios().to_bytes()),
            request::TCSETS | request::TCSETSW | request::TCSETSF => {
                let mut bytes = [0; Termios::LEN];
                get(arg, &mut bytes)?;
                let reaction = {
                    let mut discipline = self.discipline.lock();
                    if command == request::TCSETSF {
                        discipline.flush_input();
                    }
                    discipline.set_termios(Termios::from_bytes(&bytes))
                };
                self.react(reaction);
                Ok(0)
            }
            request::TCSBRK => Ok(0),
            request::TCXONC => {
                match arg {
                    0 | 1 => self.discipline.lock().set_stopped(arg == 0),
                    2 | 3 => {}
                    _ => return Err(Errno::EINVAL),
                }
                self.room_came();
                Ok(0)
            }
            request::TCFLSH => {
                match arg {
                    0 | 2 => self.discipline.lock().flush_input(),
                    1 => {}
                    _ => return Err(Errno::EINVAL),
                }
                Ok(0)
            }
            request::FIONREAD => put(arg, &(self.discipline.lock().readable_len() as i32).to_ne_bytes()),
            request::TIOCOUTQ => put(arg, &0i32.to_ne_bytes()),
            request::TIOCGWINSZ => put(arg, &self.size().to_bytes()),
            request::TIOCSWINSZ => {
                let mut bytes = [0; 8];
                get(arg, &mut bytes)?;
                let size = Winsize::from_bytes(&bytes);
                self.resize(size);
                self.device.resized(size);
                Ok(0)
            }
            request::TIOCSCTTY => {
                if self.acquire() {
                    Ok(0)
                } else {
                    Err(Errno::EPERM)
                }
            }
            request::TIOCNOTTY => {
                if !own_session() {
                    return Err(Errno::ENOTTY);
                }
                let process = sched::current().process().ok_or(Errno::ENOTTY)?;
                if process.session() == process.pid {
                    super::controlling::release(process.session());
                }
                Ok(0)
            }
            request::TIOCGSID if own_session() => put(arg, &self.session().to_ne_bytes()),
            request::TIOCGPGRP if own_session() => put(arg, &self.foreground().to_ne_bytes()),
            request::TIOCSPGRP if own_session() => {
                let mut bytes = [0; 4];
                get(arg, &mut bytes)?;
                let group = i32::from_ne_bytes(bytes);
                if group <= 0 {
                    return Err(Errno::EINVAL);
                }
                if self.foreground() != group as u32 {
                    self.check_foreground(SIGTTOU)?;
                }
                self.foreground.store(group as u32, Ordering::SeqCst);
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
}

/// Copies to user memory, whole.
pub fn put(address: usize, bytes: &[u8]) -> Result<u64> {
    if Out::user(address, bytes.len()).write(bytes)? == bytes.len() { Ok(0) } else { Err(Errno::EFAULT) }
}

/// Copies from user memory, whole.
pub fn get(address: usize, bytes: &mut [u8]) -> Result<()> {
    let len = bytes.len();
    if In::user(address, len).read(bytes)? == len { Ok(()) } else { Err(Errno::EFAULT) }
}

/// An opening of a terminal.
pub struct TtyFile {
    tty: Arc<Tty>,
    status: Status,
    opened: Time,
    /// Runs when the file is closed: a pty's bookkeeping.
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

impl TtyFile {
    /// Opens it; without `O_NOCTTY` it becomes the caller's controlling terminal if it can.
    pub fn new(tty: &Arc<Tty>, flags: OpenFlags, guard: Option<Box<dyn Any + Send + Sync>>) -> Arc<Self> {
        if !flags.contains(OpenFlags::NOCTTY) {
            tty.acquire();
        }
        Arc::new(Self { tty: tty.clone(), status: Status::new(flags), opened: Time::now(), _guard: guard })
    }
}

impl File for TtyFile {
    fn status(&self) -> &Status {
        &self.status
    }
    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        self.tty.read(out)
    }
    fn write(&self, input: &mut In<'_>, _flags: IoFlags) -> Result<usize> {
        self.tty.write(input)
    }
    fn is_stream(&self) -> bool {
        true
    }
    fn poll(&self) -> Events {
        self.tty.poll()
    }
    fn subject(&self) -> &Subject {
        self.tty.subject()
    }
    fn ioctl(&self, command: u32, arg: usize) -> Result<u64> {
        self.tty.ioctl(command, arg)
    }
    fn stat(&self) -> Result<Stat> {
        Ok(terminal_stat(self.tty.number(), self.opened))
    }
    fn reopen(&self, flags: OpenFlags) -> Result<Arc<dyn File>> {
        Ok(Self::new(&self.tty, flags, None))
    }
    fn describe(&self) -> String {
        let (major, minor) = (fs::types::major(self.tty.number()), fs::types::minor(self.tty.number()));
        if major == 136 { format!("/dev/pts/{minor}") } else { String::from("/dev/console") }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Metadata of a terminal's node.
pub fn terminal_stat(number: u64, opened: Time) -> Stat {
    Stat {
        ino: number + 3,
        mode: FileType::Char.mode_bits() | 0o620,
        nlink: 1,
        gid: 5,
        rdev: number,
        blksize: 1024,
        atime: opened,
        mtime: opened,
        ctime: opened,
        btime: opened,
        ..Stat::default()
    }
}
