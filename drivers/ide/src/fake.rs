//! A channel made of memory, for tests: keeps the registers of two drives and a bus master, and serves commands by the book or
//! not. A bus master's table cannot hold a host's addresses, so data moves through the port.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::{Mutex, MutexGuard};

use ata::identify::example;
use hal_core::Result;
use hal_core::device::BlockDevice;
use hal_core::interrupt::Handler;

use crate::channel::Place;
use crate::ports::*;

/// Sectors of the disk.
pub const SECTORS: usize = 1024;

const COMMAND_BLOCK: u16 = 0x1f0;
const CONTROL: u16 = 0x3f6;
const MASTER: u16 = 0xc000;

#[derive(Default)]
struct State {
    /// The command block as written: what was before, and what is now.
    block: [[u8; 8]; 2],
    control: u8,
    status: u8,
    master_command: u8,
    master_status: u8,
    /// Data for the port, and how far it went; towards the disk at this place.
    data: Vec<u8>,
    at: usize,
    to_disk: Option<usize>,
    medium: Vec<u8>,
    flushes: usize,
    resets: usize,
    stuck: bool,
}

/// The fake: a disk as drive 0, a CD-ROM as drive 1.
pub struct FakeIde {
    state: Mutex<State>,
    handler: Mutex<Option<Handler>>,
}

/// Bytes of sector `n` of a fresh disk.
pub fn pattern(n: usize) -> u8 {
    (n * 7 + 1) as u8
}

impl FakeIde {
    /// A channel.
    pub fn new() -> Arc<Self> {
        let medium = (0..SECTORS * 512).map(|i| pattern(i / 512)).collect();
        Arc::new(Self {
            state: Mutex::new(State { medium, status: 0x50, ..State::default() }),
            handler: Mutex::new(None),
        })
    }

    /// Lets the driver bring it up.
    pub fn start(self: &Arc<Self>) -> Result<Vec<Arc<dyn BlockDevice>>> {
        let me = self.clone();
        let place = Place { command: COMMAND_BLOCK, control: CONTROL, master: Some(MASTER) };
        crate::attach(self.clone(), place, move |handler| {
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

    /// The disk's contents.
    pub fn medium(&self) -> Vec<u8> {
        self.state().medium.clone()
    }

    /// How often it was flushed, and reset.
    pub fn history(&self) -> (usize, usize) {
        let s = self.state();
        (s.flushes, s.resets)
    }

    /// Sets the status of the drive and of the bus master, true or not.
    pub fn set(&self, status: u8, master: u8) {
        let mut s = self.state();
        (s.status, s.master_status) = (status, master);
    }

    /// From now on the drive is busy.
    pub fn get_stuck(&self) {
        self.state().stuck = true;
    }

    /// Interrupts.
    pub fn interrupt(&self) {
        let handler = self.handler.lock().unwrap_or_else(|e| e.into_inner()).clone();
        if let Some(handler) = handler {
            handler();
        }
    }
}

impl State {
    fn drive(&self) -> u8 {
        self.block[1][usize::from(DRIVE)] >> 4 & 1
    }

    /// A command by port: what it reads is there at once, what it writes is taken when it is complete.
    fn issue(&mut self, command: u8) {
        let [before, now] = self.block;
        let at = |n: usize| usize::from(now[n]) | usize::from(before[n]) << 24;
        let sector = at(3)
            | (usize::from(now[4]) << 8 | usize::from(before[4]) << 32)
            | (usize::from(now[5]) << 16 | usize::from(before[5]) << 40);
        let count = usize::from(u16::from_le_bytes([now[2], before[2]]));
        self.data.clear();
        (self.at, self.to_disk) = (0, None);
        self.status = 0x50;
        if self.drive() == 1 {
            // A packet device.
            (self.block[1][4], self.block[1][5]) = (0x14, 0xeb);
            self.status = 0x50 | ERROR;
            return;
        }
        match command {
            0xec => self.data = example(SECTORS as u64, 0).to_vec(),
            0x24 | 0x34 if sector + count > SECTORS => self.status |= ERROR,
            0x24 => self.data = self.medium[sector * 512..(sector + count) * 512].to_vec(),
            0x34 => {
                self.data = alloc::vec![0; count * 512];
                self.to_disk = Some(sector * 512);
            }
            0xea => self.flushes += 1,
            _ => self.status |= ERROR,
        }
        if !self.data.is_empty() {
            self.status |= WANTS_DATA;
        }
    }

    fn moved(&mut self, n: usize) {
        self.at += n;
        if self.at >= self.data.len() {
            self.status &= !WANTS_DATA;
            if let Some(place) = self.to_disk.take() {
                let data = core::mem::take(&mut self.data);
                self.medium[place..place + data.len()].copy_from_slice(&data);
            }
        }
    }
}

impl Ports for FakeIde {
    fn read(&self, port: u16, width: u8) -> u32 {
        let mut s = self.state();
        let status = if s.stuck { BUSY } else { s.status };
        match port {
            COMMAND_BLOCK => {
                let n = usize::from(width);
                let value = s
                    .data
                    .get(s.at..s.at + n)
                    .map_or(u32::MAX, |b| b.iter().rev().fold(0, |v, &b| v << 8 | u32::from(b)));
                s.moved(n);
                value
            }
            CONTROL | 0x1f7 => u32::from(status),
            0x1f1..=0x1f6 => u32::from(s.block[1][usize::from(port - COMMAND_BLOCK)]),
            0xc000 => u32::from(s.master_command),
            0xc002 => u32::from(s.master_status),
            _ => u32::MAX,
        }
    }

    fn write(&self, port: u16, width: u8, value: u32) {
        let mut s = self.state();
        match port {
            COMMAND_BLOCK => {
                let (at, n) = (s.at, usize::from(width));
                if let Some(to) = s.data.get_mut(at..at + n) {
                    to.copy_from_slice(&value.to_le_bytes()[..n]);
                }
                s.moved(n);
            }
            0x1f1..=0x1f6 => {
                let register = usize::from(port - COMMAND_BLOCK);
                s.block[0][register] = s.block[1][register];
                s.block[1][register] = value as u8;
            }
            0x1f7 => s.issue(value as u8),
            CONTROL => {
                s.control = value as u8;
                if s.control & RESET != 0 {
                    s.resets += 1;
                    s.status = 0x50;
                }
            }
            0xc000 => s.master_command = value as u8,
            0xc002 => s.master_status &= !(value as u8 & (INTERRUPT | MASTER_ERROR)),
            _ => {}
        }
    }
}
