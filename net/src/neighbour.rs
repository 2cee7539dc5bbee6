//! The neighbour cache of one interface: which hardware address an IP address on the link has, for ARP and
//! NDP alike. Connections copy the address into their header and look here again only when the stack's epoch
//! has changed, so nothing here is hot.

use alloc::vec::Vec;

use base::SpinLock;
use hal_core::device::NetBuf;
use hashbrown::HashMap;

use crate::addr::Ip;

/// Most entries: a scan of a big subnet must not fill the memory.
const MAX_ENTRIES: usize = 1024;
/// Most packets that wait for one address.
const MAX_WAITING: usize = 32;
/// How often an address is asked for before the packets are given up.
const TRIES: u8 = 3;
const SECOND: u64 = 1_000_000_000;
/// After this time without news an entry is asked for again.
const REACHABLE: u64 = 30 * SECOND;
/// After this time without news an entry goes.
const FORGET: u64 = 300 * SECOND;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No address yet.
    Incomplete,
    /// Known.
    Reachable,
    /// Known, and being asked for again.
    Probe,
}

struct Neighbour {
    state: State,
    mac: [u8; 6],
    /// Last news or last question, ns.
    updated: u64,
    asked: u8,
    waiting: Vec<NetBuf>,
}

/// Answer of [`Neighbours::resolve`].
pub(crate) enum Resolution {
    /// Send the frame to this hardware address.
    Known([u8; 6], NetBuf),
    /// The packet waits; send a question.
    Ask,
    /// The packet waits for a question that was sent.
    Wait,
}

/// One entry, for /proc/net/arp and netlink.
#[derive(Clone, Copy, Debug)]
pub struct NeighbourInfo {
    /// Address.
    pub ip: Ip,
    /// Hardware address, once known.
    pub mac: Option<[u8; 6]>,
}

/// What the periodic look found to do.
#[derive(Default)]
pub(crate) struct Upkeep {
    /// Ask for these: by broadcast, or from the known address.
    pub ask: Vec<(Ip, Option<[u8; 6]>)>,
    /// These packets cannot be delivered.
    pub failed: Vec<NetBuf>,
    /// An entry that connections may have copied is gone.
    pub changed: bool,
    /// When to look again, if at all.
    pub next: Option<u64>,
}

pub(crate) struct Neighbours(SpinLock<HashMap<Ip, Neighbour>>);

impl Neighbours {
    pub(crate) fn new() -> Self {
        Self(SpinLock::new(HashMap::default()))
    }

    /// The hardware address, if it is known.
    pub(crate) fn lookup(&self, ip: Ip) -> Option<[u8; 6]> {
        let map = self.0.lock();
        map.get(&ip).filter(|n| n.state != State::Incomplete).map(|n| n.mac)
    }

    /// Finds the address for a packet or lets the packet wait for it. The oldest waiting packet is
    /// dropped when there are too many.
    pub(crate) fn resolve(&self, ip: Ip, packet: NetBuf, now: u64) -> Resolution {
        let mut map = self.0.lock();
        if let Some(n) = map.get_mut(&ip) {
            if n.state != State::Incomplete {
                return Resolution::Known(n.mac, packet);
            }
            if n.waiting.len() >= MAX_WAITING {
                n.waiting.remove(0);
            }
            n.waiting.push(packet);
            return Resolution::Wait;
        }
        make_room(&mut map);
        map.insert(
            ip,
            Neighbour { state: State::Incomplete, mac: [0; 6], updated: now, asked: 1, waiting: alloc::vec![packet] },
        );
        Resolution::Ask
    }

    /// Takes news of a neighbour. With `create`, also of one that nobody asked for. Returns the packets that
    /// waited for it, and whether connections must look again.
    pub(crate) fn learn(&self, ip: Ip, mac: [u8; 6], create: bool, now: u64) -> (Vec<NetBuf>, bool) {
        if mac[0] & 1 != 0 || mac == [0; 6] || !ip.is_unicast() {
            return (Vec::new(), false);
        }
        let mut map = self.0.lock();
        if let Some(n) = map.get_mut(&ip) {
            let changed = n.state == State::Incomplete || n.mac != mac;
            n.state = State::Reachable;
            n.mac = mac;
            n.updated = now;
            n.asked = 0;
            return (core::mem::take(&mut n.waiting), changed);
        }
        if create {
            make_room(&mut map);
            map.insert(ip, Neighbour { state: State::Reachable, mac, updated: now, asked: 0, waiting: Vec::new() });
        }
        (Vec::new(), create)
    }

    /// The periodic look: repeats questions, checks old entries, forgets dead ones.
    pub(crate) fn upkeep(&self, now: u64) -> Upkeep {
        let mut todo = Upkeep::default();
        let mut map = self.0.lock();
        map.retain(|ip, n| {
            let age = now.saturating_sub(n.updated);
            match n.state {
                State::Reachable if age >= REACHABLE => {
                    n.state = State::Probe;
                    n.asked = 1;
                    todo.ask.push((*ip, Some(n.mac)));
                }
                State::Incomplete | State::Probe if age >= SECOND * u64::from(n.asked) => {
                    if n.state == State::Incomplete && n.asked >= TRIES {
                        todo.failed.append(&mut n.waiting);
                        return false;
                    }
                    if n.state == State::Probe && (n.asked >= TRIES || age >= FORGET) {
                        todo.changed = true;
                        return false;
                    }
                    n.asked += 1;
                    todo.ask.push((*ip, (n.state == State::Probe && n.asked < TRIES).then_some(n.mac)));
                }
                _ => {}
            }
            let due = match n.state {
                State::Reachable => n.updated + REACHABLE,
                State::Probe if n.asked == 1 => now + SECOND,
                _ => now + SECOND,
            };
            todo.next = Some(todo.next.map_or(due, |t| t.min(due)));
            true
        });
        todo
    }

    pub(crate) fn list(&self) -> Vec<NeighbourInfo> {
        let map = self.0.lock();
        map.iter()
            .map(|(ip, n)| NeighbourInfo { ip: *ip, mac: (n.state != State::Incomplete).then_some(n.mac) })
            .collect()
    }
}

fn make_room(map: &mut HashMap<Ip, Neighbour>) {
    if map.len() >= MAX_ENTRIES
        && let Some(oldest) = map.iter().min_by_key(|(_, n)| n.updated).map(|(ip, _)| *ip)
    {
        map.remove(&oldest);
    }
}
