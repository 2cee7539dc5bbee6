//! A fuzz target's body: the input is what a controller does, in turn with what a kernel asks of the driver. Whatever the
//! input, nothing panics, and each request is answered once.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use driver_kit::host::{bury, set_hurry};
use driver_kit::input::Input;
use hal_core::device::{BlockDevice, BlockOp, Dma};

use crate::fake::{FakeHba, SECTORS};
use crate::registers::*;

/// Runs one input.
pub fn run(data: &[u8]) {
    set_hurry(true);
    let mut input = Input(data);
    let hba = FakeHba::new(&[u16::from(input.byte() % 33)]);
    let Some(disk) = hba.start().ok().and_then(|disks| disks.into_iter().next()) else {
        hba.unplug();
        return bury();
    };
    let mut memory = alloc::vec![0u8; 4096];
    let (asked, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    while !input.is_empty() {
        match input.byte() % 8 {
            0 => {
                let register = [P_CI, P_SACT, P_TFD, P_IS, P_CMD, P_SERR][usize::from(input.byte() % 6)];
                hba.set(0, register, input.long());
            }
            1 => hba.raise(0, input.long()),
            2 | 3 => hba.serve(0, input.long(), usize::from(input.byte()) + 128),
            4 | 5 => disk.poll(),
            _ => {
                asked.fetch_add(1, Ordering::Relaxed);
                ask(&*disk, &mut input, &mut memory, answered.clone());
            }
        }
    }
    hba.get_stuck();
    hba.raise(0, 1 << 30);
    hba.set(0, P_IS, u32::MAX);
    for _ in 0..100 {
        disk.poll();
    }
    assert_eq!(asked.load(Ordering::Relaxed), answered.load(Ordering::Relaxed));
    // Nothing may use the memory from here on: not the fake, and not the driver.
    hba.unplug();
    drop(disk);
    drop(memory);
    bury();
}

fn ask(disk: &dyn BlockDevice, input: &mut Input<'_>, memory: &mut [u8], answered: Arc<AtomicUsize>) {
    let kind = input.byte();
    let op = match kind >> 4 {
        0..=5 => BlockOp::Read,
        6..=11 => BlockOp::Write,
        12 | 13 => BlockOp::Flush,
        _ => BlockOp::Discard(512 * u64::from(input.byte())),
    };
    let pieces = if kind >> 4 < 12 { usize::from(input.byte() % 9) } else { 0 };
    let buffers: alloc::vec::Vec<_> =
        (0..pieces).map(|i| Dma { address: memory.as_mut_ptr() as usize + 512 * (i % 8), len: 512 }).collect();
    let position = 512 * u64::from(input.word()) % (512 * (SECTORS as u64 + 10));
    let done = Box::new(move |_| _ = answered.fetch_add(1, Ordering::Relaxed));
    // SAFETY: `run` keeps the memory until the device is unplugged.
    unsafe { disk.submit(op, position, &buffers, done) };
}

#[cfg(test)]
mod tests {
    use driver_kit::random::Random;

    /// Random inputs; the fuzzer finds more, but this runs every time.
    #[test]
    fn random_inputs_do_no_harm() {
        let mut random = Random(1131);
        for _ in 0..500 {
            let len = 40 + random.below(400) as usize;
            let data: alloc::vec::Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            super::run(&data);
        }
    }
}
