//! A fuzz target's body: the input is a device's configuration and then everything that it does, in turn with
//! what a kernel asks of the driver. Whatever the input, nothing panics and no request is answered twice or forgotten.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use hal_core::device::{BlockOp, Device, Dma, NetBuf};

use crate::fake::{FakeDevice, Manners, scatter};
use driver_kit::host::bury;
use driver_kit::input::Input;

/// Counts requests and their answers.
#[derive(Default)]
struct Tally {
    asked: AtomicUsize,
    answered: AtomicUsize,
}

/// Runs one input.
pub fn run(data: &[u8]) {
    // Waiting for an answer that does not come is a waste.
    driver_kit::host::set_hurry(true);
    let mut input = Input(data);
    let kind = 1 + u32::from(input.byte() % 5);
    // Most features, most of the time: the version, event indices and indirect tables among them.
    let offered = !(u64::from(input.long()) & u64::from(input.long())) & 0x3_ffff_ffff;
    let sizes: Vec<u16> = (0..5)
        .map(|_| match input.byte() {
            odd @ 250.. => u16::from(odd),
            even => 1 << (even % 9),
        })
        .collect();
    let config = input.bytes(60);
    let device = FakeDevice::new(kind, offered, &sizes, &config, Manners::default());
    let Ok(driver) = device.start(2) else {
        device.unplug();
        return bury();
    };
    let tally = Arc::new(Tally::default());
    let mut memory = alloc::vec![0u8; 4096];
    let mut outgoing = VecDeque::new();
    let mut taken = Vec::new();
    // After a lie the driver may believe that memory is back which the fake was given.
    let mut lied = false;
    while !input.is_empty() {
        let op = input.byte();
        let queue = usize::from(op >> 4) % sizes.len();
        match op & 15 {
            0..=2 => {
                // Nor may descriptors be followed then.
                if !lied && let Some(request) = device.take(queue) {
                    taken.push((queue, request));
                }
            }
            3..=5 => {
                if !taken.is_empty() {
                    let at = usize::from(input.byte()) % taken.len();
                    let (queue, (head, pieces)) = taken.swap_remove(at);
                    let answer = input.bytes(usize::from(op >> 4) * 4);
                    // After a reset the memory is not the device's any more.
                    if !device.abandoned() {
                        let n = if lied { answer.len() } else { scatter(&pieces, &answer) };
                        device.put_used(queue, u32::from(head), n as u32);
                        device.show_used(queue, 0);
                    }
                }
            }
            6 => {
                lied = true;
                device.put_used(queue, input.long(), input.long());
            }
            7 => {
                lied = true;
                device.show_used(queue, input.word());
            }
            8 => device.interrupt_line(u32::from(op >> 4)),
            9 => device.set_config(usize::from(input.byte()) % config.len(), input.byte()),
            _ => drive(&driver, op, &mut input, &tally, &mut memory, &mut outgoing),
        }
    }
    // A device that has failed owes nobody an answer.
    poll(&driver);
    assert!(tally.answered.load(Ordering::Relaxed) <= tally.asked.load(Ordering::Relaxed));
    if device.abandoned() {
        assert_eq!(tally.answered.load(Ordering::Relaxed), tally.asked.load(Ordering::Relaxed));
    }
    // Nothing may use the memory from here on: not the fake, and not the driver.
    device.unplug();
    drop(driver);
    drop(memory);
    bury();
}

fn poll(driver: &Device) {
    match driver {
        Device::Block(disk) => disk.poll(),
        Device::Entropy(source) => source.poll(),
        Device::Net(net) => _ = net.receive(0, 64, &mut |_| ()),
        _ => {}
    }
}

/// One thing that a kernel does.
fn drive(
    driver: &Device,
    op: u8,
    input: &mut Input,
    tally: &Arc<Tally>,
    memory: &mut [u8],
    outgoing: &mut VecDeque<NetBuf>,
) {
    let told = tally.clone();
    match driver {
        Device::Net(net) if op & 1 == 0 => {
            let len = usize::from(input.word() % 2000);
            let mut packet = NetBuf::new(len);
            packet.set_len(len);
            packet.more = (0..input.byte() % 70).map(|_| NetBuf::from_box([1; 10].into(), 0, 10)).collect();
            outgoing.push_back(packet);
            net.send(u16::from(op >> 4) % 3, outgoing);
        }
        Device::Net(net) => {
            net.receive(u16::from(op >> 4) % 3, usize::from(input.byte()), &mut |frame| {
                assert!(frame.len() <= 65536 + 4096);
            });
            net.set_receive_interrupt(0, op & 2 != 0);
        }
        Device::Block(disk) if op & 1 == 0 => {
            let what = match op >> 4 {
                0..=5 => BlockOp::Read,
                6..=11 => BlockOp::Write,
                12 | 13 => BlockOp::Flush,
                _ => BlockOp::Discard(512 * u64::from(input.byte())),
            };
            let data = op >> 4 < 12;
            let pieces = usize::from(input.byte() % 9) * usize::from(data);
            let buffers: Vec<_> =
                (0..pieces).map(|i| Dma { address: memory.as_mut_ptr() as usize + 512 * (i % 8), len: 512 }).collect();
            tally.asked.fetch_add(1, Ordering::Relaxed);
            let done = Box::new(move |_| _ = told.answered.fetch_add(1, Ordering::Relaxed));
            // SAFETY: `run` keeps the memory until the device is unplugged.
            unsafe { disk.submit(what, 512 * u64::from(input.word()), &buffers, done) };
        }
        Device::Entropy(source) if op & 1 == 0 => {
            let done = Box::new(move |_: &[u8]| _ = told.answered.fetch_add(1, Ordering::Relaxed));
            if source.request(usize::from(input.word()), done).is_ok() {
                tally.asked.fetch_add(1, Ordering::Relaxed);
            }
        }
        Device::Console(console) if op & 1 == 0 => {
            let bytes = input.bytes(usize::from(op >> 4));
            assert!(console.write(&bytes) <= bytes.len());
        }
        Device::Console(console) => {
            let n = usize::from(input.byte());
            assert!(console.read(&mut memory[..n]) <= n);
        }
        Device::Balloon(balloon) => {
            // Nobody answers while the driver waits, so this ends its use.
            let _ = (balloon.target(), balloon.inflate(&[u64::from(input.long())]));
        }
        _ => poll(driver),
    }
}

#[cfg(test)]
mod tests {
    use driver_kit::random::Random;

    /// Random inputs; the fuzzer finds more, but this runs every time.
    #[test]
    fn random_inputs_do_no_harm() {
        let mut random = Random(2024);
        for _ in 0..4000 {
            let len = 80 + random.below(400) as usize;
            let data: alloc::vec::Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            super::run(&data);
        }
    }
}
