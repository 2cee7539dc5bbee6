//! Futexes of the priority-inheritance kind: the kernel knows the owner, who hands the lock over.
//!
//! The word holds the owner's thread id and the bits below (uapi/linux/futex.h). Our scheduler has no real-time
//! priorities, so there is none to inherit; hand-over in order of arrival is what remains of it.

use base::{Errno, Result};

use super::bucket::{Bucket, Kind, with_bucket, with_two};
use super::{ANY, Key, Queued};
use crate::mm::user::{compare_exchange_u32, load_u32, try_compare_exchange_u32, try_load_u32};
use crate::sched;

const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID: u32 = 0x3fff_ffff;

/// Changes the word by `change` until no other CPU came between; `change` may refuse.
fn update(address: usize, change: impl Fn(u32) -> Result<u32>) -> Result<u32> {
    let mut old = load_u32(address)?;
    loop {
        let seen = compare_exchange_u32(address, old, change(old)?)?;
        if seen == old {
            return Ok(old);
        }
        old = seen;
    }
}

/// Takes the lock if nobody has it. `EAGAIN` if somebody has, `EDEADLK` if the caller has it.
pub fn trylock_pi(address: usize) -> Result<()> {
    let tid = sched::current().tid;
    update(address, |word| match word & TID {
        0 => Ok(tid | word & (OWNER_DIED | WAITERS)),
        owner if owner == tid => Err(Errno::EDEADLK),
        _ => Err(Errno::EAGAIN),
    })
    .map(|_| ())
}

/// Takes the lock; sleeps while another thread has it.
///
/// # Errors
/// `EDEADLK` if the caller has it, `ESRCH` if its owner does not exist, `ETIMEDOUT` at `deadline_ns` (monotonic).
pub fn lock_pi(address: usize, private: bool, deadline_ns: Option<u64>) -> Result<()> {
    match trylock_pi(address) {
        Err(Errno::EAGAIN) => {}
        done => return done,
    }
    let tid = sched::current().tid;
    let key = Key::new(address, private)?;
    loop {
        let keys = [(key, ANY, Kind::Lock)];
        let queued = Queued::new(&keys)?;
        // In the bucket now: an unlock from here on finds us. One before may have left the lock free.
        let mut word = load_u32(address)?;
        let free = loop {
            if queued.woken().is_some() {
                return Ok(());
            }
            let owner = word & TID;
            let wanted = match owner {
                0 => tid | word & OWNER_DIED | WAITERS,
                owner if owner == tid => return queued.leave(Errno::EDEADLK).map(|_| ()),
                owner if !super::super::thread_exists(owner) => return queued.leave(Errno::ESRCH).map(|_| ()),
                _ => word | WAITERS,
            };
            let seen = if wanted == word { word } else { compare_exchange_u32(address, word, wanted)? };
            if seen == word {
                break owner == 0;
            }
            word = seen;
        };
        if free {
            return queued.leave(Errno::EAGAIN).map(|_| ()).or(Ok(()));
        }
        match queued.sleep(deadline_ns) {
            // Woken: handed over to us, or (its owner died) free to be taken.
            Ok(_) if load_u32(address)? & TID == tid => return Ok(()),
            Ok(_) => {}
            // The lock survives a signal handler: the call goes on afterwards.
            Err(Errno::ERESTARTSYS) => return Err(Errno::ERESTARTNOINTR),
            Err(error) => return Err(error),
        }
    }
}

/// Gives the lock to the first in line, or frees it. `EPERM` if the caller has it not.
pub fn unlock_pi(address: usize, private: bool) -> Result<()> {
    let tid = sched::current().tid;
    let key = Key::new(address, private)?;
    loop {
        let word = load_u32(address)?;
        if word & TID != tid {
            return Err(Errno::EPERM);
        }
        let done = with_bucket(&key, |bucket| Ok(hand_over(bucket, &key, address, word, 0)))?;
        if done {
            return Ok(());
        }
        // The page went away, or another CPU set a bit meanwhile: once more.
    }
}

/// With the bucket locked: writes the next owner (or none, with `flags`) to the word if it still is `word`, and
/// wakes that owner. False if the word could not be changed.
fn hand_over(bucket: &mut Bucket, key: &Key, address: usize, word: u32, flags: u32) -> bool {
    let next = bucket.take_first(key, |kind| *kind == Kind::Lock);
    let new = match &next {
        Some(entry) => entry.thread.tid | flags | if bucket.has_lock_waiter(key) { WAITERS } else { 0 },
        None => flags,
    };
    match (try_compare_exchange_u32(address, word, new) == Some(word), next) {
        (true, Some(entry)) => entry.finish(),
        (true, None) => {}
        // Back in; at the end of the line, which only a race with another CPU's bit can cause.
        (false, Some(entry)) => {
            let _ = bucket.push(entry);
            return false;
        }
        (false, None) => return false,
    }
    true
}

/// A dying thread's robust list names this word: marks it and lets somebody else have it.
pub fn owner_died(address: usize, tid: u32, is_pi: bool) -> Result<()> {
    let key = Key::new(address, false)?;
    let private = Key::new(address, true)?;
    loop {
        let word = load_u32(address)?;
        if word & TID != tid {
            return Ok(());
        }
        if is_pi {
            for key in [&key, &private] {
                let handed = with_bucket(key, |bucket| {
                    Ok(bucket.has_lock_waiter(key) && hand_over(bucket, key, address, word, OWNER_DIED))
                })?;
                if handed {
                    return Ok(());
                }
            }
        }
        if compare_exchange_u32(address, word, word & WAITERS | OWNER_DIED)? == word {
            if word & WAITERS != 0 && !is_pi {
                for key in [&key, &private] {
                    with_bucket(key, |bucket| bucket.wake(key, 1, ANY))?;
                }
            }
            return Ok(());
        }
    }
}

/// Sleeps on the plain word `address` until woken with ownership of the lock at `lock`. Errors as the plain wait.
pub fn wait_requeue_pi(
    address: usize,
    lock: usize,
    private: bool,
    expected: u32,
    deadline_ns: Option<u64>,
    bitset: u32,
) -> Result<()> {
    if bitset == 0 || address == lock {
        return Err(Errno::EINVAL);
    }
    let (key, lock_key) = (Key::new(address, private)?, Key::new(lock, private)?);
    let keys = [(key, bitset, Kind::ThenLock(lock_key))];
    let queued = Queued::new(&keys)?;
    if load_u32(address)? != expected {
        return queued.leave(Errno::EAGAIN).map(|_| ());
    }
    match queued.sleep(deadline_ns) {
        Ok(_) if load_u32(lock)? & TID == sched::current().tid => Ok(()),
        Ok(_) => lock_pi(lock, private, deadline_ns),
        // As the futex manual says: a signal before the requeue is a spurious wake-up.
        Err(Errno::ERESTARTSYS) => Err(Errno::EAGAIN),
        Err(error) => Err(error),
    }
}

/// Gives the lock at `lock` to the first waiter of `address` if it is free, and moves up to `limit` others in line for
/// it. Returns how many were woken or moved. `EAGAIN` if the word is not `expected`.
pub fn cmp_requeue_pi(address: usize, lock: usize, private: bool, limit: usize, expected: u32) -> Result<usize> {
    let (key, lock_key) = (Key::new(address, private)?, Key::new(lock, private)?);
    // Writable and there; from here on only the forms that do not sleep are used.
    update(lock, Ok)?;
    with_two(&key, &lock_key, address, |source, mut target, word| {
        if word != expected {
            return Err(Errno::EAGAIN);
        }
        let mut done = 0;
        while done < limit.saturating_add(1) {
            let Some(mut entry) = source.take_first(&key, |kind| *kind == Kind::ThenLock(lock_key)) else { break };
            let word = try_load_u32(lock).ok_or(Errno::EFAULT)?;
            let wanted = if word & TID == 0 { entry.thread.tid | word & OWNER_DIED | WAITERS } else { word | WAITERS };
            let changed = word == wanted || try_compare_exchange_u32(lock, word, wanted) == Some(word);
            if changed && word & TID == 0 {
                entry.finish();
            } else {
                if changed {
                    entry.key = lock_key;
                    entry.kind = Kind::Lock;
                }
                match target.as_deref_mut() {
                    Some(target) if changed => target.push(entry)?,
                    _ => source.push(entry)?,
                }
                if !changed {
                    continue;
                }
            }
            done += 1;
        }
        Ok(done)
    })
}
