//! The terminal line discipline (N_TTY): what happens between the bytes that a terminal sends and those that a
//! program reads, and the other way. Pure: no device, no waiting; `kernel/src/files` puts both around it.

mod termios;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

pub use termios::{Control, InputFlags, LocalFlags, OutputFlags, Termios, Winsize};

/// Input is dropped when this many bytes wait (`MAX_CANON` and N_TTY's buffer).
const CAPACITY: usize = 4096;

/// `SIGINT`, `SIGQUIT`, `SIGTSTP`.
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGTSTP: i32 = 20;

/// What the driver has to do after input came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// Bytes to send to the terminal.
    pub echo: Vec<u8>,
    /// A signal for the foreground process group.
    pub signal: Option<i32>,
    /// There is something to read that was not there before.
    pub readable: bool,
}

/// How a byte of the line being edited looks on the screen.
fn shown_width(byte: u8) -> usize {
    match byte {
        b'\t' => 1,
        0..=31 | 127 => 2,
        _ => 1,
    }
}

/// The state of one terminal.
#[derive(Debug)]
pub struct LineDiscipline {
    termios: Termios,
    winsize: Winsize,
    /// Bytes that can be read, ends of lines included; in canonical mode whole lines only.
    ready: VecDeque<u8>,
    /// Where lines end in `ready`: lengths of the lines, in order. An empty line is an end of file.
    lines: VecDeque<usize>,
    /// The line being edited.
    line: Vec<u8>,
    /// The next byte is taken literally (after `VLNEXT`).
    literal: bool,
    /// Cursor column of the output, for tabs and `ONLRET`.
    column: usize,
    /// Output is stopped (`VSTOP`).
    stopped: bool,
}

impl Default for LineDiscipline {
    fn default() -> Self {
        Self {
            termios: Termios::default(),
            winsize: Winsize { rows: 24, columns: 80, ..Winsize::default() },
            ready: VecDeque::new(),
            lines: VecDeque::new(),
            line: Vec::new(),
            literal: false,
            column: 0,
            stopped: false,
        }
    }
}

impl LineDiscipline {
    /// The settings.
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Replaces the settings. Leaving canonical mode makes the line being edited readable.
    pub fn set_termios(&mut self, termios: Termios) -> Reaction {
        let was_canonical = self.canonical();
        self.termios = termios;
        let mut reaction = Reaction::default();
        if was_canonical && !self.canonical() {
            let line = core::mem::take(&mut self.line);
            self.ready.extend(line);
            self.lines.clear();
            reaction.readable = !self.ready.is_empty();
        } else if !was_canonical && self.canonical() && !self.ready.is_empty() {
            // What was read without lines counts as one.
            self.lines.push_back(self.ready.len());
        }
        reaction
    }

    /// Rows and columns.
    pub fn winsize(&self) -> Winsize {
        self.winsize
    }

    /// Sets rows and columns; true if they changed (the foreground group gets `SIGWINCH`).
    pub fn set_winsize(&mut self, winsize: Winsize) -> bool {
        core::mem::replace(&mut self.winsize, winsize) != winsize
    }

    fn canonical(&self) -> bool {
        self.termios.local.contains(LocalFlags::ICANON)
    }

    fn is(&self, byte: u8, control: Control) -> bool {
        let value = self.termios.control[control as usize];
        value != 0 && value == byte
    }

    /// True if a read would return now: a line, or in raw mode at least one byte.
    pub fn is_readable(&self) -> bool {
        if self.canonical() { !self.lines.is_empty() } else { !self.ready.is_empty() }
    }

    /// Bytes that `FIONREAD` tells.
    pub fn readable_len(&self) -> usize {
        if self.canonical() { self.lines.iter().sum() } else { self.ready.len() }
    }

    /// `VMIN` and `VTIME` (tenths of a second), in raw mode.
    pub fn raw_limits(&self) -> Option<(usize, u8)> {
        (!self.canonical()).then(|| {
            let control = &self.termios.control;
            (usize::from(control[Control::Min as usize]), control[Control::Time as usize])
        })
    }

    /// Takes what one read gets: at most one line in canonical mode, at most `max` bytes. Empty with a line waiting
    /// means end of file; `None` means nothing is there.
    pub fn read(&mut self, max: usize) -> Option<Vec<u8>> {
        if !self.is_readable() {
            return None;
        }
        let available = if self.canonical() { self.lines[0] } else { self.ready.len() };
        let count = available.min(max);
        let data = self.ready.drain(..count.min(self.ready.len())).collect();
        if self.canonical() {
            if count == available {
                self.lines.pop_front();
            } else {
                self.lines[0] -= count;
            }
        }
        Some(data)
    }

    /// Drops what waits to be read (`TCIFLUSH`).
    pub fn flush_input(&mut self) {
        self.ready.clear();
        self.lines.clear();
        self.line.clear();
    }

    /// Input came from the terminal.
    pub fn receive(&mut self, bytes: &[u8]) -> Reaction {
        let mut reaction = Reaction::default();
        let was_readable = self.is_readable();
        for &byte in bytes {
            self.receive_byte(byte, &mut reaction);
        }
        reaction.readable = reaction.readable || (self.is_readable() && !was_readable) || self.is_readable();
        reaction
    }

    fn receive_byte(&mut self, mut byte: u8, reaction: &mut Reaction) {
        let (input, local) = (self.termios.input, self.termios.local);
        if input.contains(InputFlags::ISTRIP) {
            byte &= 0x7f;
        }
        if core::mem::take(&mut self.literal) {
            self.store(byte, reaction);
            return;
        }
        if input.contains(InputFlags::IXON) {
            if self.is(byte, Control::Stop) {
                self.stopped = true;
                return;
            }
            if self.is(byte, Control::Start) {
                self.stopped = false;
                return;
            }
            if input.contains(InputFlags::IXANY) {
                self.stopped = false;
            }
        }
        if local.contains(LocalFlags::ISIG) {
            let signal = [(Control::Interrupt, SIGINT), (Control::Quit, SIGQUIT), (Control::Suspend, SIGTSTP)]
                .into_iter()
                .find(|(control, _)| self.is(byte, *control));
            if let Some((_, signal)) = signal {
                reaction.signal = Some(signal);
                if !local.contains(LocalFlags::NOFLSH) {
                    self.flush_input();
                }
                self.echo(byte, reaction);
                return;
            }
        }
        match byte {
            b'\r' if input.contains(InputFlags::IGNCR) => return,
            b'\r' if input.contains(InputFlags::ICRNL) => byte = b'\n',
            b'\n' if input.contains(InputFlags::INLCR) => byte = b'\r',
            b'A'..=b'Z' if input.contains(InputFlags::IUCLC) && local.contains(LocalFlags::IEXTEN) => byte |= 0x20,
            _ => {}
        }
        if self.canonical() { self.edit(byte, reaction) } else { self.store(byte, reaction) }
    }

    /// A byte in canonical mode: editing, end of line, or part of it.
    fn edit(&mut self, byte: u8, reaction: &mut Reaction) {
        let extended = self.termios.local.contains(LocalFlags::IEXTEN);
        if self.is(byte, Control::Erase) {
            self.erase_one(reaction);
        } else if self.is(byte, Control::Kill) {
            while !self.line.is_empty() {
                self.erase_one(reaction);
            }
        } else if extended && self.is(byte, Control::WordErase) {
            while self.line.last().is_some_and(u8::is_ascii_whitespace) {
                self.erase_one(reaction);
            }
            while self.line.last().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                self.erase_one(reaction);
            }
        } else if extended && self.is(byte, Control::LiteralNext) {
            self.literal = true;
        } else if extended && self.is(byte, Control::Reprint) {
            reaction.echo.extend_from_slice(b"^R\r\n");
            for byte in self.line.clone() {
                self.echo(byte, reaction);
            }
        } else if self.is(byte, Control::EndOfFile) {
            self.end_line(None);
        } else if byte == b'\n' || self.is(byte, Control::EndOfLine) || self.is(byte, Control::EndOfLine2) {
            if self.termios.local.intersects(LocalFlags::ECHO | LocalFlags::ECHONL) {
                self.output_byte(byte, &mut reaction.echo);
            }
            self.end_line(Some(byte));
        } else {
            self.store(byte, reaction);
        }
    }

    fn end_line(&mut self, terminator: Option<u8>) {
        self.line.extend(terminator);
        self.lines.push_back(self.line.len());
        let line = core::mem::take(&mut self.line);
        self.ready.extend(line);
    }

    fn store(&mut self, byte: u8, reaction: &mut Reaction) {
        // One byte stays free for the end of the line.
        if self.ready.len() + self.line.len() + 1 >= CAPACITY {
            if self.termios.input.contains(InputFlags::IMAXBEL) {
                reaction.echo.push(7);
            }
            return;
        }
        if self.canonical() {
            self.line.push(byte)
        } else {
            self.ready.push_back(byte)
        }
        self.echo(byte, reaction);
    }

    fn echo(&mut self, byte: u8, reaction: &mut Reaction) {
        let local = self.termios.local;
        if !local.contains(LocalFlags::ECHO) {
            return;
        }
        match byte {
            b'\t' | b'\n' => self.output_byte(byte, &mut reaction.echo),
            0..=31 | 127 if local.contains(LocalFlags::ECHOCTL) => {
                reaction.echo.extend_from_slice(&[b'^', byte ^ 0x40]);
                self.column += 2;
            }
            _ => {
                reaction.echo.push(byte);
                self.column += 1;
            }
        }
    }

    fn erase_one(&mut self, reaction: &mut Reaction) {
        // A UTF-8 character goes as a whole.
        let Some(mut byte) = self.line.pop() else { return };
        while self.termios.input.contains(InputFlags::IUTF8) && byte & 0xc0 == 0x80 {
            match self.line.pop() {
                Some(previous) => byte = previous,
                None => break,
            }
        }
        let local = self.termios.local;
        if local.contains(LocalFlags::ECHO) {
            if local.contains(LocalFlags::ECHOE) {
                for _ in 0..shown_width(byte) {
                    reaction.echo.extend_from_slice(b"\x08 \x08");
                    self.column = self.column.saturating_sub(1);
                }
            } else {
                reaction.echo.push(self.termios.control[Control::Erase as usize]);
            }
        }
    }

    /// True if output waits for `VSTART`.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Stops or starts output (`TCXONC`).
    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    /// What the terminal gets for bytes that a program writes.
    pub fn output(&mut self, bytes: &[u8], to: &mut Vec<u8>) {
        if !self.termios.output.contains(OutputFlags::OPOST) {
            to.extend_from_slice(bytes);
            return;
        }
        to.reserve(bytes.len());
        for &byte in bytes {
            self.output_byte(byte, to);
        }
    }

    fn output_byte(&mut self, byte: u8, to: &mut Vec<u8>) {
        let flags = self.termios.output;
        if !flags.contains(OutputFlags::OPOST) {
            to.push(byte);
            return;
        }
        match byte {
            b'\n' => {
                if flags.contains(OutputFlags::ONLCR) {
                    to.push(b'\r');
                    self.column = 0;
                } else if flags.contains(OutputFlags::ONLRET) {
                    self.column = 0;
                }
                to.push(b'\n');
            }
            b'\r' if flags.contains(OutputFlags::ONOCR) && self.column == 0 => {}
            b'\r' => {
                self.column = 0;
                to.push(if flags.contains(OutputFlags::OCRNL) { b'\n' } else { b'\r' });
            }
            b'\t' => {
                let spaces = 8 - self.column % 8;
                self.column += spaces;
                // XTABS, the TAB3 delay of the field, means: expand.
                if flags.contains(OutputFlags::XTABS) {
                    to.extend(core::iter::repeat_n(b' ', spaces));
                } else {
                    to.push(b'\t');
                }
            }
            8 => {
                self.column = self.column.saturating_sub(1);
                to.push(byte);
            }
            _ => {
                let byte = if flags.contains(OutputFlags::OLCUC) { byte.to_ascii_uppercase() } else { byte };
                if byte >= 32 && byte & 0xc0 != 0x80 {
                    self.column += 1;
                }
                to.push(byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> LineDiscipline {
        let mut tty = LineDiscipline::default();
        let mut termios = tty.termios().clone();
        termios.local.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
        tty.set_termios(termios);
        tty
    }

    #[test]
    fn a_line_is_edited_echoed_and_read_whole() {
        let mut tty = LineDiscipline::default();
        let reaction = tty.receive(b"helx\x7flo");
        assert_eq!(reaction.echo, b"helx\x08 \x08lo");
        assert!(!reaction.readable && tty.read(100).is_none());
        let reaction = tty.receive(b"\rnext\n");
        assert_eq!(reaction.echo, b"\r\nnext\r\n");
        assert!(reaction.readable);
        assert_eq!(tty.read(3).unwrap(), b"hel");
        assert_eq!(tty.read(100).unwrap(), b"lo\n");
        assert_eq!(tty.read(100).unwrap(), b"next\n");
        assert!(tty.read(100).is_none());
    }

    #[test]
    fn end_of_file_ends_a_line_without_a_byte() {
        let mut tty = LineDiscipline::default();
        tty.receive(b"ab\x04");
        assert_eq!(tty.read(100).unwrap(), b"ab");
        tty.receive(b"\x04");
        assert!(tty.is_readable());
        assert_eq!(tty.read(100).unwrap(), b"");
        assert!(!tty.is_readable());
    }

    #[test]
    fn signals_flush_and_kill_erases() {
        let mut tty = LineDiscipline::default();
        let reaction = tty.receive(b"abc\x03");
        assert_eq!((reaction.signal, reaction.echo.as_slice()), (Some(2), b"abc^C".as_slice()));
        tty.receive(b"one two\x17\x15x\n");
        assert_eq!(tty.read(100).unwrap(), b"x\n");
    }

    #[test]
    fn raw_mode_passes_every_byte() {
        let mut tty = raw();
        let bytes: Vec<u8> = (0..=255).filter(|b| ![b'\r', 17, 19].contains(b)).collect();
        let reaction = tty.receive(&bytes);
        assert!(reaction.readable && reaction.echo.is_empty() && reaction.signal.is_none());
        assert_eq!(tty.read(1000).unwrap(), bytes);
    }

    #[test]
    fn output_expands_newlines_only_when_told() {
        let mut tty = LineDiscipline::default();
        let mut out = Vec::new();
        tty.output(b"a\nb\tc", &mut out);
        assert_eq!(out, b"a\r\nb\tc");
        let mut termios = tty.termios().clone();
        termios.output.remove(OutputFlags::OPOST);
        tty.set_termios(termios);
        out.clear();
        tty.output(b"a\nb", &mut out);
        assert_eq!(out, b"a\nb");
    }

    #[test]
    fn input_is_bounded() {
        let mut tty = LineDiscipline::default();
        for _ in 0..100 {
            tty.receive(&[b'x'; 1000]);
        }
        tty.receive(b"\n");
        assert!(tty.read(1 << 20).unwrap().len() <= CAPACITY);
    }

    #[test]
    fn settings_survive_a_round_trip() {
        let termios = Termios::default();
        assert_eq!(Termios::from_bytes(&termios.to_bytes()), termios);
    }
}
