//! The platform of a PC whose hypervisor adds nothing but, perhaps, a clock.

use hal_core::{BootInfo, Buses, Clock, Console, Cpu, Entropy, Interrupts, Mmu, Platform, Power, Result};

use crate::cpu::X86Cpu;
use crate::entropy::CpuEntropy;
use crate::interrupts::ApicInterrupts;
use crate::paging::X86Mmu;
use crate::pc;
use crate::pci::PcBuses;
use crate::power::PcPower;
use crate::serial::SerialConsole;
use crate::timer::{self, TscClock};

/// A PC.
pub struct PcPlatform {
    /// Its name.
    pub name: &'static str,
    /// What told that it is there.
    pub told_by: fn() -> &'static str,
    /// Starts the hypervisor's clock, or takes its word for the counter's frequency, where it has such a thing: before
    /// the counter would be measured.
    pub start_clock: fn(&BootInfo),
    /// Sets the wall clock, when the monotonic one runs; false if that is to be done from the CMOS.
    pub set_wall_clock: fn() -> bool,
}

impl Platform for PcPlatform {
    fn name(&self) -> &'static str {
        self.name
    }

    fn told_by(&self) -> &'static str {
        (self.told_by)()
    }

    fn setup(&self, info: &'static BootInfo) -> Result<()> {
        pc::init_interrupts(self, info)?;
        (self.start_clock)(info);
        pc::init_clock(self, info);
        if !(self.set_wall_clock)() {
            pc::init_wall_clock();
        }
        log::info!(
            "{}: clock {} at {} kHz, events by {}, {} CPUs",
            self.name,
            self.clock().source(),
            self.clock().tsc_khz(),
            timer::mode(),
            self.cpu().count()
        );
        Ok(())
    }

    fn cpu(&self) -> &'static dyn Cpu {
        &X86Cpu
    }
    fn mmu(&self) -> &'static dyn Mmu {
        &X86Mmu
    }
    fn clock(&self) -> &'static dyn Clock {
        &TscClock
    }
    fn interrupts(&self) -> &'static dyn Interrupts {
        &ApicInterrupts
    }
    fn buses(&self) -> &'static dyn Buses {
        &PcBuses
    }
    fn console(&self) -> &'static dyn Console {
        &SerialConsole
    }
    fn power(&self) -> &'static dyn Power {
        &PcPower
    }
    fn entropy(&self) -> &'static dyn Entropy {
        &CpuEntropy
    }
}
