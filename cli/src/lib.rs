//! The `coracle` command: packs a Linux program with what it needs into a root image, and boots that in a VM.
//!
//! Here: reading the command line of the host, choosing files, writing images, running QEMU, carrying bytes between the
//! program and the terminal. Not here: anything that runs in the guest; the contract with the kernel is
//! `docs/command-line.md`.

pub mod args;
pub mod build;
pub mod cache;
pub mod cmdline;
pub mod config;
pub mod console;
pub mod container;
pub mod disk;
pub mod elf_info;
pub mod erofs;
pub mod image;
pub mod inspect;
pub mod pack;
pub mod progress;
pub mod qemu;
pub mod run;
pub mod terminal;
pub mod tree;
pub mod vm;

/// Our own failure, as docker counts it: the program never ran.
pub const EXIT_OURS: u8 = 125;
/// The program is there and cannot be run.
pub const EXIT_NOT_RUNNABLE: u8 = 126;
/// There is no such program.
pub const EXIT_NOT_FOUND: u8 = 127;

/// An error that carries the exit code of the command; any other error counts as [`EXIT_OURS`].
#[derive(Debug)]
pub struct Failure {
    /// One line: what was wrong, and the cure.
    pub message: String,
    /// The command's exit code.
    pub code: u8,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A [`Failure`] as an `anyhow` error.
pub fn failure(code: u8, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { message: message.into(), code })
}
