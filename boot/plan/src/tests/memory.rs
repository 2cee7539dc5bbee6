//! The memory map: joining, leaving out, finding room; against a slow and simple reading of the same map.

use std::vec::Vec;

use super::Random;
use crate::memory::{PAGE, Range, compact, find, is_free, kind};

fn range(start: u64, len: u64, kind: u32) -> Range {
    Range { start, len, kind }
}

fn compacted(mut ranges: Vec<Range>, limit: usize) -> Vec<Range> {
    let count = compact(&mut ranges, limit);
    ranges.truncate(count);
    ranges
}

#[test]
fn joins_what_firmware_cut() {
    let pieces = [
        range(0x3000, 0x1000, 1),
        range(0x1000, 0x1000, 1),
        range(0x2000, 0x1000, 1),
        range(0x4000, 0, 2),
        range(0x4000, 0x1000, 3),
        range(0x5000, 0x1000, 1),
    ];
    assert_eq!(
        compacted(pieces.into(), 128),
        [range(0x1000, 0x3000, 1), range(0x4000, 0x1000, 3), range(0x5000, 0x1000, 1)]
    );
}

#[test]
fn leaves_out_what_is_least_needed() {
    let ranges = [
        range(0x10_0000, 0x4000, 1),
        range(0x20_0000, 0x1000, 2),
        range(0x30_0000, 0x2000, 1),
        range(0x40_0000, 0x8000, 1),
    ];
    assert_eq!(compacted(ranges.into(), 3), [ranges[0], ranges[2], ranges[3]]);
    assert_eq!(compacted(ranges.into(), 2), [ranges[0], ranges[3]]);
    // What hides usable memory takes it along.
    let hidden = [range(0, 0x10_0000, 1), range(0xa000, 0x1000, 2)];
    assert_eq!(compacted(hidden.into(), 1), [range(0xb000, 0xf_5000, 1)]);
}

#[test]
fn finds_room_around_what_is_taken() {
    let map = [range(0x1000, 0xf_0000, 1), range(0x10_0000, 0x100_0000, 1), range(0x40_0000, 0x1000, 2)];
    assert_eq!(find(&map, 0x10_0000, 1 << 32, 0x10_0000, 2 << 20), Some(0x20_0000));
    assert_eq!(find(&map, 0x10_0000, 1 << 32, 0x20_0001, 2 << 20), Some(0x60_0000));
    assert_eq!(find(&map, 0x10_0000, 0x50_0000, 0x30_0000, 2 << 20), None);
    assert_eq!(find(&map, 0, 1 << 32, u64::MAX, 4096), None);
    assert!(!is_free(&map, u64::MAX, 2));
}

/// Usable pages, as the kernel reads a map: another kind wins.
fn usable(map: &[Range], page: u64) -> bool {
    let covers = |r: &&Range| r.start <= page * PAGE && page * PAGE < r.end();
    map.iter().any(|r| covers(&r) && r.kind == kind::USABLE)
        && !map.iter().any(|r| covers(&r) && r.kind != kind::USABLE)
}

#[test]
fn random_maps_gain_no_memory_and_lose_none_without_need() {
    const PAGES: u64 = 64;
    let mut random = Random(0xb007);
    for round in 0..20_000 {
        let count = 1 + random.below(12) as usize;
        let map: Vec<Range> = (0..count)
            .map(|_| {
                let kind = [1, 1, 1, 2, 3, 4][random.below(6) as usize];
                range(random.below(PAGES) * PAGE, random.below(12) * PAGE, kind)
            })
            .collect();
        let limit = 1 + random.below(12) as usize;
        let out = compacted(map.clone(), limit);
        assert!(out.len() <= limit);
        let whole = compacted(map.clone(), usize::MAX);
        for page in 0..PAGES + 12 {
            assert!(!usable(&out, page) || usable(&map, page), "round {round}: page {page} of {map:?} became usable");
            assert_eq!(usable(&whole, page), usable(&map, page), "round {round}: page {page} of {map:?}");
        }
        let len = (1 + random.below(6)) * PAGE;
        match find(&whole, 3 * PAGE, 60 * PAGE, len, 2 * PAGE) {
            Some(at) => {
                assert!(at % (2 * PAGE) == 0 && at >= 3 * PAGE && at + len <= 60 * PAGE && is_free(&whole, at, len));
                assert!((at / PAGE..(at + len) / PAGE).all(|page| usable(&map, page)));
            }
            None => assert!((2..30).all(|i| !is_free(&whole, i * 2 * PAGE, len) || i * 2 * PAGE + len > 60 * PAGE)),
        }
    }
}

#[test]
fn huge_numbers_wrap_nowhere() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let wild = |random: &mut Random| random.next() >> random.below(64);
        let map: Vec<Range> = (0..8)
            .map(|_| range(wild(&mut random), wild(&mut random), 1 + random.below(4) as u32))
            .chain([range(u64::MAX, u64::MAX, 1)])
            .collect();
        let out = compacted(map, 1 + random.below(8) as usize);
        if let Some(at) = find(&out, 1 << 20, 1 << 32, 0x5000, 1 << random.below(22)) {
            assert!(is_free(&out, at, 0x5000));
        }
    }
}
