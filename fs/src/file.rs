//! Open files: the trait that everything behind a descriptor implements.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use base::io::{In, Out};
use base::{Errno, Events, Once, PageSource, Result, Subject};

use crate::types::{DirEntry, OpenFlags, Stat};
use crate::vfs::Path;

bitflags::bitflags! {
    /// Of one read or write.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct IoFlags: u32 {
        /// The caller does not want to wait, whatever the file's flags (`RWF_NOWAIT`, `MSG_DONTWAIT`).
        const NOWAIT = 1;
        /// Append this once (`RWF_APPEND`).
        const APPEND = 2;
    }
}

/// Flags of an open file, changed by `fcntl(F_SETFL)` at any time.
#[derive(Debug)]
pub struct Status(AtomicU32);

/// A bit that no flag has.
const LOCKED: u32 = 1 << 31;

static RELEASE_LOCKS: Once<fn(usize)> = Once::new();

/// Tells once how the locks of the open file at an address are released.
pub fn set_release_locks(release: fn(usize)) {
    RELEASE_LOCKS.call_once(|| release);
}

impl Status {
    /// With these flags (without those that only matter to `open`).
    pub const fn new(flags: OpenFlags) -> Self {
        let dropped = 0o100 | 0o200 | 0o400 | 0o1000 | 0o2000000;
        Self(AtomicU32::new(flags.bits() & !dropped))
    }
    /// The flags now.
    #[inline]
    pub fn get(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.0.load(Ordering::Relaxed) & !LOCKED)
    }
    /// Replaces the flags that may change; the others stay.
    pub fn set(&self, flags: OpenFlags) {
        let mask = OpenFlags::changeable().bits();
        let _ =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old & !mask | flags.bits() & mask));
    }
    /// Sets or clears one flag.
    pub fn assign(&self, flag: OpenFlags, on: bool) {
        if on {
            self.0.fetch_or(flag.bits(), Ordering::Relaxed);
        } else {
            self.0.fetch_and(!flag.bits(), Ordering::Relaxed);
        }
    }
    /// The file holds locks: its end must release them.
    pub fn set_locked(&self) {
        self.0.fetch_or(LOCKED, Ordering::Relaxed);
    }
    /// For the drop of a file at `address`: releases its locks.
    pub fn release_locks(&self, address: usize) {
        if self.0.load(Ordering::Relaxed) & LOCKED != 0
            && let Some(release) = RELEASE_LOCKS.get()
        {
            release(address);
        }
    }
    /// True with `O_NONBLOCK`.
    #[inline]
    pub fn nonblocking(&self) -> bool {
        self.get().contains(OpenFlags::NONBLOCK)
    }
}

/// Where a seek starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// From the start.
    Set,
    /// From the position.
    Current,
    /// From the end.
    End,
    /// The next data at or after.
    Data,
    /// The next hole at or after.
    Hole,
}

/// A subject that never notifies: for files that are always ready.
pub static ALWAYS_READY: Subject = Subject::new();

/// An open file description.
///
/// Operations never wait for data or room: they return `EAGAIN`, and the system call layer sleeps on
/// [`File::subject`] if the file is blocking. They may sleep for a disk or a page.
pub trait File: Send + Sync {
    /// Flags that `fcntl` changes.
    fn status(&self) -> &Status;

    /// Reads at the file's position, or the next data. 0 is the end of the file.
    fn read(&self, out: &mut Out<'_>, flags: IoFlags) -> Result<usize> {
        let _ = (out, flags);
        Err(Errno::EINVAL)
    }

    /// Writes at the file's position, or the next data.
    fn write(&self, input: &mut In<'_>, flags: IoFlags) -> Result<usize> {
        let _ = (input, flags);
        Err(Errno::EINVAL)
    }

    /// Reads at `offset`; the position does not change. `ESPIPE` without positions.
    fn read_at(&self, offset: u64, out: &mut Out<'_>, flags: IoFlags) -> Result<usize> {
        let _ = (offset, out, flags);
        Err(Errno::ESPIPE)
    }

    /// Writes at `offset`; the position does not change. `ESPIPE` without positions.
    fn write_at(&self, offset: u64, input: &mut In<'_>, flags: IoFlags) -> Result<usize> {
        let _ = (offset, input, flags);
        Err(Errno::ESPIPE)
    }

    /// Moves the position and returns it.
    fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        let _ = (offset, whence);
        Err(Errno::ESPIPE)
    }

    /// True if a blocking write goes on until all bytes are taken (pipes, stream sockets, terminals).
    fn is_stream(&self) -> bool {
        false
    }

    /// What is ready now.
    fn poll(&self) -> Events {
        Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM
    }

    /// Who is told when that changes.
    fn subject(&self) -> &Subject {
        &ALWAYS_READY
    }

    /// False for files that epoll refuses with `EPERM` (regular files and directories).
    fn can_epoll(&self) -> bool {
        true
    }

    /// Longest wait of a read (`SO_RCVTIMEO`), ns.
    fn read_timeout_ns(&self) -> Option<u64> {
        None
    }

    /// Longest wait of a write (`SO_SNDTIMEO`), ns.
    fn write_timeout_ns(&self) -> Option<u64> {
        None
    }

    /// A device-specific request. `arg` may be an address in user memory. `ENOTTY` if unknown.
    fn ioctl(&self, command: u32, arg: usize) -> Result<u64> {
        let _ = (command, arg);
        Err(Errno::ENOTTY)
    }

    /// Metadata.
    fn stat(&self) -> Result<Stat>;

    /// Lists the directory from the current position on; `emit` returns false when it has no room, and that
    /// entry then comes first the next time.
    fn readdir(&self, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let _ = emit;
        Err(Errno::ENOTDIR)
    }

    /// Makes the data (and with `data_only` false the metadata) durable.
    fn sync(&self, data_only: bool) -> Result<()> {
        let _ = data_only;
        Err(Errno::EINVAL)
    }

    /// Sets the length.
    fn truncate(&self, len: u64) -> Result<()> {
        let _ = len;
        Err(Errno::EINVAL)
    }

    /// Allocates, punches or zeroes (`mode` of `fallocate`).
    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        let _ = (mode, offset, len);
        Err(Errno::ESPIPE)
    }

    /// The pages to map, if the file can be mapped (`ENODEV` otherwise).
    fn page_source(&self) -> Option<Arc<dyn PageSource>> {
        None
    }

    /// Where the file was opened, for files that have a path.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Opens the object anew, as `/proc/self/fd/N` does for files without a path. `ENXIO` if that makes no sense.
    fn reopen(&self, flags: OpenFlags) -> Result<Arc<dyn File>> {
        let _ = flags;
        Err(Errno::ENXIO)
    }

    /// What `/proc/PID/fd/N` shows for files without a path, such as `pipe:[7]`.
    fn describe(&self) -> alloc::string::String {
        alloc::string::String::from("anon_inode:[file]")
    }

    /// Lines of `/proc/PID/fdinfo/N` beyond the common ones.
    fn fdinfo(&self) -> alloc::string::String {
        alloc::string::String::new()
    }

    /// A descriptor that refers to this file was closed (`flush` of a driver); the file may still be open elsewhere.
    fn descriptor_closed(&self) {}

    /// For the system calls that need the file's own type.
    fn as_any(&self) -> &dyn core::any::Any;
}
