//! EROFS inodes and where their data is.

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::frame::FRAME_SIZE;
use base::{Errno, Frame, Result};

use super::{Erofs, u16_at, u32_at, u64_at};
use crate::tmpfs::Lower;
use crate::types::{FileType, PATH_MAX, Stat, Time, makedev};

const PAGE: u64 = FRAME_SIZE as u64;
const NO_BLOCK: u32 = u32::MAX;
/// Inode numbers are positions in units of this many bytes.
const SLOT: u64 = 32;

#[derive(Clone, Copy)]
enum Layout {
    /// All blocks from here on; with `tail`, the last one is at that byte instead.
    Flat { start: u64, tail: Option<u64> },
    /// Chunks of `1 << bits` bytes whose addresses are a table at `table`.
    Chunks { bits: u32, table: u64, wide: bool },
    /// Compressed, by the number of its layout.
    Compressed(u16),
}

/// An inode of an image.
pub(super) struct EroInode {
    pub(super) fs: Arc<Erofs>,
    stat: Stat,
    kind: FileType,
    layout: Layout,
}

enum Extent {
    /// This many bytes at this place in the image.
    At(u64, u64),
    /// This many bytes of zeroes.
    Hole(u64),
}

impl EroInode {
    pub fn read(fs: &Arc<Erofs>, nid: u64) -> Result<Self> {
        let at = nid.checked_mul(SLOT).and_then(|o| o.checked_add(fs.meta_start)).ok_or(Errno::EIO)?;
        let mut raw = [0; 64];
        fs.read(at, &mut raw[..32])?;
        let format = u16_at(&raw, 0);
        let extended = format & 1 != 0;
        if extended {
            fs.read(at, &mut raw)?;
        }
        let mode = u32::from(u16_at(&raw, 4));
        let kind = FileType::from_mode(mode).ok_or(Errno::EIO)?;
        let (size, nlink, uid, gid, time, header) = if extended {
            let time = Time { sec: u64_at(&raw, 32) as i64, nsec: u32_at(&raw, 40).min(999_999_999) };
            (u64_at(&raw, 8), u32_at(&raw, 44), u32_at(&raw, 24), u32_at(&raw, 28), time, 64)
        } else {
            let (nlink, uid, gid) = (u16_at(&raw, 6), u16_at(&raw, 24), u16_at(&raw, 26));
            (u64::from(u32_at(&raw, 8)), nlink.into(), uid.into(), gid.into(), fs.time, 32)
        };
        if size > i64::MAX as u64 {
            return Err(Errno::EIO);
        }
        let attributes = match u16_at(&raw, 2) {
            0 => 0,
            n => 12 + 4 * (u64::from(n) - 1),
        };
        let body = at + header + attributes;
        let union = u32_at(&raw, 16);
        let block = 1u64 << fs.block_bits;
        let start = u64::from(union) << fs.block_bits;
        let layout = match format >> 1 & 7 {
            0 => Layout::Flat { start, tail: None },
            2 => Layout::Flat { start, tail: Some(body) },
            4 => {
                let bits = (union & 0x1f) + fs.block_bits;
                let wide = union & 0x20 != 0;
                let unit = if wide { 8 } else { 4u64 };
                if union & 0xffff & !0x3f != 0 || bits > 40 {
                    return Err(Errno::EIO);
                }
                Layout::Chunks { bits, table: body.next_multiple_of(unit), wide }
            }
            n @ (1 | 3) => Layout::Compressed(n),
            _ => return Err(Errno::EIO),
        };
        let device = matches!(kind, FileType::Char | FileType::Block);
        let stat = Stat {
            ino: nid,
            mode,
            nlink,
            uid,
            gid,
            rdev: if device { makedev(union >> 8 & 0xfff, union & 0xff | union >> 12 & 0xfff00) } else { 0 },
            size,
            blksize: 4096,
            blocks: size.div_ceil(block) * (block / 512),
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            dev: 0,
        };
        Ok(Self { fs: fs.clone(), stat, kind, layout })
    }

    pub fn kind(&self) -> FileType {
        self.kind
    }

    pub fn size(&self) -> u64 {
        self.stat.size
    }

    /// Where the byte at `offset` (inside the file) is, and how far that goes on.
    fn extent(&self, offset: u64) -> Result<Extent> {
        let left = self.stat.size - offset;
        let block = 1u64 << self.fs.block_bits;
        match self.layout {
            Layout::Flat { start, tail } => {
                if let Some(tail) = tail {
                    let last = (self.stat.size - 1) / block * block;
                    if offset >= last {
                        return self.inside(tail + (offset - last), left);
                    }
                    return self.inside(start + offset, (last - offset).min(left));
                }
                self.inside(start.checked_add(offset).ok_or(Errno::EIO)?, left)
            }
            Layout::Chunks { bits, table, wide } => {
                let (chunk, within) = (offset >> bits, offset & ((1 << bits) - 1));
                let here = left.min((1 << bits) - within);
                let mut raw = [0; 8];
                let unit = if wide { 8 } else { 4u64 };
                let entry = chunk.checked_mul(unit).and_then(|n| n.checked_add(table)).ok_or(Errno::EIO)?;
                self.fs.read(entry, &mut raw[..unit as usize])?;
                let address = if wide {
                    if u16_at(&raw, 2) != 0 {
                        return Err(Errno::EIO);
                    }
                    u32_at(&raw, 4)
                } else {
                    u32_at(&raw, 0)
                };
                if address == NO_BLOCK {
                    return Ok(Extent::Hole(here));
                }
                self.inside((u64::from(address) << self.fs.block_bits) + within, here)
            }
            Layout::Compressed(n) => {
                log::error!(
                    "the root image holds a compressed file (inode {}, layout {n}); make it without -z",
                    self.stat.ino
                );
                Err(Errno::EIO)
            }
        }
    }

    fn inside(&self, at: u64, len: u64) -> Result<Extent> {
        match at.checked_add(len) {
            Some(end) if end <= self.fs.len => Ok(Extent::At(at, len)),
            _ => Err(Errno::EIO),
        }
    }

    /// Copies data out through the metadata cache: directories, symbolic links, tails.
    pub fn read_bytes(&self, offset: u64, to: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < to.len() {
            let at = offset + done as u64;
            if at >= self.stat.size {
                return Err(Errno::EIO);
            }
            let room = to.len() - done;
            match self.extent(at)? {
                Extent::At(place, len) => {
                    let n = len.min(room as u64) as usize;
                    self.fs.read(place, &mut to[done..done + n])?;
                    done += n;
                }
                Extent::Hole(len) => {
                    let n = len.min(room as u64) as usize;
                    to[done..done + n].fill(0);
                    done += n;
                }
            }
        }
        Ok(())
    }

    /// One page by copying its pieces.
    fn assemble(&self, index: u64) -> Result<Frame> {
        let frame = Frame::zeroed()?;
        let start = index * PAGE;
        let len = (self.stat.size - start).min(PAGE) as usize;
        let mut data = alloc::vec![0; len];
        self.read_bytes(start, &mut data)?;
        frame.write(0, &data);
        Ok(frame)
    }
}

impl Lower for EroInode {
    fn stat(&self) -> Stat {
        self.stat
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Lower>> {
        let nid = self.find(name)?;
        Ok(Arc::new(Self::read(&self.fs, nid)?))
    }

    fn readdir(&self, emit: &mut dyn FnMut(&[u8], u64, FileType)) -> Result<()> {
        self.list(emit)
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        if self.kind != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        if self.stat.size >= PATH_MAX as u64 {
            return Err(Errno::EIO);
        }
        let mut target = alloc::vec![0; self.stat.size as usize];
        self.read_bytes(0, &mut target)?;
        if target.is_empty() || target.contains(&0) {
            return Err(Errno::EIO);
        }
        Ok(target)
    }

    fn pages(&self, first: u64, count: u64, put: &mut dyn FnMut(u64, Frame)) -> Result<()> {
        let size = self.stat.size;
        let mut index = first;
        let end = first.saturating_add(count.max(1)).min(size.div_ceil(PAGE));
        if first >= end {
            return Err(Errno::ENXIO);
        }
        let shared = matches!(self.layout, Layout::Chunks { .. }) && self.fs.image.in_place();
        while index < end {
            let start = index * PAGE;
            match self.extent(start)? {
                // Whole pages of the image, or its last piece: what follows in that page is padding.
                Extent::At(at, len)
                    if at.is_multiple_of(PAGE) && (len >= PAGE || (start + len == size && self.padded())) =>
                {
                    let whole = if start + len == size { len.div_ceil(PAGE) } else { len / PAGE };
                    let n = whole.min(end - index);
                    let mut failed = Ok(());
                    let mut got = 0;
                    self.fs.image.pages(at / PAGE, n, &mut |page, frame| {
                        let i = index + (page - at / PAGE);
                        let frame = match shared {
                            true => frame.duplicate(),
                            false => Ok(frame),
                        };
                        match frame {
                            Ok(frame) => {
                                if (i + 1) * PAGE > size {
                                    frame.zero((size - i * PAGE) as usize..FRAME_SIZE);
                                }
                                got += 1;
                                put(i, frame);
                            }
                            Err(error) => failed = Err(error),
                        }
                    })?;
                    failed?;
                    if got == 0 {
                        return Err(Errno::EIO);
                    }
                    index += got;
                }
                _ => {
                    put(index, self.assemble(index)?);
                    index += 1;
                }
            }
        }
        Ok(())
    }
}

impl EroInode {
    /// Blocks are whole pages, so what follows a last piece in its page belongs to no other file.
    fn padded(&self) -> bool {
        self.fs.block_bits >= 12 && !matches!(self.layout, Layout::Flat { tail: Some(_), .. })
    }
}
