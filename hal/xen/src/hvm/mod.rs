//! PVH and HVM guests: a PC (without most of its devices, for PVH) with Xen's calls beside it. The two differ only in what
//! firmware and buses show, so they are one platform.

mod cpus;
mod start;
mod unplug;

use alloc::vec::Vec;

use hal_core::bus::BusDevice;
use hal_core::device::BalloonDevice;
use hal_core::{
    Backend, BootInfo, Buses, Clock, Console, Cpu, Entropy, Interrupts, Mmu, Platform, Power, Result, VirtAddr,
};
use hal_x86::cpu::X86Cpu;
use hal_x86::entropy::CpuEntropy;
use hal_x86::interrupts::ApicInterrupts;
use hal_x86::paging::X86Mmu;
use hal_x86::pc;
use hal_x86::pci::PcBuses;
use hal_x86::timer::{self, TscClock};

use crate::balloon::{self, XenBalloon};
use crate::console::RingConsole;
use crate::power::XenPower;
use crate::{bus, clock, control, features, store};

/// PVH and HVM, on Xen and on those who imitate it (QEMU on KVM).
pub static HVM: Backend = Backend { name: "xen", detect: start::detect, init };

static PLATFORM: HvmPlatform = HvmPlatform;

fn init(info: &'static BootInfo) -> &'static dyn Platform {
    pc::init_early(info);
    start::init();
    &PLATFORM
}

struct HvmPlatform;

impl Platform for HvmPlatform {
    fn name(&self) -> &'static str {
        "xen"
    }

    fn told_by(&self) -> &'static str {
        "CPUID XenVMMXenVMM"
    }

    fn setup(&self, info: &'static BootInfo) -> Result<()> {
        pc::init_interrupts(self, info)?;
        clock::init()?;
        if let Err(error) = cpus::init_events(0) {
            log::warn!("Xen's event channels do not work ({error:?}): its devices are not used");
            pc::init_clock(self, info);
        } else if let Err(error) = start::init_store().and_then(|()| control::init()).and_then(|()| balloon::init()) {
            log::warn!("the XenStore does not work ({error:?}): Xen's devices are not used");
        }
        let (major, minor) = features::version();
        log::info!(
            "xen {major}.{minor}: clock {} at {} kHz, events by {}, {} CPUs",
            self.clock().source(),
            self.clock().tsc_khz(),
            timer::mode(),
            self.cpu().count()
        );
        Ok(())
    }

    fn cpu(&self) -> &'static dyn Cpu {
        &HvmCpu
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
        &HvmBuses
    }
    fn console(&self) -> &'static dyn Console {
        &RingConsole
    }
    fn power(&self) -> &'static dyn Power {
        &XenPower
    }
    fn entropy(&self) -> &'static dyn Entropy {
        &CpuEntropy
    }
    fn deferred(&self) {
        store::service();
    }
    fn balloon(&self) -> Option<&'static dyn BalloonDevice> {
        store::is_up().then_some(&XenBalloon)
    }
}

/// Xen's devices, then PCI's, without those that are the same devices emulated.
struct HvmBuses;

impl Buses for HvmBuses {
    fn enumerate(&self, command_line: &str) -> Vec<BusDevice> {
        let mut devices = if store::is_up() { bus::enumerate() } else { Vec::new() };
        unplug::unplug(bus::has(&devices, "vbd"), bus::has(&devices, "vif"));
        devices.extend(PcBuses.enumerate(command_line));
        devices
    }
}

/// CPUs by APIC, signals by event channel.
struct HvmCpu;

impl Cpu for HvmCpu {
    fn count(&self) -> usize {
        X86Cpu.count()
    }
    fn start(&self, cpu: usize, stack_top: VirtAddr, entry: fn(usize) -> !) -> Result<()> {
        cpus::start(cpu, stack_top, entry)
    }
    #[inline]
    fn send_reschedule(&self, cpu: usize) {
        if !cpus::signal(cpu) {
            X86Cpu.send_reschedule(cpu);
        }
    }
    fn stop_others(&self) {
        X86Cpu.stop_others();
    }
    #[inline]
    fn idle(&self) {
        X86Cpu.idle();
    }
    fn hwcap(&self) -> (u64, u64) {
        X86Cpu.hwcap()
    }
    fn describe(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        X86Cpu.describe(out)
    }
}
