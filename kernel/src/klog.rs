//! The kernel's log: one line, one piece, on the console, marked so that the host can tell it from the program's
//! output (docs/command-line.md, section 3).

use core::fmt::Write;

use log::{LevelFilter, Log, Metadata, Record};

/// Marks a log line.
const LOG_MARK: u8 = 0x1f;
/// Marks a control line.
const CONTROL_MARK: u8 = 0x1e;

/// What is longer is cut.
const LINE_MAX: usize = 512;

struct Klog;

static KLOG: Klog = Klog;

/// A line under construction, in place, so that logging never allocates.
pub struct Line {
    bytes: [u8; LINE_MAX],
    len: usize,
}

impl Line {
    /// A line that begins with `mark`.
    pub const fn new(mark: u8) -> Self {
        let mut bytes = [0; LINE_MAX];
        bytes[0] = mark;
        Self { bytes, len: 1 }
    }
    /// Ends the line and writes it.
    pub fn send(mut self) {
        self.len = self.len.min(LINE_MAX - 1);
        self.bytes[self.len] = b'\n';
        if let Some(console) = hal_core::console() {
            console.write(&self.bytes[..=self.len]);
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for &byte in text.as_bytes() {
            if self.len < LINE_MAX - 1 {
                // A line break inside would end the marked line early.
                self.bytes[self.len] = if byte == b'\n' { b' ' } else { byte };
                self.len += 1;
            }
        }
        Ok(())
    }
}

impl Log for Klog {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let us = hal_core::clock::now_ns() / 1000;
        let mut line = Line::new(LOG_MARK);
        let _ = write!(
            line,
            "[{:5}.{:06}] {:<5} {}: {}",
            us / 1_000_000,
            us % 1_000_000,
            record.level(),
            record.target(),
            record.args()
        );
        line.send();
    }

    fn flush(&self) {}
}

/// Starts logging at `warn`, until the command line says otherwise.
pub fn init() {
    // A second logger cannot be there: this is called once.
    let _ = log::set_logger(&KLOG);
    log::set_max_level(LevelFilter::Warn);
}

/// Sets the least severe level that is printed.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Prints a log line whatever the level (the boot chart, a panic).
pub fn always(args: core::fmt::Arguments) {
    let mut line = Line::new(LOG_MARK);
    let _ = line.write_fmt(args);
    line.send();
}

/// Prints a control line.
pub fn control(args: core::fmt::Arguments) {
    let mut line = Line::new(CONTROL_MARK);
    let _ = line.write_str(" ");
    let _ = line.write_fmt(args);
    line.send();
}
