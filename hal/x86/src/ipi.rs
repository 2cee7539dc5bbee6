//! Signals between CPUs: TLB flushes that wait for their answer.

use hal_core::cpu::CpuSet;
use hal_core::mmu::Flush;

/// Flushes on these CPUs and waits until they have done it.
pub fn flush_cpus(cpus: &CpuSet, what: Flush) {
    if cpus.contains(hal_core::percpu::cpu_id()) {
        crate::paging::flush_local(what);
    }
}
