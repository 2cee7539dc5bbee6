//! A fuzz target's body: the input is what a backend offers and then everything that it does, in turn with what a kernel asks of the
//! driver. Whatever the input, nothing panics, and no request is answered twice or forgotten.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use driver_kit::host::bury;
use hal_core::device::{BlockOp, Device, Dma, NetBuf};

use crate::fake::{BackRing, FakeXen};

/// Input, read from the front; zeroes behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }
    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    if input.byte() & 1 == 0 {
        disk(&mut input)
    } else {
        interface(&mut input)
    }
    bury();
}

/// A backend's features, some of them strange.
fn offers(input: &mut Input, names: &[&'static str]) -> Vec<(&'static str, alloc::string::String)> {
    names
        .iter()
        .filter_map(|&name| {
            let value = input.byte();
            match value {
                0..=200 => Some((name, format!("{}", value % 3))),
                201..=220 => Some((name, format!("{}", u32::from(value) << 24))),
                221..=240 => Some((name, format!("{value}x"))),
                _ => None,
            }
        })
        .collect()
}

fn connect(fake: &FakeXen, own: &str, other: &str, told: u32) {
    if fake.number(&format!("{own}/state")) == told && fake.number(&format!("{other}/state")) == 2 {
        fake.set(&format!("{other}/state"), "4");
    }
}

/// The rings that the front end tells now, by the names of their references.
fn rings(fake: &FakeXen, own: &str, names: &[(&str, usize, usize)]) -> Vec<BackRing> {
    let ring = |&(name, stride, pages): &(&str, usize, usize)| {
        let reference = fake.number(&format!("{own}/{name}"));
        Some(BackRing::new(fake.try_page(reference)?, pages, stride))
    };
    names.iter().filter_map(ring).collect()
}

/// What the backend does besides answering: its states, its mappings.
fn misbehave(fake: &FakeXen, input: &mut Input, other: &str) {
    match input.byte() % 4 {
        0 => fake.map_all(true),
        1 => fake.map_all(false),
        _ => fake.set(&format!("{other}/state"), &format!("{}", input.byte() % 8)),
    }
    fake.pump();
}

fn disk(input: &mut Input) {
    let (own, other) = ("device/vbd/0", "/backend/vbd");
    let mut list = offers(
        input,
        &["feature-flush-cache", "feature-discard", "discard-granularity", "discard-alignment", "info", "sector-size"],
    );
    list.push(("sectors", format!("{}", u32::from(input.word()))));
    list.push(("feature-max-indirect-segments", format!("{}", input.byte())));
    let list: Vec<(&str, &str)> = list.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let fake = FakeXen::new("vbd", &[("device-type", "disk")], &list);
    fake.play(Arc::new(|fake: &FakeXen| connect(fake, "device/vbd/0", "/backend/vbd", 3)));
    let Ok(Device::Block(disk)) = fake.start("vbd", 1) else { return };
    let (asked, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut memory = alloc::vec![0u8; 1 << 17];
    let mut taken: Vec<Vec<u8>> = Vec::new();
    let names = [("ring-ref", 112, 1)];
    let mut ring = rings(&fake, own, &names);
    while !input.0.is_empty() {
        match input.byte() & 7 {
            0 | 1 => {
                let op = match input.byte() & 3 {
                    0 => BlockOp::Flush,
                    1 => BlockOp::Discard(u64::from(input.word()) * 512),
                    2 => BlockOp::Write,
                    _ => BlockOp::Read,
                };
                let len = usize::from(input.byte()) * 512;
                let address = memory.as_mut_ptr() as usize;
                let buffers = [Dma { address, len }, Dma { address: address + len, len: 512 }];
                let buffers = if matches!(op, BlockOp::Read | BlockOp::Write) { &buffers[..] } else { &[] };
                asked.fetch_add(1, Ordering::Relaxed);
                let told = answered.clone();
                let done = Box::new(move |_| _ = told.fetch_add(1, Ordering::Relaxed));
                // SAFETY: the memory is freed after the last use of the device.
                unsafe { disk.submit(op, u64::from(input.word()) * 512, buffers, done) };
            }
            2 => taken.extend(ring.iter_mut().filter_map(BackRing::take)),
            3 => {
                if let (Some(request), Some(ring)) = (taken.pop(), ring.first_mut()) {
                    let mut answer = [0; 16];
                    answer[..8].copy_from_slice(&request[8..16]);
                    answer[10] = input.byte() / 200;
                    ring.answer(&answer);
                }
            }
            4 => {
                if let Some(ring) = ring.first_mut() {
                    let bytes: Vec<u8> = (0..16).map(|_| input.byte() & 15).collect();
                    ring.answer(&bytes);
                }
            }
            5 => ring.iter().for_each(|r| r.show(u32::from(input.byte()))),
            6 => {
                misbehave(&fake, input, other);
                connect(&fake, own, other, 3);
                fake.pump();
                // The old ring may be gone.
                taken.clear();
                ring = rings(&fake, own, &names);
            }
            _ => disk.poll(),
        }
    }
    fake.map_all(false);
    fake.unset(other);
    fake.unset(own);
    fake.pump();
    disk.poll();
    assert_eq!(asked.load(Ordering::Relaxed), answered.load(Ordering::Relaxed), "every request is answered once");
}

fn interface(input: &mut Input) {
    let (own, other) = ("device/vif/0", "/backend/vif");
    let mut list = offers(
        input,
        &[
            "feature-sg",
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-no-csum-offload",
            "feature-ipv6-csum-offload",
        ],
    );
    list.push(("feature-rx-copy", format!("{}", input.byte().min(1))));
    let list: Vec<(&str, &str)> = list.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let fake = FakeXen::new("vif", &[("mac", "00:16:3e:00:00:02")], &list);
    let Ok(Device::Net(net)) = fake.start("vif", 1) else { return };
    let names = [("tx-ring-ref", 12, 1), ("rx-ring-ref", 8, 1)];
    let mut ring = rings(&fake, own, &names);
    let mut outgoing = VecDeque::new();
    while !input.0.is_empty() {
        match input.byte() & 7 {
            0 => {
                let len = usize::from(input.word());
                let mut packet = NetBuf::new(len);
                packet.set_len(len);
                if outgoing.len() < 16 {
                    outgoing.push_back(packet);
                }
                net.send(0, &mut outgoing);
            }
            1 => net.reap(0),
            2 => _ = net.receive(0, 8, &mut drop),
            3 => _ = net.set_receive_interrupt(0, input.byte() & 1 == 0),
            4 => _ = ring.iter_mut().map(|r| r.take()).filter(Option::is_some).count(),
            5 => {
                let which = usize::from(input.byte() & 1);
                if let Some(ring) = ring.get_mut(which) {
                    let index = (ring.index() & 255).to_le_bytes();
                    let mut bytes =
                        [index[0], 0, input.byte(), 0, input.byte() & 15, 0, input.byte(), input.byte() & 15];
                    if input.byte() > 200 {
                        bytes[1] = input.byte();
                    }
                    ring.answer(&bytes);
                }
            }
            6 => ring.iter().for_each(|r| r.show(u32::from(input.byte()))),
            _ => {
                misbehave(&fake, input, other);
                connect(&fake, own, other, 4);
                fake.pump();
                ring = rings(&fake, own, &names);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use driver_kit::random::Random;

    #[test]
    fn random_inputs() {
        for seed in 1..1500 {
            let mut random = Random(seed * 0x9e37_79b9);
            let len = 40 + random.below(600) as usize;
            let data: std::vec::Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            super::run(&data);
        }
    }
}
