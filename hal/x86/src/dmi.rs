//! Firmware's description of the machine for people (DMTF DSP0134, SMBIOS 3.7): maker, product, serial number. A backend
//! that no CPUID leaf tells looks here. The tables are found in the BIOS area; UEFI's own pointer is not looked at.

/// Where a BIOS puts the entry point (section 5.2.1).
#[cfg(target_os = "none")]
const AREA: core::ops::Range<u64> = 0xf_0000..0x10_0000;
/// More than any machine's tables.
const LONGEST: u32 = 1 << 20;
/// Structures looked at, at most.
const MOST: usize = 4096;

/// Type 0: the firmware.
const BIOS: u8 = 0;
/// Type 1: the machine.
const SYSTEM: u8 = 1;

/// Where the structures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Address of the first.
    pub address: u64,
    /// Bytes, at most.
    pub len: u32,
}

/// The structures.
#[derive(Clone, Copy, Debug)]
pub struct Dmi<'a>(&'a [u8]);

/// Finds the entry point on a 16-byte boundary: the 64-bit one, else the 32-bit one (sections 5.2.1 and 5.2.2).
pub fn find_entry(area: &[u8]) -> Option<Entry> {
    let mut old = None;
    for at in (0..area.len()).step_by(16) {
        let entry = &area[at..];
        if entry.starts_with(b"_SM3_") {
            if let Some(found) = entry64(entry) {
                return Some(found);
            }
        } else if entry.starts_with(b"_SM_") && old.is_none() {
            old = entry32(entry);
        }
    }
    old
}

/// The entry point's bytes, if the length in its byte `len_at` is at least `least` and they add up to 0.
fn checked(entry: &[u8], len_at: usize, least: usize) -> Option<&[u8]> {
    let len = usize::from(*entry.get(len_at)?);
    let bytes = entry.get(..len.max(least))?;
    (len >= least && bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)) == 0).then_some(bytes)
}

fn entry32(entry: &[u8]) -> Option<Entry> {
    // Some firmware says 0x1e for the length (a mistake of SMBIOS 2.1, see DSP0134).
    let bytes = checked(entry, 5, 0x1e)?;
    let len = u32::from(u16::from_le_bytes([bytes[0x16], bytes[0x17]]));
    let address = u32::from_le_bytes([bytes[0x18], bytes[0x19], bytes[0x1a], bytes[0x1b]]);
    plausible(u64::from(address), len)
}

fn entry64(entry: &[u8]) -> Option<Entry> {
    let bytes = checked(entry, 6, 0x18)?;
    let len = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
    let address = u64::from_le_bytes(*bytes[16..24].first_chunk()?);
    plausible(address, len)
}

fn plausible(address: u64, len: u32) -> Option<Entry> {
    (address != 0 && address < 1 << 46 && (4..=LONGEST).contains(&len)).then_some(Entry { address, len })
}

impl<'a> Dmi<'a> {
    /// The structures in these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The string that byte `offset` of the first structure of type `kind` names; `None` if there is none (section 6.1).
    pub fn string(&self, kind: u8, offset: usize) -> Option<&'a [u8]> {
        let mut rest = self.0;
        for _ in 0..MOST {
            let len = usize::from(*rest.get(1)?);
            if len < 4 || len > rest.len() {
                return None;
            }
            let (structure, tail) = rest.split_at(len);
            let end = tail.windows(2).position(|w| w == [0, 0])?;
            if structure[0] == kind {
                let number = usize::from(*structure.get(offset)?);
                // Numbered from 1; 0 is "none".
                return tail[..end].split(|b| *b == 0).nth(number.checked_sub(1)?).filter(|s| !s.is_empty());
            }
            rest = &tail[end + 2..];
        }
        None
    }

    /// Who made the firmware.
    pub fn bios_vendor(&self) -> Option<&'a [u8]> {
        self.string(BIOS, 4)
    }
    /// Who made the machine.
    pub fn manufacturer(&self) -> Option<&'a [u8]> {
        self.string(SYSTEM, 4)
    }
    /// What the machine is called.
    pub fn product(&self) -> Option<&'a [u8]> {
        self.string(SYSTEM, 5)
    }
    /// Its serial number.
    pub fn serial(&self) -> Option<&'a [u8]> {
        self.string(SYSTEM, 7)
    }
}

/// This machine's structures. Works before the heap; `None` where there are none, and for a kernel that is not at ring 0
/// and so has no firmware.
#[cfg(target_os = "none")]
pub fn read(info: &hal_core::BootInfo) -> Option<Dmi<'static>> {
    static FOUND: spin::Once<Option<Dmi<'static>>> = spin::Once::new();
    *FOUND.call_once(|| {
        if crate::arch::ring() != 0 {
            return None;
        }
        let entry = find_entry(memory(info, AREA.start, AREA.end - AREA.start)?)?;
        Some(Dmi::new(memory(info, entry.address, u64::from(entry.len))?))
    })
}

/// Bytes that firmware left in memory that is not ours. Works before the heap.
#[cfg(target_os = "none")]
pub(crate) fn memory(info: &hal_core::BootInfo, address: u64, len: u64) -> Option<&'static [u8]> {
    let at = hal_core::PhysAddr(address);
    let ours = |r: &hal_core::boot::MemoryRange| {
        r.kind == hal_core::boot::MemoryKind::Usable && r.start.0 < address + len && address < r.start.0 + r.len
    };
    if info.memory.iter().any(ours) {
        return None;
    }
    crate::paging::map_direct(at, len).ok()?;
    // SAFETY: mapped just now, for ever; memory that is not usable is never allocated nor written to. Any bytes are values.
    Some(unsafe { core::slice::from_raw_parts(hal_core::memory::direct::<u8>(at), len as usize) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A structure of this type with these bytes behind its header, and strings.
    fn structure(kind: u8, body: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = std::vec![kind, 4 + body.len() as u8, 0, 0];
        bytes.extend_from_slice(body);
        for s in strings {
            bytes.extend_from_slice(s.as_bytes());
            bytes.push(0);
        }
        bytes.extend_from_slice(if strings.is_empty() { &[0, 0] } else { &[0] });
        bytes
    }

    fn tables() -> Vec<u8> {
        let mut bytes = structure(0, &[2, 0, 0, 0, 0], &["1.0", "Firmware"]);
        bytes.extend(structure(32, &[0; 7], &[]));
        bytes.extend(structure(1, &[1, 2, 0, 3], &["VMware, Inc.", "VMware7,1", "VMware-56 4d"]));
        bytes.extend(structure(127, &[], &[]));
        bytes
    }

    fn sum(mut entry: Vec<u8>, at: usize) -> Vec<u8> {
        entry[at] = 0;
        entry[at] = entry.iter().fold(0u8, |s, b| s.wrapping_sub(*b));
        entry
    }

    fn old_entry(address: u32, len: u16) -> Vec<u8> {
        let mut e = std::vec![0; 0x1f];
        e[..4].copy_from_slice(b"_SM_");
        e[5] = 0x1f;
        e[0x16..0x18].copy_from_slice(&len.to_le_bytes());
        e[0x18..0x1c].copy_from_slice(&address.to_le_bytes());
        sum(e, 4)
    }

    fn new_entry(address: u64, len: u32) -> Vec<u8> {
        let mut e = std::vec![0; 0x18];
        e[..5].copy_from_slice(b"_SM3_");
        e[6] = 0x18;
        e[12..16].copy_from_slice(&len.to_le_bytes());
        e[16..24].copy_from_slice(&address.to_le_bytes());
        sum(e, 5)
    }

    #[test]
    fn strings_are_found() {
        let bytes = tables();
        let dmi = Dmi::new(&bytes);
        assert_eq!(dmi.bios_vendor(), Some(&b"Firmware"[..]));
        assert_eq!(dmi.manufacturer(), Some(&b"VMware, Inc."[..]));
        assert_eq!(dmi.product(), Some(&b"VMware7,1"[..]));
        assert_eq!(dmi.serial(), Some(&b"VMware-56 4d"[..]));
        assert_eq!(dmi.string(1, 6), None, "no string");
        assert_eq!(dmi.string(1, 8), None, "the structure is shorter");
        assert_eq!(dmi.string(2, 4), None, "no such structure");
    }

    #[test]
    fn entry_points_are_found_and_checked() {
        let mut area = std::vec![0; 0x1000];
        area[0x100..0x11f].copy_from_slice(&old_entry(0xf1234, 500));
        assert_eq!(find_entry(&area), Some(Entry { address: 0xf1234, len: 500 }));
        area[0x800..0x818].copy_from_slice(&new_entry(0x1_2345_0000, 600));
        assert_eq!(find_entry(&area), Some(Entry { address: 0x1_2345_0000, len: 600 }), "the 64-bit one is better");
        area[0x810] ^= 1;
        assert_eq!(find_entry(&area), Some(Entry { address: 0xf1234, len: 500 }), "unless its sum is wrong");
        area[0x118] ^= 1;
        assert_eq!(find_entry(&area), None);
        let mut odd = std::vec![0; 0x100];
        odd[0x28..0x47].copy_from_slice(&old_entry(0xf1234, 500));
        assert_eq!(find_entry(&odd), None, "only on 16-byte boundaries");
        assert_eq!(find_entry(&new_entry(0, 600)), None);
        assert_eq!(find_entry(&new_entry(4096, u32::MAX)), None);
        assert_eq!(find_entry(&old_entry(4096, 600)[..0x18]), None, "cut");
    }

    #[test]
    fn nonsense_ends_the_search() {
        let whole = tables();
        for cut in 0..whole.len() {
            let _ = Dmi::new(&whole[..cut]).serial();
        }
        let mut state = 7u32;
        for _ in 0..2000 {
            let noise: Vec<u8> = (0..64)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 28) as u8
                })
                .collect();
            for kind in 0..4 {
                let _ = Dmi::new(&noise).string(kind, usize::from(kind) + 4);
            }
        }
        assert_eq!(Dmi::new(&[1, 0, 0, 0]).serial(), None, "a length that leads nowhere");
    }
}
