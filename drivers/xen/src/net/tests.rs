//! The network interface against a backend by the book, lying, vanishing and coming back.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use hal_core::device::{Device, NetBuf, NetDevice, Segment};

use driver_kit::random::Random;

use crate::fake::{BackRing, FakeXen};

const OWN: &str = "device/vif/0";
const OTHER: &str = "/backend/vif";
const MAC: &[(&str, &str)] = &[("mac", "00:16:3e:00:00:02"), ("mtu", "1500")];
const FULL: &[(&str, &str)] = &[
    ("feature-rx-copy", "1"),
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
];

/// A packet as the backend got it: bytes, flags of its first request, kind and size of its segments.
type Sent = (Vec<u8>, u16, Option<(u8, u16)>);

/// What a lying backend does with the request that it took.
type Lie = fn(&mut BackRing, &[u8]);

/// A backend.
struct Peer {
    fake: Arc<FakeXen>,
    rings: Mutex<Vec<(BackRing, BackRing)>>,
}

/// A request to send: reference, offset, flags, id, size.
fn tx_request(r: &[u8]) -> (u32, u16, u16, u16, u16) {
    let word = |at: usize| u16::from_le_bytes([r[at], r[at + 1]]);
    (u32::from_le_bytes(r[0..4].try_into().unwrap()), word(4), word(6), word(8), word(10))
}

fn rx_response(id: u16, offset: u16, flags: u16, status: i16) -> Vec<u8> {
    [id.to_le_bytes(), offset.to_le_bytes(), flags.to_le_bytes(), status.to_le_bytes()].concat()
}

impl Peer {
    fn new(offers: &[(&str, &str)]) -> Arc<Self> {
        Arc::new(Self { fake: FakeXen::new("vif", MAC, offers), rings: Mutex::default() })
    }

    fn connect(&self) {
        let fake = &self.fake;
        assert_eq!(fake.number(&format!("{OWN}/state")), 4);
        let queues = fake.number(&format!("{OWN}/multi-queue-num-queues")).max(1);
        *self.rings.lock().unwrap() = (0..queues)
            .map(|queue| {
                let below = if queues > 1 { format!("{OWN}/queue-{queue}") } else { OWN.into() };
                let ring =
                    |name: &str, stride| BackRing::new(fake.page(fake.number(&format!("{below}/{name}"))), 1, stride);
                (ring("tx-ring-ref", 12), ring("rx-ring-ref", 8))
            })
            .collect();
        fake.set(&format!("{OTHER}/state"), "4");
        fake.pump();
    }

    fn start(&self, cpus: usize) -> Arc<dyn NetDevice> {
        let Ok(Device::Net(net)) = self.fake.start("vif", cpus) else { panic!("an interface") };
        self.connect();
        net
    }

    /// Takes the next packet that was sent: its bytes, flags, and segmentation; and answers.
    fn sent(&self) -> Option<Sent> {
        let mut rings = self.rings.lock().unwrap();
        let tx = &mut rings[0].0;
        let first = tx.take()?;
        let (mut reference, mut offset, flags, mut id, total) = tx_request(&first);
        let mut gso = None;
        let mut ids = vec![Some(id)];
        if flags & 8 != 0 {
            let extra = tx.take().unwrap();
            assert_eq!((extra[0], extra[1]), (1, 0));
            gso = Some((extra[4], u16::from_le_bytes([extra[2], extra[3]])));
            ids.push(None);
        }
        let mut parts = vec![];
        let mut more = flags & 4 != 0;
        let mut size = 0;
        let mut rest = 0;
        loop {
            parts.push((reference, offset, size));
            if !more {
                break;
            }
            let next;
            let flags;
            (reference, offset, flags, id, next) = tx_request(&tx.take().unwrap());
            ids.push(Some(id));
            more = flags & 4 != 0;
            size = next;
            rest += next;
        }
        parts[0].2 = total - rest;
        let mut bytes = vec![];
        for (reference, offset, size) in parts {
            assert!(usize::from(offset) + usize::from(size) <= 4096);
            // SAFETY: a granted page, which the front end leaves alone meanwhile.
            let page = unsafe { core::slice::from_raw_parts(self.fake.page(reference), 4096) };
            bytes.extend_from_slice(&page[usize::from(offset)..usize::from(offset) + usize::from(size)]);
        }
        for id in ids {
            let (id, status) = id.map_or((0x101u16, 1i16), |id| (id, 0));
            tx.answer(&[id.to_le_bytes(), status.to_le_bytes()].concat());
        }
        Some((bytes, flags, gso))
    }

    /// Delivers a packet in parts of `part` bytes.
    fn deliver(&self, bytes: &[u8], part: usize, gso: Option<(u8, u16)>) {
        let mut rings = self.rings.lock().unwrap();
        let rx = &mut rings[0].1;
        let count = bytes.chunks(part).count();
        for (i, chunk) in bytes.chunks(part).enumerate() {
            let request = rx.take().expect("a page for each part");
            let id = u16::from_le_bytes([request[0], request[1]]);
            let page = self.fake.page(u32::from_le_bytes(request[4..8].try_into().unwrap()));
            let offset = (4096 - chunk.len()).min(i % 3);
            // SAFETY: a granted page, long enough.
            unsafe { core::ptr::copy_nonoverlapping(chunk.as_ptr(), page.add(offset), chunk.len()) };
            let extra = i == 0 && gso.is_some();
            let flags = if i + 1 < count { 4 } else { 0 } | if extra { 8 | 2 } else { 0 };
            rx.answer(&rx_response(id, offset as u16, flags, chunk.len() as i16));
            if let Some((kind, size)) = gso.filter(|_| extra) {
                rx.take().expect("a slot for the extra part");
                rx.answer(&[1, 0, size as u8, (size >> 8) as u8, kind, 0, 0, 0]);
            }
        }
    }
}

fn packet(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + seed) as u8).collect()
}

fn buffer(bytes: &[u8], parts: &[usize]) -> NetBuf {
    let make = |bytes: &[u8]| {
        let mut buffer = NetBuf::new(bytes.len());
        buffer.set_len(bytes.len());
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    };
    let mut at = *parts.first().unwrap_or(&bytes.len());
    let mut first = make(&bytes[..at]);
    for &n in parts.iter().skip(1) {
        first.more.push(make(&bytes[at..at + n]));
        at += n;
    }
    first
}

fn receive(net: &dyn NetDevice) -> Vec<NetBuf> {
    let mut got = vec![];
    while net.receive(0, 64, &mut |p| got.push(p)) > 0 {}
    got
}

fn bytes_of(packet: &NetBuf) -> Vec<u8> {
    core::iter::once(packet).chain(&packet.more).flat_map(|p| p.bytes().to_vec()).collect()
}

#[test]
fn tells_what_it_can_do() {
    let peer = Peer::new(FULL);
    let net = peer.start(1);
    let caps = net.caps();
    assert_eq!((caps.mac, caps.mtu, caps.queues), ([0, 0x16, 0x3e, 0, 0, 2], 1500, 1));
    assert!(caps.tx_checksum && caps.tso4 && caps.tso6 && caps.lro && net.link_up());
    let plain = Peer::new(&[("feature-rx-copy", "1"), ("feature-no-csum-offload", "1")]);
    let caps = plain.start(1).caps();
    assert!(!caps.tx_checksum && !caps.tso4 && !caps.tso6);
    assert!(Peer::new(&[]).fake.start("vif", 1).is_err(), "without copying");
    let nameless = FakeXen::new("vif", &[("mac", "00:16:3e")], FULL);
    assert!(nameless.start("vif", 1).is_err());
}

#[test]
fn sends_packets_of_all_shapes() {
    let peer = Peer::new(FULL);
    let net = peer.start(1);
    for round in 0..200 {
        let mut queue = VecDeque::new();
        let small = packet(60 + round, round);
        let parts = packet(9000, round);
        let large = packet(65000, round);
        queue.push_back(buffer(&small, &[]));
        queue.push_back(buffer(&parts, &[100, 4096, 4, 4800]));
        let mut cut = buffer(&large, &[]);
        cut.offload.checksum = Some((34, 16));
        cut.offload.segment = Some(Segment { ipv6: false, size: 1448, header_len: 66 });
        queue.push_back(cut);
        net.send(0, &mut queue);
        assert!(queue.is_empty());
        assert_eq!(peer.sent(), Some((small, 0, None)));
        assert_eq!(peer.sent(), Some((parts, 4, None)));
        assert_eq!(peer.sent(), Some((large, 1 | 2 | 4 | 8, Some((1, 1448)))));
        assert_eq!(peer.sent(), None);
    }
    assert_eq!(peer.fake.grants().1, 0, "no grant is ever ended");
}

#[test]
fn what_does_not_fit_stays_and_a_wish_for_an_event_is_left() {
    let peer = Peer::new(FULL);
    let net = peer.start(1);
    let mut queue: VecDeque<NetBuf> = (0..300).map(|i| buffer(&packet(100, i), &[])).collect();
    net.send(0, &mut queue);
    assert_eq!(queue.len(), 300 - 256);
    for i in 0..256 {
        assert_eq!(peer.sent().unwrap().0, packet(100, i));
    }
    net.reap(0);
    net.send(0, &mut queue);
    assert!(queue.is_empty());
    // What the device said it cannot do is dropped, and nothing.
    let plain = Peer::new(&[("feature-rx-copy", "1")]);
    let net = plain.start(1);
    let mut asks = buffer(&packet(100, 0), &[]);
    asks.offload.checksum = Some((34, 16));
    let mut queue: VecDeque<NetBuf> = [asks, buffer(&[], &[]), buffer(&packet(5000, 0), &[])].into();
    net.send(0, &mut queue);
    assert!(queue.is_empty() && plain.sent().is_none());
}

#[test]
fn receives_packets_of_all_shapes() {
    let peer = Peer::new(FULL);
    let net = peer.start(1);
    for round in 0..300 {
        let (small, parts, large) = (packet(60, round), packet(4000, round), packet(60_000, round));
        peer.deliver(&small, 4096, None);
        peer.deliver(&parts, 1000, None);
        peer.deliver(&large, 4096, Some((2, 1428)));
        let got = receive(&*net);
        assert_eq!(got.iter().map(bytes_of).collect::<Vec<_>>(), [small, parts, large]);
        assert_eq!(got[0].offload, Default::default());
        assert!(got[2].offload.checksum_valid);
        assert_eq!(got[2].offload.segment, Some(Segment { ipv6: true, size: 1428, header_len: 0 }));
        assert!(got[0].headroom() >= 64);
        assert!(!net.set_receive_interrupt(0, true));
    }
    assert_eq!(peer.fake.grants().1, 0);
}

#[test]
fn lies_end_the_use_and_pages_stay() {
    let lies: [(&str, Lie); 7] = [
        ("outside of the page", |rx, r| rx.answer(&rx_response(r[0].into(), 4000, 0, 100))),
        ("another order", |rx, r| rx.answer(&rx_response(u16::from(r[0]) + 1, 0, 0, 100))),
        ("too many", |rx, _| rx.show(100)),
        ("taken back", |rx, _| rx.show(u32::MAX)),
        ("unknown extra", |rx, r| {
            rx.answer(&rx_response(r[0].into(), 0, 8, 100));
            rx.answer(&[2, 0, 0, 0, 0, 0, 0, 0]);
        }),
        ("segments of nothing", |rx, r| {
            rx.answer(&rx_response(r[0].into(), 0, 8, 100));
            rx.answer(&[1, 0, 0, 0, 1, 0, 0, 0]);
        }),
        ("too long", |rx, _| {
            for i in 0..20 {
                rx.answer(&rx_response(i, 0, 4, 4096));
            }
        }),
    ];
    for (name, lie) in lies {
        let peer = Peer::new(FULL);
        let net = peer.start(1);
        peer.fake.map_all(true);
        {
            let rx = &mut peer.rings.lock().unwrap()[0].1;
            let request = rx.take().unwrap();
            lie(rx, &request);
        }
        assert_eq!(receive(&*net).len(), 0, "{name}");
        assert_eq!(peer.fake.number(&format!("{OWN}/state")), 6, "{name}");
        assert_eq!(peer.fake.channels().0, 0);
        assert_eq!(peer.fake.grants().1, 0, "what is mapped stays granted");
        let mut queue: VecDeque<NetBuf> = [buffer(&packet(60, 0), &[])].into();
        net.send(0, &mut queue);
        assert!(queue.is_empty() && !net.link_up());
    }
    let peer = Peer::new(FULL);
    let net = peer.start(1);
    let mut queue: VecDeque<NetBuf> = [buffer(&packet(60, 0), &[])].into();
    net.send(0, &mut queue);
    {
        let tx = &mut peer.rings.lock().unwrap()[0].0;
        tx.take().unwrap();
        tx.answer(&[200, 0, 0, 0]);
    }
    net.reap(0);
    assert!(!net.link_up(), "it sent what it was not given");
}

#[test]
fn undelivered_packets_are_dropped() {
    let peer = Peer::new(FULL);
    let net = peer.start(1);
    {
        let rx = &mut peer.rings.lock().unwrap()[0].1;
        rx.take().unwrap();
        rx.answer(&rx_response(0, 0, 0, -1));
        rx.answer(&rx_response(1, 0, 4, 100));
        rx.answer(&rx_response(2, 0, 0, -2));
        rx.take();
        rx.take();
    }
    assert_eq!(receive(&*net).len(), 0);
    peer.deliver(&packet(99, 1), 4096, None);
    assert_eq!(receive(&*net).len(), 1);
}

#[test]
fn a_backend_that_returns_is_used_again() {
    let peer = Peer::new(FULL);
    let net = peer.start(1);
    for round in 0..5 {
        peer.fake.map_all(round % 2 == 1);
        let mut queue: VecDeque<NetBuf> = [buffer(&packet(60, 0), &[])].into();
        net.send(0, &mut queue);
        peer.fake.set(&format!("{OTHER}/state"), "5");
        peer.fake.pump();
        assert!(!net.link_up());
        assert_eq!(receive(&*net).len(), 0);
        net.send(0, &mut [buffer(&packet(60, 0), &[])].into());
        assert!(!net.set_receive_interrupt(0, true));
        peer.fake.set(&format!("{OTHER}/state"), "6");
        peer.fake.pump();
        assert_eq!(peer.fake.number(&format!("{OWN}/state")), 1);
        peer.fake.set(&format!("{OTHER}/state"), "2");
        peer.fake.pump();
        peer.connect();
        assert!(net.link_up());
        let bytes = packet(777, round);
        net.send(0, &mut [buffer(&bytes, &[])].into());
        assert_eq!(peer.sent(), Some((bytes.clone(), 0, None)));
        peer.deliver(&bytes, 500, None);
        assert_eq!(receive(&*net).iter().map(bytes_of).collect::<Vec<_>>(), [bytes]);
        assert_eq!(peer.fake.channels().0, 1);
    }
}

#[test]
fn a_backend_that_is_bound_again_finds_the_rings() {
    let peer = Peer::new(FULL);
    let net = peer.start(1);
    let round = |seed| {
        let bytes = packet(300, seed);
        net.send(0, &mut [buffer(&bytes, &[])].into());
        assert_eq!(peer.sent(), Some((bytes.clone(), 0, None)));
        peer.deliver(&bytes, 500, None);
        assert_eq!(receive(&*net).iter().map(bytes_of).collect::<Vec<_>>(), [bytes]);
    };
    round(1);
    for state in ["2", "4"] {
        peer.fake.set(&format!("{OTHER}/state"), state);
        peer.fake.pump();
        assert_eq!(peer.fake.number(&format!("{OWN}/state")), 4);
        round(2);
    }
    assert_eq!((peer.fake.grants().1, peer.fake.channels().0), (0, 1), "nothing was ended");
    // The tool stack begins anew: so do we.
    peer.fake.set(&format!("{OWN}/state"), "1");
    peer.fake.set(&format!("{OTHER}/state"), "2");
    peer.fake.pump();
    peer.connect();
    round(3);
}

#[test]
fn a_backend_cannot_take_all_memory_by_coming_and_going() {
    let peer = Peer::new(FULL);
    let _net = peer.start(1);
    let mut rounds = 0;
    while peer.fake.number(&format!("{OWN}/state")) == 4 {
        peer.fake.map_all(true);
        for state in ["5", "6", "2"] {
            peer.fake.set(&format!("{OTHER}/state"), state);
            peer.fake.pump();
        }
        if peer.fake.number(&format!("{OWN}/state")) == 4 {
            peer.connect();
        }
        rounds += 1;
        assert!(rounds < 20);
    }
    assert_eq!(peer.fake.number(&format!("{OWN}/state")), 6);
}

#[test]
fn several_queues_each_have_their_rings() {
    let mut offers = FULL.to_vec();
    offers.push(("multi-queue-max-queues", "8"));
    let peer = Peer::new(&offers);
    let net = peer.start(2);
    assert_eq!((net.caps().queues, peer.rings.lock().unwrap().len(), peer.fake.channels().0), (2, 2, 2));
    net.send(1, &mut [buffer(&packet(60, 0), &[])].into());
    let rings = &mut *peer.rings.lock().unwrap();
    assert!(rings[0].0.take().is_none() && rings[1].0.take().is_some());
}

#[test]
fn random_traffic_over_a_random_backend() {
    for seed in 1..100 {
        let mut random = Random(seed * 0x9e37_79b9);
        let peer = Peer::new(FULL);
        let net = peer.start(1);
        for _ in 0..300 {
            match random.below(12) {
                0..=2 => net.send(0, &mut [buffer(&packet(1 + random.below(30000) as usize, 0), &[])].into()),
                3 => net.reap(0),
                4..=5 => _ = receive(&*net),
                6 => _ = net.set_receive_interrupt(0, random.below(2) == 0),
                7 => {
                    let mut rings = peer.rings.lock().unwrap();
                    let (tx, rx) = &mut rings[0];
                    if random.below(2) == 0 {
                        tx.answer(&[random.below(3) as u8, 0, random.below(2) as u8, 0]);
                    } else {
                        let status = (random.below(3000) as i16) - 10;
                        let index = (rx.index() & 255) as u16;
                        rx.answer(&rx_response(index, 0, random.below(16) as u16, status));
                    }
                }
                8 if random.below(20) == 0 => {
                    let rings = peer.rings.lock().unwrap();
                    rings[0].0.show(random.next() as u32);
                    rings[0].1.show(random.below(300) as u32);
                }
                9 if random.below(10) == 0 => {
                    peer.fake.set(&format!("{OTHER}/state"), &format!("{}", 1 + random.below(6)));
                    peer.fake.pump();
                    let told = peer.fake.number(&format!("{OWN}/state")) == 4;
                    if told && peer.fake.number(&format!("{OTHER}/state")) == 2 {
                        peer.connect();
                    }
                }
                _ => {}
            }
        }
    }
}
