//! Link-time hooks: functions that the kernel image defines (as a global allocator is defined), so
//! that a frame handle or a lock costs a direct call, never a virtual one.
//!
//! The kernel defines them with `#[unsafe(no_mangle)] extern "Rust"`; with the feature `host`,
//! `host` below does so with the standard library.

unsafe extern "Rust" {
    /// Allocates one zeroed 4 KiB frame; returns its address in the direct map, or null when memory is out.
    pub(crate) fn __coracle_frame_alloc() -> *mut u8;
    /// Adds a reference to the frame at this direct-map address.
    pub(crate) fn __coracle_frame_get(frame: *mut u8);
    /// Drops a reference; the frame is freed with the last one.
    pub(crate) fn __coracle_frame_put(frame: *mut u8);
    /// How many references the frame has now.
    pub(crate) fn __coracle_frame_refs(frame: *mut u8) -> u32;
    /// A token for the running thread, for `__coracle_unpark`. Never 0.
    pub(crate) fn __coracle_park_token() -> usize;
    /// Blocks the running thread until it is unparked. A permit given earlier makes it return at once.
    pub(crate) fn __coracle_park();
    /// Gives the thread of this token its permit. The thread is alive: it waits for this call.
    pub(crate) fn __coracle_unpark(token: usize);
    /// Nanoseconds of the monotonic clock.
    pub(crate) fn __coracle_now_ns() -> u64;
    /// Nanoseconds since 1970-01-01 UTC.
    pub(crate) fn __coracle_wall_ns() -> u64;
    /// Disables interrupts on this CPU and returns whether they were enabled.
    pub(crate) fn __coracle_irq_save() -> bool;
    /// Enables interrupts again if `enabled`.
    pub(crate) fn __coracle_irq_restore(enabled: bool);
    /// Copies to the application's memory; returns the bytes not copied. Without `sleep` it stops at a page that
    /// is not present.
    pub(crate) fn __coracle_copy_to_user(to: usize, from: *const u8, len: usize, sleep: bool) -> usize;
    /// Copies from the application's memory; returns the bytes not copied.
    pub(crate) fn __coracle_copy_from_user(to: *mut u8, from: usize, len: usize, sleep: bool) -> usize;
    /// Brings the page in, for writing if `write`; false if there is none.
    pub(crate) fn __coracle_fault_in(address: usize, write: bool) -> bool;
}

#[cfg(feature = "host")]
mod host {
    use core::sync::atomic::{AtomicU32, Ordering};
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::boxed::Box;
    use std::time::{Instant, SystemTime};

    // One page, then the reference count behind it.
    fn layout() -> Layout {
        Layout::from_size_align(4096 + 64, 4096).expect("a constant layout")
    }

    fn count(frame: *mut u8) -> &'static AtomicU32 {
        // SAFETY: every frame of this allocator has 64 bytes behind its page that hold the count.
        unsafe { &*frame.add(4096).cast::<AtomicU32>() }
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_frame_alloc() -> *mut u8 {
        // SAFETY: the layout has a size above zero.
        let frame = unsafe { alloc_zeroed(layout()) };
        if !frame.is_null() {
            count(frame).store(1, Ordering::Relaxed);
        }
        frame
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_frame_get(frame: *mut u8) {
        count(frame).fetch_add(1, Ordering::Relaxed);
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_frame_put(frame: *mut u8) {
        if count(frame).fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: allocated above with this layout; the last reference is gone.
            unsafe { dealloc(frame, layout()) };
        }
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_frame_refs(frame: *mut u8) -> u32 {
        count(frame).load(Ordering::Acquire)
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_park_token() -> usize {
        // The handle lives until its unpark, which takes it back.
        Box::into_raw(Box::new(std::thread::current())) as usize
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_park() {
        std::thread::park();
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_unpark(token: usize) {
        // SAFETY: the token came from `__coracle_park_token` and each is unparked once.
        unsafe { Box::from_raw(token as *mut std::thread::Thread) }.unpark();
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_now_ns() -> u64 {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_wall_ns() -> u64 {
        SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64)
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_irq_save() -> bool {
        false
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_irq_restore(_enabled: bool) {}

    // On the host "user memory" is the test's own memory; only the first page is refused.
    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_copy_to_user(to: usize, from: *const u8, len: usize, _sleep: bool) -> usize {
        if to < 4096 {
            return len;
        }
        // SAFETY: tests pass addresses of buffers that they own.
        unsafe { core::ptr::copy_nonoverlapping(from, to as *mut u8, len) };
        0
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_copy_from_user(to: *mut u8, from: usize, len: usize, _sleep: bool) -> usize {
        if from < 4096 {
            return len;
        }
        // SAFETY: tests pass addresses of buffers that they own.
        unsafe { core::ptr::copy_nonoverlapping(from as *const u8, to, len) };
        0
    }

    #[unsafe(no_mangle)]
    extern "Rust" fn __coracle_fault_in(address: usize, _write: bool) -> bool {
        address >= 4096
    }
}
