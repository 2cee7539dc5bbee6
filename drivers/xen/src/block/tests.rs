//! The disk against a backend with real contents: by the book, lying, vanishing and coming back.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use hal_core::device::{BlockDevice, BlockOp, Dma};
use hal_core::{Error, Result};

use driver_kit::random::Random;

use super::medium::{FULL, Medium, OTHER, OWN, SECTORS};
use crate::fake::FakeXen;

type Outcome = Arc<Mutex<Option<Result<()>>>>;

fn submit(disk: &dyn BlockDevice, op: BlockOp, at: u64, memory: &mut [u8], pieces: &[usize]) -> Outcome {
    let outcome: Outcome = Arc::default();
    let told = outcome.clone();
    let mut start = memory.as_mut_ptr() as usize;
    let mut buffers = vec![];
    for &len in pieces {
        buffers.push(Dma { address: start, len });
        start += len;
    }
    assert!(pieces.iter().sum::<usize>() <= memory.len());
    let done = Box::new(move |result| {
        assert!(told.lock().unwrap().replace(result).is_none(), "done once");
    });
    // SAFETY: the tests keep the memory until the outcome is there, or stop using the device.
    unsafe { disk.submit(op, at, &buffers, done) };
    outcome
}

fn result(outcome: &Outcome) -> Option<Result<()>> {
    *outcome.lock().unwrap()
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    FULL.iter().copied().filter(|(n, _)| *n != name).collect()
}

#[test]
fn reads_writes_flushes_discards() {
    let one_page = without("max-ring-page-order");
    let short = without("feature-max-indirect-segments");
    for offers in [FULL, &one_page[..], &short[..]] {
        let medium = Medium::new(offers);
        let disk = medium.start(1);
        let caps = disk.caps();
        assert_eq!((caps.size, caps.block_size, caps.discard), (SECTORS as u64 * 512, 512, true));
        let most = caps.max_request as usize;
        assert_eq!(most, if offers.len() == short.len() && offers == short { 11 * 4096 } else { 64 * 4096 });
        assert_eq!(medium.fake.number(&format!("{OWN}/state")), 4);
        let mut memory = vec![0; most];
        // Pieces that do not end at pages.
        let read = submit(&*disk, BlockOp::Read, 512 * 8, &mut memory, &[100, 4096, 412, 512, most - 5120]);
        assert_eq!(result(&read), None);
        medium.settle(&*disk);
        assert_eq!(result(&read), Some(Ok(())));
        assert!(memory.iter().enumerate().all(|(i, &b)| b == (8 + i / 512) as u8));
        memory.iter_mut().enumerate().for_each(|(i, b)| *b = (i / 7) as u8);
        let write = submit(&*disk, BlockOp::Write, 512, &mut memory, &[1, most - 1]);
        let flush = submit(&*disk, BlockOp::Flush, 0, &mut [], &[]);
        let discard = submit(&*disk, BlockOp::Discard(1024), 512 * 1000, &mut [], &[]);
        medium.settle(&*disk);
        for outcome in [write, flush, discard] {
            assert_eq!(result(&outcome), Some(Ok(())));
        }
        let bytes = medium.bytes.lock().unwrap();
        assert_eq!(bytes[512..512 + most], memory[..]);
        assert!(bytes[512_000..513_024].iter().all(|&b| b == 0) && bytes[513_024] == 1002u32 as u8);
        assert_eq!(*medium.flushes.lock().unwrap(), 1);
    }
}

#[test]
fn pages_stay_granted_and_are_used_again() {
    let medium = Medium::new(FULL);
    let disk = medium.start(1);
    let mut memory = vec![0; 65536];
    for round in 0..50 {
        let read = submit(&*disk, BlockOp::Read, round * 512, &mut memory, &[65536]);
        medium.settle(&*disk);
        assert_eq!(result(&read), Some(Ok(())));
    }
    let (grants, ended) = medium.fake.grants();
    assert_eq!((grants, ended), (2 + 17, 0), "a ring of two pages, 16 pages of data, one of segments");
}

#[test]
fn what_does_not_fit_waits_or_is_refused() {
    let medium = Medium::new(FULL);
    let disk = medium.start(1);
    let mut memory = vec![0; 512 * 300];
    let reads: Vec<_> = memory
        .chunks_mut(512)
        .enumerate()
        .map(|(i, m)| submit(&*disk, BlockOp::Read, 512 * i as u64, m, &[512]))
        .collect();
    assert_eq!(medium.serve(), 64, "the ring's size");
    disk.poll();
    medium.settle(&*disk);
    assert!(reads.iter().all(|o| result(o) == Some(Ok(()))));
    assert!(memory.iter().enumerate().all(|(i, &b)| b == (i / 512) as u8));
    let size = SECTORS as u64 * 512;
    let mut memory = vec![0; 300 * 4096];
    let cases: [(BlockOp, u64, &[usize], Error); 7] = [
        (BlockOp::Read, size, &[512], Error::Invalid),
        (BlockOp::Read, size - 512, &[1024], Error::Invalid),
        (BlockOp::Read, u64::MAX - 511, &[512], Error::Invalid),
        (BlockOp::Read, 1, &[512], Error::Invalid),
        (BlockOp::Read, 0, &[], Error::Invalid),
        (BlockOp::Read, 0, &[65 * 4096], Error::Invalid),
        (BlockOp::Discard(100), 0, &[], Error::Invalid),
    ];
    for (op, at, pieces, error) in cases {
        assert_eq!(result(&submit(&*disk, op, at, &mut memory, pieces)), Some(Err(error)));
    }
    assert_eq!(medium.serve(), 0);
}

#[test]
fn without_memory_to_grant_requests_fail_but_only_then() {
    let medium = Medium::new(FULL);
    let disk = medium.start(1);
    medium.fake.limit_grants(2 + 20);
    let mut memory = vec![0; 64 * 4096];
    let (first, rest) = memory.split_at_mut(16 * 4096);
    let (second, third) = rest.split_at_mut(16 * 4096);
    let a = submit(&*disk, BlockOp::Read, 0, first, &[16 * 4096]);
    let b = submit(&*disk, BlockOp::Read, 0, second, &[16 * 4096]);
    assert_eq!((result(&a), result(&b)), (None, None), "the second waits for the first's pages");
    medium.settle(&*disk);
    assert_eq!((result(&a), result(&b)), (Some(Ok(())), Some(Ok(()))));
    let c = submit(&*disk, BlockOp::Read, 0, third, &[32 * 4096]);
    assert_eq!(result(&c), Some(Err(Error::Exhausted)), "there never will be so many");
}

#[test]
fn errors_of_the_medium_are_passed_on() {
    let medium = Medium::new(FULL);
    let disk = medium.start(1);
    let mut memory = vec![7; 512];
    for (status, expected) in [(-1, Err(())), (-2, Err(())), (5, Err(())), (0, Ok(()))] {
        let outcome = submit(&*disk, BlockOp::Read, 0, &mut memory, &[512]);
        let request = medium.take(0).unwrap();
        medium.answer(0, &request, status);
        disk.poll();
        assert_eq!(result(&outcome).map(|r| r.map_err(|_| ())), Some(expected));
    }
    // A cache that cannot be flushed after all is none.
    let flush = submit(&*disk, BlockOp::Flush, 0, &mut [], &[]);
    let request = medium.take(0).unwrap();
    medium.answer(0, &request, -2);
    disk.poll();
    assert_eq!(result(&flush), Some(Ok(())));
    assert_eq!(result(&submit(&*disk, BlockOp::Flush, 0, &mut [], &[])), Some(Ok(())), "nothing is asked any more");
    assert!(medium.take(0).is_none());
}

#[test]
fn a_lie_fails_everything_and_keeps_the_pages() {
    for lie in 0..4 {
        let medium = Medium::new(FULL);
        let disk = medium.start(1);
        let mut memory = vec![0; 512 * 100];
        let outcomes: Vec<_> = memory.chunks_mut(512).map(|m| submit(&*disk, BlockOp::Write, 0, m, &[512])).collect();
        let request = medium.take(0).unwrap();
        let (before, _) = medium.fake.grants();
        match lie {
            0 => medium.rings.lock().unwrap()[0].show(65),
            1 => {
                let mut other = request.clone();
                other[8..16].copy_from_slice(&1000u64.to_le_bytes());
                medium.answer(0, &other, 0);
            }
            2 => {
                medium.take(0).unwrap();
                medium.answer(0, &request, 0);
                medium.answer(0, &request, 0);
            }
            _ => {
                let mut other = request.clone();
                other[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
                medium.answer(0, &other, 0);
            }
        }
        disk.poll();
        assert!(outcomes.iter().all(|o| result(o).is_some()), "all are answered: {lie}");
        assert!(outcomes.iter().filter(|o| result(o) == Some(Ok(()))).count() <= 1);
        let (after, _) = medium.fake.grants();
        assert_eq!(before - after, 2, "only the ring is taken back");
        assert_eq!(medium.fake.number(&format!("{OWN}/state")), 6);
        assert_eq!(medium.fake.channels().0, 0);
        let late = submit(&*disk, BlockOp::Read, 0, &mut memory[..512], &[512]);
        assert_eq!(result(&late), Some(Err(Error::Gone)));
        assert_eq!(result(&submit(&*disk, BlockOp::Flush, 0, &mut [], &[])), Some(Err(Error::Gone)));
    }
}

/// The backend closes by the book; afterwards the front end asks it to begin again.
fn close(medium: &Medium) {
    medium.fake.set(&format!("{OTHER}/state"), "5");
    medium.fake.pump();
    assert_eq!(medium.fake.number(&format!("{OWN}/state")), 6);
    medium.fake.set(&format!("{OTHER}/state"), "6");
    medium.fake.pump();
    assert_eq!(medium.fake.number(&format!("{OWN}/state")), 1);
}

fn come_back(medium: &Medium) {
    medium.fake.set(&format!("{OTHER}/state"), "2");
    medium.fake.pump();
    medium.connect();
    medium.fake.pump();
    assert_eq!(medium.fake.number(&format!("{OWN}/state")), 4);
}

#[test]
fn a_backend_that_returns_gets_what_was_asked() {
    for mapped in [false, true] {
        let medium = Medium::new(FULL);
        let disk = medium.start(1);
        let mut memory = vec![0xaa; 512 * 100];
        let mut outcomes: Vec<_> = memory
            .chunks_mut(512)
            .enumerate()
            .map(|(i, m)| submit(&*disk, BlockOp::Write, 512 * i as u64, m, &[512]))
            .collect();
        for _ in 0..10 {
            medium.take(0).unwrap();
        }
        medium.fake.map_all(mapped);
        close(&medium);
        let mut late = vec![0xbb; 512];
        outcomes.push(submit(&*disk, BlockOp::Write, 512 * 200, &mut late, &[512]));
        disk.poll();
        assert!(outcomes.iter().all(|o| result(o).is_none()), "they wait");
        come_back(&medium);
        medium.settle(&*disk);
        assert!(outcomes.iter().all(|o| result(o) == Some(Ok(()))));
        let bytes = medium.bytes.lock().unwrap();
        assert!(bytes[..512 * 100].iter().all(|&b| b == 0xaa) && bytes[512 * 200] == 0xbb);
        assert_eq!(medium.fake.channels().0, 1);
    }
}

#[test]
fn a_backend_in_another_domain_gets_grants_of_its_own() {
    let medium = Medium::new(FULL);
    let disk = medium.start(1);
    let mut memory = vec![0; 512];
    submit(&*disk, BlockOp::Read, 0, &mut memory, &[512]);
    medium.settle(&*disk);
    close(&medium);
    medium.fake.set(&format!("{OWN}/backend-id"), "9");
    medium.fake.set(&format!("{OTHER}/state"), "1");
    medium.fake.set(&format!("{OWN}/backend"), OTHER);
    medium.fake.pump();
    come_back(&medium);
    let read = submit(&*disk, BlockOp::Read, 512 * 3, &mut memory, &[512]);
    medium.settle(&*disk);
    assert_eq!(result(&read), Some(Ok(())));
    assert_eq!(medium.fake.domains(), [9]);
}

#[test]
fn a_backend_that_forgot_us_is_told_again() {
    let medium = Medium::new(FULL);
    let disk = medium.start(1);
    let mut memory = vec![0; 512];
    let read = submit(&*disk, BlockOp::Read, 512 * 5, &mut memory, &[512]);
    // It starts anew without a word of farewell.
    come_back(&medium);
    medium.settle(&*disk);
    assert_eq!(result(&read), Some(Ok(())));
    assert_eq!(memory[0], 5);
}

#[test]
fn another_disk_is_refused_and_a_detached_one_fails() {
    let medium = Medium::new(FULL);
    let disk = medium.start(1);
    let mut memory = vec![0; 512];
    let read = submit(&*disk, BlockOp::Read, 0, &mut memory, &[512]);
    close(&medium);
    medium.fake.set(&format!("{OTHER}/sectors"), "100");
    medium.fake.set(&format!("{OTHER}/state"), "2");
    medium.fake.pump();
    medium.connect();
    medium.fake.pump();
    assert!(matches!(result(&read), Some(Err(Error::Device(_)))));

    let medium = Medium::new(FULL);
    let disk = medium.start(1);
    let read = submit(&*disk, BlockOp::Read, 0, &mut memory, &[512]);
    medium.fake.set(&format!("{OTHER}/online"), "0");
    medium.fake.set(&format!("{OTHER}/state"), "5");
    medium.fake.pump();
    medium.fake.unset(OTHER);
    medium.fake.unset(OWN);
    medium.fake.pump();
    assert!(matches!(result(&read), Some(Err(Error::Device(_)))));
}

#[test]
fn absurd_offers_are_refused() {
    let start = |name: &'static str, value: &'static str| {
        let mut offers = without(name);
        offers.push((name, value));
        Medium::new(&offers).fake.clone().start("vbd", 1).is_err() || {
            let medium = Medium::new(&offers);
            medium.fake.start("vbd", 1).is_err()
        }
    };
    assert!(start("sectors", "x"));
    assert!(start("sectors", "18446744073709551615"));
    assert!(start("sector-size", "0"));
    assert!(start("sector-size", "768"));
    assert!(start("sector-size", "65536"));
    let medium = Medium::new(FULL);
    medium.fake.set(&format!("{OWN}/device-type"), "cdrom");
    assert!(medium.fake.start("vbd", 1).is_err());
    let silent = FakeXen::new("vbd", &[], FULL);
    assert!(silent.start("vbd", 1).is_err(), "the backend never connects");
}

#[test]
fn several_queues() {
    let mut offers = FULL.to_vec();
    offers.push(("multi-queue-max-queues", "3"));
    let medium = Medium::new(&offers);
    let disk = medium.start(4);
    assert_eq!((disk.caps().queues, medium.rings.lock().unwrap().len()), (3, 3));
    let mut memory = vec![0; 512];
    let read = submit(&*disk, BlockOp::Read, 512 * 3, &mut memory, &[512]);
    medium.settle(&*disk);
    assert_eq!((result(&read), memory[0]), (Some(Ok(())), 3));
    close(&medium);
    medium.fake.set(&format!("{OTHER}/multi-queue-max-queues"), "1");
    medium.fake.set(&format!("{OWN}/multi-queue-num-queues"), "1");
    come_back(&medium);
    let read = submit(&*disk, BlockOp::Read, 512 * 9, &mut memory, &[512]);
    medium.settle(&*disk);
    assert_eq!((result(&read), memory[0]), (Some(Ok(())), 9));
}

#[test]
fn random_traffic_over_a_random_backend() {
    for seed in 1..40 {
        let mut random = Random(seed * 0x9e37_79b9);
        let medium = Medium::new(FULL);
        let disk = medium.start(1);
        let mut memory: Vec<Vec<u8>> = (0..200).map(|_| vec![0; 65536]).collect();
        let mut outcomes = vec![];
        let mut theirs = vec![];
        for m in &mut memory {
            let op = if random.below(2) == 0 { BlockOp::Read } else { BlockOp::Write };
            let len = 512 * (1 + random.below(128) as usize);
            outcomes.push(submit(&*disk, op, 512 * random.below(1900), m, &[len]));
            while let Some(request) = medium.take(0) {
                theirs.push(request);
            }
            match random.below(60) {
                0 => medium.rings.lock().unwrap()[0].show(random.below(80) as u32),
                1 => {
                    let mut answer = vec![0; 16];
                    answer.iter_mut().for_each(|b| *b = random.below(40) as u8);
                    medium.rings.lock().unwrap()[0].answer(&answer);
                }
                2 => {
                    medium.fake.set(&format!("{OTHER}/state"), &format!("{}", 1 + random.below(6)));
                    theirs.clear();
                    medium.fake.pump();
                    medium.connect();
                    medium.fake.pump();
                }
                _ => {
                    if !theirs.is_empty() {
                        let request = theirs.swap_remove(random.below(theirs.len() as u64) as usize);
                        medium.answer(0, &request, 0);
                    }
                }
            }
            if random.below(3) == 0 {
                disk.poll();
            }
        }
        medium.fake.unset(OTHER);
        medium.fake.unset(OWN);
        medium.fake.pump();
        disk.poll();
        assert!(outcomes.iter().all(|o| result(o).is_some()), "all are answered once the disk is taken away");
    }
}
