//! The SCSI adapter against a fake.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use driver_kit::host::{bury, set_hurry};
use driver_kit::random::Random;
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
    set_hurry(true);
    let mut random = Random(31415);
    for round in 0..1500 {
        let features = VERSION_1 | random.next() & (EVENT_IDX | INDIRECT_DESC);
        let adapter = ScsiAdapter::new(Target::new(64), features, &[16, 8]);
        if round % 2 == 0 {
            adapter.lie(random.next());
        }
        let devices = adapter.start(2).unwrap_or_default();
        adapter.lie(random.next());
        let other = adapter.clone();
        let step = |n: u64| if n & 1 == 0 { other.release() } else { other.device.interrupt_line(n as u32 >> 1) };
        // Keeping a request for ever is no lie that a driver can find out: the reset at the end gives it back.
        let give_up = || {
            adapter.release();
            adapter.device.put_used(2, 9999, 0);
            adapter.device.show_used(2, 0);
            adapter.device.put_used(3, 9999, 0);
            adapter.device.show_used(3, 0);
        };
        scsi::exercise::disks(&devices, &mut random, 60, step, give_up);
        adapter.device.unplug();
        drop(devices);
        bury();
    }
}
