//! A backend with a disk of real contents, for the tests.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;

use hal_core::device::{BlockDevice, Device};

use crate::fake::{BackRing, FakeXen};

pub(super) const SECTORS: usize = 2048;
pub(super) const OWN: &str = "device/vbd/0";
pub(super) const OTHER: &str = "/backend/vbd";

/// A backend with a disk.
pub(super) struct Medium {
    pub fake: Arc<FakeXen>,
    pub rings: Mutex<Vec<BackRing>>,
    pub bytes: Mutex<Vec<u8>>,
    pub flushes: Mutex<usize>,
}

pub(super) const FULL: &[(&str, &str)] = &[
    ("sectors", "2048"),
    ("sector-size", "512"),
    ("info", "0"),
    ("feature-flush-cache", "1"),
    ("feature-discard", "1"),
    ("feature-max-indirect-segments", "256"),
    ("max-ring-page-order", "1"),
];

impl Medium {
    pub fn new(offers: &[(&str, &str)]) -> Arc<Self> {
        let fake = FakeXen::new("vbd", &[("device-type", "disk")], offers);
        let bytes = (0..SECTORS * 512).map(|i| (i / 512) as u8).collect();
        let medium =
            Arc::new(Self { fake, rings: Mutex::default(), bytes: Mutex::new(bytes), flushes: Mutex::default() });
        let me = Arc::downgrade(&medium);
        medium.fake.play(Arc::new(move |_| {
            if let Some(me) = me.upgrade() {
                me.connect();
            }
        }));
        medium
    }

    /// The handshake's half of the backend.
    pub fn connect(&self) {
        let fake = &self.fake;
        if fake.number(&format!("{OWN}/state")) != 3 || fake.number(&format!("{OTHER}/state")) != 2 {
            return;
        }
        let order = fake.number(&format!("{OWN}/ring-page-order"));
        let queues = fake.number(&format!("{OWN}/multi-queue-num-queues")).max(1);
        *self.rings.lock().unwrap() = (0..queues)
            .map(|queue| {
                let below = if queues > 1 { format!("{OWN}/queue-{queue}") } else { OWN.into() };
                let name = if order > 0 { "ring-ref0" } else { "ring-ref" };
                let base = fake.page(fake.number(&format!("{below}/{name}")));
                BackRing::new(base, 1 << order, 112)
            })
            .collect();
        fake.set(&format!("{OTHER}/state"), "4");
    }

    pub fn start(&self, cpus: usize) -> Arc<dyn BlockDevice> {
        let Ok(Device::Block(disk)) = self.fake.start("vbd", cpus) else { panic!("a disk") };
        disk
    }

    /// Takes the next request of a ring: its bytes.
    pub fn take(&self, ring: usize) -> Option<Vec<u8>> {
        self.rings.lock().unwrap()[ring].take()
    }

    pub fn answer(&self, ring: usize, request: &[u8], status: i16) {
        let mut response = [0; 16];
        response[0..8].copy_from_slice(&request[8..16]);
        response[10..12].copy_from_slice(&status.to_le_bytes());
        self.rings.lock().unwrap()[ring].answer(&response);
    }

    /// Does what a request asks for.
    pub fn carry_out(&self, r: &[u8]) -> i16 {
        let word = |at: usize| u32::from_le_bytes(r[at..at + 4].try_into().unwrap());
        let sector = u64::from_le_bytes(r[16..24].try_into().unwrap()) as usize;
        let mut bytes = self.bytes.lock().unwrap();
        let (operation, segments): (u8, Vec<(u32, u8, u8)>) = match r[0] {
            3 => {
                *self.flushes.lock().unwrap() += 1;
                return 0;
            }
            5 => {
                let n = u64::from_le_bytes(r[24..32].try_into().unwrap()) as usize;
                bytes[sector * 512..(sector + n) * 512].fill(0);
                return 0;
            }
            6 => {
                let list = self.fake.page(word(28));
                let count = usize::from(u16::from_le_bytes([r[2], r[3]]));
                assert!(count > 11 && count <= 256);
                // SAFETY: a granted page holds up to 512 segments.
                let list = unsafe { core::slice::from_raw_parts(list, 4096) };
                let segment = |i: usize| {
                    let s = &list[i * 8..i * 8 + 8];
                    (u32::from_le_bytes(s[0..4].try_into().unwrap()), s[4], s[5])
                };
                (r[1], (0..count).map(segment).collect())
            }
            op => (op, (0..usize::from(r[1])).map(|i| (word(24 + i * 8), r[28 + i * 8], r[29 + i * 8])).collect()),
        };
        let mut at = sector * 512;
        for (reference, first, last) in segments {
            let (from, to) = (usize::from(first) * 512, (usize::from(last) + 1) * 512);
            // SAFETY: a granted page, which the front end leaves alone meanwhile.
            let page = unsafe { core::slice::from_raw_parts_mut(self.fake.page(reference), 4096) };
            let disk = &mut bytes[at..at + to - from];
            if operation == 1 {
                disk.copy_from_slice(&page[from..to])
            } else {
                page[from..to].copy_from_slice(disk)
            }
            at += to - from;
        }
        0
    }

    /// Serves all that is queued; how many requests that was.
    pub fn serve(&self) -> usize {
        let mut served = 0;
        let rings = self.rings.lock().unwrap().len();
        for ring in 0..rings {
            while let Some(request) = self.take(ring) {
                let status = self.carry_out(&request);
                self.answer(ring, &request, status);
                served += 1;
            }
        }
        served
    }

    /// Serves until nothing is left.
    pub fn settle(&self, disk: &dyn BlockDevice) {
        while self.serve() > 0 {
            disk.poll();
        }
        disk.poll();
    }
}
