//! Mounts, and paths: a place in a mounted file system.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use base::{Errno, Once, Result, RwLock};

use super::dentry::Dentry;
use crate::inode::Inode;

/// A file system, or a part of one, at a place in the tree.
pub struct Mount {
    id: u64,
    root: Arc<Dentry>,
    /// Where it is mounted; `None` for the first root and for mounts that are not in the tree.
    at: Option<Path>,
    read_only: AtomicBool,
    kind: &'static str,
    source: String,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(20);
static ROOT: Once<Path> = Once::new();
// The key is the mount and the dentry (by address) that is covered.
static TABLE: RwLock<BTreeMap<(u64, usize), Arc<Mount>>> = RwLock::new(BTreeMap::new());

impl Mount {
    /// A mount that is not in the tree (pipes' and memfds' file system), or the first root.
    pub fn detached(root: Arc<Dentry>, kind: &'static str) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            root,
            at: None,
            read_only: AtomicBool::new(false),
            kind,
            source: String::from(kind),
        })
    }

    /// Its number, as in mountinfo.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Changes are refused with `EROFS`.
    pub fn read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// `EROFS` if nothing may change here.
    pub fn writable(&self) -> Result<()> {
        if self.read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Makes it read-only or writable (`MS_REMOUNT`).
    pub fn set_read_only(&self, on: bool) {
        self.read_only.store(on, Ordering::Relaxed);
    }

    /// The root of this mount.
    pub fn root_path(self: &Arc<Self>) -> Path {
        Path { mount: self.clone(), dentry: self.root.clone() }
    }
}

/// A place: a dentry in a mount. Never negative except where a function says so.
#[derive(Clone)]
pub struct Path {
    pub(super) mount: Arc<Mount>,
    pub(super) dentry: Arc<Dentry>,
}

impl Path {
    /// Of these two.
    pub fn new(mount: Arc<Mount>, dentry: Arc<Dentry>) -> Self {
        Self { mount, dentry }
    }

    /// The dentry.
    pub fn dentry(&self) -> &Arc<Dentry> {
        &self.dentry
    }

    /// The mount.
    pub fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }

    /// The inode; `ENOENT` if the path is negative.
    pub fn inode(&self) -> Result<&Arc<dyn Inode>> {
        self.dentry.inode().ok_or(Errno::ENOENT)
    }

    /// The inode of a path that is known to be positive.
    ///
    /// # Panics
    /// If it is negative.
    pub fn inode_arc(&self) -> Arc<dyn Inode> {
        self.dentry.inode().expect("an open path has an inode").clone()
    }

    /// The same place.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.dentry, &other.dentry) && self.mount.id == other.mount.id
    }

    /// The directory above, through mounts; the root's is the root.
    pub fn parent(&self) -> Self {
        let mut path = self.clone();
        loop {
            if !Arc::ptr_eq(&path.dentry, &path.mount.root) {
                if let Some(parent) = path.dentry.parent() {
                    path.dentry = parent;
                }
                return path;
            }
            match &path.mount.at {
                Some(at) => path = at.clone(),
                None => return path,
            }
        }
    }

    /// `..` as seen by someone whose root is `root`.
    pub fn parent_within(&self, root: &Self) -> Self {
        if self.same(root) {
            return self.clone();
        }
        // Above a mount's root comes the mount point's parent, unless that mount point is the root itself.
        let mut path = self.clone();
        while Arc::ptr_eq(&path.dentry, &path.mount.root) {
            match path.mount.at.clone() {
                Some(at) => path = at,
                None => return path,
            }
            if path.same(root) {
                return path.enter_mounts();
            }
        }
        path.parent().enter_mounts()
    }

    /// What is mounted here, if anything, else the path itself.
    pub fn enter_mounts(mut self) -> Self {
        while self.dentry.mounted() {
            let key = (self.mount.id, Arc::as_ptr(&self.dentry) as usize);
            let Some(mount) = TABLE.read().get(&key).cloned() else {
                break;
            };
            self = mount.root_path();
        }
        self
    }

    /// The absolute path as seen from `root`, and whether the name is still there. A place outside of `root` is
    /// shown from the real root.
    pub fn render(&self, root: &Self) -> (Vec<u8>, bool) {
        let mut names: Vec<Arc<[u8]>> = Vec::new();
        let mut linked = true;
        let mut at = self.clone();
        while !at.same(root) {
            if Arc::ptr_eq(&at.dentry, &at.mount.root) {
                match at.mount.at.clone() {
                    Some(up) => at = up,
                    None => break,
                }
                continue;
            }
            linked &= !at.dentry.is_unlinked();
            let (parent, name) = at.dentry.parent_and_name();
            names.push(name);
            match parent {
                Some(parent) => at.dentry = parent,
                None => break,
            }
        }
        let mut text = Vec::new();
        for name in names.iter().rev() {
            text.push(b'/');
            text.extend_from_slice(name);
        }
        if text.is_empty() {
            text.push(b'/');
        }
        (text, linked)
    }

    /// Mounts the file system (or part of one) at `root` here. Returns the new mount's root.
    pub fn mount_here(&self, root: Arc<Dentry>, kind: &'static str, source: &str, read_only: bool) -> Result<Path> {
        let is_dir = |d: &Dentry| d.inode().map(|i| i.kind() == crate::FileType::Directory);
        if is_dir(&root) != is_dir(&self.dentry) {
            return Err(Errno::ENOTDIR);
        }
        let at = self.clone().enter_mounts();
        let mount = Arc::new(Mount {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            root,
            at: Some(at.clone()),
            read_only: AtomicBool::new(read_only),
            kind,
            source: String::from(source),
        });
        let key = (at.mount.id, Arc::as_ptr(&at.dentry) as usize);
        at.dentry.add_mount();
        TABLE.write().insert(key, mount.clone());
        Ok(mount.root_path())
    }

    /// Removes the mount whose root this is. `EINVAL` if it is none, `EBUSY` if something is mounted below it.
    pub fn unmount(&self, force: bool) -> Result<()> {
        let at = match &self.mount.at {
            Some(at) if Arc::ptr_eq(&self.dentry, &self.mount.root) => at.clone(),
            _ => return Err(Errno::EINVAL),
        };
        let mut table = TABLE.write();
        if table.keys().any(|(mount, _)| *mount == self.mount.id) {
            return Err(Errno::EBUSY);
        }
        let key = (at.mount.id, Arc::as_ptr(&at.dentry) as usize);
        // The table, this path, and the caller's copies while it resolves; more means open files or directories.
        if !force && table.get(&key).is_some_and(|m| Arc::strong_count(m) > 2) {
            return Err(Errno::EBUSY);
        }
        let gone = table.remove(&key);
        drop(table);
        at.dentry.remove_mount();
        if let Some(mount) = gone
            && mount.root.parent().is_none()
        {
            mount.root.forget_below();
        }
        Ok(())
    }

    /// True if something is mounted on this dentry anywhere.
    pub fn is_mount_point(&self) -> bool {
        self.dentry.mounted()
    }
}

/// Sets the first root (once) and returns it.
pub fn root_mount(root: Arc<Dentry>, kind: &'static str) -> Path {
    ROOT.call_once(|| Mount::detached(root, kind).root_path()).clone()
}

/// A line of `/proc/mounts`.
pub struct MountInfo {
    /// Its number.
    pub id: u64,
    /// Number of the mount that holds it.
    pub parent: u64,
    /// Device number of the file system.
    pub dev: u64,
    /// The part of the file system that is mounted.
    pub root: Vec<u8>,
    /// Where it is.
    pub at: Vec<u8>,
    /// Kind of file system.
    pub kind: &'static str,
    /// What was mounted.
    pub source: String,
    /// Read-only.
    pub read_only: bool,
}

/// All mounts, in order of their numbers.
pub fn mounts() -> Vec<MountInfo> {
    let Some(root) = ROOT.get() else {
        return Vec::new();
    };
    let mut all: Vec<Arc<Mount>> = TABLE.read().values().cloned().collect();
    all.push(root.mount.clone());
    all.sort_by_key(|m| m.id);
    all.iter()
        .map(|m| {
            let path = m.root_path();
            let mut part = Vec::new();
            let mut dentry = m.root.clone();
            while let (Some(parent), name) = dentry.parent_and_name() {
                part.splice(0..0, core::iter::once(b'/').chain(name.iter().copied()));
                dentry = parent;
            }
            if part.is_empty() {
                part.push(b'/');
            }
            MountInfo {
                id: m.id,
                parent: m.at.as_ref().map_or(m.id, |at| at.mount.id),
                dev: path.inode().and_then(|i| i.stat()).map_or(0, |s| s.dev),
                root: part,
                at: path.render(root).0,
                kind: m.kind,
                source: m.source.clone(),
                read_only: m.read_only(),
            }
        })
        .collect()
}
