//! The disk against a fake with real contents, by the book and lying.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::AtomicUsize;
use std::sync::Mutex;

use hal_core::device::Device;

use super::*;
use crate::fake::{FakeDevice, Manners, gather, scatter};
use crate::features::{EVENT_IDX, INDIRECT_DESC, VERSION_1};
use driver_kit::random::Random;

const SECTORS: usize = 256;

fn config(seg_max: u32) -> Vec<u8> {
    let mut c = vec![0; 60];
    c[0..8].copy_from_slice(&(SECTORS as u64).to_le_bytes());
    c[8..12].copy_from_slice(&65536u32.to_le_bytes());
    c[12..16].copy_from_slice(&seg_max.to_le_bytes());
    c[20..24].copy_from_slice(&512u32.to_le_bytes());
    c[32] = 1;
    c[34..36].copy_from_slice(&4u16.to_le_bytes());
    c[36..40].copy_from_slice(&64u32.to_le_bytes());
    c
}

const FULL: u64 = VERSION_1 | EVENT_IDX | INDIRECT_DESC | SEG_MAX | SIZE_MAX | BLK_SIZE | FLUSH | DISCARD | CONFIG_WCE;

/// A disk's device side.
struct Medium {
    device: Arc<FakeDevice>,
    bytes: Mutex<Vec<u8>>,
    flushes: AtomicUsize,
}

impl Medium {
    /// Serves what is queued; true if there was something.
    fn serve(&self) -> bool {
        let mut any = false;
        while let Some((head, pieces)) = self.device.take(0) {
            any = true;
            let input = gather(&pieces);
            let kind = u32::from_le_bytes(input[0..4].try_into().unwrap());
            let at = u64::from_le_bytes(input[8..16].try_into().unwrap()) as usize * 512;
            let room: usize = pieces.iter().filter(|p| p.2).map(|p| p.1).sum::<usize>() - 1;
            let mut bytes = self.bytes.lock().unwrap();
            let mut output = vec![];
            let mut status = S_OK;
            match kind {
                T_IN => output.extend_from_slice(&bytes[at..at + room]),
                T_OUT => bytes[at..at + input.len() - 16].copy_from_slice(&input[16..]),
                T_FLUSH => _ = self.flushes.fetch_add(1, Ordering::Relaxed),
                T_GET_ID => output.extend_from_slice(b"disk-0042\0\0\0\0\0\0\0\0\0\0\0"),
                T_DISCARD => {
                    let sector = u64::from_le_bytes(input[16..24].try_into().unwrap()) as usize;
                    let n = u32::from_le_bytes(input[24..28].try_into().unwrap()) as usize;
                    bytes[sector * 512..(sector + n) * 512].fill(0);
                }
                _ => status = S_UNSUPPORTED,
            }
            output.push(status);
            let n = scatter(&pieces, &output);
            self.device.finish(0, head, n);
        }
        any
    }
}

/// A disk, its medium, and a thread that serves the start.
fn disk(offered: u64, size: u16) -> (Arc<dyn BlockDevice>, Arc<Medium>) {
    let device = FakeDevice::new(2, offered, &[size], &config(60), Manners::default());
    let medium = Arc::new(Medium {
        device: device.clone(),
        bytes: Mutex::new((0..SECTORS * 512).map(|i| (i / 512) as u8).collect()),
        flushes: AtomicUsize::new(0),
    });
    let server = medium.clone();
    // The driver asks for the serial number while it starts, and waits.
    let thread = std::thread::spawn(move || {
        while !server.serve() {
            std::thread::yield_now();
        }
    });
    let Ok(Device::Block(disk)) = device.start(1) else { panic!("a disk") };
    thread.join().unwrap();
    (disk, medium)
}

fn submit(
    disk: &dyn BlockDevice,
    op: BlockOp,
    at: u64,
    memory: &mut [u8],
    pieces: usize,
) -> Arc<Mutex<Option<Result<()>>>> {
    let outcome = Arc::new(Mutex::new(None));
    let told = outcome.clone();
    let each = memory.len().checked_div(pieces).unwrap_or(0);
    let buffers: Vec<_> =
        (0..pieces).map(|i| Dma { address: memory.as_mut_ptr() as usize + i * each, len: each }).collect();
    let done = Box::new(move |result| {
        assert!(told.lock().unwrap().replace(result).is_none(), "done once");
    });
    // SAFETY: the tests keep the memory until the outcome is there, or stop using the device.
    unsafe { disk.submit(op, at, &buffers, done) };
    outcome
}

#[test]
fn reads_writes_flushes_discards() {
    for offered in [FULL, FULL & !INDIRECT_DESC, FULL & !(VERSION_1 | EVENT_IDX)] {
        let (disk, medium) = disk(offered, 64);
        let caps = disk.caps();
        assert_eq!(caps.size, (SECTORS * 512) as u64);
        assert_eq!((caps.max_request, caps.max_pieces), (65536, 60));
        assert_eq!(disk.serial(), "disk-0042");
        let mut memory = vec![0; 4096];
        let read = submit(&*disk, BlockOp::Read, 512 * 8, &mut memory, 4);
        assert!(read.lock().unwrap().is_none());
        medium.serve();
        disk.poll();
        assert_eq!(*read.lock().unwrap(), Some(Ok(())));
        assert!(memory.iter().enumerate().all(|(i, &b)| b == 8 + (i / 512) as u8));

        memory.fill(0xee);
        let write = submit(&*disk, BlockOp::Write, 0, &mut memory, 2);
        let flush = submit(&*disk, BlockOp::Flush, 0, &mut [], 0);
        let discard = submit(&*disk, BlockOp::Discard(1024), 512 * 100, &mut [], 0);
        medium.serve();
        disk.poll();
        for outcome in [write, flush, discard] {
            assert_eq!(*outcome.lock().unwrap(), Some(Ok(())));
        }
        let bytes = medium.bytes.lock().unwrap();
        assert!(bytes[..4096].iter().all(|&b| b == 0xee));
        assert!(bytes[51200..52224].iter().all(|&b| b == 0) && bytes[52224] == 102);
        assert_eq!(medium.flushes.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn more_than_the_ring_holds_waits_inside() {
    for offered in [FULL, FULL & !INDIRECT_DESC] {
        let (disk, medium) = disk(offered, 8);
        let mut memory = vec![0; 512 * 100];
        let outcomes: Vec<_> = memory
            .chunks_mut(512)
            .enumerate()
            .map(|(i, m)| submit(&*disk, BlockOp::Read, 512 * i as u64, m, 1))
            .collect();
        let mut rounds = 0;
        while medium.serve() {
            disk.poll();
            rounds += 1;
        }
        assert!(rounds >= 12, "at most 8 at once");
        assert!(outcomes.iter().all(|o| *o.lock().unwrap() == Some(Ok(()))));
        assert!(memory.iter().enumerate().all(|(i, &b)| b == (i / 512) as u8));
    }
}

#[test]
fn what_does_not_fit_is_refused_at_once() {
    let (disk, medium) = disk(FULL | READ_ONLY, 64);
    let mut memory = vec![0; 512 * 200];
    let size = (SECTORS * 512) as u64;
    let cases = [
        (BlockOp::Read, size, 1, 1, Error::Invalid),
        (BlockOp::Read, size - 512, 2, 1, Error::Invalid),
        (BlockOp::Read, u64::MAX - 511, 1, 1, Error::Invalid),
        (BlockOp::Read, 1, 1, 1, Error::Invalid),
        (BlockOp::Read, 0, 0, 0, Error::Invalid),
        (BlockOp::Read, 0, 129, 1, Error::Invalid),
        (BlockOp::Read, 0, 61, 61, Error::Invalid),
        (BlockOp::Write, 0, 1, 1, Error::Unsupported),
        (BlockOp::Discard(512), 0, 0, 0, Error::Unsupported),
    ];
    for (op, at, blocks, pieces, error) in cases {
        let outcome = submit(&*disk, op, at, &mut memory[..512 * blocks], pieces);
        assert_eq!(*outcome.lock().unwrap(), Some(Err(error)));
    }
    assert!(!medium.serve());
}

#[test]
fn errors_of_the_medium_are_passed_on() {
    let (disk, medium) = disk(FULL, 64);
    let mut memory = vec![0; 512];
    for (status, ok) in [(0, true), (1, false), (2, false), (77, false), (S_NONE, false)] {
        let outcome = submit(&*disk, BlockOp::Read, 0, &mut memory, 1);
        let (head, pieces) = medium.device.take(0).unwrap();
        let mut answer = vec![0; 512];
        answer.push(status);
        scatter(&pieces, &answer);
        medium.device.finish(0, head, 513);
        disk.poll();
        assert_eq!(outcome.lock().unwrap().unwrap().is_ok(), ok);
    }
}

#[test]
fn a_lie_fails_everything_in_flight_and_waiting() {
    let (disk, medium) = disk(FULL, 8);
    let mut memory = vec![0; 512 * 40];
    let outcomes: Vec<_> = memory.chunks_mut(512).map(|m| submit(&*disk, BlockOp::Read, 0, m, 1)).collect();
    let (head, _) = medium.device.take(0).unwrap();
    medium.device.put_used(0, u32::from(head), 4000);
    medium.device.show_used(0, 0);
    disk.poll();
    for outcome in &outcomes {
        assert!(matches!(*outcome.lock().unwrap(), Some(Err(Error::Device(_)))));
    }
    assert!(medium.device.abandoned() && medium.device.resets() == 2);
    let late = submit(&*disk, BlockOp::Read, 0, &mut memory[..512], 1);
    assert_eq!(*late.lock().unwrap(), Some(Err(Error::Gone)));
    let flush = submit(&*disk, BlockOp::Flush, 0, &mut [], 0);
    assert_eq!(*flush.lock().unwrap(), Some(Err(Error::Gone)));
}

#[test]
fn absurd_configurations_are_refused() {
    let start = |change: fn(&mut Vec<u8>), sizes: &[u16], manners| {
        let mut config = config(60);
        change(&mut config);
        let device = FakeDevice::new(2, FULL, sizes, &config, manners);
        let refused = device.start(1).is_err();
        assert!(!refused || device.abandoned() || manners.never_resets);
        refused
    };
    let calm = Manners::default();
    assert!(start(|c| c[20..24].fill(0), &[64], calm), "block size 0");
    assert!(start(|c| c[21] = 3, &[64], calm), "block size 768");
    assert!(start(|c| c[0..8].fill(0xff), &[64], calm), "size beyond 64 bits");
    assert!(start(|c| c[8..12].fill(0), &[64], calm), "no byte per request");
    assert!(start(|_| (), &[0], calm), "no queue");
    assert!(start(|_| (), &[48], calm), "no power of two");
    assert!(start(|_| (), &[2], calm), "no room for a request");
    let restless = Manners { restless: true, ..calm };
    assert!(start(|_| (), &[64], restless), "never settles");
    let refuses = Manners { refuses_features: true, ..calm };
    assert!(start(|_| (), &[64], refuses), "refuses all features");
    let stuck = Manners { never_resets: true, ..calm };
    assert!(start(|_| (), &[64], stuck), "never resets");
}

#[test]
fn random_traffic_over_a_random_device() {
    for seed in 1..40 {
        let mut random = Random(seed * 0x9e37_79b9);
        let (disk, medium) = disk(FULL, 16);
        let mut memory: Vec<Vec<u8>> = (0..200).map(|_| vec![0; 2048]).collect();
        let mut outcomes = vec![];
        let mut lied = false;
        let mut theirs = vec![];
        for m in &mut memory {
            let op = if random.below(2) == 0 { BlockOp::Read } else { BlockOp::Write };
            outcomes.push(submit(&*disk, op, 512 * random.below(252), m, 1 << random.below(3)));
            while let Some((head, _)) = medium.device.take(0) {
                theirs.push(head);
            }
            match random.below(30) {
                0 => {
                    medium.device.put_used(0, random.below(20) as u32, random.next() as u32);
                    lied = true;
                }
                1 => {
                    medium.device.show_used(0, random.below(50) as u16);
                    lied = true;
                }
                _ => {
                    if let Some(head) = theirs.pop() {
                        medium.device.put_used(0, u32::from(head), 1);
                        medium.device.show_used(0, 0);
                    }
                }
            }
            if random.below(3) == 0 {
                disk.poll();
            }
        }
        disk.poll();
        if medium.device.abandoned() {
            assert!(lied);
            assert!(outcomes.iter().all(|o| o.lock().unwrap().is_some()), "all are answered");
        }
    }
}
