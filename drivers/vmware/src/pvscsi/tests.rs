//! The adapter's driver against a fake.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use driver_kit::host::{bury, set_hurry};
use driver_kit::random::Choices;
use hal_core::Result;
use hal_core::device::{BlockDevice, BlockOp, Device, Dma};
use scsi::fake::Target;

use super::abi::{self, Completion, host_status};
use super::fake::Adapter;

fn disk(adapter: &Adapter) -> Arc<dyn BlockDevice> {
    match adapter.start().unwrap().pop() {
        Some(Device::Block(disk)) => disk,
        _ => panic!("no disk"),
    }
}

/// Starts a request; the counter gets its answer.
fn submit(disk: &dyn BlockDevice, op: BlockOp, position: u64, memory: &mut [u8], done: &Arc<AtomicUsize>) {
    let pieces: Vec<_> =
        memory.chunks_mut(512).map(|c| Dma { address: c.as_mut_ptr() as usize, len: c.len() }).collect();
    let told = done.clone();
    let answer = Box::new(move |result: Result<()>| {
        result.unwrap();
        told.fetch_add(1, Ordering::Relaxed);
    });
    // SAFETY: the tests keep the memory.
    unsafe { disk.submit(op, position, &pieces, answer) };
}

#[test]
fn a_disk_is_read_and_written() {
    let adapter = Adapter::new(Target::new(64));
    let disk = disk(&adapter);
    assert_eq!((disk.caps().size, disk.caps().max_pieces, disk.caps().queues), (64 * 512, 128, 1));
    let done = Arc::new(AtomicUsize::new(0));
    let mut memory = vec![0u8; 2048];
    submit(&*disk, BlockOp::Read, 1024, &mut memory, &done);
    disk.poll();
    assert_eq!(memory, adapter.target(|t| t.bytes[1024..3072].to_vec()));
    memory.fill(9);
    submit(&*disk, BlockOp::Write, 512, &mut memory[..512], &done);
    submit(&*disk, BlockOp::Flush, 0, &mut [], &done);
    submit(&*disk, BlockOp::Discard(512), 1024, &mut [], &done);
    disk.poll();
    assert_eq!(done.load(Ordering::Relaxed), 4);
    adapter.target(|t| assert!(t.bytes[512..1024] == [9; 512] && t.bytes[1024..1536] == [0; 512]));
    adapter.unplug();
}

#[test]
fn the_line_is_acknowledged_and_passed_on() {
    let adapter = Adapter::new(Target::new(64));
    let disk = disk(&adapter);
    disk.poll();
    adapter.interrupt();
    let interrupts = Arc::new(AtomicUsize::new(0));
    let told = interrupts.clone();
    disk.on_interrupt(Arc::new(move || _ = told.fetch_add(1, Ordering::Relaxed)));
    let done = Arc::new(AtomicUsize::new(0));
    let mut memory = vec![0u8; 512];
    submit(&*disk, BlockOp::Read, 0, &mut memory, &done);
    adapter.interrupt();
    adapter.interrupt();
    assert_eq!(interrupts.load(Ordering::Relaxed), 1, "the line is down after the first");
    assert_eq!(done.load(Ordering::Relaxed), 0, "not in the interrupt");
    disk.poll();
    assert_eq!(done.load(Ordering::Relaxed), 1);
    adapter.unplug();
}

#[test]
fn more_requests_than_the_ring_has_room_for() {
    let adapter = Adapter::new(Target::new(64));
    let disk = disk(&adapter);
    let done = Arc::new(AtomicUsize::new(0));
    let mut memory = vec![0u8; 512];
    for round in 1..4 {
        adapter.hold(true);
        for _ in 0..600 {
            submit(&*disk, BlockOp::Read, 0, &mut memory, &done);
        }
        adapter.hold(false);
        adapter.release();
        disk.poll();
        assert_eq!(done.load(Ordering::Relaxed), 600 * round);
    }
    adapter.unplug();
    bury();
}

#[test]
fn few_doorbells_where_the_adapter_wants_few() {
    let adapter = Adapter::new(Target::new(64)).with_threshold(4);
    let disk = disk(&adapter);
    let done = Arc::new(AtomicUsize::new(0));
    let mut memory = vec![0u8; 512];
    let before = adapter.kicks();
    for _ in 0..12 {
        submit(&*disk, BlockOp::Read, 0, &mut memory, &done);
    }
    assert_eq!(adapter.kicks() - before, 3);
    submit(&*disk, BlockOp::Read, 0, &mut memory, &done);
    adapter.look();
    disk.poll();
    assert_eq!(done.load(Ordering::Relaxed), 13);
    adapter.unplug();
}

#[test]
fn a_silent_adapter_is_reset() {
    set_hurry(true);
    let adapter = Adapter::new(Target::new(64));
    adapter.hold(true);
    assert!(adapter.start().is_err());
    assert_eq!(adapter.resets(), 2);
    adapter.unplug();
    bury();
}

#[test]
fn what_a_completion_says() {
    let answer = |host: u16, data_len: u64| {
        let task = scsi::fake::task(1000);
        let answer =
            Completion { context: 0, data_len, sense_len: 500, host_status: host, scsi_status: 2, pad: [0; 2] };
        alloc::format!("{:?}", super::outcome(&task, &answer, &[1; super::SENSE_LEN])).replace("1, ", "")
    };
    let answered = |residual: &str| alloc::format!("Answered {{ status: 2, sense: [1], residual: {residual} }}");
    assert_eq!(answer(host_status::SUCCESS, 0), answered("Some(0)"), "not told, so all of it");
    assert_eq!(answer(host_status::SUCCESS, 400), answered("Some(600)"));
    assert_eq!(answer(host_status::DATARUN, 0), answered("None"));
    assert_eq!(answer(host_status::DATA_UNDERRUN, 400), answered("Some(600)"));
    assert_eq!(answer(host_status::DATARUN, 4000), answered("None"), "more than there was room for");
    assert_eq!(answer(host_status::SELECTION_TIMEOUT, 0), "NoTarget");
    assert_eq!(answer(host_status::BUS_RESET, 0), "Aborted");
    assert!(answer(0x20, 0).starts_with("Failed"));
    assert_eq!(abi::LIST_LEN, 128);
}

/// Whatever it says, in the rings and in its answers, nothing panics and every request is answered once.
#[test]
fn a_lying_adapter_does_no_harm() {
    let found = (0..1500).filter(|seed| super::fake::fuzz(&Choices::from_seed(27 + 2 * seed))).count();
    assert!(found > 700, "a test of nothing: {found}");
}
