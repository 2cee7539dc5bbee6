//! The balloon: a thread that gives frames to the host and takes them back, towards the host's target.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use hal_core::device::BalloonDevice;
use hal_core::{PAGE_SIZE, PhysAddr};

use crate::mm::frame;
use crate::sched;
use crate::sched::wait::WaitQueue;

/// Frames that change hands at once.
const BATCH: usize = 256;
/// Frames that the program keeps whatever the host wishes: 1/16 of memory, at least these.
const KEEP: usize = 1024;
/// How long to wait when the target cannot be reached now.
const RETRY_NS: u64 = 1_000_000_000;

/// Where a balloon comes from.
pub enum Source {
    /// A device.
    Device(Arc<dyn BalloonDevice>),
    /// The platform itself.
    Platform(&'static dyn BalloonDevice),
}

impl Source {
    fn get(&self) -> &dyn BalloonDevice {
        match self {
            Self::Device(device) => &**device,
            Self::Platform(device) => *device,
        }
    }
}

struct Wish {
    changed: AtomicBool,
    queue: WaitQueue,
}

/// Starts the thread.
pub(super) fn start(source: Source) {
    // At start the host may have a wish already.
    let wish = Arc::new(Wish { changed: AtomicBool::new(true), queue: WaitQueue::new() });
    let told = wish.clone();
    source.get().on_change(Arc::new(move || {
        told.changed.store(true, Ordering::Release);
        told.queue.wake_all();
    }));
    if source.get().target() == 0 {
        wish.changed.store(false, Ordering::Release);
    }
    if let Err(error) = sched::spawn_kernel("balloon", None, move || follow(source.get(), &wish)) {
        log::warn!("no thread for the balloon ({error}): it stays empty");
    }
}

/// Follows the host's wish for ever.
fn follow(device: &dyn BalloonDevice, wish: &Wish) {
    let mut held: Vec<u64> = Vec::new();
    let mut retry = false;
    loop {
        let deadline = retry.then(|| base::time::now_ns() + RETRY_NS);
        // A timeout is as good as a change here, and kernel threads get no signals.
        let _ = wish.queue.wait_until(deadline, || wish.changed.swap(false, Ordering::AcqRel).then_some(()));
        retry = !approach(device, &mut held);
    }
}

/// Goes towards the target; true if it was reached, or the device is broken.
fn approach(device: &dyn BalloonDevice, held: &mut Vec<u64>) -> bool {
    loop {
        let target = device.target() as usize;
        let step = if target > held.len() {
            let want = (target - held.len()).min(BATCH);
            let stats = frame::stats();
            let spare = stats.free.saturating_sub(KEEP.max(stats.total / 16));
            let batch: Vec<u64> = (0..want.min(spare)).map_while(|_| frame::alloc(0)).map(|f| f.page()).collect();
            if batch.is_empty() {
                return false;
            }
            let result = device.inflate(&batch);
            // What the host may have taken is lost if the device broke in the middle: it must not be used.
            held.extend(batch);
            result
        } else if target < held.len() {
            let batch = held.split_off(held.len() - (held.len() - target).min(BATCH));
            let result = device.deflate(&batch);
            if result.is_ok() {
                for number in batch {
                    // SAFETY: allocated in `inflate`'s branch, and the host has given it back.
                    unsafe { frame::free(PhysAddr(number * PAGE_SIZE as u64), 0) };
                }
            }
            result
        } else {
            return true;
        };
        if let Err(error) = step {
            log::warn!("balloon: {error:?}; it stays as it is");
            return true;
        }
        sched::schedule_if_needed();
    }
}
