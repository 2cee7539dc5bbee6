//! Disks over a fake adapter.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use driver_kit::host::{bury, set_hurry};
use driver_kit::random::Random;
use hal_core::device::{BlockDevice, BlockOp, Dma};
use hal_core::{Error, Result};

use crate::cdb::op;
use crate::fake::{FakeHost, Target, sense};
use crate::parse::Provisioning;
use crate::sense::{BUSY, CHECK_CONDITION, TASK_SET_FULL};
use crate::{Disk, Host, scan};

fn find(host: &Arc<FakeHost>) -> Result<Vec<Arc<Disk>>> {
    let host: Arc<dyn Host> = host.clone();
    scan(&host, 0..16)
}

fn one(target: Target) -> (Arc<FakeHost>, Arc<Disk>) {
    let host = FakeHost::new(vec![Some(target)]);
    let disk = find(&host).unwrap().pop().unwrap();
    (host, disk)
}

/// Submits and waits.
fn run(disk: &Disk, op: BlockOp, position: u64, memory: &mut [u8]) -> Result<()> {
    let outcome = Arc::new(spin::Once::new());
    let told = outcome.clone();
    let pieces: Vec<Dma> =
        memory.chunks_mut(1024).map(|c| Dma { address: c.as_mut_ptr() as usize, len: c.len() }).collect();
    let done = Box::new(move |result| {
        assert!(!told.is_completed(), "answered twice");
        told.call_once(|| result);
    });
    // SAFETY: the memory outlives the request, which ends below.
    unsafe { disk.submit(op, position, &pieces, done) };
    disk.poll();
    *outcome.get().expect("answered")
}

#[test]
fn disks_are_found() {
    let mut second = Target::new(100);
    (second.luns, second.read_only, second.block_size) = (vec![0, 3, 300], true, 1024);
    let no_disk = Target { kind: 5, ..Target::new(8) };
    let host = FakeHost::new(vec![Some(Target::new(64)), None, Some(no_disk), Some(second)]);
    let disks = find(&host).unwrap();
    let places: Vec<_> = disks.iter().map(|d| (d.address.target, d.address.lun)).collect();
    assert_eq!(places, [(0, 0), (3, 0), (3, 3), (3, 300)]);
    let caps = disks[0].caps();
    assert_eq!((caps.size, caps.block_size, caps.read_only, caps.discard), (64 * 512, 512, false, true));
    assert_eq!(disks[0].serial(), "SERIAL-1");
    let caps = disks[1].caps();
    assert_eq!((caps.size, caps.block_size, caps.read_only), (50 * 1024, 1024, true));
    assert_eq!(find(&FakeHost::new(vec![])).unwrap().len(), 0);
}

#[test]
fn old_disks_too() {
    let (host, disk) = one(Target { version: 2, longest: 4, ..Target::new(64) });
    assert_eq!((disk.caps().size, disk.caps().max_request), (64 * 512, 2048));
    assert!(!host.target(0, |t| t.seen.contains(&op::SERVICE_ACTION_IN_16)));
}

#[test]
fn bytes_come_and_go() {
    let (host, disk) = one(Target::new(64));
    let mut memory = vec![0; 4096];
    run(&disk, BlockOp::Read, 1024, &mut memory).unwrap();
    assert_eq!(host.target(0, |t| t.bytes[1024..5120].to_vec()), memory);
    memory.fill(7);
    run(&disk, BlockOp::Write, 512, &mut memory).unwrap();
    host.target(0, |t| assert!(t.bytes[512..4608].iter().all(|b| *b == 7) && t.bytes[4608] != 7));
    run(&disk, BlockOp::Flush, 0, &mut []).unwrap();
    assert_eq!(host.target(0, |t| *t.seen.last().unwrap()), op::SYNCHRONIZE_CACHE_10);
    run(&disk, BlockOp::Discard(1024), 512, &mut []).unwrap();
    host.target(0, |t| assert!(t.bytes[512..1536].iter().all(|b| *b == 0) && t.bytes[1536] == 7));
}

#[test]
fn every_way_to_discard() {
    let ways = [
        Provisioning { write_same_16: true, ..Provisioning::default() },
        Provisioning { write_same_10: true, ..Provisioning::default() },
    ];
    for (provisioning, code) in ways.into_iter().zip([op::WRITE_SAME_16, op::WRITE_SAME_10]) {
        let (host, disk) = one(Target { provisioning, ..Target::new(64) });
        run(&disk, BlockOp::Discard(1024), 512, &mut []).unwrap();
        assert_eq!(host.target(0, |t| *t.seen.last().unwrap()), code);
        host.target(0, |t| assert!(t.bytes[512..1536].iter().all(|b| *b == 0) && t.bytes[1536] != 0));
    }
    let (_, disk) = one(Target { provisioning: Provisioning::default(), ..Target::new(64) });
    assert!(!disk.caps().discard);
    assert_eq!(run(&disk, BlockOp::Discard(1024), 512, &mut []), Err(Error::Unsupported));
}

#[test]
fn what_does_not_fit_is_refused_here() {
    let (host, disk) = one(Target::new(64));
    let before = host.target(0, |t| t.seen.len());
    let mut memory = vec![0; 512];
    for position in [64 * 512, 100, u64::MAX - 511] {
        assert_eq!(run(&disk, BlockOp::Read, position, &mut memory), Err(Error::Invalid));
    }
    assert_eq!(run(&disk, BlockOp::Read, 0, &mut memory[..100]), Err(Error::Invalid));
    assert_eq!(run(&disk, BlockOp::Read, 0, &mut []), Err(Error::Invalid));
    assert_eq!(run(&disk, BlockOp::Flush, 0, &mut memory), Err(Error::Invalid));
    assert_eq!(run(&disk, BlockOp::Discard(u64::MAX - 511), 512, &mut []), Err(Error::Invalid));
    assert_eq!(host.target(0, |t| t.seen.len()), before, "the disk has seen nothing of it");
    let (_, disk) = one(Target { read_only: true, ..Target::new(64) });
    assert_eq!(run(&disk, BlockOp::Write, 0, &mut memory), Err(Error::Unsupported));
    let (host, disk) = one(Target { write_cache: false, ..Target::new(64) });
    run(&disk, BlockOp::Flush, 0, &mut []).unwrap();
    assert!(!host.target(0, |t| t.seen.contains(&op::SYNCHRONIZE_CACHE_10)), "nothing to flush");
}

#[test]
fn a_busy_disk_is_asked_again() {
    set_hurry(true);
    let (host, disk) = one(Target::new(64));
    let mut memory = vec![0; 512];
    for status in [BUSY, TASK_SET_FULL] {
        host.target(0, |t| (t.refusals, t.attentions) = ((20, status), 3));
        run(&disk, BlockOp::Read, 0, &mut memory).unwrap();
        host.target(0, |t| t.refusals = (1000, status));
        assert!(matches!(run(&disk, BlockOp::Read, 0, &mut memory), Err(Error::Device(_))));
        host.target(0, |t| t.refusals.0 = 0);
    }
}

#[test]
fn errors_are_told() {
    let (host, disk) = one(Target::new(64));
    let mut memory = vec![0; 512];
    let cases = [
        (sense(3, (0x11, 0)), Error::Device("the disk's medium is damaged there")),
        (sense(5, (0x25, 0)), Error::Gone),
        (sense(5, (0x20, 0)), Error::Unsupported),
        (vec![0x72, 4, 0x44, 0], Error::Device("the disk is broken")),
        (vec![], Error::Device("the disk reports an error")),
    ];
    for (bytes, error) in cases {
        host.set_lie(Box::new(move |reply| (reply.status, reply.sense) = (CHECK_CONDITION, bytes.clone())));
        assert_eq!(run(&disk, BlockOp::Read, 0, &mut memory), Err(error));
    }
    host.set_lie(Box::new(|reply| reply.data.truncate(100)));
    assert!(matches!(run(&disk, BlockOp::Read, 0, &mut memory), Err(Error::Device(_))), "a short read");
}

#[test]
fn silence_ends_the_search() {
    set_hurry(true);
    let host = FakeHost::new(vec![Some(Target::new(64))]);
    host.silence();
    assert!(find(&host).is_err() && host.gave_up());
    bury();
}

/// Whatever a target says of itself, nothing panics, and a disk that comes of it refuses what lies outside.
#[test]
fn a_lying_target_does_no_harm() {
    set_hurry(true);
    let mut random = Random(2718);
    for _ in 0..3000 {
        let mut target = Target::new(1 + random.below(64) as usize);
        target.luns = (0..1 + random.below(3) as u16).collect();
        target.version = random.below(8) as u8;
        let host = FakeHost::new(vec![Some(target)]);
        let mut lies = Random(random.next() | 1);
        let often = 1 + random.below(6);
        host.set_lie(Box::new(move |reply| {
            if lies.below(often) != 0 {
                return;
            }
            match lies.below(4) {
                0 => reply.status = lies.next() as u8,
                1 => reply.sense = (0..lies.below(32)).map(|_| lies.next() as u8).collect(),
                2 => reply.data = (0..lies.below(300)).map(|_| lies.next() as u8).collect(),
                _ => {
                    for _ in 0..4 {
                        let at = lies.next() as usize;
                        if let len @ 1.. = reply.data.len() {
                            reply.data[at % len] = lies.next() as u8;
                        }
                    }
                }
            }
        }));
        for disk in find(&host).unwrap_or_default() {
            let caps = disk.caps();
            assert!(caps.block_size.is_power_of_two() && caps.max_request >= caps.block_size);
            let mut memory = vec![0; 512];
            let _ = run(&disk, BlockOp::Read, 0, &mut memory);
            let _ = run(&disk, BlockOp::Discard(u64::from(caps.block_size)), 0, &mut []);
            let _ = run(&disk, BlockOp::Flush, 0, &mut []);
            assert!(run(&disk, BlockOp::Read, caps.size, &mut memory).is_err());
        }
        bury();
    }
}
