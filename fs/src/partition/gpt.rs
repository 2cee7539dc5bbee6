//! The GUID partition table: header, entries, backup.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use base::Result;

use super::{Guid, Kind, Medium, Partition, Scheme, Table, u32_at, u64_at};

const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Bytes of the header that the specification defines.
const HEADER: usize = 92;
/// Least bytes of an entry.
const ENTRY: u32 = 128;
/// More entries than this many bytes are refused.
const MOST: u64 = 1 << 20;

/// CRC-32 as in zlib.
pub(super) fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut n = 0;
        while n < 256 {
            let mut crc = n as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[n] = crc;
            n += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc: u32, &byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// What a header that is sound says; positions are in units.
struct Header {
    backup: u64,
    last: u64,
    disk: Guid,
    entries: u64,
    count: u32,
    entry: u32,
    crc: u32,
}

impl Header {
    /// From the block at `lba`.
    fn parse(block: &[u8], lba: u64) -> Result<Self, &'static str> {
        if block.get(..8) != Some(SIGNATURE) {
            return Err("it has no signature");
        }
        let len = u32_at(block, 12) as usize;
        if !(HEADER..=block.len()).contains(&len) {
            return Err("its length is wrong");
        }
        let mut copy: Vec<u8> = block[..len].to_vec();
        copy[16..20].fill(0);
        if crc32(&copy) != u32_at(block, 16) {
            return Err("its checksum is wrong");
        }
        if u64_at(block, 24) != lba {
            return Err("it belongs to another place");
        }
        let header = Self {
            backup: u64_at(block, 32),
            last: u64_at(block, 48),
            disk: guid_at(block, 56),
            entries: u64_at(block, 72),
            count: u32_at(block, 80),
            entry: u32_at(block, 84),
            crc: u32_at(block, 88),
        };
        let bytes = u64::from(header.count) * u64::from(header.entry);
        if header.entry < ENTRY || !header.entry.is_multiple_of(8) || bytes > MOST {
            return Err("its entries have a wrong size");
        }
        Ok(header)
    }
}

fn guid_at(data: &[u8], at: usize) -> Guid {
    Guid(data[at..at + 16].try_into().unwrap_or_default())
}

/// Reads the table with blocks of `unit` bytes, the start of the disk being at hand. `None`: there is no GPT. The backup
/// is only looked for behind a protective MBR, or when the first header has its signature.
pub(super) fn read(medium: &dyn Medium, head: &[u8], unit: u64, protective: bool) -> Result<Option<Table>> {
    let size = medium.size();
    let Some(first) = head.get(unit as usize..2 * unit as usize) else { return Ok(None) };
    if !protective && first.get(..8) != Some(SIGNATURE) {
        return Ok(None);
    }
    let why = match load(medium, Header::parse(first, 1), unit)? {
        Ok((header, entries)) => {
            let mut table = table(&header, &entries, unit, size, Scheme::Gpt);
            let there = size / unit;
            if header.last >= there || header.backup >= there {
                let says = header.last.max(header.backup).saturating_add(1);
                let text = format!("the disk has {there} sectors, its GPT says {says}: it is shorter than it was made");
                table.remarks.insert(0, text);
            }
            return Ok(Some(table));
        }
        Err(why) => why,
    };
    let last = size / unit - 1;
    let mut block = alloc::vec![0; unit as usize];
    medium.read(last * unit, &mut block)?;
    let Ok((header, entries)) = load(medium, Header::parse(&block, last), unit)? else { return Ok(None) };
    let mut table = table(&header, &entries, unit, size, Scheme::GptBackup);
    table.remarks.insert(0, format!("the GPT's first header cannot be used ({why}); its backup is"));
    Ok(Some(table))
}

/// The entries of a header, if their checksum is right.
#[allow(clippy::type_complexity, reason = "the medium's errors and the table's are two things")]
fn load(
    medium: &dyn Medium,
    header: Result<Header, &'static str>,
    unit: u64,
) -> Result<Result<(Header, Vec<u8>), &'static str>> {
    let header = match header {
        Ok(header) => header,
        Err(why) => return Ok(Err(why)),
    };
    let len = u64::from(header.count) * u64::from(header.entry);
    let at = header.entries.checked_mul(unit);
    let Some(at) = at.filter(|at| at.checked_add(len).is_some_and(|end| end <= medium.size())) else {
        return Ok(Err("its entries lie outside the disk"));
    };
    let mut entries = alloc::vec![0; len as usize];
    medium.read(at, &mut entries)?;
    if crc32(&entries) != header.crc {
        return Ok(Err("its entries' checksum is wrong"));
    }
    Ok(Ok((header, entries)))
}

fn table(header: &Header, entries: &[u8], unit: u64, size: u64, scheme: Scheme) -> Table {
    let mut table = Table { scheme, disk: header.disk, ..Table::default() };
    for (entry, number) in entries.chunks_exact(header.entry as usize).zip(1..) {
        let kind = guid_at(entry, 0);
        if kind == Guid::default() {
            continue;
        }
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let sectors = last.checked_sub(first).and_then(|n| n.checked_add(1));
        // Saturated values lie outside every disk.
        let len = sectors.map_or(0, |n| n.saturating_mul(unit));
        let units: Vec<u16> = entry[56..128].chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        let name = units.split(|&u| u == 0).next().unwrap_or_default();
        let partition = Partition {
            number,
            start: first.saturating_mul(unit),
            len,
            kind: Kind::Gpt(kind),
            id: guid_at(entry, 16),
            name: String::from_utf16_lossy(name),
        };
        table.add(partition, size);
    }
    table
}
