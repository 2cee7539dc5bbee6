//! The program's console: the platform's own (a serial port) or a console device.
//!
//! Output: a little goes to the device at once; what does not fit, or is much, waits in a buffer that a thread
//! empties, so that a program that prints a lot is not held up byte by byte. Log lines do not wait
//! (`klog`); they come as one piece, perhaps before what the program wrote earlier.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use base::{Once, SpinLock};
use hal_core::device::ConsoleDevice;
use hal_core::interrupt::Handler;
use hal_core::{Console, platform};

use crate::sched;
use crate::sched::wait::WaitQueue;
use crate::sched::work::{self, WorkId};

/// Bytes that wait at most.
const CAPACITY: usize = 64 << 10;
/// Up to this many bytes go out at once if nothing waits.
const AT_ONCE: usize = 256;
/// With less room than this a writer may have to wait: it needs some for escapes (`files::stdio`).
pub const LEAST_ROOM: usize = 16;
/// How often a console device that takes nothing is asked again before the bytes are dropped (about a second).
const PATIENCE: u32 = 10_000_000;

static DEVICE: Once<Arc<dyn ConsoleDevice>> = Once::new();
static WAITING: SpinLock<VecDeque<u8>> = SpinLock::new(VecDeque::new());
static MORE: WaitQueue = WaitQueue::new();
static INPUT_WORK: Once<WorkId> = Once::new();
static INPUT: Once<fn(&[u8])> = Once::new();
static ROOM: Once<fn()> = Once::new();

/// Which console the program gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The platform's.
    Platform,
    /// The first console device.
    Device,
}

pub(super) fn add(device: Arc<dyn ConsoleDevice>) {
    DEVICE.call_once(|| device);
}

/// A console device in the platform's clothes: for the log and for panics.
struct DeviceConsole;

impl Console for DeviceConsole {
    fn write(&self, mut bytes: &[u8]) {
        let Some(device) = DEVICE.get() else { return };
        let mut patience = PATIENCE;
        while !bytes.is_empty() && patience > 0 {
            let n = device.write(bytes);
            bytes = &bytes[n..];
            patience = if n > 0 { PATIENCE } else { patience - 1 };
            core::hint::spin_loop();
        }
    }
    fn read(&self, to: &mut [u8]) -> usize {
        DEVICE.get().map_or(0, |device| device.read(to))
    }
    fn on_input(&self, handler: Handler) -> hal_core::Result<()> {
        let device = DEVICE.get().ok_or(hal_core::Error::Gone)?;
        device.on_input(handler);
        Ok(())
    }
}

/// Decides which console it is; the other one if that is not there. Starts the thread that empties the buffer.
pub fn start(choice: Choice) {
    if choice == Choice::Device {
        if DEVICE.get().is_some() {
            hal_core::set_console(&DeviceConsole);
        } else {
            log::warn!("there is no console device: the console is the platform's");
        }
    }
    if let Err(error) = sched::spawn_kernel("console", None, empty) {
        // Everything then goes out at once, in `write`.
        log::warn!("no thread for the console ({error})");
    }
}

fn console() -> &'static dyn Console {
    hal_core::console().unwrap_or_else(|| platform().console())
}

/// Takes output; returns how many bytes it took, fewer than given only if the buffer is full. Does not sleep.
pub fn write(bytes: &[u8]) -> usize {
    let mut waiting = WAITING.lock();
    if waiting.is_empty() && (bytes.len() <= AT_ONCE || !sched::is_up()) {
        console().write(bytes);
        return bytes.len();
    }
    let n = bytes.len().min(CAPACITY - waiting.len().min(CAPACITY));
    waiting.extend(&bytes[..n]);
    drop(waiting);
    MORE.wake_all();
    n
}

/// How many bytes [`write`] would take now.
pub fn room() -> usize {
    CAPACITY - WAITING.lock().len().min(CAPACITY)
}

/// Calls `handler` when there is room again after there was less than [`LEAST_ROOM`].
pub fn on_room(handler: fn()) {
    ROOM.call_once(|| handler);
}

/// Writes everything that waits, without sleeping: for the end of a run.
pub fn flush() {
    while send_some() {}
}

/// Sends a part of what waits; false if nothing did.
fn send_some() -> bool {
    let mut part = [0; AT_ONCE];
    let mut waiting = WAITING.lock();
    let was_full = waiting.len() + LEAST_ROOM > CAPACITY;
    let n = waiting.len().min(part.len());
    for (to, from) in part.iter_mut().zip(waiting.drain(..n)) {
        *to = from;
    }
    // Under the lock, so that nothing overtakes.
    console().write(&part[..n]);
    drop(waiting);
    if was_full && let Some(handler) = ROOM.get() {
        handler();
    }
    n > 0
}

/// The thread.
fn empty() {
    loop {
        MORE.wait_uninterruptible(|| (!WAITING.lock().is_empty()).then_some(()));
        while send_some() {
            sched::yield_now();
        }
    }
}

/// Hands input to `sink`, which must not sleep, as it arrives, from now on.
pub fn on_input(sink: fn(&[u8])) {
    INPUT.call_once(|| sink);
    let work = *INPUT_WORK.call_once(|| work::register(take_input));
    if let Err(error) = console().on_input(Arc::new(move || work::raise(work))) {
        log::warn!("the console has no input: {error:?}");
    }
    // What was typed before.
    work::raise(work);
}

/// Deferred work: input.
fn take_input(_cpu: usize) {
    let mut bytes = [0; 256];
    loop {
        let n = console().read(&mut bytes);
        if n == 0 {
            return;
        }
        if let Some(sink) = INPUT.get() {
            sink(&bytes[..n]);
        }
    }
}
