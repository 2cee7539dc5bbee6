//! Tables that are right, damaged in every way that we know, and random.

use super::*;
use std::cell::Cell;
use std::vec;

const SECTORS: u64 = 4096;

struct Disk {
    bytes: Vec<u8>,
    block: u32,
    reads: Cell<u32>,
}

impl Medium for Disk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn block_size(&self) -> u32 {
        self.block
    }
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        self.reads.set(self.reads.get() + 1);
        to.copy_from_slice(&self.bytes[at as usize..][..to.len()]);
        Ok(())
    }
}

fn disk(bytes: Vec<u8>) -> Disk {
    Disk { bytes, block: 512, reads: Cell::new(0) }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A header at `lba` for the entries at `entries`.
fn header(bytes: &mut [u8], unit: usize, lba: u64, backup: u64, entries: u64) {
    let table = entries as usize * unit..entries as usize * unit + 128 * 128;
    let crc = gpt::crc32(&bytes[table]);
    let last = bytes.len() as u64 / unit as u64 - 34;
    let at = lba as usize * unit;
    put(bytes, at, b"EFI PART\0\0\x01\0");
    put(bytes, at + 12, &92u32.to_le_bytes());
    for (field, value) in [(24, lba), (32, backup), (40, 34), (48, last), (72, entries)] {
        put(bytes, at + field, &value.to_le_bytes());
    }
    for (field, value) in [(80, 128u32), (84, 128), (88, crc)] {
        put(bytes, at + field, &value.to_le_bytes());
    }
    put(bytes, at + 16, &[0; 4]);
    let crc = gpt::crc32(&bytes[at..at + 92]);
    put(bytes, at + 16, &crc.to_le_bytes());
}

fn entry(bytes: &mut [u8], at: usize, kind: Guid, first: u64, last: u64, name: &str) {
    put(bytes, at, &kind.0);
    put(bytes, at + 16, &[7; 16]);
    put(bytes, at + 32, &first.to_le_bytes());
    put(bytes, at + 40, &last.to_le_bytes());
    for (n, unit) in name.encode_utf16().enumerate() {
        put(bytes, at + 56 + 2 * n, &unit.to_le_bytes());
    }
}

/// A disk with an ESP and a root; with the backup.
fn image() -> Vec<u8> {
    let mut bytes = vec![0; (SECTORS * 512) as usize];
    put(&mut bytes, 446, &[0x80, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0x0f, 0, 0]);
    put(&mut bytes, 510, &[0x55, 0xaa]);
    for table in [2 * 512, (SECTORS as usize - 33) * 512] {
        entry(&mut bytes, table, EFI_SYSTEM, 64, 127, "EFI system");
        entry(&mut bytes, table + 3 * 128, ROOT_X86_64, 2048, 4000, "root");
    }
    reseal(&mut bytes);
    bytes
}

fn reseal(bytes: &mut [u8]) {
    header(bytes, 512, 1, SECTORS - 1, 2);
    header(bytes, 512, SECTORS - 1, 1, SECTORS - 33);
}

fn numbers(table: &Table) -> Vec<u32> {
    table.partitions.iter().map(|p| p.number).collect()
}

#[test]
fn a_good_table_is_read_with_two_requests() {
    let disk = disk(image());
    let table = read(&disk).unwrap();
    assert_eq!(table.scheme, Scheme::Gpt);
    assert!(table.remarks.is_empty(), "{:?}", table.remarks);
    assert_eq!(numbers(&table), [1, 4]);
    let root = &table.partitions[1];
    assert_eq!((root.start, root.len), (2048 * 512, 1953 * 512));
    assert_eq!((root.kind, root.name.as_str(), root.id), (Kind::Gpt(ROOT_X86_64), "root", Guid([7; 16])));
    assert_eq!(std::format!("{ROOT_X86_64}"), "4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
    assert_eq!(disk.reads.get(), 2);
}

#[test]
fn the_backup_serves_when_the_first_is_damaged() {
    for at in [512, 512 + 16, 512 + 72, 1024 + 40] {
        let mut bytes = image();
        bytes[at] ^= 1;
        let table = read(&disk(bytes)).unwrap();
        assert_eq!(table.scheme, Scheme::GptBackup, "byte {at}");
        assert_eq!(numbers(&table), [1, 4]);
        assert!(table.remarks[0].contains("backup"), "{:?}", table.remarks);
    }
    let mut bytes = image();
    bytes[512] ^= 1;
    let end = bytes.len() - 512;
    bytes[end] ^= 1;
    let table = read(&disk(bytes)).unwrap();
    assert_eq!((table.scheme, table.partitions.len()), (Scheme::None, 0));
    assert!(table.remarks[0].contains("damaged"));
}

#[test]
fn a_short_disk_is_told() {
    let mut bytes = image();
    bytes.truncate(3000 * 512);
    let table = read(&disk(bytes)).unwrap();
    assert_eq!(numbers(&table), [1]);
    assert!(table.remarks[0].contains("the disk has 3000 sectors, its GPT says 4096"), "{:?}", table.remarks);
    assert!(table.remarks[1].contains("partition 4 ends at"), "{:?}", table.remarks);
}

#[test]
fn wrong_entries_are_left_out() {
    let mut bytes = image();
    for (n, (first, last)) in [(100, 200), (u64::MAX, 3), (0, u64::MAX), (5, 4)].into_iter().enumerate() {
        entry(&mut bytes, 1024 + 128 * (5 + n), ROOT_X86_64, first, last, "x");
    }
    reseal(&mut bytes);
    let table = read(&disk(bytes)).unwrap();
    assert_eq!(numbers(&table), [1, 4]);
    assert_eq!(table.remarks.len(), 4);
    assert!(table.remarks[0].contains("over partition 1"), "{:?}", table.remarks);
}

#[test]
fn an_image_on_a_disk_with_larger_blocks() {
    let found = read(&Disk { block: 4096, ..disk(image()) }).unwrap();
    assert_eq!(numbers(&found), [1, 4]);
    let mut bytes = vec![0; 64 * 4096];
    put(&mut bytes, 446, &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 63, 0, 0, 0]);
    put(&mut bytes, 510, &[0x55, 0xaa]);
    entry(&mut bytes, 8192, ROOT_X86_64, 8, 20, "");
    header(&mut bytes, 4096, 1, 63, 2);
    let found = read(&Disk { block: 4096, ..disk(bytes) }).unwrap();
    assert_eq!((found.partitions[0].start, found.partitions[0].len), (8 * 4096, 13 * 4096));
}

#[test]
fn mbr() {
    let mut bytes = vec![0; 1 << 20];
    put(&mut bytes, 446, &[0x80, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0, 0]);
    put(&mut bytes, 462, &[0, 0, 0, 0, 0x05, 0, 0, 0, 64, 0, 0, 0, 16, 0, 0, 0]);
    put(&mut bytes, 494, &[0, 0, 0, 0, 0x0c, 0, 0, 0, 32, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(read(&disk(bytes.clone())).unwrap(), Table::default());
    put(&mut bytes, 510, &[0x55, 0xaa]);
    let table = read(&disk(bytes.clone())).unwrap();
    assert_eq!((table.scheme, numbers(&table)), (Scheme::Mbr, vec![1]));
    assert_eq!((table.partitions[0].start, table.partitions[0].len), (4096, 8192));
    assert_eq!(table.remarks.len(), 2);
    bytes[446] = 0xe9; // code
    assert_eq!(read(&disk(bytes)).unwrap(), Table::default());
    assert_eq!(read(&disk(vec![0; 100])).unwrap(), Table::default());
    assert_eq!(read(&disk(vec![])).unwrap(), Table::default());
}

#[test]
fn random_damage_gives_a_table_whose_partitions_are_inside() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let good = image();
    for round in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..1 + random(6) {
            let at = if random(4) == 0 { bytes.len() - 1 - random(34 * 512) } else { random(1024 + 8 * 128) };
            bytes[at] = random(256) as u8;
        }
        if round % 2 == 0 {
            reseal(&mut bytes);
        }
        if random(3) == 0 {
            bytes.truncate(random(good.len()));
        }
        let block = [512, 4096][random(2)];
        let table = read(&Disk { block, ..disk(bytes.clone()) }).unwrap();
        for p in &table.partitions {
            assert!(p.len > 0 && p.start + p.len <= bytes.len() as u64, "{p:?}");
        }
    }
}
