//! A FAT16 volume for the EFI system partition: planned whole, every file in one piece.
//!
//! The crate `fatfs` was looked at: it does not promise that a file's clusters follow one another, which the BIOS loader
//! needs, and it wants the volume as one writable file. Format: Microsoft's FAT specification 1.03. All names are 8.3
//! names; lower case is told by the two bits that Windows NT uses.

use anyhow::{Result, bail};

use super::SECTOR;
use crate::container::num::put;

/// What a directory entry leads to.
pub enum Node {
    /// A folder.
    Dir(Vec<(&'static str, Node)>),
    /// A file of so many bytes; the number is the caller's name for it.
    File(usize, u64),
}

/// A planned volume.
pub struct Fat {
    /// Sectors in all.
    pub sectors: u64,
    /// What is not a file's content: byte offsets in the volume, and bytes.
    pub parts: Vec<(u64, Vec<u8>)>,
    /// Where each file starts, by the caller's number: byte offset in the volume.
    pub files: Vec<(usize, u64)>,
}

const ROOT_ENTRIES: u64 = 512;
const ENTRY: usize = 32;
const RESERVED: u64 = 8;
/// A volume with fewer or more clusters would not be FAT16; some distance is kept.
const CLUSTERS: std::ops::Range<u64> = 4200..65000;
const LEAST: u64 = 8 << 20;
const MIB: u64 = 1 << 20;
/// 1 January 1980, the first day that there is.
const DATE: u16 = 1 << 5 | 1;

struct Plan {
    cluster: u64,
    next: u64,
    chains: Vec<(u64, u64)>,
    parts: Vec<(u64, Vec<u8>)>,
    files: Vec<(usize, u64)>,
    data: u64,
}

impl Plan {
    /// The first of the clusters for so many bytes, and none for none.
    fn take(&mut self, bytes: u64) -> u64 {
        let count = bytes.div_ceil(self.cluster);
        if count == 0 {
            return 0;
        }
        let first = self.next;
        self.next += count;
        self.chains.push((first, count));
        first
    }

    fn place(&self, cluster: u64) -> u64 {
        self.data + (cluster - 2) * self.cluster
    }

    /// The entries of a folder, with what is below it.
    fn folder(&mut self, nodes: &[(&'static str, Node)], parent: Option<(u64, u64)>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some((this, parent)) = parent {
            bytes.extend(entry(*b".          ", 0, 0x10, this, 0));
            bytes.extend(entry(*b"..         ", 0, 0x10, parent, 0));
        }
        for (name, node) in nodes {
            let (short, case) = short_name(name)?;
            bytes.extend(match node {
                Node::File(number, len) => {
                    let first = self.take(*len);
                    let place = if first == 0 { self.data } else { self.place(first) };
                    self.files.push((*number, place));
                    entry(short, case, 0x20, first, *len)
                }
                Node::Dir(below) => {
                    let first = self.take(((below.len() + 2) * ENTRY) as u64);
                    let parent = parent.map_or(0, |(this, _)| this);
                    let content = self.folder(below, Some((first, parent)))?;
                    let place = self.place(first);
                    self.parts.push((place, content));
                    entry(short, case, 0x10, first, 0)
                }
            });
        }
        Ok(bytes)
    }
}

/// The name as a directory has it, and its case bits.
fn short_name(name: &str) -> Result<([u8; 11], u8)> {
    let (stem, suffix) = name.split_once('.').unwrap_or((name, ""));
    if stem.is_empty() || stem.len() > 8 || suffix.len() > 3 {
        bail!("{name:?} is not an 8.3 name");
    }
    let mut short = [b' '; 11];
    put(&mut short, 0, stem.to_ascii_uppercase().as_bytes());
    put(&mut short, 8, suffix.to_ascii_uppercase().as_bytes());
    let lower = |part: &str| part.bytes().any(|b| b.is_ascii_lowercase());
    Ok((short, u8::from(lower(stem)) << 3 | u8::from(lower(suffix)) << 4))
}

fn entry(name: [u8; 11], case: u8, attributes: u8, cluster: u64, len: u64) -> [u8; ENTRY] {
    let mut e = [0; ENTRY];
    put(&mut e, 0, &name);
    e[11] = attributes;
    e[12] = case;
    for at in [16, 18, 24] {
        put(&mut e, at, &DATE.to_le_bytes());
    }
    put(&mut e, 26, &(cluster as u16).to_le_bytes());
    put(&mut e, 28, &(len as u32).to_le_bytes());
    e
}

fn content(nodes: &[(&'static str, Node)], cluster: u64) -> u64 {
    let size = |node: &Node| match node {
        Node::File(_, len) => len.next_multiple_of(cluster),
        Node::Dir(below) => content(below, cluster) + (((below.len() + 2) * ENTRY) as u64).next_multiple_of(cluster),
    };
    nodes.iter().map(|(_, node)| size(node)).sum()
}

/// Plans the volume that starts at sector `hidden` of its disk; `id` is its serial number.
pub fn plan(tree: &[(&'static str, Node)], hidden: u64, id: u32) -> Result<Fat> {
    let mut cluster = 1024;
    let (size, fat_sectors) = loop {
        // Room for administration, and a little to change the configuration in place.
        let size = (content(tree, cluster) + MIB).next_multiple_of(MIB).max(LEAST);
        let clusters = size / cluster;
        if clusters < CLUSTERS.end {
            break (size, ((clusters + 2) * 2).div_ceil(SECTOR).next_multiple_of(4));
        }
        cluster *= 2;
        if cluster > 32 << 10 {
            bail!("{size} bytes are too many for the EFI system partition");
        }
    };
    let data = (RESERVED + 2 * fat_sectors) * SECTOR + ROOT_ENTRIES * ENTRY as u64;
    let clusters = (size - data) / cluster;
    if !CLUSTERS.contains(&clusters) {
        bail!("a FAT volume of {size} bytes cannot be planned");
    }
    let mut plan = Plan { cluster, next: 2, chains: Vec::new(), parts: Vec::new(), files: Vec::new(), data };
    let mut root = entry(*b"CORACLE    ", 0, 0x08, 0, 0).to_vec();
    root.extend(plan.folder(tree, None)?);
    let mut table = vec![0xf8, 0xff, 0xff, 0xff];
    for (first, count) in &plan.chains {
        for cluster in *first..first + count {
            let next = if cluster + 1 == first + count { 0xffff } else { cluster as u16 + 1 };
            table.extend(next.to_le_bytes());
        }
    }
    let sectors = size / SECTOR;
    let mut parts = vec![
        (0, boot_sector(sectors, cluster / SECTOR, fat_sectors, hidden, id)),
        (RESERVED * SECTOR, table.clone()),
        ((RESERVED + fat_sectors) * SECTOR, table),
        ((RESERVED + 2 * fat_sectors) * SECTOR, root),
    ];
    parts.append(&mut plan.parts);
    Ok(Fat { sectors, parts, files: plan.files })
}

fn boot_sector(sectors: u64, cluster: u64, fat: u64, hidden: u64, id: u32) -> Vec<u8> {
    let mut s = vec![0; SECTOR as usize];
    put(&mut s, 0, b"\xeb\x3c\x90CORACLE ");
    put(&mut s, 11, &(SECTOR as u16).to_le_bytes());
    s[13] = cluster as u8;
    put(&mut s, 14, &(RESERVED as u16).to_le_bytes());
    s[16] = 2;
    put(&mut s, 17, &(ROOT_ENTRIES as u16).to_le_bytes());
    if let Ok(small) = u16::try_from(sectors) {
        put(&mut s, 19, &small.to_le_bytes());
    } else {
        put(&mut s, 32, &(sectors as u32).to_le_bytes());
    }
    s[21] = 0xf8;
    put(&mut s, 22, &(fat as u16).to_le_bytes());
    put(&mut s, 24, &63u16.to_le_bytes());
    put(&mut s, 26, &255u16.to_le_bytes());
    put(&mut s, 28, &(hidden as u32).to_le_bytes());
    s[36] = 0x80;
    s[38] = 0x29;
    put(&mut s, 39, &id.to_le_bytes());
    put(&mut s, 43, b"CORACLE    FAT16   ");
    // int 18h: this disk is not booted from here.
    put(&mut s, 62, &[0xcd, 0x18, 0xf4, 0xeb, 0xfd]);
    put(&mut s, 510, &[0x55, 0xaa]);
    s
}
