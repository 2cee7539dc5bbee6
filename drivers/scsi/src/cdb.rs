//! Command descriptor blocks (SPC-4 section 6, SBC-3 section 5).

/// A command descriptor block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cdb {
    bytes: [u8; 16],
    len: u8,
}

/// Operation codes.
#[expect(missing_docs, reason = "the names are the standards'")]
pub mod op {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2a;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const WRITE_SAME_10: u8 = 0x41;
    pub const UNMAP: u8 = 0x42;
    pub const READ_16: u8 = 0x88;
    pub const WRITE_16: u8 = 0x8a;
    pub const WRITE_SAME_16: u8 = 0x93;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub const REPORT_LUNS: u8 = 0xa0;
}

/// Service action of READ CAPACITY (16).
pub const READ_CAPACITY_16: u8 = 0x10;
/// WRITE SAME: the blocks may be deallocated.
pub const WRITE_SAME_UNMAP: u8 = 1 << 3;

impl Cdb {
    /// The bytes, 6 to 16.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes with zeroes behind.
    pub fn padded(&self) -> &[u8; 16] {
        &self.bytes
    }

    fn new(len: u8, code: u8) -> Self {
        let mut bytes = [0; 16];
        bytes[0] = code;
        Self { bytes, len }
    }

    fn put(mut self, at: usize, value: &[u8]) -> Self {
        self.bytes[at..at + value.len()].copy_from_slice(value);
        self
    }

    /// Asks whether the unit takes commands that need its medium.
    pub fn test_unit_ready() -> Self {
        Self::new(6, op::TEST_UNIT_READY)
    }

    /// What the unit is.
    pub fn inquiry(len: u16) -> Self {
        Self::new(6, op::INQUIRY).put(3, &len.to_be_bytes())
    }

    /// A page of vital product data.
    pub fn vital_data(page: u8, len: u16) -> Self {
        Self::new(6, op::INQUIRY).put(1, &[1, page]).put(3, &len.to_be_bytes())
    }

    /// A mode page, without block descriptors.
    pub fn mode_sense(page: u8, len: u8) -> Self {
        Self::new(6, op::MODE_SENSE_6).put(1, &[1 << 3, page, 0, len])
    }

    /// Size up to 2 TiB.
    pub fn read_capacity_10() -> Self {
        Self::new(10, op::READ_CAPACITY_10)
    }

    /// Size.
    pub fn read_capacity_16(len: u32) -> Self {
        Self::new(16, op::SERVICE_ACTION_IN_16).put(1, &[READ_CAPACITY_16]).put(10, &len.to_be_bytes())
    }

    /// The units of the target.
    pub fn report_luns(len: u32) -> Self {
        Self::new(12, op::REPORT_LUNS).put(6, &len.to_be_bytes())
    }

    /// Reads or writes blocks: the short form where it reaches.
    pub fn transfer(write: bool, block: u64, count: u32) -> Self {
        match (u32::try_from(block), u16::try_from(count)) {
            (Ok(block), Ok(count)) => Self::new(10, if write { op::WRITE_10 } else { op::READ_10 })
                .put(2, &block.to_be_bytes())
                .put(7, &count.to_be_bytes()),
            _ => Self::new(16, if write { op::WRITE_16 } else { op::READ_16 })
                .put(2, &block.to_be_bytes())
                .put(10, &count.to_be_bytes()),
        }
    }

    /// Makes everything written durable.
    pub fn synchronize_cache() -> Self {
        Self::new(10, op::SYNCHRONIZE_CACHE_10)
    }

    /// Deallocates the ranges of a parameter list of `len` bytes.
    pub fn unmap(len: u16) -> Self {
        Self::new(10, op::UNMAP).put(7, &len.to_be_bytes())
    }

    /// Deallocates blocks by writing one block of zeroes to all of them: the long form.
    pub fn write_same_16(block: u64, count: u32) -> Self {
        Self::new(16, op::WRITE_SAME_16)
            .put(1, &[WRITE_SAME_UNMAP])
            .put(2, &block.to_be_bytes())
            .put(10, &count.to_be_bytes())
    }

    /// The short form.
    pub fn write_same_10(block: u32, count: u16) -> Self {
        Self::new(10, op::WRITE_SAME_10)
            .put(1, &[WRITE_SAME_UNMAP])
            .put(2, &block.to_be_bytes())
            .put(7, &count.to_be_bytes())
    }
}

/// The parameter list of UNMAP for one range (SBC-3, section 5.28.2).
pub fn unmap_list(block: u64, count: u32) -> [u8; 24] {
    let mut list = [0; 24];
    list[..2].copy_from_slice(&22u16.to_be_bytes());
    list[2..4].copy_from_slice(&16u16.to_be_bytes());
    list[8..16].copy_from_slice(&block.to_be_bytes());
    list[16..20].copy_from_slice(&count.to_be_bytes());
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_where_it_reaches() {
        assert_eq!(Cdb::transfer(false, 0x1234_5678, 8).bytes(), [0x28, 0, 0x12, 0x34, 0x56, 0x78, 0, 0, 8, 0]);
        assert_eq!(Cdb::transfer(true, 1, 0xffff).bytes(), [0x2a, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0]);
        assert_eq!(
            Cdb::transfer(true, 1 << 32, 1).bytes(),
            [0x8a, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
            "a block beyond 32 bits"
        );
        assert_eq!(Cdb::transfer(false, 0, 0x10000).bytes()[0], op::READ_16, "more blocks than 16 bits");
    }

    #[test]
    fn lengths_are_where_the_standard_has_them() {
        assert_eq!(Cdb::inquiry(0x124).bytes(), [0x12, 0, 0, 1, 0x24, 0]);
        assert_eq!(Cdb::vital_data(0xb0, 64).bytes(), [0x12, 1, 0xb0, 0, 64, 0]);
        assert_eq!(Cdb::mode_sense(8, 192).bytes(), [0x1a, 8, 8, 0, 192, 0]);
        assert_eq!(Cdb::report_luns(4096).bytes(), [0xa0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0]);
        assert_eq!(Cdb::read_capacity_16(32).bytes(), [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
        assert_eq!(Cdb::unmap(24).bytes(), [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]);
        assert_eq!(unmap_list(5, 6)[..4], [0, 22, 0, 16]);
    }
}
