//! Device nodes: what /dev holds and what opening them gives.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use base::io::{In, Out};
use base::{Errno, Events, PageSource, Result, Subject};
use fs::file::Whence;
use fs::inode::New;
use fs::types::{DirEntry, StatFs, major, makedev, minor};
use fs::{File, FileType, Inode, IoFlags, OpenFlags, Path, SetAttr, Stat, Status, Time, Walk};

use super::{block, controlling, memfd, pipe, pty, stdio};
use crate::devices::volume::volumes;
use crate::process::random;
use crate::sched;

/// Major numbers (Documentation/admin-guide/devices.txt).
const MEMORY: u32 = 1;
const TTY: u32 = 5;
const PTS: u32 = 136;

/// Fills /dev.
pub fn populate(walk: &Walk<'_>) -> Result<()> {
    let nodes: [(&str, u32, u32, u32); 9] = [
        ("null", MEMORY, 3, 0o666),
        ("zero", MEMORY, 5, 0o666),
        ("full", MEMORY, 7, 0o666),
        ("random", MEMORY, 8, 0o666),
        ("urandom", MEMORY, 9, 0o666),
        ("kmsg", MEMORY, 11, 0o644),
        ("tty", TTY, 0, 0o666),
        ("console", TTY, 1, 0o620),
        ("ptmx", TTY, 2, 0o666),
    ];
    for (name, major, minor, mode) in nodes {
        let new = New::Node(FileType::Char, makedev(major, minor));
        walk.create(format!("/dev/{name}").as_bytes(), new, mode)?;
    }
    for volume in volumes() {
        let new = New::Node(FileType::Block, volume.device());
        walk.create(format!("/dev/{}", volume.name()).as_bytes(), new, 0o660)?;
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        walk.create(format!("/dev/{name}").as_bytes(), New::Symlink(target.as_bytes()), 0o777)?;
    }
    Ok(())
}

/// Opens FIFOs and device nodes: the `fs` crate's hook.
pub fn open_special(inode: &Arc<dyn Inode>, path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
    match inode.kind() {
        FileType::Fifo => {
            let slot = inode.attachment().ok_or(Errno::ENXIO)?;
            let fresh = pipe::Pipe::new();
            let pipe = {
                let mut slot = slot.lock();
                match slot.as_ref().and_then(|there| there.clone().downcast::<pipe::Pipe>().ok()) {
                    Some(pipe) => pipe,
                    None => {
                        *slot = Some(fresh.clone());
                        fresh
                    }
                }
            };
            Ok(Arc::new(NodeFile { inner: pipe.open(flags)?, path: path.clone() }))
        }
        FileType::Char => {
            let inner = open_char(inode.stat()?.rdev, flags)?;
            Ok(Arc::new(NodeFile { inner, path: path.clone() }))
        }
        FileType::Block => {
            let inner = block::open(inode.stat()?.rdev, flags)?;
            Ok(Arc::new(NodeFile { inner, path: path.clone() }))
        }
        _ => Err(Errno::ENXIO),
    }
}

fn open_char(dev: u64, flags: OpenFlags) -> Result<Arc<dyn File>> {
    let memory = |kind| -> Result<Arc<dyn File>> { Ok(Arc::new(Memory { kind, status: Status::new(flags) })) };
    match (major(dev), minor(dev)) {
        (MEMORY, 3) => memory(Kind::Null),
        (MEMORY, 5) => memory(Kind::Zero),
        (MEMORY, 7) => memory(Kind::Full),
        (MEMORY, 8 | 9) => memory(Kind::Random),
        (MEMORY, 11) => memory(Kind::Log),
        (TTY, 0) => {
            let session = sched::current().process().ok_or(Errno::ENXIO)?.session();
            let tty = controlling::of(session).ok_or(Errno::ENXIO)?;
            Ok(super::tty::TtyFile::new(&tty, flags | OpenFlags::NOCTTY, None))
        }
        (TTY, 1) => Ok(stdio::reopen(flags)),
        (TTY, 2) => Ok(pty::open_master(flags)?),
        (major, minor) if (PTS..PTS + 8).contains(&major) => Ok(pty::open_slave((major - PTS) * 256 + minor, flags)?),
        _ => Err(Errno::ENXIO),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Zero,
    Full,
    Random,
    Log,
}

/// The devices of major 1.
struct Memory {
    kind: Kind,
    status: Status,
}

impl File for Memory {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        match self.kind {
            Kind::Null => Ok(0),
            Kind::Zero | Kind::Full => out.write_zeroes(out.remaining()),
            Kind::Log => Err(Errno::EAGAIN),
            Kind::Random => {
                let mut total = 0;
                let mut bytes = [0; 256];
                while out.remaining() > 0 {
                    let n = out.remaining().min(bytes.len());
                    random::fill(&mut bytes[..n]);
                    match out.write(&bytes[..n]) {
                        Ok(n) if n > 0 => total += n,
                        Ok(_) => break,
                        Err(_) if total > 0 => break,
                        Err(error) => return Err(error),
                    }
                }
                Ok(total)
            }
        }
    }

    fn write(&self, input: &mut In<'_>, _flags: IoFlags) -> Result<usize> {
        let n = input.remaining();
        match self.kind {
            Kind::Null | Kind::Zero => Ok(n),
            Kind::Full => Err(Errno::ENOSPC),
            Kind::Random => {
                let mut bytes = alloc::vec![0; n.min(4096)];
                let n = input.read(&mut bytes)?;
                random::add_entropy(&bytes[..n]);
                Ok(n)
            }
            Kind::Log => {
                let mut bytes = alloc::vec![0; n.min(1024)];
                let n = input.read(&mut bytes)?;
                log::info!("program: {}", String::from_utf8_lossy(&bytes[..n]).trim_end());
                Ok(n)
            }
        }
    }

    fn read_at(&self, _offset: u64, out: &mut Out<'_>, flags: IoFlags) -> Result<usize> {
        self.read(out, flags)
    }

    fn write_at(&self, _offset: u64, input: &mut In<'_>, flags: IoFlags) -> Result<usize> {
        self.write(input, flags)
    }

    fn seek(&self, _offset: i64, _whence: Whence) -> Result<u64> {
        Ok(0)
    }

    fn can_epoll(&self) -> bool {
        matches!(self.kind, Kind::Random | Kind::Log)
    }

    fn poll(&self) -> Events {
        match self.kind {
            Kind::Log => Events::OUT | Events::WRNORM,
            _ => Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM,
        }
    }

    fn stat(&self) -> Result<Stat> {
        Ok(super::anonymous_stat())
    }

    fn page_source(&self) -> Option<Arc<dyn PageSource>> {
        if self.kind != Kind::Zero {
            return None;
        }
        // Fresh pages of its own for each mapping, made as they are touched.
        let inode = memfd::inode(0o600);
        inode.truncate(i64::MAX as u64 & !0xfff).ok()?;
        inode.page_source()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open node: the device, and the path under which it was opened.
struct NodeFile {
    inner: Arc<dyn File>,
    path: Path,
}

impl File for NodeFile {
    fn status(&self) -> &Status {
        self.inner.status()
    }
    fn read(&self, out: &mut Out<'_>, flags: IoFlags) -> Result<usize> {
        self.inner.read(out, flags)
    }
    fn write(&self, input: &mut In<'_>, flags: IoFlags) -> Result<usize> {
        self.inner.write(input, flags)
    }
    fn read_at(&self, offset: u64, out: &mut Out<'_>, flags: IoFlags) -> Result<usize> {
        self.inner.read_at(offset, out, flags)
    }
    fn write_at(&self, offset: u64, input: &mut In<'_>, flags: IoFlags) -> Result<usize> {
        self.inner.write_at(offset, input, flags)
    }
    fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        self.inner.seek(offset, whence)
    }
    fn is_stream(&self) -> bool {
        self.inner.is_stream()
    }
    fn poll(&self) -> Events {
        self.inner.poll()
    }
    fn subject(&self) -> &Subject {
        self.inner.subject()
    }
    fn can_epoll(&self) -> bool {
        self.inner.can_epoll()
    }
    fn ioctl(&self, command: u32, arg: usize) -> Result<u64> {
        self.inner.ioctl(command, arg)
    }
    fn stat(&self) -> Result<Stat> {
        self.path.inode()?.stat()
    }
    fn sync(&self, data_only: bool) -> Result<()> {
        self.inner.sync(data_only)
    }
    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.inner.allocate(mode, offset, len)
    }
    fn page_source(&self) -> Option<Arc<dyn PageSource>> {
        self.inner.page_source()
    }
    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
    fn fdinfo(&self) -> String {
        self.inner.fdinfo()
    }
    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}

/// The root of /dev/pts: one name per open pseudo-terminal, and ptmx.
pub fn pts() -> Arc<dyn Inode> {
    Arc::new(Pts)
}

struct Pts;

struct PtsNode {
    rdev: u64,
    ino: u64,
    mode: u32,
}

const PTS_DEV: u64 = 18;
const PTMX_INO: u64 = 2;

fn pts_stat(kind: FileType, ino: u64, mode: u32, rdev: u64) -> Stat {
    let now = Time::now();
    Stat {
        dev: PTS_DEV,
        ino,
        mode: kind.mode_bits() | mode,
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        gid: if ino > PTMX_INO { 5 } else { 0 },
        rdev,
        blksize: 1024,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        ..Stat::default()
    }
}

impl Inode for Pts {
    fn kind(&self) -> FileType {
        FileType::Directory
    }
    fn stat(&self) -> Result<Stat> {
        Ok(pts_stat(FileType::Directory, 1, 0o755, 0))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { kind: 0x1cd1, block_size: 4096, ..StatFs::default() })
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if name == b"ptmx" {
            return Ok(Arc::new(PtsNode { rdev: makedev(TTY, 2), ino: PTMX_INO, mode: 0o666 }));
        }
        let number: u32 = core::str::from_utf8(name).ok().and_then(|n| n.parse().ok()).ok_or(Errno::ENOENT)?;
        let rdev = pty::slave_device(number).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(PtsNode { rdev, ino: u64::from(number) + 3, mode: 0o620 }))
    }
    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let mut names: Vec<(String, u64)> = alloc::vec![(String::from("ptmx"), PTMX_INO)];
        names.extend(pty::slaves().into_iter().map(|n| (format!("{n}"), u64::from(n) + 3)));
        for (index, (name, ino)) in names.iter().enumerate().skip(from as usize) {
            let entry = DirEntry { name: name.as_bytes(), ino: *ino, kind: FileType::Char, next: index as u64 + 1 };
            if !emit(&entry) {
                break;
            }
        }
        Ok(())
    }
}

impl Inode for PtsNode {
    fn kind(&self) -> FileType {
        FileType::Char
    }
    fn stat(&self) -> Result<Stat> {
        Ok(pts_stat(FileType::Char, self.ino, self.mode, self.rdev))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    // grantpt and login programs set owner and mode; everything here is the one user's.
    fn set_attr(&self, _attr: &SetAttr) -> Result<()> {
        Ok(())
    }
    fn statfs(&self) -> Result<StatFs> {
        Pts.statfs()
    }
}

/// An open file as an inode: what `/proc/PID/fd/N` leads to when the file has no path.
pub struct FileInode(pub Arc<dyn File>);

impl Inode for FileInode {
    fn kind(&self) -> FileType {
        self.0.stat().ok().and_then(|stat| FileType::from_mode(stat.mode)).unwrap_or(FileType::Regular)
    }
    fn stat(&self) -> Result<Stat> {
        self.0.stat()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { kind: 0x5049_5045, block_size: 4096, ..StatFs::default() })
    }
    fn open(&self, _this: &Arc<dyn Inode>, _path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        self.0.reopen(flags)
    }
    fn set_attr(&self, _attr: &SetAttr) -> Result<()> {
        Ok(())
    }
}
