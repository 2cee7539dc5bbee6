//! A controller: bringing it up, its queues, and what happens when it does not answer.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use driver_kit::{DmaArea, Io, Lock, wait_for};
use hal_core::device::{Completion, Dma};
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use crate::identify;
use crate::prp::pages;
use crate::queue::{Command, Completed, Queue, SCRATCH};
use crate::registers::*;

/// Entries of an I/O queue that are worth having.
const ENTRIES: u16 = 64;
const ADMIN_ENTRIES: u16 = 8;
/// Most pages of a request: the first one, and a slot's memory full of others.
pub(crate) const MAX_PAGES: usize = 1 + SCRATCH / 8;
/// How long a command may take.
const PATIENCE_NS: u64 = 30_000_000_000;

/// Data of a request.
#[derive(Clone, Copy)]
pub(crate) enum Data<'a> {
    /// These pieces, or none; `pages` can tell them.
    Pieces(&'a [Dma]),
    /// One range for data set management: first block, number.
    Range(u64, u32),
}

/// A request that waits for a slot.
struct Request {
    command: Command,
    pieces: Box<[Dma]>,
    range: Option<(u64, u32)>,
    done: Completion,
}

/// A pair of queues and who waits for room in it. Pairs do not share cache lines.
#[repr(align(128))]
struct Pair(Lock<PairState>);

struct PairState {
    queue: Queue<Completion>,
    waiting: VecDeque<Request>,
}

/// A controller.
pub(crate) struct Controller {
    io: Arc<dyn Io>,
    admin: Lock<Queue<()>>,
    pairs: Vec<Pair>,
    /// For descriptions.
    page: DmaArea,
    /// Interrupts come by the line: they are masked until the completions are taken.
    line: AtomicBool,
    handler: spin::Once<Handler>,
    failed: AtomicBool,
}

/// Bytes from one doorbell to the next.
fn stride(io: &dyn Io) -> usize {
    4 << (io.read(CAP + 4) & 0xf)
}

fn doorbells(io: &dyn Io, queue: u16) -> (usize, usize) {
    let at = DOORBELLS + 2 * usize::from(queue) * stride(io);
    (at, at + stride(io))
}

impl Controller {
    /// Resets the controller and starts it with up to `wanted` pairs of queues. `connect` gives `vectors` messages to
    /// its handlers, one per pair, and tells how many it gave: 0 is the line.
    pub fn start(
        io: Arc<dyn Io>,
        wanted: usize,
        connect: impl FnOnce(Vec<Handler>, Handler) -> Result<usize>,
    ) -> Result<(Arc<Self>, identify::Controller)> {
        let (low, high) = (io.read(CAP), io.read(CAP + 4));
        if high >> 5 & 1 == 0 || high >> 16 & 0xf != 0 {
            return Err(Error::Device("the controller lacks the NVM command set or pages of 4 KiB"));
        }
        let entries = ((low & 0xffff) + 1).min(u32::from(ENTRIES)) as u16;
        if entries < 2 {
            return Err(Error::Device("the controller's queues are too small"));
        }
        let mut admin = Queue::new(io.clone(), ADMIN_ENTRIES, doorbells(&*io, 0))?;
        let page = DmaArea::new(4096)?;
        enable(&*io, &mut admin)?;
        let identity = identify::Controller::parse(&*identify(&mut admin, &page, admin::CONTROLLER, 0)?);
        // The numbers are one less than what they count.
        let wanted = wanted.clamp(1, 256) as u32 - 1;
        let granted = admin.run(&set_queues(wanted))?;
        let count = (wanted.min(granted & 0xffff).min(granted >> 16) + 1) as u16;
        let mut pairs = Vec::new();
        for number in 1..=count {
            let queue = Queue::new(io.clone(), entries, doorbells(&*io, number))?;
            pairs.push(Pair(Lock::new(PairState { queue, waiting: VecDeque::new() })));
        }
        let controller = Arc::new(Self {
            io,
            admin: Lock::new(admin),
            pairs,
            page,
            line: AtomicBool::new(false),
            handler: spin::Once::new(),
            failed: AtomicBool::new(false),
        });
        let message: Handler = {
            let me = controller.clone();
            Arc::new(move || me.interrupt())
        };
        let handlers = (0..count).map(|_| message.clone()).collect();
        let messages = connect(handlers, message)?;
        controller.line.store(messages == 0, Ordering::Relaxed);
        controller.make_queues()?;
        Ok((controller, identity))
    }

    /// Makes the I/O queues of a controller that was reset.
    fn make_queues(&self) -> Result<()> {
        let mut admin = self.admin.lock();
        for (index, pair) in self.pairs.iter().enumerate() {
            let number = index as u32 + 1;
            let state = pair.0.lock();
            let (submissions, completions) = state.queue.places();
            let size = number | u32::from(state.queue.size() - 1) << 16;
            // Contiguous, with interrupts by the vector of this number.
            let vector = if self.line.load(Ordering::Relaxed) { 0 } else { index as u32 };
            let completion = Command {
                opcode: admin::CREATE_CQ,
                pages: [completions.0, 0],
                words: [size, 0b11 | vector << 16, 0],
                ..Command::default()
            };
            let submission = Command {
                opcode: admin::CREATE_SQ,
                pages: [submissions.0, 0],
                words: [size, 1 | number << 16, 0],
                ..Command::default()
            };
            admin.run(&completion)?;
            admin.run(&submission)?;
        }
        Ok(())
    }

    /// A description (IDENTIFY).
    pub fn identify(&self, what: u32, namespace: u32) -> Result<Box<[u8; 4096]>> {
        identify(&mut self.admin.lock(), &self.page, what, namespace)
    }

    /// Number of pairs.
    pub fn queues(&self) -> u16 {
        self.pairs.len() as u16
    }

    /// Whom to tell of interrupts. The first one counts: whoever polls, polls for all.
    pub fn on_interrupt(&self, handler: Handler) {
        self.handler.call_once(|| handler);
    }

    fn interrupt(&self) {
        if self.line.load(Ordering::Relaxed) {
            self.io.write(INTMS, 1);
        }
        if let Some(handler) = self.handler.get() {
            handler();
        }
    }

    /// Puts a request on this CPU's queue, or in line behind those that wait there.
    pub fn submit(&self, command: Command, data: Data<'_>, done: Completion) {
        let mut pair = self.pairs[crate::this_cpu() % self.pairs.len()].0.lock();
        if self.failed.load(Ordering::Acquire) {
            drop(pair);
            return done(Err(Error::Gone));
        }
        match pair.queue.next_slot() {
            Some(slot) if pair.waiting.is_empty() => pair.put(slot, command, data, done),
            _ => {
                let (pieces, range) = match data {
                    Data::Pieces(pieces) => (pieces.into(), None),
                    Data::Range(first, count) => (Box::default(), Some((first, count))),
                };
                pair.waiting.push_back(Request { command, pieces, range, done });
            }
        }
        pair.queue.ring();
    }

    /// Runs the completions of what is finished.
    pub fn poll(&self) {
        for pair in &self.pairs {
            self.poll_pair(pair);
        }
        if self.line.load(Ordering::Relaxed) && !self.failed.load(Ordering::Relaxed) {
            self.io.write(INTMC, 1);
        }
    }

    fn poll_pair(&self, pair: &Pair) {
        loop {
            let mut state = pair.0.lock();
            if let Some((done, completed)) = state.queue.pop() {
                drop(state);
                done(outcome(completed));
                continue;
            }
            state.queue.acknowledge();
            state.start_waiting();
            let long_ago = hal_core::clock::now_ns().saturating_sub(PATIENCE_NS);
            let broken = state.queue.broken();
            let late = !state.queue.is_idle() && state.queue.any_since(long_ago);
            drop(state);
            if !self.failed.load(Ordering::Relaxed) {
                if let Some(why) = broken {
                    self.recover(why);
                } else if late {
                    self.recover("a command takes too long");
                }
            }
            return;
        }
    }

    /// Resets a controller that does not keep the protocol: what was in flight gets an error, what waits goes on if the
    /// controller works again.
    #[cold]
    fn recover(&self, why: &'static str) {
        // One at a time; who comes second finds new queues.
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        log::error!("nvme: {why} (status {:#x}); resetting the controller", self.io.read(CSTS));
        let stopped = disable(&*self.io);
        let mut lost = Vec::new();
        for pair in &self.pairs {
            lost.extend(pair.0.lock().queue.drain());
        }
        let again = stopped
            .and_then(|()| {
                let mut admin = self.admin.lock();
                admin.drain();
                enable(&*self.io, &mut admin)?;
                admin.run(&set_queues(self.pairs.len() as u32 - 1))
            })
            .and_then(|granted| {
                let enough = (granted & 0xffff).min(granted >> 16) as usize >= self.pairs.len() - 1;
                enough.then_some(()).ok_or(Error::Device("fewer queues than before"))
            })
            .and_then(|()| {
                self.pairs.iter().for_each(|pair| pair.0.lock().queue.reset());
                self.make_queues()
            });
        match again {
            Ok(()) => self.failed.store(false, Ordering::Release),
            Err(error) => {
                log::error!("nvme: the controller does not come back ({error:?}); it is not used any more");
                for pair in &self.pairs {
                    let mut state = pair.0.lock();
                    lost.extend(state.queue.drain());
                    lost.extend(core::mem::take(&mut state.waiting).into_iter().map(|request| request.done));
                }
            }
        }
        for done in lost {
            done(Err(Error::Device("the controller was reset")));
        }
        if !self.failed.load(Ordering::Acquire) {
            self.pairs.iter().for_each(|pair| pair.0.lock().start_waiting());
        }
    }
}

impl PairState {
    /// Moves waiting requests to the queue and tells the device.
    fn start_waiting(&mut self) {
        while let Some(slot) = self.queue.next_slot() {
            let Some(Request { command, pieces, range, done }) = self.waiting.pop_front() else {
                break;
            };
            let data = range.map_or(Data::Pieces(&pieces), |(first, count)| Data::Range(first, count));
            self.put(slot, command, data, done);
        }
        self.queue.ring();
    }

    /// Puts a request on the queue, in the slot that is next.
    fn put(&mut self, slot: u16, mut command: Command, data: Data<'_>, done: Completion) {
        let (area, start) = self.queue.scratch(slot);
        match data {
            Data::Range(first, count) => {
                area.put(start, [0u32, count]);
                area.put(start + 8, first);
                command.pages[0] = area.phys(start).0;
            }
            Data::Pieces(pieces) => {
                let mut count = 0;
                pages(pieces, |at| {
                    match count {
                        0 => command.pages[0] = at,
                        1..MAX_PAGES => {
                            area.put(start + 8 * (count - 1), at);
                            command.pages[1] = at;
                        }
                        // `submit`'s caller has counted them.
                        _ => {}
                    }
                    count += 1;
                });
                // Two pages are told in place, more by the list.
                if count > 2 {
                    command.pages[1] = area.phys(start).0;
                }
            }
        }
        self.queue.add(&command, done);
    }
}

/// What a status means (NVM Express 1.4, section 4.6.1).
fn outcome(completed: Completed) -> Result<()> {
    match completed.status & 0x7ff {
        0 => Ok(()),
        1 => Err(Error::Unsupported),
        _ => Err(Error::Device("the disk reports an error")),
    }
}

fn set_queues(number: u32) -> Command {
    Command { opcode: admin::SET_FEATURES, words: [admin::QUEUES, number | number << 16, 0], ..Command::default() }
}

fn identify(admin: &mut Queue<()>, page: &DmaArea, what: u32, namespace: u32) -> Result<Box<[u8; 4096]>> {
    let command = Command { opcode: admin::IDENTIFY, namespace, pages: [page.phys(0).0, 0], words: [what, 0, 0] };
    admin.run(&command)?;
    let mut data = Box::new([0; 4096]);
    page.read(0, &mut *data);
    Ok(data)
}

/// How long the controller may take to change its state: CAP.TO is in units of 500 ms.
fn patience(io: &dyn Io) -> u64 {
    u64::from(io.read(CAP) >> 24).max(1) * 500_000_000
}

fn disable(io: &dyn Io) -> Result<()> {
    io.write(CC, 0);
    if wait_for(patience(io), || io.read(CSTS) & CSTS_RDY == 0) {
        Ok(())
    } else {
        Err(Error::Device("the controller does not stop"))
    }
}

/// Section 7.6.1.
fn enable(io: &dyn Io, admin: &mut Queue<()>) -> Result<()> {
    disable(io)?;
    admin.reset();
    let (submissions, completions) = admin.places();
    let size = u32::from(admin.size() - 1);
    io.write(AQA, size | size << 16);
    for (register, at) in [(ASQ, submissions), (ACQ, completions)] {
        io.write(register, at.0 as u32);
        io.write(register + 4, (at.0 >> 32) as u32);
    }
    io.write(CC, CC_ON);
    let mut status = 0;
    let ready = wait_for(patience(io), || {
        status = io.read(CSTS);
        status & (CSTS_RDY | CSTS_CFS) != 0
    });
    if !ready || status & CSTS_CFS != 0 {
        return Err(Error::Device("the controller does not get ready"));
    }
    Ok(())
}
