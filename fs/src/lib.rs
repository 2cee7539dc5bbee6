//! The virtual file system and the file systems behind it.
//!
//! Path resolution, the dentry cache, mounts, tmpfs (also as the writable layer over a read-only image), the
//! EROFS reader, partition tables and trees of generated files. No hardware, no system calls, no unsafe code: all of it runs under
//! `cargo test` on the host. Pipes, sockets, epoll and the like are the kernel's (`kernel/src/files`); they
//! implement [`File`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod erofs;
pub mod file;
pub mod inode;
pub mod inotify;
pub mod notify;
pub mod pagemap;
pub mod partition;
pub mod regular;
pub mod synth;
pub mod tmpfs;
pub mod tty;
pub mod types;
pub mod vfs;

pub use file::{File, IoFlags, Status};
pub use inode::Inode;
pub use types::{Credentials, FileType, OpenFlags, SetAttr, Stat, StatFs, Time};
pub use vfs::{Path, Walk};
