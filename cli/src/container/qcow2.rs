//! qcow2, QEMU's format (its specification is docs/interop/qcow2.txt in QEMU).
//!
//! Written: version 3, clusters of 64 KiB, no compression. Read: versions 2 and 3, zero and deflate-compressed clusters.
//! Refused with a line: backing files, encryption, external data files, extended entries, zstd, images marked corrupt.
//! Internal snapshots are passed over.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};

use super::claims::Claims;
use super::num::{be32, be64, put};
use super::{Disk, each_piece, inside};

const BITS: u32 = 16;
const CLUSTER: u64 = 1 << BITS;
/// Entries of a level-2 table, and of a refcount block with 16-bit counts.
const L2_ENTRIES: u64 = CLUSTER / 8;
const REFCOUNTS: u64 = CLUSTER / 2;
const HEADER: usize = 104;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Larger disks are refused.
const MOST: u64 = 1 << 46;

/// Writes the clusters in their order, each level-2 table behind its clusters, then level 1 and the counts, which are all
/// one.
pub fn write(disk: &dyn Disk, out: &mut File, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let mut next = 1;
    let mut l1 = vec![0u64; disk.size().div_ceil(CLUSTER).div_ceil(L2_ENTRIES) as usize];
    let mut l2: Vec<u8> = Vec::new();
    let mut current = 0;
    let mut finish = |l2: &mut Vec<u8>, index: u64, next: &mut u64, out: &mut File| -> Result<()> {
        if !l2.is_empty() {
            out.write_all_at(l2, *next * CLUSTER)?;
            l1[index as usize] = (*next * CLUSTER) | COPIED;
            *next += 1;
            l2.clear();
        }
        Ok(())
    };
    each_piece(disk, CLUSTER as usize, progress, &mut |number, bytes| {
        if number / L2_ENTRIES != current {
            finish(&mut l2, current, &mut next, out)?;
            current = number / L2_ENTRIES;
        }
        l2.resize(CLUSTER as usize, 0);
        out.write_all_at(bytes, next * CLUSTER)?;
        put(&mut l2, (number % L2_ENTRIES) as usize * 8, &((next * CLUSTER) | COPIED).to_be_bytes());
        next += 1;
        Ok(())
    })?;
    finish(&mut l2, current, &mut next, out)?;

    let l1_at = next;
    let l1_bytes: Vec<u8> = l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    let before = l1_at + (l1_bytes.len() as u64).div_ceil(CLUSTER);
    // The counts count themselves.
    let (mut blocks, mut table) = (1, 1);
    while before + table + blocks > blocks * REFCOUNTS {
        blocks += 1;
        table = (blocks * 8).div_ceil(CLUSTER);
    }
    let total = before + table + blocks;
    out.set_len(total * CLUSTER)?;
    out.write_all_at(&l1_bytes, l1_at * CLUSTER)?;
    let pointers: Vec<u8> = (0..blocks).flat_map(|b| ((before + table + b) * CLUSTER).to_be_bytes()).collect();
    out.write_all_at(&pointers, before * CLUSTER)?;
    for block in 0..blocks {
        let used = (total - block * REFCOUNTS).min(REFCOUNTS);
        let counts: Vec<u8> = (0..used).flat_map(|_| 1u16.to_be_bytes()).collect();
        out.write_all_at(&counts, (before + table + block) * CLUSTER)?;
    }

    let mut h = vec![0; HEADER + 8];
    put(&mut h, 0, b"QFI\xfb");
    for (at, value) in [(4, 3), (20, BITS), (36, l1.len() as u32), (56, table as u32), (96, 4), (100, HEADER as u32)] {
        put(&mut h, at, &value.to_be_bytes());
    }
    for (at, value) in [(24, disk.size()), (40, l1_at * CLUSTER), (48, before * CLUSTER)] {
        put(&mut h, at, &value.to_be_bytes());
    }
    out.write_all_at(&h, 0)?;
    out.flush()?;
    Ok(())
}

/// A qcow2 file that has been opened and whose tables are sound.
pub struct Qcow2 {
    file: Arc<dyn Disk>,
    size: u64,
    bits: u32,
    version: u32,
    l1: Vec<u64>,
    /// The level-2 table and the decompressed cluster that were used last.
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    table: Option<(u64, Vec<u8>)>,
    cluster: Option<(u64, Vec<u8>)>,
}

impl Qcow2 {
    /// Opens and checks all tables.
    pub fn open(file: Arc<dyn Disk>) -> Result<Qcow2> {
        let mut h = vec![0; HEADER];
        let n = file.size().min(HEADER as u64) as usize;
        file.read_at(0, &mut h[..n])?;
        let (version, bits, size) = (be32(&h, 4), be32(&h, 20), be64(&h, 24));
        if n < 72 || !(2..=3).contains(&version) {
            bail!("version {version} is not known");
        }
        if be64(&h, 8) != 0 {
            bail!("it stands on a backing file; make it whole first: qemu-img convert -O qcow2 IN OUT");
        }
        if !(9..=21).contains(&bits) || size > MOST {
            bail!("its cluster size or its size is impossible");
        }
        let features = if version == 3 { be64(&h, 72) } else { 0 };
        // Bit 0, a dirty refcount table, does not matter to a reader.
        if features & !1 != 0 || be32(&h, 32) != 0 {
            bail!(
                "it is encrypted, marked corrupt, or uses other features ({features:#x}) that are not read; convert it with qemu-img"
            );
        }
        let cluster = 1 << bits;
        let entries = be32(&h, 36);
        if u64::from(entries) < size.div_ceil(cluster).div_ceil(cluster / 8) {
            bail!("its first table is too short: the file is corrupt");
        }
        let entries = size.div_ceil(cluster).div_ceil(cluster / 8);
        let at = be64(&h, 40);
        inside(&*file, at, entries * 8)?;
        let mut table = vec![0; entries as usize * 8];
        file.read_at(at, &mut table)?;
        let l1 = table.chunks_exact(8).map(|e| be64(e, 0)).collect();
        let image = Qcow2 { file, size, bits, version, l1, cache: Mutex::default() };
        image.check(at, entries * 8)?;
        Ok(image)
    }

    /// Every table and cluster is inside the file, and none lies over another.
    fn check(&self, l1_at: u64, l1_len: u64) -> Result<()> {
        let cluster = 1u64 << self.bits;
        // A file's last cluster may end early.
        let mut claims = Claims::new(self.file.size().next_multiple_of(cluster), cluster);
        claims.take(0, HEADER as u64, "the header")?;
        claims.take(l1_at, l1_len.max(1), "the first table")?;
        for (index, entry) in self.l1.iter().enumerate().filter(|(_, e)| **e & OFFSET != 0) {
            claims.take(entry & OFFSET, cluster, "a table")?;
            let table = self.table(entry & OFFSET)?;
            for (slot, e) in table.chunks_exact(8).map(|e| be64(e, 0)).enumerate() {
                let guest = (index as u64 * (cluster / 8) + slot as u64) * cluster;
                if guest >= self.size {
                    break;
                }
                if e & COMPRESSED != 0 {
                    let (at, _) = self.compressed(e);
                    inside(&*self.file, at, 1)?;
                } else if e & OFFSET != 0 {
                    claims.take(e & OFFSET, cluster, "a cluster")?;
                    inside(&*self.file, e & OFFSET, cluster.min(self.size - guest))?;
                }
            }
        }
        Ok(())
    }

    fn table(&self, at: u64) -> Result<Vec<u8>> {
        let mut table = vec![0; 1 << self.bits];
        self.file.read_at(at, &mut table)?;
        Ok(table)
    }

    /// Where a compressed cluster is, and the bytes that it can have.
    fn compressed(&self, entry: u64) -> (u64, u64) {
        let split = 62 - (self.bits - 8);
        let at = entry & ((1 << split) - 1);
        let sectors = (entry & !(COPIED | COMPRESSED)) >> split;
        (at, (sectors + 1) * 512 - at % 512)
    }

    /// The cluster reads as zeroes, whatever is in it.
    fn is_zeroed(&self, entry: u64) -> bool {
        self.version == 3 && entry & 1 != 0
    }

    /// The entry for a guest cluster.
    fn entry(&self, number: u64, cache: &mut Cache) -> Result<u64> {
        let per_table = 1u64 << (self.bits - 3);
        let at = self.l1[(number / per_table) as usize] & OFFSET;
        if at == 0 {
            return Ok(0);
        }
        let table = match &mut cache.table {
            Some((place, table)) if *place == at => table,
            slot => &mut slot.insert((at, self.table(at)?)).1,
        };
        Ok(be64(table, (number % per_table) as usize * 8))
    }
}

impl Disk for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut at: u64, mut to: &mut [u8]) -> Result<()> {
        inside(self, at, to.len() as u64)?;
        let cluster = 1usize << self.bits;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        while !to.is_empty() {
            let skip = at as usize % cluster;
            let n = (cluster - skip).min(to.len());
            let (piece, rest) = std::mem::take(&mut to).split_at_mut(n);
            let entry = self.entry(at >> self.bits, &mut cache)?;
            if entry & COMPRESSED != 0 {
                let (place, len) = self.compressed(entry);
                let bytes = match &mut cache.cluster {
                    Some((there, bytes)) if *there == place => bytes,
                    slot => &mut slot.insert((place, inflate(&*self.file, place, len, cluster)?)).1,
                };
                piece.copy_from_slice(&bytes[skip..skip + piece.len()]);
            } else if entry & OFFSET == 0 || self.is_zeroed(entry) {
                piece.fill(0);
            } else {
                self.file.read_at((entry & OFFSET) + skip as u64, piece)?;
            }
            at += piece.len() as u64;
            to = rest;
        }
        Ok(())
    }

    fn is_hole(&self, at: u64, len: u64) -> bool {
        if self.size == 0 {
            return true;
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let last = at.saturating_add(len.max(1) - 1).min(self.size.saturating_sub(1));
        (at >> self.bits..=last >> self.bits).all(|n| {
            self.entry(n, &mut cache).is_ok_and(|e| e & COMPRESSED == 0 && (e & OFFSET == 0 || self.is_zeroed(e)))
        })
    }
}

fn inflate(file: &dyn Disk, at: u64, len: u64, cluster: usize) -> Result<Vec<u8>> {
    let mut packed = vec![0; len.min(file.size().saturating_sub(at)) as usize];
    file.read_at(at, &mut packed)?;
    let mut bytes = Vec::with_capacity(cluster);
    flate2::read::DeflateDecoder::new(&packed[..]).take(cluster as u64).read_to_end(&mut bytes).ok();
    if bytes.len() != cluster {
        bail!("a compressed cluster at {at} is damaged");
    }
    Ok(bytes)
}
