//! The memory map: joining what firmware gives in many pieces, and finding room in it.

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// Kinds of memory, as E820 numbers them (ACPI 6.4, table 15-3), which the start info uses too.
pub mod kind {
    /// Free.
    pub const USABLE: u32 = 1;
    /// Firmware's or a device's.
    pub const RESERVED: u32 = 2;
    /// ACPI tables, free after they were read.
    pub const ACPI_TABLES: u32 = 3;
    /// Firmware's, kept over sleep.
    pub const ACPI_NVS: u32 = 4;
    /// Broken.
    pub const BAD: u32 = 5;
    /// Persistent memory.
    pub const PERSISTENT: u32 = 7;
}

/// Most ranges that the kernel takes (`hal_core::boot::MAX_RANGES`).
pub const RANGES_MAX: usize = 128;

/// A range of physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// One of [`kind`].
    pub kind: u32,
}

impl Range {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start < end && start < self.end()
    }
}

/// Sorts the ranges, joins neighbours of one kind and drops empty ones; returns how many are left, at most `limit`.
/// When there are more, what the kernel can miss goes: first what is not usable (a hole is as good as that), then the
/// smallest usable ranges.
pub fn compact(ranges: &mut [Range], limit: usize) -> usize {
    ranges.sort_unstable_by_key(|r| r.start);
    let mut count = 0;
    for i in 0..ranges.len() {
        let next = ranges[i];
        if next.len == 0 {
            continue;
        }
        if count > 0 {
            let last = &mut ranges[count - 1];
            if last.kind == next.kind && next.start <= last.end() {
                last.len = last.end().max(next.end()) - last.start;
                continue;
            }
        }
        ranges[count] = next;
        count += 1;
    }
    while count > limit {
        let useless = |r: &Range| (r.kind == kind::USABLE, r.len);
        let Some(worst) = (0..count).min_by_key(|&i| useless(&ranges[i])) else { break };
        // A range that is not usable hides a usable one that it overlaps: then that part goes.
        let gone = ranges[worst];
        if gone.kind != kind::USABLE {
            cut(&mut ranges[..count], gone);
        }
        ranges.copy_within(worst + 1..count, worst);
        count -= 1;
    }
    count
}

/// Takes `gone` out of the usable ranges (their longer rest stays).
fn cut(ranges: &mut [Range], gone: Range) {
    for r in ranges.iter_mut().filter(|r| r.kind == kind::USABLE && r.overlaps(gone.start, gone.end())) {
        let before = gone.start.saturating_sub(r.start);
        let after = r.end().saturating_sub(gone.end());
        if before >= after {
            r.len = before;
        } else {
            *r = Range { start: gone.end(), len: after, kind: r.kind };
        }
    }
}

/// True if all of `len` bytes from `start` are usable, and in no range of another kind.
pub fn is_free(map: &[Range], start: u64, len: u64) -> bool {
    let Some(end) = start.checked_add(len) else { return false };
    map.iter().any(|r| r.kind == kind::USABLE && r.start <= start && end <= r.end())
        && !map.iter().any(|r| r.kind != kind::USABLE && r.overlaps(start, end))
}

/// The lowest free place of `len` bytes in `bottom..top`, a multiple of `align`.
pub fn find(map: &[Range], bottom: u64, top: u64, len: u64, align: u64) -> Option<u64> {
    let usable = map.iter().filter(|r| r.kind == kind::USABLE);
    usable.filter_map(|r| find_in(map, r, bottom, top, len, align)).min()
}

fn find_in(map: &[Range], range: &Range, bottom: u64, top: u64, len: u64, align: u64) -> Option<u64> {
    let mut at = range.start.max(bottom).checked_next_multiple_of(align)?;
    loop {
        let end = at.checked_add(len).filter(|&end| end <= top && end <= range.end())?;
        let blocker = map.iter().filter(|r| r.kind != kind::USABLE && r.overlaps(at, end)).map(Range::end).max();
        match blocker {
            None => return Some(at),
            Some(after) => at = after.checked_next_multiple_of(align)?,
        }
    }
}
