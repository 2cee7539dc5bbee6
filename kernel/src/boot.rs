//! The order of start-up.

use hal_core::BootInfo;

use crate::{backends, chart, klog, mm};

/// Called by the boot code on the boot CPU's stack, interrupts disabled.
#[unsafe(no_mangle)]
extern "Rust" fn kernel_main(info: &'static BootInfo) -> ! {
    chart::begin(info.entry_tsc);
    klog::init();
    chart::mark("entry");
    hal_core::set_platform(backends::choose(info));
    chart::mark("backend");
    mm::init(info);
    chart::mark("memory");
    if let Err(error) = hal_core::platform().setup(info) {
        panic!("the platform cannot be used: {error:?}");
    }
    chart::mark("platform");
    klog::set_level(log::LevelFilter::Debug);
    chart::print();
    panic!("nothing more to do");
}
