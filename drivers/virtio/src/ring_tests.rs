//! The ring against a device by the book, and against one that lies at random.

use alloc::sync::Arc;
use alloc::vec;
use std::collections::HashSet;

use super::*;
use crate::fake::{FakeDevice, Manners};
use crate::features::VERSION_1;
use crate::transport::Transport;
use driver_kit::random::Random;

fn device() -> Arc<FakeDevice> {
    FakeDevice::new(4, VERSION_1, &[0x8000], &[], Manners::default())
}

fn pair<T>(size: u16, options: RingOptions) -> (Arc<FakeDevice>, Ring<T>) {
    let device = device();
    let ring = Ring::new(size, options).unwrap();
    device.start_queue(0, &ring.addresses()).unwrap();
    (device, ring)
}

fn piece(len: u32, writable: bool) -> Piece {
    Piece { address: PhysAddr(0x1000), len, writable }
}

fn add<T>(ring: &mut Ring<T>, pieces: &[Piece], token: T) -> bool {
    // SAFETY: the fake does not touch these addresses in these tests.
    unsafe { ring.add(pieces, token) }.is_ok()
}

#[test]
fn requests_travel_there_and_back_in_any_order() {
    for options in [RingOptions::default(), RingOptions { event_idx: true, indirect: true, lenient: false }] {
        let (device, mut ring) = pair(16, options);
        let mut random = Random(7);
        let mut next = 0u64;
        let mut theirs = vec![];
        let mut ours = HashSet::new();
        // Far beyond a wrap of the 16-bit indices.
        for _ in 0..200_000 {
            match random.below(3) {
                0 => {
                    let n = 1 + random.below(5) as usize;
                    let pieces = vec![piece(100, true); n];
                    if ring.has_room(n) {
                        assert!(add(&mut ring, &pieces, next));
                        ours.insert(next);
                        next += 1;
                    } else {
                        assert!(!add(&mut ring, &pieces, next));
                    }
                    ring.publish();
                }
                1 => {
                    while let Some((head, pieces)) = device.take(0) {
                        theirs.push((head, pieces.len()));
                    }
                    if !theirs.is_empty() {
                        let at = random.below(theirs.len() as u64) as usize;
                        let (head, n) = theirs.swap_remove(at);
                        device.finish(0, head, 100 * n);
                    }
                }
                _ => {
                    while let Some((token, len)) = ring.pop() {
                        assert!(ours.remove(&token), "came back once, and was ours");
                        assert!(len.is_multiple_of(100) && len > 0);
                    }
                    assert_eq!(ring.broken(), None);
                }
            }
            assert_eq!(usize::from(ring.in_flight()), ours.len());
        }
        assert!(next > 10_000);
    }
}

#[test]
fn doorbells_and_interrupts_follow_the_indices() {
    let options = RingOptions { event_idx: true, ..RingOptions::default() };
    let (device, mut ring) = pair(8, options);
    device.set_avail_event(0, 1);
    add(&mut ring, &[piece(1, false)], 0);
    assert!(!ring.publish(), "the first is not waited for");
    add(&mut ring, &[piece(1, false)], 1);
    add(&mut ring, &[piece(1, false)], 2);
    assert!(ring.publish(), "passed index 1");
    assert!(!ring.publish(), "nothing new");
    ring.disable_interrupts();
    assert_eq!(device.used_event(0), u16::MAX);
    for _ in 0..3 {
        let (head, _) = device.take(0).unwrap();
        device.finish(0, head, 0);
    }
    assert!(ring.enable_interrupts(), "three are there");
    assert!(ring.pop().is_some());
    assert!(ring.enable_interrupts_after(2), "two are there");
    assert!(!ring.enable_interrupts_after(3));
    assert_eq!(device.used_event(0), 3);
    while ring.pop().is_some() {}
    assert!(!ring.enable_interrupts());
}

/// The device goes to sleep at the very moment in which something is shown to it, and both look too early.
#[test]
fn a_missed_doorbell_is_made_up_for() {
    let options = RingOptions { event_idx: true, ..RingOptions::default() };
    let (device, mut ring) = pair(8, options);
    add(&mut ring, &[piece(1, false)], 0);
    assert!(ring.publish());
    // It is awake, so it need not be told of the second; but it has not seen it when it falls asleep.
    add(&mut ring, &[piece(1, false)], 1);
    assert!(!ring.publish());
    device.set_avail_event(0, 1);
    add(&mut ring, &[piece(1, false)], 2);
    assert!(ring.publish(), "the next one wakes it at the latest");
}

#[test]
fn every_lie_breaks_the_ring() {
    type Lie = fn(&FakeDevice, u16);
    let lies: [(&str, Lie); 5] = [
        ("out of range", |d, _| d.put_used(0, 8, 0)),
        ("out of range", |d, _| d.put_used(0, u32::MAX, 0)),
        ("not in flight", |d, head| d.put_used(0, u32::from(head ^ 1), 0)),
        ("greater than the buffer", |d, head| d.put_used(0, u32::from(head), 101)),
        ("jumped", |d, head| {
            d.put_used(0, u32::from(head), 1);
            d.show_used(0, 1);
        }),
    ];
    for (what, lie) in lies {
        let (device, mut ring) = pair(8, RingOptions::default());
        add(&mut ring, &[piece(100, true)], 5u8);
        ring.publish();
        let (head, _) = device.take(0).unwrap();
        lie(&device, head);
        if what != "jumped" {
            device.show_used(0, 0);
        }
        assert_eq!(ring.pop(), None);
        assert!(ring.broken().unwrap().contains(what), "{what}: {:?}", ring.broken());
        assert_eq!(ring.pop(), None, "for good");
        assert!(!add(&mut ring, &[piece(1, false)], 6));
        assert_eq!(ring.drain("test"), [5], "the request is not lost");
    }
}

#[test]
fn the_same_request_twice_is_a_lie() {
    let (device, mut ring) = pair(8, RingOptions::default());
    for i in 0..2 {
        add(&mut ring, &[piece(4, true)], i);
    }
    ring.publish();
    let (head, _) = device.take(0).unwrap();
    device.finish(0, head, 4);
    assert_eq!(ring.pop(), Some((0, 4)));
    device.finish(0, head, 4);
    assert_eq!(ring.pop(), None);
    assert!(ring.broken().is_some());
}

#[test]
fn legacy_lengths_are_cut() {
    let options = RingOptions { lenient: true, ..RingOptions::default() };
    let (device, mut ring) = pair(8, options);
    add(&mut ring, &[piece(4, true)], ());
    ring.publish();
    let (head, _) = device.take(0).unwrap();
    device.finish(0, head, 4000);
    assert_eq!(ring.pop(), Some(((), 4)));
}

#[test]
fn sizes_that_are_no_power_of_two_are_refused() {
    for size in [0, 3, 100, u16::MAX] {
        assert!(Ring::<()>::new(size, RingOptions::default()).is_err());
    }
}

/// Whatever is on the used ring, each request comes back at most once, and nothing panics.
#[test]
fn random_lies_never_panic_and_never_duplicate() {
    let mut random = Random(0x0bad_cafe);
    let mut broken = 0;
    for round in 0..20_000u64 {
        let options = RingOptions { event_idx: round & 1 != 0, indirect: round & 2 != 0, lenient: round & 4 != 0 };
        let size = 1 << random.below(5);
        let (device, mut ring) = pair(size, options);
        let mut out = HashSet::new();
        let mut theirs = vec![];
        for token in 0..40u64 {
            let pieces = vec![piece(64, random.below(2) != 0); 1 + random.below(4) as usize];
            if add(&mut ring, &pieces, token) {
                out.insert(token);
            }
            ring.publish();
            // What an honest device would do is part of the mix: lies that come at once are the easy ones.
            while let Some((head, _)) = device.take(0) {
                theirs.push(head);
            }
            match random.below(12) {
                0 => device.put_used(0, random.next() as u32, random.next() as u32),
                1 => device.put_used(0, random.below(u64::from(size)) as u32, random.below(65) as u32),
                2 => device.show_used(0, random.next() as u16),
                3 => device.set_avail_event(0, random.next() as u16),
                _ => {
                    if let Some(head) = theirs.pop() {
                        device.put_used(0, u32::from(head), 0);
                    }
                }
            }
            if random.below(2) == 0 {
                device.show_used(0, 0);
            }
            while let Some((token, len)) = ring.pop() {
                assert!(out.remove(&token));
                assert!(len <= 4 * 64);
            }
            ring.enable_interrupts();
        }
        broken += u32::from(ring.broken().is_some());
        for token in ring.drain("end") {
            assert!(out.remove(&token));
        }
        assert!(out.is_empty(), "no request is lost");
    }
    assert!(broken > 5_000 && broken < 20_000, "both sorts were tried: {broken}");
}
