//! The application's memory, as system calls see it: copies and atomic operations that survive a bad address.
//!
//! All of it goes to the space that this CPU has loaded, which is the running thread's. An access faults like the
//! application's own would; if the page cannot come, the access's fix-up runs and the caller sees `EFAULT`.
//! May sleep; hold no spin lock.

use alloc::vec::Vec;
use core::mem::MaybeUninit;

use base::{Errno, Result};
use hal_core::cpu::PageFault;
use hal_core::{PAGE_SIZE, VirtAddr};

use super::access::{self, Sleep};
use super::shrink;
use super::space::AddressSpace;
use super::vma::USER_END;

/// A type that every bit pattern is a value of, without padding: safe to read from the application's memory and
/// to show to it.
///
/// # Safety
/// As said: no invalid values, no padding, no pointers that the kernel would follow.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($t:ty),*) => { $(
        // SAFETY: an integer.
        unsafe impl Plain for $t {}
    )* };
}
plain!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize, u128);
// SAFETY: elements follow each other without padding.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// True if `len` bytes from `addr` lie in the application's half.
#[inline]
pub fn in_range(addr: usize, len: usize) -> bool {
    addr.checked_add(len).is_some_and(|end| end <= USER_END)
}

#[inline]
fn check(addr: usize, len: usize) -> Result<()> {
    if in_range(addr, len) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Reads a value.
#[inline]
pub fn read<T: Plain>(addr: usize) -> Result<T> {
    check(addr, size_of::<T>())?;
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination is ours and as long as the value; the source was checked to be the application's.
    let left = unsafe { access::copy(value.as_mut_ptr() as usize, addr, size_of::<T>(), Sleep::May) };
    if left != 0 {
        return Err(Errno::EFAULT);
    }
    // SAFETY: all bytes were written, and every pattern is a value.
    Ok(unsafe { value.assume_init() })
}

/// Writes a value.
#[inline]
pub fn write<T: Plain>(addr: usize, value: &T) -> Result<()> {
    check(addr, size_of::<T>())?;
    // SAFETY: the source is a value without padding, the destination was checked.
    let left = unsafe { access::copy(addr, core::ptr::from_ref(value) as usize, size_of::<T>(), Sleep::May) };
    if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Fills `to` from the application's memory.
pub fn read_bytes(addr: usize, to: &mut [u8]) -> Result<()> {
    check(addr, to.len())?;
    // SAFETY: the destination is borrowed, the source was checked.
    let left = unsafe { access::copy(to.as_mut_ptr() as usize, addr, to.len(), Sleep::May) };
    if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Writes `from` to the application's memory.
pub fn write_bytes(addr: usize, from: &[u8]) -> Result<()> {
    check(addr, from.len())?;
    // SAFETY: the source is borrowed, the destination was checked.
    let left = unsafe { access::copy(addr, from.as_ptr() as usize, from.len(), Sleep::May) };
    if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Reads `count` values. `ENOMEM` if they do not fit in memory.
pub fn read_slice<T: Plain>(addr: usize, count: usize) -> Result<Vec<T>> {
    let bytes = count.checked_mul(size_of::<T>()).ok_or(Errno::EFAULT)?;
    check(addr, bytes)?;
    let mut values = Vec::<T>::new();
    values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    // SAFETY: the vector has room for `bytes`; the source was checked.
    if unsafe { access::copy(values.as_mut_ptr() as usize, addr, bytes, Sleep::May) } != 0 {
        return Err(Errno::EFAULT);
    }
    // SAFETY: all of them were written, and every pattern is a value.
    unsafe { values.set_len(count) };
    Ok(values)
}

/// Writes values one after the other.
pub fn write_slice<T: Plain>(addr: usize, values: &[T]) -> Result<()> {
    check(addr, size_of_val(values))?;
    // SAFETY: the source is borrowed and has no padding, the destination was checked.
    let left = unsafe { access::copy(addr, values.as_ptr() as usize, size_of_val(values), Sleep::May) };
    if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Reads a string up to its zero byte, which is left out. `ENAMETOOLONG` if there is none in the first `max` bytes.
pub fn read_cstr(addr: usize, max: usize) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut at = addr;
    while text.len() < max {
        check(at, 1)?;
        // Never past the page: the next one need not be there.
        let chunk = (PAGE_SIZE - at % PAGE_SIZE).min(max - text.len()).min(128);
        let mut buffer = [0; 128];
        read_bytes(at, &mut buffer[..chunk])?;
        if let Some(end) = buffer[..chunk].iter().position(|&byte| byte == 0) {
            text.try_reserve(end).map_err(|_| Errno::ENOMEM)?;
            text.extend_from_slice(&buffer[..end]);
            return Ok(text);
        }
        text.try_reserve(chunk).map_err(|_| Errno::ENOMEM)?;
        text.extend_from_slice(&buffer[..chunk]);
        at += chunk;
    }
    Err(Errno::ENAMETOOLONG)
}

/// Writes `len` zeroes.
pub fn zero(addr: usize, len: usize) -> Result<()> {
    static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
    check(addr, len)?;
    for at in (0..len).step_by(PAGE_SIZE) {
        write_bytes(addr + at, &ZEROES[..PAGE_SIZE.min(len - at)])?;
    }
    Ok(())
}

fn check_word(addr: usize) -> Result<()> {
    if addr.is_multiple_of(4) { check(addr, 4) } else { Err(Errno::EINVAL) }
}

/// Reads a word atomically. `EINVAL` if not aligned.
#[inline]
pub fn load_u32(addr: usize) -> Result<u32> {
    check_word(addr)?;
    // SAFETY: checked to be the application's.
    unsafe { access::load(addr, Sleep::May) }.ok_or(Errno::EFAULT)
}

/// As [`load_u32`] under a spin lock: `None` if the page is not there.
#[inline]
pub fn try_load_u32(addr: usize) -> Option<u32> {
    check_word(addr).ok()?;
    // SAFETY: checked to be the application's.
    unsafe { access::load(addr, Sleep::Never) }
}

/// Stores `new` if the word is `old`; returns what it was. `EINVAL` if not aligned.
pub fn compare_exchange_u32(addr: usize, old: u32, new: u32) -> Result<u32> {
    check_word(addr)?;
    // SAFETY: checked to be the application's.
    unsafe { access::compare_exchange(addr, old, new, Sleep::May) }.ok_or(Errno::EFAULT)
}

/// As [`compare_exchange_u32`] under a spin lock: `None` if the page is not there for writing.
pub fn try_compare_exchange_u32(addr: usize, old: u32, new: u32) -> Option<u32> {
    check_word(addr).ok()?;
    // SAFETY: checked to be the application's.
    unsafe { access::compare_exchange(addr, old, new, Sleep::Never) }
}

/// Replaces the word by `change` of it, atomically; returns what it was. `EINVAL` if not aligned.
pub fn fetch_update_u32(addr: usize, change: impl Fn(u32) -> u32) -> Result<u32> {
    let mut old = load_u32(addr)?;
    loop {
        let seen = compare_exchange_u32(addr, old, change(old))?;
        if seen == old {
            return Ok(seen);
        }
        old = seen;
    }
}

/// Brings in the page of `addr`, for writing if `write`; false if there is none.
pub fn fault_in(addr: usize, write: bool) -> bool {
    let address = VirtAddr(addr as u64);
    let fault = PageFault { address, write, fetch: false, present: false, reserved: false };
    in_range(addr, 1) && AddressSpace::loaded().is_some_and(|space| space.fault(&fault).is_ok())
}

/// Resolves a page fault in kernel code at `ip`: where to go on, or `None` if it is a bug.
pub(super) fn kernel_fault(fault: &PageFault, ip: u64) -> Option<u64> {
    let (fixup, sleep) = access::find_fixup(ip)?;
    let at = fault.address.0 as usize;
    if sleep == Sleep::May
        && at < USER_END
        && let Some(space) = AddressSpace::loaded()
    {
        match space.fault(fault) {
            Ok(()) => return Some(ip),
            // The call fails with EFAULT; before the program sees that, memory must be found.
            Err(bad) if bad.is_out_of_memory() => shrink::note_shortage(),
            Err(_) => {}
        }
    }
    Some(fixup)
}
