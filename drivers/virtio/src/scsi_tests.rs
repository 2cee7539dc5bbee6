//! The SCSI adapter against a fake.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use driver_kit::host::{bury, set_hurry};
use driver_kit::random::Choices;
use hal_core::device::{BlockDevice, BlockOp, Device, Dma};
use scsi::fake::Target;

use crate::features::{EVENT_IDX, INDIRECT_DESC, VERSION_1};
use crate::scsi_fake::ScsiAdapter;

const FEATURES: u64 = VERSION_1 | EVENT_IDX | INDIRECT_DESC;

fn disk(adapter: &Arc<ScsiAdapter>) -> Arc<dyn BlockDevice> {
    match adapter.start(2).unwrap().pop() {
        Some(Device::Block(disk)) => disk,
        _ => panic!("no disk"),
    }
}

#[test]
fn a_disk_is_found_and_read() {
    let adapter = ScsiAdapter::new(Target::new(64), FEATURES, &[16, 16]);
    let disk = disk(&adapter);
    let caps = disk.caps();
    assert_eq!((caps.size, caps.queues, caps.max_pieces), (64 * 512, 2, 14));
    let mut memory = vec![0u8; 1024];
    let done = Arc::new(AtomicUsize::new(0));
    let told = done.clone();
    let pieces: vec::Vec<_> =
        memory.chunks_mut(512).map(|c| Dma { address: c.as_mut_ptr() as usize, len: 512 }).collect();
    let answer = Box::new(move |result: hal_core::Result<()>| {
        result.unwrap();
        told.fetch_add(1, Ordering::Relaxed);
    });
    // SAFETY: the memory outlives the request.
    unsafe { disk.submit(BlockOp::Read, 512, &pieces, answer) };
    disk.poll();
    assert_eq!(done.load(Ordering::Relaxed), 1);
    assert_eq!(memory, adapter.target.lock().unwrap().bytes[512..1536]);
    let told = done.clone();
    let answer = Box::new(move |result: hal_core::Result<()>| {
        result.unwrap();
        told.fetch_add(1, Ordering::Relaxed);
    });
    // SAFETY: as above.
    unsafe { disk.submit(BlockOp::Write, 2048, &pieces, answer) };
    disk.poll();
    assert_eq!(done.load(Ordering::Relaxed), 2);
    assert_eq!(memory, adapter.target.lock().unwrap().bytes[2048..3072]);
    adapter.device.unplug();
}

#[test]
fn more_requests_than_the_queue_has_room_for() {
    let adapter = ScsiAdapter::new(Target::new(64), VERSION_1, &[8]);
    let disk = disk(&adapter);
    adapter.hold(true);
    let done = Arc::new(AtomicUsize::new(0));
    let mut memory = vec![0u8; 512];
    for _ in 0..50 {
        let told = done.clone();
        let piece = Dma { address: memory.as_mut_ptr() as usize, len: 512 };
        let answer = Box::new(move |result: hal_core::Result<()>| {
            result.unwrap();
            told.fetch_add(1, Ordering::Relaxed);
        });
        // SAFETY: the memory outlives the requests.
        unsafe { disk.submit(BlockOp::Read, 0, &[piece], answer) };
    }
    disk.poll();
    assert_eq!(done.load(Ordering::Relaxed), 0);
    adapter.hold(false);
    adapter.release();
    disk.poll();
    assert_eq!(done.load(Ordering::Relaxed), 50);
    adapter.device.unplug();
}

#[test]
fn a_silent_adapter_is_given_up() {
    set_hurry(true);
    let adapter = ScsiAdapter::new(Target::new(64), FEATURES, &[16]);
    adapter.hold(true);
    assert!(adapter.start(1).is_err());
    assert!(adapter.device.abandoned());
    adapter.device.unplug();
    bury();
}

/// Whatever it says, in the rings and in its answers, nothing panics and every request is answered once.
#[test]
fn a_lying_adapter_does_no_harm() {
    let found = (0..1500).filter(|seed| crate::scsi_fake::fuzz(&Choices::from_seed(31415 + 2 * seed))).count();
    assert!(found > 700, "a test of nothing: {found}");
}
