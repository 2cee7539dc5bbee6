//! Buddy lists over frame metadata.
//!
//! A [`Buddy`] holds free blocks of 2^order frames in doubly linked lists whose links are in the
//! metadata of each block's first frame. Blocks merge only within their *section* of 4096 frames, so the
//! metadata of one section is all that a merge can touch. Locking, and where metadata is, are the caller's.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering::Relaxed};

/// The largest block: 2^12 frames, a whole section (16 MiB).
pub const MAX_ORDER: u8 = 12;
/// Frames in a section.
pub const SECTION_FRAMES: u32 = 1 << MAX_ORDER;
/// Number of list heads.
const ORDERS: usize = MAX_ORDER as usize + 1;
/// No frame: frame 0 is never given to the allocator.
pub const NONE: u32 = 0;

/// What a frame is used for ([`FrameMeta::state`]).
pub mod state {
    /// Not the allocator's: firmware, the kernel's image, metadata; or inside a block.
    pub const RESERVED: u8 = 0;
    /// First frame of a free block.
    pub const FREE: u8 = 1;
    /// First frame of an allocated block, reference-counted.
    pub const USED: u8 = 2;
    /// A page of small heap objects.
    pub const SLAB: u8 = 3;
}

/// Metadata of one frame: 16 bytes. All zero means reserved.
#[repr(C, align(16))]
#[derive(Debug, Default)]
pub struct FrameMeta {
    /// References to an allocated block; for a heap page its own counters.
    pub refs: AtomicU32,
    /// One of [`state`].
    pub state: AtomicU8,
    /// Order of the block that starts here; for a heap page its size class.
    pub order: AtomicU8,
    /// For a heap page: its list of free objects.
    pub extra: AtomicU16,
    /// Next in the list that this frame is on.
    pub next: AtomicU32,
    /// Previous in that list.
    pub prev: AtomicU32,
}

/// Finds metadata by frame number.
pub trait FrameTable {
    /// The metadata of `frame`, which is in an opened section.
    fn meta(&self, frame: u32) -> &FrameMeta;
}

/// Free blocks of one arena.
#[derive(Debug, Default)]
pub struct Buddy {
    heads: [u32; ORDERS],
    /// Bit k is set if list k is not empty.
    nonempty: u16,
    free: usize,
}

impl Buddy {
    /// No free memory.
    pub const fn new() -> Self {
        Self { heads: [NONE; ORDERS], nonempty: 0, free: 0 }
    }

    /// Free frames.
    pub fn free_frames(&self) -> usize {
        self.free
    }

    /// The largest order of which a block is free.
    pub fn largest(&self) -> Option<u8> {
        (self.nonempty != 0).then(|| (15 - self.nonempty.leading_zeros()) as u8)
    }

    fn push(&mut self, table: &impl FrameTable, frame: u32, order: u8) {
        let meta = table.meta(frame);
        let head = self.heads[order as usize];
        meta.state.store(state::FREE, Relaxed);
        meta.order.store(order, Relaxed);
        meta.next.store(head, Relaxed);
        meta.prev.store(NONE, Relaxed);
        if head != NONE {
            table.meta(head).prev.store(frame, Relaxed);
        }
        self.heads[order as usize] = frame;
        self.nonempty |= 1 << order;
    }

    fn unlink(&mut self, table: &impl FrameTable, frame: u32, order: u8) {
        let meta = table.meta(frame);
        let (next, prev) = (meta.next.load(Relaxed), meta.prev.load(Relaxed));
        if next != NONE {
            table.meta(next).prev.store(prev, Relaxed);
        }
        if prev != NONE {
            table.meta(prev).next.store(next, Relaxed);
        } else {
            self.heads[order as usize] = next;
            if next == NONE {
                self.nonempty &= !(1 << order);
            }
        }
        meta.state.store(state::RESERVED, Relaxed);
    }

    /// Takes a block of 2^`order` frames from the smallest free block that holds one. Its state is `USED`.
    pub fn alloc(&mut self, table: &impl FrameTable, order: u8) -> Option<u32> {
        if order > MAX_ORDER {
            return None;
        }
        let fitting = self.nonempty >> order;
        if fitting == 0 {
            return None;
        }
        let mut have = order + fitting.trailing_zeros() as u8;
        let frame = self.heads[have as usize];
        self.unlink(table, frame, have);
        while have > order {
            have -= 1;
            self.push(table, frame + (1 << have), have);
        }
        let meta = table.meta(frame);
        meta.state.store(state::USED, Relaxed);
        meta.order.store(order, Relaxed);
        self.free -= 1 << order;
        Some(frame)
    }

    /// Gives a block back and merges it with its free buddies.
    pub fn free(&mut self, table: &impl FrameTable, mut frame: u32, mut order: u8) {
        self.free += 1 << order;
        table.meta(frame).state.store(state::RESERVED, Relaxed);
        while order < MAX_ORDER {
            let buddy = frame ^ (1 << order);
            // Frame 0 is never free, but its buddies ask for it.
            let meta = table.meta(buddy);
            if meta.state.load(Relaxed) != state::FREE || meta.order.load(Relaxed) != order {
                break;
            }
            self.unlink(table, buddy, order);
            frame &= !(1 << order);
            order += 1;
        }
        self.push(table, frame, order);
    }

    /// Gives the frames `start..end` of one section, split into the largest aligned blocks.
    pub fn free_run(&mut self, table: &impl FrameTable, start: u32, end: u32) {
        let mut at = start;
        while at < end {
            let fit = (end - at).ilog2().min(at.trailing_zeros());
            let order = fit.min(u32::from(MAX_ORDER)) as u8;
            self.free(table, at, order);
            at += 1 << order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use alloc::vec::Vec;

    struct Table(Vec<FrameMeta>);
    impl FrameTable for Table {
        fn meta(&self, frame: u32) -> &FrameMeta {
            &self.0[frame as usize]
        }
    }

    fn table(sections: u32) -> Table {
        Table((0..sections * SECTION_FRAMES).map(|_| FrameMeta::default()).collect())
    }

    #[test]
    fn a_whole_section_comes_back_together() {
        let table = table(2);
        let mut buddy = Buddy::new();
        buddy.free_run(&table, SECTION_FRAMES, 2 * SECTION_FRAMES);
        assert_eq!(buddy.largest(), Some(MAX_ORDER));
        let mut held: Vec<u32> = (0..SECTION_FRAMES).map(|_| buddy.alloc(&table, 0).unwrap()).collect();
        assert_eq!(buddy.alloc(&table, 0), None);
        held.sort_unstable();
        held.dedup();
        assert_eq!(held.len(), SECTION_FRAMES as usize);
        for frame in held.iter().rev() {
            buddy.free(&table, *frame, 0);
        }
        assert_eq!(buddy.largest(), Some(MAX_ORDER));
        assert_eq!(buddy.alloc(&table, MAX_ORDER), Some(SECTION_FRAMES));
        assert_eq!(buddy.alloc(&table, MAX_ORDER + 1), None);
    }

    #[test]
    fn blocks_never_overlap_and_nothing_is_lost() {
        for seed in 1..60u64 {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let table = table(3);
            let mut buddy = Buddy::new();
            // A partial first section (frame 0 and a hole are reserved), a whole one, a short one.
            buddy.free_run(&table, 1 + random.below(9) as u32, 160);
            buddy.free_run(&table, 256, SECTION_FRAMES);
            buddy.free_run(&table, SECTION_FRAMES, 2 * SECTION_FRAMES);
            buddy.free_run(&table, 2 * SECTION_FRAMES, 2 * SECTION_FRAMES + 77);
            let total = buddy.free_frames();
            let mut owner = alloc::vec![false; 3 * SECTION_FRAMES as usize];
            let mut held: Vec<(u32, u8)> = Vec::new();
            for _ in 0..4000 {
                if random.below(5) < 3 {
                    let order = random.below(u64::from(MAX_ORDER) + 1).min(random.below(13)) as u8;
                    if let Some(frame) = buddy.alloc(&table, order) {
                        assert_eq!(frame % (1 << order), 0, "aligned to its size");
                        for f in frame..frame + (1 << order) {
                            assert!(!owner[f as usize] && f != 0 && !(160..256).contains(&f));
                            owner[f as usize] = true;
                        }
                        held.push((frame, order));
                    }
                } else if !held.is_empty() {
                    let (frame, order) = held.swap_remove(random.below(held.len() as u64) as usize);
                    owner[frame as usize..(frame + (1 << order)) as usize].fill(false);
                    buddy.free(&table, frame, order);
                }
                let used: usize = held.iter().map(|&(_, order)| 1usize << order).sum();
                assert_eq!(buddy.free_frames() + used, total);
            }
            for (frame, order) in held {
                buddy.free(&table, frame, order);
            }
            assert_eq!(buddy.free_frames(), total);
            assert_eq!(buddy.alloc(&table, MAX_ORDER), Some(SECTION_FRAMES), "merged again");
        }
    }
}
