//! The XenStore client: requests that wait for their replies, watches whose handlers run as deferred work.
//!
//! A request holds the one lock and waits in Xen (`SCHEDOP_poll`), so that the daemon's domain runs meanwhile. Replies of several
//! requests may be waited for together: each round trip wakes another domain.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hal_core::interrupt::Handler;
use hal_core::{Error, Result, clock};
use spin::Once;
use spin::mutex::SpinMutex as Mutex;

use crate::wire::{self, Interface, Wire, kind};
use crate::{event, hypercall};

/// How long the daemon may take for a reply.
const PATIENCE_NS: u64 = 30_000_000_000;

struct Store {
    wire: Wire,
    port: u32,
    next: u32,
    replies: Vec<wire::Message>,
    /// Tokens of watches that fired.
    events: VecDeque<usize>,
    broken: bool,
}

static STORE: Mutex<Option<Store>> = Mutex::new(None);
static WATCHES: Mutex<Vec<Handler>> = Mutex::new(Vec::new());
/// Watch events so far.
static NEWS: AtomicU64 = AtomicU64::new(0);
static SERVING: AtomicBool = AtomicBool::new(false);
static WAKE: Once<&'static Handler> = Once::new();

/// Starts the client on the shared page and its channel. Heap, events and clock work.
pub fn init(page: &'static Interface, port: u32) -> Result<()> {
    *STORE.lock() = Some(Store {
        wire: Wire::new(page),
        port,
        next: 1,
        replies: Vec::new(),
        events: VecDeque::new(),
        broken: false,
    });
    let handler: Handler = Arc::new(defer);
    let handler = *WAKE.call_once(|| alloc::boxed::Box::leak(alloc::boxed::Box::new(handler)));
    event::attach(port, 0, handler)
}

/// True if the client works.
pub fn is_up() -> bool {
    STORE.lock().as_ref().is_some_and(|store| !store.broken)
}

/// Has [`service`] run soon.
fn defer() {
    if let Some(kernel) = hal_core::kernel() {
        kernel.defer();
    }
}

/// One request: its type and the parts of its payload.
type Request<'a> = (u32, &'a [&'a [u8]]);

impl Store {
    fn fail<T>(&mut self, error: Error) -> Result<T> {
        if !self.broken {
            log::error!("the XenStore is not used any more: {error:?}");
            self.broken = true;
        }
        Err(error)
    }

    /// Takes what came.
    fn drain(&mut self) -> Result<()> {
        loop {
            match self.wire.receive() {
                Err(error) => return self.fail(error),
                Ok((message, taken)) => {
                    if taken {
                        hypercall::notify(self.port);
                    }
                    let Some(message) = message else { return Ok(()) };
                    if message.kind != kind::WATCH_EVENT {
                        self.replies.push(message);
                    } else if let Some((_, token)) = wire::event(&message.payload)
                        && let Ok(token) = token.parse()
                    {
                        self.events.push_back(token);
                        NEWS.fetch_add(1, Ordering::Release);
                    }
                }
            }
        }
    }

    /// Repeats `step` until it gives something, waiting for the daemon in between.
    fn wait<T>(&mut self, deadline: u64, mut step: impl FnMut(&mut Self) -> Result<Option<T>>) -> Result<T> {
        // Masked, an event stays pending until it is taken here, so that none is lost before the poll.
        event::mask(self.port);
        let result = loop {
            event::take_pending(self.port);
            match self.drain().and_then(|()| step(self)) {
                Ok(None) if clock::now_ns() < deadline => {
                    hypercall::poll(self.port, crate::clock::system_time(deadline))
                }
                Ok(None) => break Err(Error::Gone),
                Ok(Some(value)) => break Ok(value),
                Err(error) => break Err(error),
            }
        };
        event::unmask(self.port);
        result
    }

    fn exchange(&mut self, requests: &[Request]) -> Result<Vec<Result<Vec<u8>>>> {
        if self.broken {
            return Err(Error::Gone);
        }
        let first = self.next;
        self.next = self.next.wrapping_add(requests.len() as u32);
        let deadline = clock::now_ns() + PATIENCE_NS;
        let bytes: Vec<u8> =
            (first..).zip(requests).flat_map(|(number, (kind, parts))| Wire::encode(*kind, number, parts)).collect();
        let mut sent = 0;
        let mut answers: Vec<Option<Result<Vec<u8>>>> = requests.iter().map(|_| None).collect();
        let outcome = self.wait(deadline, |store| {
            let n = match store.wire.send(&bytes[sent..]) {
                Ok(n) => n,
                Err(error) => return store.fail(error),
            };
            sent += n;
            if n > 0 {
                hypercall::notify(store.port);
            }
            for reply in store.replies.drain(..) {
                // A reply to nothing, or a second one, is dropped.
                if let Some(slot) = answers.get_mut(reply.request.wrapping_sub(first) as usize) {
                    slot.get_or_insert(if reply.kind == kind::ERROR {
                        Err(error_of(&reply.payload))
                    } else {
                        Ok(reply.payload)
                    });
                }
            }
            Ok(answers.iter().all(Option::is_some).then_some(()))
        });
        if outcome == Err(Error::Gone) {
            return self.fail(Error::Device("the XenStore does not answer"));
        }
        outcome?;
        Ok(answers.into_iter().flatten().collect())
    }
}

fn error_of(name: &[u8]) -> Error {
    match name.split(|&b| b == 0).next() {
        Some(b"ENOENT") => Error::Invalid,
        Some(b"ENOSPC" | b"E2BIG" | b"ENOMEM") => Error::Exhausted,
        _ => Error::Device("the XenStore refuses a request"),
    }
}

fn exchange(requests: &[Request]) -> Result<Vec<Result<Vec<u8>>>> {
    let mut guard = STORE.lock();
    let store = guard.as_mut().ok_or(Error::Gone)?;
    let result = store.exchange(requests);
    let events = !store.events.is_empty();
    drop(guard);
    if events {
        defer();
    }
    result
}

fn one(kind: u32, parts: &[&[u8]]) -> Result<Vec<u8>> {
    exchange(&[(kind, parts)])?.pop().unwrap_or(Err(Error::Gone))
}

/// The values of nodes; `None` for what is not there or is no text. Paths are below the domain's own unless they begin with `/`.
pub fn read(paths: &[&str]) -> Result<Vec<Option<String>>> {
    let parts: Vec<[&[u8]; 2]> = paths.iter().map(|path| [path.as_bytes(), &b"\0"[..]]).collect();
    let requests: Vec<Request> = parts.iter().map(|p| (kind::READ, &p[..])).collect();
    let answers = exchange(&requests)?;
    Ok(answers.into_iter().map(|answer| String::from_utf8(answer.ok()?).ok()).collect())
}

/// Sets nodes.
pub fn write(values: &[(&str, &str)]) -> Result<()> {
    let parts: Vec<[&[u8]; 3]> =
        values.iter().map(|(path, value)| [path.as_bytes(), b"\0", value.as_bytes()]).collect();
    let requests: Vec<Request> = parts.iter().map(|p| (kind::WRITE, &p[..])).collect();
    exchange(&requests)?.into_iter().try_for_each(|answer| answer.map(|_| ()))
}

/// Removes a node and what is below it.
pub fn remove(path: &str) -> Result<()> {
    one(kind::REMOVE, &[path.as_bytes(), b"\0"]).map(|_| ())
}

/// The names below a node; none if it is not there.
pub fn list(path: &str) -> Result<Vec<String>> {
    match one(kind::DIRECTORY, &[path.as_bytes(), b"\0"]) {
        Ok(payload) => Ok(wire::names(&payload).map(String::from).collect()),
        Err(Error::Invalid) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Calls `handler`, as deferred work, when the node or something below it changes; and once now.
pub fn watch(path: &str, handler: Handler) -> Result<()> {
    let token = {
        let mut watches = WATCHES.lock();
        watches.push(handler);
        format!("{}", watches.len() - 1)
    };
    one(kind::WATCH, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"]).map(|_| ())
}

/// How many watch events came so far.
pub fn news() -> u64 {
    NEWS.load(Ordering::Acquire)
}

/// Waits until more than `seen` watch events have come, or until `deadline_ns`.
pub fn wait(seen: u64, deadline_ns: u64) {
    let mut guard = STORE.lock();
    let Some(store) = guard.as_mut() else { return };
    if !store.broken {
        let _ = store.wait(deadline_ns, |_| Ok((news() != seen).then_some(())));
    }
    let events = !store.events.is_empty();
    drop(guard);
    if events {
        defer();
    }
}

/// Runs the handlers of watches that fired: the platform's deferred work. One CPU does this at a time.
pub fn service() {
    loop {
        if SERVING.swap(true, Ordering::Acquire) {
            return;
        }
        while let Some(token) = next_event() {
            let handler = WATCHES.lock().get(token).cloned();
            if let Some(handler) = handler {
                handler();
            }
        }
        SERVING.store(false, Ordering::Release);
        // What came after the last look, while others were turned away.
        if STORE.lock().as_ref().is_none_or(|store| store.events.is_empty()) {
            return;
        }
    }
}

fn next_event() -> Option<usize> {
    let mut guard = STORE.lock();
    let store = guard.as_mut()?;
    if !store.broken {
        let _ = store.drain();
    }
    store.events.pop_front()
}
