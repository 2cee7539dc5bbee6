//! VDI, VirtualBox's format (its header `VDICore.h` is the description): dynamic files are written, dynamic and fixed ones
//! read. Differencing files are refused.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::claims::Claims;
use super::num::{le32, le64, put};
use super::{Contents, Disk, each_piece, identifier, inside};

/// At byte 64 of the file.
pub const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const HEADER: usize = 512;
const BLOCK: u64 = 1 << 20;
/// Map entries without a block: free, and all zero.
const FREE: u32 = u32::MAX;
const ZERO: u32 = u32::MAX - 1;
const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;
/// What map and data start at a multiple of.
const ALIGN: u64 = 1 << 20;

/// Writes the disk.
pub fn write(disk: &dyn Disk, out: &mut File, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let blocks = disk.size().div_ceil(BLOCK);
    let map_at = HEADER as u64;
    let data = (map_at + blocks * 4).next_multiple_of(ALIGN);
    let mut map = vec![FREE; blocks as usize];
    let mut used = 0;
    let mut contents = Contents::of_size(disk.size());
    each_piece(disk, BLOCK as usize, progress, &mut |number, bytes| {
        contents.add(number, bytes);
        map[number as usize] = used;
        out.write_all_at(bytes, data + u64::from(used) * BLOCK)?;
        used += 1;
        Ok(())
    })?;
    let contents = contents.finish();
    let mut h = vec![0; HEADER];
    put(&mut h, 0, b"<<< Coracle VM disk image >>>\n");
    let words = [(64, SIGNATURE), (68, VERSION), (72, 400), (76, DYNAMIC), (340, map_at as u32), (344, data as u32)];
    // Both geometries: zero cylinders leave the rest to the reader, the sector size counts.
    let more = [(360, 512), (468, 512), (376, BLOCK as u32), (384, blocks as u32), (388, used)];
    for (at, value) in words.into_iter().chain(more) {
        put(&mut h, at, &value.to_le_bytes());
    }
    put(&mut h, 368, &disk.size().to_le_bytes());
    put(&mut h, 392, &identifier(&contents, "VDI"));
    put(&mut h, 408, &identifier(&contents, "VDI modification"));
    out.write_all_at(&h, 0)?;
    let map: Vec<u8> = map.into_iter().flat_map(u32::to_le_bytes).collect();
    out.write_all_at(&map, map_at)?;
    out.set_len(data + u64::from(used) * BLOCK)?;
    Ok(())
}

/// A VDI that has been opened and whose map is sound.
pub struct Vdi {
    file: Arc<dyn Disk>,
    size: u64,
    block: u64,
    data: u64,
    map: Vec<u32>,
}

impl Vdi {
    /// Opens and checks the map.
    pub fn open(file: Arc<dyn Disk>) -> Result<Vdi> {
        let mut h = vec![0; HEADER];
        inside(&*file, 0, HEADER as u64)?;
        file.read_at(0, &mut h)?;
        if le32(&h, 68) >> 16 != 1 {
            bail!("version {:#x} is not known", le32(&h, 68));
        }
        let kind = le32(&h, 76);
        if kind != DYNAMIC && kind != FIXED || h[424..440] != [0; 16] {
            bail!("it is a differencing disk; make it whole first: VBoxManage clonemedium");
        }
        let (size, block, blocks) = (le64(&h, 368), u64::from(le32(&h, 376)), u64::from(le32(&h, 384)));
        if !block.is_power_of_two() || !(512..=1 << 30).contains(&block) || le32(&h, 380) != 0 {
            bail!("its blocks have an impossible size: the file is corrupt");
        }
        if size.div_ceil(block) > blocks {
            bail!("its map of {blocks} blocks is too short for {size} bytes: the file is corrupt");
        }
        let blocks = size.div_ceil(block);
        let (map_at, data) = (u64::from(le32(&h, 340)), u64::from(le32(&h, 344)));
        inside(&*file, map_at, blocks * 4)?;
        let mut bytes = vec![0; blocks as usize * 4];
        file.read_at(map_at, &mut bytes)?;
        let map: Vec<u32> = bytes.chunks_exact(4).map(|e| le32(e, 0)).collect();
        if data < map_at + blocks * 4 {
            bail!("its map lies over its data: the file is corrupt");
        }
        let mut claims = Claims::new(file.size().saturating_sub(data), block);
        for (number, entry) in (0..).zip(&map).filter(|(_, e)| **e < ZERO) {
            let len = block.min(size - number * block);
            claims.take(u64::from(*entry) * block, len, "a block")?;
        }
        Ok(Vdi { file, size, block, data, map })
    }

    fn place(&self, number: u64) -> Option<u64> {
        let entry = self.map.get(number as usize).copied().filter(|e| *e < ZERO)?;
        Some(self.data + u64::from(entry) * self.block)
    }
}

impl Disk for Vdi {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut at: u64, to: &mut [u8]) -> Result<()> {
        inside(self, at, to.len() as u64)?;
        let mut done = 0;
        while done < to.len() {
            let skip = at % self.block;
            let n = ((self.block - skip) as usize).min(to.len() - done);
            let piece = &mut to[done..done + n];
            match self.place(at / self.block) {
                Some(place) => self.file.read_at(place + skip, piece)?,
                None => piece.fill(0),
            }
            at += n as u64;
            done += n;
        }
        Ok(())
    }

    fn is_hole(&self, at: u64, len: u64) -> bool {
        let last = at.saturating_add(len.max(1) - 1) / self.block;
        (at / self.block..=last).all(|n| self.place(n).is_none())
    }
}
