//! A UDP socket as the kernel's socket layer uses it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use base::io::In;
use base::{Errno, Events, Result, SpinLock, Subject};
use hal_core::device::{NetBuf, Offload};

use super::HEADER;
use crate::addr::{Endpoint, Family, Ip};
use crate::checksum;
use crate::datagram::{Queue, Received, duplicate};
use crate::packet::{Meta, protocol};
use crate::stack::{Stack, Tx};
use crate::tcp;
use crate::transmit::SendIp;

/// Largest payload.
pub const MAX_PAYLOAD: usize = 65535 - HEADER - 20;

/// Options, with Linux's defaults.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// SO_BROADCAST.
    pub broadcast: bool,
    /// SO_REUSEADDR.
    pub reuse_address: bool,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// IPV6_V6ONLY.
    pub v6_only: bool,
    /// IP_TTL or IPV6_UNICAST_HOPS.
    pub ttl: u8,
    /// IP_TOS or IPV6_TCLASS.
    pub tos: u8,
    /// IP_MULTICAST_TTL or IPV6_MULTICAST_HOPS.
    pub multicast_ttl: u8,
    /// IP_MULTICAST_LOOP.
    pub multicast_loop: bool,
    /// IP_MULTICAST_IF: interface index, 0 for any.
    pub multicast_interface: u32,
    /// SO_BINDTODEVICE: interface index, 0 for any.
    pub device: u32,
    /// IP_MTU_DISCOVER: never fragment.
    pub dont_fragment: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            broadcast: false,
            reuse_address: false,
            reuse_port: false,
            v6_only: false,
            ttl: 64,
            tos: 0,
            multicast_ttl: 1,
            multicast_loop: true,
            multicast_interface: 0,
            device: 0,
            dont_fragment: false,
        }
    }
}

struct Inner {
    options: Options,
    local: Option<Endpoint>,
    /// The program bound a certain address; else `connect` chooses it, and chooses anew each time.
    keeps_address: bool,
    remote: Option<Endpoint>,
    queue: Queue,
    error: Option<Errno>,
    groups: Vec<(Ip, u32)>,
    read_shut: bool,
    write_shut: bool,
}

/// A UDP socket. Calls do not block: `EAGAIN` says wait for [`Udp::subject`].
pub struct Udp {
    stack: Arc<Stack>,
    family: Family,
    inner: SpinLock<Inner>,
    subject: Subject,
    ready: AtomicU32,
}

impl Udp {
    /// A new socket.
    pub fn new(stack: &Arc<Stack>, family: Family) -> Arc<Self> {
        Arc::new(Self {
            stack: stack.clone(),
            family,
            inner: SpinLock::new(Inner {
                options: Options::default(),
                local: None,
                keeps_address: false,
                remote: None,
                queue: Queue::new(),
                error: None,
                groups: Vec::new(),
                read_shut: false,
                write_shut: false,
            }),
            subject: Subject::new(),
            ready: AtomicU32::new(Events::OUT.bits() | Events::WRNORM.bits()),
        })
    }

    /// The observers of this socket.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }
    /// Its family.
    pub fn family(&self) -> Family {
        self.family
    }
    /// Readiness now.
    pub fn poll(&self) -> Events {
        Events::from_bits_truncate(self.ready.load(Ordering::Acquire))
    }

    fn settle(&self, inner: &Inner) {
        let mut e = Events::OUT | Events::WRNORM;
        if !inner.queue.is_empty() || inner.read_shut {
            e |= Events::IN | Events::RDNORM;
        }
        if inner.read_shut {
            e |= Events::RDHUP;
        }
        if inner.read_shut && inner.write_shut {
            e |= Events::HUP;
        }
        if inner.error.is_some() {
            e |= Events::ERR;
        }
        self.ready.store(e.bits(), Ordering::Release);
    }

    fn any(&self) -> Ip {
        if self.family == Family::V4 { Ip::ANY4 } else { Ip::ANY }
    }

    /// Gives the socket a local address. Port 0: one is chosen.
    pub fn bind(self: &Arc<Self>, local: Endpoint) -> Result<()> {
        if self.family == Family::V4 && !local.ip.is_v4() {
            return Err(Errno::EAFNOSUPPORT);
        }
        if !local.ip.is_unspecified()
            && !local.ip.is_multicast()
            && !self.stack.is_local(local.ip)
            && !self.stack.interfaces().any(|i| i.is_broadcast(local.ip))
        {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let mut inner = self.inner.lock();
        if inner.local.is_some() {
            return Err(Errno::EINVAL);
        }
        let port = self.stack.udp().bind(&self.stack, self, local, &inner.options)?;
        inner.local = Some(Endpoint::new(local.ip, port));
        inner.keeps_address = !local.ip.is_unspecified();
        Ok(())
    }

    fn bound(self: &Arc<Self>) -> Result<Endpoint> {
        if let Some(local) = self.inner.lock().local {
            return Ok(local);
        }
        match self.bind(Endpoint::new(self.any(), 0)) {
            Ok(()) | Err(Errno::EINVAL) => self.inner.lock().local.ok_or(Errno::EINVAL),
            Err(e) => Err(e),
        }
    }

    /// Sets the peer; `None` dissolves the association.
    pub fn connect(self: &Arc<Self>, remote: Option<Endpoint>) -> Result<()> {
        let Some(mut remote) = remote else {
            let mut inner = self.inner.lock();
            inner.remote = None;
            self.move_to(&mut inner, self.any());
            return Ok(());
        };
        if self.family == Family::V4 && !remote.ip.is_v4() {
            return Err(Errno::EAFNOSUPPORT);
        }
        if remote.ip.is_unspecified() {
            remote.ip = if remote.ip.is_v4() || self.family == Family::V4 { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 };
        }
        let options = self.options();
        if remote.ip == Ip::BROADCAST && !options.broadcast {
            return Err(Errno::EACCES);
        }
        let source = self.stack.source_for(remote.ip, options.device)?;
        self.bound()?;
        let mut inner = self.inner.lock();
        self.move_to(&mut inner, source);
        inner.remote = Some(remote);
        Ok(())
    }

    /// Changes the local address, unless the program chose it.
    fn move_to(self: &Arc<Self>, inner: &mut Inner, ip: Ip) {
        if inner.keeps_address {
            return;
        }
        if let Some(local) = &mut inner.local
            && local.ip != ip
        {
            local.ip = ip;
            let port = local.port;
            self.stack.udp().rename(self, port, ip);
        }
    }

    /// Sends one datagram of all bytes of `from`, to the peer or to `to`, from `source` if given (IP_PKTINFO).
    pub fn send(self: &Arc<Self>, from: &mut In<'_>, to: Option<Endpoint>, source: Option<(Ip, u32)>) -> Result<usize> {
        let len = from.remaining();
        let (options, remote) = {
            let mut inner = self.inner.lock();
            if let Some(e) = inner.error.take() {
                self.settle(&inner);
                return Err(e);
            }
            if inner.write_shut {
                return Err(Errno::EPIPE);
            }
            (inner.options, inner.remote)
        };
        let mut to = to.or(remote).ok_or(Errno::EDESTADDRREQ)?;
        if len > MAX_PAYLOAD {
            return Err(Errno::EMSGSIZE);
        }
        if to.port == 0 {
            return Err(Errno::EINVAL);
        }
        if self.family == Family::V4 && !to.ip.is_v4() {
            return Err(Errno::EAFNOSUPPORT);
        }
        if to.ip.is_unspecified() {
            to.ip = if to.ip.is_v4() { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 };
        }
        let local = self.bound()?;
        if to.ip.is_v4() && !local.ip.is_v4() && local.ip != Ip::ANY || !to.ip.is_v4() && local.ip.is_v4() {
            return Err(Errno::ENETUNREACH);
        }
        let mut device = options.device;
        if to.ip.is_multicast() && options.multicast_interface != 0 {
            device = options.multicast_interface;
        }
        if let Some((_, index)) = source
            && index != 0
        {
            device = index;
        }
        let hop = self.stack.route(to.ip, (device != 0).then_some(device))?;
        if !options.broadcast && hop.interface.is_broadcast(to.ip) {
            return Err(Errno::EACCES);
        }
        let mut src = source.map_or(local.ip, |s| s.0);
        if src.is_unspecified() {
            src = local.ip;
        }
        if src.is_unspecified() || src.is_multicast() {
            src = if hop.interface.is_loopback() {
                to.ip
            } else {
                hop.interface.source_for(to.ip).ok_or(Errno::ENETUNREACH)?
            };
        } else if source.is_some() && !self.stack.is_local(src) {
            return Err(Errno::EINVAL);
        }
        let header = if to.ip.is_v4() { 20 } else { 40 };
        let fits = header + HEADER + len <= hop.interface.mtu(to.ip.is_v4());
        if !fits && options.dont_fragment {
            return Err(Errno::EMSGSIZE);
        }
        let mut buf = NetBuf::new(HEADER + len);
        buf.set_len(HEADER + len);
        let mut at = HEADER;
        while at < HEADER + len {
            match from.read(&mut buf.bytes_mut()[at..])? {
                0 => return Err(Errno::EFAULT),
                n => at += n,
            }
        }
        let b = buf.bytes_mut();
        b[0..2].copy_from_slice(&local.port.to_be_bytes());
        b[2..4].copy_from_slice(&to.port.to_be_bytes());
        b[4..6].copy_from_slice(&((HEADER + len) as u16).to_be_bytes());
        let pseudo = checksum::add_len(checksum::pseudo(src, to.ip, protocol::UDP), HEADER + len);
        let mut offload = Offload::default();
        if hop.interface.is_loopback() {
            offload.checksum_valid = true;
        } else if hop.interface.caps.tx_checksum && fits {
            b[6..8].copy_from_slice(&checksum::fold(pseudo).to_le_bytes());
            offload.checksum = Some((0, 6));
        } else {
            let sum = checksum::finish(checksum::add(pseudo, b));
            b[6..8].copy_from_slice(if sum == [0, 0] { &[0xff, 0xff] } else { &sum });
        }
        buf.offload = offload;
        let how = SendIp {
            src,
            dst: to.ip,
            protocol: protocol::UDP,
            ttl: if to.ip.is_multicast() { options.multicast_ttl } else { options.ttl },
            tos: options.tos,
            dont_fragment: options.dont_fragment,
        };
        let now = self.stack.env().now_ns();
        let mut tx = Tx::new();
        let to_us_too = if to.ip.is_multicast() {
            options.multicast_loop && !hop.interface.is_loopback() && hop.interface.in_group(to.ip)
        } else {
            hop.interface.is_broadcast(to.ip)
        };
        let again = to_us_too.then(|| duplicate(&buf));
        self.stack.send_ip(&hop, how, buf, now, &mut tx);
        if let Some(mut copy) = again {
            copy.offload = Offload { checksum_valid: true, ..Offload::default() };
            self.stack.loop_back(&hop.interface, how, copy, now, &mut tx);
        }
        self.stack.finish(&mut tx, now);
        Ok(len)
    }

    /// Takes the next datagram.
    pub fn recv(&self, peek: bool) -> Result<Arc<Received>> {
        let mut inner = self.inner.lock();
        if inner.queue.is_empty()
            && let Some(e) = inner.error.take()
        {
            self.settle(&inner);
            return Err(e);
        }
        let item = inner.queue.pop(peek);
        self.settle(&inner);
        item
    }

    /// True if reading was shut: a read that finds nothing returns 0.
    pub fn read_shut(&self) -> bool {
        self.inner.lock().read_shut
    }

    /// Bytes of the next datagram (FIONREAD).
    pub fn readable(&self) -> usize {
        self.inner.lock().queue.first_len()
    }

    /// Shuts directions. `ENOTCONN` without a peer, as on Linux; it is shut all the same.
    pub fn shutdown(&self, how: tcp::Shutdown) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.read_shut |= how != tcp::Shutdown::Write;
        inner.write_shut |= how != tcp::Shutdown::Read;
        let connected = inner.remote.is_some();
        self.settle(&inner);
        drop(inner);
        self.subject.notify(Events::IN | Events::HUP | Events::RDHUP);
        if connected { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    /// The last descriptor is gone.
    pub fn close(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        inner.queue.clear();
        let groups = core::mem::take(&mut inner.groups);
        let local = inner.local;
        drop(inner);
        if let Some(local) = local {
            self.stack.udp().unbind(self, local.port);
        }
        for (group, index) in groups {
            if let Some(interface) = self.stack.interface(index) {
                self.stack.leave_group(interface, group);
            }
        }
    }

    /// Joins or leaves a multicast group on an interface (0: the one towards it).
    pub fn membership(&self, group: Ip, index: u32, join: bool) -> Result<()> {
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        let interface = match self.stack.interface(index) {
            Some(i) => i.clone(),
            None if index == 0 => self.stack.route(group, None).map_err(|_| Errno::ENODEV)?.interface,
            None => return Err(Errno::ENODEV),
        };
        let mut inner = self.inner.lock();
        let entry = (group, interface.index);
        let at = inner.groups.iter().position(|g| *g == entry);
        match (at, join) {
            (Some(_), true) => return Err(Errno::EADDRINUSE),
            (None, false) => return Err(Errno::EADDRNOTAVAIL),
            (None, true) => inner.groups.push(entry),
            (Some(at), false) => {
                inner.groups.remove(at);
            }
        }
        drop(inner);
        if join {
            self.stack.join_group(&interface, group);
        } else {
            self.stack.leave_group(&interface, group);
        }
        Ok(())
    }

    /// SO_ERROR: the pending error, once.
    pub fn take_error(&self) -> Option<Errno> {
        let mut inner = self.inner.lock();
        let error = inner.error.take();
        self.settle(&inner);
        error
    }
    /// Our address.
    pub fn local(&self) -> Endpoint {
        self.inner.lock().local.unwrap_or(Endpoint::new(self.any(), 0))
    }
    /// The peer's address. `ENOTCONN` if there is none.
    pub fn remote(&self) -> Result<Endpoint> {
        self.inner.lock().remote.ok_or(Errno::ENOTCONN)
    }
    /// The options.
    pub fn options(&self) -> Options {
        self.inner.lock().options
    }
    /// Changes options.
    pub fn set_options(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.inner.lock().options);
    }
    /// SO_RCVBUF in bytes, and a new value if given.
    pub fn receive_buffer(&self, set: Option<usize>) -> usize {
        let mut inner = self.inner.lock();
        if let Some(limit) = set {
            inner.queue.limit = limit.clamp(2048, tcp::MAX_BUFFER as usize);
        }
        inner.queue.limit
    }

    pub(super) fn deliver(&self, item: Received) -> bool {
        let mut inner = self.inner.lock();
        if inner.read_shut || !inner.queue.push(item) {
            return false;
        }
        self.settle(&inner);
        drop(inner);
        self.subject.notify(Events::IN | Events::RDNORM);
        true
    }

    pub(crate) fn on_error(&self, remote: Endpoint, error: Errno) {
        let mut inner = self.inner.lock();
        if inner.remote != Some(remote) {
            return; // only connected sockets hear of errors, as on Linux without IP_RECVERR
        }
        inner.error = Some(error);
        self.settle(&inner);
        drop(inner);
        self.subject.notify(Events::ERR | Events::IN | Events::OUT);
    }

    pub(super) fn score(&self, meta: &Meta, from: Endpoint) -> u32 {
        let inner = self.inner.lock();
        let mut score = 1;
        if let Some(remote) = inner.remote {
            if remote != from {
                return 0;
            }
            score += 4;
        }
        if inner.options.device != 0 {
            if inner.options.device != meta.interface {
                return 0;
            }
            score += 2;
        }
        score
    }
}
