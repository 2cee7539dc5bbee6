//! VHD (Microsoft's "Virtual Hard Disk Image Format Specification"): fixed files are written, fixed and dynamic ones
//! read. Azure takes fixed files alone, of whole mebibytes, which our disks are.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::claims::Claims;
use super::num::{be32, be64, put};
use super::{Contents, Disk, Window, each_piece, identifier, inside};

const FOOTER: u64 = 512;
const COOKIE: &[u8; 8] = b"conectix";
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const SECTOR: u64 = 512;
/// A block that is not there.
const FREE: u32 = u32::MAX;

/// Cylinders, heads and sectors for a size, as the specification's appendix computes them.
fn geometry(size: u64) -> (u16, u8, u8) {
    let total = (size / SECTOR).min(65535 * 16 * 255);
    let (sectors, heads, rest);
    if total >= 65535 * 16 * 63 {
        (sectors, heads) = (255, 16);
        rest = total / sectors;
    } else {
        let mut s = 17;
        let mut r = total / s;
        let mut h = r.div_ceil(1024).max(4);
        if r >= h * 1024 || h > 16 {
            (s, h) = (31, 16);
            r = total / s;
        }
        if r >= h * 1024 {
            (s, h) = (63, 16);
            r = total / s;
        }
        (sectors, heads, rest) = (s, h, r);
    }
    ((rest / heads) as u16, heads as u8, sectors as u8)
}

/// The ones' complement of the sum of all bytes but the sum itself.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |b: &[u8]| b.iter().map(|b| u32::from(*b)).fold(0, u32::wrapping_add);
    !sum(&bytes[..at]).wrapping_add(sum(&bytes[at + 4..]))
}

/// Writes the disk's bytes and the footer.
pub fn write(disk: &dyn Disk, out: &mut File, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let size = disk.size().next_multiple_of(1 << 20);
    out.set_len(size + FOOTER)?;
    let mut contents = Contents::of_size(size);
    each_piece(disk, 1 << 16, progress, &mut |number, bytes| {
        contents.add(number, bytes);
        Ok(out.write_all_at(bytes, number << 16)?)
    })?;
    let mut f = vec![0; FOOTER as usize];
    put(&mut f, 0, COOKIE);
    put(&mut f, 8, &2u32.to_be_bytes());
    put(&mut f, 12, &0x0001_0000u32.to_be_bytes());
    put(&mut f, 16, &u64::MAX.to_be_bytes());
    // As Windows names itself: readers take the size of such a file from the size's field; of unknown makers' files,
    // QEMU computes it from the geometry, which rounds.
    put(&mut f, 28, b"win \x00\x0a\x00\x00Wi2k");
    put(&mut f, 40, &size.to_be_bytes());
    put(&mut f, 48, &size.to_be_bytes());
    let (cylinders, heads, sectors) = geometry(size);
    put(&mut f, 56, &cylinders.to_be_bytes());
    f[58] = heads;
    f[59] = sectors;
    put(&mut f, 60, &FIXED.to_be_bytes());
    put(&mut f, 68, &identifier(&contents.finish(), "VHD"));
    let sum = checksum(&f, 64);
    put(&mut f, 64, &sum.to_be_bytes());
    out.write_all_at(&f, size)?;
    Ok(())
}

/// The footer, if the file ends with one.
pub fn footer(file: &dyn Disk) -> Result<Option<Vec<u8>>> {
    let Some(at) = file.size().checked_sub(FOOTER) else { return Ok(None) };
    let mut f = vec![0; FOOTER as usize];
    file.read_at(at, &mut f)?;
    Ok((&f[..8] == COOKIE).then_some(f))
}

/// Opens and checks.
pub fn open(file: Arc<dyn Disk>) -> Result<Arc<dyn Disk>> {
    let Some(f) = footer(&*file)? else { bail!("it has no footer: it is truncated") };
    if checksum(&f, 64) != be32(&f, 64) {
        bail!("its footer's checksum is wrong: the file is corrupt");
    }
    let size = be64(&f, 48);
    match be32(&f, 60) {
        FIXED => {
            if size > file.size() - FOOTER {
                bail!("it has {} bytes of {size}: it is truncated", file.size() - FOOTER);
            }
            Ok(Arc::new(Window::new(file, 0, size)?))
        }
        DYNAMIC => Ok(Arc::new(Dynamic::open(file, size, be64(&f, 16))?)),
        _ => bail!("it is a differencing disk; make it whole first with the tool that made it"),
    }
}

struct Dynamic {
    file: Arc<dyn Disk>,
    size: u64,
    block: u64,
    /// Bytes of a block's bitmap, which lies before its data.
    bitmap: u64,
    map: Vec<u32>,
}

impl Dynamic {
    fn open(file: Arc<dyn Disk>, size: u64, at: u64) -> Result<Dynamic> {
        inside(&*file, at, 1024)?;
        let mut h = vec![0; 1024];
        file.read_at(at, &mut h)?;
        if &h[..8] != b"cxsparse" || checksum(&h, 36) != be32(&h, 36) {
            bail!("its header is damaged: the file is corrupt");
        }
        let (map_at, entries, block) = (be64(&h, 16), u64::from(be32(&h, 28)), u64::from(be32(&h, 32)));
        if !block.is_power_of_two() || !(4096..=1 << 30).contains(&block) || size.div_ceil(block) > entries {
            bail!("its map is impossible: the file is corrupt");
        }
        let entries = size.div_ceil(block);
        inside(&*file, map_at, entries * 4)?;
        let mut bytes = vec![0; entries as usize * 4];
        file.read_at(map_at, &mut bytes)?;
        let map: Vec<u32> = bytes.chunks_exact(4).map(|e| be32(e, 0)).collect();
        let bitmap = (block / SECTOR / 8).next_multiple_of(SECTOR);
        let mut claims = Claims::new(file.size(), SECTOR);
        claims.take(at, 1024, "the header")?;
        claims.take(map_at, (entries * 4).max(1), "the map")?;
        for (number, entry) in (0..).zip(&map).filter(|(_, e)| **e != FREE) {
            let len = block.min(size - number * block);
            claims.take(u64::from(*entry) * SECTOR, bitmap + len, "a block")?;
        }
        Ok(Dynamic { file, size, block, bitmap, map })
    }
}

impl Disk for Dynamic {
    fn size(&self) -> u64 {
        self.size
    }

    // The bitmap is not looked at: sectors that were never written are zero in the file.
    fn read_at(&self, mut at: u64, to: &mut [u8]) -> Result<()> {
        inside(self, at, to.len() as u64)?;
        let mut done = 0;
        while done < to.len() {
            let skip = at % self.block;
            let n = ((self.block - skip) as usize).min(to.len() - done);
            let piece = &mut to[done..done + n];
            match self.map[(at / self.block) as usize] {
                FREE => piece.fill(0),
                entry => self.file.read_at(u64::from(entry) * SECTOR + self.bitmap + skip, piece)?,
            }
            at += n as u64;
            done += n;
        }
        Ok(())
    }

    fn is_hole(&self, at: u64, len: u64) -> bool {
        let last = at.saturating_add(len.max(1) - 1) / self.block;
        (at / self.block..=last).all(|n| self.map.get(n as usize).is_none_or(|e| *e == FREE))
    }
}
