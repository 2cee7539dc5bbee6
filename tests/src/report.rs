//! Counting and printing what passed and what did not.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::run::must;

/// One suite: cases are reported one by one, the summary line comes at the end.
pub struct Suite {
    name: String,
    passed: usize,
    failed: usize,
    skipped: usize,
    started: Instant,
}

/// How a case ended, other than well.
pub enum Bad {
    /// It did not do what it must; why.
    Failed(String),
    /// It could not be tried here; why.
    Skipped(String),
}

impl From<String> for Bad {
    fn from(why: String) -> Self {
        Bad::Failed(why)
    }
}

impl From<&str> for Bad {
    fn from(why: &str) -> Self {
        Bad::Failed(why.to_owned())
    }
}

impl From<std::io::Error> for Bad {
    fn from(why: std::io::Error) -> Self {
        Bad::Failed(why.to_string())
    }
}

/// The date, UTC.
pub fn today() -> String {
    let text = must(Command::new("date").args(["-u", "+%Y-%m-%d"]), Duration::from_secs(10)).unwrap_or_default();
    text.trim().to_owned()
}

/// Replaces what stands between the two markers of this name in a page.
pub fn put_between(page: &Path, name: &str, text: &str) -> Result<(), String> {
    let (begin, end) = (format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->"));
    let old = std::fs::read_to_string(page).map_err(|e| format!("cannot read {}: {e}", page.display()))?;
    let (before, rest) = old.split_once(&begin).ok_or_else(|| format!("{} has no {begin}", page.display()))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| format!("{} has no {end}", page.display()))?;
    std::fs::write(page, format!("{before}{begin}\n{text}\n{end}{after}")).map_err(|e| e.to_string())
}

/// What a case gives.
pub type Outcome<T = ()> = Result<T, Bad>;

impl Suite {
    /// A suite without cases so far. The name must not hold a colon.
    pub fn new(name: impl Into<String>) -> Self {
        Suite { name: name.into(), passed: 0, failed: 0, skipped: 0, started: Instant::now() }
    }

    /// Runs a case and prints its line.
    pub fn case(&mut self, name: &str, run: impl FnOnce() -> Outcome) {
        let started = Instant::now();
        let outcome = run();
        self.add(name, started, outcome);
    }

    /// Counts a case that was run elsewhere.
    pub fn add(&mut self, name: &str, started: Instant, outcome: Outcome) {
        let seconds = started.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok    {} {name} ({seconds:.1} s)", self.name);
            }
            Err(Bad::Failed(why)) => {
                self.failed += 1;
                println!("FAIL  {} {name} ({seconds:.1} s)\n      {}", self.name, why.replace('\n', "\n      "));
            }
            Err(Bad::Skipped(why)) => {
                self.skipped += 1;
                println!("skip  {} {name}: {why}", self.name);
            }
        }
    }

    /// Counts a passed case without a line.
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// Counts a failed case with a short line.
    pub fn fail(&mut self, name: &str, why: &str) {
        self.failed += 1;
        println!("FAIL  {} {name}: {why}", self.name);
    }

    /// Counts several failed cases with one line.
    pub fn fail_many(&mut self, count: usize, name: &str, why: &str) {
        self.failed += count;
        if count > 0 {
            println!("FAIL  {} {name}: {count} cases {why}", self.name);
        }
    }

    /// Counts a skipped case with a short line.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.skipped += 1;
        println!("skip  {} {name}: {why}", self.name);
    }

    /// Prints the summary line; true when nothing failed. A suite in which nothing ran has failed.
    pub fn finish(mut self) -> bool {
        if self.passed + self.failed + self.skipped == 0 {
            self.fail("(all)", "no case ran");
        }
        println!(
            "suite {}: {} passed, {} failed, {} skipped ({:.0} s)",
            self.name,
            self.passed,
            self.failed,
            self.skipped,
            self.started.elapsed().as_secs_f32()
        );
        self.failed == 0
    }
}
