//! The network interface against a fake, by the book and lying.

use alloc::vec;
use std::sync::Mutex;

use hal_core::device::{Device, Offload, Segment};

use super::*;
use crate::fake::{FakeDevice, FakePiece, Manners, gather, scatter};
use crate::features::{EVENT_IDX, INDIRECT_DESC};
use driver_kit::random::Random;

const MAC_ADDRESS: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const FULL: u64 = VERSION_1
    | EVENT_IDX
    | INDIRECT_DESC
    | CSUM
    | GUEST_CSUM
    | MTU
    | MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | HOST_TSO4
    | HOST_TSO6
    | MRG_RXBUF
    | STATUS;

fn config(pairs: u16, mtu: u16) -> Vec<u8> {
    let mut c = MAC_ADDRESS.to_vec();
    c.extend_from_slice(&1u16.to_le_bytes());
    c.extend_from_slice(&pairs.to_le_bytes());
    c.extend_from_slice(&mtu.to_le_bytes());
    c
}

fn net(offered: u64, size: u16) -> (Arc<dyn NetDevice>, Arc<FakeDevice>) {
    let device = FakeDevice::new(1, offered, &[size; 2], &config(1, 1400), Manners::default());
    let Ok(Device::Net(net)) = device.start(2) else { panic!("a network interface") };
    (net, device)
}

/// Delivers a frame with this header in buffers of `per_buffer` bytes at most.
fn deliver(device: &FakeDevice, mut header: Vec<u8>, frame: &[u8], per_buffer: usize, count_lie: Option<u16>) {
    let mut whole = header.split_off(0);
    let header_len = whole.len();
    whole.extend_from_slice(frame);
    let mut used = vec![];
    let mut at = 0;
    let mut first: Option<Vec<FakePiece>> = None;
    while at < whole.len() {
        let (head, pieces) = device.take(0).expect("a buffer");
        let n = scatter(&pieces, &whole[at..at.saturating_add(per_buffer).min(whole.len())]);
        first.get_or_insert(pieces);
        used.push((head, n));
        at += n;
    }
    if header_len == header::LONG {
        let count = count_lie.unwrap_or(used.len() as u16);
        whole[10..12].copy_from_slice(&count.to_le_bytes());
        scatter(&first.unwrap(), &whole[..12]);
    }
    for (head, n) in used {
        device.put_used(0, u32::from(head), n as u32);
    }
    device.show_used(0, 0);
}

fn receive(net: &dyn NetDevice) -> Vec<NetBuf> {
    let mut frames = vec![];
    net.receive(0, 64, &mut |f| frames.push(f));
    frames
}

fn flat(frame: &NetBuf) -> Vec<u8> {
    let parts = core::iter::once(frame).chain(&frame.more);
    parts.flat_map(|p| p.bytes().iter().copied()).collect()
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn capabilities_come_from_features() {
    let (net, _) = net(FULL, 64);
    let caps = net.caps();
    assert_eq!((caps.mac, caps.mtu, caps.queues), (MAC_ADDRESS, 1400, 1));
    assert!(caps.tx_checksum && caps.tso4 && caps.tso6 && caps.lro);
    let (net, device) = self::net(VERSION_1 | GUEST_TSO4 | HOST_TSO4, 64);
    let caps = net.caps();
    assert!(!caps.tx_checksum && !caps.tso4 && !caps.lro, "segmentation needs checksums");
    assert_eq!(device.accepted(), VERSION_1);
    assert_eq!(caps.mac[0] & 3, 2, "an address of our own is locally administered");
}

#[test]
fn frames_of_every_size_arrive() {
    for offered in [FULL, FULL & !MRG_RXBUF, FULL & !(VERSION_1 | MRG_RXBUF)] {
        let (net, device) = net(offered, 16);
        let header_len = if offered & (VERSION_1 | MRG_RXBUF) == 0 { 10 } else { 12 };
        // Several times round the ring.
        for n in (14..1414).step_by(9) {
            let frame = pattern(n);
            deliver(&device, vec![0; header_len], &frame, usize::MAX, None);
            let frames = receive(&*net);
            assert_eq!(frames.len(), 1);
            assert_eq!(flat(&frames[0]), frame);
            assert_eq!(frames[0].offload, Offload::default());
        }
    }
}

#[test]
fn merged_buffers_are_one_frame() {
    let (net, device) = net(FULL, 64);
    let frame = pattern(60_000);
    let mut h = vec![0; 12];
    h[0] = 2;
    h[1] = 1;
    h[2] = 54;
    h[4..6].copy_from_slice(&1346u16.to_le_bytes());
    deliver(&device, h, &frame, usize::MAX, None);
    let frames = receive(&*net);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].more.len(), 15);
    assert_eq!(flat(&frames[0]), frame);
    let offload = frames[0].offload;
    assert!(offload.checksum_valid);
    assert_eq!(offload.segment, Some(Segment { ipv6: false, size: 1346, header_len: 54 }));
    // The ring is full of buffers again.
    deliver(&device, vec![0; 12], &frame, usize::MAX, None);
    assert_eq!(flat(&receive(&*net)[0]), frame);
}

#[test]
fn the_device_gets_more_buffers_when_it_runs_short() {
    let (net, device) = net(FULL, 256);
    let count = |device: &FakeDevice| {
        let mut n = 0;
        while let Some((head, pieces)) = device.take(0) {
            scatter(&pieces, &[0; 12 + 60]);
            device.put_used(0, u32::from(head), 72);
            if n == 0 {
                scatter(&pieces, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            }
            scatter(&pieces, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            n += 1;
        }
        device.show_used(0, 0);
        n
    };
    assert_eq!(count(&device), 64);
    assert_eq!(net.receive(0, 1000, &mut |_| ()), 64);
    assert_eq!(count(&device), 128);
    assert_eq!(net.receive(0, 1000, &mut |_| ()), 128);
    assert_eq!(count(&device), 256);
}

#[test]
fn interrupts_are_off_while_polling() {
    let (net, device) = net(FULL, 64);
    let calls = Arc::new(Mutex::new(vec![]));
    let told = calls.clone();
    net.on_interrupt(Arc::new(move |queue| told.lock().unwrap().push(queue)));
    device.interrupt(0);
    assert_eq!(*calls.lock().unwrap(), [0]);
    net.set_receive_interrupt(0, false);
    deliver(&device, vec![0; 12], &pattern(60), usize::MAX, Some(1));
    assert!(net.set_receive_interrupt(0, true), "one came in between");
    assert_eq!(receive(&*net).len(), 1);
    assert!(!net.set_receive_interrupt(0, true));
    assert_eq!(device.used_event(0), 1);
    // Changes of the link are looked at in the interrupt.
    assert!(net.link_up());
    device.set_config(6, 0);
    device.interrupt_line(2);
    assert!(!net.link_up());
    assert_eq!(calls.lock().unwrap().len(), 1);
    device.interrupt_line(1);
    assert_eq!(calls.lock().unwrap().len(), 2);
}

fn packet(bytes: &[u8]) -> NetBuf {
    let mut p = NetBuf::new(bytes.len());
    p.set_len(bytes.len());
    p.bytes_mut().copy_from_slice(bytes);
    p
}

#[test]
fn packets_go_out_with_their_headers() {
    for (offered, pieces) in [(FULL, 1), (FULL & !VERSION_1, 2)] {
        let (net, device) = net(offered, 64);
        let mut p = packet(&pattern(1000));
        p.offload.checksum = Some((34, 16));
        let mut queue = VecDeque::from([p, packet(&pattern(60))]);
        net.send(0, &mut queue);
        assert!(queue.is_empty());
        assert_eq!(device.kicks(1), 1, "one doorbell for both");
        let (_, first) = device.take(1).unwrap();
        assert_eq!(first.len(), pieces);
        let bytes = gather(&first);
        assert_eq!(bytes[..12], [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
        assert_eq!(bytes[12..], pattern(1000));
        assert_eq!(gather(&device.take(1).unwrap().1)[12..], pattern(60));
    }
}

#[test]
fn big_packets_go_out_in_pieces() {
    for offered in [FULL, FULL & !INDIRECT_DESC] {
        for parts in [3, 20, 100] {
            let (net, device) = net(offered, 64);
            let mut p = packet(&pattern(54));
            p.offload.segment = Some(Segment { ipv6: false, size: 1346, header_len: 54 });
            p.offload.checksum = Some((34, 16));
            p.more = (0..parts).map(|_| packet(&pattern(500))).collect();
            let expected = flat(&p);
            net.send(0, &mut VecDeque::from([p]));
            let bytes = gather(&device.take(1).unwrap().1);
            assert_eq!(bytes[1..6], [1, 54, 0, 66, 5]);
            assert_eq!(bytes[12..], expected);
        }
    }
}

#[test]
fn no_headroom_is_no_problem() {
    let (net, device) = net(FULL, 64);
    let bytes = pattern(100).into_boxed_slice();
    let p = NetBuf::from_box(bytes, 0, 100);
    net.send(0, &mut VecDeque::from([p]));
    let (_, pieces) = device.take(1).unwrap();
    assert_eq!((pieces.len(), gather(&pieces)[12..] == pattern(100)), (2, true));
}

#[test]
fn what_the_device_cannot_do_is_not_sent() {
    let (net, device) = net(FULL & !(CSUM | HOST_TSO4 | HOST_TSO6), 64);
    let mut p = packet(&pattern(100));
    p.offload.checksum = Some((34, 16));
    let mut queue = VecDeque::from([p, packet(&[])]);
    net.send(0, &mut queue);
    assert!(queue.is_empty() && device.take(1).is_none());
}

#[test]
fn a_full_ring_leaves_the_rest_and_asks_for_an_interrupt() {
    let (net, device) = net(FULL, 16);
    let mut queue: VecDeque<_> = (0..100u8).map(|i| packet(&[i; 60])).collect();
    net.send(0, &mut queue);
    let sent = 100 - queue.len();
    assert!((14..=16).contains(&sent), "{sent}");
    let wish = usize::from(device.used_event(1));
    assert!(wish < sent, "an interrupt while the device works on it, not {wish}");
    let mut seen = 0u8;
    while seen < 100 {
        while let Some((head, pieces)) = device.take(1) {
            assert_eq!(gather(&pieces)[12..], [seen; 60], "in order");
            seen += 1;
            device.finish(1, head, 0);
        }
        net.reap(0);
        net.send(0, &mut queue);
    }
    assert!(queue.is_empty());
}

#[test]
fn several_pairs_are_told_over_the_control_queue() {
    let offered = FULL | MQ | CTRL_VQ;
    for (answer, pairs) in [(0, 2), (1, 1)] {
        let device = FakeDevice::new(1, offered, &[64; 9], &config(4, 1400), Manners::default());
        let server = device.clone();
        let thread = std::thread::spawn(move || {
            loop {
                // The control queue comes behind all pairs that the device has.
                if let Some((head, pieces)) = server.take(8) {
                    assert_eq!(gather(&pieces), [4, 0, 2, 0]);
                    scatter(&pieces, &[answer]);
                    return server.finish(8, head, 1);
                }
                std::thread::yield_now();
            }
        });
        let Ok(Device::Net(net)) = device.start(2) else { panic!("a network interface") };
        thread.join().unwrap();
        assert_eq!(net.caps().queues, pairs);
        net.send(1, &mut VecDeque::from([packet(&[1; 60])]));
        assert_eq!(device.take(3).is_some(), pairs == 2);
    }
}

#[test]
fn lies_end_the_use_of_the_device() {
    type Lie = fn(&FakeDevice);
    let lies: [Lie; 5] = [
        |d| deliver(d, vec![0; 12], &pattern(100), usize::MAX, Some(0)),
        |d| deliver(d, vec![0; 12], &pattern(100), usize::MAX, Some(1000)),
        |d| {
            let (head, _) = d.take(0).unwrap();
            d.finish(0, head, 11);
        },
        |d| {
            let (head, _) = d.take(0).unwrap();
            d.finish(0, head, 4097);
        },
        |d| d.finish(0, 64, 100),
    ];
    for lie in lies {
        let (net, device) = net(FULL, 64);
        net.send(0, &mut VecDeque::from([packet(&[1; 60])]));
        lie(&device);
        assert_eq!(receive(&*net).len(), 0);
        assert!(device.abandoned() && !net.link_up());
        let mut queue = VecDeque::from([packet(&[1; 60])]);
        net.send(0, &mut queue);
        assert!(queue.is_empty(), "packets are lost, not hoarded");
        assert_eq!(receive(&*net).len(), 0);
    }
}

#[test]
fn contradictory_headers_cost_only_their_frame() {
    let (net, device) = net(FULL, 16);
    for i in 0..100 {
        let mut h = vec![0; 12];
        (h[0], h[6]) = (1, 99); // A checksum behind the frame's end.
        let long = i % 2 == 1;
        deliver(&device, h, &pattern(if long { 98 + 2 } else { 80 }), 40, None);
        deliver(&device, vec![0; 12], &pattern(300), usize::MAX, None);
        let frames = receive(&*net);
        assert_eq!(frames.len(), 1);
        assert_eq!(flat(&frames[0]), pattern(300));
    }
}

#[test]
fn absurd_configurations_are_refused() {
    for (pairs, mtu, sizes) in
        [(0, 1400, 64), (0x8000, 1400, 64), (1, 0, 64), (1, 1279, 64), (1, 1400, 0), (1, 1400, 65), (1, 1400, 2)]
    {
        let device = FakeDevice::new(1, FULL | MQ | CTRL_VQ, &[sizes; 3], &config(pairs, mtu), Manners::default());
        assert!(device.start(1).is_err(), "{pairs} {mtu} {sizes}");
        assert!(device.abandoned());
    }
}

/// Random buffers with random headers and lengths, now and then an outright lie: no panic, and
/// frames never longer than what was written.
#[test]
fn random_devices_never_panic() {
    let mut random = Random(42);
    let mut honest_end = 0;
    for _ in 0..300 {
        let offered = FULL & !(random.next() & (MRG_RXBUF | EVENT_IDX | INDIRECT_DESC | VERSION_1));
        let (net, device) = net(offered, 16);
        for _ in 0..200 {
            if let Some((head, pieces)) = device.take(0) {
                let mut bytes = vec![0; random.below(600) as usize];
                bytes.iter_mut().take(12).for_each(|b| *b = random.below(4) as u8);
                if let Some(b) = bytes.get_mut(11) {
                    *b = 0;
                }
                let n = if device.honest() { scatter(&pieces, &bytes) } else { bytes.len() };
                let n = if random.below(200) == 0 { 10_000 } else { n.max(12) };
                device.put_used(0, u32::from(head), n as u32);
                device.show_used(0, u16::from(random.below(300) == 0));
            }
            while let Some((head, _)) = device.take(1) {
                device.finish(1, head, random.below(2) as usize * 100);
            }
            net.send(0, &mut VecDeque::from([packet(&[3; 100])]));
            net.receive(0, 8, &mut |f| {
                assert!(flat(&f).len() <= 16 * 4096);
            });
        }
        honest_end += u32::from(net.link_up());
    }
    assert!(honest_end < 300);
}
