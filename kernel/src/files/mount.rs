//! The tree of mounts: the root from the image, and what lies on it.

use alloc::string::String;
use alloc::sync::Arc;

use base::{Errno, Once, Result};
use fs::inode::New;
use fs::tmpfs::TmpFs;
use fs::vfs::{self, Dentry, Resolve};
use fs::{Credentials, FileType, Inode, Path, Walk};

use super::{dev, proc, sysfs};
use crate::mm;

static PROC: Once<Arc<dyn Inode>> = Once::new();
static SYS: Once<Arc<dyn Inode>> = Once::new();
static PTS: Once<Arc<dyn Inode>> = Once::new();
static ROOT: Once<Path> = Once::new();

/// Pages that one file system in memory may hold: half of what there is, as Linux's tmpfs.
pub fn memory_share() -> u64 {
    (mm::frame::stats().total as u64 / 2).max(256)
}

fn reclaim(pages: usize) -> usize {
    fs::tmpfs::reclaim(pages)
}

/// Makes `dentry` the root, with /proc, /sys, /dev, /dev/pts, /dev/shm, /tmp and /run on it.
pub fn set_up(dentry: Arc<Dentry>, kind: &'static str) -> Result<Path> {
    mm::register_shrinker(reclaim);
    // A cached name takes about 300 bytes: at most about 2 % of the memory.
    fs::vfs::set_limit((mm::frame::stats().total / 4).clamp(256, 65_536));
    fs::inode::set_open_special(dev::open_special);
    fs::tmpfs::set_unmap(mm::forget_pages);
    fs::file::set_release_locks(super::locks::file_gone);
    let root = ROOT.call_once(|| vfs::root_mount(dentry, kind)).clone();
    let cred = Credentials::root();
    let walk = Walk { root: &root, start: &root, cred: &cred };
    let place = |path: &[u8], mode: u32| -> Result<Path> {
        match walk.create(path, New::Directory, mode) {
            Err(Errno::EEXIST) => walk.lookup(path, Resolve::FOLLOW),
            other => other,
        }
    };
    let share = memory_share();
    let tmpfs = |mode| TmpFs::root(share, mode);
    let synth = Dentry::root;
    place(b"/proc", 0o555)?.mount_here(synth(PROC.call_once(proc::tree).clone()), "proc", "proc", false)?;
    place(b"/sys", 0o555)?.mount_here(synth(SYS.call_once(sysfs::tree).clone()), "sysfs", "sysfs", false)?;
    place(b"/dev", 0o755)?.mount_here(tmpfs(0o755), "tmpfs", "devtmpfs", false)?;
    dev::populate(&walk)?;
    place(b"/dev/pts", 0o755)?.mount_here(synth(PTS.call_once(dev::pts).clone()), "devpts", "devpts", false)?;
    place(b"/dev/shm", 0o1777)?.mount_here(tmpfs(0o1777), "tmpfs", "tmpfs", false)?;
    place(b"/dev/mqueue", 0o1777)?;
    place(b"/tmp", 0o1777)?;
    place(b"/run", 0o755)?.mount_here(tmpfs(0o755), "tmpfs", "tmpfs", false)?;
    Ok(root)
}

const MS_RDONLY: u64 = 1;
const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const MS_MOVE: u64 = 8192;
const MS_REC: u64 = 16384;
/// Propagation changes: there is one namespace, so they mean nothing.
const PROPAGATION: u64 = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20;

/// `mount`: tmpfs, proc, sysfs, devpts, bind mounts, remounting.
pub fn mount(source: &[u8], target: &Path, kind: &[u8], flags: u64) -> Result<()> {
    let read_only = flags & MS_RDONLY != 0;
    if flags & MS_REMOUNT != 0 {
        if !Arc::ptr_eq(target.dentry(), target.mount().root_path().dentry()) {
            return Err(Errno::EINVAL);
        }
        target.mount().set_read_only(read_only);
        return Ok(());
    }
    if flags & PROPAGATION != 0 {
        return Ok(());
    }
    if flags & MS_MOVE != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MS_BIND != 0 {
        let _ = flags & MS_REC;
        let from = super::lookup(source, Resolve::FOLLOW)?;
        let name = String::from_utf8_lossy(source);
        return target.mount_here(from.dentry().clone(), "none", &name, read_only).map(|_| ());
    }
    if target.inode()?.kind() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    let (dentry, kind) = match kind {
        b"tmpfs" | b"ramfs" | b"devtmpfs" => (TmpFs::root(memory_share(), 0o1777), "tmpfs"),
        b"proc" => (Dentry::root(PROC.call_once(proc::tree).clone()), "proc"),
        b"sysfs" => (Dentry::root(SYS.call_once(sysfs::tree).clone()), "sysfs"),
        b"devpts" => (Dentry::root(PTS.call_once(dev::pts).clone()), "devpts"),
        b"" => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENODEV),
    };
    let name = if source.is_empty() { "none".into() } else { String::from_utf8_lossy(source) };
    target.mount_here(dentry, kind, &name, read_only).map(|_| ())
}
