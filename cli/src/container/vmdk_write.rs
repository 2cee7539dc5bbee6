//! Writing VMDK, stream-optimized (VMware's "Virtual Disk Format 5.0"): compressed grains one after another, the tables
//! behind them. VMware and VirtualBox import this kind, alone or in an OVA.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use anyhow::Result;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use fs::partition::Guid;

use super::num::{le32, put};
use super::{Contents, Disk, each_piece, identifier};

const SECTOR: u64 = 512;
/// Sectors of a grain.
pub const GRAIN: u64 = 128;
/// Grains of a table.
pub const TABLE: u64 = 512;
/// Sectors before the first grain: header, descriptor, room.
const OVERHEAD: u64 = 128;
/// Sectors for the descriptor.
const DESCRIPTOR: u64 = 20;
/// The tables are found from the footer.
pub const AT_END: u64 = u64::MAX;
/// Newline check, compressed grains, markers.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;

/// Kinds of markers that have no grain.
mod marker {
    pub const END: u32 = 0;
    pub const TABLE: u32 = 1;
    pub const DIRECTORY: u32 = 2;
    pub const FOOTER: u32 = 3;
}

/// What was written, for a description around it.
pub struct Written {
    /// Bytes of the file.
    pub len: u64,
    /// Bytes of the disk that are not zero, by grains.
    pub populated: u64,
}

fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut h = vec![0; SECTOR as usize];
    put(&mut h, 0, b"KDMV");
    put(&mut h, 4, &3u32.to_le_bytes());
    put(&mut h, 8, &FLAGS.to_le_bytes());
    for (at, value) in [(12, capacity), (20, GRAIN), (28, 1), (36, DESCRIPTOR), (56, directory), (64, OVERHEAD)] {
        put(&mut h, at, &value.to_le_bytes());
    }
    put(&mut h, 44, &(TABLE as u32).to_le_bytes());
    put(&mut h, 73, b"\n \r\n");
    put(&mut h, 77, &1u16.to_le_bytes());
    h
}

fn marker(sectors: u64, kind: u32) -> Vec<u8> {
    let mut m = vec![0; SECTOR as usize];
    put(&mut m, 0, &sectors.to_le_bytes());
    put(&mut m, 12, &kind.to_le_bytes());
    m
}

/// The text that describes the disk. The geometry is what VMware computes for LSI controllers, and takes for any.
/// VirtualBox looks for the identifiers.
fn descriptor(capacity: u64, contents: &[u8]) -> Vec<u8> {
    // All ones stand for "none".
    let id = le32(contents, 0) & 0x7fff_ffff;
    let [image, modification] =
        ["VMDK", "VMDK modification"].map(|what| Guid::new(u128::from_be_bytes(identifier(contents, what))));
    let none = Guid::default();
    let cylinders = (capacity / (255 * 63)).clamp(1, 65535);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={id:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRDONLY {capacity} SPARSE \"disk.vmdk\"\n\n\
         # The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\nddb.virtualHWVersion = \"10\"\n\
         ddb.uuid.image=\"{image}\"\nddb.uuid.modification=\"{modification}\"\n\
         ddb.uuid.parent=\"{none}\"\nddb.uuid.parentmodification=\"{none}\"\n"
    );
    let mut bytes = text.into_bytes();
    bytes.resize((DESCRIPTOR * SECTOR) as usize, 0);
    bytes
}

/// The file as it grows, from `base` on in `out`.
struct Stream<'a> {
    out: &'a mut File,
    base: u64,
    at: u64,
}

impl Stream<'_> {
    fn sector(&self) -> u32 {
        (self.at / SECTOR) as u32
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all_at(bytes, self.base + self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) {
        self.at = self.at.next_multiple_of(SECTOR);
    }

    /// A table of sector numbers behind its marker; returns where it is.
    fn table(&mut self, kind: u32, entries: &[u32]) -> Result<u32> {
        let mut bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        self.put(&marker(bytes.len() as u64 / SECTOR, kind))?;
        let place = self.sector();
        self.put(&bytes)?;
        Ok(place)
    }
}

/// Writes the disk from byte `base` of `out` on.
pub fn write(disk: &dyn Disk, out: &mut File, base: u64, progress: &mut dyn FnMut(u64)) -> Result<Written> {
    let capacity = disk.size().div_ceil(SECTOR);
    let grains = capacity.div_ceil(GRAIN);
    let mut directory = vec![0u32; grains.div_ceil(TABLE) as usize];
    let mut table = Vec::new();
    let mut current = 0;
    let mut contents = Contents::of_size(disk.size());
    let mut populated = 0;
    let mut stream = Stream { out, base, at: OVERHEAD * SECTOR };
    let finish = |table: &mut Vec<u32>, at: u64, stream: &mut Stream<'_>, directory: &mut Vec<u32>| -> Result<()> {
        if !table.is_empty() {
            directory[at as usize] = stream.table(marker::TABLE, table)?;
            table.clear();
        }
        Ok(())
    };
    each_piece(disk, (GRAIN * SECTOR) as usize, progress, &mut |number, bytes| {
        contents.add(number, bytes);
        if number / TABLE != current {
            finish(&mut table, current, &mut stream, &mut directory)?;
            current = number / TABLE;
        }
        table.resize(TABLE as usize, 0);
        table[(number % TABLE) as usize] = stream.sector();
        let mut grain = vec![0; 12];
        put(&mut grain, 0, &(number * GRAIN).to_le_bytes());
        let mut encoder = ZlibEncoder::new(grain, Compression::default());
        encoder.write_all(bytes)?;
        let mut grain = encoder.finish()?;
        let len = grain.len() as u32 - 12;
        put(&mut grain, 8, &len.to_le_bytes());
        stream.put(&grain)?;
        stream.pad();
        populated += bytes.len() as u64;
        Ok(())
    })?;
    finish(&mut table, current, &mut stream, &mut directory)?;
    let place = stream.table(marker::DIRECTORY, &directory)?;
    stream.put(&marker(1, marker::FOOTER))?;
    stream.put(&header(capacity, place.into()))?;
    stream.put(&marker(0, marker::END))?;
    let len = stream.at;
    let out = stream.out;

    let contents = contents.finish();
    out.write_all_at(&header(capacity, AT_END), base)?;
    out.write_all_at(&descriptor(capacity, &contents), base + SECTOR)?;
    out.set_len(base + len)?;
    Ok(Written { len, populated })
}
