//! The balloon: the tool stack says in `memory/target` how much the domain may have (docs/misc/xenstore-paths.pandoc).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hal_core::device::BalloonDevice;
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};
use spin::mutex::SpinMutex as Mutex;

use crate::abi::{DOMID_SELF, memory, op};
use crate::hypercall::with;
use crate::store;

const TARGET: &str = "memory/target";
/// Kilobytes in a frame.
const FRAME_KIB: u64 = 4;

/// Frames that Xen wants back.
static WANTED: AtomicU32 = AtomicU32::new(0);
static HANDLER: Mutex<Option<Handler>> = Mutex::new(None);

/// The balloon of HVM and PVH guests, whose frame numbers are their own.
pub struct XenBalloon;

/// What the domain got at its start, in KiB, if that is less than the most it may have.
static STARTED_WITH: AtomicU64 = AtomicU64::new(u64::MAX);

/// The domain has only these frames; before [`init`].
pub fn set_frames(frames: u64) {
    STARTED_WITH.store(frames * FRAME_KIB, Ordering::Relaxed);
}

/// Reads the target and listens to changes.
pub fn init() -> Result<()> {
    update();
    store::watch(TARGET, Arc::new(changed))
}

/// Deferred work.
fn changed() {
    let before = WANTED.load(Ordering::Relaxed);
    update();
    if WANTED.load(Ordering::Relaxed) != before
        && let Some(handler) = HANDLER.lock().clone()
    {
        handler();
    }
}

fn update() {
    let Ok(values) = store::read(&["memory/static-max", "memory/videoram", TARGET]) else { return };
    let number = |i: usize| values.get(i).and_then(Option::as_ref).and_then(|text| text.parse::<i64>().ok());
    let (Some(most), Some(target)) = (number(0), number(2)) else { return };
    let video = number(1).unwrap_or(0).max(0);
    let there = most.saturating_sub(video).max(0).cast_unsigned().min(STARTED_WITH.load(Ordering::Relaxed));
    let kib = there.saturating_sub(target.max(0).cast_unsigned());
    WANTED.store(u32::try_from(kib / FRAME_KIB).unwrap_or(u32::MAX), Ordering::Relaxed);
}

/// One reservation call for `frames`, whose numbers a PV guest gets replaced.
pub(crate) fn reserve(command: u64, frames: &mut [u64]) -> Result<()> {
    let mut argument = memory::Reservation {
        extents: frames.as_mut_ptr() as u64,
        count: frames.len() as u64,
        order: 0,
        flags: 0,
        domain: DOMID_SELF,
    };
    // SAFETY: the array lives on for the call. The frames are the balloon's, by the contract of `BalloonDevice`: nobody uses them.
    let done = unsafe { with(op::MEMORY, command, &mut argument) }?;
    if done == frames.len() as u64 { Ok(()) } else { Err(Error::Exhausted) }
}

impl BalloonDevice for XenBalloon {
    fn target(&self) -> u32 {
        WANTED.load(Ordering::Relaxed)
    }
    fn inflate(&self, frames: &[u64]) -> Result<()> {
        reserve(memory::DECREASE_RESERVATION, &mut frames.to_vec())
    }
    fn deflate(&self, frames: &[u64]) -> Result<()> {
        reserve(memory::POPULATE_PHYSMAP, &mut frames.to_vec())
    }
    fn on_change(&self, handler: Handler) {
        *HANDLER.lock() = Some(handler);
    }
}
