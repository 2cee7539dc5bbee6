//! Namespaces of a fake controller, by the book and lying.

use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use driver_kit::random::Random;
use hal_core::device::Device;

use super::*;
use crate::fake::{BLOCKS, FakeNvme, pattern};

type Outcome = Arc<Mutex<Option<Result<()>>>>;

/// Memory that starts at a page's border.
struct Pages(Vec<u8>, usize);

impl Pages {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self(memory, start)
    }
    fn bytes(&mut self) -> &mut [u8] {
        let start = self.1;
        let end = self.0.len() - 4096 + start;
        &mut self.0[start..end]
    }
}

fn disks(fake: &Arc<FakeNvme>, cpus: usize) -> Vec<Arc<dyn BlockDevice>> {
    let devices = fake.start(cpus).unwrap();
    devices.into_iter().map(|d| if let Device::Block(disk) = d { disk } else { panic!("a disk") }).collect()
}

fn submit(disk: &dyn BlockDevice, op: BlockOp, block: usize, memory: &mut [u8], pieces: usize) -> Outcome {
    let outcome = Outcome::default();
    let told = outcome.clone();
    let each = memory.len().checked_div(pieces).unwrap_or(0);
    // Backwards, so that they are not one after the other in memory.
    let buffers: Vec<_> =
        (0..pieces).rev().map(|i| Dma { address: memory.as_mut_ptr() as usize + i * each, len: each }).collect();
    let done = Box::new(move |result| assert!(told.lock().unwrap().replace(result).is_none(), "done once"));
    // SAFETY: the tests keep the memory until the outcome is there, or the controller is gone.
    unsafe { disk.submit(op, block as u64 * 512, &buffers, done) };
    outcome
}

fn result(outcome: &Outcome) -> Option<Result<()>> {
    *outcome.lock().unwrap()
}

#[test]
fn starts_with_namespaces_and_queues() {
    for (queues, messages, old) in [(4, true, false), (2, true, true), (1, false, false)] {
        let fake = FakeNvme::new(3, queues, messages, old);
        let disks = disks(&fake, 3);
        assert_eq!((disks.len(), fake.queues()), (3, queues.min(3) as usize));
        assert_eq!(disks[0].caps().size, BLOCKS as u64 * 512);
        assert_eq!((disks[0].serial().as_str(), disks[1].serial().as_str()), ("NV42", "NV42-2"));
        assert_eq!(disks[0].caps().max_request, 4096 << 7);
    }
}

#[test]
fn reads_writes_flushes_deallocates() {
    let fake = FakeNvme::new(2, 1, true, false);
    let disks = disks(&fake, 1);
    let disk = &*disks[1];
    let mut memory = Pages::new(64 * 4096);
    // One page, two, a list; one piece and many.
    for (len, pieces) in [(512, 1), (4096, 1), (8192, 1), (8192, 2), (64 * 4096, 1), (64 * 4096, 64)] {
        let bytes = &mut memory.bytes()[..len];
        bytes.fill(0);
        let read = submit(disk, BlockOp::Read, 8, bytes, pieces);
        assert!(result(&read).is_none());
        assert_eq!(fake.serve(1, 100, usize::MAX), 1);
        disk.poll();
        assert_eq!(result(&read), Some(Ok(())));
        let each = len / pieces;
        for (index, piece) in bytes.chunks(each).rev().enumerate() {
            let first = 8 + index * each / 512;
            assert!(piece.iter().enumerate().all(|(i, &b)| b == pattern(2, first + i / 512)), "{len} {pieces}");
        }
    }
    let bytes = &mut memory.bytes()[..4096];
    bytes.fill(0xee);
    let write = submit(disk, BlockOp::Write, 0, bytes, 1);
    let flush = submit(disk, BlockOp::Flush, 0, &mut [], 0);
    let discard = submit(disk, BlockOp::Discard(1024), 100, &mut [], 0);
    fake.serve(1, 100, usize::MAX);
    disk.poll();
    for outcome in [write, flush, discard] {
        assert_eq!(result(&outcome), Some(Ok(())));
    }
    let medium = fake.medium(2);
    assert!(medium[..4096].iter().all(|&b| b == 0xee));
    assert!(medium[51200..52224].iter().all(|&b| b == 0) && medium[52224] == pattern(2, 102));
    assert_eq!(fake.history().1, 1);
    assert_eq!(fake.medium(1)[0], pattern(1, 0));
}

#[test]
fn pieces_that_one_command_cannot_tell() {
    let fake = FakeNvme::new(1, 1, true, false);
    let disks = disks(&fake, 1);
    let mut memory = Pages::new(4 * 4096);
    let read = submit(&*disks[0], BlockOp::Read, 0, &mut memory.bytes()[512..512 + 6 * 512], 6);
    assert_eq!(fake.serve(1, 5, usize::MAX), 5);
    disks[0].poll();
    assert!(result(&read).is_none());
    fake.serve(1, 5, usize::MAX);
    disks[0].poll();
    assert_eq!(result(&read), Some(Ok(())));
    assert_eq!(memory.bytes()[512], pattern(1, 5));
    let read = submit(&*disks[0], BlockOp::Read, BLOCKS - 6, &mut memory.bytes()[512..512 + 6 * 512], 6);
    fake.serve(1, 6, BLOCKS - 3);
    disks[0].poll();
    assert!(matches!(result(&read), Some(Err(Error::Device(_)))));
    let odd = submit(&*disks[0], BlockOp::Read, 0, &mut memory.bytes()[1..513], 1);
    assert_eq!(result(&odd), Some(Err(Error::Invalid)));
}

#[test]
fn more_than_the_queue_holds_waits_inside() {
    let fake = FakeNvme::new(1, 1, false, false);
    let disks = disks(&fake, 1);
    disks[0].on_interrupt(Arc::new(|| ()));
    let mut memory = Pages::new(512 * 300);
    let outcomes: Vec<_> =
        memory.bytes().chunks_mut(512).enumerate().map(|(i, m)| submit(&*disks[0], BlockOp::Read, i, m, 1)).collect();
    assert_eq!(fake.take(1), 63);
    while outcomes.iter().any(|o| result(o).is_none()) {
        assert!(fake.serve(1, 20, usize::MAX) > 0);
        assert!(fake.masked(), "until somebody looks");
        disks[0].poll();
        assert!(!fake.masked());
    }
    assert!(memory.bytes().chunks(512).enumerate().all(|(i, m)| m.iter().all(|&b| b == pattern(1, i))));
}

#[test]
fn a_lie_resets_the_controller_which_then_goes_on() {
    for lie in [63u16, 5, u16::MAX] {
        let fake = FakeNvme::new(1, 2, true, false);
        let disks = disks(&fake, 2);
        let resets = fake.history().0;
        let mut memory = Pages::new(4096 * 2);
        let (a, b) = memory.bytes().split_at_mut(4096);
        let lost = submit(&*disks[0], BlockOp::Read, 0, a, 1);
        fake.put(1, lie, 0);
        disks[0].poll();
        assert!(matches!(result(&lost), Some(Err(Error::Device(_)))), "{lie}");
        assert_eq!((fake.history().0, fake.queues()), (resets + 1, 2));
        let again = submit(&*disks[0], BlockOp::Read, 0, b, 1);
        fake.serve(1, 1, usize::MAX);
        disks[0].poll();
        assert_eq!(result(&again), Some(Ok(())));
    }
}

#[test]
fn a_controller_that_does_not_come_back_loses_nothing() {
    driver_kit::host::set_hurry(true);
    let fake = FakeNvme::new(1, 1, true, false);
    let disks = disks(&fake, 1);
    let mut memory = Pages::new(512 * 100);
    let outcomes: Vec<_> =
        memory.bytes().chunks_mut(512).enumerate().map(|(i, m)| submit(&*disks[0], BlockOp::Read, i, m, 1)).collect();
    fake.get_stuck();
    fake.put(1, 999, 0);
    disks[0].poll();
    assert!(outcomes.iter().all(|o| matches!(result(o), Some(Err(_)))));
    let late = submit(&*disks[0], BlockOp::Read, 0, &mut memory.bytes()[..512], 1);
    assert_eq!(result(&late), Some(Err(Error::Gone)));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let fake = FakeNvme::new(1, 1, true, false);
    let disks = disks(&fake, 1);
    let mut memory = Pages::new(4096);
    let cases = [
        submit(&*disks[0], BlockOp::Read, BLOCKS, &mut memory.bytes()[..512], 1),
        submit(&*disks[0], BlockOp::Read, 0, &mut [], 0),
        submit(&*disks[0], BlockOp::Write, 0, &mut memory.bytes()[..511], 1),
        submit(&*disks[0], BlockOp::Flush, 0, &mut memory.bytes()[..512], 1),
        submit(&*disks[0], BlockOp::Discard(512), BLOCKS, &mut [], 0),
        submit(&*disks[0], BlockOp::Discard(0), 0, &mut [], 0),
    ];
    for (index, outcome) in cases.iter().enumerate() {
        assert_eq!(result(outcome), Some(Err(Error::Invalid)), "case {index}");
    }
}

/// A controller that completes anything at any time.
#[test]
fn random_lies_never_panic_and_never_answer_twice() {
    driver_kit::host::set_hurry(true);
    let mut random = Random(0x4e56);
    for round in 0..300 {
        let fake = FakeNvme::new(1, 1, round & 1 == 0, false);
        let disks = disks(&fake, 1);
        let mut memory = Pages::new(512 * 64);
        let mut outcomes = vec![];
        for step in 0..100usize {
            match random.below(8) {
                0 if random.below(4) == 0 => fake.put(1, random.below(70) as u16, random.below(3) as u16),
                0 | 1 => fake.interrupt(1),
                2 => _ = fake.serve(1, random.below(20) as usize, BLOCKS - 100),
                3 => disks[0].poll(),
                n => {
                    let at = 512 * (step % 64);
                    let op = [BlockOp::Read, BlockOp::Write, BlockOp::Flush, BlockOp::Discard(512)]
                        .into_iter()
                        .nth(n as usize - 4)
                        .unwrap();
                    let pieces = usize::from(n < 6);
                    let memory = &mut memory.bytes()[at..at + 512 * pieces];
                    outcomes.push(submit(&*disks[0], op, random.below(BLOCKS as u64 + 9) as usize, memory, pieces));
                }
            }
        }
        fake.get_stuck();
        while outcomes.iter().any(|o| result(o).is_none()) {
            fake.put(1, 999, 0);
            disks[0].poll();
        }
        fake.unplug();
        drop(disks);
        driver_kit::host::bury();
    }
}
