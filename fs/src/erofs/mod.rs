//! The EROFS reader: superblock, compact and extended inodes, flat, inline and chunk-based data, directories.
//!
//! Compressed files are refused with a log line that names the layout; extended attributes are passed over. An
//! image is never believed: every offset and length is checked against the image, and what does not fit gives `EIO`
//! (or a mount error), never a panic or an endless loop. Format: Linux's Documentation/filesystems/erofs.rst.
//!
//! The crate `erofs-rs` was looked at: it depends on `rustix`, which does not build without an operating system.

mod dir;
mod inode;

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use base::frame::FRAME_SIZE;
use base::sync::SpinLock;
use base::{Errno, Frame, Result};

use crate::pagemap::PageMap;
use crate::tmpfs::Lower;

/// Where an image is: a disk, or memory.
pub trait Image: Send + Sync {
    /// Bytes.
    fn len(&self) -> u64;
    /// True without bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Hands over the `count` frames from page `first` of the image on, at least one, in order; what lies beyond its
    /// end is zero. They become the caller's. May sleep. `EIO` if the medium fails.
    fn pages(&self, first: u64, count: u64, put: &mut dyn FnMut(u64, Frame)) -> Result<()>;
    /// The frames are the image's own memory, so that a change of one changes the image.
    fn in_place(&self) -> bool {
        false
    }
}

/// Why an image cannot be mounted, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountError(pub String);

impl core::fmt::Display for MountError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

const SUPER_OFFSET: u64 = 1024;
const SUPER_LEN: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
/// Incompatible features that do not matter to uncompressed files: zero padding, compression settings, chunked
/// files, second compression head (or a device table, checked apart), tail packing, fragments, attribute prefixes.
const KNOWN_INCOMPAT: u32 = 0x7f;
/// Pages read at once for metadata.
const META_AHEAD: u64 = 8;
/// Metadata pages kept.
const META_PAGES: u64 = 1024;

/// Bytes from an image's start that [`is_image`] looks at.
pub const HEAD: usize = SUPER_OFFSET as usize + 4;

/// True if `head` is the start of an image.
pub fn is_image(head: &[u8; HEAD]) -> bool {
    u32_at(head, SUPER_OFFSET as usize) == MAGIC
}

/// Mounted images, for [`drop_caches`].
static MOUNTED: SpinLock<Vec<Weak<Erofs>>> = SpinLock::new(Vec::new());

/// Frees cached metadata that nobody uses at the moment; returns how many frames.
pub fn drop_caches() -> usize {
    let Some(mounted) = MOUNTED.try_lock().map(|list| list.clone()) else {
        return 0;
    };
    mounted.iter().filter_map(Weak::upgrade).map(|fs| fs.drop_cache()).sum()
}

/// A mounted image.
pub struct Erofs {
    image: Arc<dyn Image>,
    len: u64,
    block_bits: u32,
    dir_block_bits: u32,
    meta_start: u64,
    time: crate::Time,
    meta: SpinLock<PageMap>,
}

fn u16_at(data: &[u8], at: usize) -> u16 {
    data.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from(u16_at(data, at)) | u32::from(u16_at(data, at + 2)) << 16
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from(u32_at(data, at)) | u64::from(u32_at(data, at + 4)) << 32
}

/// CRC-32C as the superblock has it: seed of ones, no final inversion.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    crc
}

impl Erofs {
    /// Checks the superblock and returns the root directory.
    pub fn mount(image: Arc<dyn Image>) -> Result<Arc<dyn Lower>, MountError> {
        let error = |text: String| Err(MountError(text));
        let len = image.len();
        if len < SUPER_OFFSET + SUPER_LEN as u64 {
            return error(format!("the image has {len} bytes, too few for an EROFS superblock"));
        }
        let mut fs = Self {
            image,
            len,
            block_bits: 12,
            dir_block_bits: 12,
            meta_start: 0,
            time: crate::Time::default(),
            meta: SpinLock::new(PageMap::new()),
        };
        let mut sb = [0; SUPER_LEN];
        let io = |e: Errno| MountError(format!("the image cannot be read: {e}"));
        fs.read(SUPER_OFFSET, &mut sb).map_err(io)?;
        if u32_at(&sb, 0) != MAGIC {
            return error(String::from("the image is not an EROFS file system (bad magic)"));
        }
        fs.block_bits = u32::from(sb[12]);
        if !(9..=16).contains(&fs.block_bits) {
            return error(format!("EROFS block size 2^{} is not supported", fs.block_bits));
        }
        fs.dir_block_bits = fs.block_bits + u32::from(sb[90]);
        if fs.dir_block_bits > 16 {
            return error(format!("EROFS directory block size 2^{} is not supported", fs.dir_block_bits));
        }
        let incompat = u32_at(&sb, 80);
        if incompat & !KNOWN_INCOMPAT != 0 {
            return error(format!("EROFS features {:#x} are not supported", incompat & !KNOWN_INCOMPAT));
        }
        if incompat & 8 != 0 && u16_at(&sb, 86) != 0 {
            return error(String::from("EROFS images over several devices are not supported"));
        }
        if u32_at(&sb, 8) & COMPAT_CHECKSUM != 0 {
            fs.verify(&sb).map_err(|e| e.unwrap_or_else(io))?;
        }
        let bytes = u64::from(u32_at(&sb, 36)) << fs.block_bits;
        if bytes > fs.len {
            return error(format!("the image is truncated: it has {} of {bytes} bytes", fs.len));
        }
        fs.meta_start = u64::from(u32_at(&sb, 40)) << fs.block_bits;
        fs.time = crate::Time { sec: u64_at(&sb, 24) as i64, nsec: u32_at(&sb, 32).min(999_999_999) };
        let fs = Arc::new(fs);
        let root = inode::EroInode::read(&fs, u64::from(u16_at(&sb, 14)))
            .map_err(|e| MountError(format!("the root directory of the image cannot be read: {e}")))?;
        if root.kind() != crate::FileType::Directory {
            return error(String::from("the root of the image is not a directory"));
        }
        let mut mounted = MOUNTED.lock();
        mounted.retain(|fs| fs.strong_count() > 0);
        mounted.push(Arc::downgrade(&fs));
        drop(mounted);
        Ok(Arc::new(root))
    }

    fn verify(&self, sb: &[u8; SUPER_LEN]) -> Result<(), Result<MountError, Errno>>
    where
        Self: Sized,
    {
        let block = 1usize << self.block_bits;
        let start = SUPER_OFFSET as usize;
        let mut data = alloc::vec![0; if block > start { block - start } else { block }];
        self.read(SUPER_OFFSET, &mut data).map_err(Err)?;
        data[4..8].fill(0);
        let (wanted, got) = (u32_at(sb, 4), crc32c(&data));
        if wanted != got {
            return Err(Ok(MountError(format!(
                "the image is corrupt: superblock checksum {got:#010x}, should be {wanted:#010x}"
            ))));
        }
        Ok(())
    }

    /// Copies metadata out, through a cache of pages. `EIO` beyond the image.
    fn read(&self, offset: u64, to: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(to.len() as u64).ok_or(Errno::EIO)?;
        if end > self.len {
            return Err(Errno::EIO);
        }
        let mut done = 0;
        while done < to.len() {
            let at = offset + done as u64;
            let frame = self.meta_page(at / FRAME_SIZE as u64)?;
            done += frame.read((at % FRAME_SIZE as u64) as usize, &mut to[done..]);
        }
        Ok(())
    }

    fn meta_page(&self, index: u64) -> Result<Frame> {
        if let Some(frame) = self.meta.lock().get(index) {
            return Ok(frame.clone());
        }
        let pages = self.len.div_ceil(FRAME_SIZE as u64);
        let mut found = None;
        let mut put = |i, frame: Frame| {
            if i == index {
                found = Some(frame.clone());
            }
            let mut meta = self.meta.lock();
            if meta.len() < META_PAGES {
                meta.insert(i, frame, false);
            }
        };
        // If a page cannot be read, those before and after it still can.
        let ahead = self.image.pages(index, META_AHEAD.min(pages - index), &mut put);
        ahead.or_else(|_| self.image.pages(index, 1, &mut put))?;
        if self.meta.lock().len() >= META_PAGES {
            self.drop_cache();
        }
        found.ok_or(Errno::EIO)
    }

    fn drop_cache(&self) -> usize {
        if self.image.in_place() {
            return 0;
        }
        // Who allocates may hold the lock.
        let old = self.meta.try_lock().map(|mut meta| core::mem::take(&mut *meta));
        old.map_or(0, |old| old.len() as usize)
    }
}

#[cfg(all(test, feature = "host"))]
mod tests;
