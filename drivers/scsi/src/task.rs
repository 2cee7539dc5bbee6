//! A command on its way, and what becomes of it when the answer is there.

use alloc::boxed::Box;

use hal_core::device::{Completion, Dma};
use hal_core::{Error, Result};

use crate::sense::{Verdict, judge};
use crate::{Address, Cdb, Direction, Host};

/// How often a command is sent again.
const TRIES: u8 = 32;
/// After so many times a busy unit is given a moment.
const PATIENT: u8 = 4;
/// That moment.
const MOMENT_NS: u64 = 2_000_000;

/// What an adapter says of a command.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// The unit answered.
    Answered {
        /// Status byte (SAM-5 section 5.3.1).
        status: u8,
        /// Sense data, as much as there is.
        sense: &'a [u8],
        /// Bytes of the data that were not moved; `None` if that is some unknown number.
        residual: Option<u32>,
    },
    /// Nobody is at that address.
    NoTarget,
    /// Aborted before it was done, by a reset perhaps: it may be sent again.
    Aborted,
    /// The adapter failed.
    Failed(Error),
}

/// What runs at the end of a command of [`crate::scan`]: the number of bytes that were moved.
pub(crate) type RawDone = Box<dyn FnOnce(Result<u32>) + Send>;

pub(crate) enum Done {
    /// A request of the kernel: all bytes must be moved.
    Request(Completion),
    /// A question of our own.
    Raw(RawDone),
}

/// A command on its way.
pub struct Task {
    /// Whom it is for.
    pub address: Address,
    /// The command.
    pub cdb: Cdb,
    /// Where its data goes.
    pub direction: Direction,
    /// Bytes of data.
    pub len: u32,
    /// Where they are.
    pub pieces: Box<[Dma]>,
    /// What of them belongs to the task itself.
    pub(crate) payload: Option<Box<[u8]>>,
    pub(crate) done: Done,
    pub(crate) tries: u8,
}

impl Task {
    /// A command without data.
    pub(crate) fn new(address: Address, cdb: Cdb, done: Done) -> Self {
        Self { address, cdb, direction: Direction::None, len: 0, pieces: Box::default(), payload: None, done, tries: 0 }
    }

    /// A command that sends bytes which go with it.
    pub(crate) fn with_payload(mut self, bytes: Box<[u8]>) -> Self {
        self.direction = Direction::Out;
        self.len = bytes.len() as u32;
        self.pieces = Box::new([Dma { address: bytes.as_ptr() as usize, len: bytes.len() }]);
        self.payload = Some(bytes);
        self
    }

    /// Ends the command, or sends it again where that is of use. The adapter holds no lock.
    pub fn finish(mut self, host: &dyn Host, outcome: Outcome<'_>) {
        let (verdict, residual) = match outcome {
            Outcome::Answered { status, sense, residual } => (judge(status, sense), residual),
            Outcome::NoTarget => (Verdict::Failed(Error::Gone), Some(0)),
            Outcome::Aborted => (Verdict::Again, Some(0)),
            Outcome::Failed(error) => (Verdict::Failed(error), Some(0)),
        };
        let result = match verdict {
            Verdict::Done => Ok(()),
            Verdict::Failed(error) => Err(error),
            Verdict::Again | Verdict::Later if self.tries < TRIES => {
                if verdict == Verdict::Later && self.tries >= PATIENT {
                    driver_kit::wait_for(MOMENT_NS, || false);
                }
                self.tries += 1;
                // SAFETY: by the promise of whoever started the task: its memory is good until the task is done.
                return unsafe { host.start(self) };
            }
            Verdict::Again | Verdict::Later => Err(Error::Device("the disk is busy for too long")),
        };
        match self.done {
            Done::Request(done) => done(match result {
                Ok(()) if residual != Some(0) => Err(Error::Device("the disk moved less than was asked for")),
                other => other,
            }),
            Done::Raw(done) => done(match result {
                // Where it is not known how much came, the rest of the memory is zeroes.
                Ok(()) => match self.len.checked_sub(residual.unwrap_or(0)) {
                    Some(moved) => Ok(moved),
                    None => Err(Error::Device("the disk moved less than nothing")),
                },
                Err(error) => Err(error),
            }),
        }
    }
}
