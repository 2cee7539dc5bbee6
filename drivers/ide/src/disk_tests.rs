//! A disk at a fake channel. A host's memory lies above 4 GiB, so data goes through the port here; the bus master is tested
//! on QEMU.

use alloc::boxed::Box;
use alloc::vec;
use std::sync::Mutex;

use driver_kit::random::Random;

use super::*;
use crate::fake::{FakeIde, SECTORS, pattern};

type Outcome = Arc<Mutex<Option<Result<()>>>>;

fn submit(disk: &dyn BlockDevice, op: BlockOp, sector: usize, memory: &mut [u8], pieces: usize) -> Outcome {
    let outcome = Outcome::default();
    let told = outcome.clone();
    let each = memory.len().checked_div(pieces).unwrap_or(0);
    let buffers: Vec<_> =
        (0..pieces).map(|i| Dma { address: memory.as_mut_ptr() as usize + i * each, len: each }).collect();
    let done = Box::new(move |result| assert!(told.lock().unwrap().replace(result).is_none(), "done once"));
    // SAFETY: the tests keep the memory until the outcome is there.
    unsafe { disk.submit(op, sector as u64 * 512, &buffers, done) };
    outcome
}

fn result(outcome: &Outcome) -> Option<Result<()>> {
    *outcome.lock().unwrap()
}

#[test]
fn finds_the_disk_and_moves_data() {
    let fake = FakeIde::new();
    let disks = fake.start().unwrap();
    assert_eq!(disks.len(), 1, "the CD-ROM is left out");
    let disk = &*disks[0];
    assert_eq!((disk.caps().size, disk.serial().as_str()), (SECTORS as u64 * 512, "S1"));
    let mut memory = vec![0; 300 * 512];
    let read = submit(disk, BlockOp::Read, 8, &mut memory, 3);
    assert_eq!(result(&read), Some(Ok(())));
    assert!(memory.iter().enumerate().all(|(i, &b)| b == pattern(8 + i / 512)));
    memory.fill(0xee);
    let write = submit(disk, BlockOp::Write, 700, &mut memory, 1);
    assert_eq!(result(&write), Some(Ok(())));
    let medium = fake.medium();
    assert!(medium[700 * 512..1000 * 512].iter().all(|&b| b == 0xee) && medium[1000 * 512] == pattern(1000));
    let flush = submit(disk, BlockOp::Flush, 0, &mut [], 0);
    assert_eq!((result(&flush), fake.history()), (Some(Ok(())), (1, 0)));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let fake = FakeIde::new();
    let disks = fake.start().unwrap();
    let mut memory = vec![0; 4096];
    let cases = [
        submit(&*disks[0], BlockOp::Read, SECTORS, &mut memory[..512], 1),
        submit(&*disks[0], BlockOp::Read, 0, &mut [], 0),
        submit(&*disks[0], BlockOp::Write, 0, &mut memory[..511], 1),
        submit(&*disks[0], BlockOp::Flush, 0, &mut memory[..512], 1),
        submit(&*disks[0], BlockOp::Discard(512), SECTORS, &mut [], 0),
    ];
    for (index, outcome) in cases.iter().enumerate() {
        assert_eq!(result(outcome), Some(Err(Error::Invalid)), "case {index}");
    }
}

/// A channel whose registers say anything at any time.
#[test]
fn random_lies_never_panic_and_never_answer_twice() {
    driver_kit::host::set_hurry(true);
    let mut random = Random(0x1de);
    for _ in 0..300 {
        let fake = FakeIde::new();
        let disks = fake.start().unwrap();
        let mut memory = vec![0; 512 * 8];
        let mut outcomes = vec![];
        for _ in 0..60 {
            match random.below(8) {
                0 => fake.set(random.next() as u8, random.next() as u8),
                1 => fake.interrupt(),
                2 | 3 => disks[0].poll(),
                n => {
                    let op = [BlockOp::Read, BlockOp::Write, BlockOp::Flush, BlockOp::Discard(512)];
                    let op = op.into_iter().nth(n as usize - 4).unwrap();
                    let len = if n < 6 { 512 * (1 + random.below(8) as usize) } else { 0 };
                    let sector = random.below(SECTORS as u64 + 5) as usize;
                    outcomes.push(submit(&*disks[0], op, sector, &mut memory[..len], usize::from(n < 6)));
                }
            }
        }
        fake.get_stuck();
        for _ in 0..200 {
            fake.set(ERROR_STATUS, 6);
            disks[0].poll();
        }
        assert!(outcomes.iter().all(|o| result(o).is_some()), "no request is lost");
        fake.unplug();
        drop(disks);
        driver_kit::host::bury();
    }
}

/// Ready, with an error.
const ERROR_STATUS: u8 = 0x51;
