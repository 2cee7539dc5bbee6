//! A sleeping reader-writer lock: many readers or one writer; who must wait is parked, in order of arrival.
//!
//! For sections that may be long (copying an address space) or that sleep. Readers queue behind a waiting
//! writer, so a stream of readers cannot starve it; a thread must not take it for reading twice.

use alloc::collections::VecDeque;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::hooks;
use crate::sync::SpinLock;

const WRITER: u32 = 1 << 31;
/// Somebody may be parked.
const WAITERS: u32 = 1 << 30;
const READERS: u32 = WAITERS - 1;
/// How often a taken lock is looked at before its thread parks.
const SPINS: u32 = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

/// The lock.
pub struct SleepRwLock<T: ?Sized> {
    /// `WRITER`, `WAITERS` and the number of readers.
    state: AtomicU32,
    waiters: SpinLock<VecDeque<(Kind, usize)>>,
    value: UnsafeCell<T>,
}

/// Shared access.
pub struct ReadGuard<'a, T: ?Sized> {
    lock: &'a SleepRwLock<T>,
}

/// Exclusive access.
pub struct WriteGuard<'a, T: ?Sized> {
    lock: &'a SleepRwLock<T>,
}

// SAFETY: the lock gives exclusive access to one thread or shared access to many.
unsafe impl<T: ?Sized + Send> Send for SleepRwLock<T> {}
// SAFETY: as above; shared access needs `T: Sync`.
unsafe impl<T: ?Sized + Send + Sync> Sync for SleepRwLock<T> {}

impl<T> SleepRwLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), waiters: SpinLock::new(VecDeque::new()), value: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> SleepRwLock<T> {
    /// Takes the lock for reading.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, T> {
        let state = self.state.load(Ordering::Relaxed);
        if state & (WRITER | WAITERS) != 0
            || self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            self.wait(Kind::Read);
        }
        ReadGuard { lock: self }
    }

    /// Takes the lock for writing.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, T> {
        if self.state.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait(Kind::Write);
        }
        WriteGuard { lock: self }
    }

    /// The value, without locking, by exclusive borrow.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Takes it now if nobody holds it in a way that forbids `kind`.
    fn try_take(&self, kind: Kind) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let new = match kind {
                Kind::Read if state & WRITER == 0 => state + 1,
                Kind::Write if state & (WRITER | READERS) == 0 => state | WRITER,
                _ => return false,
            };
            match self.state.compare_exchange_weak(state, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    #[cold]
    fn wait(&self, kind: Kind) {
        let mut woken = false;
        loop {
            for _ in 0..SPINS {
                let queued = self.state.load(Ordering::Relaxed) & WAITERS != 0;
                if (woken || !queued) && self.try_take(kind) {
                    return;
                }
                core::hint::spin_loop();
            }
            let mut waiters = self.waiters.lock();
            // From here on every release that frees the lock comes to `wake` and waits for `waiters`.
            self.state.fetch_or(WAITERS, Ordering::Relaxed);
            if (woken || waiters.is_empty()) && self.try_take(kind) {
                if waiters.is_empty() {
                    self.state.fetch_and(!WAITERS, Ordering::Relaxed);
                }
                return;
            }
            // SAFETY: each token is unparked once, by the `wake` that takes it from the queue.
            let token = unsafe { hooks::__coracle_park_token() };
            if woken {
                waiters.push_front((kind, token));
            } else {
                waiters.push_back((kind, token));
            }
            // The lock is free and nobody else will release it: the head of the queue must be woken.
            if self.state.load(Ordering::Relaxed) & (WRITER | READERS) == 0 {
                Self::wake_first(&mut waiters);
            }
            drop(waiters);
            // SAFETY: this thread just queued its token.
            unsafe { hooks::__coracle_park() };
            woken = true;
        }
    }

    #[cold]
    fn wake(&self) {
        let mut waiters = self.waiters.lock();
        Self::wake_first(&mut waiters);
        if waiters.is_empty() {
            self.state.fetch_and(!WAITERS, Ordering::Relaxed);
        }
    }

    /// Wakes the first writer, or all readers at the head.
    fn wake_first(waiters: &mut VecDeque<(Kind, usize)>) {
        let mut first = true;
        while let Some(&(kind, token)) = waiters.front() {
            if kind == Kind::Write && !first {
                break;
            }
            waiters.pop_front();
            // SAFETY: the token's thread is parked or about to be, waiting for this call.
            unsafe { hooks::__coracle_unpark(token) };
            if kind == Kind::Write {
                break;
            }
            first = false;
        }
    }
}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while the lock is held for reading.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while the lock is held for writing.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard exists only while the lock is held for writing, by it alone.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let before = self.lock.state.fetch_sub(1, Ordering::Release);
        if before & READERS == 1 && before & WAITERS != 0 {
            self.lock.wake();
        }
    }
}

impl<T: ?Sized> Drop for WriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let before = self.lock.state.fetch_and(!WRITER, Ordering::Release);
        if before & WAITERS != 0 {
            self.lock.wake();
        }
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::vec::Vec;

    #[test]
    fn writers_exclude_and_nobody_sleeps_for_ever() {
        let lock = Arc::new(SleepRwLock::new((0u64, 0u64)));
        let reads = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..8)
            .map(|index| {
                let (lock, reads) = (lock.clone(), reads.clone());
                std::thread::spawn(move || {
                    for round in 0..5_000 {
                        if (round + index) % 4 == 0 {
                            let mut both = lock.write();
                            both.0 += 1;
                            if round % 64 == 0 {
                                std::thread::yield_now();
                            }
                            both.1 += 1;
                        } else {
                            let both = lock.read();
                            assert_eq!(both.0, both.1);
                            if round % 64 == 1 {
                                std::thread::yield_now();
                            }
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(lock.read().0, 8 * 5_000 / 4);
        assert_eq!(reads.load(Ordering::Relaxed), 8 * 5_000 * 3 / 4);
        assert_eq!(lock.state.load(Ordering::Relaxed), 0);
    }
}
