//! The balloon of a PV guest: frames go back to Xen by their machine numbers, and come with new ones. The guest never grows beyond
//! what it started with, because the builder's list of frames has no room.

use hal_core::device::BalloonDevice;
use hal_core::interrupt::Handler;
use hal_core::{Error, PhysAddr, Result};
use hal_x86::paging::pte;

use super::tables::Batch;
use super::{direct, frames};
use crate::abi::memory;
use crate::balloon::{XenBalloon, reserve};

/// Frames that change hands at once.
const CHUNK: usize = 64;

/// See the module.
pub struct PvBalloon;

fn give(numbers: &[u64]) -> Result<()> {
    let mut batch = Batch::new();
    let mut machine = [0; CHUNK];
    for (slot, &number) in machine.iter_mut().zip(numbers) {
        *slot = frames::of(PhysAddr(number * 4096));
        // SAFETY: nobody uses the frame, by the contract of `BalloonDevice`; Xen flushes before it gives it to another.
        unsafe { batch.add(direct::entry_of(number).1, 0) };
    }
    // SAFETY: as above.
    unsafe { batch.finish() };
    numbers.iter().for_each(|&number| frames::set(number, None));
    reserve(memory::DECREASE_RESERVATION, &mut machine[..numbers.len()])
}

fn take(numbers: &[u64]) -> Result<()> {
    let mut list = [0; CHUNK];
    let list = &mut list[..numbers.len()];
    list.copy_from_slice(numbers);
    // Xen replaces the guest's numbers by the machine's, and enters the guest's in its own list.
    reserve(memory::POPULATE_PHYSMAP, list)?;
    let mut batch = Batch::new();
    for (&number, &machine) in numbers.iter().zip(list.iter()) {
        frames::set(number, Some(machine));
        // SAFETY: the frame was given to this domain just now, and is shown where it always was.
        unsafe { batch.add(direct::entry_of(number).1, machine << 12 | direct::LEAF | pte::WRITE) };
    }
    // SAFETY: as above.
    unsafe { batch.finish() };
    Ok(())
}

impl BalloonDevice for PvBalloon {
    fn target(&self) -> u32 {
        XenBalloon.target()
    }
    fn inflate(&self, numbers: &[u64]) -> Result<()> {
        numbers.chunks(CHUNK).try_for_each(give)
    }
    fn deflate(&self, numbers: &[u64]) -> Result<()> {
        // All or none: what came in part would be lost to the caller.
        let done = numbers.chunks(CHUNK).try_fold(0, |done, chunk| match take(chunk) {
            Ok(()) => Ok(done + chunk.len()),
            Err(error) => Err((done, error)),
        });
        done.map(|_| ()).map_err(|(done, error): (usize, Error)| {
            if done > 0 && numbers[..done].chunks(CHUNK).try_for_each(give).is_err() {
                log::warn!("balloon: {done} pages came back in part");
            }
            error
        })
    }
    fn on_change(&self, handler: Handler) {
        XenBalloon.on_change(handler);
    }
}
