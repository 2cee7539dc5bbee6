//! Pieces of memory as physical region pages (NVM Express 1.4, section 4.3): the first may start anywhere, each further one
//! is a page, and the last may end early.

use hal_core::device::Dma;
use hal_core::memory::phys_of;

/// Bytes of a page: what CC says.
const PAGE: usize = 4096;

/// The pages of `pieces`: calls `put` with each address. False if they cannot be told in this way, because one
/// does not end or the next does not start at a page's border.
pub(crate) fn pages(pieces: &[Dma], mut put: impl FnMut(u64)) -> bool {
    for (index, piece) in pieces.iter().enumerate() {
        let start = phys_of(piece.address as *const u8).0;
        let end = start + piece.len as u64;
        let starts = start.is_multiple_of(PAGE as u64);
        let ends = end.is_multiple_of(PAGE as u64);
        if (index > 0 && !starts) || (index + 1 < pieces.len() && !ends) || !start.is_multiple_of(4) || piece.len == 0 {
            return false;
        }
        let mut at = start;
        while at < end {
            put(at);
            at = (at + 1).next_multiple_of(PAGE as u64);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pieces: &[(usize, usize)]) -> Option<alloc::vec::Vec<u64>> {
        let pieces: alloc::vec::Vec<_> = pieces.iter().map(|&(address, len)| Dma { address, len }).collect();
        let mut found = alloc::vec![];
        pages(&pieces, |at| found.push(at)).then_some(found)
    }

    #[test]
    fn pages_of_pieces() {
        assert_eq!(of(&[(0x1200, 512)]), Some(alloc::vec![0x1200]));
        assert_eq!(of(&[(0x1200, 0x1000)]), Some(alloc::vec![0x1200, 0x2000]));
        assert_eq!(
            of(&[(0x1e00, 512), (0x5000, 0x2000), (0x8000, 8)]),
            Some(alloc::vec![0x1e00, 0x5000, 0x6000, 0x8000])
        );
    }

    #[test]
    fn gaps_cannot_be_told() {
        for bad in
            [&[(0x1000, 512), (0x3000, 512)][..], &[(0x1000, 0x1000), (0x3200, 512)], &[(0x1001, 512)], &[(0, 0)]]
        {
            assert_eq!(of(bad), None);
        }
    }
}
