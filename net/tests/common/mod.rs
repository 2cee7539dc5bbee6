//! Stacks in virtual time, joined by a wire that can lose, repeat, reorder, delay and corrupt frames.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use base::io::{In, Out};
use base::{Errno, Events};
use hal_core::device::{NetBuf, NetCaps};
use net::tcp::{Shutdown, Tcp};
use net::{Endpoint, Env, Family, Interface, Ip, Stack, Transmit};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

/// Splitmix64: small, seeded, good enough to choose what a wire does.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    pub fn percent(&mut self, p: u32) -> bool {
        self.next() % 100 < u64::from(p)
    }
}

pub struct TestEnv {
    clock: Arc<AtomicU64>,
    rng: Mutex<Rng>,
}

impl Env for TestEnv {
    fn now_ns(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }
    fn random(&self) -> u64 {
        self.rng.lock().unwrap().next()
    }
    fn set_timer(&self, _at_ns: u64) {} // the world asks `next_timer`
}

/// What the wire does to frames, in percent, and its delay.
#[derive(Clone, Copy)]
pub struct Weather {
    pub lose: u32,
    pub repeat: u32,
    pub corrupt: u32,
    pub delay: u64,
    pub jitter: u64,
}

pub const CALM: Weather = Weather { lose: 0, repeat: 0, corrupt: 0, delay: 50_000, jitter: 0 };
pub const STORM: Weather = Weather { lose: 5, repeat: 5, corrupt: 3, delay: 5 * MS, jitter: 10 * MS };

struct Flying {
    at: u64,
    to: usize,
    frame: Vec<u8>,
}

pub struct Wire {
    clock: Arc<AtomicU64>,
    state: Mutex<WireState>,
}

struct WireState {
    flying: Vec<Flying>,
    weather: Weather,
    rng: Rng,
    ports: usize,
    pub frames: u64,
    pub flushes: u64,
    /// A copy of every frame that was sent, if wanted.
    log: Option<Vec<Vec<u8>>>,
    /// TCP options of this kind are made no-ops in SYNs.
    strip: Option<u8>,
}

struct Port {
    wire: Arc<Wire>,
    index: usize,
    caps: NetCaps,
    queue: Mutex<VecDeque<NetBuf>>,
}

impl Transmit for Port {
    fn caps(&self) -> NetCaps {
        self.caps
    }
    fn push(&self, frame: NetBuf) {
        assert!(frame.headroom() >= 12, "no room for the device's header");
        self.queue.lock().unwrap().push_back(frame);
    }
    fn flush(&self) {
        let frames: Vec<_> = self.queue.lock().unwrap().drain(..).collect();
        let mut wire = self.wire.state.lock().unwrap();
        wire.flushes += 1;
        let now = self.wire.clock.load(Ordering::SeqCst);
        for frame in frames {
            for frame in as_on_the_wire(&frame, &self.caps) {
                wire.send(self.index, frame, now);
            }
        }
    }
}

impl WireState {
    fn send(&mut self, from: usize, mut frame: Vec<u8>, now: u64) {
        if let Some(kind) = self.strip {
            strip_option(&mut frame, kind);
        }
        assert!(frame.len() <= 1514, "a frame of {} bytes", frame.len());
        self.frames += 1;
        if let Some(log) = &mut self.log {
            log.push(frame.clone());
        }
        let w = self.weather;
        for to in (0..self.ports).filter(|p| *p != from) {
            if self.rng.percent(w.lose) {
                continue;
            }
            let copies = if self.rng.percent(w.repeat) { 2 } else { 1 };
            for _ in 0..copies {
                let mut frame = frame.clone();
                if self.rng.percent(w.corrupt) {
                    let at = self.rng.below(frame.len());
                    frame[at] ^= 1 << self.rng.below(8);
                }
                let jitter = if w.jitter > 0 { self.rng.next() % w.jitter } else { 0 };
                self.flying.push(Flying { at: now + w.delay + jitter, to, frame });
            }
        }
    }
}

/// Replaces an option of an IPv4 SYN by no-ops, as a middlebox might.
fn strip_option(f: &mut [u8], kind: u8) {
    if f.len() < 54 || f[12..14] != [8, 0] || f[23] != 6 || f[47] & 2 == 0 {
        return;
    }
    let end = 34 + usize::from(f[46] >> 4) * 4;
    let mut at = 54;
    while at < end && f[at] != 0 {
        let len = if f[at] == 1 { 1 } else { usize::from(f[at + 1]) };
        if f[at] == kind {
            f[at..at + len].fill(1);
        }
        at += len;
    }
    f[50..52].fill(0);
    let pseudo = sum(&f[26..34], 6 + (f.len() - 34) as u32);
    let value = !(sum(&f[34..], pseudo) as u16);
    f[50..52].copy_from_slice(&value.to_be_bytes());
}

fn sum(bytes: &[u8], mut sum: u32) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// What a device would put on the wire: segments cut, checksums filled in.
fn as_on_the_wire(buf: &NetBuf, caps: &NetCaps) -> Vec<Vec<u8>> {
    let frame = buf.bytes().to_vec();
    assert!(buf.more.is_empty());
    let Some(cut) = buf.offload.segment else {
        let mut frame = frame;
        if let Some((start, field)) = buf.offload.checksum {
            assert!(caps.tx_checksum);
            let (start, at) = (start as usize, start as usize + field as usize);
            let value = !(sum(&frame[start..], 0) as u16);
            frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        return vec![frame];
    };
    assert!(if cut.ipv6 { caps.tso6 } else { caps.tso4 });
    let (start, field) = buf.offload.checksum.expect("TSO needs the checksum offload");
    assert_eq!(field, 16);
    let (header, l4) = (cut.header_len as usize, start as usize);
    let payload = &frame[header..];
    let mut frames = Vec::new();
    for (i, piece) in payload.chunks(cut.size as usize).enumerate() {
        let mut f = frame[..header].to_vec();
        f.extend_from_slice(piece);
        let l4_len = f.len() - l4;
        let seq = u32::from_be_bytes(f[l4 + 4..l4 + 8].try_into().unwrap());
        let seq = seq.wrapping_add((i * cut.size as usize) as u32);
        f[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
        if (i + 1) * (cut.size as usize) < payload.len() {
            f[l4 + 13] &= !0x09; // PSH and FIN on the last only
        }
        let mut pseudo = 6 + l4_len as u32;
        if cut.ipv6 {
            let len = (f.len() - 54) as u16;
            f[18..20].copy_from_slice(&len.to_be_bytes());
            pseudo = sum(&f[22..54], pseudo);
        } else {
            let total = (f.len() - 14) as u16;
            f[16..18].copy_from_slice(&total.to_be_bytes());
            f[24..26].fill(0);
            let value = !(sum(&f[14..34], 0) as u16);
            f[24..26].copy_from_slice(&value.to_be_bytes());
            pseudo = sum(&f[26..34], pseudo);
        }
        f[l4 + 16..l4 + 18].fill(0);
        let value = !(sum(&f[l4..], pseudo) as u16);
        f[l4 + 16..l4 + 18].copy_from_slice(&value.to_be_bytes());
        frames.push(f);
    }
    frames
}

pub struct Host {
    pub stack: Arc<Stack>,
    pub interface: Arc<Interface>,
}

pub struct World {
    pub clock: Arc<AtomicU64>,
    pub wire: Arc<Wire>,
    pub hosts: Vec<Host>,
}

pub fn ip(s: &str) -> Ip {
    s.parse::<std::net::IpAddr>().unwrap().into()
}

pub fn at(s: &str, port: u16) -> Endpoint {
    Endpoint::new(ip(s), port)
}

pub fn caps(index: usize) -> NetCaps {
    NetCaps {
        mac: [2, 0, 0, 0, 0, index as u8 + 1],
        mtu: 1500,
        queues: 1,
        tx_checksum: index.is_multiple_of(2),
        tso4: index.is_multiple_of(2),
        tso6: index.is_multiple_of(2),
        lro: false,
    }
}

impl World {
    /// Hosts 10.0.0.1, 10.0.0.2, ... and fd00::1, ...; those with even index have offloads.
    pub fn new(seed: u64, hosts: usize, weather: Weather) -> Self {
        let mut world = Self::bare(seed, hosts, weather);
        for (i, host) in world.hosts.iter_mut().enumerate() {
            host.stack.add_address(&host.interface, ip(&format!("10.0.0.{}", i + 1)), 24);
            host.stack.add_address(&host.interface, ip(&format!("fd00::{}", i + 1)), 64);
        }
        world
    }

    pub fn bare(seed: u64, hosts: usize, weather: Weather) -> Self {
        let clock = Arc::new(AtomicU64::new(SECOND));
        let wire = Arc::new(Wire {
            clock: clock.clone(),
            state: Mutex::new(WireState {
                flying: Vec::new(),
                weather,
                rng: Rng(seed),
                ports: hosts,
                frames: 0,
                flushes: 0,
                log: None,
                strip: None,
            }),
        });
        let hosts = (0..hosts)
            .map(|index| {
                let env = TestEnv { clock: clock.clone(), rng: Mutex::new(Rng(seed ^ index as u64 ^ 0xabcd)) };
                let stack = Stack::new(Arc::new(env));
                let port = Port { wire: wire.clone(), index, caps: caps(index), queue: Mutex::default() };
                let interface = stack.add_interface(Arc::new(port)).unwrap();
                Host { stack, interface }
            })
            .collect();
        Self { clock, wire, hosts }
    }

    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }
    pub fn weather(&self, weather: Weather) {
        self.wire.state.lock().unwrap().weather = weather;
    }
    pub fn frames(&self) -> u64 {
        self.wire.state.lock().unwrap().frames
    }
    pub fn flushes(&self) -> u64 {
        self.wire.state.lock().unwrap().flushes
    }
    pub fn strip_options(&self, kind: u8) {
        self.wire.state.lock().unwrap().strip = Some(kind);
    }
    pub fn start_log(&self) {
        self.wire.state.lock().unwrap().log = Some(Vec::new());
    }
    pub fn take_log(&self) -> Vec<Vec<u8>> {
        self.wire.state.lock().unwrap().log.replace(Vec::new()).unwrap_or_default()
    }
    pub fn inject(&self, host: usize, frame: &[u8]) {
        let host = &self.hosts[host];
        let mut batch = vec![packet(frame)];
        host.stack.input(&host.interface, &mut batch);
    }

    /// Goes on to the next event: frames that arrive together come as one batch. False when nothing is due
    /// before `limit`.
    pub fn step(&self, limit: u64) -> bool {
        let mut next = u64::MAX;
        for f in &self.wire.state.lock().unwrap().flying {
            next = next.min(f.at);
        }
        for host in &self.hosts {
            next = next.min(host.stack.next_timer());
        }
        if next > limit {
            self.clock.fetch_max(limit, Ordering::SeqCst);
            return false;
        }
        let now = self.clock.fetch_max(next, Ordering::SeqCst).max(next);
        for (index, host) in self.hosts.iter().enumerate() {
            let mut batch = Vec::new();
            {
                let mut wire = self.wire.state.lock().unwrap();
                let mut i = 0;
                while i < wire.flying.len() {
                    if wire.flying[i].at <= now && wire.flying[i].to == index {
                        batch.push(packet(&wire.flying.remove(i).frame));
                    } else {
                        i += 1;
                    }
                }
            }
            if !batch.is_empty() {
                host.stack.input(&host.interface, &mut batch);
            }
            if host.stack.next_timer() <= now {
                host.stack.run_timers();
            }
        }
        true
    }

    /// Runs for this long.
    pub fn run(&self, ns: u64) {
        let limit = self.now() + ns;
        while self.step(limit) {}
    }

    /// Runs until `done`, at most this long; tells whether it was.
    pub fn run_until(&self, ns: u64, mut done: impl FnMut() -> bool) -> bool {
        let limit = self.now() + ns;
        loop {
            if done() {
                return true;
            }
            if !self.step(limit) {
                return done();
            }
        }
    }

    pub fn tcp(&self, host: usize) -> Arc<Tcp> {
        Tcp::new(&self.hosts[host].stack, Family::V6)
    }

    pub fn listen(&self, host: usize, local: Endpoint) -> Arc<Tcp> {
        let listener = self.tcp(host);
        listener.bind(local).unwrap();
        listener.listen(128).unwrap();
        listener
    }

    /// A connection from host 1 to a listener on host 0: the client's end and the server's.
    pub fn connect(&self, listener: &Arc<Tcp>, to: Endpoint) -> (Arc<Tcp>, Arc<Tcp>) {
        let client = self.tcp(1);
        assert_eq!(client.connect(to), Err(Errno::EINPROGRESS));
        assert!(self.run_until(60 * SECOND, || client.poll().contains(Events::OUT)), "no connection");
        assert_eq!(client.take_error(), None);
        let mut server = None;
        assert!(self.run_until(60 * SECOND, || {
            server = server.take().or_else(|| listener.accept().ok());
            server.is_some()
        }));
        (client, server.unwrap())
    }
}

pub fn packet(frame: &[u8]) -> NetBuf {
    let mut buf = NetBuf::new(frame.len());
    buf.set_len(frame.len());
    buf.bytes_mut().copy_from_slice(frame);
    buf
}

pub fn send(tcp: &Arc<Tcp>, data: &[u8]) -> base::Result<usize> {
    tcp.send(&mut In::kernel(data), false)
}

pub fn recv(tcp: &Arc<Tcp>, max: usize) -> base::Result<Vec<u8>> {
    let mut buffer = vec![0; max];
    let n = tcp.recv(&mut Out::kernel(&mut buffer), false)?;
    buffer.truncate(n);
    Ok(buffer)
}

/// One direction of a conversation: sends `data` in uneven pieces, then shuts; the other end checks it.
pub struct Transfer {
    from: Arc<Tcp>,
    to: Arc<Tcp>,
    data: Vec<u8>,
    sent: usize,
    got: usize,
    shut: bool,
    pub done: bool,
    rng: Rng,
}

impl Transfer {
    pub fn new(from: &Arc<Tcp>, to: &Arc<Tcp>, len: usize, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let data = (0..len).map(|_| rng.next() as u8).collect();
        Self { from: from.clone(), to: to.clone(), data, sent: 0, got: 0, shut: false, done: false, rng }
    }

    /// Moves what can move; true when everything has arrived and the end was seen.
    pub fn turn(&mut self) -> bool {
        while self.sent < self.data.len() {
            let n = (1 + self.rng.below(20_000)).min(self.data.len() - self.sent);
            match send(&self.from, &self.data[self.sent..self.sent + n]) {
                Ok(n) => self.sent += n,
                Err(Errno::EAGAIN) => break,
                Err(e) => panic!("send: {e:?} after {}", self.sent),
            }
        }
        if self.sent == self.data.len() && !self.shut {
            self.from.shutdown(Shutdown::Write).unwrap();
            self.shut = true;
        }
        while !self.done {
            let max = 1 + self.rng.below(30_000);
            match recv(&self.to, max) {
                Ok(bytes) if bytes.is_empty() => {
                    assert_eq!(self.got, self.data.len(), "the stream ended early");
                    self.done = true;
                }
                Ok(bytes) => {
                    assert!(self.data[self.got..].starts_with(&bytes), "wrong bytes at {}", self.got);
                    self.got += bytes.len();
                }
                Err(Errno::EAGAIN) => break,
                Err(e) => panic!("recv: {e:?} after {}", self.got),
            }
        }
        self.done
    }
}
