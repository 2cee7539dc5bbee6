//! The start info of the PVH protocol, version 1 (xen/include/public/arch-x86/hvm/start_info.h), as bytes.

use crate::memory::Range;

/// Bytes of the structure.
pub const LEN: usize = 56;
/// Bytes of a memory map entry.
pub const ENTRY_LEN: usize = 24;
/// What the first word is.
pub const MAGIC: u32 = 0x336e_c578;

/// Where its parts are: physical addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartInfo {
    /// The command line, ended by a zero byte.
    pub command_line: u64,
    /// The ACPI root pointer, 0 if there is none.
    pub rsdp: u64,
    /// The memory map.
    pub map: u64,
    /// Its entries.
    pub map_entries: u32,
}

impl StartInfo {
    /// The structure. There are no modules.
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(4, &1u32.to_le_bytes());
        put(24, &self.command_line.to_le_bytes());
        put(32, &self.rsdp.to_le_bytes());
        put(40, &self.map.to_le_bytes());
        put(48, &self.map_entries.to_le_bytes());
        out
    }
}

/// An entry of the memory map.
pub fn encode_entry(range: &Range) -> [u8; ENTRY_LEN] {
    let mut out = [0; ENTRY_LEN];
    out[..8].copy_from_slice(&range.start.to_le_bytes());
    out[8..16].copy_from_slice(&range.len.to_le_bytes());
    out[16..20].copy_from_slice(&range.kind.to_le_bytes());
    out
}
