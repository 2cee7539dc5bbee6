//! [`Cpu`] by local APIC.

use core::fmt::Write;
use core::sync::atomic::{AtomicUsize, Ordering};

use hal_core::{Cpu, Result, VirtAddr, percpu};

use crate::local::CpuLocal;
use crate::{apic, arch, cpuinfo, interrupts, ipi, smp, traps};

static COUNT: AtomicUsize = AtomicUsize::new(1);

/// Fixes how many CPUs there are.
pub fn set_count(count: usize) {
    COUNT.store(count, Ordering::Relaxed);
}

/// The CPUs of a PC.
pub struct X86Cpu;

impl Cpu for X86Cpu {
    fn count(&self) -> usize {
        COUNT.load(Ordering::Relaxed)
    }

    fn start(&self, cpu: usize, stack_top: VirtAddr, entry: fn(usize) -> !) -> Result<()> {
        smp::start(cpu, stack_top, entry)
    }

    fn send_reschedule(&self, cpu: usize) {
        if let Some(local) = CpuLocal::of(cpu) {
            apic::send(local.apic_id(), interrupts::RESCHEDULE);
        }
    }

    fn stop_others(&self) {
        if !apic::is_up() || !traps::begin_stop() {
            return;
        }
        let this = percpu::cpu_id();
        for cpu in (0..self.count()).filter(|&cpu| cpu != this) {
            if let Some(local) = CpuLocal::of(cpu).filter(|l| l.running.load(Ordering::Acquire) != 0) {
                apic::send_nmi(local.apic_id());
            }
        }
    }

    #[inline]
    fn idle(&self) {
        ipi::enter_idle();
        // SAFETY: interrupt tables are loaded; `sti` takes effect after `hlt` began, so no wake-up is lost, and where it
        // takes effect earlier, `traps` skips the `hlt`.
        unsafe { traps::coracle_idle() };
        ipi::leave_idle();
    }

    fn hwcap(&self) -> (u64, u64) {
        let fsgsbase = arch::cpuid_checked(7, 0)[1] & 1;
        // HWCAP2_FSGSBASE is bit 1.
        (u64::from(arch::cpuid(1, 0)[3]), u64::from(fsgsbase) << 1)
    }

    fn describe(&self, out: &mut dyn Write) -> core::fmt::Result {
        cpuinfo::describe(out)
    }
}
