//! The two platforms of this crate: [`KVM`] and the plain [`PC`].

use core::sync::atomic::{AtomicU32, Ordering};

use hal_core::{Backend, BootInfo, Buses, Clock, Console, Cpu, Entropy, Interrupts, Mmu, Platform, Power, Result};
use hal_x86::cpu::X86Cpu;
use hal_x86::entropy::CpuEntropy;
use hal_x86::interrupts::ApicInterrupts;
use hal_x86::paging::X86Mmu;
use hal_x86::pci::PcBuses;
use hal_x86::power::PcPower;
use hal_x86::serial::SerialConsole;
use hal_x86::timer::TscClock;
use hal_x86::{arch, pc, signature};

use crate::pvclock;

/// KVM, whatever its user-space part (QEMU, Firecracker, Cloud Hypervisor).
pub static KVM: Backend = Backend { name: "kvm", detect: detect_kvm, init: |info| start(info, &KVM_PLATFORM) };

/// A PC with or without a hypervisor that nobody here knows; QEMU's TCG among them.
pub static PC: Backend = Backend { name: "pc", detect: |_| Some(1), init: |info| start(info, &PC_PLATFORM) };

static KVM_PLATFORM: PcPlatform = PcPlatform { name: "kvm" };
static PC_PLATFORM: PcPlatform = PcPlatform { name: "pc" };

/// KVM's signature (Linux Documentation/virt/kvm/x86/cpuid.rst).
const SIGNATURE: &[u8; 12] = b"KVMKVMKVM\0\0\0";

/// KVM's first CPUID leaf, 0 if there is none.
static LEAF: AtomicU32 = AtomicU32::new(0);

fn detect_kvm(_info: &'static BootInfo) -> Option<u8> {
    // The leaves mean something only if a hypervisor says that it is there.
    if arch::cpuid(1, 0)[2] & 1 << 31 == 0 {
        return None;
    }
    let leaf = signature::find(SIGNATURE, |leaf| arch::cpuid(leaf, 0))?;
    LEAF.store(leaf, Ordering::Relaxed);
    Some(50)
}

fn start(info: &'static BootInfo, platform: &'static PcPlatform) -> &'static dyn Platform {
    pc::init_early(info);
    platform
}

struct PcPlatform {
    name: &'static str,
}

impl Platform for PcPlatform {
    fn name(&self) -> &'static str {
        self.name
    }

    fn setup(&self, info: &'static BootInfo) -> Result<()> {
        pc::init_interrupts(self, info)?;
        let leaf = LEAF.load(Ordering::Relaxed);
        let paravirtual = leaf != 0 && pvclock::init(leaf);
        pc::init_clock(self, info);
        if !paravirtual {
            pc::init_wall_clock();
        }
        log::info!(
            "{}: clock {} at {} kHz, events by {}, {} CPUs",
            self.name,
            self.clock().source(),
            self.clock().tsc_khz(),
            hal_x86::timer::mode(),
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
