//! Commands as frames for the device (ATA8-ACS; Serial ATA 3.1, section 10.3.4: register frame, host to device).

/// What a request asks for; positions and counts in the device's sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Fill the pieces.
    Read,
    /// Write the pieces.
    Write,
    /// Empty the write cache.
    Flush,
    /// Forget the ranges in the one piece, of 512 bytes.
    Trim,
    /// Describe the device.
    Identify,
}

/// A request in the device's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    /// What to do.
    pub op: Op,
    /// First sector.
    pub sector: u64,
    /// Sectors, at most 65536.
    pub count: u32,
}

const READ_DMA_EXT: u8 = 0x25;
const WRITE_DMA_EXT: u8 = 0x35;
const READ_QUEUED: u8 = 0x60;
const WRITE_QUEUED: u8 = 0x61;
const FLUSH_EXT: u8 = 0xea;
const DATA_SET_MANAGEMENT: u8 = 0x06;
const IDENTIFY: u8 = 0xec;

/// DATA SET MANAGEMENT's trim.
const TRIM: u8 = 1;
/// The device register's bit for sector numbers instead of cylinders.
const LBA: u8 = 1 << 6;

/// Bytes of a frame.
pub(crate) const FRAME: usize = 20;

impl Command {
    /// True if data goes to the device.
    pub fn writes(&self) -> bool {
        matches!(self.op, Op::Write | Op::Trim)
    }

    /// True if this may be queued: the others run alone.
    pub fn moves_data(&self) -> bool {
        matches!(self.op, Op::Read | Op::Write)
    }

    /// The frame; `tag` for a queued command.
    pub fn frame(&self, tag: Option<u8>) -> [u8; FRAME] {
        let [a, b, c, d, e, f, ..] = self.sector.to_le_bytes();
        // 65536 is written as 0.
        let [low, high, ..] = self.count.to_le_bytes();
        let (command, feature, count) = match (self.op, tag) {
            (Op::Read, Some(tag)) => (READ_QUEUED, [low, high], [tag << 3, 0]),
            (Op::Write, Some(tag)) => (WRITE_QUEUED, [low, high], [tag << 3, 0]),
            (Op::Read, None) => (READ_DMA_EXT, [0, 0], [low, high]),
            (Op::Write, None) => (WRITE_DMA_EXT, [0, 0], [low, high]),
            (Op::Flush, _) => (FLUSH_EXT, [0, 0], [0, 0]),
            // One block of ranges.
            (Op::Trim, _) => (DATA_SET_MANAGEMENT, [TRIM, 0], [1, 0]),
            (Op::Identify, _) => (IDENTIFY, [0, 0], [0, 0]),
        };
        let [feature_low, feature_high] = feature;
        let [count_low, count_high] = count;
        let device = if self.op == Op::Identify { 0 } else { LBA };
        // A register frame that carries a command.
        let mut frame = [0; FRAME];
        frame[..14].copy_from_slice(&[
            0x27,
            0x80,
            command,
            feature_low,
            a,
            b,
            c,
            device,
            d,
            e,
            f,
            feature_high,
            count_low,
            count_high,
        ]);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_specification_says() {
        let read = Command { op: Op::Read, sector: 0x0102_0304_0506, count: 0x1234 };
        let frame = read.frame(Some(31));
        assert_eq!(frame[..14], [0x27, 0x80, 0x60, 0x34, 6, 5, 4, 0x40, 3, 2, 1, 0x12, 31 << 3, 0]);
        let frame = read.frame(None);
        assert_eq!(frame[..14], [0x27, 0x80, 0x25, 0, 6, 5, 4, 0x40, 3, 2, 1, 0, 0x34, 0x12]);
        let most = Command { op: Op::Write, sector: 0, count: 65536 };
        assert_eq!(most.frame(None)[12..14], [0, 0]);
        assert!(most.writes() && !read.writes());
    }
}
