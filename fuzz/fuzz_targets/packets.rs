//! Any frames to an interface: the first byte of each piece is its length's low part.
#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hal_core::device::{NetBuf, NetCaps};
use libfuzzer_sys::fuzz_target;
use net::{Env, Stack, Transmit};

struct World(AtomicU64);

impl Env for World {
    fn now_ns(&self) -> u64 {
        self.0.fetch_add(1_000_000, Ordering::Relaxed)
    }
    fn random(&self) -> u64 {
        0x1234_5678_9abc_def0
    }
    fn set_timer(&self, _at_ns: u64) {}
}

struct Nowhere;

impl Transmit for Nowhere {
    fn caps(&self) -> NetCaps {
        NetCaps { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, queues: 1, tx_checksum: true, tso4: true, tso6: true, lro: true }
    }
    fn push(&self, _frame: NetBuf) {}
    fn flush(&self) {}
}

fuzz_target!(|data: &[u8]| {
    let stack = Stack::new(Arc::new(World(AtomicU64::new(1))));
    let Ok(interface) = stack.add_interface(Arc::new(Nowhere)) else { return };
    stack.add_address(&interface, net::Ip::from_v4_bytes([10, 0, 2, 15]), 24);
    let mut rest = data;
    while let Some((&len, tail)) = rest.split_first() {
        let len = (usize::from(len) * 4).min(tail.len());
        let mut frame = NetBuf::new(len);
        frame.set_len(len);
        frame.bytes_mut().copy_from_slice(&tail[..len]);
        stack.input(&interface, &mut vec![frame]);
        stack.run_timers();
        rest = &tail[len..];
    }
});
