//! Partition tables: GPT with its backup, and the four entries of an MBR.
//!
//! A table is never believed: checksums are verified, what lies outside the disk or over another partition is left out
//! with a remark, and nothing here panics. Formats: UEFI Specification 2.10, chapter 5. Not here: logical partitions of
//! an MBR's extended one (left out with a remark), and anything about what a partition holds.

mod gpt;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use base::Result;

/// Something that may hold a table.
pub trait Medium {
    /// Bytes.
    fn size(&self) -> u64;
    /// Bytes in a logical block.
    fn block_size(&self) -> u32;
    /// Fills `to` from `at` on; the range is inside.
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()>;
}

/// A GUID in the byte order of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// From the number that its text spells, such as `0x4F68BCE3_E8CD_4DB1_96E7_FBCAF984B709`.
    pub const fn new(text: u128) -> Self {
        let mut b = text.to_be_bytes();
        // The first three fields are little endian on the disk.
        (b[0], b[1], b[2], b[3]) = (b[3], b[2], b[1], b[0]);
        (b[4], b[5]) = (b[5], b[4]);
        (b[6], b[7]) = (b[7], b[6]);
        Self(b)
    }
}

impl core::fmt::Display for Guid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let b = &self.0;
        write!(
            f,
            "{:02x}{:02x}{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-",
            b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]
        )?;
        write!(f, "{:02x}{:02x}-", b[8], b[9])?;
        b[10..].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Linux root file system, x86-64 (Discoverable Partitions Specification).
pub const ROOT_X86_64: Guid = Guid::new(0x4F68BCE3_E8CD_4DB1_96E7_FBCAF984B709);
/// EFI system partition.
pub const EFI_SYSTEM: Guid = Guid::new(0xC12A7328_F81F_11D2_BA4B_00A0C93EC93B);
/// BIOS boot code without a file system.
pub const BIOS_BOOT: Guid = Guid::new(0x21686148_6449_6E6F_744E_656564454649);

/// What a partition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A GPT type.
    Gpt(Guid),
    /// An MBR type.
    Mbr(u8),
}

/// One partition; it lies inside the disk and over no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// From 1.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// What it is for.
    pub kind: Kind,
    /// Its own GUID; zero in an MBR.
    pub id: Guid,
    /// Its name; empty in an MBR.
    pub name: String,
}

/// How a disk is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Not at all.
    #[default]
    None,
    /// By a GPT.
    Gpt,
    /// By the backup of a GPT whose first copy is damaged.
    GptBackup,
    /// By an MBR.
    Mbr,
}

/// What a disk's table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Which table.
    pub scheme: Scheme,
    /// The disk's GUID.
    pub disk: Guid,
    /// By number.
    pub partitions: Vec<Partition>,
    /// What was wrong, for the log; a line each.
    pub remarks: Vec<String>,
}

impl Table {
    /// Adds a partition if it is one: inside the disk's `size` and free of the others.
    fn add(&mut self, partition: Partition, size: u64) {
        let number = partition.number;
        let end = partition.start.checked_add(partition.len);
        if end.is_none_or(|end| end > size) || partition.len == 0 {
            let end = partition.start.saturating_add(partition.len);
            self.remarks.push(format!(
                "partition {number} ends at byte {end}, the disk has {size}: it is cut short or the table is wrong; the partition is left out"
            ));
            return;
        }
        let over = |p: &&Partition| partition.start < p.start + p.len && p.start < partition.start + partition.len;
        if let Some(other) = self.partitions.iter().find(over) {
            let other = other.number;
            self.remarks.push(format!("partition {number} lies over partition {other}; it is left out"));
            return;
        }
        self.partitions.push(partition);
    }
}

/// Bytes from the start of a disk that hold an MBR and, as a rule, a whole GPT.
const HEAD: u64 = 32 << 10;
const MBR: usize = 512;
const PROTECTIVE: u8 = 0xee;

/// Reads the table. A disk without one gives an empty table.
///
/// # Errors
/// Those of the medium.
pub fn read(medium: &dyn Medium) -> Result<Table> {
    let size = medium.size();
    let mut head = alloc::vec![0; size.min(HEAD) as usize];
    if head.len() < MBR {
        return Ok(Table::default());
    }
    medium.read(0, &mut head)?;
    let records = records(&head);
    let protective = records.as_ref().is_some_and(|all| all.iter().any(|r| r.kind == PROTECTIVE));
    // An image with 512-byte sectors may have come to a disk with larger blocks.
    let mut units = alloc::vec![512];
    if medium.block_size() > 512 {
        units.insert(0, u64::from(medium.block_size()));
    }
    for unit in &units {
        if let Some(table) = gpt::read(medium, &head, *unit, protective)? {
            return Ok(table);
        }
    }
    let mut table = Table::default();
    if protective {
        table.remarks.push(String::from("the GPT and its backup are damaged: no partition is known"));
        return Ok(table);
    }
    for (record, number) in records.into_iter().flatten().zip(1..) {
        match record.kind {
            0 => continue,
            0x05 | 0x0f | 0x85 => {
                table.remarks.push(format!("partition {number} is an extended one: logical partitions are not read"));
                continue;
            }
            _ => {}
        }
        let unit = units[0];
        let (start, len) = (u64::from(record.start) * unit, u64::from(record.sectors) * unit);
        let kind = Kind::Mbr(record.kind);
        table.add(Partition { number, start, len, kind, id: Guid::default(), name: String::new() }, size);
    }
    if !table.partitions.is_empty() {
        table.scheme = Scheme::Mbr;
    }
    Ok(table)
}

struct Record {
    kind: u8,
    start: u32,
    sectors: u32,
}

/// The four entries; `None` if this is no MBR. A FAT volume's boot sector ends with the same signature: its bytes at the
/// entries' places are code.
fn records(head: &[u8]) -> Option<[Record; 4]> {
    if head[510..512] != [0x55, 0xaa] {
        return None;
    }
    let all = [446, 462, 478, 494].map(|at| Record {
        kind: head[at + 4],
        start: u32_at(head, at + 8),
        sectors: u32_at(head, at + 12),
    });
    let flags = [446, 462, 478, 494].iter().all(|&at| head[at] & 0x7f == 0);
    flags.then_some(all)
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    data.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from(u32_at(data, at)) | u64::from(u32_at(data, at + 4)) << 32
}

#[cfg(all(test, feature = "host"))]
mod tests;
