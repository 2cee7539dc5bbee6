//! A value that one thread owns and others look at: the owner reads it without a lock.

use core::cell::UnsafeCell;

use base::SpinLock;

/// Owned by a thread (the one whose [`super::ThreadExt`] it is in): [`OwnerCell::with`] and [`OwnerCell::replace`] are for
/// that thread, or before it runs; [`OwnerCell::peek`] is for everybody.
#[derive(Default)]
pub struct OwnerCell<T> {
    /// Held to replace the value, and by others to read it.
    lock: SpinLock<()>,
    value: UnsafeCell<T>,
}

// SAFETY: the value only changes under `lock` and by its owner; the owner reads it without the lock, others
// under it (`peek` clones). `T: Sync` since owner and others may read at once.
unsafe impl<T: Send + Sync> Sync for OwnerCell<T> {}

impl<T: Clone> OwnerCell<T> {
    /// With this value.
    pub const fn new(value: T) -> Self {
        Self { lock: SpinLock::new(()), value: UnsafeCell::new(value) }
    }

    /// Lends the value to `f`, which must not replace it. For the owner.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        // SAFETY: only the owner replaces the value, and the owner is in here.
        f(unsafe { &*self.value.get() })
    }

    /// Puts in a new value and returns the old one. For the owner, outside of [`OwnerCell::with`].
    pub fn replace(&self, value: T) -> T {
        let _guard = self.lock.lock();
        // SAFETY: the owner is not in `with`, and others are kept out by the lock.
        unsafe { core::mem::replace(&mut *self.value.get(), value) }
    }

    /// A copy of the value. For any thread.
    pub fn peek(&self) -> T {
        let _guard = self.lock.lock();
        // SAFETY: the lock keeps the owner from replacing it.
        unsafe { (*self.value.get()).clone() }
    }
}
