//! Disks behind a fake controller, by the book and lying.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use driver_kit::random::Random;

use super::*;
use crate::fake::{FakeHba, SECTORS, pattern};

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
fn reads_writes_flushes_trims() {
    for depth in [32, 4, 0] {
        let hba = FakeHba::new(&[depth]);
        let disks = hba.start().unwrap();
        let disk = &*disks[0];
        assert_eq!((disk.caps().size, disk.serial().as_str()), (SECTORS as u64 * 512, "S1"));
        let mut memory = vec![0; 4096];
        let read = submit(disk, BlockOp::Read, 8, &mut memory, 4);
        assert!(result(&read).is_none());
        hba.serve(0, u32::MAX, usize::MAX);
        disk.poll();
        assert_eq!(result(&read), Some(Ok(())));
        assert!(memory.iter().enumerate().all(|(i, &b)| b == pattern(8 + i / 512)));
        memory.fill(0xee);
        let write = submit(disk, BlockOp::Write, 0, &mut memory, 2);
        let flush = submit(disk, BlockOp::Flush, 0, &mut [], 0);
        let trim = submit(disk, BlockOp::Discard(1024), 100, &mut [], 0);
        for _ in 0..3 {
            hba.serve(0, u32::MAX, usize::MAX);
            disk.poll();
        }
        for outcome in [&write, &flush, &trim] {
            assert_eq!(result(outcome), Some(Ok(())));
        }
        let medium = hba.medium(0);
        assert!(medium[..4096].iter().all(|&b| b == 0xee) && medium[4096] == pattern(8));
        assert!(medium[51200..52224].iter().all(|&b| b == 0) && medium[52224] == pattern(102));
        let (resets, flushes, served) = hba.history(0);
        assert_eq!((resets, flushes), (0, 1));
        assert_eq!(served[0][2], if depth > 0 { 0x60 } else { 0x25 });
    }
}

#[test]
fn several_disks_and_a_packet_device() {
    let hba = FakeHba::new(&[32, 32, 0]);
    hba.make_packet_device(2);
    let disks = hba.start().unwrap();
    assert_eq!(disks.len(), 2);
    let mut memory = vec![0; 512];
    let read = submit(&*disks[1], BlockOp::Read, 5, &mut memory, 1);
    hba.serve(4, 1, usize::MAX);
    disks[0].poll();
    assert!(result(&read).is_none());
    disks[1].poll();
    assert_eq!(result(&read), Some(Ok(())));
}

#[test]
fn more_than_the_slots_hold_waits_inside() {
    let hba = FakeHba::new(&[32]);
    let disks = hba.start().unwrap();
    let mut memory = vec![0; 512 * 100];
    let outcomes: Vec<_> =
        memory.chunks_mut(512).enumerate().map(|(i, m)| submit(&*disks[0], BlockOp::Read, i, m, 1)).collect();
    assert_eq!(hba.commands(0), u32::MAX);
    while outcomes.iter().any(|o| result(o).is_none()) {
        hba.serve(0, 0x5a5a_5a5a, usize::MAX);
        hba.serve(0, u32::MAX, usize::MAX);
        disks[0].poll();
    }
    assert!(memory.chunks(512).enumerate().all(|(i, m)| m.iter().all(|&b| b == pattern(i))));
}

#[test]
fn a_flush_runs_alone() {
    let hba = FakeHba::new(&[32]);
    let disks = hba.start().unwrap();
    let mut memory = vec![0; 1024];
    let (a, b) = memory.split_at_mut(512);
    let first = submit(&*disks[0], BlockOp::Write, 0, a, 1);
    let flush = submit(&*disks[0], BlockOp::Flush, 0, &mut [], 0);
    let last = submit(&*disks[0], BlockOp::Write, 1, b, 1);
    assert_eq!(hba.commands(0).count_ones(), 1);
    for outcome in [first, flush, last] {
        assert!(result(&outcome).is_none());
        hba.serve(0, u32::MAX, usize::MAX);
        disks[0].poll();
        assert_eq!(result(&outcome), Some(Ok(())));
    }
}

#[test]
fn only_the_command_that_cannot_be_served_fails() {
    for depth in [32, 0] {
        let hba = FakeHba::new(&[depth]);
        let disks = hba.start().unwrap();
        let mut memory = vec![0; 512 * 20];
        let outcomes: Vec<_> =
            memory.chunks_mut(512).enumerate().map(|(i, m)| submit(&*disks[0], BlockOp::Read, i, m, 1)).collect();
        for _ in 0..100 {
            hba.serve(0, u32::MAX, 19);
            disks[0].poll();
        }
        assert!(outcomes[..19].iter().all(|o| result(o) == Some(Ok(()))), "{depth}");
        assert!(matches!(result(&outcomes[19]), Some(Err(Error::Device(_)))));
        assert!(hba.history(0).0 >= 1, "the link was reset");
        let again = submit(&*disks[0], BlockOp::Read, 3, &mut memory[..512], 1);
        hba.serve(0, u32::MAX, usize::MAX);
        disks[0].poll();
        assert_eq!(result(&again), Some(Ok(())), "and the disk goes on");
    }
}

#[test]
fn a_disk_that_does_not_come_back_loses_nothing() {
    driver_kit::host::set_hurry(true);
    let hba = FakeHba::new(&[32]);
    let disks = hba.start().unwrap();
    let mut memory = vec![0; 512 * 50];
    let outcomes: Vec<_> =
        memory.chunks_mut(512).enumerate().map(|(i, m)| submit(&*disks[0], BlockOp::Read, i, m, 1)).collect();
    hba.get_stuck();
    hba.raise(0, 1 << 30);
    disks[0].poll();
    assert!(outcomes.iter().all(|o| matches!(result(o), Some(Err(_)))));
    let late = submit(&*disks[0], BlockOp::Read, 0, &mut memory[..512], 1);
    assert_eq!(result(&late), Some(Err(Error::Gone)));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let hba = FakeHba::new(&[32]);
    let disks = hba.start().unwrap();
    let mut memory = vec![0; 4096];
    let cases = [
        submit(&*disks[0], BlockOp::Read, SECTORS, &mut memory[..512], 1),
        submit(&*disks[0], BlockOp::Read, 0, &mut [], 0),
        submit(&*disks[0], BlockOp::Write, 0, &mut memory[..511], 1),
        submit(&*disks[0], BlockOp::Write, 0, &mut memory[1..513], 1),
        submit(&*disks[0], BlockOp::Flush, 0, &mut memory[..512], 1),
        submit(&*disks[0], BlockOp::Discard(512), SECTORS, &mut [], 0),
        submit(&*disks[0], BlockOp::Discard(0), 0, &mut [], 0),
    ];
    for (index, outcome) in cases.iter().enumerate() {
        assert_eq!(result(outcome), Some(Err(Error::Invalid)), "case {index}");
    }
}

/// A device that says of anything at any time that it is done or wrong.
#[test]
fn random_lies_never_panic_and_never_answer_twice() {
    driver_kit::host::set_hurry(true);
    let mut random = Random(0xa4c1);
    for round in 0..300 {
        let hba = FakeHba::new(&[if round & 1 == 0 { 32 } else { 0 }]);
        let disks = hba.start().unwrap();
        let mut memory = vec![0; 512 * 64];
        let mut outcomes = vec![];
        for step in 0..100usize {
            match random.below(8) {
                0 => hba.set(0, [P_CI, P_SACT, P_TFD, P_IS, P_CMD][random.below(5) as usize], random.next() as u32),
                1 => hba.raise(0, random.next() as u32),
                2 => hba.serve(0, random.next() as u32, SECTORS - 20),
                3 => disks[0].poll(),
                n => {
                    let at = 512 * (step % 64);
                    let op = [BlockOp::Read, BlockOp::Write, BlockOp::Flush, BlockOp::Discard(512)]
                        .into_iter()
                        .nth(n as usize - 4)
                        .unwrap();
                    let pieces = usize::from(n < 6);
                    let end = at + 512 * pieces;
                    outcomes.push(submit(
                        &*disks[0],
                        op,
                        random.below(SECTORS as u64) as usize,
                        &mut memory[at..end],
                        pieces,
                    ));
                }
            }
        }
        hba.get_stuck();
        hba.raise(0, 1 << 30);
        hba.set(0, P_IS, u32::MAX);
        // Each poll may still find something that looks finished.
        for _ in 0..100 {
            disks[0].poll();
        }
        assert!(outcomes.iter().all(|o| result(o).is_some()), "no request is lost");
        hba.unplug();
        drop(disks);
        driver_kit::host::bury();
    }
}
