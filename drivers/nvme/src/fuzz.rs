//! A fuzz target's body: the input is what a controller does, in turn with what a kernel asks of the driver. Whatever the
//! input, nothing panics, and each request is answered once.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use driver_kit::host::{bury, set_hurry};
use driver_kit::input::Input;
use hal_core::device::{BlockDevice, BlockOp, Device, Dma};

use crate::fake::{BLOCKS, FakeNvme};

/// Runs one input.
pub fn run(data: &[u8]) {
    set_hurry(true);
    let mut input = Input(data);
    let first = input.byte();
    let fake = FakeNvme::new(1, 1 + u32::from(first & 1), first & 2 != 0, first & 4 != 0);
    let devices = fake.start(2).unwrap_or_default();
    let Some(Device::Block(disk)) = devices.into_iter().next() else {
        fake.unplug();
        return bury();
    };
    let mut memory = alloc::vec![0u8; 3 * 4096];
    let (asked, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    while !input.is_empty() {
        match input.byte() % 8 {
            0 => fake.put(1 + usize::from(input.byte() & 1), input.word(), input.word()),
            1 => fake.interrupt(1),
            2 | 3 => _ = fake.serve(1, usize::from(input.byte()), BLOCKS - usize::from(input.byte())),
            4 | 5 => disk.poll(),
            _ => {
                asked.fetch_add(1, Ordering::Relaxed);
                ask(&*disk, &mut input, &mut memory, answered.clone());
            }
        }
    }
    fake.get_stuck();
    for queue in [1, 2] {
        // The queue may have an entry that looks like this one already.
        for _ in 0..3 {
            fake.put(queue, 999, 0);
            disk.poll();
        }
    }
    assert_eq!(asked.load(Ordering::Relaxed), answered.load(Ordering::Relaxed));
    // Nothing may use the memory from here on: not the fake, and not the driver.
    fake.unplug();
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
    let buffers: alloc::vec::Vec<_> = (0..pieces)
        .map(|_| {
            let at = usize::from(input.byte() % 16);
            Dma { address: memory.as_mut_ptr() as usize + 512 * at, len: 512 * usize::from(1 + input.byte() % 8) }
        })
        .collect();
    let position = 512 * (u64::from(input.word()) % (BLOCKS as u64 + 10));
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
        let mut random = Random(1400);
        for _ in 0..500 {
            let len = 40 + random.below(400) as usize;
            let data: alloc::vec::Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            super::run(&data);
        }
    }
}
