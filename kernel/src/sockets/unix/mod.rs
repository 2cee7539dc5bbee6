//! AF_UNIX: stream, datagram and sequenced-packet sockets, names, passing of descriptors and credentials.
//!
//! A message is copied once into the receiver's queue and once out of it. Locks of two sockets are never held at the
//! same time. Descriptors on their way hold their files; a cycle of sockets that only hold each other in their queues
//! is not found and lives on, and so the number of descriptors on their way is limited (`ETOOMANYREFS`).

mod dispose;
mod names;
mod receive;
mod send;

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use base::{Errno, Events, Result, SpinLock, Subject};
use fs::File;
use net::tcp::Shutdown;

use super::address::Address;
use super::file::Kind;
use super::kind;
use super::message::Ucred;

/// Linux's wmem_default.
const DEFAULT_LIMIT: usize = 212_992;
/// Most datagrams that wait at one socket.
const MAX_MESSAGES: usize = 512;
/// As Linux's somaxconn.
const MAX_BACKLOG: usize = 4096;

pub(super) struct Message {
    data: Vec<u8>,
    /// Bytes that were read already (streams).
    start: usize,
    from: Vec<u8>,
    credentials: Ucred,
    files: Vec<Arc<dyn File>>,
}

enum State {
    Idle,
    Listening {
        backlog: usize,
        ready: VecDeque<Arc<Unix>>,
    },
    /// A stream's or sequenced-packet socket's other end.
    Connected(Arc<Unix>),
    /// Where a datagram socket sends to.
    Associated(Weak<Unix>),
    /// The other end was closed.
    Gone,
}

struct Inner {
    state: State,
    name: Vec<u8>,
    queue: VecDeque<Message>,
    bytes: usize,
    limit: usize,
    read_shut: bool,
    write_shut: bool,
    error: Option<Errno>,
    peer: Ucred,
    /// The peer's name when the connection was made.
    peer_name: Vec<u8>,
    /// Who found this socket's queue or backlog full.
    blocked: Vec<Weak<Unix>>,
}

/// An AF_UNIX socket.
pub struct Unix {
    kind: i32,
    inner: SpinLock<Inner>,
    subject: Subject,
    owner: Ucred,
}

/// Makes a socket.
pub(super) fn create(socket_type: i32, protocol: i32) -> Result<Kind> {
    Ok(Kind::Unix(new(socket_type, protocol)?))
}

fn new(socket_type: i32, protocol: i32) -> Result<Arc<Unix>> {
    if protocol != 0 && protocol != 1 {
        return Err(Errno::EPROTONOSUPPORT);
    }
    match socket_type {
        kind::STREAM | kind::DGRAM | kind::SEQPACKET => Ok(Unix::with(socket_type, State::Idle)),
        kind::RAW => Ok(Unix::with(kind::DGRAM, State::Idle)), // as Linux
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// Makes two connected sockets.
pub(super) fn pair(socket_type: i32, protocol: i32) -> Result<[Kind; 2]> {
    let (a, b) = (new(socket_type, protocol)?, new(socket_type, protocol)?);
    for (this, other) in [(&a, &b), (&b, &a)] {
        let mut inner = this.inner.lock();
        inner.peer = other.owner;
        inner.state = match this.kind {
            kind::DGRAM => State::Associated(Arc::downgrade(other)),
            _ => State::Connected(other.clone()),
        };
    }
    Ok([Kind::Unix(a), Kind::Unix(b)])
}

impl Unix {
    fn with(kind: i32, state: State) -> Arc<Self> {
        Arc::new(Self {
            kind,
            inner: SpinLock::new(Inner {
                state,
                name: Vec::new(),
                queue: VecDeque::new(),
                bytes: 0,
                limit: DEFAULT_LIMIT,
                read_shut: false,
                write_shut: false,
                error: None,
                peer: Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX },
                peer_name: Vec::new(),
                blocked: Vec::new(),
            }),
            subject: Subject::new(),
            owner: Ucred::current(),
        })
    }

    /// The observers of this socket.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    fn is_stream(&self) -> bool {
        self.kind == kind::STREAM
    }

    fn is_datagram(&self) -> bool {
        self.kind == kind::DGRAM
    }

    /// Gives the socket a name.
    pub fn bind(self: &Arc<Self>, address: &Address) -> Result<()> {
        let Address::Unix(name) = address else {
            return Err(Errno::EINVAL);
        };
        if !self.inner.lock().name.is_empty() {
            return Err(Errno::EINVAL);
        }
        let name = names::register(self, name)?;
        self.inner.lock().name = name;
        Ok(())
    }

    /// Starts to listen. `EINVAL` without a name.
    pub fn listen(&self, backlog: i32) -> Result<()> {
        if self.is_datagram() {
            return Err(Errno::EOPNOTSUPP);
        }
        let limit = usize::try_from(backlog).unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG);
        let mut inner = self.inner.lock();
        if inner.name.is_empty() {
            return Err(Errno::EINVAL);
        }
        match &mut inner.state {
            State::Listening { backlog, .. } => *backlog = limit,
            State::Idle => {
                inner.state = State::Listening { backlog: limit, ready: VecDeque::new() };
                inner.peer = Ucred::current();
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// True after `listen`.
    pub fn is_listening(&self) -> bool {
        matches!(self.inner.lock().state, State::Listening { .. })
    }

    /// Connects to a name. `EAGAIN` while the listener's backlog is full.
    pub fn connect(self: &Arc<Self>, address: &Address) -> Result<()> {
        let name = match address {
            Address::Unix(name) => name,
            Address::None if self.is_datagram() => {
                self.inner.lock().state = State::Idle;
                return Ok(());
            }
            _ => return Err(Errno::EINVAL),
        };
        match &self.inner.lock().state {
            State::Connected(_) => return Err(Errno::EISCONN),
            State::Listening { .. } => return Err(Errno::EINVAL),
            _ => {}
        }
        let target = names::find(name)?;
        if target.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        if self.is_datagram() {
            self.inner.lock().state = State::Associated(Arc::downgrade(&target));
            return Ok(());
        }
        self.connect_stream(&target)
    }

    fn connect_stream(self: &Arc<Self>, listener: &Arc<Self>) -> Result<()> {
        let my_name = self.inner.lock().name.clone();
        let server = Self::with(self.kind, State::Connected(self.clone()));
        let (credentials, name) = {
            let inner = listener.inner.lock();
            (inner.peer, inner.name.clone())
        };
        {
            let mut inner = server.inner.lock();
            inner.name.clone_from(&name);
            inner.peer = Ucred::current();
            inner.peer_name = my_name;
        }
        {
            let mut inner = self.inner.lock();
            if matches!(inner.state, State::Connected(_)) {
                return Err(Errno::EISCONN);
            }
            inner.peer = credentials;
            inner.peer_name = name;
            inner.state = State::Connected(server.clone());
        }
        let refused = {
            let mut inner = listener.inner.lock();
            let shut = inner.read_shut;
            match &mut inner.state {
                State::Listening { backlog, ready } if !shut => {
                    if ready.len() > *backlog {
                        inner.blocked.push(Arc::downgrade(self));
                        Some(Errno::EAGAIN)
                    } else {
                        ready.push_back(server.clone());
                        None
                    }
                }
                _ => Some(Errno::ECONNREFUSED),
            }
        };
        if let Some(error) = refused {
            self.inner.lock().state = State::Idle;
            server.inner.lock().state = State::Gone;
            return Err(error);
        }
        listener.subject.notify(Events::IN | Events::RDNORM);
        self.subject.notify(Events::OUT | Events::WRNORM);
        Ok(())
    }

    /// Takes a connection. `EAGAIN` if there is none.
    pub fn accept(&self) -> Result<Arc<Self>> {
        if self.is_datagram() {
            return Err(Errno::EOPNOTSUPP);
        }
        let (connection, blocked) = {
            let mut inner = self.inner.lock();
            let shut = inner.read_shut;
            let State::Listening { ready, .. } = &mut inner.state else {
                return Err(Errno::EINVAL);
            };
            let Some(connection) = ready.pop_front() else {
                return Err(if shut { Errno::EINVAL } else { Errno::EAGAIN });
            };
            (connection, core::mem::take(&mut inner.blocked))
        };
        wake(blocked);
        Ok(connection)
    }

    /// Shuts a direction or both.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        let peer = {
            let mut inner = self.inner.lock();
            inner.read_shut |= how != Shutdown::Write;
            inner.write_shut |= how != Shutdown::Read;
            match &inner.state {
                State::Connected(peer) => Some(peer.clone()),
                State::Idle if !self.is_datagram() => return Err(Errno::ENOTCONN),
                _ => None,
            }
        };
        if let Some(peer) = peer {
            let mut inner = peer.inner.lock();
            inner.read_shut |= how != Shutdown::Read;
            inner.write_shut |= how != Shutdown::Write;
            drop(inner);
            peer.subject.notify(Events::all());
        }
        self.subject.notify(Events::all());
        Ok(())
    }

    /// The last descriptor is gone.
    pub fn close(self: &Arc<Self>) {
        let (state, queue, blocked, name) = {
            let mut inner = self.inner.lock();
            inner.bytes = 0;
            inner.read_shut = true;
            (
                core::mem::replace(&mut inner.state, State::Gone),
                core::mem::take(&mut inner.queue),
                core::mem::take(&mut inner.blocked),
                core::mem::take(&mut inner.name),
            )
        };
        names::unregister(self, &name);
        match state {
            State::Connected(peer) => peer.left(!queue.is_empty()),
            State::Listening { ready, .. } => {
                for connection in ready {
                    let state = core::mem::replace(&mut connection.inner.lock().state, State::Gone);
                    if let State::Connected(client) = state {
                        client.left(true);
                    }
                }
            }
            _ => {}
        }
        wake(blocked);
        dispose::files(queue.into_iter().flat_map(|message| message.files));
    }

    // The other end was closed; `reset`: with unread data.
    fn left(&self, reset: bool) {
        let mut inner = self.inner.lock();
        let old = core::mem::replace(&mut inner.state, State::Gone);
        if reset {
            inner.error = Some(Errno::ECONNRESET);
        }
        drop(inner);
        drop(old);
        self.subject.notify(Events::all());
    }

    /// SO_ERROR.
    pub fn take_error(&self) -> Option<Errno> {
        self.inner.lock().error.take()
    }

    /// SO_PEERCRED.
    pub fn peer_credentials(&self) -> Ucred {
        self.inner.lock().peer
    }

    /// SO_SNDBUF.
    pub fn limit(&self) -> usize {
        self.inner.lock().limit
    }

    /// Sets SO_SNDBUF.
    pub fn set_limit(&self, bytes: usize) {
        self.inner.lock().limit = bytes.max(4608);
    }

    /// FIONREAD: bytes of the stream, or of the next message.
    pub fn readable(&self) -> usize {
        let inner = self.inner.lock();
        if self.is_stream() { inner.bytes } else { inner.queue.front().map_or(0, |m| m.data.len()) }
    }

    /// Our name.
    pub fn local(&self) -> Address {
        Address::Unix(self.inner.lock().name.clone())
    }

    /// The peer's name. `ENOTCONN`.
    pub fn peer_address(&self) -> Result<Address> {
        let inner = self.inner.lock();
        let peer = match &inner.state {
            State::Connected(_) => return Ok(Address::Unix(inner.peer_name.clone())),
            State::Associated(peer) => peer.upgrade(),
            _ => None,
        };
        drop(inner);
        peer.map(|p| p.local()).ok_or(Errno::ENOTCONN)
    }

    /// Readiness.
    pub fn poll(&self) -> Events {
        let mut events = Events::empty();
        let inner = self.inner.lock();
        if inner.error.is_some() {
            events |= Events::ERR;
        }
        if !inner.queue.is_empty() || inner.read_shut {
            events |= Events::IN | Events::RDNORM;
        }
        if inner.read_shut {
            events |= Events::RDHUP;
        }
        if inner.read_shut && inner.write_shut {
            events |= Events::HUP;
        }
        let limit = inner.limit;
        let peer = match &inner.state {
            State::Listening { ready, .. } => {
                return if ready.is_empty() { events } else { events | Events::IN | Events::RDNORM };
            }
            State::Gone => {
                return events
                    | Events::IN
                    | Events::RDNORM
                    | Events::OUT
                    | Events::WRNORM
                    | Events::HUP
                    | Events::RDHUP;
            }
            State::Idle if self.is_datagram() => return events | Events::OUT | Events::WRNORM,
            State::Idle => return events | Events::OUT | Events::WRNORM | Events::HUP,
            State::Connected(peer) => Some(peer.clone()),
            State::Associated(peer) => peer.upgrade(),
        };
        let shut = inner.write_shut;
        drop(inner);
        let room = peer.is_none_or(|peer| {
            let inner = peer.inner.lock();
            inner.bytes * 4 <= limit * 3 && inner.queue.len() < MAX_MESSAGES
        });
        if room || shut {
            events |= Events::OUT | Events::WRNORM;
        }
        events
    }
}

fn wake(blocked: Vec<Weak<Unix>>) {
    for socket in blocked.iter().filter_map(Weak::upgrade) {
        socket.subject.notify(Events::OUT | Events::WRNORM);
    }
}
