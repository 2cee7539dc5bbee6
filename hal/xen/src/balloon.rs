//! The balloon: the tool stack says in `memory/target` how much the domain may have (docs/misc/xenstore-paths.pandoc).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

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
    let kib = most.saturating_sub(video).saturating_sub(target).max(0) as u64;
    WANTED.store(u32::try_from(kib / FRAME_KIB).unwrap_or(u32::MAX), Ordering::Relaxed);
}

/// One reservation call for `frames`.
fn reserve(command: u64, frames: &[u64]) -> Result<()> {
    let mut argument = memory::Reservation {
        extents: frames.as_ptr() as u64,
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
        reserve(memory::DECREASE_RESERVATION, frames)
    }
    fn deflate(&self, frames: &[u64]) -> Result<()> {
        reserve(memory::POPULATE_PHYSMAP, frames)
    }
    fn on_change(&self, handler: Handler) {
        *HANDLER.lock() = Some(handler);
    }
}
