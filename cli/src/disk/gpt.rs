//! Writing a GUID partition table (UEFI specification, chapter 5). Reading is `fs::partition`'s.

use fs::partition::Guid;

use super::SECTOR;
use crate::container::num::put;

/// One partition: sectors are inclusive.
pub struct Entry {
    /// What it is for.
    pub kind: Guid,
    /// Its own GUID.
    pub id: [u8; 16],
    /// First sector.
    pub first: u64,
    /// Last sector.
    pub last: u64,
    /// Its name, at most 36 characters.
    pub name: &'static str,
}

const ENTRY: usize = 128;
const ENTRIES: usize = 128;
/// Sectors of the entries.
const TABLE: u64 = (ENTRIES * ENTRY) as u64 / SECTOR;
/// Sectors that the table takes at the disk's end.
pub const BACKUP: u64 = TABLE + 1;

/// The protective MBR with `code` in front; its entry is active, as some BIOSes want it.
fn protective(code: &[u8], sectors: u64) -> Vec<u8> {
    let mut mbr = vec![0; SECTOR as usize];
    put(&mut mbr, 0, code);
    put(&mut mbr, 446, &[0x80, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    put(&mut mbr, 458, &u32::try_from(sectors - 1).unwrap_or(u32::MAX).to_le_bytes());
    put(&mut mbr, 510, &[0x55, 0xaa]);
    mbr
}

fn header(table: &[u8], sectors: u64, disk: [u8; 16], here: u64, other: u64, entries: u64) -> Vec<u8> {
    let mut h = vec![0; SECTOR as usize];
    put(&mut h, 0, b"EFI PART\x00\x00\x01\x00");
    put(&mut h, 12, &92u32.to_le_bytes());
    let words = [(24, here), (32, other), (40, 2 + TABLE), (48, sectors - BACKUP - 1), (72, entries)];
    for (at, value) in words {
        put(&mut h, at, &value.to_le_bytes());
    }
    put(&mut h, 56, &disk);
    for (at, value) in [(80, ENTRIES as u32), (84, ENTRY as u32), (88, boot_layout::crc32(table))] {
        put(&mut h, at, &value.to_le_bytes());
    }
    let crc = boot_layout::crc32(&h[..92]);
    put(&mut h, 16, &crc.to_le_bytes());
    h
}

/// The table of a disk, as byte offsets and bytes: at its start, with `code` in the first sector, and at its end.
pub fn table(entries: &[Entry], code: &[u8], sectors: u64, disk: [u8; 16]) -> [(u64, Vec<u8>); 2] {
    let mut table = vec![0; ENTRIES * ENTRY];
    for (entry, e) in entries.iter().zip(table.chunks_exact_mut(ENTRY)) {
        put(e, 0, &entry.kind.0);
        put(e, 16, &entry.id);
        put(e, 32, &entry.first.to_le_bytes());
        put(e, 40, &entry.last.to_le_bytes());
        for (unit, at) in entry.name.encode_utf16().take(36).zip((56..).step_by(2)) {
            put(e, at, &unit.to_le_bytes());
        }
    }
    let last = sectors - 1;
    let mut start = protective(code, sectors);
    start.extend(header(&table, sectors, disk, 1, last, 2));
    start.extend(&table);
    let backup = header(&table, sectors, disk, last, 1, last - TABLE);
    table.extend(backup);
    [(0, start), ((last - TABLE) * SECTOR, table)]
}
