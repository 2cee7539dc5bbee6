//! The root file system to be, as a tree in memory: names, owners, modes, and where each file's bytes are on the host.
//!
//! Here: adding host paths with every symbolic link on the way kept as it is, so that a merged /usr stays merged.
//! Not here: deciding which paths to add (`pack`), and the bytes of the image (`erofs`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

/// What `stat` says and an image keeps, besides the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// Permission bits, set-id and sticky bits: the low 12 bits of `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: u64,
    /// Nanoseconds within that second.
    pub mtime_nsec: u32,
}

impl Attrs {
    /// Root's, at the beginning of time: for what we make ourselves.
    pub const fn ours(mode: u16) -> Self {
        Attrs { mode, uid: 0, gid: 0, mtime: 0, mtime_nsec: 0 }
    }

    fn of(m: &Metadata) -> Self {
        Attrs {
            mode: (m.mode() & 0o7777) as u16,
            uid: m.uid(),
            gid: m.gid(),
            mtime: m.mtime().max(0) as u64,
            mtime_nsec: m.mtime_nsec() as u32,
        }
    }
}

/// Where a regular file's bytes come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file of the host: its path, its length when it was looked at, and (device, inode) for hard links.
    Host {
        /// Where it is.
        path: PathBuf,
        /// Its length in bytes.
        size: u64,
        /// Device and inode number; files that share it share one inode in the image.
        id: (u64, u64),
        /// When the inode last changed (`st_ctime`, with nanoseconds): tells a replaced file from the old one.
        changed: (i64, i64),
    },
    /// Bytes that we made.
    Bytes(Vec<u8>),
}

impl Source {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Source::Host { size, .. } => *size,
            Source::Bytes(b) => b.len() as u64,
        }
    }
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A directory and its entries by name.
    Dir(BTreeMap<OsString, Node>),
    /// A regular file.
    File(Source),
    /// A symbolic link and its target.
    Link(OsString),
    /// A character or block device: `st_mode`'s type bits and `st_rdev`.
    Device(u16, u64),
    /// A named pipe.
    Fifo,
}

/// One inode of the tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// Owner, mode, time.
    pub attrs: Attrs,
    /// The rest.
    pub kind: Kind,
}

impl Node {
    /// A directory of ours.
    pub fn dir(mode: u16) -> Self {
        Node { attrs: Attrs::ours(mode), kind: Kind::Dir(BTreeMap::new()) }
    }

    /// A file of ours.
    pub fn file(mode: u16, bytes: impl Into<Vec<u8>>) -> Self {
        Node { attrs: Attrs::ours(mode), kind: Kind::File(Source::Bytes(bytes.into())) }
    }

    /// A symbolic link of ours.
    pub fn link(target: impl AsRef<OsStr>) -> Self {
        Node { attrs: Attrs::ours(0o777), kind: Kind::Link(target.as_ref().to_owned()) }
    }
}

/// A root file system in the making.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Node,
    unreadable: Vec<PathBuf>,
}

impl Default for Tree {
    fn default() -> Self {
        Tree { root: Node::dir(0o755), unreadable: Vec::new() }
    }
}

/// More symbolic links than this on one path are a loop (Linux's limit).
const MAX_LINKS: usize = 40;

impl Tree {
    /// The root directory.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Files that were passed over because this user may not read them.
    pub fn unreadable(&self) -> &[PathBuf] {
        &self.unreadable
    }

    /// The node at `path`, without following a link at its end or on the way.
    pub fn get(&self, path: &Path) -> Option<&Node> {
        let mut node = &self.root;
        for name in names(path) {
            match &node.kind {
                Kind::Dir(entries) => node = entries.get(name)?,
                _ => return None,
            }
        }
        Some(node)
    }

    /// The path that `path` comes to in this tree when all links are followed; `None` when it leads nowhere.
    pub fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let mut todo: Vec<OsString> = names(path).map(OsStr::to_owned).collect();
        todo.reverse();
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            let here = done.join(&name);
            match &self.get(&here)?.kind {
                Kind::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    push_link(target, &mut done, &mut todo);
                }
                _ => done = here,
            }
        }
        Some(done)
    }

    /// Puts `node` at `path`, which must not lead through links; directories that lack on the way are made (0755).
    /// An existing directory keeps its entries when `node` is a directory too; anything else is replaced.
    pub fn put(&mut self, path: &Path, node: Node) -> Result<()> {
        let mut at = &mut self.root;
        for name in names(path) {
            let Kind::Dir(entries) = &mut at.kind else {
                bail!("{} cannot be put into the image: a part of the path is not a directory there", path.display());
            };
            at = entries.entry(name.to_owned()).or_insert_with(|| Node::dir(0o755));
        }
        match (&mut at.kind, &node.kind) {
            (Kind::Dir(_), Kind::Dir(new)) if new.is_empty() => at.attrs = node.attrs,
            _ => *at = node,
        }
        Ok(())
    }

    /// Puts `node` at `path` after following the links of its folder in this tree.
    pub fn put_resolved(&mut self, path: &Path, node: Node) -> Result<()> {
        let place = self.place(path);
        self.put(&place, node)
    }

    /// `path` with the links of its folder followed, as far as the folder is there.
    fn place(&self, path: &Path) -> PathBuf {
        let mut missing: Vec<&OsStr> = Vec::new();
        let mut folder = path;
        while let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) {
            missing.push(name);
            if let Some(real) = self.resolve(parent) {
                return missing.iter().rev().fold(real, |p, n| p.join(n));
            }
            folder = parent;
        }
        path.to_owned()
    }

    /// Adds the host's `path` (absolute) at the same place: every link on the way is added as a link, directories with
    /// the host's owner and mode but without their other entries. Returns the path that all links led to.
    pub fn add_host(&mut self, path: &Path) -> Result<PathBuf> {
        let mut todo: Vec<OsString> = names(path).map(OsStr::to_owned).collect();
        todo.reverse();
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            let here = done.join(&name);
            match self.get(&here).map(|n| &n.kind) {
                Some(Kind::Link(target)) => {
                    links += 1;
                    push_link(&target.clone(), &mut done, &mut todo);
                }
                Some(_) => done = here,
                None => {
                    let mut node = host_node(&here)?;
                    if matches!(node.kind, Kind::Dir(_)) {
                        // Its other entries are not taken: when they changed must not matter.
                        (node.attrs.mtime, node.attrs.mtime_nsec) = (0, 0);
                    }
                    if let Kind::Link(target) = &node.kind {
                        links += 1;
                        let target = target.clone();
                        self.put(&here, node)?;
                        push_link(&target, &mut done, &mut todo);
                    } else {
                        self.put_readable(&here, node)?;
                        done = here;
                    }
                }
            }
            if links > MAX_LINKS {
                bail!("{}: too many levels of symbolic links", path.display());
            }
        }
        Ok(done)
    }

    /// Adds the host's `from` with everything below it at `to` in the image. Links are kept as links. Other file
    /// systems mounted below are included; sockets are left out (their servers are not in the image).
    pub fn add_tree(&mut self, from: &Path, to: &Path) -> Result<()> {
        let to = self.place(to);
        self.add_tree_at(from, &to)
    }

    fn add_tree_at(&mut self, from: &Path, to: &Path) -> Result<()> {
        let meta = fs::symlink_metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
        if meta.file_type().is_socket() {
            return Ok(());
        }
        let node = node_of(from, &meta)?;
        let is_dir = matches!(node.kind, Kind::Dir(_));
        self.put_readable(to, node)?;
        if !is_dir {
            return Ok(());
        }
        let entries = match fs::read_dir(from) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                self.unreadable.push(from.to_owned());
                return Ok(());
            }
            Err(e) => return Err(e).with_context(|| format!("cannot read the directory {}", from.display())),
        };
        for entry in entries {
            let name = entry.with_context(|| format!("cannot read the directory {}", from.display()))?.file_name();
            self.add_tree_at(&from.join(&name), &to.join(&name))?;
        }
        Ok(())
    }

    fn put_readable(&mut self, at: &Path, node: Node) -> Result<()> {
        if let Kind::File(Source::Host { path, .. }) = &node.kind
            && rustix::fs::access(path, rustix::fs::Access::READ_OK).is_err()
        {
            self.unreadable.push(path.clone());
            return Ok(());
        }
        self.put(at, node)
    }

    /// Calls `f` with the path of every node, parents first, names in byte order.
    pub fn walk<'a>(&'a self, f: &mut impl FnMut(&Path, &'a Node)) {
        walk(&self.root, &mut PathBuf::from("/"), f);
    }

    /// Number of inodes-to-be and bytes of file contents.
    pub fn totals(&self) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        self.walk(&mut |_, n| {
            count += 1;
            if let Kind::File(s) = &n.kind {
                bytes += s.size();
            }
        });
        (count, bytes)
    }
}

fn walk<'a>(node: &'a Node, path: &mut PathBuf, f: &mut impl FnMut(&Path, &'a Node)) {
    f(path, node);
    if let Kind::Dir(entries) = &node.kind {
        for (name, child) in entries {
            path.push(name);
            walk(child, path, f);
            path.pop();
        }
    }
}

/// The names that make up a path; `..` stays, `.` and the root do not.
fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|c| match c {
        Component::Normal(n) => Some(n),
        Component::ParentDir => Some(OsStr::new("..")),
        _ => None,
    })
}

/// Continues a walk at a link's target: `done` is the link's folder, `todo` the names still to go, last first.
fn push_link(target: &OsStr, done: &mut PathBuf, todo: &mut Vec<OsString>) {
    let target = Path::new(target);
    if target.is_absolute() {
        *done = PathBuf::from("/");
    }
    let mut parts: Vec<OsString> = names(target).map(OsStr::to_owned).collect();
    parts.reverse();
    todo.extend(parts);
}

fn host_node(path: &Path) -> Result<Node> {
    let meta = fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    node_of(path, &meta)
}

fn node_of(path: &Path, meta: &Metadata) -> Result<Node> {
    let t = meta.file_type();
    let kind = if t.is_dir() {
        Kind::Dir(BTreeMap::new())
    } else if t.is_symlink() {
        let target = fs::read_link(path).with_context(|| format!("cannot read the link {}", path.display()))?;
        Kind::Link(OsString::from_vec(target.as_os_str().as_bytes().to_vec()))
    } else if t.is_file() {
        let (id, changed) = ((meta.dev(), meta.ino()), (meta.ctime(), meta.ctime_nsec()));
        Kind::File(Source::Host { path: path.to_owned(), size: meta.len(), id, changed })
    } else if t.is_fifo() {
        Kind::Fifo
    } else if t.is_char_device() || t.is_block_device() {
        Kind::Device((meta.mode() & 0o170000) as u16, meta.rdev())
    } else {
        bail!("{} is a socket; an image cannot hold one", path.display());
    };
    Ok(Node { attrs: Attrs::of(meta), kind })
}
