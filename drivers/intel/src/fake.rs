//! A network interface made of memory, for tests and fuzzing: keeps the registers, and plays the device's side of the rings
//! by the book or not. It works on host addresses, which are what the rings hold while the direct map's base is 0.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::{Mutex, MutexGuard};

use driver_kit::Io;
use hal_core::Result;
use hal_core::device::NetDevice;

use crate::model::Model;
use crate::nic::{Handlers, Nic};
use crate::registers::*;

/// Its address.
pub const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

struct State {
    registers: Vec<u32>,
    causes: u32,
    enabled: u32,
    /// Doorbells of the two rings.
    rings: [usize; 2],
    context: [u32; 4],
    resets: usize,
}

/// The fake.
pub struct FakeNic {
    state: Mutex<State>,
    handlers: Mutex<Option<Handlers>>,
    messages: bool,
    /// The address must be read from the EEPROM.
    pub address_in_eeprom: bool,
}

impl FakeNic {
    /// A device, with MSI-X or without.
    pub fn new(messages: bool, address_in_eeprom: bool) -> Arc<Self> {
        let fake = Self {
            state: Mutex::new(State {
                registers: Vec::new(),
                causes: 0,
                enabled: 0,
                rings: [0; 2],
                context: [0; 4],
                resets: 0,
            }),
            handlers: Mutex::new(None),
            messages,
            address_in_eeprom,
        };
        fake.reset();
        Arc::new(fake)
    }

    /// Lets the driver bring it up.
    pub fn start(self: &Arc<Self>) -> Result<Arc<dyn NetDevice>> {
        let model = Model { id: 0, segmentation: true, messages: self.messages };
        let me = self.clone();
        let nic = Nic::start(self.clone(), &model, move |handlers| {
            *me.handlers.lock().unwrap_or_else(|e| e.into_inner()) = Some(handlers);
            Ok(me.messages)
        })?;
        Ok(nic)
    }

    /// Unplugs it: the driver's memory goes with the driver.
    pub fn unplug(&self) {
        drop(self.handlers.lock().unwrap_or_else(|e| e.into_inner()).take());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn reset(&self) {
        let mut s = self.state();
        s.registers = alloc::vec![0; END / 4];
        s.registers[STATUS / 4] = STATUS_LU;
        (s.causes, s.enabled) = (0, 0);
        s.resets += 1;
        if !self.address_in_eeprom {
            s.registers[RAL / 4] = u32::from_le_bytes([MAC[0], MAC[1], MAC[2], MAC[3]]);
            s.registers[RAH / 4] = u32::from(MAC[4]) | u32::from(MAC[5]) << 8 | RAH_AV;
        }
    }

    /// A register, as it is.
    pub fn register(&self, offset: usize) -> u32 {
        self.state().registers[offset / 4]
    }

    /// Sets a register, as only the device can.
    pub fn set_register(&self, offset: usize, value: u32) {
        self.state().registers[offset / 4] = value;
    }

    /// How often the two tails were written.
    pub fn doorbells(&self) -> [usize; 2] {
        self.state().rings
    }

    /// How often it was reset.
    pub fn resets(&self) -> usize {
        self.state().resets
    }

    /// The causes that interrupt.
    pub fn enabled(&self) -> u32 {
        self.state().enabled
    }

    /// Raises causes, and interrupts if they are enabled.
    pub fn raise(&self, causes: u32) {
        let wanted = {
            let mut s = self.state();
            s.causes |= causes;
            s.causes & s.enabled
        };
        let handlers = self.handlers.lock().unwrap_or_else(|e| e.into_inner());
        let Some(handlers) = &*handlers else { return };
        let handler = match (wanted, self.messages) {
            (0, _) => return,
            (_, false) => &handlers.line,
            (w, true) if w & (CAUSE_RXQ0 | CAUSE_TXQ0) != 0 => &handlers.queues,
            (_, true) => &handlers.other,
        };
        handler.clone()();
    }

    fn at(&self, base: usize, entry: u32) -> usize {
        let address = self.register(base) as usize | (self.register(base + 4) as usize) << 32;
        let size = self.register(base + 8) / DESCRIPTOR as u32;
        address + (entry % size.max(1)) as usize * DESCRIPTOR
    }

    /// Puts a frame in the next buffer, with these bits; false if there is none.
    pub fn deliver(&self, frame: &[u8], status: u8, errors: u8) -> bool {
        let (head, tail) = (self.register(RDH), self.register(RDT));
        if head == tail || self.register(RCTL) & RCTL_EN == 0 {
            return false;
        }
        assert!(frame.len() <= crate::rx::BUFFER, "a test's mistake");
        let at = self.at(RDBAL, head);
        // SAFETY: the driver's ring lives for ever, and the buffer is the device's until it is done.
        unsafe {
            let to = (at as *const u64).read_volatile() as *mut u8;
            core::ptr::copy_nonoverlapping(frame.as_ptr(), to, frame.len());
        }
        self.put_received(head, frame.len() as u16, status | RX_DD, errors);
        self.set_register(RDH, head.wrapping_add(1) % (self.register(RDLEN) / DESCRIPTOR as u32));
        true
    }

    /// Writes the device's part of a receive descriptor, true or not.
    pub fn put_received(&self, entry: u32, len: u16, status: u8, errors: u8) {
        if self.register(RDLEN) == 0 {
            return;
        }
        let at = self.at(RDBAL, entry);
        // SAFETY: inside the ring; these bytes are the device's to write.
        unsafe {
            ((at + 8) as *mut u16).write_volatile(len);
            ((at + 13) as *mut u8).write_volatile(errors);
            ((at + 12) as *mut u8).write_volatile(status);
        }
    }

    /// Says that a send descriptor is done, true or not.
    pub fn put_sent(&self, entry: u32) {
        if self.register(TDLEN) == 0 {
            return;
        }
        let at = self.at(TDBAL, entry);
        // SAFETY: inside the ring; the status byte is the device's to write.
        unsafe { ((at + 12) as *mut u8).write_volatile(TX_DD) };
    }

    /// Sends up to `most` packets that wait; returns the frames as they are on the wire.
    pub fn transmit(&self, most: usize) -> Vec<Vec<u8>> {
        let mut wire = Vec::new();
        let (mut data, mut packets) = (Vec::new(), 0);
        let size = self.register(TDLEN) / DESCRIPTOR as u32;
        let mut head = self.register(TDH);
        let tail = self.register(TDT);
        assert!(tail < size.max(1), "the tail lies outside of the ring");
        while head != tail && packets < most {
            let at = self.at(TDBAL, head);
            // SAFETY: the driver's descriptor, which it has shown.
            let [a, b, command, options] = unsafe { (at as *const [u32; 4]).read_volatile() };
            if command & TX_DATA == 0 {
                assert_ne!(command & TX_DEXT, 0, "only extended descriptors are used");
                self.state().context = [a, b, command, options];
            } else {
                let from = (a as usize | (b as usize) << 32) as *const u8;
                let len = (command & 0xf_ffff) as usize;
                assert!(len > 0 && len <= 16288, "a piece of {len} bytes");
                // SAFETY: a piece of a packet that the driver keeps until it is done.
                data.extend_from_slice(unsafe { core::slice::from_raw_parts(from, len) });
                if command & TX_EOP != 0 {
                    assert_ne!(command & TX_RS, 0, "nobody would know when it is sent");
                    self.finish(core::mem::take(&mut data), command, options, &mut wire);
                    packets += 1;
                    self.put_sent(head);
                }
            }
            head = (head + 1) % size;
            self.set_register(TDH, head);
        }
        wire
    }

    /// Checksums and segments.
    fn finish(&self, mut data: Vec<u8>, command: u32, options: u32, wire: &mut Vec<Vec<u8>>) {
        let [ip, transport, context, cut] = self.state().context;
        let (start, field) = ((transport & 0xff) as usize, (transport >> 8 & 0xff) as usize);
        if command & TX_TSE == 0 {
            if options & TX_TXSM != 0 {
                checksum(&mut data, start, field);
            }
            return wire.push(data);
        }
        let (headers, size) = ((cut >> 8 & 0xff) as usize, (cut >> 16) as usize);
        assert_eq!((context & 0xf_ffff) as usize, data.len() - headers, "the payload's length");
        let (ip_start, ip_field, ip_end) = ((ip & 0xff) as usize, (ip >> 8 & 0xff) as usize, (ip >> 16) as usize);
        for (number, payload) in data[headers..].chunks(size).enumerate() {
            let mut frame = data[..headers].to_vec();
            frame.extend_from_slice(payload);
            let ip_len = (frame.len() - ip_start) as u16;
            frame[ip_start + 2..ip_start + 4].copy_from_slice(&ip_len.to_be_bytes());
            let sequence = u32::from_be_bytes(*frame[start + 4..].first_chunk().unwrap()) + (number * size) as u32;
            frame[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
            // The device adds the length to the pseudo-header's sum.
            let sum = u32::from(u16::from_be_bytes([frame[field], frame[field + 1]])) + (frame.len() - start) as u32;
            let sum = (sum & 0xffff) + (sum >> 16);
            frame[field..field + 2].copy_from_slice(&(sum as u16).to_be_bytes());
            checksum(&mut frame, start, field);
            let mut header = frame[..=ip_end].to_vec();
            checksum(&mut header, ip_start, ip_field);
            frame[..=ip_end].copy_from_slice(&header);
            wire.push(frame);
        }
    }
}

/// The Internet checksum of the bytes from `start` on, put at `field`.
fn checksum(data: &mut [u8], start: usize, field: usize) {
    let sum = !sum(&data[start..]);
    data[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The folded sum of bytes.
pub fn sum(data: &[u8]) -> u16 {
    let mut sum: u32 =
        data.chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], p.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Io for FakeNic {
    fn read(&self, offset: usize) -> u32 {
        let mut s = self.state();
        match offset {
            // With messages, reading does not clear.
            ICR if self.messages => s.causes,
            ICR => core::mem::take(&mut s.causes),
            _ => s.registers.get(offset / 4).copied().unwrap_or(u32::MAX),
        }
    }

    fn write(&self, offset: usize, value: u32) {
        assert!(offset < END && offset.is_multiple_of(4), "no such register: {offset:#x}");
        if offset == CTRL && value & CTRL_RST != 0 {
            return self.reset();
        }
        let mut s = self.state();
        match offset {
            ICR => s.causes &= !value,
            IMS => s.enabled |= value,
            IMC => s.enabled &= !value,
            EERD => {
                let word = (value >> 8 & 0xff) as usize;
                let data = MAC.get(2 * word..2 * word + 2).map_or(0, |b| u32::from(b[0]) | u32::from(b[1]) << 8);
                s.registers[EERD / 4] = data << 16 | 1 << 4;
            }
            STATUS => {}
            _ => {
                s.registers[offset / 4] = value;
                match offset {
                    RDT => s.rings[0] += 1,
                    TDT => s.rings[1] += 1,
                    _ => {}
                }
            }
        }
    }
}
