//! Trees of generated files: what /proc and /sys are made of.
//!
//! A tree is declared with [`dir`], [`file`], [`file_rw`], [`link`] and [`dynamic`]; the texts are made when they
//! are read, once per opening and again after a seek to the start.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

use base::io::{In, Out};
use base::sync::Mutex;
use base::{Errno, Result};

use crate::file::{File, IoFlags, Status, Whence};
use crate::inode::Inode;
use crate::regular::{DirectoryFile, seek_position};
use crate::types::{DirEntry, FileType, OpenFlags, SetAttr, Stat, StatFs, Time};
use crate::vfs::Path;

type Node = Arc<dyn Inode>;
type Read = Box<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;
type Write = Box<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;
type Jump = Box<dyn Fn() -> Result<Path> + Send + Sync>;
type Find = Box<dyn Fn(&[u8]) -> Result<Node> + Send + Sync>;
type List = Box<dyn Fn() -> Result<Vec<(Vec<u8>, FileType)>> + Send + Sync>;

enum Content {
    Directory { fixed: Vec<(&'static str, Node)>, dynamic: Option<(Find, List)> },
    Text { read: Read, write: Option<Write> },
    Link { target: Read, jump: Option<Jump> },
}

/// A generated inode.
pub struct Synth {
    ino: u64,
    mode: u32,
    owner: (u32, u32),
    content: Content,
}

static NEXT_INO: AtomicU64 = AtomicU64::new(1);
/// Longest text that one write may carry.
const MAX_WRITE: usize = 4096;
const PROC_MAGIC: u64 = 0x9fa0;
const DEV: u64 = 19;

fn node(mode: u32, content: Content) -> Node {
    node_of(mode, (0, 0), content)
}

fn node_of(mode: u32, owner: (u32, u32), content: Content) -> Node {
    let ino = NEXT_INO.fetch_add(1, Ordering::Relaxed);
    Arc::new(Synth { ino, mode, owner, content })
}

/// A directory of these entries.
pub fn dir(entries: Vec<(&'static str, Node)>) -> Node {
    node(0o555, Content::Directory { fixed: entries, dynamic: None })
}

/// A directory of fixed entries and of those that `find` makes and `list` names; nothing of it is cached.
pub fn dynamic(
    entries: Vec<(&'static str, Node)>,
    find: impl Fn(&[u8]) -> Result<Node> + Send + Sync + 'static,
    list: impl Fn() -> Result<Vec<(Vec<u8>, FileType)>> + Send + Sync + 'static,
) -> Node {
    let dynamic = Some((Box::new(find) as Find, Box::new(list) as List));
    node(0o555, Content::Directory { fixed: entries, dynamic })
}

/// A file with this text.
pub fn file(read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Node {
    node(0o444, Content::Text { read: Box::new(read), write: None })
}

/// A file that never changes.
pub fn fixed(text: &'static str) -> Node {
    file(move || Ok(text.as_bytes().to_vec()))
}

/// A file that can be written too; each write is one value.
pub fn file_rw(
    read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
    write: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
) -> Node {
    node(0o644, Content::Text { read: Box::new(read), write: Some(Box::new(write)) })
}

/// A symbolic link whose target is made when it is read.
pub fn link(target: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Node {
    node(0o777, Content::Link { target: Box::new(target), jump: None })
}

/// A link that leads to an object, not to a name; `target` is what readlink shows.
pub fn magic(
    target: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
    jump: impl Fn() -> Result<Path> + Send + Sync + 'static,
) -> Node {
    node(0o777, Content::Link { target: Box::new(target), jump: Some(Box::new(jump)) })
}

impl Inode for Synth {
    fn kind(&self) -> FileType {
        match self.content {
            Content::Directory { .. } => FileType::Directory,
            Content::Text { .. } => FileType::Regular,
            Content::Link { .. } => FileType::Symlink,
        }
    }

    fn stat(&self) -> Result<Stat> {
        let now = Time::now();
        let nlink = match &self.content {
            Content::Directory { fixed, .. } => {
                2 + fixed.iter().filter(|(_, n)| n.kind() == FileType::Directory).count() as u32
            }
            _ => 1,
        };
        Ok(Stat {
            dev: DEV,
            ino: self.ino,
            mode: self.kind().mode_bits() | self.mode,
            nlink,
            uid: self.owner.0,
            gid: self.owner.1,
            blksize: 1024,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            ..Stat::default()
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn set_attr(&self, _attr: &SetAttr) -> Result<()> {
        Err(Errno::EPERM)
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { kind: PROC_MAGIC, block_size: 4096, ..StatFs::default() })
    }

    fn cacheable(&self) -> bool {
        matches!(self.content, Content::Directory { dynamic: None, .. })
    }

    fn lookup(&self, name: &[u8]) -> Result<Node> {
        let Content::Directory { fixed, dynamic } = &self.content else {
            return Err(Errno::ENOTDIR);
        };
        if let Some((_, node)) = fixed.iter().find(|(n, _)| n.as_bytes() == name) {
            return Ok(node.clone());
        }
        dynamic.as_ref().map_or(Err(Errno::ENOENT), |(find, _)| find(name))
    }

    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let Content::Directory { fixed, dynamic } = &self.content else {
            return Err(Errno::ENOTDIR);
        };
        for (i, (name, node)) in fixed.iter().enumerate().skip(from as usize) {
            let ino = node.stat()?.ino;
            let entry = DirEntry { name: name.as_bytes(), ino, kind: node.kind(), next: i as u64 + 1 };
            if !emit(&entry) {
                return Ok(());
            }
        }
        let Some((_, list)) = dynamic else {
            return Ok(());
        };
        let skip = (from as usize).saturating_sub(fixed.len());
        for (i, (name, kind)) in list()?.iter().enumerate().skip(skip) {
            let next = (fixed.len() + i) as u64 + 1;
            // Numbers of names that come and go: any that is stable while listed.
            if !emit(&DirEntry { name, ino: (1 << 32) + next, kind: *kind, next }) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        match &self.content {
            Content::Link { target, .. } => target(),
            _ => Err(Errno::EINVAL),
        }
    }

    fn jump(&self) -> Option<Result<Path>> {
        match &self.content {
            Content::Link { jump: Some(jump), .. } => Some(jump()),
            _ => None,
        }
    }

    // `O_TRUNC` of shell redirections: nothing to do.
    fn truncate(&self, _len: u64) -> Result<()> {
        match &self.content {
            Content::Text { write: Some(_), .. } => Ok(()),
            _ => Err(Errno::EACCES),
        }
    }

    fn open(&self, _this: &Node, path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        match &self.content {
            Content::Directory { .. } => Ok(Arc::new(DirectoryFile::new(path.clone(), flags))),
            Content::Link { .. } => Err(Errno::ELOOP),
            Content::Text { write: None, .. } if flags.writable() => Err(Errno::EACCES),
            Content::Text { .. } => Ok(Arc::new(TextFile {
                path: path.clone(),
                status: Status::new(flags),
                state: Mutex::new(TextState { position: 0, text: None }),
            })),
        }
    }
}

struct TextState {
    position: u64,
    text: Option<Vec<u8>>,
}

/// An open generated file.
struct TextFile {
    path: Path,
    status: Status,
    state: Mutex<TextState>,
}

impl TextFile {
    fn content<R>(&self, f: impl FnOnce(&Read, Option<&Write>) -> R) -> Result<R> {
        let inode = self.path.inode()?;
        match inode.as_any().downcast_ref::<Synth>().map(|s| &s.content) {
            Some(Content::Text { read, write }) => Ok(f(read, write.as_ref())),
            _ => Err(Errno::EIO),
        }
    }

    fn read_from(&self, state: &mut TextState, offset: u64, out: &mut Out<'_>) -> Result<usize> {
        if offset == 0 || state.text.is_none() {
            state.text = Some(self.content(|read, _| read())??);
        }
        let text = state.text.as_deref().unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        if start == text.len() {
            return Ok(0);
        }
        out.write(&text[start..])
    }
}

impl File for TextFile {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        let mut state = self.state.lock();
        let position = state.position;
        let n = self.read_from(&mut state, position, out)?;
        state.position += n as u64;
        Ok(n)
    }

    fn read_at(&self, offset: u64, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        self.read_from(&mut self.state.lock(), offset, out)
    }

    fn write(&self, input: &mut In<'_>, _flags: IoFlags) -> Result<usize> {
        let mut text = alloc::vec![0; input.remaining().min(MAX_WRITE)];
        let n = input.read(&mut text)?;
        text.truncate(n);
        self.content(|_, write| write.map_or(Err(Errno::EINVAL), |write| write(&text)))??;
        Ok(n)
    }

    fn write_at(&self, _offset: u64, input: &mut In<'_>, flags: IoFlags) -> Result<usize> {
        self.write(input, flags)
    }

    fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        let mut state = self.state.lock();
        if whence == Whence::End {
            return Err(Errno::EINVAL);
        }
        state.position = seek_position(state.position, offset, whence, 0, |_, _| Err(Errno::EINVAL))?;
        Ok(state.position)
    }

    fn stat(&self) -> Result<Stat> {
        self.path.inode()?.stat()
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
