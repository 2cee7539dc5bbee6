//! An ordered set of disjoint address ranges, each with a description: the mapped regions of a space.
//!
//! Neighbours whose descriptions continue each other are kept merged; changing part of a region splits it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

/// What a range is described by.
pub trait Region: Clone {
    /// Cuts at `offset` bytes from the start: `self` stays the lower part, the upper one is returned.
    fn split(&mut self, offset: usize) -> Self;
    /// True if a region of `len` bytes with this description and `next` right behind it are one region.
    fn joins(&self, len: usize, next: &Self) -> bool;
    /// Bytes below the region that no automatically placed region may use.
    fn guard(&self) -> usize {
        0
    }
}

#[derive(Clone, Debug)]
struct Entry<T> {
    end: usize,
    value: T,
}

/// How many gaps the quick search looks at.
const SCAN: usize = 64;

/// The regions of one space, by start address.
#[derive(Clone, Debug)]
pub struct Regions<T> {
    map: BTreeMap<usize, Entry<T>>,
    bytes: usize,
    /// Where the next search for a gap starts, downwards; `usize::MAX` for the top.
    hint: usize,
    /// The lowest address that a search has returned.
    floor: usize,
}

impl<T: Region> Default for Regions<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Region> Regions<T> {
    /// No region.
    pub const fn new() -> Self {
        Self { map: BTreeMap::new(), bytes: 0, hint: usize::MAX, floor: usize::MAX }
    }

    /// How many regions there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The sum of their lengths.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The region that contains `at`.
    #[inline]
    pub fn find(&self, at: usize) -> Option<(Range<usize>, &T)> {
        let (&start, entry) = self.map.range(..=at).next_back()?;
        (at < entry.end).then_some((start..entry.end, &entry.value))
    }

    /// The first region that ends above `at`: the one that contains it, or the next one.
    pub fn next(&self, at: usize) -> Option<(Range<usize>, &T)> {
        self.find(at).or_else(|| {
            let (&start, entry) = self.map.range(at..).next()?;
            Some((start..entry.end, &entry.value))
        })
    }

    /// The last region that starts below `at`.
    pub fn previous(&self, at: usize) -> Option<(Range<usize>, &T)> {
        let (&start, entry) = self.map.range(..at).next_back()?;
        Some((start..entry.end, &entry.value))
    }

    /// All regions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Range<usize>, &T)> {
        self.map.iter().map(|(&start, entry)| (start..entry.end, &entry.value))
    }

    /// The regions that overlap `range`, ascending, uncut.
    pub fn overlapping(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, &T)> {
        let first = self.find(range.start).map_or(range.start, |(r, _)| r.start);
        let end = range.end.max(first);
        self.map.range(first..end).map(|(&start, entry)| (start..entry.end, &entry.value))
    }

    /// True if nothing overlaps `range`.
    pub fn is_free(&self, range: Range<usize>) -> bool {
        range.is_empty() || self.next(range.start).is_none_or(|(r, _)| r.start >= range.end)
    }

    /// True if regions cover all of `range`.
    pub fn covers(&self, range: Range<usize>) -> bool {
        let mut at = range.start;
        for (r, _) in self.overlapping(range.clone()) {
            if r.start > at {
                return false;
            }
            at = r.end;
        }
        at >= range.end
    }

    /// The free range around `range`, which must be free itself or is taken to be.
    pub fn hole_around(&self, range: Range<usize>) -> Range<usize> {
        let low = self.previous(range.start).map_or(0, |(r, _)| r.end);
        let high = self.map.range(range.end..).next().map_or(usize::MAX, |(&start, _)| start);
        low..high
    }

    /// Makes `at` a boundary if it lies inside a region.
    fn cut(&mut self, at: usize) {
        let Some((&start, entry)) = self.map.range_mut(..at).next_back() else {
            return;
        };
        if at < entry.end {
            let upper = Entry { end: entry.end, value: entry.value.split(at - start) };
            entry.end = at;
            self.map.insert(at, upper);
        }
    }

    /// Merges the regions that meet at `at`, if they are one.
    fn join(&mut self, at: usize) {
        let Some(upper) = self.map.get(&at) else {
            return;
        };
        let Some((&start, lower)) = self.map.range(..at).next_back() else {
            return;
        };
        if lower.end != at || !lower.value.joins(at - start, &upper.value) {
            return;
        }
        let end = upper.end;
        self.map.remove(&at);
        if let Some(lower) = self.map.get_mut(&start) {
            lower.end = end;
        }
    }

    /// Adds a region. `range` must not be empty, and free.
    pub fn insert(&mut self, range: Range<usize>, value: T) {
        debug_assert!(!range.is_empty() && self.is_free(range.clone()));
        self.bytes += range.len();
        self.map.insert(range.start, Entry { end: range.end, value });
        self.join(range.end);
        self.join(range.start);
    }

    /// Takes out everything in `range`, cut to it.
    pub fn remove(&mut self, range: Range<usize>) -> Vec<(Range<usize>, T)> {
        if range.is_empty() {
            return Vec::new();
        }
        self.cut(range.start);
        self.cut(range.end);
        let starts: Vec<usize> = self.map.range(range.clone()).map(|(&start, _)| start).collect();
        let mut removed = Vec::with_capacity(starts.len());
        for start in starts {
            if let Some(entry) = self.map.remove(&start) {
                self.bytes -= entry.end - start;
                removed.push((start..entry.end, entry.value));
            }
        }
        // A hole above the hint is worth a look by the next search.
        if range.end > self.hint && range.start >= self.floor {
            self.hint = range.end;
        }
        removed
    }

    /// Changes the descriptions of everything in `range`, cut to it, and merges what became alike.
    pub fn update(&mut self, range: Range<usize>, mut change: impl FnMut(Range<usize>, &mut T)) {
        if range.is_empty() {
            return;
        }
        self.cut(range.start);
        self.cut(range.end);
        let mut edges: Vec<usize> = Vec::new();
        for (&start, entry) in self.map.range_mut(range.clone()) {
            change(start..entry.end, &mut entry.value);
            edges.push(start);
        }
        edges.push(range.end);
        for edge in edges {
            self.join(edge);
        }
    }

    /// Moves the start of the region that starts at `start` down to `to`; the range in between is free.
    pub fn grow_down(&mut self, start: usize, to: usize) {
        if let Some(entry) = self.map.remove(&start) {
            self.bytes += start - to;
            self.map.insert(to, entry);
        }
    }

    /// A free, `align`ed (a power of two) place for `len` bytes in `bounds`, near its top. The common case looks at few gaps;
    /// only when those and the space below everything placed so far are full, all are looked at.
    pub fn find_gap(&mut self, len: usize, align: usize, bounds: Range<usize>) -> Option<usize> {
        if len == 0 || len > bounds.len() {
            return None;
        }
        let top = self.hint.clamp(bounds.start, bounds.end);
        let found = self
            .scan(len, align, bounds.start..top, SCAN)
            .or_else(|| self.scan(len, align, bounds.start..self.floor.clamp(bounds.start, bounds.end), 1))
            .or_else(|| self.scan(len, align, bounds.clone(), usize::MAX))?;
        self.hint = found;
        self.floor = self.floor.min(found);
        Some(found)
    }

    /// As [`Regions::find_gap`], from the bottom up: the first gap that fits, all of them looked at.
    pub fn find_gap_up(&self, len: usize, align: usize, bounds: Range<usize>) -> Option<usize> {
        let mut at = bounds.start.checked_next_multiple_of(align)?;
        for (range, value) in self.overlapping(bounds.clone()) {
            if range.start.saturating_sub(value.guard()) >= at.checked_add(len)? {
                break;
            }
            at = at.max(range.end).checked_next_multiple_of(align)?;
        }
        (at.checked_add(len)? <= bounds.end).then_some(at)
    }

    /// Looks at the topmost `tries` gaps below `bounds.end`.
    fn scan(&self, len: usize, align: usize, bounds: Range<usize>, tries: usize) -> Option<usize> {
        // The region above the top may want a guard.
        let above = self.next(bounds.end).map_or(usize::MAX, |(r, v)| r.start.saturating_sub(v.guard()));
        let mut ceiling = bounds.end.min(above);
        let mut below = self.map.range(..bounds.end).rev();
        for _ in 0..tries {
            let lower = below.next();
            let floor = lower.map_or(bounds.start, |(_, entry)| entry.end.max(bounds.start));
            if let Some(at) = ceiling.checked_sub(len).map(|at| at & !(align - 1))
                && at >= floor
            {
                return Some(at);
            }
            let (&start, entry) = lower?;
            if start <= bounds.start {
                return None;
            }
            ceiling = ceiling.min(start.saturating_sub(entry.value.guard()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use alloc::vec;

    /// A description with a colour and a position that continues over a split, as a file mapping's does.
    #[derive(Clone, Debug, PartialEq)]
    struct Paint(u8, usize);
    impl Region for Paint {
        fn split(&mut self, offset: usize) -> Self {
            Self(self.0, self.1 + offset)
        }
        fn joins(&self, len: usize, next: &Self) -> bool {
            self.0 == next.0 && self.1 + len == next.1
        }
    }

    const SIZE: usize = 96;

    fn check(regions: &Regions<Paint>, model: &[Option<(u8, usize)>]) {
        let mut bytes = 0;
        let mut last: Option<(Range<usize>, Paint)> = None;
        for (range, paint) in regions.iter() {
            assert!(!range.is_empty());
            if let Some((before, value)) = &last {
                assert!(before.end <= range.start);
                assert!(before.end < range.start || !value.joins(before.len(), paint), "unmerged");
            }
            bytes += range.len();
            last = Some((range, paint.clone()));
        }
        assert_eq!(bytes, regions.bytes());
        for (at, want) in model.iter().enumerate() {
            let got = regions.find(at).map(|(r, p)| (p.0, p.1 + (at - r.start)));
            assert_eq!(got, *want, "at {at}");
        }
    }

    #[test]
    fn agrees_with_a_model() {
        for seed in 1..300u64 {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut regions = Regions::new();
            let mut model: Vec<Option<(u8, usize)>> = vec![None; SIZE];
            for _ in 0..200 {
                let a = random.below(SIZE as u64) as usize;
                let b = (a + 1 + random.below(20) as usize).min(SIZE);
                let colour = random.below(3) as u8;
                let expect_free = model[a..b].iter().all(Option::is_none);
                assert_eq!(regions.is_free(a..b), expect_free);
                assert_eq!(regions.covers(a..b), model[a..b].iter().all(Option::is_some));
                match random.below(4) {
                    0 | 1 => {
                        if !expect_free {
                            let removed = regions.remove(a..b);
                            let total: usize = removed.iter().map(|(r, _)| r.len()).sum();
                            assert_eq!(total, model[a..b].iter().flatten().count());
                        }
                        // Half of them continue an absolute position, so that they can merge.
                        let position = if random.below(2) == 0 { a } else { random.below(50) as usize };
                        regions.insert(a..b, Paint(colour, position));
                        for (at, slot) in model[a..b].iter_mut().enumerate() {
                            *slot = Some((colour, position + at));
                        }
                    }
                    2 => {
                        regions.remove(a..b);
                        model[a..b].fill(None);
                    }
                    _ => {
                        regions.update(a..b, |range, paint| {
                            assert!(a <= range.start && range.end <= b);
                            paint.0 = colour;
                        });
                        model[a..b].iter_mut().flatten().for_each(|cell| cell.0 = colour);
                    }
                }
                check(&regions, &model);
                let seen: usize = regions.overlapping(a..b).map(|(r, _)| r.end.min(b) - r.start.max(a)).sum();
                assert_eq!(seen, model[a..b].iter().flatten().count());
                let len = 1 + random.below(12) as usize;
                let fits = |at: usize| model[at..at + len].iter().all(Option::is_none);
                let any = (8..=SIZE - len).any(fits);
                for gap in [regions.find_gap(len, 1, 8..SIZE), regions.find_gap_up(len, 1, 8..SIZE)] {
                    assert_eq!(gap.is_some(), any);
                    if let Some(at) = gap {
                        assert!(at >= 8 && at + len <= SIZE && fits(at));
                    }
                }
            }
        }
    }

    #[test]
    fn placement_is_quick_among_many_regions_and_reuses_holes() {
        let mut regions = Regions::new();
        let bounds = 0x1000..1 << 40;
        let mut placed = Vec::new();
        for index in 0..20_000usize {
            let at = regions.find_gap(0x1000, 0x1000, bounds.clone()).unwrap();
            regions.insert(at..at + 0x1000, Paint((index % 2) as u8, 0));
            placed.push(at);
        }
        let hole = placed[10_000];
        regions.remove(hole..hole + 0x1000);
        assert_eq!(regions.find_gap(0x1000, 0x1000, bounds.clone()), Some(hole));
        // Larger than the hole: found below everything, not by looking at 20 000 gaps.
        let below = regions.find_gap(0x2000, 0x1000, bounds).unwrap();
        assert!(below < placed[19_999]);
    }
}
