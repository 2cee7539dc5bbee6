//! A controller made of memory, for tests and fuzzing: keeps the registers of its ports, and serves commands by the book or
//! not. It works on host addresses, which are what the tables hold while the direct map's base is 0.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::{Mutex, MutexGuard};

use ata::identify::example;
use driver_kit::Io;
use hal_core::Result;
use hal_core::device::BlockDevice;
use hal_core::interrupt::Handler;

use crate::command::FRAME;
use crate::registers::*;

/// Sectors of each disk.
pub const SECTORS: usize = 256;

/// A port and what is at it.
#[derive(Clone, Default)]
struct Port {
    registers: [u32; PORT / 4],
    /// Commands that the driver has issued, those of them that are queued, and what it has said of queued ones since. The
    /// registers may say anything.
    issued: u32,
    queued: u32,
    tags: u32,
    /// The disk's contents; none: nothing is there.
    medium: Vec<u8>,
    signature: u32,
    depth: u16,
    flushes: usize,
    /// Frames of commands served, but for the descriptions.
    served: Vec<[u8; FRAME]>,
    resets: usize,
}

struct State {
    capabilities: u32,
    control: u32,
    pending: u32,
    ports: Vec<Port>,
    /// Nothing changes any more, whatever is written.
    stuck: bool,
}

/// The fake.
pub struct FakeHba {
    state: Mutex<State>,
    handler: Mutex<Option<Handler>>,
}

/// Bytes of sector `n` of a fresh disk.
pub fn pattern(n: usize) -> u8 {
    (n * 7 + 1) as u8
}

impl FakeHba {
    /// A controller with disks that queue up to so many commands (0: none), at ports 0, 2, 4...
    pub fn new(depths: &[u16]) -> Arc<Self> {
        let port = |depth: &u16| {
            let medium = (0..SECTORS * 512).map(|i| pattern(i / 512)).collect();
            [Port { medium, signature: 0x101, depth: *depth, ..Port::default() }, Port::default()]
        };
        let fake = Self {
            state: Mutex::new(State {
                capabilities: CAP_S64A | CAP_SNCQ | 31 << 8,
                control: 0,
                pending: 0,
                ports: depths.iter().flat_map(port).collect(),
                stuck: false,
            }),
            handler: Mutex::new(None),
        };
        Arc::new(fake)
    }

    /// Makes the device at a port a CD-ROM.
    pub fn make_packet_device(&self, port: usize) {
        self.state().ports[port].signature = SIG_PACKET;
    }

    /// Lets the driver bring it up.
    pub fn start(self: &Arc<Self>) -> Result<Vec<Arc<dyn BlockDevice>>> {
        let me = self.clone();
        crate::attach(self.clone(), move |handler| {
            *me.handler.lock().unwrap_or_else(|e| e.into_inner()) = Some(handler);
            Ok(())
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Unplugs it: the driver's memory goes with the driver.
    pub fn unplug(&self) {
        drop(self.handler.lock().unwrap_or_else(|e| e.into_inner()).take());
    }

    /// Sets a port's register, as only the device can.
    pub fn set(&self, port: usize, register: usize, value: u32) {
        self.state().ports[port].registers[register / 4] = value;
    }

    /// A port's register.
    pub fn get(&self, port: usize, register: usize) -> u32 {
        self.state().ports[port].registers[register / 4]
    }

    /// From now on nothing changes.
    pub fn get_stuck(&self) {
        self.state().stuck = true;
    }

    /// How often a port's link was reset, how often it was flushed, and the frames that it has served.
    pub fn history(&self, port: usize) -> (usize, usize, Vec<[u8; FRAME]>) {
        let s = self.state();
        (s.ports[port].resets, s.ports[port].flushes, s.ports[port].served.clone())
    }

    /// A disk's contents.
    pub fn medium(&self, port: usize) -> Vec<u8> {
        self.state().ports[port].medium.clone()
    }

    /// Interrupts, with these causes at a port.
    pub fn raise(&self, port: usize, causes: u32) {
        let enabled = {
            let mut s = self.state();
            let p = &mut s.ports[port];
            p.registers[P_IS / 4] |= causes;
            let wanted = p.registers[P_IS / 4] & p.registers[P_IE / 4] != 0;
            if wanted {
                s.pending |= 1 << port;
            }
            wanted && s.control & GHC_IE != 0
        };
        let handler = self.handler.lock().unwrap_or_else(|e| e.into_inner()).clone();
        if let Some(handler) = handler
            && enabled
        {
            handler();
        }
    }

    /// Slots with commands that are not done.
    pub fn commands(&self, port: usize) -> u32 {
        let s = self.state();
        s.ports[port].registers[P_CI / 4] | s.ports[port].registers[P_SACT / 4]
    }

    /// Serves the commands in these slots, and interrupts. A command for a sector from `bad` on fails and stops the port.
    pub fn serve(&self, port: usize, slots: u32, bad: usize) {
        let mut causes = 0;
        for slot in (0..32).filter(|slot| slots & 1 << slot != 0) {
            let mut s = self.state();
            let p = &mut s.ports[port];
            if p.issued & 1 << slot == 0
                || p.registers[P_CMD / 4] & CMD_ST == 0
                || p.registers[P_TFD / 4] & TFD_ERROR != 0
            {
                continue;
            }
            let queued = p.queued & 1 << slot != 0;
            if p.serve(slot, queued, bad) {
                p.issued &= !(1 << slot);
                p.registers[P_CI / 4] &= !(1 << slot);
                p.registers[P_SACT / 4] &= !(1 << slot);
                causes |= if queued { 1 << 3 } else { 1 };
            } else {
                if queued {
                    p.registers[P_CI / 4] &= !(1 << slot);
                }
                p.registers[P_TFD / 4] |= TFD_ERROR;
                causes |= 1 << 30;
            }
        }
        if causes != 0 {
            self.raise(port, causes);
        }
    }
}

impl Port {
    fn present(&self) -> bool {
        !self.medium.is_empty()
    }

    /// Does what the command in a slot says; false if it fails.
    fn serve(&mut self, slot: usize, queued: bool, bad: usize) -> bool {
        let list = self.registers[P_CLB / 4] as usize | (self.registers[P_CLBU / 4] as usize) << 32;
        // SAFETY: the command list is the driver's, which lives for ever.
        let [flags, _, low, high] = unsafe { ((list + 32 * slot) as *const [u32; 4]).read_volatile() };
        assert_eq!(flags & 0x1f, 5, "a frame of five words");
        let table = low as usize | (high as usize) << 32;
        assert!(table.is_multiple_of(128));
        // SAFETY: as above.
        let frame = unsafe { (table as *const [u8; FRAME]).read_volatile() };
        assert_eq!(frame[..2], [0x27, 0x80]);
        let pieces: Vec<(usize, usize)> = (0..(flags >> 16) as usize)
            .map(|n| {
                // SAFETY: as above.
                let [at, len] = unsafe { ((table + 128 + 16 * n) as *const [u64; 2]).read_volatile() };
                assert!(len >> 32 & 1 == 1, "an odd length less one");
                (at as usize, (len >> 32) as usize + 1)
            })
            .collect();
        let sector = u64::from_le_bytes([frame[4], frame[5], frame[6], frame[8], frame[9], frame[10], 0, 0]) as usize;
        let count = |low: u8, high: u8| match usize::from(u16::from_le_bytes([low, high])) {
            0 => 65536,
            n => n,
        };
        let total: usize = pieces.iter().map(|p| p.1).sum();
        if frame[2] != 0xec {
            self.served.push(frame);
        }
        let (command, sectors) = match frame[2] {
            queue @ (0x60 | 0x61) => {
                assert!(queued && usize::from(frame[12] >> 3) == slot, "the tag is the slot");
                (queue, count(frame[3], frame[11]))
            }
            dma @ (0x25 | 0x35) => {
                assert!(!queued);
                (dma, count(frame[12], frame[13]))
            }
            0xec => {
                scatter(&pieces, &example(SECTORS as u64, self.depth));
                return true;
            }
            0xea => {
                self.flushes += 1;
                return true;
            }
            0x06 => {
                for range in gather(&pieces).chunks(8) {
                    let range = u64::from_le_bytes(*range.first_chunk().unwrap());
                    let (at, n) = ((range & 0xffff_ffff_ffff) as usize, (range >> 48) as usize);
                    self.medium[at * 512..(at + n) * 512].fill(0);
                }
                return true;
            }
            other => panic!("an unknown command {other:#x}"),
        };
        assert_eq!(total, sectors * 512, "the pieces are as long as the command");
        assert!(sector + sectors <= SECTORS);
        if sector + sectors > bad {
            return false;
        }
        let place = sector * 512..(sector + sectors) * 512;
        if command & 1 != 0 && command != 0x25 {
            assert_ne!(flags & 1 << 6, 0, "a write");
            self.medium[place].copy_from_slice(&gather(&pieces));
        } else {
            assert_eq!(flags & 1 << 6, 0, "a read");
            scatter(&pieces, &self.medium[place]);
        }
        true
    }

    fn write(&mut self, register: usize, value: u32) {
        let place = &mut self.registers[register / 4];
        match register {
            P_IS | P_SERR => *place &= !value,
            P_SACT => {
                *place |= value;
                self.tags |= value;
            }
            P_CI => {
                *place |= value;
                self.issued |= value;
                self.queued = self.queued & !value | self.tags & value;
                self.tags &= !value;
            }
            P_SSTS | P_TFD | P_SIG => {}
            P_SCTL => {
                let was = *place & 0xf;
                *place = value;
                if was == 1 && value & 0xf == 0 {
                    self.resets += 1;
                    self.registers[P_TFD / 4] = 0x50;
                }
            }
            P_CMD => {
                let running = |on, run| if value & on != 0 { run } else { 0 };
                *place = value & !(CMD_CR | CMD_FR) | running(CMD_ST, CMD_CR) | running(CMD_FRE, CMD_FR);
                if value & CMD_ST == 0 {
                    (self.issued, self.tags) = (0, 0);
                    self.registers[P_CI / 4] = 0;
                    self.registers[P_SACT / 4] = 0;
                }
            }
            _ => *place = value,
        }
    }

    fn read(&self, register: usize) -> u32 {
        match register {
            P_SSTS if self.present() => 0x123,
            P_SIG => self.signature,
            _ => self.registers[register / 4],
        }
    }
}

impl Io for FakeHba {
    fn read(&self, offset: usize) -> u32 {
        let s = self.state();
        match offset {
            CAP => s.capabilities,
            GHC => s.control,
            IS => s.pending,
            PI => (1 << s.ports.len()) - 1,
            CAP2 => 0,
            _ if offset >= PORTS => s.ports[(offset - PORTS) / PORT].read(offset % PORT),
            _ => u32::MAX,
        }
    }

    fn write(&self, offset: usize, value: u32) {
        let mut s = self.state();
        if s.stuck {
            return;
        }
        match offset {
            // The reset is over at once.
            GHC => s.control = value & !GHC_HR,
            IS => s.pending &= !value,
            _ if offset >= PORTS => {
                let port = (offset - PORTS) / PORT;
                s.ports[port].write(offset % PORT, value);
                drop(s);
                // A driver that starts asks for the description, and waits.
                if offset % PORT == P_CI && self.get(port, P_IE) == 0 {
                    self.serve(port, value, usize::MAX);
                }
            }
            _ => panic!("a write to {offset:#x}"),
        }
    }
}

fn gather(pieces: &[(usize, usize)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(address, len) in pieces {
        // SAFETY: the driver gave this memory to the device.
        bytes.extend_from_slice(unsafe { core::slice::from_raw_parts(address as *const u8, len) });
    }
    bytes
}

fn scatter(pieces: &[(usize, usize)], mut bytes: &[u8]) {
    for &(address, len) in pieces {
        let (now, later) = bytes.split_at(len);
        // SAFETY: the driver gave this memory to the device.
        unsafe { core::ptr::copy_nonoverlapping(now.as_ptr(), address as *mut u8, len) };
        bytes = later;
    }
}
