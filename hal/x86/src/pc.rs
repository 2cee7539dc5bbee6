//! Bringing up a PC: the order in which firmware tables, interrupt controllers, CPUs and clocks come to life. Backends
//! call these and add what is theirs.

use hal_core::{BootInfo, PhysAddr, Platform, Result};

use crate::{acpi, apic, cpu, ioapic, power, power_button, rtc, serial, smp, timer, tsc};

/// Before the heap: the second serial port, if it is wanted.
pub fn init_early(info: &BootInfo) {
    if has_word(info.command_line, b"stderr=com2") {
        serial::use_second_port();
    }
}

/// True if the command line has this token.
pub fn has_word(line: &[u8], word: &[u8]) -> bool {
    line.split(u8::is_ascii_whitespace).any(|token| token == word)
}

/// With the heap: interrupt controllers and CPUs.
pub fn init_interrupts(platform: &dyn Platform, info: &BootInfo) -> Result<()> {
    let machine = acpi::init(platform, info.rsdp);
    ioapic::mask_legacy();
    apic::init(platform, PhysAddr(machine.local_apic))?;
    for &(registers, first) in &machine.io_apics {
        ioapic::add(platform, registers, first)?;
    }
    cpu::set_count(smp::init(&machine.cpus));
    power::init(platform);
    power_button::init(platform, machine);
    Ok(())
}

/// The monotonic clock (unless the hypervisor's is in use already), the clock event, and the wall clock.
pub fn init_clock(platform: &dyn Platform, info: &BootInfo) {
    let count_khz = tsc::init(platform, &acpi::machine().timers, info.entry_tsc);
    timer::init(count_khz);
}

/// The wall clock from the CMOS.
pub fn init_wall_clock() {
    match rtc::read() {
        Some(seconds) => set_wall_ns(seconds * 1_000_000_000),
        None => log::warn!("the CMOS clock makes no sense: the wall clock starts at 1970"),
    }
}

/// Sets the wall clock to `ns` since 1970.
pub fn set_wall_ns(ns: u64) {
    let offset = ns.wrapping_sub(hal_core::clock::now_ns());
    hal_core::clock::PARAMS.wall_offset_ns.store(offset, core::sync::atomic::Ordering::Relaxed);
}

/// How an ISA interrupt is wired: global system interrupt, level-triggered, active low.
pub fn isa_line(isa: u8) -> (u32, bool, bool) {
    acpi::machine()
        .overrides
        .iter()
        .find(|o| o.isa == isa)
        .map_or((u32::from(isa), false, false), |o| (o.gsi, o.level, o.active_low))
}

/// How a PCI line is wired that firmware routed to an ISA interrupt: as firmware says, else as PCI lines are.
pub fn pci_line(isa: u8) -> (u32, bool, bool) {
    acpi::machine()
        .overrides
        .iter()
        .find(|o| o.isa == isa)
        .map_or((u32::from(isa), true, true), |o| (o.gsi, o.level, o.active_low))
}
