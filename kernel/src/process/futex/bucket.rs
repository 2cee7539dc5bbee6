//! The hash of waiters: buckets with a lock each, so that unrelated futexes do not meet.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use base::{Errno, Result, SpinLock};

use super::Key;
use crate::mm;
use crate::sched::Thread;

/// What a waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A wake-up.
    Plain,
    /// Ownership of a priority-inheritance lock.
    Lock,
    /// A wake-up that comes with ownership of the lock at this other key: `FUTEX_WAIT_REQUEUE_PI`.
    ThenLock(Key),
}

/// One waiter in a bucket.
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) bitset: u32,
    pub(super) kind: Kind,
    /// Index in the call's list of words.
    pub(super) index: u32,
    pub(super) thread: Arc<Thread>,
}

impl Entry {
    /// Ends the wait. The note is written first: the thread looks at it when the signal ends its sleep.
    pub(super) fn finish(self) {
        self.thread.waiter().set_note(self.index + 1);
        self.thread.waiter().signal();
    }
}

/// Waiters whose keys have the same hash, in order of arrival. The memory is kept, so that a wait
/// allocates nothing in the long run.
#[derive(Default)]
pub(super) struct Bucket(Vec<Entry>);

const BUCKETS: usize = 512;
static TABLE: [SpinLock<Bucket>; BUCKETS] = [const { SpinLock::new(Bucket(Vec::new())) }; BUCKETS];

struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        // Multiplication by an odd constant (2^64 / golden ratio) spreads aligned addresses.
        self.0 = (self.0.rotate_left(26) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

fn slot(key: &Key) -> usize {
    let mut hasher = Mix(0);
    key.hash(&mut hasher);
    (hasher.finish() >> 48) as usize % BUCKETS
}

/// Runs `f` with the key's bucket locked: no sleep, no fault inside.
pub(super) fn with_bucket<R>(key: &Key, f: impl FnOnce(&mut Bucket) -> Result<R>) -> Result<R> {
    f(&mut TABLE[slot(key)].lock())
}

/// Runs `f` with both keys' buckets locked and the value that the word at `address` has then. The word's page is
/// brought in first as often as needed.
pub(super) fn with_two<R>(
    first: &Key,
    second: &Key,
    address: usize,
    f: impl Fn(&mut Bucket, Option<&mut Bucket>, u32) -> Result<R>,
) -> Result<R> {
    loop {
        let (a, b) = (slot(first), slot(second));
        let result = if a == b {
            let mut bucket = TABLE[a].lock();
            mm::user::try_load_u32(address).map(|word| f(&mut bucket, None, word))
        } else {
            // Always in the same order, so that two calls cannot wait for each other.
            let (mut low, mut high) = (TABLE[a.min(b)].lock(), TABLE[a.max(b)].lock());
            let (source, target) = if a < b { (&mut low, &mut high) } else { (&mut high, &mut low) };
            mm::user::try_load_u32(address).map(|word| f(source, Some(target), word))
        };
        if let Some(result) = result {
            return result;
        }
        mm::user::load_u32(address)?;
    }
}

/// Takes the thread's entry for `key` out, wherever a requeue has moved it.
pub(super) fn remove(key: &Key, thread: &Thread) {
    let is_mine = |entry: &Entry| core::ptr::eq(Arc::as_ptr(&entry.thread), thread);
    let mut bucket = TABLE[slot(key)].lock();
    let before = bucket.0.len();
    bucket.0.retain(|entry| !(is_mine(entry) && entry.key == *key));
    if bucket.0.len() != before || thread.waiter().note() != 0 {
        return;
    }
    drop(bucket);
    // Moved by a requeue, which is rare: the other key is not known here.
    for other in &TABLE {
        other.lock().0.retain(|entry| !is_mine(entry));
    }
}

impl Bucket {
    pub(super) fn push(&mut self, entry: Entry) -> Result<()> {
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.0.push(entry);
        Ok(())
    }

    /// Wakes up to `count` plain waiters; `EINVAL` if one waits for a lock instead, as Linux says.
    pub(super) fn wake(&mut self, key: &Key, count: usize, bitset: u32) -> Result<usize> {
        let (mut woken, mut at) = (0, 0);
        while at < self.0.len() && woken < count {
            let entry = &self.0[at];
            if entry.key != *key {
                at += 1;
            } else if entry.kind != Kind::Plain {
                return if woken == 0 { Err(Errno::EINVAL) } else { Ok(woken) };
            } else if entry.bitset & bitset == 0 {
                at += 1;
            } else {
                self.0.remove(at).finish();
                woken += 1;
            }
        }
        Ok(woken)
    }

    /// Moves up to `limit` waiters to the key `to` (in `target`, or in this same bucket).
    pub(super) fn move_to(&mut self, from: &Key, to: &Key, target: Option<&mut Bucket>, limit: usize) -> usize {
        let mut moved = 0;
        match target {
            None => {
                for entry in self.0.iter_mut().filter(|entry| entry.key == *from).take(limit) {
                    entry.key = *to;
                    moved += 1;
                }
            }
            Some(target) => {
                let mut at = 0;
                while at < self.0.len() && moved < limit && target.0.try_reserve(1).is_ok() {
                    if self.0[at].key == *from {
                        let mut entry = self.0.remove(at);
                        entry.key = *to;
                        target.0.push(entry);
                        moved += 1;
                    } else {
                        at += 1;
                    }
                }
            }
        }
        moved
    }

    /// Takes the first waiter of this key that `wanted` accepts.
    pub(super) fn take_first(&mut self, key: &Key, wanted: impl Fn(&Kind) -> bool) -> Option<Entry> {
        let at = self.0.iter().position(|entry| entry.key == *key && wanted(&entry.kind))?;
        Some(self.0.remove(at))
    }

    /// True if somebody waits for the lock of this key.
    pub(super) fn has_lock_waiter(&self, key: &Key) -> bool {
        self.0.iter().any(|entry| entry.key == *key && entry.kind == Kind::Lock)
    }
}
