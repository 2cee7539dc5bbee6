//! Restartable sequences (`rseq`): a program reads its CPU's number from memory, and a short sequence of its
//! instructions starts anew if the thread was preempted, moved or signalled in it.
//!
//! Layouts: uapi linux/rseq.h.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use base::{Errno, Result};
use hal_core::UserContext;

use super::signal::{self, SIGSEGV, SigInfo};
use crate::mm::{USER_END, user};

/// Bytes of `struct rseq` that have a meaning (`AT_RSEQ_FEATURE_SIZE`).
pub const FEATURE_SIZE: u64 = 24;
/// Its alignment (`AT_RSEQ_ALIGN`).
pub const ALIGN: u64 = 32;
/// Bytes of the first version, the least that may be registered.
const SIZE: u32 = 32;
const CPU_START: usize = 0;
const CRITICAL: usize = 8;
const NODE: usize = 20;
const UNINITIALISED: u32 = u32::MAX;

/// A thread's registration. Changed by the thread itself.
#[derive(Default)]
pub struct Rseq {
    /// 0 if none.
    address: AtomicUsize,
    length: AtomicU32,
    signature: AtomicU32,
    /// The CPU that the area was told last.
    cpu: AtomicU32,
}

impl Rseq {
    /// Registers an area.
    pub fn register(&self, address: usize, length: u32, signature: u32) -> Result<()> {
        let there = self.address.load(Ordering::Relaxed);
        if there != 0 {
            return Err(match () {
                () if there != address || self.length.load(Ordering::Relaxed) != length => Errno::EINVAL,
                () if self.signature.load(Ordering::Relaxed) != signature => Errno::EPERM,
                () => Errno::EBUSY,
            });
        }
        if length < SIZE || !address.is_multiple_of(ALIGN as usize) || address == 0 {
            return Err(Errno::EINVAL);
        }
        if !user::in_range(address, length as usize) {
            return Err(Errno::EFAULT);
        }
        user::write::<u64>(address + CRITICAL, &0)?;
        self.length.store(length, Ordering::Relaxed);
        self.signature.store(signature, Ordering::Relaxed);
        // Told before the thread returns: the number differs from every CPU's.
        self.cpu.store(UNINITIALISED, Ordering::Relaxed);
        self.address.store(address, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the registration.
    pub fn unregister(&self, address: usize, length: u32, signature: u32) -> Result<()> {
        let there = self.address.load(Ordering::Relaxed);
        if there == 0 || there != address || self.length.load(Ordering::Relaxed) != length {
            return Err(Errno::EINVAL);
        }
        if self.signature.load(Ordering::Relaxed) != signature {
            return Err(Errno::EPERM);
        }
        user::write::<[u32; 2]>(address + CPU_START, &[0, UNINITIALISED])?;
        self.forget();
        Ok(())
    }

    /// Forgets the registration: at an exec.
    pub fn forget(&self) {
        self.address.store(0, Ordering::Relaxed);
    }

    /// A forked child's: the same as the parent's, in its own copy of the memory.
    pub fn copy_from(&self, parent: &Self) {
        self.length.store(parent.length.load(Ordering::Relaxed), Ordering::Relaxed);
        self.signature.store(parent.signature.load(Ordering::Relaxed), Ordering::Relaxed);
        self.cpu.store(UNINITIALISED, Ordering::Relaxed);
        self.address.store(parent.address.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// True if the area names another CPU than the thread is on.
    #[inline]
    pub fn is_stale(&self) -> bool {
        self.address.load(Ordering::Relaxed) != 0
            && self.cpu.load(Ordering::Relaxed) != hal_core::percpu::cpu_id() as u32
    }

    /// Before the thread goes back to the application after it may have been preempted or moved, or is signalled:
    /// a sequence that it is in starts anew, and the CPU's number is brought up to date.
    pub fn before_return(&self, context: &mut UserContext) {
        let address = self.address.load(Ordering::Relaxed);
        if address == 0 {
            return;
        }
        // A page that could not come for want of memory is not the program's fault; a second try finds memory, or the
        // shortage.
        for _ in 0..3 {
            if self.refresh(address, context).is_ok() {
                return;
            }
            if crate::mm::frame::check_room().is_err() {
                // The area stays stale, so that this is tried again.
                self.cpu.store(UNINITIALISED, Ordering::Relaxed);
                return super::oom::out_of_memory();
            }
        }
        self.forget();
        signal::force(SigInfo::kernel(SIGSEGV));
    }

    fn refresh(&self, address: usize, context: &mut UserContext) -> Result<()> {
        let cpu = hal_core::percpu::cpu_id() as u32;
        self.restart(address, context)?;
        if self.cpu.load(Ordering::Relaxed) != cpu {
            user::write::<u32>(address + NODE, &0)?;
            user::write::<[u32; 2]>(address + CPU_START, &[cpu, cpu])?;
            self.cpu.store(cpu, Ordering::Relaxed);
        }
        Ok(())
    }

    fn restart(&self, address: usize, context: &mut UserContext) -> Result<()> {
        let critical: usize = user::read(address + CRITICAL)?;
        if critical == 0 {
            return Ok(());
        }
        // struct rseq_cs: version and flags, start, length, abort address.
        let [version, start, length, abort]: [u64; 4] = user::read(critical)?;
        let valid = version as u32 == 0 && start < USER_END as u64 && abort < USER_END as u64;
        if !valid || start.checked_add(length).is_none() || abort.wrapping_sub(start) < length {
            return Err(Errno::EINVAL);
        }
        user::write::<u64>(address + CRITICAL, &0)?;
        if context.rip.wrapping_sub(start) >= length {
            return Ok(());
        }
        let signature: u32 = user::read((abort as usize).checked_sub(4).ok_or(Errno::EINVAL)?)?;
        if signature != self.signature.load(Ordering::Relaxed) {
            return Err(Errno::EINVAL);
        }
        context.rip = abort;
        context.full = 1;
        Ok(())
    }
}
