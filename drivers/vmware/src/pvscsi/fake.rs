//! An adapter made of memory, for tests and fuzzing: its disk answers at the doorbell, by the book or with lies. It works on
//! host addresses, which are what rings hold while the direct map's base is 0.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;

use driver_kit::Io;
use driver_kit::random::Choices;
use hal_core::device::{Device, Dma};
use hal_core::{PAGE_SIZE, Result};
use scsi::fake::{Target, gather, scatter};

use super::abi::{self, Completion, Element, Request, host_status};

/// The adapter.
#[derive(Clone)]
pub struct Adapter(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    target: Option<Target>,
    command: (u32, Vec<u32>),
    status: u32,
    /// What SETUP_RINGS said; nothing after a reset.
    rings: Option<Rings>,
    mask: u32,
    causes: u32,
    kicks: usize,
    resets: usize,
    /// It knows a threshold for doorbells.
    threshold: Option<u32>,
    lies: Option<Choices>,
    lied: bool,
    holds: bool,
    kept: Vec<Request>,
    line: Option<hal_core::interrupt::Handler>,
}

#[derive(Clone)]
struct Rings {
    state: usize,
    requests: Vec<usize>,
    completions: Vec<usize>,
    consumed: u32,
    produced: u32,
}

impl Rings {
    fn word(&self, offset: usize) -> *mut u32 {
        (self.state + offset) as *mut u32
    }
    fn get(&self, offset: usize) -> u32 {
        // SAFETY: the driver's areas live until the test buries them.
        unsafe { self.word(offset).read_volatile() }
    }
    fn set(&self, offset: usize, value: u32) {
        // SAFETY: as above.
        unsafe { self.word(offset).write_volatile(value) }
    }
    /// The place of entry `index` in a ring of these pages.
    fn place<T>(pages: &[usize], index: u32) -> *mut T {
        let per_page = PAGE_SIZE / size_of::<T>();
        let index = index as usize % (per_page * pages.len());
        (pages[index / per_page] + index % per_page * size_of::<T>()) as *mut T
    }
}

impl Adapter {
    /// An adapter with this disk.
    pub fn new(target: Target) -> Self {
        Self(Arc::new(Mutex::new(State { target: Some(target), ..State::default() })))
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// It knows this threshold for doorbells.
    pub fn with_threshold(self, threshold: u32) -> Self {
        self.with(|s| s.threshold = Some(threshold));
        self
    }

    /// Lets the driver bring it up; gives its disks.
    pub fn start(&self) -> Result<Vec<Device>> {
        super::start(Box::new(self.clone()), &mut |causes| {
            self.with(|s| s.line = Some(causes.line));
            Ok(false)
        })
    }

    /// From now on it lies, in these ways.
    pub fn lie(&self, choices: &Choices) {
        self.with(|s| s.lies = Some(choices.clone()));
    }

    /// From now on it keeps what it gets, or no longer does.
    pub fn hold(&self, holds: bool) {
        self.with(|s| s.holds = holds);
    }

    /// Works with its disk.
    pub fn target<R>(&self, f: impl FnOnce(&mut Target) -> R) -> R {
        self.with(|s| f(s.target.as_mut().expect("there is one")))
    }

    /// Doorbells so far.
    pub fn kicks(&self) -> usize {
        self.with(|s| s.kicks)
    }

    /// Resets so far.
    pub fn resets(&self) -> usize {
        self.with(|s| s.resets)
    }

    /// Works on what it has kept.
    pub fn release(&self) {
        self.with(|s| {
            for request in core::mem::take(&mut s.kept) {
                s.answer(&request);
            }
        });
        self.interrupt();
    }

    /// Works on what is in the ring without a doorbell.
    pub fn look(&self) {
        self.with(State::work);
        self.interrupt();
    }

    /// Shows more completions than there are.
    pub fn jump(&self, by: u32) {
        self.with(|s| {
            s.lied = true;
            if let Some(rings) = &s.rings {
                rings.set(abi::COMPLETION_PRODUCER, rings.produced.wrapping_add(by));
            }
        });
    }

    /// Raises the line if there is a cause.
    pub fn interrupt(&self) {
        let line = self.with(|s| if s.causes & s.mask != 0 { s.line.clone() } else { None });
        if let Some(line) = line {
            line();
        }
    }

    /// Unplugs it: the driver's memory goes with the driver.
    pub fn unplug(&self) {
        let line = self.with(|s| {
            s.rings = None;
            s.line.take()
        });
        drop(line);
    }
}

impl State {
    fn command_data(&mut self, value: u32) {
        self.command.1.push(value);
        match self.command.0 {
            abi::SETUP_RINGS if self.command.1.len() == 2 + 2 * (1 + 2 * abi::SETUP_PAGES) => {
                let words = &self.command.1;
                let page = |i: usize| ((u64::from(words[i + 1]) << 32 | u64::from(words[i])) as usize) * PAGE_SIZE;
                let pages = |from: usize, n: u32| (0..n as usize).map(|i| page(from + 2 * i)).collect();
                self.rings = Some(Rings {
                    state: page(2),
                    requests: pages(4, words[0]),
                    completions: pages(4 + 2 * abi::SETUP_PAGES, words[1]),
                    consumed: 0,
                    produced: 0,
                });
            }
            abi::SETUP_CALL_THRESHOLD => {
                self.status = 1;
                if let (Some(rings), Some(threshold)) = (&self.rings, self.threshold) {
                    rings.set(abi::CALL_THRESHOLD, threshold);
                }
            }
            _ => {}
        }
    }

    /// Takes every request that is in the ring.
    fn work(&mut self) {
        while let Some(rings) = &mut self.rings
            && !self.lied
        {
            let produced = rings.get(abi::REQUEST_PRODUCER);
            assert!(produced.wrapping_sub(rings.consumed) <= 256, "the driver overran its ring");
            if produced == rings.consumed {
                return;
            }
            // SAFETY: a descriptor in the driver's ring.
            let request = unsafe { Rings::place::<Request>(&rings.requests, rings.consumed).read_volatile() };
            rings.consumed = rings.consumed.wrapping_add(1);
            rings.set(abi::REQUEST_CONSUMER, rings.consumed);
            if self.holds || self.lies.as_ref().is_some_and(|l| l.one_in(12)) {
                self.kept.push(request);
            } else {
                self.answer(&request);
            }
        }
    }

    fn answer(&mut self, request: &Request) {
        if self.lied || self.rings.is_none() {
            return;
        }
        let mut answer = Completion {
            context: request.context,
            data_len: 0,
            sense_len: 0,
            host_status: host_status::SUCCESS,
            scsi_status: 0,
            pad: [0; 2],
        };
        let lun = u16::from_be_bytes([request.lun[0] & 0x3f, request.lun[1]]);
        match &mut self.target {
            Some(target) if request.target == 0 => {
                let pieces = pieces(request);
                let data = if request.flags & abi::FLAG_TO_DEVICE != 0 { gather(&pieces) } else { Vec::new() };
                let mut reply = target.execute(lun, &request.cdb, &data);
                if let Some(lies) = &self.lies
                    && lies.one_in(20)
                {
                    reply.data = (0..lies.below(600)).map(|_| lies.below(256) as u8).collect();
                }
                answer.scsi_status = u16::from(reply.status);
                answer.sense_len = reply.sense.len() as u32;
                scatter(&[Dma { address: request.sense as usize, len: request.sense_len as usize }], &reply.sense);
                if request.flags & abi::FLAG_TO_HOST != 0 {
                    let moved = scatter(&pieces, &reply.data) as u64;
                    // As QEMU: that less came is told, how much is not.
                    if moved < request.data_len {
                        answer.host_status = host_status::DATARUN;
                    }
                }
            }
            _ => answer.host_status = host_status::SELECTION_TIMEOUT,
        }
        let Some(rings) = &mut self.rings else { return };
        let mut more = 1;
        if let Some(lies) = &self.lies {
            match 23 - lies.below(24) {
                0 => answer.host_status = lies.word() as u16,
                1 => answer.scsi_status = lies.word() as u16,
                2 => answer.data_len = u64::from(lies.word()) << lies.below(40),
                3 => answer.sense_len = lies.word(),
                4 => (answer.context, self.lied) = (u64::from(lies.word()) << 32 | lies.below(300), true),
                5 => (more, self.lied) = (2, true),
                6 => (more, self.lied) = (lies.word(), true),
                _ => {}
            }
        }
        for _ in 0..more.min(2) {
            // SAFETY: a descriptor in the driver's ring.
            unsafe { Rings::place::<Completion>(&rings.completions, rings.produced).write_volatile(answer) };
            rings.produced = rings.produced.wrapping_add(1);
        }
        let shown = rings.produced.wrapping_add(more.saturating_sub(2));
        rings.set(abi::COMPLETION_PRODUCER, shown);
        self.causes |= 1;
    }
}

/// The memory of a request's data.
fn pieces(request: &Request) -> Vec<Dma> {
    if request.flags & abi::FLAG_LIST == 0 {
        let len = request.data_len as usize;
        return if len == 0 { Vec::new() } else { alloc::vec![Dma { address: request.data as usize, len }] };
    }
    let mut left = request.data_len;
    let mut list = Vec::new();
    let mut at = request.data as *const Element;
    while left > 0 {
        assert!(list.len() < abi::LIST_LEN, "the driver's list is too long");
        // SAFETY: the driver's list has elements for all of the data.
        let element = unsafe { at.read_volatile() };
        assert!(element.flags == 0 && element.len > 0 && u64::from(element.len) <= left, "a malformed list");
        list.push(Dma { address: element.address as usize, len: element.len as usize });
        left -= u64::from(element.len);
        at = at.wrapping_add(1);
    }
    list
}

impl Io for Adapter {
    fn read(&self, offset: usize) -> u32 {
        self.with(|s| match offset {
            abi::COMMAND_STATUS => s.status,
            abi::INTERRUPT_STATUS => s.causes,
            _ => panic!("a read of register {offset:#x}"),
        })
    }

    fn write(&self, offset: usize, value: u32) {
        self.with(|s| match offset {
            abi::COMMAND => {
                s.command = (value, Vec::new());
                s.status = match value {
                    abi::SETUP_CALL_THRESHOLD if s.threshold.is_none() => abi::FAILED,
                    _ => 0,
                };
                if value == abi::ADAPTER_RESET {
                    (s.rings, s.resets) = (None, s.resets + 1);
                    s.kept.clear();
                }
            }
            abi::COMMAND_DATA => s.command_data(value),
            abi::INTERRUPT_STATUS => s.causes &= !value,
            abi::INTERRUPT_MASK => s.mask = value,
            abi::KICK_OTHER | abi::KICK_READ_WRITE => {
                s.kicks += 1;
                s.work();
            }
            _ => panic!("a write to register {offset:#x}"),
        });
    }
}

/// A fuzz target's body: disks behind an adapter that lies from the start, or from when they were found. Whatever it does,
/// nothing panics, and every request is answered once. True if a disk was found.
pub fn fuzz(choices: &Choices) -> bool {
    driver_kit::host::set_hurry(true);
    let adapter = Adapter::new(Target::new(64));
    if choices.one_in(2) {
        adapter.lie(choices);
    }
    let devices = adapter.start().unwrap_or_default();
    adapter.lie(choices);
    let step = |n: u64| match n & 3 {
        0 => adapter.release(),
        1 => adapter.look(),
        _ => adapter.interrupt(),
    };
    // To keep a request for ever is no lie that a driver can find out: an open one ends the run.
    scsi::exercise::disks(&devices, choices, 60, step, || adapter.jump(5000));
    adapter.unplug();
    let found = !devices.is_empty();
    drop(devices);
    driver_kit::host::bury();
    found
}
