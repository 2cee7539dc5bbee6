//! Listening sockets: binding, the backlog, half-open connections.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};

use base::{Errno, Events, Result};

use super::path::Path;
use super::segment::Segment;
use super::socket::{Inner, Role, Tcp};
use super::tcb::{Cx, State, Tcb};
use crate::addr::{Endpoint, Family, FlowKey, Ip};
use crate::stack::Tx;

/// Most connections of one listener between SYN and the handshake's end; the oldest gives way, so that a flood
/// costs bounded memory and others still get through.
const MAX_HALF_OPEN: usize = 1024;
/// As Linux's somaxconn.
const MAX_BACKLOG: usize = 4096;

pub(super) struct Listener {
    backlog: usize,
    half_open: VecDeque<Weak<Tcp>>,
    ready: VecDeque<Arc<Tcp>>,
}

impl Listener {
    pub fn readiness(&self) -> Events {
        if self.ready.is_empty() { Events::empty() } else { Events::IN | Events::RDNORM }
    }

    pub fn take_all(&mut self) -> VecDeque<Arc<Tcp>> {
        let mut all = core::mem::take(&mut self.ready);
        all.extend(core::mem::take(&mut self.half_open).iter().filter_map(Weak::upgrade));
        all
    }
}

impl Tcp {
    /// Gives the socket a local address. Port 0: one is chosen.
    pub fn bind(self: &Arc<Self>, local: Endpoint) -> Result<()> {
        if self.family == Family::V4 && !local.ip.is_v4() {
            return Err(Errno::EAFNOSUPPORT);
        }
        let device = self.options().device;
        if !local.ip.is_unspecified() && !self.stack.is_local(local.ip) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let _ = device;
        let mut inner = self.inner.lock();
        if inner.bound.is_some() || !matches!(inner.role, Role::Idle) {
            return Err(Errno::EINVAL);
        }
        if inner.options.v6_only && local.ip.is_v4() && self.family == Family::V6 {
            return Err(Errno::EINVAL);
        }
        let port = self.stack.tcp().bind(&self.stack, self, local, &inner.options)?;
        inner.bound = Some(Endpoint::new(local.ip, port));
        inner.reserved = true;
        Ok(())
    }

    /// Starts listening, or changes the backlog.
    pub fn listen(self: &Arc<Self>, backlog: i32) -> Result<()> {
        let backlog = usize::try_from(backlog).unwrap_or(MAX_BACKLOG).clamp(1, MAX_BACKLOG);
        if self.inner.lock().bound.is_none() {
            self.bind(Endpoint::new(if self.family == Family::V4 { Ip::ANY4 } else { Ip::ANY }, 0))?;
        }
        let mut inner = self.inner.lock();
        match &mut inner.role {
            Role::Listen(l) => l.backlog = backlog,
            Role::Flow(_) => return Err(Errno::EINVAL),
            Role::Idle => {
                let local = inner.bound.ok_or(Errno::EINVAL)?;
                self.stack.tcp().listen(self, local, &inner.options)?;
                inner.role = Role::Listen(Listener { backlog, half_open: VecDeque::new(), ready: VecDeque::new() });
                drop(inner);
                self.with_inner(|_, _, _| ());
            }
        }
        Ok(())
    }

    pub(super) fn unlisten(self: &Arc<Self>, inner: &mut Inner) {
        if let Some(local) = inner.bound {
            self.stack.tcp().unlisten(self, local);
        }
        inner.role = Role::Idle;
    }

    pub(super) fn release_port(self: &Arc<Self>, inner: &mut Inner) {
        if inner.reserved
            && let Some(local) = inner.bound
        {
            self.stack.tcp().unbind(self, local.port);
            inner.reserved = false;
        }
    }

    /// A SYN for this listener.
    pub(crate) fn on_syn(self: &Arc<Self>, cx: &Cx<'_>, key: FlowKey, seg: &Segment, tx: &mut Tx) {
        let options = {
            let inner = self.inner.lock();
            let Role::Listen(l) = &inner.role else { return };
            if l.ready.len() >= l.backlog {
                return; // the peer tries again
            }
            inner.options
        };
        let Ok(path) = Path::new(cx.stack, &key, options.ttl, options.tos, options.device) else {
            return;
        };
        let iss = cx.stack.initial_sequence(&key, cx.now);
        let mut tcb = Box::new(Tcb::new(cx, key, path, iss, State::SynReceived, &options));
        tcb.on_syn_options(seg, &options);
        let child = Tcp::with(cx.stack, self.family, Role::Flow(tcb), options, Arc::downgrade(self), Some(key.local));
        if !cx.stack.tcp().insert(key, &child) {
            return;
        }
        let mut evicted = None;
        {
            let mut inner = self.inner.lock();
            let Role::Listen(l) = &mut inner.role else {
                drop(inner);
                cx.stack.tcp().remove(key);
                return;
            };
            if l.half_open.len() >= MAX_HALF_OPEN {
                evicted = l.half_open.pop_front().and_then(|w| w.upgrade());
            }
            l.half_open.push_back(Arc::downgrade(&child));
        }
        if let Some(old) = evicted {
            old.forget();
        }
        child.run_output(cx.now, tx);
    }

    // Drops a half-open connection without a word.
    fn forget(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        if let Role::Flow(tcb) = &mut inner.role
            && tcb.state == State::SynReceived
        {
            tcb.finish();
            self.stack.tcp().remove(tcb.key);
        }
    }

    pub(super) fn has_room(&self) -> bool {
        match &self.inner.lock().role {
            Role::Listen(l) => l.ready.len() < l.backlog.max(1),
            _ => true,
        }
    }

    pub(super) fn child_established(self: &Arc<Self>, child: &Arc<Tcp>) {
        let accepted = self.with_inner(|inner, _, _| {
            let Role::Listen(l) = &mut inner.role else { return false };
            let this = Arc::as_ptr(child);
            l.half_open.retain(|w| w.as_ptr() != this && w.strong_count() > 0);
            l.ready.push_back(child.clone());
            true
        });
        if accepted {
            self.subject().notify(Events::IN | Events::RDNORM);
        } else {
            child.abort();
        }
    }

    /// Takes a connection from the backlog. `EAGAIN` if there is none.
    pub fn accept(self: &Arc<Self>) -> Result<Arc<Tcp>> {
        let child = self.with_inner(|inner, _, _| match &mut inner.role {
            Role::Listen(l) => l.ready.pop_front().ok_or(Errno::EAGAIN),
            _ => Err(Errno::EINVAL),
        })?;
        child.inner.lock().connected = true;
        Ok(child)
    }
}
