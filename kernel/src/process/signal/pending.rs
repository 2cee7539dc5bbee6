//! Signals that wait: of a thread, or of a whole process.

use alloc::collections::VecDeque;

use super::types::{RT_MIN, SYNCHRONOUS, SigInfo, SigSet, set_of};

/// A queue of signals. Standard signals are there at most once, real-time signals as often as sent.
#[derive(Debug, Default)]
pub struct Pending {
    mask: SigSet,
    queue: VecDeque<SigInfo>,
}

impl Pending {
    /// The signals that are there.
    pub fn mask(&self) -> SigSet {
        self.mask
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds a signal; returns false if a standard one is there already.
    pub fn push(&mut self, info: SigInfo) -> bool {
        let bit = set_of(info.signo);
        if info.signo < RT_MIN && self.mask & bit != 0 {
            return false;
        }
        self.mask |= bit;
        self.queue.push_back(info);
        true
    }

    /// Takes the next signal of `wanted`: a synchronous one first, then the lowest number, in order of arrival.
    pub fn pop(&mut self, wanted: SigSet) -> Option<SigInfo> {
        let ready = self.mask & wanted;
        if ready == 0 {
            return None;
        }
        let first = if ready & SYNCHRONOUS != 0 { ready & SYNCHRONOUS } else { ready };
        let signal = first.trailing_zeros() as i32 + 1;
        let at = self.queue.iter().position(|info| info.signo == signal)?;
        let info = self.queue.remove(at)?;
        if signal < RT_MIN || !self.queue.iter().any(|other| other.signo == signal) {
            self.mask &= !set_of(signal);
        }
        Some(info)
    }

    /// Drops every signal of `set`.
    pub fn discard(&mut self, set: SigSet) {
        if self.mask & set != 0 {
            self.queue.retain(|info| set_of(info.signo) & set == 0);
            self.mask &= !set;
        }
    }
}
