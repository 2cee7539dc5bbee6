//! AF_NETLINK: the questions of NETLINK_ROUTE that programs ask about interfaces, addresses, routes and neighbours
//! (getifaddrs, Go, the JVM, `ip`). Changing anything gives `EPERM`. A uevent socket can be opened; nothing is ever said
//! there.

mod route;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use base::io::{In, Out};
use base::{Errno, Events, Result, SpinLock, Subject};

use super::address::Address;
use super::file::Kind;
use super::kind;
use super::message::{Flags, Received};
use crate::sched;

const NETLINK_ROUTE: i32 = 0;
const NETLINK_KOBJECT_UEVENT: i32 = 15;
/// Answers of a dump are packed into messages of about this size: less than the buffers that programs bring.
const MESSAGE: usize = 3500;
const MAX_REQUEST: usize = 64 << 10;

struct Inner {
    port: u32,
    groups: u32,
    queue: VecDeque<Vec<u8>>,
}

/// A netlink socket.
pub struct Netlink {
    protocol: i32,
    inner: SpinLock<Inner>,
    subject: Subject,
}

/// Makes a socket.
pub(super) fn create(socket_type: i32, protocol: i32) -> Result<Kind> {
    if socket_type != kind::RAW && socket_type != kind::DGRAM {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if protocol != NETLINK_ROUTE && protocol != NETLINK_KOBJECT_UEVENT {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok(Kind::Netlink(Arc::new(Netlink {
        protocol,
        inner: SpinLock::new(Inner { port: 0, groups: 0, queue: VecDeque::new() }),
        subject: Subject::new(),
    })))
}

impl Netlink {
    /// The observers of this socket.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Readiness.
    pub fn poll(&self) -> Events {
        let mut events = Events::OUT | Events::WRNORM;
        if !self.inner.lock().queue.is_empty() {
            events |= Events::IN | Events::RDNORM;
        }
        events
    }

    // The first socket of a process has its pid as port, further ones others.
    fn choose_port() -> u32 {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = sched::current().process().map_or(0, |p| p.pid);
        match NEXT.fetch_add(1, Ordering::Relaxed) {
            0 => pid,
            n => 0x8000_0000 | n,
        }
    }

    /// Gives it a port and groups.
    pub fn bind(&self, address: &Address) -> Result<()> {
        let Address::Netlink(port, groups) = *address else {
            return Err(Errno::EINVAL);
        };
        let mut inner = self.inner.lock();
        if inner.port != 0 && port != 0 && inner.port != port {
            return Err(Errno::EINVAL);
        }
        if inner.port == 0 {
            inner.port = if port != 0 { port } else { Self::choose_port() };
        }
        inner.groups = groups;
        Ok(())
    }

    /// NETLINK_ADD_MEMBERSHIP and NETLINK_DROP_MEMBERSHIP.
    pub fn group(&self, number: i32, join: bool) -> Result<()> {
        let bit = match number {
            1..=32 => 1 << (number - 1),
            33..=1024 => 0, // no such events here
            _ => return Err(Errno::EINVAL),
        };
        let mut inner = self.inner.lock();
        if join {
            inner.groups |= bit;
        } else {
            inner.groups &= !bit;
        }
        Ok(())
    }

    /// Its address.
    pub fn local(&self) -> Address {
        let inner = self.inner.lock();
        Address::Netlink(inner.port, inner.groups)
    }

    /// Takes requests and queues the answers.
    pub fn send(&self, input: &mut In<'_>) -> Result<usize> {
        let len = input.remaining();
        if len > MAX_REQUEST {
            return Err(Errno::EMSGSIZE);
        }
        let mut request = alloc::vec![0; len];
        let mut at = 0;
        while at < len {
            match input.read(&mut request[at..])? {
                0 => return Err(Errno::EFAULT),
                n => at += n,
            }
        }
        if self.protocol != NETLINK_ROUTE {
            return Err(Errno::EPERM);
        }
        let port = {
            let mut inner = self.inner.lock();
            if inner.port == 0 {
                inner.port = Self::choose_port();
            }
            inner.port
        };
        let mut rest = &request[..];
        while let Some(header) = Header::parse(rest) {
            let size = (header.len as usize).clamp(Header::LEN, rest.len());
            let mut answer = Answer::new(header, port);
            route::answer(&mut answer, header, &rest[Header::LEN..size]);
            let messages = answer.finish();
            self.inner.lock().queue.extend(messages);
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or(&[]);
        }
        self.subject.notify(Events::IN | Events::RDNORM);
        Ok(len)
    }

    /// Takes an answer; does not wait.
    pub fn receive(&self, out: &mut Out<'_>, flags: Flags) -> Result<Received> {
        let message = {
            let mut inner = self.inner.lock();
            if flags.contains(Flags::PEEK) { inner.queue.front().cloned() } else { inner.queue.pop_front() }
        }
        .ok_or(Errno::EAGAIN)?;
        let mut moved = 0;
        while moved < message.len() && out.remaining() > 0 {
            moved += out.write(&message[moved..])?;
        }
        let mut received = Received { len: moved, from: Some(Address::Netlink(0, 0)), ..Received::default() };
        if moved < message.len() {
            received.flags |= Flags::TRUNC;
            if flags.contains(Flags::TRUNC) {
                received.len = message.len();
            }
        }
        Ok(received)
    }
}

/// `struct nlmsghdr`.
#[derive(Clone, Copy)]
pub(super) struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
}

impl Header {
    const LEN: usize = 16;

    fn parse(b: &[u8]) -> Option<Self> {
        let b: &[u8; 16] = b.first_chunk()?;
        let word = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        Some(Self {
            len: word(0),
            kind: u16::from_ne_bytes([b[4], b[5]]),
            flags: u16::from_ne_bytes([b[6], b[7]]),
            seq: word(8),
        })
    }
}

const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// The answer to one request, as it grows.
pub(super) struct Answer {
    request: Header,
    port: u32,
    messages: Vec<Vec<u8>>,
    current: Vec<u8>,
    start: usize,
}

impl Answer {
    fn new(request: Header, port: u32) -> Self {
        Self { request, port, messages: Vec::new(), current: Vec::new(), start: 0 }
    }

    /// Opens a message of this type with its fixed part.
    fn open(&mut self, kind: u16, fixed: &[u8]) {
        if self.current.len() > MESSAGE {
            self.messages.push(core::mem::take(&mut self.current));
        }
        self.start = self.current.len();
        let flags = if self.is_dump() { NLM_F_MULTI } else { 0 };
        self.current.extend_from_slice(&[0; 4]);
        self.current.extend_from_slice(&kind.to_ne_bytes());
        self.current.extend_from_slice(&flags.to_ne_bytes());
        self.current.extend_from_slice(&self.request.seq.to_ne_bytes());
        self.current.extend_from_slice(&self.port.to_ne_bytes());
        self.current.extend_from_slice(fixed);
    }

    /// Adds an attribute to the open message.
    fn attribute(&mut self, kind: u16, data: &[u8]) {
        self.current.extend_from_slice(&((4 + data.len()) as u16).to_ne_bytes());
        self.current.extend_from_slice(&kind.to_ne_bytes());
        self.current.extend_from_slice(data);
        let padded = self.current.len().next_multiple_of(4);
        self.current.resize(padded, 0);
    }

    /// Closes the open message.
    fn close(&mut self) {
        let len = (self.current.len() - self.start) as u32;
        self.current[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    fn is_dump(&self) -> bool {
        self.request.flags & NLM_F_DUMP == NLM_F_DUMP
    }

    /// Answers with an error; 0 is an acknowledgement.
    fn error(&mut self, code: i32) {
        let request = self.request;
        let mut body = (-code).to_ne_bytes().to_vec();
        body.extend_from_slice(&request.len.to_ne_bytes());
        body.extend_from_slice(&request.kind.to_ne_bytes());
        body.extend_from_slice(&request.flags.to_ne_bytes());
        body.extend_from_slice(&request.seq.to_ne_bytes());
        body.extend_from_slice(&self.port.to_ne_bytes());
        self.request.flags &= !NLM_F_DUMP;
        self.open(NLMSG_ERROR, &body);
        self.close();
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        if self.is_dump() {
            self.open(NLMSG_DONE, &[0; 4]);
            self.close();
        } else if self.request.flags & NLM_F_ACK != 0 && self.request.kind != NLMSG_ERROR && self.current.is_empty() {
            self.error(0);
        }
        if !self.current.is_empty() {
            self.messages.push(self.current);
        }
        self.messages
    }
}
