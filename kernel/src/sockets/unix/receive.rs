//! Receiving over AF_UNIX.

use alloc::vec::Vec;

use base::io::Out;
use base::{Errno, Result};

use super::{Inner, Message, State, Unix, dispose, wake};
use crate::sockets::address::Address;
use crate::sockets::control::{SCM_CREDENTIALS, SOL_SOCKET};
use crate::sockets::message::{Control, Flags, Received};

/// Copies a message out; may sleep.
fn copy(out: &mut Out<'_>, data: &[u8]) -> Result<usize> {
    let mut at = 0;
    while at < data.len() && out.remaining() > 0 {
        at += out.write(&data[at..])?;
    }
    Ok(at)
}

impl Unix {
    /// Receives bytes or a message; does not wait. `credentials`: with SCM_CREDENTIALS.
    pub fn receive(&self, out: &mut Out<'_>, flags: Flags, credentials: bool) -> Result<Received> {
        let peek = flags.contains(Flags::PEEK);
        let mut received = if self.is_stream() {
            self.receive_stream(out, peek, credentials)?
        } else {
            self.receive_message(out, flags, credentials)?
        };
        if self.is_stream() || self.kind == crate::sockets::kind::SEQPACKET {
            received.from = None;
        }
        Ok(received)
    }

    // What an empty queue means.
    fn nothing(&self, inner: &mut Inner) -> Result<Received> {
        if let Some(e) = inner.error.take() {
            return Err(e);
        }
        if inner.read_shut {
            return Ok(Received::default());
        }
        match inner.state {
            State::Gone => Ok(Received::default()),
            State::Idle | State::Listening { .. } if self.is_stream() => Err(Errno::EINVAL),
            State::Idle | State::Listening { .. } if !self.is_datagram() => Err(Errno::ENOTCONN),
            _ => Err(Errno::EAGAIN),
        }
    }

    fn receive_message(&self, out: &mut Out<'_>, flags: Flags, credentials: bool) -> Result<Received> {
        let peek = flags.contains(Flags::PEEK);
        let (message, blocked) = {
            let mut inner = self.inner.lock();
            let Some(front) = inner.queue.front() else {
                return self.nothing(&mut inner);
            };
            if peek {
                let copy = Message {
                    data: front.data.clone(),
                    start: 0,
                    from: front.from.clone(),
                    credentials: front.credentials,
                    files: front.files.clone(),
                };
                (copy, Vec::new())
            } else {
                let message = inner.queue.pop_front().ok_or(Errno::EAGAIN)?;
                inner.bytes -= message.data.len();
                (message, core::mem::take(&mut inner.blocked))
            }
        };
        wake(blocked);
        let mut received = Received::default();
        take_control(&mut received, &message, credentials);
        received.from = (!message.from.is_empty()).then(|| Address::Unix(message.from.clone()));
        if !peek {
            dispose::arrive(message.files.len());
        }
        received.files = message.files;
        let moved = copy(out, &message.data)?;
        received.len = moved;
        if moved < message.data.len() {
            received.flags |= Flags::TRUNC;
            if flags.contains(Flags::TRUNC) {
                received.len = message.data.len();
            }
        }
        if self.kind == crate::sockets::kind::SEQPACKET {
            received.flags |= Flags::EOR;
        }
        Ok(received)
    }

    fn receive_stream(&self, out: &mut Out<'_>, peek: bool, credentials: bool) -> Result<Received> {
        if out.remaining() == 0 {
            return Ok(Received::default());
        }
        let mut received = Received::default();
        let mut sender = None;
        loop {
            let (fault, stop) = {
                let mut inner = self.inner.lock();
                if inner.queue.is_empty() && received.len == 0 {
                    return self.nothing(&mut inner);
                }
                self.take_stream(&mut inner, out, peek, credentials, &mut received, &mut sender)
            };
            if !peek && received.len > 0 {
                let blocked = core::mem::take(&mut self.inner.lock().blocked);
                wake(blocked);
            }
            if stop || !fault {
                return Ok(received);
            }
            match out.fault_in() {
                Ok(()) if peek => return Ok(received),
                Ok(()) => {}
                Err(_) if received.len > 0 => return Ok(received),
                Err(e) => return Err(e),
            }
        }
    }

    // Moves bytes under the lock. Returns whether it stopped at memory that is not present, and whether the read ends
    // here whatever is left: at descriptors, or another sender's bytes.
    fn take_stream(
        &self,
        inner: &mut Inner,
        out: &mut Out<'_>,
        peek: bool,
        credentials: bool,
        received: &mut Received,
        sender: &mut Option<crate::sockets::message::Ucred>,
    ) -> (bool, bool) {
        let mut index = 0;
        while out.remaining() > 0
            && let Some(message) = inner.queue.get_mut(index)
        {
            if credentials && sender.is_some_and(|s| s != message.credentials) {
                return (false, true);
            }
            if !message.files.is_empty() && received.len > 0 {
                return (false, true); // these belong to the next read
            }
            let want = (message.data.len() - message.start).min(out.remaining());
            let got = out.try_write(&message.data[message.start..message.start + want]);
            if got == 0 && want > 0 {
                return (true, false);
            }
            if sender.is_none() {
                *sender = Some(message.credentials);
                take_control(received, message, credentials);
            }
            received.len += got;
            let had_files = !message.files.is_empty();
            if peek {
                received.files.extend(message.files.iter().cloned());
                index += 1;
            } else {
                dispose::arrive(message.files.len());
                received.files.append(&mut message.files);
                message.start += got;
                inner.bytes -= got;
                if message.start == message.data.len() {
                    inner.queue.pop_front();
                }
            }
            if had_files {
                return (false, true);
            }
            if got < want {
                return (true, false);
            }
        }
        (false, false)
    }
}

fn take_control(received: &mut Received, message: &Message, credentials: bool) {
    if credentials {
        let data = message.credentials.to_bytes().to_vec();
        received.control.push(Control { level: SOL_SOCKET, kind: SCM_CREDENTIALS, data });
    }
}
