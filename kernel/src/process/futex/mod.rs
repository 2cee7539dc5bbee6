//! Futexes: sleeping and waking on a word of user memory.
//!
//! A waiter puts itself in a bucket first and reads the word afterwards; a waker changes the word first and
//! looks in the bucket afterwards: so no wake-up is lost, and the word may be read with page faults
//! and sleep in between, under no lock. What of the priority-inheritance kind: `pi`.

mod bucket;
mod pi;

pub use pi::{cmp_requeue_pi, lock_pi, owner_died, trylock_pi, unlock_pi, wait_requeue_pi};

use base::{Errno, Result};

use bucket::{Entry, Kind, with_bucket, with_two};

use crate::mm;
use crate::sched;

/// What a futex is found by: private ones by address space and address, shared ones by the page's place in
/// its file (or shared memory) and the offset there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    object: (u64, u64),
    offset: u64,
}

impl Key {
    /// The key of the word at `address` in the running thread's space. `EINVAL` if not aligned, `EFAULT` if
    /// it cannot be the application's.
    pub fn new(address: usize, private: bool) -> Result<Self> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let space = sched::current().space().ok_or(Errno::EFAULT)?;
        if !private {
            // Brings the page in, and fails for an address without one.
            mm::user::load_u32(address)?;
            if let Some((object, offset)) = space.shared_object(address) {
                return Ok(Self { object, offset });
            }
        }
        Ok(Self { object: (u64::MAX, alloc::sync::Arc::as_ptr(space) as u64), offset: address as u64 })
    }
}

/// All bits: what wait and wake without a bitset mean.
pub const ANY: u32 = u32::MAX;

/// Sleeps until woken if the word at `address` is `expected`.
///
/// # Errors
/// `EAGAIN` if the word differs, `ETIMEDOUT` at `deadline_ns` (monotonic), `ERESTARTSYS` for a signal, `EINVAL` for an
/// empty bitset.
pub fn wait(address: usize, private: bool, expected: u32, deadline_ns: Option<u64>, bitset: u32) -> Result<()> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::new(address, private)?;
    let keys = [(key, bitset, Kind::Plain)];
    let queued = Queued::new(&keys)?;
    if mm::user::load_u32(address)? != expected {
        return queued.leave(Errno::EAGAIN).map(|_| ());
    }
    queued.sleep(deadline_ns).map(|_| ())
}

/// A word to wait for, of `futex_waitv`.
#[derive(Clone, Copy, Debug)]
pub struct WaitWord {
    /// Its address.
    pub address: usize,
    /// What it must hold.
    pub expected: u32,
    /// Private to the process.
    pub private: bool,
}

/// Sleeps until one of `words` is woken; returns its index. Errors as [`wait`].
pub fn wait_any(words: &[WaitWord], deadline_ns: Option<u64>) -> Result<usize> {
    let mut keys = alloc::vec::Vec::new();
    keys.try_reserve_exact(words.len()).map_err(|_| Errno::ENOMEM)?;
    for word in words {
        keys.push((Key::new(word.address, word.private)?, ANY, Kind::Plain));
    }
    let queued = Queued::new(&keys)?;
    for word in words {
        if mm::user::load_u32(word.address)? != word.expected {
            return queued.leave(Errno::EAGAIN);
        }
    }
    queued.sleep(deadline_ns)
}

/// Wakes up to `count` waiters whose bitset shares a bit with `bitset`; returns how many.
pub fn wake(address: usize, private: bool, count: usize, bitset: u32) -> Result<usize> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::new(address, private)?;
    with_bucket(&key, |bucket| bucket.wake(&key, count, bitset))
}

/// Wakes up to `count` waiters of the first word and moves up to `limit` others to the second. With `expected`, only
/// if the first word holds it (`EAGAIN` else). Returns how many were woken, and how many moved.
pub fn requeue(
    from: usize,
    to: usize,
    private: bool,
    count: usize,
    limit: usize,
    expected: Option<u32>,
) -> Result<(usize, usize)> {
    let (first, second) = (Key::new(from, private)?, Key::new(to, private)?);
    with_two(&first, &second, from, |source, target, word| {
        if expected.is_some_and(|e| e != word) {
            return Err(Errno::EAGAIN);
        }
        let woken = source.wake(&first, count, ANY)?;
        Ok((woken, source.move_to(&first, &second, target, limit)))
    })
}

/// `FUTEX_WAKE_OP`: changes the second word by `operation`, wakes up to `count` waiters of the first and, if the
/// second word's old value compares as `operation` tells, up to `count2` of the second.
pub fn wake_op(
    first: usize,
    second: usize,
    private: bool,
    count: usize,
    count2: usize,
    operation: u32,
) -> Result<usize> {
    let (key1, key2) = (Key::new(first, private)?, Key::new(second, private)?);
    // Layout of `operation`: uapi/linux/futex.h, FUTEX_OP().
    let sign_extended = |shift: u32| ((operation << shift) as i32) >> 20;
    let (mut operand, compared) = (sign_extended(8), sign_extended(20));
    if operation >> 28 & 8 != 0 {
        operand = 1i32.checked_shl(operand as u32 & 31).unwrap_or(0);
    }
    let kind = operation >> 28 & 7;
    if kind > 4 {
        return Err(Errno::ENOSYS);
    }
    let change = |old: u32| match kind {
        0 => operand as u32,
        1 => old.wrapping_add(operand as u32),
        2 => old | operand as u32,
        3 => old & !(operand as u32),
        _ => old ^ operand as u32,
    };
    let mut old = mm::user::load_u32(second)?;
    loop {
        let seen = mm::user::compare_exchange_u32(second, old, change(old))?;
        if seen == old {
            break;
        }
        old = seen;
    }
    let holds = match operation >> 24 & 15 {
        0 => old as i32 == compared,
        1 => old as i32 != compared,
        2 => (old as i32) < compared,
        3 => old as i32 <= compared,
        4 => old as i32 > compared,
        5 => old as i32 >= compared,
        _ => return Err(Errno::ENOSYS),
    };
    let mut woken = with_bucket(&key1, |bucket| bucket.wake(&key1, count, ANY))?;
    if holds {
        woken += with_bucket(&key2, |bucket| bucket.wake(&key2, count2, ANY))?;
    }
    Ok(woken)
}

/// The running thread's entries in the buckets; they are taken out when this is dropped.
struct Queued<'a> {
    keys: &'a [(Key, u32, Kind)],
}

impl<'a> Queued<'a> {
    fn new(keys: &'a [(Key, u32, Kind)]) -> Result<Self> {
        let waiter = sched::current().waiter();
        waiter.reset();
        waiter.set_note(0);
        let queued = Self { keys };
        for (index, (key, bitset, kind)) in keys.iter().enumerate() {
            let entry =
                Entry { key: *key, bitset: *bitset, kind: *kind, index: index as u32, thread: sched::current_arc() };
            with_bucket(key, |bucket| bucket.push(entry))?;
        }
        Ok(queued)
    }

    /// Which entry was woken, if one was: the waker noted its index + 1.
    fn woken(&self) -> Option<usize> {
        let note = sched::current().waiter().note();
        (note != 0).then(|| note as usize - 1)
    }

    /// Gives up for `reason`; if a wake-up came first it counts, and the sleep has succeeded.
    fn leave(self, reason: Errno) -> Result<usize> {
        self.remove();
        self.woken().ok_or(reason)
    }

    fn sleep(self, deadline_ns: Option<u64>) -> Result<usize> {
        let thread = sched::current();
        loop {
            thread.waiter().reset();
            if let Some(index) = self.woken() {
                self.remove();
                return Ok(index);
            }
            if thread.interrupted() {
                return self.leave(Errno::ERESTARTSYS);
            }
            if deadline_ns.is_some_and(|deadline| base::time::now_ns() >= deadline) {
                return self.leave(Errno::ETIMEDOUT);
            }
            thread.waiter().sleep(deadline_ns);
        }
    }

    fn remove(&self) {
        // One entry that was woken is out already.
        if self.keys.len() == 1 && self.woken().is_some() {
            return;
        }
        for (key, ..) in self.keys {
            bucket::remove(key, sched::current());
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}
