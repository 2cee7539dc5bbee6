//! Takes the guest's console apart, as `docs/command-line.md` says in section 3: the program's output, kernel log
//! lines, control lines. And the other direction: what is typed, escaped.

/// A piece of what came from the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The program wrote this to stdout.
    Out(Vec<u8>),
    /// The program wrote this to stderr.
    Err(Vec<u8>),
    /// A kernel log line, without its mark and newline.
    Log(String),
    /// The kernel obeys `framing=on`.
    Framing,
    /// The program's first instruction comes next.
    Start,
    /// The program ended.
    Exit(u8),
    /// The kernel panicked.
    Panic,
}

const ESCAPE: u8 = 0x10;
const CONTROL: u8 = 0x1e;
const LOG: u8 = 0x1f;
/// A line of the kernel that is longer is cut here, so that a guest cannot fill our memory.
const MAX_LINE: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Escaped,
    Line(u8),
}

/// The taking apart; it is fed bytes as they come.
pub struct Decoder {
    state: State,
    framing: bool,
    to_stderr: bool,
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { state: State::Data, framing: false, to_stderr: false, line: Vec::new(), data: Vec::new() }
    }
}

impl Decoder {
    /// Takes `bytes` and appends the pieces that are complete to `out`.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<Piece>) {
        for &b in bytes {
            match self.state {
                State::Data => match b {
                    CONTROL | LOG => {
                        self.flush(out);
                        self.state = State::Line(b);
                    }
                    ESCAPE if self.framing => self.state = State::Escaped,
                    _ => self.data.push(b),
                },
                State::Escaped => {
                    self.state = State::Data;
                    match b {
                        b'1' | b'2' => {
                            self.flush(out);
                            self.to_stderr = b == b'2';
                        }
                        b'P' | b'^' | b'_' => self.data.push(b ^ 0x40),
                        _ => {}
                    }
                }
                State::Line(mark) => match b {
                    b'\n' => {
                        self.state = State::Data;
                        let line = std::mem::take(&mut self.line);
                        self.end_line(mark, &line, out);
                    }
                    _ if self.line.len() < MAX_LINE => self.line.push(b),
                    _ => {}
                },
            }
        }
        self.flush(out);
    }

    fn flush(&mut self, out: &mut Vec<Piece>) {
        if !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            out.push(if self.to_stderr { Piece::Err(data) } else { Piece::Out(data) });
        }
    }

    fn end_line(&mut self, mark: u8, line: &[u8], out: &mut Vec<Piece>) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        if mark == LOG {
            out.push(Piece::Log(text.to_owned()));
            return;
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["coracle:framing"] => {
                self.framing = true;
                out.push(Piece::Framing);
            }
            ["coracle:start"] => out.push(Piece::Start),
            ["coracle:exit", code] => match code.parse() {
                Ok(code) => out.push(Piece::Exit(code)),
                Err(_) => out.push(Piece::Log(format!("bad exit code {code:?}"))),
            },
            ["coracle:panic"] => out.push(Piece::Panic),
            _ => {
                // Not ours: without framing a program may write this byte.
                let mut data = vec![mark];
                data.extend_from_slice(line);
                data.push(b'\n');
                self.data = data;
                self.flush(out);
            }
        }
    }
}

/// What to send for typed bytes, when the kernel obeys `framing=on`.
pub fn escape_input(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for &b in bytes {
        if b == ESCAPE {
            out.extend_from_slice(&[ESCAPE, b'P']);
        } else {
            out.push(b);
        }
    }
    out
}

/// End of file on stdin.
pub const END_OF_INPUT: &[u8] = &[ESCAPE, b'0'];

/// A signal for the first process.
pub fn signal(number: i32) -> Vec<u8> {
    format!("\x10s{number:02}").into_bytes()
}

/// A new window size.
pub fn window_size(rows: u16, columns: u16) -> Vec<u8> {
    format!("\x10w{rows:04x}{columns:04x}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(decoder: &mut Decoder, bytes: &[u8], step: usize) -> (Vec<u8>, Vec<u8>, Vec<Piece>) {
        let mut pieces = Vec::new();
        for chunk in bytes.chunks(step) {
            decoder.feed(chunk, &mut pieces);
        }
        let (mut out, mut err, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Out(b) => out.extend(b),
                Piece::Err(b) => err.extend(b),
                other => rest.push(other),
            }
        }
        (out, err, rest)
    }

    #[test]
    fn a_whole_run_in_any_chunks() {
        let text = b"\x1f[0.1] info: hello\r\n\x1e coracle:framing\nout\x102err\x101 a\x1flog\nb\x10P\x10^\x10_\n\x1e coracle:exit 7\n";
        for step in 1..text.len() {
            let (out, err, rest) = all(&mut Decoder::default(), text, step);
            assert_eq!(out, b"out ab\x10\x1e\x1f\n");
            assert_eq!(err, b"err");
            let log = |t: &str| Piece::Log(t.into());
            assert_eq!(rest, [log("[0.1] info: hello"), Piece::Framing, log("log"), Piece::Exit(7)]);
        }
    }

    #[test]
    fn without_framing_bytes_pass() {
        let (out, err, rest) = all(&mut Decoder::default(), b"a\x102b\x1e other\nc\x1e coracle:panic\n", 3);
        assert_eq!((&out[..], err.len()), (&b"a\x102b\x1e other\nc"[..], 0));
        assert_eq!(rest, [Piece::Panic]);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut decoder = Decoder::default();
        let mut pieces = Vec::new();
        decoder.feed(b"\x1f", &mut pieces);
        for _ in 0..100 {
            decoder.feed(&[b'x'; 4096], &mut pieces);
        }
        decoder.feed(b"\n", &mut pieces);
        assert!(matches!(&pieces[..], [Piece::Log(l)] if l.len() == MAX_LINE));
    }

    #[test]
    fn a_bad_exit_code_is_no_exit() {
        let mut pieces = Vec::new();
        Decoder::default().feed(b"\x1e coracle:exit 900\n", &mut pieces);
        assert!(matches!(&pieces[..], [Piece::Log(_)]));
    }

    #[test]
    fn input_is_escaped() {
        assert_eq!(escape_input(b"a\x10b"), b"a\x10Pb");
        assert_eq!(signal(2), b"\x10s02");
        assert_eq!(window_size(24, 80), b"\x10w00180050");
    }
}
