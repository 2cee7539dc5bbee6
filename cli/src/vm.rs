//! The running VM: QEMU as a child that never outlives us, bytes between it and the terminal, signals, and the exit code.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::console::{self, Decoder, Piece};
use crate::{EXIT_NOT_FOUND, EXIT_NOT_RUNNABLE, EXIT_OURS, failure, terminal};

/// How long a program that was sent a signal may take to end before the VM is stopped.
const GRACE: Duration = Duration::from_secs(5);
/// How long QEMU may take to end after the guest's last line, or after it was told to.
const LINGER: Duration = Duration::from_secs(3);
/// Typed bytes wait at most so long for the kernel to say whether it escapes.
const FRAMING_WAIT: Duration = Duration::from_secs(20);
/// Kernel log lines that are kept for an error.
const KEPT_LINES: usize = 120;
/// In `--tty` this key (Ctrl-]) ends the VM.
const QUIT_KEY: u8 = 0x1d;

/// What the user wants to see and type.
pub struct Settings {
    /// The program has a terminal.
    pub tty: bool,
    /// Show the kernel's log.
    pub verbose: bool,
}

enum Event {
    Piece(Piece),
    Signal(i32),
    Quit,
    /// Our stdout or stderr is gone.
    OutputClosed,
    /// QEMU closed its stdout: it has ended.
    Ended,
}

/// Whether the kernel escapes: unknown at first.
#[derive(Default)]
struct Framing(Mutex<Option<bool>>, Condvar);

impl Framing {
    fn set(&self, on: bool) {
        if let Ok(mut state) = self.0.lock() {
            state.get_or_insert(on);
            self.1.notify_all();
        }
    }

    fn known(&self) -> Option<bool> {
        self.0.lock().ok().and_then(|s| *s)
    }

    fn wait(&self) -> bool {
        let Ok(state) = self.0.lock() else { return false };
        match self.1.wait_timeout_while(state, FRAMING_WAIT, |s| s.is_none()) {
            Ok((state, _)) => state.unwrap_or(false),
            Err(_) => false,
        }
    }
}

/// Boots, and returns when the VM is gone. The result is the exit code of the command.
pub fn boot(qemu: &Path, arguments: &[OsString], settings: &Settings) -> Result<u8> {
    // Before anything runs: a signal from here on ends the VM, not only us.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH]).context("cannot handle signals")?;
    let mut child = spawn(qemu, arguments)?;
    let (events, inbox) = channel();
    let framing = Arc::new(Framing::default());
    let (to_guest, from_us) = sync_channel(64);
    if let Some(stdin) = child.stdin.take() {
        thread::spawn(move || write_guest(stdin, &from_us));
    }
    if let Some(stdout) = child.stdout.take() {
        let (events, framing) = (events.clone(), framing.clone());
        thread::spawn(move || read_guest(stdout, &events, &framing));
    }
    let complaints = child.stderr.take().map(|e| thread::spawn(move || read_complaints(e)));
    let raw = if settings.tty { terminal::Raw::enter() } else { None };
    // Also when stdin is /dev/null or closed: its end is told to the guest, and signals go the same way.
    {
        let (events, framing, to_guest) = (events.clone(), framing.clone(), to_guest.clone());
        let quits = raw.is_some();
        thread::spawn(move || read_stdin(&to_guest, &framing, &events, quits));
    }
    let handle = signals.handle();
    thread::spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    });
    let mut running = Running {
        child,
        to_guest,
        framing,
        settings,
        log: VecDeque::new(),
        exit: None,
        panicked: false,
        ended_by: None,
    };
    let status = running.watch(&inbox);
    drop(raw);
    handle.close();
    let complaints = complaints.and_then(|t| t.join().ok()).unwrap_or_default();
    running.outcome(status?, &complaints)
}

fn spawn(qemu: &Path, arguments: &[OsString]) -> Result<Child> {
    let us = rustix::process::getpid();
    let mut command = Command::new(qemu);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: the terminal's Ctrl-C comes to us alone, who decide how the VM ends.
    command.process_group(0);
    // SAFETY: between fork and exec the closure only makes two system calls, which allocate nothing and take no lock.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(us) {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe));
            }
            Ok(())
        });
    }
    command.spawn().with_context(|| format!("cannot start {}", qemu.display()))
}

/// From the guest to the user.
fn read_guest(mut from: ChildStdout, events: &Sender<Event>, framing: &Framing) {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 16384];
    let mut pieces = Vec::new();
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        decoder.feed(&buffer[..count], &mut pieces);
        for piece in pieces.drain(..) {
            let written = match &piece {
                Piece::Out(bytes) => put(&mut io::stdout().lock(), bytes),
                Piece::Err(bytes) => put(&mut io::stderr().lock(), bytes),
                Piece::Framing => {
                    framing.set(true);
                    Ok(())
                }
                _ => Ok(()),
            };
            match (piece, written) {
                (_, Err(_)) => {
                    let _ = events.send(Event::OutputClosed);
                }
                (Piece::Out(_) | Piece::Err(_), Ok(())) => framing.set(false),
                (other, Ok(())) => {
                    let _ = events.send(Event::Piece(other));
                }
            }
        }
    }
    let _ = events.send(Event::Ended);
}

fn put(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// To the guest, in order; ends when QEMU does.
fn write_guest(mut to: ChildStdin, from: &Receiver<Vec<u8>>) {
    while let Ok(bytes) = from.recv() {
        if put(&mut to, &bytes).is_err() {
            return;
        }
    }
}

/// From the user to the guest.
fn read_stdin(to: &SyncSender<Vec<u8>>, framing: &Framing, events: &Sender<Event>, quits: bool) {
    let mut buffer = [0; 4096];
    loop {
        let count = match io::stdin().lock().read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let bytes = &buffer[..count];
        if quits && bytes.contains(&QUIT_KEY) {
            let _ = events.send(Event::Quit);
            return;
        }
        let bytes = if framing.wait() { console::escape_input(bytes) } else { bytes.to_vec() };
        if to.send(bytes).is_err() {
            return;
        }
    }
    if framing.wait() {
        let _ = to.send(console::END_OF_INPUT.to_vec());
    }
}

/// What QEMU itself says, but for its warnings.
fn read_complaints(mut from: ChildStderr) -> String {
    let mut text = Vec::new();
    let _ = from.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .filter(|l| !l.contains("warning:") && !l.contains("terminating on signal"))
        .collect::<Vec<_>>()
        .join("\n")
}

struct Running<'a> {
    child: Child,
    to_guest: SyncSender<Vec<u8>>,
    framing: Arc<Framing>,
    settings: &'a Settings,
    log: VecDeque<String>,
    exit: Option<u8>,
    panicked: bool,
    /// The signal that ends the run.
    ended_by: Option<i32>,
}

impl Running<'_> {
    /// Handles events until QEMU is gone.
    fn watch(&mut self, inbox: &Receiver<Event>) -> Result<ExitStatus> {
        // When to become firmer, and whether QEMU was told to end already.
        let mut deadline: Option<Instant> = None;
        let mut told = false;
        loop {
            let event = match deadline {
                None => inbox.recv().unwrap_or(Event::Ended),
                Some(at) => match inbox.recv_timeout(at.saturating_duration_since(Instant::now())) {
                    Ok(event) => event,
                    Err(RecvTimeoutError::Disconnected) => Event::Ended,
                    Err(RecvTimeoutError::Timeout) => {
                        self.send_qemu(if told { Signal::KILL } else { Signal::TERM });
                        deadline = Some(Instant::now() + LINGER);
                        told = true;
                        continue;
                    }
                },
            };
            let wait = match event {
                Event::Ended => break,
                Event::Piece(piece) => self.piece(piece),
                Event::Signal(SIGWINCH) => {
                    self.window_changed();
                    None
                }
                Event::Signal(signal) if self.ended_by.is_none() => {
                    self.ended_by = Some(signal);
                    Some(if self.signal_guest(signal) { GRACE } else { Duration::ZERO })
                }
                Event::Signal(_) => Some(Duration::ZERO),
                Event::Quit => {
                    self.ended_by.get_or_insert(SIGINT);
                    Some(Duration::ZERO)
                }
                Event::OutputClosed => {
                    self.ended_by.get_or_insert(signal_hook::consts::SIGPIPE);
                    Some(Duration::ZERO)
                }
            };
            if let Some(wait) = wait {
                let at = Instant::now() + wait;
                deadline = Some(deadline.map_or(at, |d| d.min(at)));
            }
        }
        self.child.wait().context("cannot wait for QEMU")
    }

    /// Takes note; returns how long QEMU may live on when this was the guest's last word.
    fn piece(&mut self, piece: Piece) -> Option<Duration> {
        match piece {
            Piece::Log(line) => {
                if self.settings.verbose {
                    eprintln!("kernel: {line}");
                } else {
                    if self.log.len() == KEPT_LINES {
                        self.log.pop_front();
                    }
                    self.log.push_back(line);
                }
                None
            }
            Piece::Exit(code) => {
                self.exit = Some(code);
                Some(LINGER)
            }
            Piece::Panic => {
                self.panicked = true;
                Some(LINGER)
            }
            _ => None,
        }
    }

    fn signal_guest(&self, number: i32) -> bool {
        self.framing.known() == Some(true)
            && !matches!(self.to_guest.try_send(console::signal(number)), Err(TrySendError::Full(_)))
    }

    fn window_changed(&self) {
        if self.settings.tty && self.framing.known() == Some(true) {
            let (rows, columns) = terminal::size();
            let _ = self.to_guest.try_send(console::window_size(rows, columns));
        }
    }

    fn send_qemu(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// The exit code, with what must be said about it.
    fn outcome(&mut self, status: ExitStatus, complaints: &str) -> Result<u8> {
        if let Some(signal) = self.ended_by {
            return Ok(128 + signal as u8);
        }
        if self.panicked {
            self.show_log(usize::MAX, |_| true);
            return Err(failure(
                EXIT_OURS,
                "the kernel panicked (its words are above); this is a bug of Coracle, please report it",
            ));
        }
        if let Some(code) = self.exit {
            if matches!(code, EXIT_OURS | EXIT_NOT_RUNNABLE | EXIT_NOT_FOUND) {
                self.show_log(10, |l| l.chars().take(40).collect::<String>().to_ascii_lowercase().contains("error"));
            }
            return Ok(code);
        }
        if !complaints.is_empty() {
            return Err(failure(EXIT_OURS, format!("QEMU failed: {complaints}")));
        }
        match (status.code(), status.signal()) {
            (Some(code), _) if code & 1 == 1 => Ok((code >> 1) as u8),
            (_, Some(signal)) => Err(failure(EXIT_OURS, format!("QEMU was killed by signal {signal}"))),
            _ => {
                self.show_log(20, |_| true);
                Err(failure(
                    EXIT_OURS,
                    "the VM stopped by itself before the program ended; run again with --verbose to see why",
                ))
            }
        }
    }

    /// Shows the last `most` kept lines that `which` wants.
    fn show_log(&self, most: usize, which: impl Fn(&str) -> bool) {
        let wanted: Vec<&String> = self.log.iter().filter(|l| which(l)).collect();
        for line in wanted.iter().skip(wanted.len().saturating_sub(most)) {
            eprintln!("kernel: {line}");
        }
    }
}
