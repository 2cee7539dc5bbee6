//! Firmware's description of the machine: CPUs, interrupt controllers, timers, power, PCI (by the `acpi` crate).

use alloc::vec::Vec;
use core::ptr::NonNull;

use ::acpi::fadt::Fadt;
use ::acpi::madt::{Madt, MadtEntry};
use ::acpi::sdt::{SdtHeader, Signature};
use ::acpi::{AcpiHandler, AcpiTable, AcpiTables, HpetInfo, PhysicalMapping};
use hal_core::{PhysAddr, Platform, memory};
use spin::Once;

use crate::s5;
use crate::tsc::Firmware;

/// A line whose wiring differs from ISA's: edge, active high, same number.
#[derive(Clone, Copy, Debug)]
pub struct Override {
    /// ISA interrupt.
    pub isa: u8,
    /// Global system interrupt.
    pub gsi: u32,
    /// Level-triggered.
    pub level: bool,
    /// Active low.
    pub active_low: bool,
}

/// Memory-mapped PCI configuration space of some buses.
#[derive(Clone, Copy, Debug)]
pub struct PciRegion {
    /// First byte, of bus 0 of the segment.
    pub base: PhysAddr,
    /// Segment group.
    pub segment: u16,
    /// Buses, both included.
    pub buses: (u8, u8),
}

/// How to switch off and reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct PowerPorts {
    /// PM1a and PM1b control ports.
    pub control: [Option<u16>; 2],
    /// Sleep types of S5 for the two.
    pub s5: Option<(u8, u8)>,
    /// Reset register: I/O port and value.
    pub reset_port: Option<(u16, u8)>,
    /// Hardware-reduced: sleep control register, memory or port, and its S5 type is `s5.0`.
    pub sleep_control: Option<Register>,
    /// Reset register in memory: address and value.
    pub reset_memory: Option<(PhysAddr, u8)>,
}

/// A generic address.
#[derive(Clone, Copy, Debug)]
pub enum Register {
    /// I/O port.
    Port(u16),
    /// Memory.
    Memory(PhysAddr),
}

/// Fixed events: the PM1a and PM1b blocks, each a status register and, as long, an enable register.
#[derive(Clone, Copy, Debug)]
pub struct EventBlock {
    blocks: [Option<u16>; 2],
    half: u16,
}

impl EventBlock {
    /// Ports of the status registers.
    pub fn status(&self) -> impl Iterator<Item = u16> {
        self.blocks.into_iter().flatten()
    }
    /// Ports of the enable registers.
    pub fn enable(&self) -> impl Iterator<Item = u16> {
        let half = self.half;
        self.status().map(move |port| port + half)
    }
}

/// All that is taken from the tables.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Local APIC registers.
    pub local_apic: u64,
    /// APIC numbers of usable CPUs, in firmware's order.
    pub cpus: Vec<u32>,
    /// I/O APICs: registers and first global system interrupt.
    pub io_apics: Vec<(PhysAddr, u32)>,
    /// ISA lines that are wired otherwise.
    pub overrides: Vec<Override>,
    /// Timers.
    pub timers: Firmware,
    /// Power.
    pub power: PowerPorts,
    /// PCI configuration spaces.
    pub pci: Vec<PciRegion>,
    /// OEM id of the root table ("BOCHS ", "VBOX  ").
    pub oem: [u8; 6],
    /// The system control interrupt.
    pub sci: Option<u16>,
    /// Fixed events.
    pub events: Option<EventBlock>,
    /// Port and value that hand ACPI's registers over from the BIOS.
    pub enable: Option<(u16, u8)>,
}

static MACHINE: Once<Machine> = Once::new();

/// The machine. Panics before [`init`].
pub fn machine() -> &'static Machine {
    MACHINE.get().expect("firmware tables are read early in set-up")
}

/// The machine, if known.
pub fn try_machine() -> Option<&'static Machine> {
    MACHINE.get()
}

#[derive(Clone)]
struct Mapper<'a>(&'a dyn Platform);

impl AcpiHandler for Mapper<'_> {
    unsafe fn map_physical_region<T>(&self, start: usize, size: usize) -> PhysicalMapping<Self, T> {
        let at = PhysAddr(start as u64);
        if self.0.mmu().map_direct(at, size as u64).is_err() {
            panic!("ACPI tables at {at:?} lie where they cannot be mapped");
        }
        let mut pointer = memory::direct::<T>(at);
        if size < size_of::<T>() {
            // A table of an older revision is shorter, and what is read of it as a whole may not be mapped behind it.
            let padded = alloc::vec![0u64; size_of::<T>().div_ceil(8)].leak();
            // SAFETY: just mapped, and shorter than the copy.
            unsafe { pointer.cast::<u8>().copy_to_nonoverlapping(padded.as_mut_ptr().cast(), size) };
            pointer = padded.as_mut_ptr().cast();
        }
        let pointer = NonNull::new(pointer).expect("the direct map is not at 0");
        // SAFETY: mapped for ever, or the copy, which stays too.
        unsafe { PhysicalMapping::new(start, pointer, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// Who made the firmware, by the root pointer (ACPI 6.4, section 5.2.5.3). Works before the heap.
pub fn root_oem(info: &hal_core::BootInfo) -> Option<[u8; 6]> {
    let root = crate::dmi::memory(info, info.rsdp?.0, 20)?;
    if root.starts_with(b"RSD PTR ") { root[9..15].try_into().ok() } else { None }
}

/// Reads the tables. Without any, a PC with one CPU is assumed.
pub fn init(platform: &dyn Platform, rsdp: Option<PhysAddr>) -> &'static Machine {
    MACHINE.call_once(|| {
        let mut machine = Machine { local_apic: 0xfee0_0000, ..Machine::default() };
        let mapper = Mapper(platform);
        // SAFETY: the address is the loader's; the BIOS area is searched by signature and checksum.
        let tables = unsafe {
            match rsdp {
                Some(at) => AcpiTables::from_rsdp(mapper.clone(), at.0 as usize),
                None => AcpiTables::search_for_rsdp_bios(mapper.clone()),
            }
        };
        match tables {
            // A machine with tables that name no I/O APIC has none.
            Ok(tables) => read_tables(&tables, &mut machine),
            Err(error) => {
                log::warn!("no ACPI tables ({error:?}): assuming one CPU and a PC's devices");
                machine.io_apics.push((PhysAddr(0xfec0_0000), 0));
            }
        }
        machine
    })
}

fn read_tables(tables: &AcpiTables<Mapper>, machine: &mut Machine) {
    if let Ok(madt) = tables.find_table::<Madt>() {
        read_madt(&madt, machine);
    }
    if let Ok(fadt) = tables.find_table::<Fadt>() {
        machine.oem = fadt_oem(&fadt);
        read_fadt(&fadt, machine);
        machine.power.s5 = tables.dsdt().ok().and_then(|dsdt| {
            let at = PhysAddr(dsdt.address as u64);
            // SAFETY: `dsdt` mapped the header only; the rest is mapped here before it is read.
            let code = unsafe {
                hal_core::platform().mmu().map_direct(at, u64::from(dsdt.length)).ok()?;
                core::slice::from_raw_parts(memory::direct::<u8>(at), dsdt.length as usize)
            };
            s5::find(code)
        });
    }
    if let Ok(hpet) = HpetInfo::new(tables)
        && hpet.base_address != 0
    {
        machine.timers.hpet = Some(PhysAddr(hpet.base_address as u64));
    }
    if let Ok(mcfg) = tables.find_table::<Mcfg>() {
        read_mcfg(&mcfg, machine);
    }
}

/// The PCI configuration table (PCI Firmware 3.0, section 4.1.2): 8 reserved bytes, then 16-byte entries.
#[repr(C, packed)]
struct Mcfg {
    header: SdtHeader,
    reserved: u64,
}

// SAFETY: begins with the header, as every table.
unsafe impl AcpiTable for Mcfg {
    const SIGNATURE: Signature = Signature::MCFG;
    fn header(&self) -> &SdtHeader {
        &self.header
    }
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct McfgEntry {
    base: u64,
    segment: u16,
    first: u8,
    last: u8,
    reserved: u32,
}

fn read_mcfg(table: &PhysicalMapping<Mapper, Mcfg>, machine: &mut Machine) {
    let bytes = table.region_length().saturating_sub(size_of::<Mcfg>());
    let entries = table.virtual_start().as_ptr().wrapping_add(1).cast::<McfgEntry>();
    for i in 0..bytes / size_of::<McfgEntry>() {
        // SAFETY: inside of the table, which is mapped whole.
        let entry = unsafe { entries.add(i).read_unaligned() };
        machine.pci.push(PciRegion {
            base: PhysAddr(entry.base),
            segment: entry.segment,
            buses: (entry.first, entry.last),
        });
    }
}

fn fadt_oem(fadt: &Fadt) -> [u8; 6] {
    AcpiTable::header(fadt).oem_id
}

fn read_madt(madt: &PhysicalMapping<Mapper, Madt>, machine: &mut Machine) {
    // The address follows the header (ACPI 6.4, table 5-19); the crate keeps it to itself.
    let header = size_of::<SdtHeader>();
    // SAFETY: the table is mapped whole, and a MADT is at least 44 bytes.
    machine.local_apic =
        u64::from(unsafe { madt.virtual_start().as_ptr().cast::<u8>().add(header).cast::<u32>().read_unaligned() });
    // SAFETY: as above: the table's bytes behind the local APIC's address and the flags.
    let entries = unsafe {
        let first = madt.virtual_start().as_ptr().cast::<u8>().add(header + 8);
        core::slice::from_raw_parts(first, madt.region_length().saturating_sub(header + 8))
    };
    if !entries_fit(entries) {
        log::error!("the firmware's table of interrupt controllers is damaged: assuming one CPU and a PC's devices");
        machine.io_apics.push((PhysAddr(0xfec0_0000), 0));
        return;
    }
    for entry in madt.get().entries() {
        match entry {
            // Enabled, or enabled later by hot-plug: only those that are there now.
            MadtEntry::LocalApic(e) if e.flags & 1 != 0 => machine.cpus.push(u32::from(e.apic_id)),
            MadtEntry::LocalX2Apic(e) if { e.flags } & 1 != 0 => {
                let id = e.x2apic_id;
                if !machine.cpus.contains(&id) {
                    machine.cpus.push(id);
                }
            }
            MadtEntry::IoApic(e) => {
                machine.io_apics.push((PhysAddr(u64::from(e.io_apic_address)), e.global_system_interrupt_base));
            }
            MadtEntry::InterruptSourceOverride(e) => {
                // MPS INTI flags (ACPI 6.4, table 5-21): polarity in bits 0-1, trigger in bits 2-3.
                let flags = e.flags;
                machine.overrides.push(Override {
                    isa: e.irq,
                    gsi: e.global_system_interrupt,
                    active_low: flags & 3 == 3,
                    level: flags >> 2 & 3 == 3,
                });
            }
            MadtEntry::LocalApicAddressOverride(e) => machine.local_apic = e.local_apic_address,
            _ => {}
        }
    }
}

/// Whether the entries' lengths (their second bytes) lead to the table's end: the `acpi` crate follows them without a look.
fn entries_fit(mut rest: &[u8]) -> bool {
    /// Length of the entry kinds that are read, by their numbers (ACPI 6.4, section 5.2.12); 2 is the least of any.
    const LEAST: [usize; 10] = [8, 12, 10, 2, 2, 12, 2, 2, 2, 16];
    while let [kind, len, ..] = *rest {
        let least = LEAST.get(usize::from(kind)).copied().unwrap_or(2);
        match rest.get(usize::from(len)..) {
            Some(behind) if usize::from(len) >= least => rest = behind,
            _ => return false,
        }
    }
    rest.is_empty()
}

fn read_fadt(fadt: &Fadt, machine: &mut Machine) {
    let port = |address: u64| u16::try_from(address).ok().filter(|&p| p != 0);
    let io = |g: &::acpi::address::GenericAddress| {
        (g.address_space == ::acpi::address::AddressSpace::SystemIo).then(|| port(g.address)).flatten()
    };
    machine.sci = Some(fadt.sci_interrupt);
    let flags = fadt.flags;
    if let Ok(Some(timer)) = fadt.pm_timer_block()
        && let Some(port) = io(&timer)
    {
        machine.timers.acpi_timer = Some((port, flags.pm_timer_is_32_bit()));
    }
    let a = fadt.pm1a_event_block().ok();
    machine.events = a.as_ref().filter(|block| block.bit_width >= 32).and_then(|block| {
        let b = fadt.pm1b_event_block().ok().flatten();
        let blocks = [Some(io(block)?), b.as_ref().and_then(io)];
        Some(EventBlock { blocks, half: u16::from(block.bit_width / 16) })
    });
    if !flags.power_button_is_control_method() {
        machine.enable = port(u64::from(fadt.smi_cmd_port)).map(|p| (p, fadt.acpi_enable));
    } else {
        // Then the button is a device of its own, which needs an interpreter.
        machine.events = None;
    }
    machine.power.control = [
        fadt.pm1a_control_block().ok().as_ref().and_then(io),
        fadt.pm1b_control_block().ok().flatten().as_ref().and_then(io),
    ];
    if let Ok(Some(sleep)) = fadt.sleep_control_register() {
        machine.power.sleep_control = match sleep.address_space {
            ::acpi::address::AddressSpace::SystemIo => port(sleep.address).map(Register::Port),
            ::acpi::address::AddressSpace::SystemMemory if sleep.address != 0 => {
                Some(Register::Memory(PhysAddr(sleep.address)))
            }
            _ => None,
        };
    }
    if flags.supports_system_reset_via_fadt()
        && let Ok(reset) = fadt.reset_register()
    {
        match reset.address_space {
            ::acpi::address::AddressSpace::SystemIo => {
                machine.power.reset_port = port(reset.address).map(|p| (p, fadt.reset_value));
            }
            ::acpi::address::AddressSpace::SystemMemory if reset.address != 0 => {
                machine.power.reset_memory = Some((PhysAddr(reset.address), fadt.reset_value));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_lengths_are_seen() {
        let cpu = [0, 8, 0, 0, 1, 0, 0, 0];
        let io = [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0];
        let good = [&cpu[..], &io].concat();
        assert!(entries_fit(&good) && entries_fit(&[]) && entries_fit(&[0x90, 3, 0]));
        for bad in [&good[..19], &good[..9], &[7, 0], &[0, 7, 0, 0, 0, 0, 0], &[1, 2], &[3, 9, 0]] {
            assert!(!entries_fit(bad), "{bad:?}");
        }
    }
}
