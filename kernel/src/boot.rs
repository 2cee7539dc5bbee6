//! The order of start-up.

use hal_core::BootInfo;

use crate::{chart, klog};

/// Called by the boot code on the boot CPU's stack, interrupts disabled.
#[unsafe(no_mangle)]
extern "Rust" fn kernel_main(info: &'static BootInfo) -> ! {
    chart::begin(info.entry_tsc);
    klog::init();
    chart::mark("entry");
    log::warn!("hello from {:#x}, {} ranges of memory", info.image.0, info.memory.len());
    panic!("nothing more to do");
}
