//! One request and its answer over 30 connections, the server's part in [`server_turn`]: count its instructions with
//! `valgrind --tool=callgrind --toggle-collect='*server_turn*' target/release/examples/request_cost 1000`.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use base::SpinLock;
use base::io::{In, Out};
use hal_core::device::{NetBuf, NetCaps};
use net::tcp::Tcp;
use net::{Endpoint, Env, Family, Interface, Ip, Stack, Transmit};

struct World(AtomicU64);

impl Env for World {
    fn now_ns(&self) -> u64 {
        self.0.fetch_add(1000, Ordering::Relaxed)
    }
    fn random(&self) -> u64 {
        self.0.fetch_add(7, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
    fn set_timer(&self, _: u64) {}
}

struct Port {
    mac: u8,
    out: SpinLock<VecDeque<NetBuf>>,
}

impl Transmit for Port {
    fn caps(&self) -> NetCaps {
        NetCaps {
            mac: [2, 0, 0, 0, 0, self.mac],
            mtu: 1500,
            queues: 1,
            tx_checksum: true,
            tso4: true,
            tso6: true,
            lro: true,
        }
    }
    fn push(&self, frame: NetBuf) {
        self.out.lock().push_back(frame);
    }
    fn flush(&self) {}
}

struct Host {
    stack: Arc<Stack>,
    interface: Arc<Interface>,
    port: Arc<Port>,
    batch: Mutex<Vec<NetBuf>>,
}

impl Host {
    fn new(last: u8) -> Self {
        let stack = Stack::new(Arc::new(World(AtomicU64::new(u64::from(last) << 32))));
        let port = Arc::new(Port { mac: last, out: SpinLock::new(VecDeque::new()) });
        let interface = stack.add_interface(port.clone()).unwrap();
        stack.add_address(&interface, Ip::from_v4_bytes([10, 0, 0, last]), 24);
        Self { stack, interface, port, batch: Mutex::new(Vec::new()) }
    }
}

fn carry(from: &Host, to: &Host) -> bool {
    let mut batch = to.batch.lock().unwrap();
    batch.extend(from.port.out.lock().drain(..).map(|mut f| {
        // The device has checked it.
        f.offload = hal_core::device::Offload { checksum_valid: true, ..Default::default() };
        f
    }));
    !batch.is_empty()
}

#[inline(never)]
fn server_input(host: &Host, batch: &mut Vec<NetBuf>) {
    host.stack.input(&host.interface, batch);
}

#[inline(never)]
fn server_recv(tcp: &Arc<Tcp>, buffer: &mut [u8]) -> usize {
    tcp.recv(&mut Out::kernel(buffer), false).unwrap()
}

#[inline(never)]
fn server_send(tcp: &Arc<Tcp>, answer: &[u8]) -> usize {
    tcp.send(&mut In::kernel(answer), false).unwrap()
}

#[inline(never)]
fn server_turn(host: &Host, connections: &[Arc<Tcp>]) {
    server_input(host, &mut host.batch.lock().unwrap());
    let mut buffer = [0; 16384];
    for tcp in connections {
        let n = server_recv(tcp, &mut buffer);
        assert_eq!(n, 36);
        server_send(tcp, b"$3\r\nxxx\r\n");
    }
}

fn settle(a: &Host, b: &Host) {
    while carry(a, b) | carry(b, a) {
        for h in [a, b] {
            h.stack.input(&h.interface, &mut h.batch.lock().unwrap());
        }
    }
}

fn main() {
    let turns: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1000);
    let (server, client) = (Host::new(1), Host::new(2));
    let listener = Tcp::new(&server.stack, Family::V4);
    let at = Endpoint::new(Ip::from_v4_bytes([10, 0, 0, 1]), 6379);
    listener.bind(at).unwrap();
    listener.listen(128).unwrap();
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..30 {
        let tcp = Tcp::new(&client.stack, Family::V4);
        let _ = tcp.connect(at);
        settle(&client, &server);
        let accepted = listener.accept().unwrap();
        accepted.set_options(|o| o.nodelay = true);
        servers.push(accepted);
        clients.push(tcp);
    }
    let request = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000001\r\n";
    let started = std::time::Instant::now();
    for _ in 0..turns {
        for tcp in &clients {
            tcp.send(&mut In::kernel(&request[..36]), false).unwrap();
        }
        carry(&client, &server);
        server_turn(&server, &servers);
        carry(&server, &client);
        client.stack.input(&client.interface, &mut client.batch.lock().unwrap());
        let mut buffer = [0; 64];
        for tcp in &clients {
            assert_eq!(tcp.recv(&mut Out::kernel(&mut buffer), false), Ok(9));
        }
    }
    println!("{} requests, {:?} each, both ends", turns * 30, started.elapsed() / (turns as u32 * 30));
}
