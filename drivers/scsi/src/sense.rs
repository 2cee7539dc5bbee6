//! Status bytes (SAM-5 section 5.3.1) and sense data (SPC-4 section 4.5).

use hal_core::Error;

/// Done.
pub const GOOD: u8 = 0x00;
/// There is sense data.
pub const CHECK_CONDITION: u8 = 0x02;
/// Come again.
pub const BUSY: u8 = 0x08;
/// Somebody else has reserved the unit.
pub const RESERVATION_CONFLICT: u8 = 0x18;
/// The unit's queue is full: come again.
pub const TASK_SET_FULL: u8 = 0x28;
/// Aborted by another command.
pub const TASK_ABORTED: u8 = 0x40;

// Sense keys.
const RECOVERED: u8 = 1;
const NOT_READY: u8 = 2;
const MEDIUM_ERROR: u8 = 3;
const HARDWARE_ERROR: u8 = 4;
const ILLEGAL_REQUEST: u8 = 5;
const UNIT_ATTENTION: u8 = 6;
const DATA_PROTECT: u8 = 7;
const ABORTED_COMMAND: u8 = 0xb;

/// What a unit says about a failed command: key, additional code and its qualifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code and qualifier.
    pub code: (u8, u8),
}

/// What is to be done about an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It worked.
    Done,
    /// Send it again.
    Again,
    /// Send it again after a moment.
    Later,
    /// It failed.
    Failed(Error),
}

impl Sense {
    /// Reads sense data in fixed or descriptor format; nothing known if it is neither.
    pub fn parse(bytes: &[u8]) -> Self {
        let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
        match at(0) & 0x7f {
            0x70 | 0x71 => Self { key: at(2) & 0xf, code: (at(12), at(13)) },
            0x72 | 0x73 => Self { key: at(1) & 0xf, code: (at(2), at(3)) },
            _ => Self::default(),
        }
    }

    fn verdict(self) -> Verdict {
        let failed = |why| Verdict::Failed(Error::Device(why));
        match (self.key, self.code) {
            (RECOVERED, _) => Verdict::Done,
            // Becoming ready.
            (NOT_READY, (0x04, 0x01 | 0x0a)) => Verdict::Later,
            (NOT_READY, (0x3a, _)) => failed("the disk has no medium"),
            (NOT_READY, _) => failed("the disk is not ready"),
            (MEDIUM_ERROR, _) => failed("the disk's medium is damaged there"),
            (HARDWARE_ERROR, _) => failed("the disk is broken"),
            (ILLEGAL_REQUEST, (0x20, _)) => Verdict::Failed(Error::Unsupported),
            (ILLEGAL_REQUEST, (0x25, _)) => Verdict::Failed(Error::Gone),
            (ILLEGAL_REQUEST, _) => Verdict::Failed(Error::Invalid),
            // Reset, or something has changed: the command was not executed.
            (UNIT_ATTENTION | ABORTED_COMMAND, _) => Verdict::Again,
            (DATA_PROTECT, (0x27, 0x07)) => failed("the disk's storage is full"),
            (DATA_PROTECT, _) => failed("the disk is write-protected"),
            _ => failed("the disk reports an error"),
        }
    }
}

/// Judges a status byte and sense data.
pub fn judge(status: u8, sense: &[u8]) -> Verdict {
    match status {
        GOOD => Verdict::Done,
        CHECK_CONDITION => Sense::parse(sense).verdict(),
        BUSY | TASK_SET_FULL => Verdict::Later,
        TASK_ABORTED => Verdict::Again,
        RESERVATION_CONFLICT => Verdict::Failed(Error::Device("the disk is reserved by somebody else")),
        _ => Verdict::Failed(Error::Device("the disk answers with an unknown status")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sense data in fixed format.
    fn fixed(key: u8, code: (u8, u8)) -> [u8; 18] {
        let mut s = [0; 18];
        (s[0], s[2], s[7], s[12], s[13]) = (0x70, key, 10, code.0, code.1);
        s
    }

    #[test]
    fn both_formats() {
        let known = Sense { key: 5, code: (0x24, 1) };
        assert_eq!(Sense::parse(&fixed(5, (0x24, 1))), known);
        assert_eq!(Sense::parse(&[0xf0, 0, 0xe5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 1]), known, "other bits are set");
        assert_eq!(Sense::parse(&[0x72, 5, 0x24, 1, 0, 0, 0, 0]), known);
        assert_eq!(Sense::parse(&[0x72, 5]), Sense { key: 5, code: (0, 0) }, "cut short");
        assert_eq!(Sense::parse(&[]), Sense::default());
        assert_eq!(Sense::parse(&[0x7e, 5, 5, 5]), Sense::default());
    }

    #[test]
    fn verdicts() {
        assert_eq!(judge(GOOD, &[]), Verdict::Done);
        assert_eq!(judge(CHECK_CONDITION, &fixed(6, (0x29, 0))), Verdict::Again);
        assert_eq!(judge(CHECK_CONDITION, &fixed(2, (4, 1))), Verdict::Later);
        assert_eq!(judge(TASK_SET_FULL, &[]), Verdict::Later);
        assert_eq!(judge(CHECK_CONDITION, &fixed(5, (0x20, 0))), Verdict::Failed(Error::Unsupported));
        assert!(matches!(judge(CHECK_CONDITION, &[]), Verdict::Failed(_)), "no sense data");
        assert!(matches!(judge(0x7f, &[]), Verdict::Failed(_)));
    }
}
