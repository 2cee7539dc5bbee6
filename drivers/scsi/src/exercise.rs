//! What tests and fuzz targets do with disks behind an adapter that may lie: random requests, each of which must be answered
//! exactly once in the end.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use driver_kit::random::Choices;
use hal_core::device::{BlockDevice, BlockOp, Device, Dma};

/// Requests and answers.
#[derive(Default)]
struct Tally {
    asked: AtomicUsize,
    answered: AtomicUsize,
}

/// Sends `count` requests to the disks among `devices`; `step` lets the adapter do something between them. At the end `done`
/// is called until every request is answered; panics if that does not happen.
pub fn disks(devices: &[Device], choices: &Choices, count: usize, mut step: impl FnMut(u64), mut done: impl FnMut()) {
    let tally = Arc::new(Tally::default());
    let mut memory = alloc::vec![0u8; 16 * 4096];
    let all: Vec<&dyn BlockDevice> =
        devices.iter().filter_map(|d| if let Device::Block(disk) = d { Some(&**disk) } else { None }).collect();
    if all.is_empty() {
        return;
    }
    for _ in 0..count {
        if !choices.are_left() {
            break;
        }
        let disk = all[choices.below(all.len() as u64) as usize];
        match choices.below(8) {
            0 => disk.poll(),
            1 => step(u64::from(choices.word())),
            _ => {
                let block = u64::from(disk.caps().block_size);
                let (op, data) = match choices.below(10) {
                    0..=4 => (BlockOp::Read, true),
                    5..=7 => (BlockOp::Write, true),
                    8 => (BlockOp::Flush, false),
                    _ => (BlockOp::Discard(block * choices.below(5)), false),
                };
                let pieces = if data { choices.below(6) as usize } else { 0 };
                let buffers: Vec<Dma> = (0..pieces)
                    .map(|i| Dma { address: memory.as_mut_ptr() as usize + 4096 * i, len: block.min(4096) as usize })
                    .collect();
                tally.asked.fetch_add(1, Ordering::Relaxed);
                let told = tally.clone();
                let answer = Box::new(move |_| _ = told.answered.fetch_add(1, Ordering::Relaxed));
                // SAFETY: the memory stays until every request is answered, below.
                unsafe { disk.submit(op, block * choices.below(80), &buffers, answer) };
            }
        }
        assert!(tally.answered.load(Ordering::Relaxed) <= tally.asked.load(Ordering::Relaxed), "answered twice");
    }
    for _ in 0..1000 {
        all.iter().for_each(|disk| disk.poll());
        if tally.answered.load(Ordering::Relaxed) == tally.asked.load(Ordering::Relaxed) {
            return;
        }
        done();
    }
    // The adapter may still write there.
    core::mem::forget(memory);
    panic!("requests were forgotten");
}
