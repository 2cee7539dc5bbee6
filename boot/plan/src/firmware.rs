//! What firmware says, as numbers: E820 entries, UEFI memory types, the ACPI root pointer's mark.

use crate::memory::{Range, kind};

/// Bytes of an E820 entry with its extended attributes.
pub const E820_ENTRY: usize = 24;

/// An entry of INT 15h, E820h, of which firmware wrote `len` bytes (ACPI 6.4, section 15.1). `None` if it says nothing.
pub fn from_e820(entry: &[u8; E820_ENTRY], len: u32) -> Option<Range> {
    let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let ignored = len >= 24 && word(20) & 1 == 0;
    let range = Range { start: long(0), len: long(8), kind: word(16) };
    (len >= 20 && !ignored && range.len != 0).then_some(range)
}

/// "Specific purpose memory" (UEFI 2.10, section 7.2.3): not for general use.
const EFI_MEMORY_SP: u64 = 0x40000;

/// The E820 type of a UEFI memory descriptor after `ExitBootServices` (UEFI 2.10, table 7.10; ACPI 6.4, table 15-6).
pub fn from_efi(memory_type: u32, attribute: u64) -> u32 {
    match memory_type {
        // Conventional memory, the loader's, and that of boot services, which have ended.
        1..=4 | 7 if attribute & EFI_MEMORY_SP == 0 => kind::USABLE,
        8 => kind::BAD,
        9 => kind::ACPI_TABLES,
        10 => kind::ACPI_NVS,
        14 => kind::PERSISTENT,
        _ => kind::RESERVED,
    }
}

/// Offset of the ACPI root pointer in `area` (ACPI 6.4, section 5.2.5.1: on a 16-byte border, with a checksum).
pub fn find_rsdp(area: &[u8]) -> Option<usize> {
    const LEN: usize = 20;
    (0..area.len()).step_by(16).find(|&at| {
        area.get(at..at + LEN).is_some_and(|table| {
            table.starts_with(b"RSD PTR ") && table.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)) == 0
        })
    })
}
