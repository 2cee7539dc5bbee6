//! Locks.
//!
//! [`SpinLock`] for short sections outside interrupt handlers (the kernel is not preempted, so it is
//! never held across a switch); [`IrqSpinLock`] for what interrupt handlers touch too; [`Mutex`] where
//! the holder may sleep (I/O, page faults on user memory).

use alloc::collections::VecDeque;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

pub use spin::{Lazy, Once};

use crate::hooks;

macro_rules! guard {
    ($guard:ident, $lock:ident) => {
        impl<T: ?Sized> Deref for $guard<'_, T> {
            type Target = T;
            fn deref(&self) -> &T {
                // SAFETY: the guard exists only while the lock is held.
                unsafe { &*self.lock.value.get() }
            }
        }
        impl<T: ?Sized> DerefMut for $guard<'_, T> {
            fn deref_mut(&mut self) -> &mut T {
                // SAFETY: the guard exists only while the lock is held by it alone.
                unsafe { &mut *self.lock.value.get() }
            }
        }
        // SAFETY: the lock gives exclusive access, so `T: Send` is enough.
        unsafe impl<T: ?Sized + Send> Send for $lock<T> {}
        // SAFETY: as above.
        unsafe impl<T: ?Sized + Send> Sync for $lock<T> {}
        impl<T: Default> Default for $lock<T> {
            fn default() -> Self {
                Self::new(T::default())
            }
        }
    };
}

#[inline]
fn spin_until_free(locked: &AtomicBool) {
    while locked.load(Ordering::Relaxed) {
        core::hint::spin_loop();
    }
}

/// A spin lock that leaves the interrupt flag alone. Not for anything an interrupt handler locks.
pub struct SpinLock<T: ?Sized> {
    locked: AtomicBool,
    value: UnsafeCell<T>,
}

/// Access to the value of a [`SpinLock`].
pub struct SpinGuard<'a, T: ?Sized> {
    lock: &'a SpinLock<T>,
}

impl<T> SpinLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { locked: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }
    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Takes the lock, spinning while another CPU has it.
    #[inline]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        while self.locked.swap(true, Ordering::Acquire) {
            spin_until_free(&self.locked);
        }
        SpinGuard { lock: self }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        // Not `then_some`: a guard that is made and dropped would free the holder's lock.
        (!self.locked.swap(true, Ordering::Acquire)).then(|| SpinGuard { lock: self })
    }

    /// The value, without locking, by exclusive borrow.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: ?Sized> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.locked.store(false, Ordering::Release);
    }
}

guard!(SpinGuard, SpinLock);

/// A spin lock held with interrupts disabled on this CPU.
pub struct IrqSpinLock<T: ?Sized> {
    locked: AtomicBool,
    value: UnsafeCell<T>,
}

/// Access to the value of an [`IrqSpinLock`].
pub struct IrqSpinGuard<'a, T: ?Sized> {
    lock: &'a IrqSpinLock<T>,
    irq_was_enabled: bool,
}

impl<T> IrqSpinLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { locked: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> IrqSpinLock<T> {
    /// Disables interrupts, then takes the lock.
    #[inline]
    pub fn lock(&self) -> IrqSpinGuard<'_, T> {
        loop {
            // SAFETY: balanced by `irq_restore` below or in the guard's drop.
            let irq_was_enabled = unsafe { hooks::__coracle_irq_save() };
            if !self.locked.swap(true, Ordering::Acquire) {
                return IrqSpinGuard { lock: self, irq_was_enabled };
            }
            // Wait with interrupts as they were: the holder may need this CPU to answer an IPI.
            // SAFETY: restores what was saved above.
            unsafe { hooks::__coracle_irq_restore(irq_was_enabled) };
            spin_until_free(&self.locked);
        }
    }
}

impl<T: ?Sized> Drop for IrqSpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.locked.store(false, Ordering::Release);
        // SAFETY: restores what `lock` saved.
        unsafe { hooks::__coracle_irq_restore(self.irq_was_enabled) };
    }
}

guard!(IrqSpinGuard, IrqSpinLock);

/// A sleeping lock: a thread that finds it taken is parked, in order of arrival.
pub struct Mutex<T: ?Sized> {
    /// 0 free, 1 held, 2 held and somebody may be parked.
    state: AtomicU32,
    waiters: SpinLock<VecDeque<usize>>,
    value: UnsafeCell<T>,
}

/// Access to the value of a [`Mutex`].
pub struct MutexGuard<'a, T: ?Sized> {
    lock: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), waiters: SpinLock::new(VecDeque::new()), value: UnsafeCell::new(value) }
    }
    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the lock; sleeps while another thread has it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if self.state.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_slow();
        }
        MutexGuard { lock: self }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.state.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok().map(|_| MutexGuard { lock: self })
    }

    /// The value, without locking, by exclusive borrow.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    #[cold]
    fn lock_slow(&self) {
        loop {
            let mut waiters = self.waiters.lock();
            // Under the waiters' lock, so that the unlock, which takes it too, sees us in the list.
            if self.state.swap(2, Ordering::Acquire) == 0 {
                if waiters.is_empty() {
                    self.state.store(1, Ordering::Relaxed);
                }
                return;
            }
            // SAFETY: each token is unparked once, by the unlock that takes it from the list.
            waiters.push_back(unsafe { hooks::__coracle_park_token() });
            drop(waiters);
            // SAFETY: this thread just queued its token.
            unsafe { hooks::__coracle_park() };
        }
    }

    #[cold]
    fn unlock_slow(&self) {
        let mut waiters = self.waiters.lock();
        let next = waiters.pop_front();
        self.state.store(0, Ordering::Release);
        drop(waiters);
        if let Some(token) = next {
            // SAFETY: the token's thread is parked or about to be, waiting for this call.
            unsafe { hooks::__coracle_unpark(token) };
        }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.lock.state.compare_exchange(1, 0, Ordering::Release, Ordering::Relaxed).is_err() {
            self.lock.unlock_slow();
        }
    }
}

guard!(MutexGuard, Mutex);

/// A spinning reader-writer lock for short sections outside interrupt handlers.
pub type RwLock<T> = spin::RwLock<T>;

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::vec::Vec;

    #[test]
    fn a_failed_try_lock_leaves_the_lock_alone() {
        let lock = SpinLock::new(1);
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        assert!(lock.try_lock().is_none(), "the first failure freed the holder's lock");
        drop(held);
        assert!(lock.try_lock().is_some());
        let mutex = Mutex::new(1);
        let held = mutex.lock();
        assert!(mutex.try_lock().is_none() && mutex.try_lock().is_none());
        drop(held);
        assert!(mutex.try_lock().is_some());
    }

    #[test]
    fn mutex_excludes_and_wakes_everyone() {
        let counter = Arc::new(Mutex::new(0u64));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let counter = counter.clone();
                std::thread::spawn(move || {
                    for _ in 0..10_000 {
                        *counter.lock() += 1;
                    }
                })
            })
            .collect();
        for t in threads {
            t.join().unwrap();
        }
        assert_eq!(*counter.lock(), 80_000);
    }
}
