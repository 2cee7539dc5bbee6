//! A controller made of memory, for tests and fuzzing: keeps the registers, answers the admin queue at once, and serves the
//! I/O queues by the book or not. It works on host addresses, which are what the queues hold while the direct map's base is 0.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::{Mutex, MutexGuard};

use driver_kit::Io;
use hal_core::Result;
use hal_core::device::Device;
use hal_core::interrupt::Handler;

use crate::registers::*;

/// Blocks, of 512 bytes, of each namespace.
pub const BLOCKS: usize = 2048;
const PAGE: usize = 4096;

/// A submission as the device reads it.
pub type Entry = [u32; 16];

#[derive(Clone, Copy, Default)]
struct Ring {
    submissions: usize,
    completions: usize,
    size: u16,
    /// How far the driver has gone, and how far the device.
    tail: u16,
    head: u16,
    /// Where the next completion goes, and its phase.
    place: u16,
    phase: bool,
}

struct State {
    configuration: u32,
    sizes: u32,
    admin: [u32; 4],
    masked: u32,
    rings: Vec<Ring>,
    media: Vec<Vec<u8>>,
    flushes: usize,
    resets: usize,
    /// Does not even get ready any more.
    stuck: bool,
    /// The numbers of the commands in flight, by queue.
    taken: Vec<Vec<Entry>>,
}

/// The fake.
pub struct FakeNvme {
    state: Mutex<State>,
    handlers: Mutex<Vec<Handler>>,
    messages: bool,
    /// Queues that it grants.
    queues: u32,
    /// It is of before 1.1 and has no list of namespaces.
    old: bool,
}

/// Byte of block `n` of namespace `namespace`.
pub fn pattern(namespace: usize, n: usize) -> u8 {
    (n * 7 + namespace) as u8
}

impl FakeNvme {
    /// A controller with so many namespaces and I/O queues; with messages or the line.
    pub fn new(namespaces: usize, queues: u32, messages: bool, old: bool) -> Arc<Self> {
        let medium = |namespace| (0..BLOCKS * 512).map(|i| pattern(namespace, i / 512)).collect();
        Arc::new(Self {
            state: Mutex::new(State {
                configuration: 0,
                sizes: 0,
                admin: [0; 4],
                masked: 0,
                rings: Vec::new(),
                media: (1..=namespaces).map(medium).collect(),
                flushes: 0,
                resets: 0,
                stuck: false,
                taken: Vec::new(),
            }),
            handlers: Mutex::new(Vec::new()),
            messages,
            queues,
            old,
        })
    }

    /// Lets the driver bring it up.
    pub fn start(self: &Arc<Self>, cpus: usize) -> Result<Vec<Device>> {
        let me = self.clone();
        crate::start(self.clone(), cpus, move |handlers, line| {
            let all = if me.messages { handlers } else { alloc::vec![line] };
            let count = if me.messages { all.len() } else { 0 };
            *me.handlers.lock().unwrap_or_else(|e| e.into_inner()) = all;
            Ok(count)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Unplugs it: the driver's memory goes with the driver.
    pub fn unplug(&self) {
        let handlers = core::mem::take(&mut *self.handlers.lock().unwrap_or_else(|e| e.into_inner()));
        drop(handlers);
    }

    /// I/O queues that were made.
    pub fn queues(&self) -> usize {
        self.state().rings.iter().skip(1).filter(|r| r.size > 0 && r.submissions != 0).count()
    }

    /// How often it was reset, and flushed.
    pub fn history(&self) -> (usize, usize) {
        let s = self.state();
        (s.resets, s.flushes)
    }

    /// A namespace's contents.
    pub fn medium(&self, namespace: usize) -> Vec<u8> {
        self.state().media[namespace - 1].clone()
    }

    /// From now on it does not get ready.
    pub fn get_stuck(&self) {
        self.state().stuck = true;
    }

    /// True if the line's interrupt is masked.
    pub fn masked(&self) -> bool {
        self.state().masked & 1 != 0
    }

    /// Interrupts for a queue.
    pub fn interrupt(&self, queue: usize) {
        let handlers = self.handlers.lock().unwrap_or_else(|e| e.into_inner());
        let handler = if self.messages { handlers.get(queue - 1) } else { handlers.first() }.cloned();
        drop(handlers);
        if let Some(handler) = handler
            && (self.messages || !self.masked())
        {
            handler();
        }
    }

    /// Takes the commands of an I/O queue; they are in flight then.
    pub fn take(&self, queue: usize) -> usize {
        let mut s = self.state();
        let Some(ring) = s.rings.get(queue).copied().filter(|r| r.submissions != 0 && r.size > 0) else {
            return 0;
        };
        let mut head = ring.head;
        while head != ring.tail {
            // SAFETY: the driver's queue lives for ever, and it has shown this entry.
            let entry = unsafe { (ring.submissions as *const Entry).add(usize::from(head)).read_volatile() };
            s.taken[queue].push(entry);
            head = (head + 1) % ring.size;
        }
        s.rings[queue].head = head;
        s.taken[queue].len()
    }

    /// Finishes the commands of a queue that were taken, last one first, and interrupts. Those for a block from `bad` on fail.
    pub fn serve(&self, queue: usize, most: usize, bad: usize) -> usize {
        self.take(queue);
        let mut count = 0;
        while count < most {
            let mut s = self.state();
            let Some(entry) = s.taken.get_mut(queue).and_then(Vec::pop) else {
                break;
            };
            let status = s.execute(&entry, bad);
            drop(s);
            self.put(queue, (entry[0] >> 16) as u16, status);
            count += 1;
        }
        if count > 0 {
            self.interrupt(queue);
        }
        count
    }

    /// Writes a completion, true or not.
    pub fn put(&self, queue: usize, number: u16, status: u16) {
        self.state().complete(queue, number, 0, status);
    }
}

impl State {
    fn complete(&mut self, queue: usize, number: u16, result: u32, status: u16) {
        let Some(ring) = self.rings.get_mut(queue).filter(|r| r.completions != 0 && r.size > 0) else {
            return;
        };
        let at = ring.completions + COMPLETION * usize::from(ring.place);
        let last = u32::from(number) | u32::from(ring.phase) << 16 | u32::from(status) << 17;
        // SAFETY: an entry of the completion queue, which is the device's to write.
        unsafe {
            (at as *mut u32).write_volatile(result);
            ((at + 12) as *mut u32).write_volatile(last);
        }
        ring.place += 1;
        if ring.place == ring.size {
            ring.place = 0;
            ring.phase = !ring.phase;
        }
    }

    /// Does what a command of an I/O queue says; returns the status.
    fn execute(&mut self, entry: &Entry, bad: usize) -> u16 {
        let namespace = entry[1] as usize;
        let opcode = entry[0] as u8;
        assert!((1..=self.media.len()).contains(&namespace), "no such namespace");
        let block = entry[10] as usize | (entry[11] as usize) << 32;
        let blocks = (entry[12] as u16 as usize) + 1;
        match opcode {
            nvm::FLUSH => self.flushes += 1,
            nvm::DATA_SET_MANAGEMENT => {
                assert_eq!((entry[10], entry[11]), (0, nvm::DEALLOCATE));
                let at = pages(entry, 16)[0].0;
                // SAFETY: the range is in the driver's memory.
                let [_, count, low, high] = unsafe { (at as *const [u32; 4]).read_volatile() };
                let first = low as usize | (high as usize) << 32;
                self.media[namespace - 1][first * 512..(first + count as usize) * 512].fill(0);
            }
            nvm::READ | nvm::WRITE => {
                assert!(block + blocks <= BLOCKS, "beyond the end");
                if block + blocks > bad {
                    return 0x281;
                }
                let mut at = block * 512;
                for (address, len) in pages(entry, blocks * 512) {
                    let medium = &mut self.media[namespace - 1][at..at + len];
                    // SAFETY: the driver gave this memory to the device.
                    unsafe {
                        if opcode == nvm::READ {
                            core::ptr::copy_nonoverlapping(medium.as_ptr(), address as *mut u8, len);
                        } else {
                            core::ptr::copy_nonoverlapping(address as *const u8, medium.as_mut_ptr(), len);
                        }
                    }
                    at += len;
                }
            }
            _ => return 1,
        }
        0
    }

    /// Answers what is in the admin queue.
    fn administer(&mut self, queues: u32, old: bool) {
        let ring = self.rings[0];
        let mut head = ring.head;
        while head != ring.tail {
            // SAFETY: the driver's queue lives for ever, and it has shown this entry.
            let entry = unsafe { (ring.submissions as *const Entry).add(usize::from(head)).read_volatile() };
            head = (head + 1) % ring.size;
            self.rings[0].head = head;
            let at = entry[6] as usize | (entry[7] as usize) << 32;
            let (number, size) = ((entry[10] & 0xffff) as usize, (entry[10] >> 16) as u16 + 1);
            let mut result = 0;
            let mut status = 0;
            match entry[0] as u8 {
                admin::IDENTIFY if entry[10] == admin::ACTIVE && old => status = 2,
                admin::IDENTIFY => {
                    let data = self.describe(entry[10], entry[1] as usize);
                    // SAFETY: the driver's page for descriptions.
                    unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), at as *mut u8, data.len()) };
                }
                admin::SET_FEATURES => {
                    assert_eq!(entry[10], admin::QUEUES);
                    result = (queues - 1) | (queues - 1) << 16;
                }
                admin::CREATE_CQ => {
                    self.rings.resize(self.rings.len().max(number + 1), Ring::default());
                    self.taken.resize(self.rings.len(), Vec::new());
                    self.rings[number] = Ring { completions: at, size, phase: true, ..Ring::default() };
                }
                admin::CREATE_SQ => self.rings[number].submissions = at,
                other => panic!("an unknown command {other:#x}"),
            }
            self.complete(0, (entry[0] >> 16) as u16, result, status);
        }
    }

    fn describe(&self, what: u32, namespace: usize) -> Vec<u8> {
        let mut data = alloc::vec![0; PAGE];
        match what {
            admin::CONTROLLER => {
                data[4..8].copy_from_slice(b"NV42");
                data[24..28].copy_from_slice(b"Fake");
                data[77] = 7;
                data[516] = self.media.len() as u8;
                (data[520], data[525]) = (4, 1);
            }
            admin::NAMESPACE if namespace <= self.media.len() => {
                data[0..8].copy_from_slice(&(BLOCKS as u64).to_le_bytes());
                data[130] = 9;
            }
            admin::ACTIVE => {
                (1..=self.media.len()).for_each(|n| data[4 * n - 4] = n as u8);
            }
            _ => {}
        }
        data
    }
}

/// The pieces of memory of a command of `len` bytes.
fn pages(entry: &Entry, len: usize) -> Vec<(usize, usize)> {
    let [first, second] = [6, 8].map(|at| entry[at] as usize | (entry[at + 1] as usize) << 32);
    let mut pieces = alloc::vec![(first, len.min(PAGE - first % PAGE))];
    let mut left = len - pieces[0].1;
    let listed = left > PAGE;
    let mut place = second;
    while left > 0 {
        let n = left.min(PAGE);
        // SAFETY: the list is in the driver's memory.
        let at = if listed { unsafe { (place as *const u64).read_volatile() as usize } } else { second };
        assert!(at.is_multiple_of(PAGE), "not a page");
        pieces.push((at, n));
        place += 8;
        left -= n;
    }
    pieces
}

impl Io for FakeNvme {
    fn read(&self, offset: usize) -> u32 {
        let s = self.state();
        match offset {
            CAP => 1023 | 1 << 24,
            0x04 => 1 << 5,
            CC => s.configuration,
            CSTS => s.configuration & 1 & u32::from(!s.stuck),
            _ => u32::MAX,
        }
    }

    fn write(&self, offset: usize, value: u32) {
        let mut s = self.state();
        match offset {
            CC => {
                s.resets += usize::from(s.configuration & !value & 1 != 0);
                s.configuration = value;
                let [sq, sq_high, cq, cq_high] = s.admin;
                let [submissions, completions] =
                    [(sq, sq_high), (cq, cq_high)].map(|(low, high)| low as usize | (high as usize) << 32);
                let size = (s.sizes & 0xfff) as u16 + 1;
                s.rings = alloc::vec![Ring { submissions, completions, size, phase: true, ..Ring::default() }];
                s.taken = alloc::vec![Vec::new()];
            }
            AQA => s.sizes = value,
            ASQ..0x38 => s.admin[(offset - ASQ) / 4] = value,
            INTMS => s.masked |= value,
            INTMC => s.masked &= !value,
            _ => {
                let number = (offset - DOORBELLS) / 8;
                if !(offset - DOORBELLS).is_multiple_of(8) || s.configuration & 1 == 0 {
                    return;
                }
                let ring = s.rings.get_mut(number).expect("a doorbell of a queue that is not there");
                assert!(value < u32::from(ring.size), "a doorbell beyond the queue");
                ring.tail = value as u16;
                if number == 0 && !s.stuck {
                    s.administer(self.queues, self.old);
                }
            }
        }
    }
}
