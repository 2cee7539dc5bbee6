//! Plain types that every file system speaks: metadata, flags, credentials. Values are Linux's
//! (uapi/linux/stat.h, uapi/asm-generic/fcntl.h).

use alloc::sync::Arc;
use base::{Errno, Result};

/// Longest name of a directory entry, bytes.
pub const NAME_MAX: usize = 255;
/// Longest path including its terminating zero, bytes.
pub const PATH_MAX: usize = 4096;
/// Most symbolic links followed in one resolution.
pub const MAX_LINKS: u32 = 40;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A file with data.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A bound UNIX socket.
    Socket,
}

/// Mask of the type in a mode.
pub const S_IFMT: u32 = 0o170000;

impl FileType {
    /// The type's bits in `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Fifo => 0o010000,
            Self::Char => 0o020000,
            Self::Directory => 0o040000,
            Self::Block => 0o060000,
            Self::Regular => 0o100000,
            Self::Symlink => 0o120000,
            Self::Socket => 0o140000,
        }
    }

    /// The type in `mode`, if it is one.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & S_IFMT {
            0o010000 => Self::Fifo,
            0o020000 => Self::Char,
            0o040000 => Self::Directory,
            0o060000 => Self::Block,
            0o100000 => Self::Regular,
            0o120000 => Self::Symlink,
            0o140000 => Self::Socket,
            _ => return None,
        })
    }

    /// The `d_type` of a directory entry.
    pub const fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// A point in time: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub sec: i64,
    /// 0 to 999,999,999.
    pub nsec: u32,
}

impl Time {
    /// The wall clock.
    pub fn now() -> Self {
        let ns = base::time::wall_ns();
        Self { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }
}

/// Metadata of an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Device number of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number that a device node stands for.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Preferred I/O size, bytes.
    pub blksize: u32,
    /// 512-byte units in use.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
}

/// A device number in Linux's `dev_t` coding (as `makedev` of glibc).
pub const fn makedev(major: u32, minor: u32) -> u64 {
    ((major as u64 & 0xfffff000) << 32)
        | ((major as u64 & 0xfff) << 8)
        | ((minor as u64 & 0xffffff00) << 12)
        | (minor as u64 & 0xff)
}

/// Major part of a device number.
pub const fn major(dev: u64) -> u32 {
    (((dev >> 32) & 0xfffff000) | ((dev >> 8) & 0xfff)) as u32
}

/// Minor part of a device number.
pub const fn minor(dev: u64) -> u32 {
    (((dev >> 12) & 0xffffff00) | (dev & 0xff)) as u32
}

/// Metadata changes; `None` leaves a value alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<Time>,
    /// Modification time.
    pub mtime: Option<Time>,
}

/// Of a whole file system (`statfs`).
#[derive(Clone, Copy, Debug, Default)]
pub struct StatFs {
    /// Magic number (uapi/linux/magic.h).
    pub kind: u64,
    /// Bytes in a block.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub free: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes free.
    pub files_free: u64,
}

bitflags::bitflags! {
    /// Flags of `open` and of an open file (x86-64 values).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct OpenFlags: u32 {
        /// Write only (access mode 1).
        const WRONLY = 0o1;
        /// Read and write (access mode 2).
        const RDWR = 0o2;
        /// Create if absent.
        const CREAT = 0o100;
        /// Fail if present.
        const EXCL = 0o200;
        /// Do not become the controlling terminal.
        const NOCTTY = 0o400;
        /// Empty the file.
        const TRUNC = 0o1000;
        /// Write at the end.
        const APPEND = 0o2000;
        /// Return `EAGAIN` instead of waiting.
        const NONBLOCK = 0o4000;
        /// Data is durable when a write returns.
        const DSYNC = 0o10000;
        /// Signal-driven I/O.
        const ASYNC = 0o20000;
        /// Past the page cache.
        const DIRECT = 0o40000;
        /// Large files (no meaning on 64 bit).
        const LARGEFILE = 0o100000;
        /// Must be a directory.
        const DIRECTORY = 0o200000;
        /// Do not follow a final symbolic link.
        const NOFOLLOW = 0o400000;
        /// Leave the access time alone.
        const NOATIME = 0o1000000;
        /// Close on exec (kept in the descriptor, not here).
        const CLOEXEC = 0o2000000;
        /// Together with `DSYNC`: `O_SYNC`.
        const SYNC = 0o4000000;
        /// Only a reference to the path.
        const PATH = 0o10000000;
        /// An unnamed file in the directory (with `DIRECTORY`).
        const TMPFILE = 0o20000000;
    }
}

impl OpenFlags {
    /// Reading is allowed.
    #[inline]
    pub fn readable(self) -> bool {
        matches!(self.bits() & 3, 0 | 2) && !self.contains(Self::PATH)
    }
    /// Writing is allowed.
    #[inline]
    pub fn writable(self) -> bool {
        matches!(self.bits() & 3, 1 | 2) && !self.contains(Self::PATH)
    }
    /// What `F_SETFL` may change.
    pub fn changeable() -> Self {
        Self::APPEND | Self::NONBLOCK | Self::ASYNC | Self::DIRECT | Self::NOATIME
    }
    /// What `F_GETFL` does not show.
    pub fn creation() -> Self {
        Self::CREAT | Self::EXCL | Self::NOCTTY | Self::TRUNC | Self::CLOEXEC
    }
}

/// Bits of an access check.
pub const MAY_READ: u32 = 4;
/// Write access.
pub const MAY_WRITE: u32 = 2;
/// Execute, or search in a directory.
pub const MAY_EXEC: u32 = 1;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// User of file accesses.
    pub uid: u32,
    /// Group of file accesses.
    pub gid: u32,
    /// Further groups.
    pub groups: Arc<[u32]>,
}

impl Credentials {
    /// The superuser.
    pub fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Arc::new([]) }
    }

    /// Member of `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Checks permission bits; the superuser passes, except for executing a file that nobody may execute.
    pub fn check(&self, stat: &Stat, wanted: u32) -> Result<()> {
        if self.uid == 0 {
            let directory = stat.mode & S_IFMT == FileType::Directory.mode_bits();
            let runnable = directory || stat.mode & 0o111 != 0;
            return if wanted & MAY_EXEC == 0 || runnable { Ok(()) } else { Err(Errno::EACCES) };
        }
        let bits = if self.uid == stat.uid {
            stat.mode >> 6
        } else if self.in_group(stat.gid) {
            stat.mode >> 3
        } else {
            stat.mode
        };
        if bits & wanted == wanted { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// The owner, or the superuser.
    pub fn owns(&self, stat: &Stat) -> bool {
        self.uid == 0 || self.uid == stat.uid
    }
}

/// One name in a directory listing.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The name, without slashes.
    pub name: &'a [u8],
    /// Its inode number.
    pub ino: u64,
    /// Its type.
    pub kind: FileType,
    /// Position after this entry, for going on later.
    pub next: u64,
}
