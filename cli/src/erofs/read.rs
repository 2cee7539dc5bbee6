//! Reads an EROFS image as far as the command needs it: is it whole, what is in it, and the bytes of one file.
//! It believes nothing: every offset is checked against the file's length.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};

use super::{BLOCK, COMPAT_CHECKSUM, DIRENT, INLINE, INODE, MAGIC, PLAIN, SLOT, SUPER, SUPER_LEN, checksum};
use crate::container::{Disk, RawFile};

/// What the superblock says.
#[derive(Clone, Debug)]
pub struct Info {
    /// Bytes of the file system (the file may be longer).
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Time of the newest file, or of the build, in seconds since 1970.
    pub time: u64,
    /// The file system's UUID.
    pub uuid: [u8; 16],
}

/// An image that has been opened and whose superblock is sound.
pub struct Image {
    disk: Arc<dyn Disk>,
    info: Info,
    root: u64,
    meta: u64,
}

/// One name in a listing.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Absolute path in the image.
    pub path: PathBuf,
    /// `st_mode`.
    pub mode: u16,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Length in bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: u64,
    /// Names of this inode.
    pub links: u32,
    /// Number of the inode (its place).
    pub nid: u64,
}

struct Inode {
    layout: u16,
    mode: u16,
    size: u64,
    pointer: u64,
    owner: (u32, u32),
    mtime: u64,
    links: u32,
    /// Where the tail starts, if there is one.
    tail: u64,
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from(u16_at(b, at)) | u32::from(u16_at(b, at + 2)) << 16
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

/// Longer paths are taken for damage: so deep is no tree that was packed.
const MAX_PATH: usize = 4096;
/// Directories and links larger than this are taken for damage.
const MAX_META: u64 = 64 << 20;

impl Image {
    /// Whether the file looks like an EROFS image at all.
    pub fn is_one(path: &Path) -> bool {
        let mut magic = [0; 4];
        RawFile::open(path).and_then(|f| f.read_at(SUPER as u64, &mut magic)).is_ok()
            && u32::from_le_bytes(magic) == MAGIC
    }

    /// Opens the image that a file is.
    pub fn open(path: &Path) -> Result<Image> {
        Image::new(Arc::new(RawFile::open(path)?), path)
    }

    /// Opens and checks: magic number, checksum, features, and that the image is as long as it must be. `path` is for the
    /// user's eyes.
    pub fn new(disk: Arc<dyn Disk>, path: &Path) -> Result<Image> {
        let length = disk.size();
        if length < BLOCK {
            bail!("the image {} is truncated: it has {length} bytes, an image has at least {BLOCK}", path.display());
        }
        let mut block = vec![0; BLOCK as usize];
        disk.read_at(0, &mut block)?;
        let s = block[SUPER..SUPER + SUPER_LEN].to_vec();
        if u32_at(&s, 0) != MAGIC {
            bail!("{} is not a Coracle image (no EROFS superblock); make one with: coracle build", path.display());
        }
        if s[12] != BLOCK.trailing_zeros() as u8 || u32_at(&s, 80) & !0x1 != 0 {
            bail!(
                "the image {} uses EROFS features that Coracle does not have (it needs 4 KiB blocks, uncompressed)",
                path.display()
            );
        }
        if u32_at(&s, 8) & COMPAT_CHECKSUM != 0 {
            block[SUPER + 4..SUPER + 8].fill(0);
            if checksum(&block) != u32_at(&s, 4) {
                bail!("the image {} is corrupt: its superblock's checksum is wrong; build it again", path.display());
            }
        }
        let bytes = u64::from(u32_at(&s, 36)) * BLOCK;
        if length < bytes {
            bail!(
                "the image {} is truncated: it has {length} bytes of {bytes}; copy or build it again",
                path.display()
            );
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&s[48..64]);
        let info = Info { bytes, inodes: u64_at(&s, 16), time: u64_at(&s, 24), uuid };
        let image = Image { disk, info, root: u64::from(u16_at(&s, 14)), meta: u64::from(u32_at(&s, 40)) * BLOCK };
        let root = image.inode(image.root)?;
        if root.mode & 0o170000 != 0o040000 {
            bail!("the image {} is corrupt: its root is not a directory; build it again", path.display());
        }
        Ok(image)
    }

    /// What the superblock says.
    pub fn info(&self) -> &Info {
        &self.info
    }

    fn read_at(&self, at: u64, length: u64) -> Result<Vec<u8>> {
        if at.checked_add(length).is_none_or(|end| end > self.info.bytes) {
            bail!("the image is corrupt: a pointer leads past its end; build it again");
        }
        let mut bytes = vec![0; length as usize];
        self.disk.read_at(at, &mut bytes)?;
        Ok(bytes)
    }

    fn inode(&self, nid: u64) -> Result<Inode> {
        let corrupt = || anyhow!("the image is corrupt: bad inode {nid}; build it again");
        let at = nid.checked_mul(SLOT).and_then(|o| o.checked_add(self.meta)).ok_or_else(corrupt)?;
        let head = self.read_at(at, 32)?;
        let format = u16_at(&head, 0);
        let xattrs = match u64::from(u16_at(&head, 2)) {
            0 => 0,
            n => 12 + (n - 1) * 4,
        };
        let layout = (format >> 1) & 7;
        if layout != PLAIN && layout != INLINE {
            bail!("the image uses EROFS features that Coracle's command does not read (data layout {layout})");
        }
        Ok(if format & 1 == 1 {
            let b = self.read_at(at, INODE)?;
            Inode {
                layout,
                mode: u16_at(&b, 4),
                size: u64_at(&b, 8),
                pointer: u64::from(u32_at(&b, 16)),
                owner: (u32_at(&b, 24), u32_at(&b, 28)),
                mtime: u64_at(&b, 32),
                links: u32_at(&b, 44),
                tail: at + INODE + xattrs,
            }
        } else {
            Inode {
                layout,
                mode: u16_at(&head, 4),
                links: u32::from(u16_at(&head, 6)),
                size: u64::from(u32_at(&head, 8)),
                pointer: u64::from(u32_at(&head, 16)),
                owner: (u32::from(u16_at(&head, 24)), u32::from(u16_at(&head, 26))),
                mtime: self.info.time,
                tail: at + 32 + xattrs,
            }
        })
    }

    fn data(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.size > MAX_META {
            bail!("the image is corrupt: a directory or link of {} bytes; build it again", inode.size);
        }
        let tail = if inode.layout == INLINE { inode.size % BLOCK } else { 0 };
        let mut bytes =
            if inode.size > tail { self.read_at(inode.pointer * BLOCK, inode.size - tail)? } else { Vec::new() };
        if tail > 0 {
            bytes.extend(self.read_at(inode.tail, tail)?);
        }
        Ok(bytes)
    }

    fn entries(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, u64)>> {
        let corrupt = || anyhow!("the image is corrupt: bad directory; build it again");
        let bytes = self.data(inode)?;
        let mut list = Vec::new();
        for block in bytes.chunks(BLOCK as usize) {
            if block.len() < DIRENT {
                return Err(corrupt());
            }
            let count = usize::from(u16_at(block, 8)) / DIRENT;
            if count == 0 || count * DIRENT > block.len() {
                return Err(corrupt());
            }
            for i in 0..count {
                let start = usize::from(u16_at(block, i * DIRENT + 8));
                let end = if i + 1 < count { usize::from(u16_at(block, (i + 1) * DIRENT + 8)) } else { block.len() };
                let name = block.get(start..end).ok_or_else(corrupt)?;
                let name = name.split(|b| *b == 0).next().unwrap_or(name);
                list.push((name.to_vec(), u64_at(block, i * DIRENT)));
            }
        }
        Ok(list)
    }

    /// The bytes of the file at `path` (no links are followed); `None` when there is no such file.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let mut inode = self.inode(self.root)?;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            if inode.mode & 0o170000 != 0o040000 {
                return Ok(None);
            }
            match self.entries(&inode)?.into_iter().find(|(n, _)| n == name.as_bytes()) {
                Some((_, nid)) => inode = self.inode(nid)?,
                None => return Ok(None),
            }
        }
        match inode.mode & 0o170000 {
            0o100000 | 0o120000 => Ok(Some(self.data(&inode)?)),
            _ => Ok(None),
        }
    }

    /// Every name in the image, parents first.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        self.list_below(self.root, &PathBuf::from("/"), &mut HashSet::new(), &mut all)?;
        Ok(all)
    }

    fn list_below(&self, nid: u64, path: &Path, seen: &mut HashSet<u64>, all: &mut Vec<Entry>) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let inode = self.inode(nid)?;
        all.push(Entry {
            path: path.to_owned(),
            mode: inode.mode,
            owner: inode.owner,
            size: inode.size,
            mtime: inode.mtime,
            links: inode.links,
            nid,
        });
        if inode.mode & 0o170000 == 0o040000 {
            // A directory has one name; the depth is what a path's length allows.
            if !seen.insert(nid) || path.as_os_str().len() > MAX_PATH {
                bail!("the image is corrupt: its directories are nested without end; build it again");
            }
            for (name, child) in self.entries(&inode)? {
                if name != b"." && name != b".." {
                    self.list_below(child, &path.join(std::ffi::OsStr::from_bytes(&name)), seen, all)?;
                }
            }
        }
        Ok(())
    }
}
