//! E820 entries, UEFI types, the ACPI root pointer, the start info's bytes.

use std::vec;

use crate::firmware::{find_rsdp, from_e820, from_efi};
use crate::memory::Range;
use crate::start_info::{StartInfo, encode_entry};

fn e820(start: u64, len: u64, kind: u32, attributes: u32) -> [u8; 24] {
    let mut entry = [0; 24];
    entry[..8].copy_from_slice(&start.to_le_bytes());
    entry[8..16].copy_from_slice(&len.to_le_bytes());
    entry[16..20].copy_from_slice(&kind.to_le_bytes());
    entry[20..].copy_from_slice(&attributes.to_le_bytes());
    entry
}

#[test]
fn e820_entries() {
    let entry = e820(0x10_0000, 0x5000, 3, 0);
    assert_eq!(from_e820(&entry, 20), Some(Range { start: 0x10_0000, len: 0x5000, kind: 3 }));
    assert_eq!(from_e820(&entry, 24), None); // the attributes say: ignore
    assert!(from_e820(&e820(0, 1, 1, 1), 24).is_some());
    assert_eq!(from_e820(&e820(0, 0, 1, 1), 24), None);
    assert_eq!(from_e820(&entry, 16), None);
}

#[test]
fn uefi_types() {
    let kinds = [2, 1, 1, 1, 1, 2, 2, 1, 5, 3, 4, 2, 2, 2, 7, 2, 2];
    for (memory_type, kind) in kinds.into_iter().enumerate() {
        assert_eq!(from_efi(memory_type as u32, 0xf), kind, "type {memory_type}");
    }
    assert_eq!(from_efi(0x8000_0000, 0xf), 2);
    assert_eq!(from_efi(7, 0x4000f), 2); // for a special purpose
}

#[test]
fn the_root_pointer_needs_its_checksum_and_border() {
    let mut area = vec![0u8; 256];
    let mut table = *b"RSD PTR \0OEMID_\0\0\0\0\0";
    table[8] = 0u8.wrapping_sub(table.iter().fold(0, |sum: u8, &b| sum.wrapping_add(b)));
    area[36..56].copy_from_slice(&table);
    assert_eq!(find_rsdp(&area), None);
    area[64..84].copy_from_slice(&table);
    area[65] = b'X';
    area[236..256].copy_from_slice(&table);
    assert_eq!(find_rsdp(&area), None);
    area[128..148].copy_from_slice(&table);
    assert_eq!(find_rsdp(&area), Some(128));
    assert_eq!(find_rsdp(&area[..147]), None);
    assert_eq!(find_rsdp(&[]), None);
}

#[test]
fn the_start_info_is_as_the_header_says() {
    let bytes = StartInfo { command_line: 0x1111, rsdp: 0x2222, map: 0x3333, map_entries: 7 }.encode();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!([word(0), word(4), word(8), word(12)], [0x336e_c578, 1, 0, 0]);
    assert_eq!([word(24), word(32), word(40), word(48), word(52)], [0x1111, 0x2222, 0x3333, 7, 0]);
    let entry = encode_entry(&Range { start: 1, len: 2, kind: 3 });
    assert_eq!((entry[0], entry[8], entry[16], entry[20]), (1, 2, 3, 0));
}
