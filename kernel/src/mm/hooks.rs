//! The hooks of `base` that memory management defines: frames and user memory.

use hal_core::memory::{direct, phys_of};

use super::access::{self, Sleep};
use super::{frame, user};

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_frame_alloc() -> *mut u8 {
    frame::alloc_zeroed().map_or(core::ptr::null_mut(), direct)
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_frame_get(at: *mut u8) {
    frame::get(phys_of(at));
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_frame_put(at: *mut u8) {
    // SAFETY: the handle that calls this owns a reference and ends.
    unsafe { frame::put(phys_of(at)) };
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_frame_refs(at: *mut u8) -> u32 {
    frame::refs(phys_of(at))
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_copy_to_user(to: usize, from: *const u8, len: usize, sleep: bool) -> usize {
    if !user::in_range(to, len) {
        return len;
    }
    // SAFETY: the destination is the application's, the source the caller's.
    unsafe { access::copy(to, from as usize, len, if sleep { Sleep::May } else { Sleep::Never }) }
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_copy_from_user(to: *mut u8, from: usize, len: usize, sleep: bool) -> usize {
    if !user::in_range(from, len) {
        return len;
    }
    // SAFETY: the source is the application's, the destination the caller's.
    unsafe { access::copy(to as usize, from, len, if sleep { Sleep::May } else { Sleep::Never }) }
}

#[unsafe(no_mangle)]
extern "Rust" fn __coracle_fault_in(address: usize, write: bool) -> bool {
    user::fault_in(address, write)
}
