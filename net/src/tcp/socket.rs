//! A TCP socket as the kernel's socket layer uses it. Every call is non-blocking: `EAGAIN` says wait for
//! [`Tcp::subject`].

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use base::io::{In, Out};
use base::{Errno, Events, Result, SpinLock, Subject};
use hal_core::device::NetBuf;

use super::listen::Listener;
use super::options::Options;
use super::path::Path;
use super::segment::Segment;
use super::tcb::{AckDue, Cx, State, Step, Tcb};
use crate::addr::{Endpoint, Family, Ip};
use crate::stack::{Stack, Tx};
use crate::timers::{NEVER, Timed, TimerSlot};

pub(super) enum Role {
    /// Neither connected nor listening.
    Idle,
    Listen(Listener),
    Flow(Box<Tcb>),
}

pub(super) struct Inner {
    pub options: Options,
    pub bound: Option<Endpoint>,
    /// The port is registered as bound.
    pub reserved: bool,
    pub role: Role,
    /// The result of connect was told.
    pub connected: bool,
    /// Readers of a shut direction and the like.
    pub error: Option<Errno>,
}

/// A TCP socket.
pub struct Tcp {
    pub(super) stack: Arc<Stack>,
    pub(super) family: Family,
    pub(super) inner: SpinLock<Inner>,
    inbox: SpinLock<VecDeque<(Segment, NetBuf)>>,
    pending: AtomicBool,
    ready: AtomicU32,
    subject: Subject,
    timer: TimerSlot,
    pub(super) parent: Weak<Tcp>,
    /// On the list of those that send at the end of the batch.
    pub(crate) queued: AtomicBool,
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.stack.timers().forget(&self.timer);
    }
}

/// Most segments on a connection's channel: its holder is slow, and the network may drop.
const MAX_INBOX: usize = 1024;

/// What of a connection to shut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// SHUT_RD.
    Read,
    /// SHUT_WR.
    Write,
    /// SHUT_RDWR.
    Both,
}

impl Tcp {
    /// A new socket.
    pub fn new(stack: &Arc<Stack>, family: Family) -> Arc<Self> {
        Self::with(stack, family, Role::Idle, Options::default(), Weak::new(), None)
    }

    pub(super) fn with(
        stack: &Arc<Stack>,
        family: Family,
        role: Role,
        options: Options,
        parent: Weak<Tcp>,
        bound: Option<Endpoint>,
    ) -> Arc<Self> {
        Arc::new(Self {
            stack: stack.clone(),
            family,
            inner: SpinLock::new(Inner { options, bound, reserved: false, role, connected: false, error: None }),
            inbox: SpinLock::new(VecDeque::new()),
            pending: AtomicBool::new(false),
            ready: AtomicU32::new((Events::OUT | Events::HUP).bits()),
            subject: Subject::new(),
            timer: TimerSlot::new(),
            parent,
            queued: AtomicBool::new(false),
        })
    }

    /// The observers of this socket.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Its stack.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// Its family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Readiness now. One load: every step leaves it behind.
    pub fn poll(&self) -> Events {
        Events::from_bits_truncate(self.ready.load(Ordering::Acquire))
    }

    /// Runs `f` on the locked socket, then what came on the channel meanwhile, then sends.
    pub(super) fn with_inner<R>(self: &Arc<Self>, f: impl FnOnce(&mut Inner, &Cx<'_>, &mut Tx) -> R) -> R {
        let mut tx = Tx::new();
        let cx = Cx { stack: &self.stack, now: self.stack.env().now_ns() };
        let mut inner = self.inner.lock();
        let result = f(&mut inner, &cx, &mut tx);
        self.settle(&mut inner);
        drop(inner);
        self.drain(&cx, &mut tx);
        self.stack.finish(&mut tx, cx.now);
        result
    }

    // Leaves readiness and the timer as the state wants them.
    fn settle(self: &Arc<Self>, inner: &mut Inner) {
        let (events, deadline) = match &inner.role {
            Role::Idle => (Events::OUT | Events::HUP, NEVER),
            Role::Listen(l) => (l.readiness(), NEVER),
            Role::Flow(tcb) => (tcb.readiness(&inner.options), tcb.deadline()),
        };
        self.ready.store(events.bits(), Ordering::Release);
        if deadline != NEVER {
            self.stack.timers().set(self.stack.env(), self, deadline);
        }
    }

    /// A segment of this connection.
    #[inline]
    pub(crate) fn input(self: &Arc<Self>, cx: &Cx<'_>, seg: &Segment, buf: NetBuf, tx: &mut Tx) {
        let Some(mut inner) = self.inner.try_lock() else {
            let mut inbox = self.inbox.lock();
            if inbox.len() < MAX_INBOX {
                inbox.push_back((*seg, buf));
            }
            drop(inbox);
            self.pending.store(true, Ordering::SeqCst);
            self.drain(cx, tx);
            return;
        };
        let step = self.process(&mut inner, cx, seg, buf, tx);
        self.settle(&mut inner);
        drop(inner);
        self.after(step, tx);
        self.drain(cx, tx);
    }

    // Processes what others put on the channel while the lock was held. The fence orders our unlock before
    // the look at `pending`; the pusher's sequence is the mirror image (store, then try to lock).
    fn drain(self: &Arc<Self>, cx: &Cx<'_>, tx: &mut Tx) {
        loop {
            fence(Ordering::SeqCst);
            if !self.pending.load(Ordering::SeqCst) {
                return;
            }
            let Some(mut inner) = self.inner.try_lock() else {
                return;
            };
            self.pending.store(false, Ordering::SeqCst);
            let mut steps = Step::default();
            loop {
                let next = self.inbox.lock().pop_front();
                let Some((seg, buf)) = next else { break };
                let step = self.process(&mut inner, cx, &seg, buf, tx);
                steps.events |= step.events;
                steps.established |= step.established;
                steps.output |= step.output;
                steps.dead |= step.dead;
            }
            self.settle(&mut inner);
            drop(inner);
            self.after(steps, tx);
        }
    }

    fn process(self: &Arc<Self>, inner: &mut Inner, cx: &Cx<'_>, seg: &Segment, buf: NetBuf, tx: &mut Tx) -> Step {
        let Role::Flow(tcb) = &mut inner.role else {
            return Step::default();
        };
        let room = tcb.state != State::SynReceived || self.parent.upgrade().is_none_or(|p| p.has_room());
        let mut step = tcb.input(cx, &inner.options, seg, buf, room, tx);
        if tcb.state == State::TimeWait {
            tcb.output(cx, &inner.options, tx);
            cx.stack.tcp().time_wait(cx, tcb);
            step.events |= tcb.finish().events;
            step.output = false;
        }
        if step.dead {
            cx.stack.tcp().remove(tcb.key);
            self.release_port(inner);
        }
        step
    }

    fn after(self: &Arc<Self>, step: Step, tx: &mut Tx) {
        if step.output && !self.queued.swap(true, Ordering::Relaxed) {
            tx.again.push(self.clone());
        }
        if step.established
            && let Some(parent) = self.parent.upgrade()
        {
            parent.child_established(self);
        }
        if !step.events.is_empty() {
            self.subject.notify(step.events);
        }
    }

    /// The end of a batch: sends what the batch made possible.
    pub(crate) fn run_output(self: &Arc<Self>, now: u64, tx: &mut Tx) {
        self.queued.store(false, Ordering::Relaxed);
        let cx = Cx { stack: &self.stack, now };
        let mut inner = self.inner.lock();
        if let Inner { role: Role::Flow(tcb), options, .. } = &mut *inner {
            tcb.output(&cx, options, tx);
        }
        self.settle(&mut inner);
        drop(inner);
        self.drain(&cx, tx);
    }

    /// Starts a connection. `EINPROGRESS` when it was started, `EALREADY` while it is under way, then the result
    /// once, then `EISCONN`.
    pub fn connect(self: &Arc<Self>, mut remote: Endpoint) -> Result<()> {
        if remote.ip.is_unspecified() {
            let v4 = self.family == Family::V4 || remote.ip == Ip::ANY4;
            remote.ip = if v4 { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 };
        }
        if remote.ip.is_multicast() || remote.ip == Ip::BROADCAST {
            return Err(Errno::ENETUNREACH);
        }
        self.with_inner(|inner, cx, tx| {
            match &mut inner.role {
                Role::Listen(_) => return Err(Errno::EISCONN),
                Role::Flow(tcb) => {
                    if let Some(error) = tcb.error.take() {
                        if !inner.connected {
                            inner.role = Role::Idle;
                        }
                        return Err(error);
                    }
                    return match tcb.state {
                        State::SynSent | State::SynReceived => Err(Errno::EALREADY),
                        State::Closed if !inner.connected => {
                            inner.role = Role::Idle;
                            Err(Errno::ECONNABORTED)
                        }
                        _ if inner.connected => Err(Errno::EISCONN),
                        _ => {
                            inner.connected = true;
                            Ok(())
                        }
                    };
                }
                Role::Idle => {}
            }
            let v6_only = inner.options.v6_only || inner.bound.is_some_and(|b| !b.ip.is_v4() && b.ip != Ip::ANY);
            if self.family == Family::V4 && !remote.ip.is_v4() {
                return Err(Errno::EAFNOSUPPORT);
            }
            if v6_only && remote.ip.is_v4() && self.family == Family::V6 {
                return Err(Errno::ENETUNREACH);
            }
            self.start(inner, cx, remote, tx)
        })
    }

    fn start(self: &Arc<Self>, inner: &mut Inner, cx: &Cx<'_>, remote: Endpoint, tx: &mut Tx) -> Result<()> {
        let o = inner.options;
        let mut local = inner.bound.unwrap_or_default();
        if local.ip.is_unspecified() {
            local.ip = cx.stack.source_for(remote.ip, o.device)?;
        }
        let key = cx.stack.tcp().claim(cx.stack, local, remote, self, inner.bound.is_some_and(|b| b.port != 0))?;
        let path = match Path::new(cx.stack, &key, o.ttl, o.tos, o.device) {
            Ok(path) => path,
            Err(e) => {
                cx.stack.tcp().remove(key);
                return Err(e);
            }
        };
        let iss = cx.stack.initial_sequence(&key, cx.now);
        let mut tcb = Box::new(Tcb::new(cx, key, path, iss, State::SynSent, &o));
        tcb.output(cx, &o, tx);
        inner.bound = Some(key.local);
        inner.connected = false;
        inner.role = Role::Flow(tcb);
        Err(Errno::EINPROGRESS)
    }

    /// Puts bytes into the send buffer and sends what may go. `more`: hold a small last segment back.
    /// `EPIPE` after a shutdown: the caller raises SIGPIPE.
    pub fn send(self: &Arc<Self>, from: &mut In<'_>, more: bool) -> Result<usize> {
        let mut total = 0;
        loop {
            let (moved, fault) = self
                .with_inner(|inner, cx, tx| {
                    let Inner { role: Role::Flow(tcb), options, error, .. } = inner else {
                        return Err(Errno::EPIPE);
                    };
                    if let Some(e) = tcb.error.take().or(error.take()) {
                        return Err(e);
                    }
                    if !tcb.can_send() {
                        return Err(match tcb.state {
                            State::SynSent | State::SynReceived => Errno::EAGAIN,
                            _ => Errno::EPIPE,
                        });
                    }
                    let (moved, fault) = tcb.tx.fill(from, options.send_buffer as usize);
                    if moved > 0 {
                        tcb.more = more;
                        tcb.output(cx, options, tx);
                    }
                    if !fault && from.remaining() > 0 {
                        tcb.blocked = true;
                    }
                    Ok((moved, fault))
                })
                .or_else(|e| if total > 0 { Ok((0, false)) } else { Err(e) })?;
            total += moved;
            if fault {
                match from.fault_in() {
                    Ok(()) => continue,
                    Err(e) if total == 0 => return Err(e),
                    Err(_) => return Ok(total),
                }
            }
            return if total == 0 && from.remaining() > 0 { Err(Errno::EAGAIN) } else { Ok(total) };
        }
    }

    /// Takes received bytes; 0 at the end of the stream. `peek` leaves them there.
    pub fn recv(self: &Arc<Self>, to: &mut Out<'_>, peek: bool) -> Result<usize> {
        let mut total = 0;
        loop {
            let result = self.receive(total > 0, |tcb| {
                if peek { tcb.rx.peek(to, total, usize::MAX) } else { tcb.rx.read(to, usize::MAX) }
            });
            let (moved, fault) = match result {
                Err(_) if total > 0 => return Ok(total),
                other => other?,
            };
            total += moved;
            if !fault {
                return Ok(total);
            }
            // The rest of the application's buffer is not in memory yet.
            match to.fault_in() {
                Err(_) if total > 0 => return Ok(total),
                other => other?,
            }
        }
    }

    /// Throws received bytes away (MSG_TRUNC); returns how many.
    pub fn discard(self: &Arc<Self>, max: usize) -> Result<usize> {
        self.receive(false, |tcb| (tcb.rx.skip(max), false)).map(|r| r.0)
    }

    fn receive(self: &Arc<Self>, again: bool, take: impl FnOnce(&mut Tcb) -> (usize, bool)) -> Result<(usize, bool)> {
        self.with_inner(|inner, cx, tx| {
            let Inner { role: Role::Flow(tcb), options, .. } = inner else {
                return Err(Errno::ENOTCONN);
            };
            if tcb.rx.len() == 0 {
                if again {
                    return Ok((0, false));
                }
                if let Some(e) = tcb.error.take() {
                    return Err(e);
                }
                let ended = tcb.eof || tcb.read_shut || tcb.state == State::Closed;
                return if ended { Ok((0, false)) } else { Err(Errno::EAGAIN) };
            }
            let got = take(tcb);
            if got.0 > 0 && tcb.window_opened(options) {
                tcb.ack = AckDue::Now;
                tcb.output(cx, options, tx);
            }
            Ok(got)
        })
    }

    /// An ICMP error or an unreachable neighbour, for a packet of this connection that started at `seq`.
    pub(crate) fn on_error(self: &Arc<Self>, error: Errno, mtu: Option<u16>, seq: u32, now: u64, tx: &mut Tx) {
        let cx = Cx { stack: &self.stack, now };
        let Some(mut inner) = self.inner.try_lock() else {
            return; // advice only: the timer finds out
        };
        let mut step = Step::default();
        if let Inner { role: Role::Flow(tcb), .. } = &mut *inner {
            let credible =
                !super::segment::before(seq, tcb.una) && super::segment::before(seq, tcb.max.wrapping_add(1));
            if let Some(mtu) = mtu {
                if credible && mtu >= 576 && mtu < tcb.path.mtu_limit {
                    tcb.path.mtu_limit = mtu;
                    tcb.mss = tcb.mss.min(tcb.path.mss());
                    tcb.nxt = tcb.una;
                    tcb.timing = None;
                    step.output = true;
                }
            } else if credible && matches!(tcb.state, State::SynSent) {
                step = tcb.fail(error);
                self.stack.tcp().remove(tcb.key);
                self.release_port(&mut inner);
            }
        }
        self.settle(&mut inner);
        drop(inner);
        self.after(step, tx);
        self.drain(&cx, tx);
    }
}

impl Timed for Tcp {
    fn slot(&self) -> &TimerSlot {
        &self.timer
    }

    fn on_timer(self: Arc<Self>, stack: &Arc<Stack>, now: u64, tx: &mut Tx) -> u64 {
        let cx = Cx { stack, now };
        let mut inner = self.inner.lock();
        let mut step = Step::default();
        let mut next = NEVER;
        if let Inner { role: Role::Flow(tcb), options, .. } = &mut *inner {
            if tcb.deadline() <= now {
                step = tcb.on_timer(&cx, options, tx);
                if step.dead {
                    stack.tcp().remove(tcb.key);
                }
            }
            next = tcb.deadline();
        }
        if step.dead {
            self.release_port(&mut inner);
        }
        self.settle(&mut inner);
        drop(inner);
        self.after(step, tx);
        self.drain(&cx, tx);
        next
    }
}
