//! A SCSI adapter made of memory, for tests and fuzzing: its disk answers at the doorbell, by the book or with lies.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;

use driver_kit::random::Choices;
use hal_core::Result;
use hal_core::device::Device;
use scsi::fake::Target;

use crate::fake::{FakeDevice, FakePiece, Manners, gather, scatter};
use crate::features::{EVENT_IDX, INDIRECT_DESC, VERSION_1};
use crate::ring::RingAddresses;
use crate::transport::{Source, Transport};

const KIND: u32 = 8;

/// What it does besides answering.
#[derive(Default)]
struct Mind {
    /// The source of lies; none: it is honest.
    lies: Option<Choices>,
    /// It has lied in a ring: the driver may not believe it any more, and what it holds may not be its own.
    lied: bool,
    /// Requests that it has not answered: queue, head, pieces.
    kept: Vec<(usize, u16, Vec<FakePiece>)>,
    /// Requests taken from each queue.
    taken: [u16; 8],
    /// It keeps every request.
    holds: bool,
}

/// The adapter.
pub struct ScsiAdapter {
    /// The rings.
    pub device: Arc<FakeDevice>,
    /// Its one target.
    pub target: Mutex<Target>,
    mind: Mutex<Mind>,
}

impl ScsiAdapter {
    /// An adapter with this disk, request queues of these sizes, and these features.
    pub fn new(target: Target, offered: u64, sizes: &[u16]) -> Arc<Self> {
        let mut config = alloc::vec![0; 36];
        config[0] = sizes.len() as u8;
        config[4] = 30; // pieces
        config[8..12].copy_from_slice(&0xffffu32.to_le_bytes());
        config[30] = 3; // the last target
        let sizes: Vec<u16> = [8, 8].iter().chain(sizes).copied().collect();
        let device = FakeDevice::new(KIND, offered, &sizes, &config, Manners::default());
        Arc::new(Self { device, target: Mutex::new(target), mind: Mutex::default() })
    }

    /// Lets the driver bring it up; gives its disks.
    pub fn start(self: &Arc<Self>, cpus: usize) -> Result<Vec<Device>> {
        crate::start(self.clone(), cpus)
    }

    fn mind<R>(&self, f: impl FnOnce(&mut Mind) -> R) -> R {
        f(&mut self.mind.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// From now on it lies, in these ways.
    pub fn lie(&self, choices: &Choices) {
        self.mind(|m| m.lies = Some(choices.clone()));
    }

    /// From now on it keeps what it gets, or no longer does.
    pub fn hold(&self, holds: bool) {
        self.mind(|m| m.holds = holds);
    }

    /// Works on what it has kept.
    pub fn release(&self) {
        for (queue, head, pieces) in self.mind(|m| core::mem::take(&mut m.kept)) {
            self.answer(queue, head, &pieces);
        }
    }

    fn answer(&self, queue: usize, head: u16, pieces: &[FakePiece]) {
        if self.device.abandoned() || self.mind(|m| m.lied) {
            return;
        }
        let out = gather(pieces);
        let lun = u16::from_be_bytes([out[2], out[3]]) & 0x3fff;
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&out[19..35]);
        let mut response = alloc::vec![0; 108];
        let mut data = Vec::new();
        if out[1] == 0 {
            let reply = self.target.lock().unwrap_or_else(|e| e.into_inner()).execute(lun, &cdb, &out[51..]);
            let room = pieces.iter().filter(|p| p.2).map(|p| p.1).sum::<usize>() - 108;
            let residual = room.saturating_sub(reply.data.len()) as u32;
            response[..4].copy_from_slice(&(reply.sense.len() as u32).to_le_bytes());
            response[4..8].copy_from_slice(&residual.to_le_bytes());
            response[10] = reply.status;
            let n = reply.sense.len().min(96);
            response[12..12 + n].copy_from_slice(&reply.sense[..n]);
            data = reply.data;
        } else {
            response[11] = 3; // nobody is there
        }
        let mut used = (u32::from(head), None, 0);
        self.mind(|m| {
            let Some(lies) = m.lies.clone() else { return };
            match 23 - lies.below(24) {
                0..=3 => response[lies.below(12) as usize] = lies.below(256) as u8,
                4 => data = (0..lies.below(600)).map(|_| lies.below(256) as u8).collect(),
                5 => (used.0, m.lied) = (lies.word() % 300, true),
                6 => (used.1, m.lied) = (Some(lies.word()), true),
                7 => (used.2, m.lied) = (lies.word() as u16, true),
                _ => {}
            }
        });
        response.extend(data);
        // As QEMU: what was read counts, too.
        let written = scatter(pieces, &response) as u32 + (out.len() - 51) as u32;
        self.device.put_used(queue, used.0, used.1.unwrap_or(written));
        self.device.show_used(queue, used.2);
        self.device.interrupt(queue);
    }
}

impl Transport for ScsiAdapter {
    fn notify(&self, queue: u16) {
        self.device.notify(queue);
        let queue = usize::from(queue);
        while !self.mind(|m| m.lied)
            && let Some((head, pieces)) = self.device.take(queue)
        {
            let taken = self.mind(|m| {
                m.taken[queue] = m.taken[queue].wrapping_add(1);
                m.taken[queue]
            });
            self.device.set_avail_event(queue, taken);
            if self.mind(|m| m.holds || m.lies.as_ref().is_some_and(|l| l.one_in(12))) {
                self.mind(|m| m.kept.push((queue, head, pieces)));
            } else {
                self.answer(queue, head, &pieces);
            }
        }
    }

    fn device_type(&self) -> u32 {
        self.device.device_type()
    }
    fn is_legacy(&self) -> bool {
        self.device.is_legacy()
    }
    fn features(&self) -> u64 {
        self.device.features()
    }
    fn accept(&self, features: u64) {
        self.device.accept(features);
    }
    fn status(&self) -> u8 {
        self.device.status()
    }
    fn set_status(&self, status: u8) {
        self.device.set_status(status);
    }
    fn queue_size(&self, queue: u16) -> u16 {
        self.device.queue_size(queue)
    }
    fn start_queue(&self, queue: u16, ring: &RingAddresses) -> Result<()> {
        self.device.start_queue(queue, ring)
    }
    fn config_read(&self, offset: usize, width: u8) -> u32 {
        self.device.config_read(offset, width)
    }
    fn config_write(&self, offset: usize, width: u8, value: u32) {
        self.device.config_write(offset, width, value);
    }
    fn config_generation(&self) -> u32 {
        self.device.config_generation()
    }
    fn connect(&self, sources: Vec<Source>) -> Result<()> {
        self.device.connect(sources)
    }
}

/// A fuzz target's body: disks behind an adapter that lies from the start, or from when they were found. Whatever it does,
/// nothing panics, and every request is answered once. True if a disk was found.
pub fn fuzz(choices: &Choices) -> bool {
    driver_kit::host::set_hurry(true);
    let features = VERSION_1 | u64::from(choices.word()) & (EVENT_IDX | INDIRECT_DESC);
    let adapter = ScsiAdapter::new(Target::new(64), features, &[16, 8]);
    if choices.one_in(2) {
        adapter.lie(choices);
    }
    let devices = adapter.start(2).unwrap_or_default();
    adapter.lie(choices);
    let step = |n: u64| if n & 1 == 0 { adapter.release() } else { adapter.device.interrupt_line(n as u32 >> 1) };
    // To keep a request for ever is no lie that a driver can find out: an open one ends the run.
    let give_up = || {
        for queue in [2, 3] {
            adapter.device.put_used(queue, 9999, 0);
            adapter.device.show_used(queue, 0);
        }
    };
    scsi::exercise::disks(&devices, choices, 60, step, give_up);
    adapter.device.unplug();
    let found = !devices.is_empty();
    drop(devices);
    driver_kit::host::bury();
    found
}
