//! What the backend calls in the kernel.

use hal_core::cpu::{KernelTrap, PageFault};

use super::{cpu, run, timer, work};

static DEFERRED: base::Once<work::WorkId> = base::Once::new();

pub(super) struct Upcalls;

pub(super) static UPCALLS: Upcalls = Upcalls;

impl hal_core::Kernel for Upcalls {
    fn timer(&self) {
        timer::interrupt(cpu::this());
    }

    fn reschedule(&self) {
        work::notice();
        run::reschedule_requested();
    }

    fn kernel_page_fault(&self, fault: &PageFault, ip: u64) -> Option<u64> {
        crate::mm::kernel_fault(fault, ip)
    }

    fn fatal(&self, trap: &KernelTrap) -> ! {
        crate::panic::fatal_trap(trap)
    }

    fn defer(&self) {
        work::raise(*DEFERRED.call_once(|| work::register(|_cpu| hal_core::platform().deferred())));
    }

    fn shutdown_requested(&self) {
        crate::process::shutdown_requested();
    }
}
