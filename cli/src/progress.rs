//! What the user sees while packing: a bar on a terminal, nothing elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that disappears when it is dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// Says `message`. Nothing is drawn when stderr is no terminal, or when `quiet`.
    pub fn new(message: &str, quiet: bool) -> Self {
        let bar =
            if quiet || !std::io::stderr().is_terminal() { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_message(message.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(bar)
    }

    /// From here on there is a known number of bytes.
    pub fn bytes(&self, total: u64, message: &str) {
        self.0.set_length(total);
        self.0.set_message(message.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes}") {
            self.0.set_style(style.progress_chars("=> "));
        }
    }

    /// Some more bytes are done.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
