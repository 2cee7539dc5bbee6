//! The Coracle kernel: modules only. The order of start-up is in `boot`.
#![no_std]
#![no_main]

extern crate alloc;
extern crate hal_x86 as _;

mod boot;
mod chart;
mod klog;
mod panic;
mod symbols;

mod bump {
    use core::alloc::{GlobalAlloc, Layout};
    use core::sync::atomic::{AtomicUsize, Ordering};
    static mut HEAP: [u8; 1 << 16] = [0; 1 << 16];
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    struct Bump;
    // SAFETY: hands out each byte once.
    unsafe impl GlobalAlloc for Bump {
        unsafe fn alloc(&self, l: Layout) -> *mut u8 {
            let at = NEXT.fetch_add(l.size() + l.align(), Ordering::Relaxed);
            if at + l.size() + l.align() > 1 << 16 {
                return core::ptr::null_mut();
            }
            ((&raw mut HEAP as usize + at).next_multiple_of(l.align())) as *mut u8
        }
        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
    }
    #[global_allocator]
    static B: Bump = Bump;
}
#[unsafe(no_mangle)]
extern "Rust" fn __coracle_irq_save() -> bool {
    hal_core::cpu::irq_save()
}
#[unsafe(no_mangle)]
extern "Rust" fn __coracle_irq_restore(e: bool) {
    hal_core::cpu::irq_restore(e)
}
