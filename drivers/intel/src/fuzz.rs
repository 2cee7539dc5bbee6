//! A fuzz target's body: the input is what a device does, in turn with what a kernel asks of the driver. Whatever the
//! input, nothing panics, and no frame is longer than what the device could have written.

use alloc::collections::VecDeque;

use driver_kit::host::{bury, set_hurry};
use driver_kit::input::Input;
use hal_core::device::{NetBuf, NetDevice, Segment};

use crate::fake::FakeNic;
use crate::registers::*;

/// Runs one input.
pub fn run(data: &[u8]) {
    set_hurry(true);
    let mut input = Input(data);
    let first = input.byte();
    let fake = FakeNic::new(first & 1 != 0, first & 2 != 0);
    let Ok(nic) = fake.start() else {
        fake.unplug();
        return bury();
    };
    let mut outgoing = VecDeque::new();
    // After a lie about what was sent, the driver may have freed what the fake has not read.
    let mut lied = false;
    while !input.is_empty() {
        let op = input.byte();
        match op & 15 {
            0..=2 => {
                let len = usize::from(input.word() % 2049);
                let value = input.byte();
                fake.deliver(&alloc::vec![value; len], input.byte(), input.byte() & input.byte());
            }
            3 => fake.put_received(u32::from(input.byte()), input.word(), input.byte(), input.byte()),
            4 => {
                lied = true;
                fake.put_sent(u32::from(input.byte()));
            }
            5 if !lied => _ = fake.transmit(usize::from(input.byte())),
            6 => fake.raise(input.long()),
            7 => {
                let register = [STATUS, RDH, CTRL, RAH, ICR][usize::from(input.byte() % 5)];
                fake.set_register(register, input.long());
            }
            8..=10 => send(&*nic, &mut input, &mut outgoing),
            11 => _ = nic.set_receive_interrupt(0, op & 16 != 0),
            12 => nic.reap(0),
            _ => {
                let budget = usize::from(input.byte());
                let count = nic.receive(0, budget, &mut |frame| {
                    let total = frame.len() + frame.more.iter().map(NetBuf::len).sum::<usize>();
                    assert!(total <= 16384 && frame.len() <= 2048);
                });
                assert!(count <= budget);
            }
        }
    }
    fake.unplug();
    drop(nic);
    bury();
}

fn send(nic: &dyn NetDevice, input: &mut Input<'_>, outgoing: &mut VecDeque<NetBuf>) {
    let len = usize::from(input.word());
    let mut packet = NetBuf::new(len);
    packet.set_len(len);
    if len > 14 {
        packet.bytes_mut()[12] = 8;
    }
    packet.more = (0..input.byte() % 70).map(|_| NetBuf::from_box([1; 10].into(), 0, 10)).collect();
    let flags = input.byte();
    if flags & 1 != 0 {
        packet.offload.checksum = Some((u16::from(input.byte()), u16::from(input.byte() & 31)));
    }
    if flags & 2 != 0 {
        let (size, header_len) = (input.word(), u16::from(input.byte()));
        packet.offload.segment = Some(Segment { ipv6: flags & 4 != 0, size, header_len });
    }
    outgoing.push_back(packet);
    nic.send(0, outgoing);
}

#[cfg(test)]
mod tests {
    use driver_kit::random::Random;

    /// Random inputs; the fuzzer finds more, but this runs every time.
    #[test]
    fn random_inputs_do_no_harm() {
        let mut random = Random(82540);
        for _ in 0..3000 {
            let len = 40 + random.below(400) as usize;
            let data: alloc::vec::Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            super::run(&data);
        }
    }
}
