//! The paravirtual SCSI adapter: one pair of rings, up to 256 commands in flight. Its third ring, of messages about disks
//! that come and go, is not set up: nobody could act on them.

mod abi;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod ring;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use driver_kit::{Io, Lock};
use hal_core::device::Device;
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};
use scsi::cdb::op;
use scsi::{Host, Limits, Outcome, Task};

use crate::interrupts::{Cause, Causes, Connect};
use abi::host_status;
use ring::{Finished, Rings, SENSE_LEN};

/// Bytes of registers.
pub(crate) const REGISTERS: u64 = 8 * 4096;
/// Targets; the adapter itself has number 7, where nobody answers.
const TARGETS: u16 = 64;

struct Queue {
    rings: Rings,
    /// Commands that wait for room.
    waiting: VecDeque<Task>,
}

/// The adapter.
struct Adapter {
    window: Box<dyn Io>,
    queue: Lock<Queue>,
    /// The adapter says how many requests are worth a doorbell.
    has_threshold: bool,
    handler: spin::Once<Handler>,
    failed: AtomicBool,
}

/// Brings the adapter up and gives its disks.
pub(crate) fn start(window: Box<dyn Io>, connect: Connect<'_>) -> Result<Vec<Device>> {
    window.write(abi::COMMAND, abi::ADAPTER_RESET);
    let rings = Rings::new()?;
    command(&*window, abi::SETUP_RINGS, &rings.setup());
    let has_threshold = set_up_threshold(&*window);
    let queue = Lock::new(Queue { rings, waiting: VecDeque::new() });
    let handler = spin::Once::new();
    let adapter = Arc::new(Adapter { window, queue, has_threshold, handler, failed: AtomicBool::new(false) });
    let (by_vector, by_line) = (adapter.clone(), adapter.clone());
    let connected = connect(Causes {
        vectors: alloc::vec![Cause { cpu: 0, handler: Arc::new(move || by_vector.interrupt()) }],
        line: Arc::new(move || by_line.line_interrupt()),
    });
    if let Err(error) = connected {
        adapter.window.write(abi::COMMAND, abi::ADAPTER_RESET);
        return Err(error);
    }
    adapter.window.write(abi::INTERRUPT_MASK, abi::COMPLETIONS);
    let host: Arc<dyn Host> = adapter;
    let disks = scsi::scan(&host, 0..TARGETS)?;
    Ok(disks.into_iter().map(|disk| Device::Block(disk)).collect())
}

fn command(window: &dyn Io, code: u32, words: &[u32]) {
    window.write(abi::COMMAND, code);
    for word in words {
        window.write(abi::COMMAND_DATA, *word);
    }
}

/// Asks for the threshold; false if the adapter knows none.
fn set_up_threshold(window: &dyn Io) -> bool {
    window.write(abi::COMMAND, abi::SETUP_CALL_THRESHOLD);
    if window.read(abi::COMMAND_STATUS) == abi::FAILED {
        return false;
    }
    command(window, abi::SETUP_CALL_THRESHOLD, &[1]);
    window.read(abi::COMMAND_STATUS) != 0
}

impl Adapter {
    fn interrupt(&self) {
        if let Some(handler) = self.handler.get() {
            handler();
        }
    }

    /// The line is shared, and stays up until its cause is acknowledged.
    fn line_interrupt(&self) {
        let causes = self.window.read(abi::INTERRUPT_STATUS) & abi::ALL_CAUSES;
        if causes != 0 {
            self.window.write(abi::INTERRUPT_STATUS, causes);
            self.interrupt();
        }
    }

    /// Tells the adapter of requests.
    fn kick(&self, rings: &Rings, code: u8) {
        if !matches!(code, op::READ_10 | op::WRITE_10 | op::READ_16 | op::WRITE_16) {
            self.window.write(abi::KICK_OTHER, 0);
        } else if !self.has_threshold || rings.reached_threshold() {
            self.window.write(abi::KICK_READ_WRITE, 0);
        }
    }

    /// Ends the use of the adapter: every command gets an error.
    #[cold]
    fn fail(&self, why: &'static str) {
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        log::error!("pvscsi: {why}; the adapter is not used any more");
        self.window.write(abi::COMMAND, abi::ADAPTER_RESET);
        let mut queue = self.queue.lock();
        let lost = queue.rings.drain(why);
        let waiting = core::mem::take(&mut queue.waiting);
        drop(queue);
        for task in lost.into_iter().chain(waiting) {
            task.finish(self, Outcome::Failed(Error::Device(why)));
        }
    }
}

impl Queue {
    /// Puts waiting commands on the ring; the operation code of the last, if there was one.
    fn start_waiting(&mut self) -> Option<u8> {
        let mut last = None;
        while self.rings.has_room()
            && let Some(task) = self.waiting.pop_front()
        {
            let code = task.cdb.bytes()[0];
            // SAFETY: whoever started the task keeps its memory until it is finished, which happens after the pop, or
            // after the reset in `fail`.
            if let Err(task) = unsafe { self.rings.add(task) } {
                self.waiting.push_front(task);
                break;
            }
            // A doorbell for other commands serves reads and writes, too, but not the other way round.
            last = Some(if last.is_some_and(|l| l != code) { op::TEST_UNIT_READY } else { code });
        }
        last
    }
}

/// What a completion says.
fn outcome<'a>(task: &Task, answer: &abi::Completion, sense: &'a [u8; SENSE_LEN]) -> Outcome<'a> {
    use host_status::*;
    let moved = u32::try_from(answer.data_len).ok();
    let residual = match answer.host_status {
        // A length of 0 may mean that the adapter does not tell.
        SUCCESS | LINKED_COMMAND_COMPLETED | LINKED_COMMAND_COMPLETED_WITH_FLAG => match moved {
            Some(0) => Some(0),
            Some(moved) => Some(task.len.saturating_sub(moved)),
            None => None,
        },
        // Less was moved than there was room for. QEMU never tells how much.
        DATA_UNDERRUN | DATARUN => moved.filter(|m| *m != 0).and_then(|m| task.len.checked_sub(m)),
        SELECTION_TIMEOUT => return Outcome::NoTarget,
        SENT_RESET | RECEIVED_RESET | BUS_RESET | ABORT_QUEUE => return Outcome::Aborted,
        _ => return Outcome::Failed(Error::Device("the SCSI adapter could not carry the command")),
    };
    let sense_len = (answer.sense_len as usize).min(SENSE_LEN);
    // The status is one byte; more is nonsense, and answered as such.
    let status = u8::try_from(answer.scsi_status).unwrap_or(u8::MAX);
    Outcome::Answered { status, sense: &sense[..sense_len], residual }
}

impl Host for Adapter {
    fn limits(&self) -> Limits {
        Limits { max_bytes: u32::MAX, max_pieces: abi::LIST_LEN as u16, queues: 1 }
    }

    unsafe fn start(&self, task: Task) {
        let mut queue = self.queue.lock();
        if self.failed.load(Ordering::Acquire) {
            drop(queue);
            return task.finish(self, Outcome::Failed(Error::Gone));
        }
        queue.waiting.push_back(task);
        if let Some(code) = queue.start_waiting() {
            self.kick(&queue.rings, code);
        }
    }

    fn poll(&self) {
        loop {
            let mut queue = self.queue.lock();
            if let Some(Finished { task, answer, sense }) = queue.rings.pop() {
                drop(queue);
                let outcome = outcome(&task, &answer, &sense);
                task.finish(self, outcome);
                continue;
            }
            if let Some(why) = queue.rings.broken() {
                drop(queue);
                return self.fail(why);
            }
            if let Some(code) = queue.start_waiting() {
                self.kick(&queue.rings, code);
                // Many adapters are done when the doorbell returns.
                continue;
            }
            return;
        }
    }

    fn on_interrupt(&self, handler: Handler) {
        self.handler.call_once(|| handler);
    }

    fn give_up(&self) {
        self.fail("a target does not answer");
    }
}
