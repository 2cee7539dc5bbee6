//! Finding the socket of a segment: connections by their four-tuple (sharded, keyed hash), listeners and
//! reserved ports by port, and connections in TIME-WAIT, which need no socket any more.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use base::{Errno, Result, RwLock, SpinLock};
use hashbrown::HashMap;
use hashbrown::HashTable;

use super::options::Options;
use super::segment::{Segment, before, flag};
use super::socket::Tcp;
use super::tcb::{Cx, Tcb};
use crate::addr::{Endpoint, FlowKey, Ip};
use crate::stack::{Stack, Tx};
use crate::timers::{NEVER, Timed, TimerSlot};

const SHARDS: usize = 64;
/// Ports that are chosen, as Linux's ip_local_port_range.
const EPHEMERAL: core::ops::RangeInclusive<u16> = 32768..=60999;
const TIME_WAIT: u64 = 60_000_000_000;
/// Most connections in TIME-WAIT; beyond, the oldest is forgotten early.
const MAX_TIME_WAIT: usize = 16384;

/// What is left of a connection in TIME-WAIT.
struct Waiting {
    rcv_nxt: u32,
    snd_nxt: u32,
    until: u64,
}

enum Slot {
    Flow(Arc<Tcp>),
    Wait(Box<Waiting>),
}

struct Entry {
    key: FlowKey,
    slot: Slot,
}

/// A reserved or listening port.
struct Port {
    ip: Ip,
    v6_only: bool,
    reuse_address: bool,
    reuse_port: bool,
    listening: bool,
    socket: Weak<Tcp>,
}

/// Where to take a segment.
pub(crate) enum Found {
    Flow(Arc<Tcp>),
    /// Answered, or to be dropped.
    Done,
    /// A new connection may take the place of one in TIME-WAIT.
    Nothing,
}

pub(crate) struct Tables {
    secret: [u64; 2],
    shards: Box<[SpinLock<HashTable<Entry>>]>,
    ports: RwLock<HashMap<u16, Vec<Port>>>,
    waiting: SpinLock<VecDeque<(u64, FlowKey)>>,
    timer: TimerSlot,
}

impl Tables {
    pub fn new(secret: [u64; 2]) -> Arc<Self> {
        Arc::new(Self {
            secret,
            shards: (0..SHARDS).map(|_| SpinLock::new(HashTable::new())).collect(),
            ports: RwLock::new(HashMap::default()),
            waiting: SpinLock::new(VecDeque::new()),
            timer: TimerSlot::new(),
        })
    }

    #[inline]
    fn shard(&self, key: &FlowKey) -> (u64, &SpinLock<HashTable<Entry>>) {
        let hash = key.hash(self.secret);
        // The table uses the top seven bits and the low ones.
        (hash, &self.shards[(hash >> 40) as usize % SHARDS])
    }

    /// Finds the connection of a segment, and answers for those in TIME-WAIT.
    #[inline]
    pub fn find(&self, cx: &Cx<'_>, key: &FlowKey, seg: &Segment, tx: &mut Tx) -> Found {
        let (hash, shard) = self.shard(key);
        let shard = shard.lock();
        let Some(entry) = shard.find(hash, |e| e.key == *key) else {
            return Found::Nothing;
        };
        match &entry.slot {
            Slot::Flow(tcp) => Found::Flow(tcp.clone()),
            Slot::Wait(w) => {
                let (rcv_nxt, snd_nxt) = (w.rcv_nxt, w.snd_nxt);
                drop(shard);
                if seg.has(flag::RST) {
                    return Found::Done; // RFC 1337
                }
                if seg.has(flag::SYN) && !seg.has(flag::ACK) && before(rcv_nxt, seg.seq) {
                    self.remove(*key);
                    return Found::Nothing;
                }
                if seg.span() > 0 || seg.seq != rcv_nxt {
                    cx.stack.tcp_bare(key, snd_nxt, rcv_nxt, flag::ACK, cx.now, tx);
                }
                Found::Done
            }
        }
    }

    /// The connection with this key.
    pub fn get(&self, key: &FlowKey) -> Option<Arc<Tcp>> {
        let (hash, shard) = self.shard(key);
        match &shard.lock().find(hash, |e| e.key == *key)?.slot {
            Slot::Flow(tcp) => Some(tcp.clone()),
            Slot::Wait(_) => None,
        }
    }

    /// Enters a connection; false if the key is taken.
    pub fn insert(&self, key: FlowKey, tcp: &Arc<Tcp>) -> bool {
        let (hash, shard) = self.shard(&key);
        let mut shard = shard.lock();
        if shard.find(hash, |e| e.key == key).is_some() {
            return false;
        }
        let slot = Slot::Flow(tcp.clone());
        shard.insert_unique(hash, Entry { key, slot }, |e| e.key.hash(self.secret));
        true
    }

    pub fn remove(&self, key: FlowKey) {
        let (hash, shard) = self.shard(&key);
        let mut table = shard.lock();
        if let Ok(entry) = table.find_entry(hash, |e| e.key == key) {
            let (entry, _) = entry.remove();
            drop(table);
            drop(entry);
        }
    }

    /// Leaves only what TIME-WAIT needs of a connection.
    pub fn time_wait(self: &Arc<Self>, cx: &Cx<'_>, tcb: &Tcb) {
        let until = cx.now + TIME_WAIT;
        let (hash, shard) = self.shard(&tcb.key);
        let mut old = None;
        if let Some(entry) = shard.lock().find_mut(hash, |e| e.key == tcb.key) {
            let wait = Waiting { rcv_nxt: tcb.rcv_nxt, snd_nxt: tcb.nxt, until };
            old = Some(core::mem::replace(&mut entry.slot, Slot::Wait(Box::new(wait))));
        }
        drop(old);
        let mut waiting = self.waiting.lock();
        waiting.push_back((until, tcb.key));
        let oldest = (waiting.len() > MAX_TIME_WAIT).then(|| waiting.pop_front()).flatten();
        drop(waiting);
        if let Some((until, key)) = oldest {
            self.end_wait(key, until);
        }
        cx.stack.timers().set(cx.stack.env(), self, until);
    }

    fn end_wait(&self, key: FlowKey, until: u64) {
        let (hash, shard) = self.shard(&key);
        let mut table = shard.lock();
        if let Ok(entry) =
            table.find_entry(hash, |e| e.key == key && matches!(&e.slot, Slot::Wait(w) if w.until == until))
        {
            entry.remove();
        }
    }

    /// Chooses the key of an outgoing connection and enters it.
    pub fn claim(
        &self,
        stack: &Stack,
        local: Endpoint,
        remote: Endpoint,
        tcp: &Arc<Tcp>,
        fixed: bool,
    ) -> Result<FlowKey> {
        if fixed {
            let key = FlowKey { local, remote };
            return if self.insert(key, tcp) { Ok(key) } else { Err(Errno::EADDRNOTAVAIL) };
        }
        let count = u32::from(EPHEMERAL.end() - EPHEMERAL.start()) + 1;
        let first = (stack.env().random() >> 8) as u32 % count;
        for i in 0..count {
            let port = EPHEMERAL.start() + ((first + i * 2 + i / (count / 2)) % count) as u16;
            if self.ports.read().contains_key(&port) {
                continue; // somebody listens there or has reserved it
            }
            let key = FlowKey { local: Endpoint::new(local.ip, port), remote };
            if key.local != key.remote && self.insert(key, tcp) {
                return Ok(key);
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    }

    /// Reserves a local port; 0 chooses one.
    pub fn bind(&self, stack: &Stack, tcp: &Arc<Tcp>, local: Endpoint, options: &Options) -> Result<u16> {
        let mut ports = self.ports.write();
        let entry = Port {
            ip: local.ip,
            v6_only: options.v6_only,
            reuse_address: options.reuse_address,
            reuse_port: options.reuse_port,
            listening: false,
            socket: Arc::downgrade(tcp),
        };
        if local.port != 0 {
            let list = ports.entry(local.port).or_default();
            list.retain(|p| p.socket.strong_count() > 0);
            if list.iter().any(|p| conflicts(p, &entry)) {
                return Err(Errno::EADDRINUSE);
            }
            list.push(entry);
            return Ok(local.port);
        }
        let count = u32::from(EPHEMERAL.end() - EPHEMERAL.start()) + 1;
        let first = (stack.env().random() >> 8) as u32 % count;
        for i in 0..count {
            let port = EPHEMERAL.start() + ((first + i) % count) as u16;
            let list = ports.entry(port).or_default();
            list.retain(|p| p.socket.strong_count() > 0);
            if list.is_empty() {
                list.push(entry);
                return Ok(port);
            }
        }
        Err(Errno::EADDRINUSE)
    }

    pub fn unbind(&self, tcp: &Arc<Tcp>, port: u16) {
        let mut ports = self.ports.write();
        if let Some(list) = ports.get_mut(&port) {
            list.retain(|p| p.socket.strong_count() > 0 && p.socket.as_ptr() != Arc::as_ptr(tcp));
            if list.is_empty() {
                ports.remove(&port);
            }
        }
    }

    pub fn listen(&self, tcp: &Arc<Tcp>, local: Endpoint, options: &Options) -> Result<()> {
        let mut ports = self.ports.write();
        let list = ports.entry(local.port).or_default();
        let this = Arc::as_ptr(tcp);
        let taken = |p: &Port| {
            p.listening
                && p.socket.as_ptr() != this
                && overlaps(p.ip, p.v6_only, local.ip, options.v6_only)
                && !(p.reuse_port && options.reuse_port)
        };
        if list.iter().any(taken) {
            return Err(Errno::EADDRINUSE);
        }
        match list.iter_mut().find(|p| p.socket.as_ptr() == this) {
            Some(port) => {
                port.listening = true;
                port.v6_only = options.v6_only;
            }
            None => list.push(Port {
                ip: local.ip,
                v6_only: options.v6_only,
                reuse_address: options.reuse_address,
                reuse_port: options.reuse_port,
                listening: true,
                socket: Arc::downgrade(tcp),
            }),
        }
        Ok(())
    }

    pub fn unlisten(&self, tcp: &Arc<Tcp>, local: Endpoint) {
        if let Some(list) = self.ports.write().get_mut(&local.port) {
            for p in list.iter_mut().filter(|p| p.socket.as_ptr() == Arc::as_ptr(tcp)) {
                p.listening = false;
            }
        }
    }

    /// The listener for a new connection: the exact address before any address, and of several that share the
    /// port one by the hash of the flow.
    pub fn listener(&self, key: &FlowKey) -> Option<Arc<Tcp>> {
        let ports = self.ports.read();
        let list = ports.get(&key.local.port)?;
        let score = |p: &Port| {
            if !p.listening || p.socket.strong_count() == 0 {
                0
            } else if p.ip == key.local.ip {
                3
            } else if p.ip == Ip::ANY4 && key.local.ip.is_v4() {
                2
            } else if p.ip == Ip::ANY && !(p.v6_only && key.local.ip.is_v4()) {
                1
            } else {
                0
            }
        };
        let best = list.iter().map(score).max().filter(|s| *s > 0)?;
        let count = list.iter().filter(|p| score(p) == best).count();
        let pick = if count > 1 { (key.hash(self.secret) >> 20) as usize % count } else { 0 };
        list.iter().filter(|p| score(p) == best).nth(pick)?.socket.upgrade()
    }

    /// All connections and listeners, for /proc/net/tcp.
    pub fn all(&self) -> Vec<Arc<Tcp>> {
        let mut all: Vec<Arc<Tcp>> =
            self.ports.read().values().flatten().filter(|p| p.listening).filter_map(|p| p.socket.upgrade()).collect();
        for shard in &self.shards {
            all.extend(shard.lock().iter().filter_map(|e| match &e.slot {
                Slot::Flow(tcp) => Some(tcp.clone()),
                Slot::Wait(_) => None,
            }));
        }
        all
    }

    /// How many connections there are, and how many of them wait in TIME-WAIT.
    pub fn count(&self) -> (usize, usize) {
        let mut total = (0, 0);
        for shard in &self.shards {
            for e in shard.lock().iter() {
                total.0 += 1;
                total.1 += usize::from(matches!(e.slot, Slot::Wait(_)));
            }
        }
        total
    }
}

fn overlaps(a: Ip, a_only: bool, b: Ip, b_only: bool) -> bool {
    let covers =
        |any: Ip, only: bool, other: Ip| any == Ip::ANY4 && other.is_v4() || any == Ip::ANY && !(only && other.is_v4());
    a == b || covers(a, a_only, b) || covers(b, b_only, a)
}

fn conflicts(old: &Port, new: &Port) -> bool {
    overlaps(old.ip, old.v6_only, new.ip, new.v6_only)
        && !(old.reuse_port && new.reuse_port)
        && !(old.reuse_address && new.reuse_address && !old.listening)
}

impl Timed for Tables {
    fn slot(&self) -> &TimerSlot {
        &self.timer
    }

    fn on_timer(self: Arc<Self>, _stack: &Arc<Stack>, now: u64, _tx: &mut Tx) -> u64 {
        loop {
            let mut waiting = self.waiting.lock();
            match waiting.front() {
                None => return NEVER,
                Some((until, _)) if *until > now => return *until,
                Some(_) => {}
            }
            let Some((until, key)) = waiting.pop_front() else {
                return NEVER;
            };
            drop(waiting);
            self.end_wait(key, until);
        }
    }
}
