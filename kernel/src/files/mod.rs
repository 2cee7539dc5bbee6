//! Open files: descriptor table, pipes, eventfd, timerfd, signalfd, pidfd, epoll, locks, terminals, devices, and the
//! contents of /proc, /sys and /dev. File systems and paths are the `fs` crate's; the calls are in `syscall`.
#![forbid(unsafe_code)]

mod block;
mod context;
pub mod controlling;
pub mod dev;
pub mod epoll;
pub mod eventfd;
pub mod locks;
pub mod memfd;
pub mod mount;
pub mod net_files;
pub mod pipe;
pub mod proc;
pub mod pty;
pub mod root;
pub mod signalfd;
pub mod stdio;
pub mod sysfs;
pub mod system;
mod table;
pub mod timerfd;
pub mod tty;

use alloc::sync::Arc;

use base::{Errno, Result};
use fs::{Credentials, File, Path};

pub use context::FsContext;
pub use system::{build_version, hostname, kernel_command_line, release, set_hostname, set_kernel_command_line};
pub use table::{FdTable, MAX_FD};

use crate::process::limits::resource;
use crate::{mm, sched};

/// The running thread's descriptor table, lent to `f`. `EBADF` in a kernel thread.
#[inline]
pub fn with_table<R>(f: impl FnOnce(&FdTable) -> Result<R>) -> Result<R> {
    sched::current().ext.files.with(|table| table.as_ref().map_or(Err(Errno::EBADF), |table| f(table)))
}

/// The file behind a descriptor of the running thread.
#[inline]
pub fn get(fd: i32) -> Result<Arc<dyn File>> {
    with_table(|table| table.get(fd))
}

/// Gives `file` the lowest free descriptor of the running thread. `EMFILE`.
pub fn install(file: Arc<dyn File>, close_on_exec: bool) -> Result<i32> {
    install_from(file, close_on_exec, 0)
}

/// As [`install`], from number `from` on.
pub fn install_from(file: Arc<dyn File>, close_on_exec: bool, from: usize) -> Result<i32> {
    // Every new object comes through here: no more of them than there is memory for.
    mm::frame::check_room()?;
    let limit = nofile();
    with_table(|table| table.install(file, close_on_exec, from, limit))
}

/// `RLIMIT_NOFILE` of the running process.
pub fn nofile() -> u64 {
    sched::current().process().map_or(0, |process| process.limit(resource::NOFILE))
}

/// Closes a descriptor of the running thread.
pub fn close_fd(fd: i32) -> Result<()> {
    let file = with_table(|table| table.remove(fd))?;
    closed(&file);
    Ok(())
}

/// Gives the running thread a table of its own (`CLONE_FILES` undone).
pub fn unshare_table() -> Result<()> {
    let own = with_table(|table| Ok(table.duplicate()))?;
    let old = sched::current().ext.files.replace(Some(own));
    drop(old);
    Ok(())
}

/// What goes with a descriptor besides its reference; its number is free already.
pub fn closed(file: &Arc<dyn File>) {
    locks::closed(file);
    file.descriptor_closed();
}

/// Closes what an exec closes.
pub fn close_on_exec(table: &FdTable) {
    for file in table.remove_range(0, u32::MAX, |close_on_exec| close_on_exec) {
        closed(&file);
    }
}

/// The running thread's root, working directory and umask, lent to `f`. `ENOENT` in a kernel thread.
pub fn with_context<R>(f: impl FnOnce(&FsContext) -> Result<R>) -> Result<R> {
    sched::current().ext.fs.with(|context| context.as_ref().map_or(Err(Errno::ENOENT), |context| f(context)))
}

/// The identity with which the running process accesses files.
pub fn credentials() -> Credentials {
    sched::current().process().map_or_else(Credentials::root, |process| {
        let ids = process.credentials();
        Credentials { uid: ids.uid.fs, gid: ids.gid.fs, groups: ids.groups.clone() }
    })
}

/// Resolves `path` for the running process: for exec and the like.
pub fn lookup(path: &[u8], how: fs::vfs::Resolve) -> Result<Path> {
    let (root, cwd) = with_context(|context| Ok(context.both()))?;
    fs::Walk { root: &root, start: &cwd, cred: &credentials() }.lookup(path, how)
}

/// Metadata of a file that has no inode: what Linux's anonymous inodes show.
pub fn anonymous_stat() -> fs::Stat {
    fs::Stat { ino: 1, mode: 0o600, nlink: 1, blksize: 4096, ..fs::Stat::default() }
}
