//! The reader against images that mkfs.erofs makes (where it is installed), and against damaged ones.

use super::*;
use crate::tmpfs::TmpFs;
use crate::types::{Credentials, FileType};
use crate::vfs::{Mount, Path, Resolve, Walk};
use base::io::{In, Out};
use std::process::Command;
use std::string::ToString;
use std::vec::Vec;
use std::{fs, vec};

struct Bytes(Vec<u8>);

/// The same on a medium one of whose pages cannot be read.
struct BadPage(Bytes, u64);

impl Image for BadPage {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn pages(&self, first: u64, count: u64, put: &mut dyn FnMut(u64, Frame)) -> Result<()> {
        if (first..first + count.max(1)).contains(&self.1) { Err(Errno::EIO) } else { self.0.pages(first, count, put) }
    }
}

impl Image for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn pages(&self, first: u64, count: u64, put: &mut dyn FnMut(u64, Frame)) -> Result<()> {
        for page in first..first + count.max(1) {
            let frame = Frame::zeroed()?;
            let start = (page as usize * 4096).min(self.0.len());
            let end = (start + 4096).min(self.0.len());
            frame.write(0, &self.0[start..end]);
            put(page, frame);
        }
        Ok(())
    }
}

fn big() -> Vec<u8> {
    (0..1_000_003u32).map(|i| (i * 7 + i / 256) as u8).collect()
}

/// An image of a small tree, or `None` (said on stderr) without mkfs.erofs.
fn image(options: &[&str]) -> Option<Vec<u8>> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    if Command::new("mkfs.erofs").arg("--help").output().is_err() {
        std::eprintln!("mkfs.erofs is not installed: the EROFS tests on real images do not run");
        return None;
    }
    let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("coracle-erofs-{}-{id}", std::process::id()));
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("etc/deep/er")).unwrap();
    fs::create_dir(tree.join("many")).unwrap();
    fs::write(tree.join("hello"), "hello\n").unwrap();
    fs::write(tree.join("empty"), "").unwrap();
    fs::write(tree.join("page"), vec![3; 4096]).unwrap();
    fs::write(tree.join("big"), big()).unwrap();
    fs::write(tree.join("etc/deep/er/file"), "deep").unwrap();
    fs::hard_link(tree.join("hello"), tree.join("etc/hello2")).unwrap();
    std::os::unix::fs::symlink("../hello", tree.join("etc/link")).unwrap();
    for i in 0..700 {
        fs::write(tree.join(format!("many/file-with-a-longer-name-{i}")), i.to_string()).unwrap();
    }
    let out = dir.join("image");
    let status = Command::new("mkfs.erofs").args(options).arg(&out).arg(&tree).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    let bytes = fs::read(&out).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    Some(bytes)
}

struct World {
    root: Path,
    cred: Credentials,
}

impl World {
    fn mount(bytes: Vec<u8>) -> Result<Self, MountError> {
        Self::mount_image(Arc::new(Bytes(bytes)))
    }
    fn mount_image(image: Arc<dyn Image>) -> Result<Self, MountError> {
        let lower = Erofs::mount(image)?;
        let root = Mount::detached(TmpFs::over(lower, 10_000), "overlay").root_path();
        Ok(Self { root, cred: Credentials::root() })
    }
    fn walk(&self) -> Walk<'_> {
        Walk { root: &self.root, start: &self.root, cred: &self.cred }
    }
    fn find(&self, path: &str) -> Result<Path> {
        self.walk().lookup(path.as_bytes(), Resolve::FOLLOW)
    }
    fn get(&self, path: &str) -> Result<Vec<u8>> {
        let inode = self.find(path)?.inode()?.clone();
        let mut data = vec![0; inode.size() as usize];
        let n = inode.read_at(0, &mut Out::kernel(&mut data))?;
        data.truncate(n);
        Ok(data)
    }
    fn names(&self, path: &str) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        self.find(path)?.inode()?.readdir(0, &mut |e| {
            names.push(e.name.to_vec());
            true
        })?;
        Ok(names)
    }
}

fn check(bytes: Vec<u8>) {
    let w = World::mount(bytes).unwrap();
    assert_eq!(w.get("/hello").unwrap(), b"hello\n");
    assert_eq!(w.get("/etc/link").unwrap(), b"hello\n");
    assert_eq!(w.get("/etc/deep/er/file").unwrap(), b"deep");
    assert_eq!(w.get("/empty").unwrap(), b"");
    assert_eq!(w.get("/page").unwrap(), [3; 4096]);
    assert!(w.get("/big").unwrap() == big());
    assert_eq!(w.names("/many").unwrap().len(), 700);
    for i in [0, 1, 350, 699] {
        let path = format!("/many/file-with-a-longer-name-{i}");
        assert_eq!(w.get(&path).unwrap(), i.to_string().as_bytes());
    }
    assert_eq!(w.find("/many/file-with-a-longer-name-700").err(), Some(Errno::ENOENT));
    let (a, b) = (w.find("/hello").unwrap(), w.find("/etc/hello2").unwrap());
    assert!(Arc::ptr_eq(a.inode().unwrap(), b.inode().unwrap()));
    assert_eq!(a.inode().unwrap().stat().unwrap().nlink, 2);

    // And writing over it.
    let inode = w.find("/big").unwrap().inode().unwrap().clone();
    let ino = inode.stat().unwrap().ino;
    inode.write_at(crate::inode::Place::At(500_000), &mut In::kernel(b"changed")).unwrap();
    let mut wanted = big();
    wanted[500_000..500_007].copy_from_slice(b"changed");
    drop(inode);
    assert!(w.get("/big").unwrap() == wanted);
    let rename = |a: &str, b: &str| w.walk().rename(a.as_bytes(), &w.walk(), b.as_bytes(), 0);
    rename("/big", "/etc/big2").unwrap();
    assert_eq!(w.find("/big").err(), Some(Errno::ENOENT));
    assert!(w.get("/etc/big2").unwrap() == wanted);
    assert_eq!(w.find("/etc/big2").unwrap().inode().unwrap().stat().unwrap().ino, ino);
    rename("/etc", "/conf").unwrap();
    assert_eq!(w.get("/conf/deep/er/file").unwrap(), b"deep");
    assert_eq!(w.walk().rmdir(b"/conf/deep"), Err(Errno::ENOTEMPTY));
    w.walk().unlink(b"/conf/deep/er/file").unwrap();
    w.walk().rmdir(b"/conf/deep/er").unwrap();
    w.walk().rmdir(b"/conf/deep").unwrap();
    let mut names = w.names("/conf").unwrap();
    names.sort();
    assert_eq!(names, [&b"big2"[..], b"hello2", b"link"]);
    assert_eq!(w.names("/").unwrap().len(), 5);
    w.walk().unlink(b"/conf/hello2").unwrap();
    assert_eq!(w.find("/hello").unwrap().inode().unwrap().stat().unwrap().nlink, 1);
    // Cut, then longer again: zeroes, not the image's bytes.
    let inode = w.find("/hello").unwrap().inode().unwrap().clone();
    inode.truncate(2).unwrap();
    inode.truncate(6).unwrap();
    assert_eq!(w.get("/hello").unwrap(), b"he\0\0\0\0");
    // Clean pages may go and come back.
    let page = w.find("/page").unwrap().inode().unwrap().clone();
    crate::tmpfs::reclaim(10_000);
    assert_eq!(w.get("/page").unwrap(), [3; 4096]);
    page.allocate(3, 0, 4096).unwrap();
    assert_eq!(w.get("/page").unwrap(), [0; 4096]);
    drop(page);
    // Remade under the old name: nothing of the image comes back.
    rename("/many", "/gone").unwrap();
    w.walk().create(b"/many", crate::inode::New::Directory, 0o755).unwrap();
    assert_eq!(w.names("/many").unwrap().len(), 0);
    assert_eq!(w.names("/gone").unwrap().len(), 700);
}

#[test]
fn plain_and_inline_files() {
    if let Some(bytes) = image(&[]) {
        check(bytes);
    }
}

#[test]
fn extended_inodes() {
    if let Some(bytes) = image(&["-Eforce-inode-extended"]) {
        check(bytes);
    }
}

#[test]
fn chunks() {
    if let Some(bytes) = image(&["--chunksize=4096"]) {
        check(bytes);
    }
    if let Some(bytes) = image(&["--chunksize=65536", "-Eforce-inode-extended"]) {
        check(bytes);
    }
}

#[test]
fn compressed_files_are_refused() {
    if let Some(bytes) = image(&["-zlz4"]) {
        let w = World::mount(bytes).unwrap();
        assert_eq!(w.get("/big"), Err(Errno::EIO));
        assert_eq!(w.get("/hello").unwrap(), b"hello\n");
    }
}

#[test]
fn only_the_bad_page_cannot_be_read() {
    let Some(bytes) = image(&[]) else {
        return;
    };
    // The content comes again after 16 pages.
    let (big, bad) = (big(), 10);
    let at = bytes.chunks(4096).position(|page| page == &big[bad * 4096..][..4096]).unwrap();
    let w = World::mount_image(Arc::new(BadPage(Bytes(bytes), at as u64))).unwrap();
    let inode = w.find("/big").unwrap().inode().unwrap().clone();
    let mut page = [0; 4096];
    for (index, expected) in big.chunks(4096).enumerate() {
        let got = inode.read_at(index as u64 * 4096, &mut Out::kernel(&mut page));
        if index == bad {
            assert_eq!(got, Err(Errno::EIO));
        } else {
            assert_eq!(got, Ok(expected.len()));
            assert_eq!(&page[..expected.len()], expected);
        }
    }
}

#[test]
fn bad_superblocks_say_why() {
    let Some(bytes) = image(&[]) else {
        return;
    };
    let why = |bytes: Vec<u8>| World::mount(bytes).err().map(|e| e.0).unwrap_or_default();
    assert!(why(vec![]).contains("too few"));
    assert!(why(vec![0; 8192]).contains("magic"));
    assert!(why(bytes[..bytes.len() - 4096].to_vec()).contains("truncated"));
    let mut damaged = bytes.clone();
    damaged[1024 + 16] ^= 1;
    assert!(why(damaged).contains("checksum"));
}

fn visit(w: &World, path: &str, depth: u32, budget: &mut u32) {
    let Ok(found) = w.walk().lookup(path.as_bytes(), Resolve::empty()) else {
        return;
    };
    let kind = found.inode().unwrap().kind();
    match kind {
        FileType::Directory if depth < 6 => {
            for name in w.names(path).unwrap_or_default() {
                if *budget == 0 {
                    return;
                }
                *budget -= 1;
                let name = std::string::String::from_utf8_lossy(&name).into_owned();
                visit(w, &format!("{path}/{name}"), depth + 1, budget);
            }
        }
        FileType::Regular => {
            let inode = found.inode().unwrap();
            let mut data = [0; 4096];
            for offset in [0, 4096, inode.size() / 2, inode.size().saturating_sub(5)] {
                let _ = inode.read_at(offset, &mut Out::kernel(&mut data));
            }
        }
        _ => {
            let _ = found.inode().unwrap().readlink();
        }
    }
}

/// Thousands of images with random damage: any outcome but a panic or a loop.
#[test]
fn damaged_images_never_panic() {
    for options in [&[][..], &["--chunksize=4096"], &["-Eforce-inode-extended"]] {
        let Some(bytes) = image(options) else {
            return;
        };
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        for _ in 0..600 {
            let mut damaged = bytes.clone();
            // No checksum, so that damage gets past the superblock; and mostly in the metadata at the front.
            damaged[1024 + 8] &= !1;
            for _ in 0..1 + random(24) {
                let range = if random(4) == 0 { damaged.len() } else { damaged.len().min(64 << 10) };
                let at = if random(8) == 0 { 1024 + random(128) } else { random(range) };
                damaged[at] = random(256) as u8;
            }
            if let Ok(w) = World::mount(damaged) {
                visit(&w, "", 0, &mut 200);
                visit(&w, "/", 0, &mut 200);
            }
        }
    }
}
