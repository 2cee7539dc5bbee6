//! PCI functions by configuration mechanism 1 (ports 0xcf8 and 0xcfc), and the memory-mapped mechanism for what lies
//! beyond 256 bytes (PCI Local Bus 3.0; PCI Firmware 3.0). (`pci_types` panics on a reserved BAR type: a device that
//! lies must not stop the machine.)

use alloc::sync::Arc;
use alloc::vec::Vec;

use hal_core::bus::{Bar, BusDevice, Buses, PciFunction};
use hal_core::interrupt::{Handler, MsiMessage};
use hal_core::{Error, PhysAddr, Result, VirtAddr};
use spin::Mutex;

use crate::{acpi, arch, mmio, pc};

const COMMAND: u16 = 0x04;
const CAPABILITIES: u16 = 0x34;
const INTERRUPT: u16 = 0x3c;
const CAPABILITY_MSI: u8 = 0x05;
const CAPABILITY_MSIX: u8 = 0x11;
/// In the upper half of the capability's first word: on, number of messages (3 bits), 64-bit address.
const MSI_ENABLE: u32 = 1 << 16;
const MSI_MESSAGES: u32 = 0x7 << 20;
const MSI_64: u32 = 1 << 23;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;
/// I/O, memory, bus master.
const DECODE: u32 = 0b111;
/// Line interrupt off.
const NO_LINE: u32 = 1 << 10;

/// One access at a time: the address port is shared.
static PORTS: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy, PartialEq, Eq)]
struct Address {
    bus: u8,
    device: u8,
    function: u8,
}

impl Address {
    fn select(self, offset: u16) -> u32 {
        1 << 31
            | u32::from(self.bus) << 16
            | u32::from(self.device) << 11
            | u32::from(self.function) << 8
            | u32::from(offset & 0xfc)
    }

    /// The register in memory-mapped configuration space.
    fn memory(self, offset: u16) -> Option<*mut u32> {
        let region =
            acpi::machine().pci.iter().find(|r| r.segment == 0 && (r.buses.0..=r.buses.1).contains(&self.bus))?;
        let at =
            region.base.0 + (u64::from(self.bus) << 20 | u64::from(self.device) << 15 | u64::from(self.function) << 12);
        let page = hal_core::platform().mmu().map_device(PhysAddr(at), 4096).ok()?;
        Some((page.0 + u64::from(offset & 0xffc)) as *mut u32)
    }

    fn read(self, offset: u16) -> u32 {
        if offset >= 256 {
            // SAFETY: a configuration register of this function.
            return self.memory(offset).map_or(u32::MAX, |at| unsafe { at.read_volatile() });
        }
        let _one = PORTS.lock();
        // SAFETY: the configuration ports, under their lock.
        unsafe {
            arch::outl(0xcf8, self.select(offset));
            arch::inl(0xcfc)
        }
    }

    fn write(self, offset: u16, value: u32) {
        if offset >= 256 {
            if let Some(at) = self.memory(offset) {
                // SAFETY: a configuration register of this function.
                unsafe { at.write_volatile(value) };
            }
            return;
        }
        let _one = PORTS.lock();
        // SAFETY: the configuration ports, under their lock.
        unsafe {
            arch::outl(0xcf8, self.select(offset));
            arch::outl(0xcfc, value);
        }
    }
}

/// A function of an ordinary device.
struct Function {
    address: Address,
    id: (u16, u16),
    msix: Option<Msix>,
    table: Mutex<Option<VirtAddr>>,
}

#[derive(Clone, Copy)]
struct Msix {
    capability: u16,
    vectors: u16,
    bar: u8,
    offset: u32,
}

impl Function {
    fn new(address: Address, id: (u16, u16)) -> Self {
        let msix = find_capability(address, CAPABILITY_MSIX).map(|capability| {
            let table = address.read(capability + 4);
            Msix {
                capability,
                vectors: (address.read(capability) >> 16 & 0x7ff) as u16 + 1,
                bar: (table & 7) as u8,
                offset: table & !7,
            }
        });
        Self { address, id, msix, table: Mutex::new(None) }
    }
}

/// Follows the list of capabilities; at most 48 fit in 192 bytes, so a loop ends.
fn find_capability(address: Address, id: u8) -> Option<u16> {
    if address.read(COMMAND) & 1 << 20 == 0 {
        return None;
    }
    let mut at = (address.read(CAPABILITIES) & 0xfc) as u16;
    for _ in 0..48 {
        if at < 0x40 {
            return None;
        }
        let head = address.read(at);
        if head as u8 == id {
            return Some(at);
        }
        at = (head >> 8 & 0xfc) as u16;
    }
    None
}

impl PciFunction for Function {
    fn location(&self) -> (u16, u8, u8, u8) {
        (0, self.address.bus, self.address.device, self.address.function)
    }

    fn id(&self) -> (u16, u16) {
        self.id
    }

    fn subsystem(&self) -> (u16, u16) {
        let word = self.address.read(0x2c);
        (word as u16, (word >> 16) as u16)
    }

    fn class(&self) -> (u8, u8, u8, u8) {
        let [revision, interface, subclass, class] = self.address.read(8).to_le_bytes();
        (class, subclass, interface, revision)
    }

    fn read(&self, offset: u16) -> u32 {
        self.address.read(offset)
    }

    fn write(&self, offset: u16, value: u32) {
        self.address.write(offset, value);
    }

    fn bar(&self, index: u8) -> Option<Bar> {
        if index > 5 {
            return None;
        }
        let at = 0x10 + u16::from(index) * 4;
        let a = self.address;
        let value = a.read(at);
        // Sizing writes all ones; decoding is off meanwhile.
        let command = a.read(COMMAND) & 0xffff;
        a.write(COMMAND, command & !3);
        a.write(at, u32::MAX);
        let size = a.read(at);
        a.write(at, value);
        let wide = value & 7 == 4 && index < 5;
        let (mut high, mut high_size) = (0, u32::MAX);
        if wide {
            high = a.read(at + 4);
            a.write(at + 4, u32::MAX);
            high_size = a.read(at + 4);
            a.write(at + 4, high);
        }
        a.write(COMMAND, command);
        if value & 1 != 0 {
            // Upper half may be fixed at 0 (16-bit decoding).
            let len = (!(size & !3)).wrapping_add(1) & 0xffff;
            return (len != 0).then_some(Bar::Io((value & 0xfffc) as u16, len));
        }
        let mask = u64::from(size & !0xf) | u64::from(high_size) << 32;
        if size & !0xf == 0 && (!wide || high_size == 0) {
            return None;
        }
        let len = (!mask).wrapping_add(1);
        let address = u64::from(value & !0xf) | u64::from(high) << 32;
        (len != 0).then_some(Bar::Memory(PhysAddr(address), len, value & 8 != 0))
    }

    fn enable(&self) {
        let command = self.address.read(COMMAND) & 0xffff;
        self.address.write(COMMAND, command & !NO_LINE | DECODE);
    }

    fn msix_vectors(&self) -> u16 {
        self.msix.map_or(0, |m| m.vectors)
    }

    fn set_msix(&self, index: u16, message: MsiMessage) -> Result<()> {
        let msix = self.msix.ok_or(Error::Unsupported)?;
        if index >= msix.vectors {
            return Err(Error::Invalid);
        }
        let mut table = self.table.lock();
        let base = match *table {
            Some(base) => base,
            None => {
                let Some(Bar::Memory(at, len, _)) = self.bar(msix.bar) else {
                    return Err(Error::Device("no memory register for the MSI-X table"));
                };
                let bytes = u64::from(msix.vectors) * 16;
                if at.0 == 0 || u64::from(msix.offset) + bytes > len {
                    return Err(Error::Device("the MSI-X table lies outside of its register"));
                }
                let base = hal_core::platform().mmu().map_device(at + u64::from(msix.offset), bytes)?;
                for entry in 0..u64::from(msix.vectors) {
                    mmio::write32(base + entry * 16 + 12, 1);
                }
                let control = self.address.read(msix.capability) & !MSIX_MASK_ALL;
                self.address.write(msix.capability, control | MSIX_ENABLE);
                let command = self.address.read(COMMAND) & 0xffff;
                self.address.write(COMMAND, command | NO_LINE | 0b110);
                *table = Some(base);
                base
            }
        };
        let entry = base + u64::from(index) * 16;
        mmio::write32(entry + 12, 1);
        mmio::write32(entry, message.address as u32);
        mmio::write32(entry + 4, (message.address >> 32) as u32);
        mmio::write32(entry + 8, message.data);
        mmio::write32(entry + 12, 0);
        Ok(())
    }

    fn has_msi(&self) -> bool {
        find_capability(self.address, CAPABILITY_MSI).is_some()
    }

    fn set_msi(&self, message: MsiMessage) -> Result<()> {
        let at = find_capability(self.address, CAPABILITY_MSI).ok_or(Error::Unsupported)?;
        let control = self.address.read(at);
        self.address.write(at + 4, message.address as u32);
        let wide = control & MSI_64 != 0;
        if wide {
            self.address.write(at + 8, (message.address >> 32) as u32);
        }
        let data = at + if wide { 12 } else { 8 };
        self.address.write(data, self.address.read(data) & 0xffff_0000 | message.data & 0xffff);
        self.address.write(at, control & !MSI_MESSAGES | MSI_ENABLE);
        let command = self.address.read(COMMAND) & 0xffff;
        self.address.write(COMMAND, command | NO_LINE | 0b110);
        Ok(())
    }

    fn attach_line(&self, handler: Handler) -> Result<()> {
        let [line, pin, ..] = self.address.read(INTERRUPT).to_le_bytes();
        if pin == 0 || line == 0 || line == 0xff {
            return Err(Error::Unsupported);
        }
        // Firmware stored the ISA interrupt that the PCI line is routed to.
        let (gsi, level, active_low) = pc::pci_line(line);
        hal_core::platform().interrupts().attach_line(gsi, level, active_low, handler)
    }

    fn map_bar(&self, index: u8) -> Result<(VirtAddr, u64)> {
        match self.bar(index) {
            Some(Bar::Memory(at, len, _)) if at.0 != 0 => Ok((hal_core::platform().mmu().map_device(at, len)?, len)),
            Some(_) => Err(Error::Device("a memory register without an address")),
            None => Err(Error::Invalid),
        }
    }

    fn io_read(&self, port: u16, width: u8) -> u32 {
        // SAFETY: the driver of this function reads its own registers.
        unsafe {
            match width {
                1 => u32::from(arch::inb(port)),
                2 => u32::from(arch::inw(port)),
                _ => arch::inl(port),
            }
        }
    }

    fn io_write(&self, port: u16, width: u8, value: u32) {
        // SAFETY: the driver of this function writes its own registers.
        unsafe {
            match width {
                1 => arch::outb(port, value as u8),
                2 => arch::outw(port, value as u16),
                _ => arch::outl(port, value),
            }
        }
    }
}

/// True if a device on bus 0 has this id. Works before the heap.
pub fn is_on_first_bus(id: (u16, u16)) -> bool {
    let word = u32::from(id.0) | u32::from(id.1) << 16;
    (0..32).any(|device| Address { bus: 0, device, function: 0 }.read(0) == word)
}

/// All functions of ordinary devices, bridges followed.
pub fn enumerate() -> Vec<BusDevice> {
    let mut found = Vec::new();
    let mut seen = [false; 256];
    scan_bus(0, &mut seen, &mut found);
    found
}

fn scan_bus(bus: u8, seen: &mut [bool; 256], found: &mut Vec<BusDevice>) {
    if core::mem::replace(&mut seen[usize::from(bus)], true) {
        return;
    }
    for device in 0..32 {
        let first = Address { bus, device, function: 0 };
        if first.read(0) as u16 == 0xffff {
            continue;
        }
        let functions = if first.read(0x0c) & 1 << 23 != 0 { 8 } else { 1 };
        for function in 0..functions {
            let address = Address { bus, device, function };
            let word = address.read(0);
            let id = (word as u16, (word >> 16) as u16);
            if id.0 == 0xffff {
                continue;
            }
            match address.read(0x0c) >> 16 & 0x7f {
                0 => found.push(BusDevice::Pci(Arc::new(Function::new(address, id)))),
                1 => scan_bus((address.read(0x18) >> 8) as u8, seen, found),
                _ => {}
            }
        }
    }
}

/// A PC's buses: PCI, and memory-mapped virtio devices that the command line names.
pub struct PcBuses;

impl Buses for PcBuses {
    fn enumerate(&self, command_line: &str) -> Vec<BusDevice> {
        let mut devices = mmio::enumerate(command_line);
        // Mechanism 1 answers in the address port's bit 31.
        // SAFETY: the configuration port, before any other access.
        let there = unsafe {
            arch::outl(0xcf8, 1 << 31);
            arch::inl(0xcf8) == 1 << 31
        };
        if there {
            devices.extend(enumerate());
        }
        devices
    }
}
