//! Sending over AF_UNIX.

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::io::In;
use base::{Errno, Events, Result};

use super::{DEFAULT_LIMIT, MAX_MESSAGES, Message, State, Unix, dispose, names};
use crate::sockets::address::Address;
use crate::sockets::message::{SendControl, Ucred};

/// Bytes of a stream that are copied in one go.
const CHUNK: usize = 32 << 10;

fn copy(input: &mut In<'_>, len: usize) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    data.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
    data.resize(len, 0);
    let mut at = 0;
    while at < len {
        match input.read(&mut data[at..]) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(_) if at > 0 => break,
            Err(e) => return Err(e),
        }
    }
    data.truncate(at);
    Ok(data)
}

impl Unix {
    /// Sends bytes or a message; does not wait.
    pub fn send(
        self: &Arc<Self>,
        input: &mut In<'_>,
        to: Option<&Address>,
        control: &mut SendControl,
    ) -> Result<usize> {
        if self.is_datagram() {
            return self.send_datagram(input, to, control);
        }
        if matches!(to, Some(Address::Unix(_))) {
            let connected = matches!(self.inner.lock().state, State::Connected(_));
            return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let (peer, limit) = {
            let mut inner = self.inner.lock();
            if let Some(e) = inner.error.take() {
                return Err(if e == Errno::ECONNRESET { Errno::EPIPE } else { e });
            }
            if inner.write_shut {
                return Err(Errno::EPIPE);
            }
            match &inner.state {
                State::Connected(peer) => (peer.clone(), inner.limit),
                State::Gone => return Err(Errno::EPIPE),
                _ => return Err(Errno::ENOTCONN),
            }
        };
        if self.is_stream() {
            self.send_stream(&peer, limit, input, control)
        } else {
            let len = input.remaining();
            if len > limit {
                return Err(Errno::EMSGSIZE);
            }
            if !peer.room_for(self, len, limit)? {
                return Err(Errno::EAGAIN);
            }
            let data = copy(input, len)?;
            self.deliver(&peer, data, control)?;
            Ok(len)
        }
    }

    fn send_stream(
        self: &Arc<Self>,
        peer: &Arc<Self>,
        limit: usize,
        input: &mut In<'_>,
        control: &mut SendControl,
    ) -> Result<usize> {
        let mut total = 0;
        while input.remaining() > 0 {
            let room = {
                let mut inner = peer.inner.lock();
                if inner.read_shut || !matches!(inner.state, State::Connected(_)) {
                    return if total > 0 { Ok(total) } else { Err(Errno::EPIPE) };
                }
                let room = limit.saturating_sub(inner.bytes);
                if room == 0 {
                    inner.blocked.push(Arc::downgrade(self));
                }
                room
            };
            if room == 0 {
                return if total > 0 { Ok(total) } else { Err(Errno::EAGAIN) };
            }
            let data = match copy(input, input.remaining().min(room).min(CHUNK)) {
                Ok(data) => data,
                Err(_) if total > 0 => return Ok(total),
                Err(e) => return Err(e),
            };
            let n = data.len();
            match self.deliver(peer, data, control) {
                Ok(()) => total += n,
                Err(_) if total > 0 => return Ok(total),
                Err(e) => return Err(e),
            }
        }
        Ok(total)
    }

    fn send_datagram(
        self: &Arc<Self>,
        input: &mut In<'_>,
        to: Option<&Address>,
        control: &mut SendControl,
    ) -> Result<usize> {
        let len = input.remaining();
        let (associated, limit) = {
            let mut inner = self.inner.lock();
            if let Some(e) = inner.error.take() {
                return Err(e);
            }
            if inner.write_shut {
                return Err(Errno::EPIPE);
            }
            let peer = match &inner.state {
                State::Associated(peer) => Some(peer.clone()),
                _ => None,
            };
            (peer, inner.limit)
        };
        if len > limit.max(DEFAULT_LIMIT) {
            return Err(Errno::EMSGSIZE);
        }
        let target = match (to, associated) {
            (Some(Address::Unix(name)), _) => names::find(name)?,
            (Some(Address::None) | None, Some(peer)) => {
                let alive = peer.upgrade().filter(|p| !matches!(p.inner.lock().state, State::Gone));
                alive.ok_or(Errno::ECONNREFUSED)?
            }
            (Some(Address::None) | None, None) => return Err(Errno::ENOTCONN),
            _ => return Err(Errno::EINVAL),
        };
        if !target.is_datagram() {
            return Err(Errno::EPROTOTYPE);
        }
        // A connected socket hears its peer alone.
        if let State::Associated(its) = &target.inner.lock().state
            && its.as_ptr() != Arc::as_ptr(self)
            && its.strong_count() > 0
        {
            return Err(Errno::EPERM);
        }
        if !target.room_for(self, len, limit)? {
            return Err(Errno::EAGAIN);
        }
        let data = copy(input, len)?;
        self.deliver(&target, data, control)?;
        Ok(len)
    }

    // Is there room for a message at this socket? If not, `sender` hears when there is.
    fn room_for(&self, sender: &Arc<Self>, len: usize, limit: usize) -> Result<bool> {
        let mut inner = self.inner.lock();
        if inner.read_shut {
            return Err(Errno::EPIPE);
        }
        if matches!(inner.state, State::Gone) {
            return Err(if self.is_datagram() { Errno::ECONNREFUSED } else { Errno::EPIPE });
        }
        let room = inner.queue.is_empty() || inner.bytes + len <= limit && inner.queue.len() < MAX_MESSAGES;
        if !room {
            inner.blocked.push(Arc::downgrade(sender));
        }
        Ok(room)
    }

    fn deliver(self: &Arc<Self>, target: &Arc<Self>, data: Vec<u8>, control: &mut SendControl) -> Result<()> {
        dispose::depart(control.files.len())?;
        let message = Message {
            from: self.inner.lock().name.clone(),
            credentials: control.credentials.unwrap_or_else(Ucred::current),
            files: core::mem::take(&mut control.files),
            start: 0,
            data,
        };
        let refused = {
            let mut inner = target.inner.lock();
            if inner.read_shut || matches!(inner.state, State::Gone) {
                Some(message)
            } else {
                inner.bytes += message.data.len();
                inner.queue.push_back(message);
                None
            }
        };
        if let Some(message) = refused {
            dispose::files(message.files.into_iter());
            return Err(if self.is_datagram() { Errno::ECONNREFUSED } else { Errno::EPIPE });
        }
        target.subject.notify(Events::IN | Events::RDNORM);
        Ok(())
    }
}
