//! tmpfs and the operations on names, by themselves and over a lower file system.

use super::*;
use crate::inode::{New, Place};
use crate::types::{Credentials, OpenFlags};
use crate::vfs::{How, Mount, Path, Resolve, Walk};
use base::io::{In, Out};
use std::vec;

pub(crate) struct World {
    pub root: Path,
    pub cred: Credentials,
}

impl World {
    pub fn new() -> Self {
        Self::at(TmpFs::root(1000, 0o755))
    }
    pub fn at(root: Arc<Dentry>) -> Self {
        Self { root: Mount::detached(root, "tmpfs").root_path(), cred: Credentials::root() }
    }
    pub fn walk(&self) -> Walk<'_> {
        Walk { root: &self.root, start: &self.root, cred: &self.cred }
    }
    pub fn find(&self, path: &str) -> Result<Path> {
        self.walk().lookup(path.as_bytes(), Resolve::FOLLOW)
    }
    pub fn open(&self, path: &str, flags: OpenFlags) -> Result<Arc<dyn crate::File>> {
        self.walk().open(path.as_bytes(), How { flags, mode: 0o644, resolve: Resolve::empty() })
    }
    pub fn put(&self, path: &str, data: &[u8]) {
        let file = self.open(path, OpenFlags::CREAT | OpenFlags::TRUNC | OpenFlags::RDWR).unwrap();
        assert_eq!(file.write(&mut In::kernel(data), Default::default()), Ok(data.len()));
    }
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let inode = self.find(path)?.inode()?.clone();
        let mut data = vec![0; inode.size() as usize];
        let n = inode.read_at(0, &mut Out::kernel(&mut data))?;
        assert_eq!(n, data.len());
        Ok(data)
    }
    pub fn mkdir(&self, path: &str) -> Result<Path> {
        self.walk().create(path.as_bytes(), New::Directory, 0o755)
    }
    pub fn list(&self, path: &str) -> Vec<std::string::String> {
        let mut names = Vec::new();
        let dir = self.find(path).unwrap();
        dir.inode()
            .unwrap()
            .readdir(0, &mut |e| {
                names.push(std::string::String::from_utf8(e.name.to_vec()).unwrap());
                true
            })
            .unwrap();
        names.sort();
        names
    }
    pub fn rename(&self, a: &str, b: &str, flags: u32) -> Result<()> {
        self.walk().rename(a.as_bytes(), &self.walk(), b.as_bytes(), flags)
    }
    fn nlink(&self, path: &str) -> u32 {
        self.find(path).unwrap().inode().unwrap().stat().unwrap().nlink
    }
}

#[test]
fn names_and_errors_are_as_in_posix() {
    let w = World::new();
    w.mkdir("/d").unwrap();
    w.put("/d/f", b"hello");
    assert_eq!(w.get("/d/f").unwrap(), b"hello");
    assert_eq!(w.mkdir("/d").err(), Some(Errno::EEXIST));
    assert_eq!(w.mkdir("/x/y").err(), Some(Errno::ENOENT));
    assert_eq!(w.mkdir("/d/f/g").err(), Some(Errno::ENOTDIR));
    assert_eq!(w.find("/d/f/").err(), Some(Errno::ENOTDIR));
    assert_eq!(w.find("").err(), Some(Errno::ENOENT));
    assert_eq!(w.find(&std::format!("/{}", "n".repeat(256))).err(), Some(Errno::ENAMETOOLONG));
    assert_eq!(w.walk().unlink(b"/d"), Err(Errno::EISDIR));
    assert_eq!(w.walk().rmdir(b"/d"), Err(Errno::ENOTEMPTY));
    assert_eq!(w.walk().rmdir(b"/d/f"), Err(Errno::ENOTDIR));
    assert_eq!(w.walk().rmdir(b"/d/."), Err(Errno::EINVAL));
    assert_eq!(w.open("/d", OpenFlags::WRONLY).err(), Some(Errno::EISDIR));
    assert_eq!(w.open("/d/f", OpenFlags::CREAT | OpenFlags::EXCL).err(), Some(Errno::EEXIST));
    assert_eq!(w.open("/n/", OpenFlags::CREAT).err(), Some(Errno::EISDIR));
    assert_eq!(w.nlink("/"), 3);
    w.walk().unlink(b"/d/f").unwrap();
    assert_eq!(w.find("/d/f").err(), Some(Errno::ENOENT));
    w.walk().rmdir(b"/d").unwrap();
    assert_eq!(w.nlink("/"), 2);
}

#[test]
fn links_rename_and_exchange() {
    let w = World::new();
    w.put("/a", b"a");
    w.walk().link(&w.find("/a").unwrap(), b"/b").unwrap();
    assert_eq!(w.nlink("/a"), 2);
    w.walk().create(b"/s", New::Symlink(b"b"), 0).unwrap();
    assert_eq!(w.get("/s").unwrap(), b"a");
    w.walk().create(b"/loop", New::Symlink(b"loop"), 0).unwrap();
    assert_eq!(w.find("/loop").err(), Some(Errno::ELOOP));
    assert_eq!(w.open("/s", OpenFlags::NOFOLLOW).err(), Some(Errno::ELOOP));
    // O_CREAT follows a dangling link and makes its target.
    w.walk().create(b"/dangling", New::Symlink(b"/made"), 0).unwrap();
    w.put("/dangling", b"x");
    assert_eq!(w.get("/made").unwrap(), b"x");
    w.put("/c", b"c");
    assert_eq!(w.rename("/a", "/c", 1), Err(Errno::EEXIST));
    w.rename("/a", "/c", 2).unwrap();
    assert_eq!((w.get("/a").unwrap(), w.get("/c").unwrap()), (b"c".to_vec(), b"a".to_vec()));
    w.rename("/c", "/b", 0).unwrap(); // both are the same inode: nothing happens
    assert!(w.find("/c").is_ok());
    w.rename("/a", "/b", 0).unwrap();
    assert_eq!(w.get("/b").unwrap(), b"c");
    assert_eq!(w.nlink("/c"), 1);
    w.mkdir("/d").unwrap();
    w.mkdir("/d/e").unwrap();
    assert_eq!(w.rename("/d", "/d/e/f", 0), Err(Errno::EINVAL));
    assert_eq!(w.rename("/d/e", "/d", 0), Err(Errno::ENOTEMPTY));
    assert_eq!(w.rename("/d", "/b", 0), Err(Errno::ENOTDIR));
    assert_eq!(w.rename("/b", "/d", 0), Err(Errno::EISDIR));
    w.rename("/d/e", "/e", 0).unwrap();
    let e = w.find("/e").unwrap();
    assert_eq!(e.render(&w.root), (b"/e".to_vec(), true));
    assert!(e.parent().same(&w.root));
    w.walk().rmdir(b"/e").unwrap();
    assert!(!e.render(&w.root).1);
    assert_eq!(w.list("/"), ["b", "c", "d", "dangling", "loop", "made", "s"]);
}

#[test]
fn sparse_files_holes_and_the_limit() {
    let w = World::new();
    w.put("/f", b"start");
    let inode = w.find("/f").unwrap().inode().unwrap().clone();
    inode.write_at(Place::At(1 << 40), &mut In::kernel(b"end")).unwrap();
    assert_eq!(inode.size(), (1 << 40) + 3);
    assert_eq!(inode.stat().unwrap().blocks, 16);
    assert_eq!(inode.seek_data(4096, false), Ok(1 << 40));
    assert_eq!(inode.seek_data(0, true), Ok(4096));
    let mut data = [9; 16];
    assert_eq!(inode.read_at(100_000, &mut Out::kernel(&mut data)), Ok(16));
    assert_eq!(data, [0; 16]);
    inode.truncate(3).unwrap();
    inode.truncate(5).unwrap();
    assert_eq!(w.get("/f").unwrap(), b"sta\0\0");
    inode.allocate(0, 0, 40_960).unwrap();
    inode.write_at(Place::At(0), &mut In::kernel(&[7; 40_960])).unwrap();
    inode.allocate(3, 1000, 9000).unwrap();
    let data = w.get("/f").unwrap();
    assert!(data[..1000].iter().all(|&b| b == 7) && data[10_000..].iter().all(|&b| b == 7));
    assert!(data[1000..10_000].iter().all(|&b| b == 0));
    // 1000 pages are the limit; then a clear error, and room again after truncation.
    let big = vec![1u8; 4096 * 1200];
    let (n, _) = inode.write_at(Place::At(0), &mut In::kernel(&big)).unwrap();
    assert_eq!(n, 4096 * 1000);
    assert_eq!(inode.write_at(Place::End, &mut In::kernel(b"x")), Err(Errno::ENOSPC));
    inode.truncate(0).unwrap();
    assert_eq!(inode.statfs().unwrap().free, 1000);
    assert_eq!(inode.allocate(0, 0, 4096 * 2000), Err(Errno::ENOSPC));
    assert_eq!(inode.statfs().unwrap().free, 1000);
}

#[test]
fn names_and_attributes_are_limited() {
    let w = World::at(TmpFs::root(100, 0o755));
    let made = (0..).take_while(|i| w.mkdir(&std::format!("/{i}")).is_ok()).count();
    assert_eq!(made, 200);
    assert_eq!(w.mkdir("/more").err(), Some(Errno::ENOSPC));
    w.rename("/1", "/renamed", 0).unwrap();
    w.walk().rmdir(b"/0").unwrap();
    w.mkdir("/more").unwrap();
    let inode = w.find("/more").unwrap().inode().unwrap().clone();
    inode.set_xattr(b"user.a", &[1; 60_000], 0).unwrap();
    assert_eq!(inode.statfs().unwrap().free, 100 - 15);
    inode.set_xattr(b"user.a", b"short", 2).unwrap();
    assert_eq!(inode.get_xattr(b"user.a").unwrap(), b"short");
    inode.remove_xattr(b"user.a").unwrap();
    assert_eq!(inode.statfs().unwrap().free, 100);
    assert_eq!(inode.set_xattr(b"system.x", b"", 0), Err(Errno::EOPNOTSUPP));
}

#[test]
fn pages_are_shared_with_mappings() {
    let w = World::new();
    w.put("/f", &[5; 5000]);
    let inode = w.find("/f").unwrap().inode().unwrap().clone();
    let source = inode.clone().page_source().unwrap();
    let page = source.page(1).unwrap();
    page.write(0, b"mapped");
    assert_eq!(&w.get("/f").unwrap()[4096..4102], b"mapped");
    inode.write_at(Place::At(4096), &mut In::kernel(b"file")).unwrap();
    let mut seen = [0; 6];
    page.read(0, &mut seen);
    assert_eq!(&seen, b"fileed");
    assert_eq!(source.page(2).err(), Some(Errno::ENXIO));
}

#[test]
fn unlinked_files_live_while_open_and_inotify_tells() {
    let w = World::new();
    w.mkdir("/d").unwrap();
    let inotify = crate::inotify::Inotify::new(OpenFlags::empty());
    let wd = inotify.add(&w.find("/d").unwrap(), 0x100 | 0x200 | 0xc0).unwrap();
    w.put("/d/f", b"data");
    let file = w.open("/d/f", OpenFlags::empty()).unwrap();
    w.rename("/d/f", "/d/g", 0).unwrap();
    w.walk().unlink(b"/d/g").unwrap();
    assert_eq!(file.stat().unwrap().nlink, 0);
    let mut data = [0; 8];
    assert_eq!(file.read(&mut Out::kernel(&mut data), Default::default()), Ok(4));
    let mut raw = [0u8; 256];
    let n = crate::File::read(&*inotify, &mut Out::kernel(&mut raw), Default::default()).unwrap();
    let mut masks = Vec::new();
    let mut at = 0;
    while at < n {
        assert_eq!(i32::from_le_bytes(raw[at..at + 4].try_into().unwrap()), wd);
        masks.push(u32::from_le_bytes(raw[at + 4..at + 8].try_into().unwrap()));
        at += 16 + u32::from_le_bytes(raw[at + 12..at + 16].try_into().unwrap()) as usize;
    }
    assert_eq!(masks, [0x100, 0x40, 0x80, 0x200]);
}

#[test]
fn permissions_and_restricted_resolution() {
    let mut w = World::new();
    w.mkdir("/d").unwrap();
    w.put("/d/f", b"x");
    w.walk().create(b"/d/up", New::Symlink(b"../d/f"), 0).unwrap();
    w.walk().create(b"/d/abs", New::Symlink(b"/d/f"), 0).unwrap();
    let d = w.find("/d").unwrap();
    let below = Walk { root: &w.root, start: &d, cred: &w.cred };
    let look = |path: &[u8], how: Resolve| below.lookup(path, how | Resolve::FOLLOW).err();
    assert_eq!(look(b"../d/f", Resolve::BENEATH), Some(Errno::EXDEV));
    assert_eq!(look(b"abs", Resolve::BENEATH), Some(Errno::EXDEV));
    assert_eq!(look(b"up", Resolve::NO_SYMLINKS), Some(Errno::ELOOP));
    assert_eq!(look(b"../../f", Resolve::IN_ROOT), None);
    w.cred = Credentials { uid: 1000, gid: 1000, groups: Arc::new([]) };
    assert_eq!(w.open("/d/f", OpenFlags::RDWR).err(), Some(Errno::EACCES));
    assert!(w.open("/d/f", OpenFlags::empty()).is_ok());
    assert_eq!(w.mkdir("/e").err(), Some(Errno::EACCES));
    assert_eq!(w.walk().unlink(b"/d/f"), Err(Errno::EACCES));
}

#[test]
fn mounts_cover_and_uncover() {
    let w = World::new();
    w.mkdir("/m").unwrap();
    w.put("/m/below", b"1");
    let m = w.find("/m").unwrap();
    m.mount_here(TmpFs::root(10, 0o777), "tmpfs", "tmpfs", false).unwrap();
    drop(m);
    assert_eq!(w.find("/m/below").err(), Some(Errno::ENOENT));
    w.put("/m/above", b"2");
    assert!(w.find("/m/..").unwrap().same(&w.root));
    assert_eq!(w.find("/m/above").unwrap().render(&w.root).0, b"/m/above");
    assert_eq!(w.walk().rmdir(b"/m"), Err(Errno::EBUSY));
    assert_eq!(w.rename("/m/above", "/x", 0), Err(Errno::EXDEV));
    w.find("/m").unwrap().unmount(false).unwrap();
    assert_eq!(w.get("/m/below").unwrap(), b"1");
}

#[test]
fn a_very_deep_tree_goes_without_recursion() {
    // A thread with a stack like the kernel's would not survive recursion over 50,000 levels.
    let body = || {
        let w = World::new();
        w.mkdir("/m").unwrap();
        let m = w.find("/m").unwrap();
        let top = m.mount_here(TmpFs::root(100_000, 0o777), "tmpfs", "tmpfs", false).unwrap();
        drop(m);
        let mut at = top.clone();
        for _ in 0..50_000 {
            let walk = Walk { root: &w.root, start: &at, cred: &w.cred };
            at = walk.create(b"d", New::Directory, 0o755).unwrap();
        }
        let before = crate::vfs::cached();
        top.unmount(true).unwrap();
        drop(top);
        assert!(!at.parent().dentry().is_unlinked());
        drop(at);
        assert!(crate::vfs::cached() < before - 40_000 || before < 45_000);
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(body).unwrap().join().unwrap();
}

#[test]
fn the_dentry_cache_stays_bounded() {
    let w = World::new();
    for i in 0..40_000 {
        assert_eq!(w.find(&std::format!("/none{i}")).err(), Some(Errno::ENOENT));
    }
    assert!(crate::vfs::cached() < 25_000, "{}", crate::vfs::cached());
}

#[test]
fn names_that_come_and_go_leave_nothing_behind() {
    let w = World::new();
    for _ in 0..20_000 {
        w.mkdir("/come").unwrap();
        w.walk().rmdir(b"/come").unwrap();
    }
    // Other tests run beside this one, so only the order of magnitude can be told.
    assert!(crate::vfs::clock_len() < 2 * crate::vfs::cached() + 18_000);
}

#[test]
fn threads_make_and_remove_names_at_once() {
    let w = Arc::new(World::new());
    for d in 0..4 {
        w.mkdir(&std::format!("/{d}")).unwrap();
    }
    let threads: Vec<_> = (0..4)
        .map(|t| {
            let w = w.clone();
            std::thread::spawn(move || {
                for i in 0..300 {
                    let (a, b) = (std::format!("/{}/t{t}", i % 4), std::format!("/{}/u{t}", (i + t) % 4));
                    w.put(&a, b"x");
                    w.rename(&a, &b, 0).unwrap();
                    let _ = w.rename(&std::format!("/{}", i % 4), "/moved", 1);
                    let _ = w.rename("/moved", &std::format!("/{}", i % 4), 1);
                    while w.walk().unlink(b.as_bytes()).is_err() {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut failed = false;
    for t in threads {
        failed |= t.join().is_err();
    }
    // A directory that is away for a moment makes opens fail: only the structure counts here.
    let _ = failed;
    for name in w.list("/") {
        w.list(&std::format!("/{name}"));
    }
}
