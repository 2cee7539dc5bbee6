//! The interface against a fake one, by the book and lying.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::AtomicUsize;

use hal_core::device::{Offload, Segment};

use super::*;
use crate::fake::{FakeNic, MAC, sum};
use crate::rx;

fn frames(nic: &dyn NetDevice) -> Vec<NetBuf> {
    let mut all = vec![];
    nic.receive(0, 1000, &mut |frame| all.push(frame));
    all
}

#[test]
fn starts_and_knows_its_address() {
    for (messages, in_eeprom) in [(false, false), (true, false), (false, true)] {
        let fake = FakeNic::new(messages, in_eeprom);
        let nic = fake.start().unwrap();
        assert_eq!(nic.caps().mac, MAC);
        assert!(nic.link_up());
        assert_eq!(fake.register(RDT), rx::RING as u32 - 1);
        assert_ne!(fake.enabled(), 0);
        fake.set_register(STATUS, 0);
        fake.raise(if messages { CAUSE_OTHER } else { CAUSE_LSC });
        assert!(!nic.link_up());
    }
}

#[test]
fn receives_small_and_large_and_joined_frames() {
    let fake = FakeNic::new(false, false);
    let nic = fake.start().unwrap();
    for round in 0..5 * rx::RING {
        let len = 20 + round * 7 % 1500;
        let frame: Vec<u8> = (0..len).map(|i| (i + round) as u8).collect();
        assert!(fake.deliver(&frame, RX_EOP | RX_TCPCS, 0));
        assert!(nic.set_receive_interrupt(0, true));
        let got = frames(&*nic);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].bytes(), frame);
        assert!(got[0].offload.checksum_valid && got[0].more.is_empty());
        assert!(!nic.set_receive_interrupt(0, true));
    }
    // Buffers go back in batches.
    assert!(fake.doorbells()[0] <= 5 * rx::RING / 32 + 2, "{:?}", fake.doorbells());
    for part in 0..3 {
        assert!(fake.deliver(&[part; 1000], if part == 2 { RX_EOP } else { 0 }, 0));
    }
    let got = frames(&*nic);
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].bytes()[0], got[0].more.len(), got[0].more[1].bytes()[999]), (0, 2, 2));
    assert!(!got[0].offload.checksum_valid);
}

#[test]
fn bad_frames_are_left_out() {
    let fake = FakeNic::new(false, false);
    let nic = fake.start().unwrap();
    fake.deliver(&[1; 100], RX_EOP, 1);
    fake.deliver(&[2; 100], 0, 0);
    fake.deliver(&[2; 100], RX_EOP, 0x80);
    fake.deliver(&[3; 100], RX_EOP | RX_TCPCS, 1 << 5);
    let got = frames(&*nic);
    assert_eq!(got.len(), 1);
    assert!(got[0].bytes()[0] == 3 && !got[0].offload.checksum_valid);
}

#[test]
fn a_full_ring_is_no_loss() {
    let fake = FakeNic::new(false, false);
    let nic = fake.start().unwrap();
    let mut n = 0;
    while fake.deliver(&[n as u8; 300], RX_EOP, 0) {
        n += 1;
    }
    assert_eq!(n, rx::RING - 1);
    assert_eq!(frames(&*nic).len(), n);
    assert!(fake.deliver(&[9; 300], RX_EOP, 0));
    assert_eq!(frames(&*nic).len(), 1);
}

#[test]
fn interrupts_are_held_back_while_there_is_work() {
    for (messages, cause) in [(false, CAUSE_RX), (true, CAUSE_RXQ0)] {
        let fake = FakeNic::new(messages, false);
        let nic = fake.start().unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = seen.clone();
        nic.on_interrupt(Arc::new(move |_| _ = counter.fetch_add(1, Ordering::Relaxed)));
        fake.deliver(&[1; 60], RX_EOP, 0);
        fake.raise(cause);
        fake.raise(cause);
        assert_eq!(seen.load(Ordering::Relaxed), 1);
        nic.set_receive_interrupt(0, false);
        assert_eq!(frames(&*nic).len(), 1);
        assert!(!nic.set_receive_interrupt(0, true));
        fake.raise(0);
        assert_eq!(seen.load(Ordering::Relaxed), 1, "what was polled does not interrupt");
        fake.raise(cause);
        assert_eq!(seen.load(Ordering::Relaxed), 2);
    }
}

/// An Ethernet, IPv4 and TCP header, and payload; with the pseudo-header's sum in place, as the stack sends it.
fn tcp(payload: usize) -> NetBuf {
    let total = 54 + payload;
    let mut packet = NetBuf::new(total);
    packet.set_len(total);
    let bytes = packet.bytes_mut();
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&((total - 14) as u16).to_be_bytes());
    bytes[23] = 6;
    bytes[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
    bytes[38..42].copy_from_slice(&1000u32.to_be_bytes());
    for (i, byte) in bytes[54..].iter_mut().enumerate() {
        *byte = i as u8;
    }
    let pseudo = pseudo(&bytes[..34], total - 34);
    bytes[50..52].copy_from_slice(&pseudo.to_be_bytes());
    packet.offload = Offload { checksum: Some((34, 16)), ..Offload::default() };
    packet
}

/// The pseudo-header's sum.
fn pseudo(headers: &[u8], len: usize) -> u16 {
    let mut bytes = headers[26..34].to_vec();
    bytes.extend_from_slice(&[0, 6]);
    bytes.extend_from_slice(&(len as u16).to_be_bytes());
    sum(&bytes)
}

fn check(frame: &[u8]) {
    let mut bytes = pseudo(frame, frame.len() - 34).to_be_bytes().to_vec();
    bytes.extend_from_slice(&frame[34..]);
    assert_eq!(sum(&bytes), 0xffff, "the TCP checksum");
}

#[test]
fn sends_with_checksums_and_in_segments() {
    let fake = FakeNic::new(false, false);
    let nic = fake.start().unwrap();
    for round in 0..2000usize {
        let payload = 1 + round * 31 % 1400;
        let mut packets: VecDeque<_> = [tcp(payload)].into();
        nic.send(0, &mut packets);
        assert!(packets.is_empty());
        let wire = fake.transmit(usize::MAX);
        assert_eq!(wire.len(), 1);
        check(&wire[0]);
    }
    for payload in [1461, 5000, 40_000, 65_000] {
        let mut packet = tcp(payload);
        packet.offload.segment = Some(Segment { ipv6: false, size: 1460, header_len: 54 });
        nic.send(0, &mut [packet].into());
        let wire = fake.transmit(usize::MAX);
        assert_eq!(wire.len(), payload.div_ceil(1460));
        for (number, frame) in wire.iter().enumerate() {
            check(frame);
            assert_eq!(sum(&frame[14..34]), 0xffff, "the IP checksum");
            assert_eq!(frame[38..42], (1000 + number as u32 * 1460).to_be_bytes());
            assert_eq!(frame[54], (number * 1460) as u8);
        }
    }
}

#[test]
fn what_does_not_fit_waits_and_asks_for_an_interrupt() {
    let fake = FakeNic::new(false, false);
    let nic = fake.start().unwrap();
    let mut packets: VecDeque<_> = (0..1000).map(|_| tcp(10)).collect();
    nic.send(0, &mut packets);
    assert!(packets.len() > 700 && fake.enabled() & CAUSE_TXDW != 0);
    let mut sent = 0;
    while !packets.is_empty() {
        sent += fake.transmit(100).len();
        nic.send(0, &mut packets);
    }
    sent += fake.transmit(usize::MAX).len();
    assert_eq!(sent, 1000);
    // One doorbell for each `send`, and one more when the ring is full.
    assert!(fake.doorbells()[1] < 60, "{:?}", fake.doorbells());
}

#[test]
fn pieces_and_nonsense() {
    let fake = FakeNic::new(false, false);
    let nic = fake.start().unwrap();
    let mut packet = NetBuf::from_box(vec![1; 50].into(), 0, 50);
    packet.more = (0..60).map(|i| NetBuf::from_box(vec![i; 10].into(), 0, 10)).collect();
    nic.send(0, &mut [packet].into());
    let wire = fake.transmit(usize::MAX);
    assert_eq!((wire.len(), wire[0].len(), wire[0][649]), (1, 650, 59));
    // What the device cannot do, or what makes no sense, is dropped.
    let mut six = tcp(3000);
    six.offload.segment = Some(Segment { ipv6: true, size: 1440, header_len: 54 });
    let mut short = tcp(3000);
    short.offload.segment = Some(Segment { ipv6: false, size: 1460, header_len: 4000 });
    let mut zero = tcp(3000);
    zero.offload.segment = Some(Segment { ipv6: false, size: 0, header_len: 54 });
    nic.send(0, &mut [six, short, zero, NetBuf::new(10)].into());
    assert!(fake.transmit(usize::MAX).is_empty());
}

#[test]
fn a_length_beyond_the_buffer_ends_its_use() {
    let fake = FakeNic::new(false, false);
    let nic = fake.start().unwrap();
    let resets = fake.resets();
    fake.put_received(0, 2049, RX_DD | RX_EOP, 0);
    assert!(frames(&*nic).is_empty());
    assert!(!nic.link_up() && fake.resets() > resets);
    let mut packets: VecDeque<_> = [tcp(1)].into();
    nic.send(0, &mut packets);
    assert!(packets.is_empty());
}

#[test]
fn a_frame_without_an_end_ends_its_use() {
    let fake = FakeNic::new(false, false);
    let nic = fake.start().unwrap();
    for _ in 0..9 {
        fake.deliver(&[1; 2048], 0, 0);
    }
    assert!(frames(&*nic).is_empty() && !nic.link_up());
}
