//! Reading VMDK: one file with a sparse extent, as `monolithicSparse` and `streamOptimized` have it (VMware's "Virtual
//! Disk Format 5.0"). Descriptors that name other files, and snapshots, are refused with a line.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::claims::Claims;
use super::num::{le32, le64};
use super::vmdk_write::AT_END;
use super::{Disk, inside};

const SECTOR: u64 = 512;
const COMPRESSED: u32 = 1 << 16;
/// Larger disks are refused.
const MOST: u64 = 1 << 46;

/// A VMDK that has been opened and whose tables are sound.
pub struct Vmdk {
    file: Arc<dyn Disk>,
    size: u64,
    /// Bytes of a grain.
    grain: u64,
    compressed: bool,
    /// Grains of a table.
    per_table: u64,
    /// Where each grain is, in sectors, by table: 0 and 1 are grains of zeroes, an empty table has only such.
    tables: Vec<Vec<u32>>,
    /// The grain that was used last.
    cache: Mutex<Option<(u64, Vec<u8>)>>,
}

fn header(file: &dyn Disk, at: u64) -> Result<[u8; SECTOR as usize]> {
    let mut h = [0; SECTOR as usize];
    file.read_at(at, &mut h).context("it is truncated")?;
    if &h[..4] != b"KDMV" {
        bail!("there is no header at byte {at}: it is truncated or corrupt");
    }
    if !(1..=3).contains(&le32(&h, 4)) {
        bail!("version {} is not known", le32(&h, 4));
    }
    Ok(h)
}

impl Vmdk {
    /// Opens and checks all tables.
    pub fn open(file: Arc<dyn Disk>) -> Result<Vmdk> {
        let mut h = header(&*file, 0)?;
        check_descriptor(&*file, &h)?;
        if le64(&h, 56) == AT_END {
            // Footer, then a marker for the end.
            let at = file.size().checked_sub(2 * SECTOR).context("it is truncated")?;
            h = header(&*file, at).context("its footer is not at the end")?;
        }
        let (capacity, grain, per_table) = (le64(&h, 12), le64(&h, 20), u64::from(le32(&h, 44)));
        let compressed = le32(&h, 8) & COMPRESSED != 0;
        if !grain.is_power_of_two() || !(8..=32768).contains(&grain) || !(1..=4096).contains(&per_table) {
            bail!("its grains have an impossible size: the file is corrupt");
        }
        if capacity > MOST / SECTOR {
            bail!("its size is impossible: the file is corrupt");
        }
        if compressed && u16::from_le_bytes([h[77], h[78]]) != 1 {
            bail!("its compression is not known");
        }
        let mut image = Vmdk {
            size: capacity * SECTOR,
            grain: grain * SECTOR,
            compressed,
            per_table,
            tables: Vec::new(),
            cache: Mutex::default(),
            file,
        };
        image.load(le64(&h, 56), capacity.div_ceil(grain))?;
        Ok(image)
    }

    /// Reads all tables: 4 bytes for each grain of 64 KiB, and no more than the file has.
    fn load(&mut self, directory: u64, grains: u64) -> Result<()> {
        let per_table = self.per_table;
        let tables = grains.div_ceil(per_table);
        let at = directory.checked_mul(SECTOR).context("its directory is nowhere: the file is corrupt")?;
        inside(&*self.file, at, tables * 4)?;
        let mut pointers = vec![0; tables as usize * 4];
        self.file.read_at(at, &mut pointers)?;
        let mut claims = Claims::new(self.file.size().next_multiple_of(SECTOR), SECTOR);
        claims.take(0, SECTOR, "the header")?;
        claims.take(at, (tables * 4).max(1), "the directory")?;
        let mut bytes = vec![0; per_table as usize * 4];
        for number in 0..tables {
            let here = (grains - number * per_table).min(per_table);
            let pointer = u64::from(le32(&pointers, number as usize * 4)) * SECTOR;
            if pointer == 0 {
                self.tables.push(Vec::new());
                continue;
            }
            claims.take(pointer, per_table * 4, "a table")?;
            self.file.read_at(pointer, &mut bytes)?;
            let entries: Vec<u32> = bytes.chunks_exact(4).take(here as usize).map(|e| le32(e, 0)).collect();
            for (entry, grain) in entries.iter().zip(number * per_table..).filter(|(entry, _)| **entry > 1) {
                self.claim(&mut claims, u64::from(*entry) * SECTOR, grain)?;
            }
            self.tables.push(entries);
        }
        Ok(())
    }

    fn entry(&self, number: u64) -> u32 {
        let table = self.tables.get((number / self.per_table) as usize);
        table.and_then(|t| t.get((number % self.per_table) as usize)).copied().unwrap_or(0)
    }

    fn claim(&self, claims: &mut Claims, at: u64, number: u64) -> Result<()> {
        if !self.compressed {
            let len = self.grain.min(self.size - number * self.grain);
            return claims.take(at, len, "a grain");
        }
        let len = self.packed_len(at, number)?;
        claims.take(at, 12 + len, "a grain")
    }

    /// The length of a compressed grain, from its marker, which must be that grain's.
    fn packed_len(&self, at: u64, number: u64) -> Result<u64> {
        let mut marker = [0; 12];
        self.file.read_at(at, &mut marker)?;
        let (sector, len) = (le64(&marker, 0), u64::from(le32(&marker, 8)));
        if sector != number * (self.grain / SECTOR) || len == 0 || len > 2 * self.grain {
            bail!("the grain at {at} is not the one that the table means: the file is corrupt");
        }
        inside(&*self.file, at, 12 + len)?;
        Ok(len)
    }

    fn unpack(&self, at: u64, number: u64) -> Result<Vec<u8>> {
        let mut packed = vec![0; self.packed_len(at, number)? as usize];
        self.file.read_at(at + 12, &mut packed)?;
        let mut bytes = Vec::with_capacity(self.grain as usize);
        flate2::read::ZlibDecoder::new(&packed[..]).take(self.grain).read_to_end(&mut bytes).ok();
        if bytes.len() as u64 != self.grain.min(self.size - number * self.grain) && bytes.len() as u64 != self.grain {
            bail!("the grain at {at} is damaged");
        }
        bytes.resize(self.grain as usize, 0);
        Ok(bytes)
    }
}

/// The kind of disk, where the file describes itself.
fn check_descriptor(file: &dyn Disk, h: &[u8; SECTOR as usize]) -> Result<()> {
    let (at, len) = (le64(h, 28).saturating_mul(SECTOR), le64(h, 36).saturating_mul(SECTOR).min(64 << 10));
    if at == 0 || len == 0 {
        return Ok(());
    }
    inside(file, at, len)?;
    let mut text = vec![0; len as usize];
    file.read_at(at, &mut text)?;
    let text = String::from_utf8_lossy(&text);
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(key)?.trim_start().strip_prefix('='));
        line.map(|v| v.trim().trim_matches('"').to_owned())
    };
    match value("createType").as_deref() {
        Some("streamOptimized" | "monolithicSparse") | None => {}
        Some(other) => {
            bail!("it is of the kind {other:?}, which lies in several files; convert it with: qemu-img convert -O raw")
        }
    }
    match value("parentCID").as_deref() {
        Some(parent) if !parent.eq_ignore_ascii_case("ffffffff") => {
            bail!("it is a snapshot of another disk; make it whole first: qemu-img convert -O raw")
        }
        _ => Ok(()),
    }
}

impl Disk for Vmdk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut at: u64, mut to: &mut [u8]) -> Result<()> {
        inside(self, at, to.len() as u64)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        while !to.is_empty() {
            let (number, skip) = (at / self.grain, at % self.grain);
            let n = ((self.grain - skip) as usize).min(to.len());
            let (piece, rest) = std::mem::take(&mut to).split_at_mut(n);
            let place = u64::from(self.entry(number)) * SECTOR;
            if place <= SECTOR {
                piece.fill(0);
            } else if self.compressed {
                let bytes = match &mut *cache {
                    Some((there, bytes)) if *there == number => bytes,
                    slot => &mut slot.insert((number, self.unpack(place, number)?)).1,
                };
                piece.copy_from_slice(&bytes[skip as usize..][..n]);
            } else {
                self.file.read_at(place + skip, piece)?;
            }
            at += n as u64;
            to = rest;
        }
        Ok(())
    }

    fn is_hole(&self, at: u64, len: u64) -> bool {
        let last = at.saturating_add(len.max(1) - 1) / self.grain;
        (at / self.grain..=last).all(|n| self.entry(n) <= 1)
    }
}
