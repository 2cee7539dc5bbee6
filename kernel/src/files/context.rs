//! Working directory, root and umask: what `CLONE_FS` shares.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use base::SpinLock;
use fs::Path;

/// Working directory, root and umask.
pub struct FsContext {
    paths: SpinLock<(Path, Path)>,
    umask: AtomicU32,
}

impl FsContext {
    /// At the root of the tree.
    pub fn new(root: Path) -> Arc<Self> {
        Arc::new(Self { paths: SpinLock::new((root.clone(), root)), umask: AtomicU32::new(0o022) })
    }

    /// A context of its own with the same values (fork).
    pub fn duplicate(&self) -> Arc<Self> {
        Arc::new(Self { paths: SpinLock::new(self.paths.lock().clone()), umask: AtomicU32::new(self.umask()) })
    }

    /// The root directory.
    pub fn root(&self) -> Path {
        self.paths.lock().0.clone()
    }

    /// The working directory.
    pub fn cwd(&self) -> Path {
        self.paths.lock().1.clone()
    }

    /// Root and working directory, at one moment.
    pub fn both(&self) -> (Path, Path) {
        self.paths.lock().clone()
    }

    /// Sets the root (`chroot`).
    pub fn set_root(&self, root: Path) {
        let old = core::mem::replace(&mut self.paths.lock().0, root);
        drop(old);
    }

    /// Sets the working directory.
    pub fn set_cwd(&self, cwd: Path) {
        let old = core::mem::replace(&mut self.paths.lock().1, cwd);
        drop(old);
    }

    /// The permission bits that new files do not get.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets them and returns the old ones.
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Ordering::Relaxed)
    }
}
