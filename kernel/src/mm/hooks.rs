//! The hooks of `base` that memory management defines: frames and user memory.

use hal_core::memory::{direct, phys_of};

use super::frame;

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
