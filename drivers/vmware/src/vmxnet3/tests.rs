//! The interface's driver against a fake.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use driver_kit::random::Choices;
use hal_core::device::{NetBuf, NetDevice, Segment};

use super::abi::*;
use super::fake::{Fake, fuzz};

fn packet(len: usize, byte: u8) -> NetBuf {
    let mut packet = NetBuf::new(len);
    packet.set_len(len);
    packet.bytes_mut().fill(byte);
    packet
}

fn receive(nic: &dyn NetDevice, queue: u16) -> Vec<NetBuf> {
    let mut frames = Vec::new();
    while nic.receive(queue, 64, &mut |frame| frames.push(frame)) > 0 {}
    frames
}

fn whole(frame: &NetBuf) -> Vec<u8> {
    let mut bytes = frame.bytes().to_vec();
    frame.more.iter().for_each(|part| bytes.extend_from_slice(part.bytes()));
    bytes
}

#[test]
fn what_it_can_do() {
    let fake = Fake::new(true);
    let nic = fake.start(6).unwrap();
    let caps = nic.caps();
    assert_eq!((caps.mac, caps.mtu, caps.queues), ([1, 2, 3, 4, 5, 6], 1500, 4), "a power of two of queues");
    assert!(caps.tso4 && caps.tso6 && caps.lro && caps.tx_checksum && nic.link_up());
    fake.unplug();
    let fake = Fake::new(false);
    assert_eq!(fake.start(6).unwrap().caps().queues, 1, "one line, one queue");
    fake.unplug();
    let fake = Fake::new(true);
    fake.refuse(true);
    assert!(fake.start(1).is_err());
    fake.unplug();
}

#[test]
fn frames_come_round_after_round() {
    let fake = Fake::new(true);
    let nic = fake.start(2).unwrap();
    for round in 0..40u32 {
        for i in 0..50 {
            let len = 60 + (round as usize * 50 + i) % 1400;
            assert!(fake.receive(1, &vec![i as u8; len], 0));
        }
        let frames = receive(&*nic, 1);
        assert_eq!(frames.len(), 50);
        for (i, frame) in frames.iter().enumerate() {
            assert_eq!(whole(frame), vec![i as u8; 60 + (round as usize * 50 + i) % 1400]);
            assert!(!frame.offload.checksum_valid);
        }
        assert!(receive(&*nic, 0).is_empty());
    }
    fake.unplug();
}

#[test]
fn more_buffers_when_they_run_short() {
    let fake = Fake::new(true);
    let nic = fake.start(1).unwrap();
    let burst = || (0..300).take_while(|_| fake.receive(0, &[1; 1000], 0)).count();
    let first = burst();
    assert_eq!(receive(&*nic, 0).len(), first);
    let second = burst();
    assert!(second > first && second < 256, "{first} {second}");
    assert_eq!(receive(&*nic, 0).len(), second);
    fake.unplug();
}

#[test]
fn joined_segments_and_checksums() {
    let fake = Fake::new(true);
    let nic = fake.start(1).unwrap();
    let large: Vec<u8> = (0..64_000u32).map(|i| (i / 100) as u8).collect();
    let good = RX_L4_GOOD | RX_TCP;
    for (bits, valid) in [
        (good | RX_V4 | RX_IP_GOOD, true),
        (good, true),
        (good | RX_V4, false),
        (good | RX_FRAGMENT, false),
        (RX_L4_GOOD, false),
        (0, false),
    ] {
        assert!(fake.receive(0, &large, bits));
        let frames = receive(&*nic, 0);
        assert_eq!(frames.len(), 1);
        assert_eq!(whole(&frames[0]), large);
        assert_eq!(frames[0].offload.checksum_valid, valid, "{bits:#x}");
    }
    fake.unplug();
}

#[test]
fn packets_go_round_after_round() {
    let fake = Fake::new(true);
    let nic = fake.start(2).unwrap();
    let mut queue = VecDeque::new();
    for round in 0..300 {
        let large = 1 + round % 40_000;
        queue.push_back(packet(large, round as u8));
        let mut pieces = packet(100, 1);
        pieces.more = (0..round % 30).map(|i| packet(10, i as u8)).collect();
        let expected = whole(&pieces);
        queue.push_back(pieces);
        nic.send(1, &mut queue);
        assert!(queue.is_empty());
        let sent = fake.sent();
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[0].bytes, vec![round as u8; large]);
        assert_eq!(sent[1].bytes, expected);
    }
    fake.unplug();
}

#[test]
fn a_full_ring_waits_for_an_interrupt() {
    let fake = Fake::new(true);
    let nic = fake.start(1).unwrap();
    fake.hold(true);
    let mut queue: VecDeque<_> = (0..600).map(|i| packet(100, i as u8)).collect();
    nic.send(0, &mut queue);
    assert_eq!(queue.len(), 600 - 511);
    assert!(!fake.is_masked(1), "the send queue's interrupt is wanted now");
    let calls = Arc::new(AtomicUsize::new(0));
    let told = calls.clone();
    nic.on_interrupt(Arc::new(move |_| _ = told.fetch_add(1, Ordering::Relaxed)));
    fake.hold(false);
    fake.raise(1);
    fake.raise(1);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    nic.reap(0);
    nic.send(0, &mut queue);
    assert!(queue.is_empty());
    let sent = fake.sent();
    assert!(sent.len() == 600 && sent.iter().enumerate().all(|(i, s)| s.bytes == [i as u8; 100]));
    fake.unplug();
}

#[test]
fn few_doorbells_where_the_device_wants_few() {
    let fake = Fake::new(true);
    fake.set_threshold(3);
    let nic = fake.start(1).unwrap();
    let mut queue = VecDeque::new();
    for expected in [0, 0, 3, 0, 0, 3] {
        queue.push_back(packet(100, 1));
        nic.send(0, &mut queue);
        assert_eq!(fake.sent().len(), expected);
    }
    fake.unplug();
}

#[test]
fn offloads() {
    let fake = Fake::new(true);
    let nic = fake.start(1).unwrap();
    let mut checksum = packet(500, 0);
    checksum.offload.checksum = Some((34, 16));
    let mut cut = packet(4034, 0);
    // The pseudo-header's sum with the length of 4000, which the device must not see.
    cut.bytes_mut()[50..52].copy_from_slice(&(0x1234u16 + 4000).to_be_bytes());
    cut.offload.checksum = Some((34, 16));
    cut.offload.segment = Some(Segment { ipv6: false, size: 1448, header_len: 66 });
    let mut nonsense = packet(500, 0);
    nonsense.offload.checksum = Some((2000, 16));
    let mut queue: VecDeque<_> = [checksum, cut, nonsense].into();
    nic.send(0, &mut queue);
    let sent = fake.sent();
    assert_eq!(sent.len(), 2, "what the device cannot do is dropped");
    assert_eq!((sent[0].options & 0xfff, sent[0].size >> TX_OFFSET_SHIFT), (TX_CHECKSUM | 34, 50));
    assert_eq!((sent[1].options & 0xfff, sent[1].size >> TX_OFFSET_SHIFT), (TX_SEGMENT | 66, 1448));
    assert_eq!(sent[1].bytes[50..52], 0x1234u16.to_be_bytes());
    fake.unplug();
}

#[test]
fn interrupts_are_masked_while_frames_are_taken() {
    for vectors in [true, false] {
        let fake = Fake::new(vectors);
        let nic = fake.start(1).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let told = calls.clone();
        nic.on_interrupt(Arc::new(move |queue| {
            assert_eq!(queue, 0);
            told.fetch_add(1, Ordering::Relaxed);
        }));
        assert!(!nic.set_receive_interrupt(0, true));
        fake.receive(0, &[1; 100], 0);
        fake.raise(0);
        fake.raise(0);
        assert_eq!(calls.load(Ordering::Relaxed), 1, "it has masked itself");
        nic.set_receive_interrupt(0, false);
        assert!(nic.set_receive_interrupt(0, true), "a frame waits");
        assert_eq!(receive(&*nic, 0).len(), 1);
        nic.set_receive_interrupt(0, false);
        assert!(fake.is_masked(0));
        assert!(!nic.set_receive_interrupt(0, true));
        fake.raise(0);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        fake.unplug();
    }
}

#[test]
fn the_link_and_a_stopped_queue() {
    for vectors in [true, false] {
        let fake = Fake::new(vectors);
        let nic = fake.start(2).unwrap();
        nic.on_interrupt(Arc::new(|_| ()));
        nic.set_receive_interrupt(0, true);
        fake.set_link(false);
        assert!(!nic.link_up());
        nic.set_receive_interrupt(0, true);
        fake.set_link(true);
        assert!(nic.link_up());
        nic.set_receive_interrupt(0, true);
        fake.stop(EVENT_TX_ERROR);
        assert_eq!(fake.starts(), 1, "not in the interrupt");
        assert!(receive(&*nic, 0).is_empty());
        assert_eq!(fake.starts(), 2);
        assert!(fake.receive(0, &[5; 900], 0));
        assert_eq!(receive(&*nic, 0).len(), 1);
        let mut queue: VecDeque<_> = [packet(300, 3)].into();
        nic.send(0, &mut queue);
        assert_eq!(fake.sent().pop().unwrap().bytes, [3; 300]);
        fake.stop(EVENT_RX_ERROR);
        fake.refuse(true);
        nic.set_receive_interrupt(0, true);
        fake.event(EVENT_RX_ERROR);
        receive(&*nic, 0);
        assert!(!fake.is_active() && !nic.link_up(), "it does not start again");
        fake.unplug();
    }
}

/// Whatever it says, nothing panics.
#[test]
fn a_lying_device_does_no_harm() {
    let useful = (0..1200).filter(|seed| fuzz(&Choices::from_seed(161_803 + 2 * seed))).count();
    assert!(useful > 400, "a test of nothing: {useful}");
}
