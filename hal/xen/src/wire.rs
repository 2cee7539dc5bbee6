//! The XenStore's wire: messages over a page with two rings of bytes (io/xs_wire.h). Knows no hypercall.
//!
//! The daemon's indices and lengths are read once and checked: a ring that holds more than its size, or a message longer than the
//! protocol allows, ends its use.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use hal_core::{Error, Result};

const RING: usize = 1024;
/// The longest payload.
pub const PAYLOAD_MAX: usize = 4096;

/// `enum xsd_sockmsg_type`, what of it is used.
pub mod kind {
    /// Names below a node.
    pub const DIRECTORY: u32 = 1;
    /// A node's value.
    pub const READ: u32 = 2;
    /// Tell of changes.
    pub const WATCH: u32 = 4;
    /// Set a node's value, making it.
    pub const WRITE: u32 = 11;
    /// Remove a node.
    pub const REMOVE: u32 = 13;
    /// A change, by itself.
    pub const WATCH_EVENT: u32 = 15;
    /// The request failed: its payload is the name of an error.
    pub const ERROR: u32 = 16;
}

/// `struct xenstore_domain_interface`.
#[repr(C)]
pub struct Interface {
    requests: [AtomicU8; RING],
    replies: [AtomicU8; RING],
    request_consumed: AtomicU32,
    request_produced: AtomicU32,
    reply_consumed: AtomicU32,
    reply_produced: AtomicU32,
}

/// A message that came.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// See [`kind`].
    pub kind: u32,
    /// Number of the request that it answers.
    pub request: u32,
    /// What it says.
    pub payload: Vec<u8>,
}

/// Our end of the rings.
pub struct Wire {
    page: &'static Interface,
    /// A message of which a part came: header and payload.
    partial: Vec<u8>,
}

const HEADER: usize = 16;

impl Wire {
    /// On the shared page.
    pub fn new(page: &'static Interface) -> Self {
        Self { page, partial: Vec::new() }
    }

    /// Bytes of a request.
    pub fn encode(kind: u32, request: u32, parts: &[&[u8]]) -> Vec<u8> {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        let mut bytes = Vec::with_capacity(HEADER + len);
        // Type, request, transaction (none), length.
        for word in [kind, request, 0, len as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    /// Puts on the ring what fits of `bytes`; returns how many.
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize> {
        let produced = self.page.request_produced.load(Ordering::Relaxed);
        let used = produced.wrapping_sub(self.page.request_consumed.load(Ordering::Acquire)) as usize;
        let room = RING.checked_sub(used).ok_or(Error::Device("the XenStore's ring is corrupt"))?;
        let count = room.min(bytes.len());
        for (i, &byte) in bytes[..count].iter().enumerate() {
            self.page.requests[(produced as usize + i) % RING].store(byte, Ordering::Relaxed);
        }
        self.page.request_produced.store(produced.wrapping_add(count as u32), Ordering::Release);
        Ok(count)
    }

    /// The next whole message, if it has come. The second value says if bytes were taken, so that the daemon must be told.
    pub fn receive(&mut self) -> Result<(Option<Message>, bool)> {
        let consumed = self.page.reply_consumed.load(Ordering::Relaxed);
        let there = self.page.reply_produced.load(Ordering::Acquire).wrapping_sub(consumed) as usize;
        if there > RING {
            return Err(Error::Device("the XenStore's ring is corrupt"));
        }
        let mut taken = 0;
        let mut message = None;
        while taken < there && message.is_none() {
            self.partial.push(self.page.replies[(consumed as usize + taken) % RING].load(Ordering::Relaxed));
            taken += 1;
            message = self.complete()?;
        }
        self.page.reply_consumed.store(consumed.wrapping_add(taken as u32), Ordering::Release);
        Ok((message, taken > 0))
    }

    fn word(&self, index: usize) -> u32 {
        let at = index * 4;
        u32::from_le_bytes([self.partial[at], self.partial[at + 1], self.partial[at + 2], self.partial[at + 3]])
    }

    fn complete(&mut self) -> Result<Option<Message>> {
        if self.partial.len() < HEADER {
            return Ok(None);
        }
        let len = self.word(3) as usize;
        if len > PAYLOAD_MAX {
            return Err(Error::Device("the XenStore sent a message that is too long"));
        }
        if self.partial.len() < HEADER + len {
            return Ok(None);
        }
        let (kind, request) = (self.word(0), self.word(1));
        let payload = self.partial[HEADER..].to_vec();
        self.partial.clear();
        Ok(Some(Message { kind, request, payload }))
    }
}

/// Path and token of a watch event.
pub fn event(payload: &[u8]) -> Option<(&str, &str)> {
    let mut parts = payload.split(|&b| b == 0);
    let path = core::str::from_utf8(parts.next()?).ok()?;
    let token = core::str::from_utf8(parts.next()?).ok()?;
    Some((path, token))
}

/// The names of a directory reply.
pub fn names(payload: &[u8]) -> impl Iterator<Item = &str> {
    payload.split(|&b| b == 0).filter(|name| !name.is_empty()).filter_map(|name| core::str::from_utf8(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver_kit::random::Random;
    use std::boxed::Box;
    use std::vec;

    fn page() -> &'static Interface {
        // SAFETY: all bytes zero is a value of an array of atomics.
        Box::leak(Box::new(unsafe { core::mem::zeroed() }))
    }

    /// The daemon's end: puts bytes on the reply ring.
    fn put(page: &Interface, bytes: &[u8]) {
        for &byte in bytes {
            let at = page.reply_produced.load(Ordering::Relaxed);
            page.replies[at as usize % RING].store(byte, Ordering::Relaxed);
            page.reply_produced.store(at.wrapping_add(1), Ordering::Relaxed);
        }
    }

    #[test]
    fn messages_come_whole_over_the_rings_end() {
        let page = page();
        let mut wire = Wire::new(page);
        for number in 0..200u32 {
            let payload = vec![number as u8; (number as usize * 7) % 900];
            let bytes = Wire::encode(kind::READ, number, &[&payload]);
            let half = bytes.len() / 2;
            put(page, &bytes[..half]);
            assert_eq!(wire.receive().unwrap().0, None);
            put(page, &bytes[half..]);
            let message = wire.receive().unwrap().0.unwrap();
            assert_eq!((message.kind, message.request, message.payload), (kind::READ, number, payload));
        }
    }

    #[test]
    fn requests_wait_for_room() {
        let page = page();
        let mut wire = Wire::new(page);
        let bytes = vec![7; 1500];
        assert_eq!(wire.send(&bytes), Ok(1024));
        assert_eq!(wire.send(&bytes[1024..]), Ok(0));
        page.request_consumed.store(1000, Ordering::Relaxed);
        assert_eq!(wire.send(&bytes[1024..]), Ok(476));
        page.request_consumed.store(5000, Ordering::Relaxed);
        assert!(wire.send(&bytes).is_err(), "more consumed than produced");
    }

    #[test]
    fn lies_are_errors() {
        let p = page();
        p.reply_produced.store(1025, Ordering::Relaxed);
        assert!(Wire::new(p).receive().is_err());
        let p = page();
        put(p, &Wire::encode(kind::READ, 1, &[])[..12]);
        put(p, &5000u32.to_le_bytes());
        assert!(Wire::new(p).receive().is_err());
    }

    #[test]
    fn anything_at_all_may_come() {
        let mut random = Random(77);
        for _ in 0..300 {
            let page = page();
            let mut wire = Wire::new(page);
            for _ in 0..100 {
                match random.below(4) {
                    0 => page.reply_produced.store(random.next() as u32, Ordering::Relaxed),
                    1 => put(page, &Wire::encode(random.next() as u32, 1, &[&vec![1; random.below(300) as usize]])),
                    2 => put(page, &random.next().to_le_bytes()),
                    _ => {}
                }
                match wire.receive() {
                    Ok((Some(message), _)) => {
                        let _ = event(&message.payload);
                        assert!(names(&message.payload).count() <= PAYLOAD_MAX);
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
    }

    #[test]
    fn payloads_are_split() {
        assert_eq!(event(b"device/vif/0\0tok\0"), Some(("device/vif/0", "tok")));
        assert_eq!(event(b"device"), None);
        assert_eq!(names(b"vif\0vbd\0").collect::<std::vec::Vec<_>>(), ["vif", "vbd"]);
    }
}
