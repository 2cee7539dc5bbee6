//! Where the page tables of a PV guest's direct map lie (`pv::direct`): arithmetic on guest frame numbers. Pure.

/// Entries of a table; guest frames in a piece, which one leaf table shows.
pub const ENTRIES: u64 = 512;

/// One run of frames: tables of level 3, the one of the kernel's area, of level 2, then a leaf table for each piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// First of level 3: one per 512 GiB.
    pub level3: u64,
    /// Level 3 of the kernel's area.
    pub area: u64,
    /// First of level 2: one per GiB.
    pub level2: u64,
    /// First of level 1: one per 2 MiB.
    pub leaves: u64,
    /// Behind the last.
    pub end: u64,
    /// How many pieces there are.
    pub pieces: u64,
}

impl Plan {
    /// The run that begins at frame `first` and shows `count` frames.
    pub const fn new(first: u64, count: u64) -> Self {
        let pieces = count.div_ceil(ENTRIES);
        let gibs = pieces.div_ceil(ENTRIES);
        let area = first + gibs.div_ceil(ENTRIES);
        let leaves = area + 1 + gibs;
        Self { level3: first, area, level2: area + 1, leaves, end: leaves + pieces, pieces }
    }

    /// How many frames a run for `count` frames has.
    pub const fn len(count: u64) -> u64 {
        Self::new(0, count).end
    }

    /// The piece in which the leaf table of `piece` is shown.
    ///
    /// Following it from piece to piece always falls or always rises, because it grows with the piece; and it never leaves the
    /// pieces if the run does not. So it ends at a piece that shows its own table.
    #[inline]
    pub const fn shown_by(&self, piece: u64) -> u64 {
        (self.leaves + piece) / ENTRIES
    }

    /// Level 3's frame and entry for a piece.
    #[inline]
    pub const fn at_level3(&self, piece: u64) -> (u64, u64) {
        let gib = piece / ENTRIES;
        (self.level3 + gib / ENTRIES, gib % ENTRIES)
    }

    /// Level 2's frame and entry for a piece.
    #[inline]
    pub const fn at_level2(&self, piece: u64) -> (u64, u64) {
        (self.level2 + piece / ENTRIES, piece % ENTRIES)
    }

    /// The leaf table's frame and entry for a guest frame.
    #[inline]
    pub const fn at_leaf(&self, frame: u64) -> (u64, u64) {
        (self.leaves + frame / ENTRIES, frame % ENTRIES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// splitmix64.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    #[test]
    fn one_frame_in_five_hundred() {
        // 32 MiB: 16 leaf tables, one of each other level, the area's.
        assert_eq!(Plan::len(8192), 19);
        // 1 TiB.
        assert_eq!(Plan::len(1 << 28), 2 + 1 + 1024 + (1 << 19));
    }

    #[test]
    fn parts_do_not_overlap_and_cover_all() {
        let mut state = 7;
        for _ in 0..1000 {
            let count = random(&mut state) % (1 << 30) + 1;
            let plan = Plan::new(random(&mut state) % (1 << 20), count);
            assert!(plan.level3 < plan.area && plan.area < plan.level2 && plan.level2 < plan.leaves);
            assert_eq!(plan.end - plan.level3, Plan::len(count));
            let last = plan.pieces - 1;
            assert!(plan.at_level3(last).0 < plan.area);
            assert!((plan.level2..plan.leaves).contains(&plan.at_level2(last).0));
            assert_eq!(plan.at_leaf(count - 1).0, plan.end - 1);
        }
    }

    #[test]
    fn the_way_to_a_piece_that_shows_itself_is_short() {
        let mut state = 1;
        for _ in 0..1000 {
            let count = random(&mut state) % (1 << 28) + 8192;
            let len = Plan::len(count);
            let plan = Plan::new(random(&mut state) % (count - len), count);
            let mut piece = random(&mut state) % plan.pieces;
            let mut steps = 0;
            while plan.shown_by(piece) != piece {
                piece = plan.shown_by(piece);
                assert!(piece < plan.pieces);
                steps += 1;
                assert!(steps <= 5, "{plan:?}");
            }
        }
    }
}
