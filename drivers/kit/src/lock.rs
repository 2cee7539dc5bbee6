//! The locks of the drivers: a plain one, and one for what an interrupt handler or a panic touches.

use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};

/// A spin lock that leaves the interrupt flag alone; never taken in an interrupt.
pub type Lock<T> = spin::mutex::SpinMutex<T>;

/// A spin lock held with interrupts disabled.
pub struct IrqLock<T>(Lock<T>);

/// Access to the value of an [`IrqLock`].
pub struct IrqGuard<'a, T> {
    inner: ManuallyDrop<spin::mutex::SpinMutexGuard<'a, T>>,
    enabled: bool,
}

impl<T> IrqLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(Lock::new(value))
    }

    /// Disables interrupts and takes the lock.
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let enabled = hal_core::cpu::irq_save();
        IrqGuard { inner: ManuallyDrop::new(self.0.lock()), enabled }
    }
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Drop for IrqGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: dropped here, once; the lock must be free before interrupts come back.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
        hal_core::cpu::irq_restore(self.enabled);
    }
}
