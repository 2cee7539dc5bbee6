//! A process as a file: `pidfd_open`, `CLONE_PIDFD`.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use base::{Errno, Events, Result, Subject};
use fs::{File, OpenFlags, Stat, Status};

use super::Process;
use crate::files;

/// Readable when the process has ended.
pub struct PidFd {
    process: Arc<Process>,
    status: Status,
}

impl File for PidFd {
    fn status(&self) -> &Status {
        &self.status
    }
    fn poll(&self) -> Events {
        if self.process.is_zombie() { Events::IN | Events::RDNORM } else { Events::empty() }
    }
    fn subject(&self) -> &Subject {
        &self.process.end_event
    }
    fn stat(&self) -> Result<Stat> {
        Ok(Stat { mode: 0o600, ino: u64::from(self.process.pid), nlink: 1, blksize: 4096, ..Stat::default() })
    }
    fn describe(&self) -> String {
        String::from("anon_inode:[pidfd]")
    }
    fn fdinfo(&self) -> String {
        let pid = if self.process.is_zombie() { -1 } else { self.process.pid as i32 };
        format!("Pid:\t{pid}\nNSpid:\t{pid}\n")
    }
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

/// A descriptor of the running thread for `process`, closed at an exec.
pub fn open(process: &Arc<Process>, nonblocking: bool) -> Result<i32> {
    let flags = if nonblocking { OpenFlags::RDWR | OpenFlags::NONBLOCK } else { OpenFlags::RDWR };
    files::install(Arc::new(PidFd { process: process.clone(), status: Status::new(flags) }), true)
}

/// The process behind a descriptor, and whether it is non-blocking. `EBADF` if it is none of a process.
pub fn process_of(fd: i32) -> Result<(Arc<Process>, bool)> {
    let file = files::get(fd)?;
    let pidfd = file.as_any().downcast_ref::<PidFd>().ok_or(Errno::EBADF)?;
    Ok((pidfd.process.clone(), pidfd.status.nonblocking()))
}
