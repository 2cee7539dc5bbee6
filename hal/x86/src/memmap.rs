//! Makes a loader's memory map (E820 types) sorted and free of overlaps.

use hal_core::boot::{MemoryKind, MemoryRange};
use hal_core::{PAGE_SIZE, PhysAddr};

/// A range as the loader gives it: start, length, E820 type (ACPI 6.4, table 15-3).
pub type RawRange = (u64, u64, u32);

/// Highest physical address that four-level paging and PTEs can name.
const PHYS_END: u64 = 1 << 52;

/// How much a kind counts where ranges overlap: the more careful one wins.
fn weight(kind: MemoryKind) -> u8 {
    match kind {
        MemoryKind::Usable => 0,
        MemoryKind::AcpiReclaimable => 1,
        MemoryKind::Reserved => 2,
    }
}

fn kind_of(e820: u32) -> MemoryKind {
    match e820 {
        1 => MemoryKind::Usable,
        3 => MemoryKind::AcpiReclaimable,
        _ => MemoryKind::Reserved,
    }
}

/// Sorts, joins and cuts `raw` into `out`; usable ranges are cut to whole pages. Returns how many ranges
/// `out` has. What does not fit in `out` is left out (the highest addresses).
pub fn sanitise(raw: &[RawRange], out: &mut [MemoryRange]) -> usize {
    let mut count = 0;
    let mut at = 0u64;
    // From border to border: at each place the heaviest range that covers it decides.
    while at < PHYS_END {
        let mut next = PHYS_END;
        let mut here: Option<MemoryKind> = None;
        for &(start, len, e820) in raw {
            let end = start.saturating_add(len).min(PHYS_END);
            if end <= start {
                continue;
            }
            if start > at {
                next = next.min(start);
            } else if end > at {
                next = next.min(end);
                let kind = kind_of(e820);
                if here.is_none_or(|other| weight(kind) > weight(other)) {
                    here = Some(kind);
                }
            }
        }
        if let Some(kind) = here
            && !append(out, &mut count, at, next, kind)
        {
            break;
        }
        at = next;
    }
    count = trim(out, count);
    count
}

/// Adds a piece, joined to the one before if it continues it. False if `out` is full.
fn append(out: &mut [MemoryRange], count: &mut usize, at: u64, next: u64, kind: MemoryKind) -> bool {
    if *count > 0 {
        let last = &mut out[*count - 1];
        if last.kind == kind && last.start.0 + last.len == at {
            last.len += next - at;
            return true;
        }
    }
    let Some(slot) = out.get_mut(*count) else {
        return false;
    };
    *slot = MemoryRange { start: PhysAddr(at), len: next - at, kind };
    *count += 1;
    true
}

/// Cuts usable ranges to whole pages and drops those that are empty then.
fn trim(out: &mut [MemoryRange], count: usize) -> usize {
    let mut kept = 0;
    for i in 0..count {
        let mut range = out[i];
        if range.kind == MemoryKind::Usable {
            let start = range.start.align_up(PAGE_SIZE as u64);
            let end = (range.start + range.len).align_down(PAGE_SIZE as u64);
            if end <= start {
                continue;
            }
            range.len = end - start;
            range.start = start;
        }
        out[kept] = range;
        kept += 1;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn run(raw: &[RawRange]) -> Vec<(u64, u64, MemoryKind)> {
        let empty = MemoryRange { start: PhysAddr(0), len: 0, kind: MemoryKind::Reserved };
        let mut out = [empty; 16];
        let count = sanitise(raw, &mut out);
        out[..count].iter().map(|r| (r.start.0, r.len, r.kind)).collect()
    }

    #[test]
    fn sorts_and_joins() {
        assert_eq!(
            run(&[(0x10_0000, 0x1000, 1), (0, 0x9000, 1), (0x10_1000, 0x2000, 1)]),
            [(0, 0x9000, MemoryKind::Usable), (0x10_0000, 0x3000, MemoryKind::Usable)]
        );
    }

    #[test]
    fn reserved_wins_over_usable() {
        assert_eq!(
            run(&[(0, 0x10000, 1), (0x4000, 0x1000, 2)]),
            [
                (0, 0x4000, MemoryKind::Usable),
                (0x4000, 0x1000, MemoryKind::Reserved),
                (0x5000, 0xb000, MemoryKind::Usable)
            ]
        );
    }

    #[test]
    fn cuts_to_pages_and_drops_slivers() {
        assert_eq!(
            run(&[(0x400, 0x1000, 1), (0x2010, 0x2000, 1), (0x9000, 0, 1)]),
            [(0x3000, 0x1000, MemoryKind::Usable)]
        );
    }

    #[test]
    fn survives_lengths_that_wrap() {
        assert_eq!(run(&[(0x1000, u64::MAX, 1)]), [(0x1000, PHYS_END - 0x1000, MemoryKind::Usable)]);
        assert_eq!(run(&[(u64::MAX - 5, u64::MAX, 1)]), []);
    }

    #[test]
    fn keeps_to_the_room_it_has() {
        let raw: Vec<RawRange> = (0..40).map(|i| (i * 0x10000, 0x1000, 1)).collect();
        assert_eq!(run(&raw).len(), 16);
    }
}
