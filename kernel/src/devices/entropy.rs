//! Entropy devices: they feed the kernel's generator at boot and from time to time.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use base::{Once, SpinLock};
use hal_core::device::EntropyDevice;

use crate::sched::timer::Timer;
use crate::sched::work::{self, WorkId};

/// Bytes per request.
const CHUNK: usize = 64;
/// Time between requests.
const PERIOD_NS: u64 = 300_000_000_000;

static DEVICES: SpinLock<Vec<Arc<dyn EntropyDevice>>> = SpinLock::new(Vec::new());
static WORK: Once<WorkId> = Once::new();
static SINK: Once<fn(&[u8])> = Once::new();
static TIMER: Once<Timer> = Once::new();

pub(super) fn add(device: Arc<dyn EntropyDevice>) {
    let work = *WORK.call_once(|| work::register(poll));
    device.on_interrupt(Arc::new(move || work::raise(work)));
    DEVICES.lock().push(device);
}

/// Hands bytes to `sink` (which mixes them into the generator, and must not sleep) now and every few minutes.
pub fn feed(sink: fn(&[u8])) {
    SINK.call_once(|| sink);
    TIMER.call_once(|| Timer::new(Arc::new(ask)));
    ask();
}

/// The timer: asks each device for some bytes.
fn ask() {
    let asked = sample(|bytes| {
        if let Some(sink) = SINK.get() {
            sink(bytes);
        }
    });
    if let Some(timer) = TIMER.get()
        && asked > 0
    {
        timer.set(base::time::now_ns() + PERIOD_NS);
    }
}

/// Asks each device for some bytes, which `sink` gets later, in deferred work; returns how many devices were asked.
pub(super) fn sample(sink: fn(&[u8])) -> usize {
    let devices = DEVICES.lock().clone();
    let asked = devices.iter().filter(|device| {
        let done = Box::new(move |bytes: &[u8]| {
            if !bytes.is_empty() {
                sink(bytes);
            }
        });
        device.request(CHUNK, done).inspect_err(|error| log::debug!("entropy: {error:?}")).is_ok()
    });
    asked.count()
}

/// Deferred work: answers.
fn poll(_cpu: usize) {
    let devices = DEVICES.lock().clone();
    for device in devices {
        device.poll();
    }
}
