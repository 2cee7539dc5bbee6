//! Finding the sockets of a datagram by its port.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use base::{Errno, Result, RwLock};

use super::{Options, Udp};
use crate::addr::{Endpoint, FlowKey, Ip};
use crate::packet::Meta;
use crate::stack::Stack;

struct Port {
    ip: Ip,
    v6_only: bool,
    reuse_address: bool,
    reuse_port: bool,
    socket: Weak<Udp>,
}

impl Port {
    fn takes(&self, dst: Ip) -> u32 {
        if self.ip == dst {
            16
        } else if self.ip == Ip::ANY4 && dst.is_v4() {
            8
        } else if self.ip == Ip::ANY && !(self.v6_only && dst.is_v4()) {
            4
        } else {
            0
        }
    }
}

pub(crate) struct Table(RwLock<BTreeMap<u16, Vec<Port>>>);

impl Table {
    pub const fn new() -> Self {
        Self(RwLock::new(BTreeMap::new()))
    }

    pub(super) fn bind(&self, stack: &Stack, udp: &Arc<Udp>, local: Endpoint, options: &Options) -> Result<u16> {
        let mut ports = self.0.write();
        let new = Port {
            ip: local.ip,
            v6_only: options.v6_only,
            reuse_address: options.reuse_address,
            reuse_port: options.reuse_port,
            socket: Arc::downgrade(udp),
        };
        if local.port != 0 {
            let list = ports.entry(local.port).or_default();
            list.retain(|p| p.socket.strong_count() > 0);
            let clash = |p: &Port| {
                (p.takes(local.ip) > 0 || new.takes(p.ip) > 0)
                    && !(p.reuse_address && options.reuse_address)
                    && !(p.reuse_port && options.reuse_port)
            };
            if list.iter().any(clash) {
                return Err(Errno::EADDRINUSE);
            }
            list.push(new);
            return Ok(local.port);
        }
        let first = (stack.env().random() >> 8) as u32 % 28232;
        for i in 0..28232 {
            let port = 32768 + ((first + i) % 28232) as u16;
            let list = ports.entry(port).or_default();
            list.retain(|p| p.socket.strong_count() > 0);
            if list.is_empty() {
                list.push(new);
                return Ok(port);
            }
        }
        Err(Errno::EADDRINUSE)
    }

    pub(super) fn rename(&self, udp: &Arc<Udp>, port: u16, ip: Ip) {
        if let Some(list) = self.0.write().get_mut(&port) {
            for p in list.iter_mut().filter(|p| p.socket.as_ptr() == Arc::as_ptr(udp)) {
                p.ip = ip;
            }
        }
    }

    pub(super) fn unbind(&self, udp: &Arc<Udp>, port: u16) {
        let mut ports = self.0.write();
        if let Some(list) = ports.get_mut(&port) {
            list.retain(|p| p.socket.strong_count() > 0 && p.socket.as_ptr() != Arc::as_ptr(udp));
            if list.is_empty() {
                ports.remove(&port);
            }
        }
    }

    /// The sockets for a datagram: one for a unicast destination, all for the rest.
    pub(super) fn find(&self, meta: &Meta, port: u16, from: Endpoint, all: bool, secret: u64) -> Vec<Arc<Udp>> {
        let ports = self.0.read();
        let Some(list) = ports.get(&port) else {
            return Vec::new();
        };
        let mut best = 0;
        let mut found = Vec::new();
        for p in list {
            let mut score = p.takes(meta.dst);
            if score == 0 {
                continue;
            }
            let Some(udp) = p.socket.upgrade() else { continue };
            match udp.score(meta, from) {
                0 => continue,
                s => score += 32 * s,
            }
            if all {
                found.push(udp);
            } else if score > best {
                best = score;
                found.clear();
                found.push(udp);
            } else if score == best && p.reuse_port {
                found.push(udp);
            }
        }
        if !all && found.len() > 1 {
            let key = FlowKey { local: Endpoint::new(meta.dst, port), remote: from };
            let pick = key.hash([secret, !secret]) as usize % found.len();
            found = alloc::vec![found.swap_remove(pick)];
        }
        found
    }

    /// Sockets bound to this port, for errors.
    pub fn on_port(&self, port: u16) -> Vec<Arc<Udp>> {
        self.0.read().get(&port).map(|l| l.iter().filter_map(|p| p.socket.upgrade()).collect()).unwrap_or_default()
    }

    /// All bound sockets, for /proc/net/udp.
    pub fn all(&self) -> Vec<Arc<Udp>> {
        self.0.read().values().flatten().filter_map(|p| p.socket.upgrade()).collect()
    }
}
