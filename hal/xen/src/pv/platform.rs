//! The platform of a PV guest.

use alloc::vec::Vec;

use hal_core::bus::BusDevice;
use hal_core::device::BalloonDevice;
use hal_core::interrupt::{Handler, MsiMessage};
use hal_core::{
    Backend, BootInfo, Buses, Clock, Console, Cpu, Entropy, Error, Interrupts, Mmu, Platform, Power, Result,
};
use hal_x86::entropy::CpuEntropy;

use super::balloon::PvBalloon;
use super::clock::PvClock;
use super::cpu::PvCpus;
use super::mmu::PvMmu;
use super::{cpu, start};
use crate::console::RingConsole;
use crate::power::XenPower;
use crate::{balloon, bus, clock, control, features, store};

/// A Xen PV guest. No other backend can be right if the entry was this one's.
pub static PV: Backend = Backend { name: "xen-pv", detect: |_| start::entered().then_some(100), init: |_| &PLATFORM };

static PLATFORM: PvPlatform = PvPlatform;

struct PvPlatform;

/// There are none but event channels, which drivers get by `crate::services`.
struct NoInterrupts;

impl Interrupts for NoInterrupts {
    fn allocate_message(&self, _cpu: usize, _handler: Handler) -> Result<MsiMessage> {
        Err(Error::Unsupported)
    }
    fn attach_line(&self, _gsi: u32, _level: bool, _active_low: bool, _handler: Handler) -> Result<()> {
        Err(Error::Unsupported)
    }
}

struct PvBuses;

impl Buses for PvBuses {
    fn enumerate(&self, _command_line: &str) -> Vec<BusDevice> {
        if store::is_up() { bus::enumerate() } else { Vec::new() }
    }
}

impl Platform for PvPlatform {
    fn name(&self) -> &'static str {
        "xen-pv"
    }

    fn told_by(&self) -> &'static str {
        "the PV entry"
    }

    fn setup(&self, _info: &'static BootInfo) -> Result<()> {
        clock::init()?;
        cpu::init()?;
        let info = start::info();
        balloon::set_frames(info.pages);
        // SAFETY: the page was mapped at the start, and stays so; all its fields are atomic.
        match store::init(unsafe { &*start::store_page() }, info.store_port).and_then(|()| control::init()) {
            Ok(()) => {
                cpu::leave_out_offline();
                balloon::init()?;
            }
            Err(error) => log::warn!("the XenStore does not work ({error:?}): Xen's devices are not used"),
        }
        let (major, minor) = features::version();
        log::info!(
            "xen {major}.{minor}, pv: clock {} at {} kHz, {} CPUs",
            self.clock().source(),
            self.clock().tsc_khz(),
            self.cpu().count()
        );
        Ok(())
    }

    fn balloon(&self) -> Option<&'static dyn BalloonDevice> {
        store::is_up().then_some(&PvBalloon)
    }
    fn deferred(&self) {
        store::service();
    }
    fn cpu(&self) -> &'static dyn Cpu {
        &PvCpus
    }
    fn mmu(&self) -> &'static dyn Mmu {
        &PvMmu
    }
    fn clock(&self) -> &'static dyn Clock {
        &PvClock
    }
    fn interrupts(&self) -> &'static dyn Interrupts {
        &NoInterrupts
    }
    fn buses(&self) -> &'static dyn Buses {
        &PvBuses
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
}
