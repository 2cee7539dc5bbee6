//! What a socket tells about itself, and its options.

use alloc::sync::Arc;

use base::{Errno, Result};

use super::options::Options;
use super::socket::{Inner, Role, Tcp};
use super::tcb::{AckDue, State};
use crate::addr::{Endpoint, Family, Ip};

/// What TCP_INFO tells.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Info {
    pub state: Option<State>,
    pub listening: bool,
    pub rto_ns: u64,
    pub rtt_ns: u64,
    pub rtt_var_ns: u64,
    pub send_mss: u32,
    pub receive_mss: u32,
    pub window: u32,
    pub threshold: u32,
    pub peer_window: u32,
    pub unacked: u32,
    pub retransmits: u32,
    pub backoff: u8,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segments_in: u32,
    pub segments_out: u32,
    pub sack: bool,
    pub window_scale: Option<(u8, u8)>,
    pub path_mtu: u32,
}

impl Tcp {
    /// SO_ERROR: the pending error, once.
    pub fn take_error(self: &Arc<Self>) -> Option<Errno> {
        self.with_inner(|inner, _, _| match &mut inner.role {
            Role::Flow(tcb) => {
                if tcb.synchronized() {
                    inner.connected = true;
                }
                tcb.error.take()
            }
            _ => inner.error.take(),
        })
    }

    /// Our address: `0.0.0.0:0` or `[::]:0` while there is none.
    pub fn local(&self) -> Endpoint {
        let inner = self.inner.lock();
        match &inner.role {
            Role::Flow(tcb) => tcb.key.local,
            _ => inner.bound.unwrap_or(Endpoint::new(if self.family == Family::V4 { Ip::ANY4 } else { Ip::ANY }, 0)),
        }
    }

    /// The peer's address. `ENOTCONN` if there is none.
    pub fn remote(&self) -> Result<Endpoint> {
        match &self.inner.lock().role {
            Role::Flow(tcb) if !matches!(tcb.state, State::SynSent | State::Closed) => Ok(tcb.key.remote),
            Role::Flow(tcb) if tcb.state == State::Closed && tcb.bytes_received + tcb.bytes_acked > 0 => {
                Ok(tcb.key.remote)
            }
            _ => Err(Errno::ENOTCONN),
        }
    }

    /// The options.
    pub fn options(&self) -> Options {
        self.inner.lock().options
    }

    /// Changes options; what was held back is sent if it may go now.
    pub fn set_options(self: &Arc<Self>, change: impl FnOnce(&mut Options)) {
        self.with_inner(|inner, cx, tx| {
            let before = inner.options;
            change(&mut inner.options);
            let Inner { role: Role::Flow(tcb), options, .. } = inner else {
                return;
            };
            if options.tos != before.tos || options.ttl != before.ttl || options.device != before.device {
                tcb.path.invalidate();
            }
            if options.keepalive && (!before.keepalive || options.keep_idle != before.keep_idle) {
                tcb.keep_at = cx.now + options.keep_idle_ns();
            }
            if before.cork && !options.cork || !before.nodelay && options.nodelay {
                tcb.more = false;
                tcb.output(cx, options, tx);
            }
        });
    }

    /// TCP_QUICKACK: acknowledge at once, also what waits now.
    pub fn quick_ack(self: &Arc<Self>, on: bool) {
        self.with_inner(|inner, cx, tx| {
            if let Inner { role: Role::Flow(tcb), options, .. } = inner {
                tcb.interactive = !on;
                tcb.quick = if on { 16 } else { 0 };
                if on && tcb.ack != AckDue::No {
                    tcb.ack = AckDue::Now;
                    tcb.output(cx, options, tx);
                }
            }
        });
    }

    /// Bytes that can be read (FIONREAD).
    pub fn readable(&self) -> usize {
        match &self.inner.lock().role {
            Role::Flow(tcb) => tcb.rx.len(),
            _ => 0,
        }
    }

    /// Bytes not yet acknowledged, and of those not yet sent (SIOCOUTQ, SIOCOUTQNSD).
    pub fn unsent(&self) -> (usize, usize) {
        match &self.inner.lock().role {
            Role::Flow(tcb) => {
                let unsent = (tcb.tx_end().wrapping_sub(tcb.nxt) as i32).max(0) as usize;
                (tcb.tx.len(), unsent.min(tcb.tx.len()))
            }
            _ => (0, 0),
        }
    }

    /// TCP_INFO.
    pub fn info(&self) -> Info {
        let inner = self.inner.lock();
        let mut info = Info {
            state: None,
            listening: matches!(inner.role, Role::Listen(_)),
            rto_ns: 0,
            rtt_ns: 0,
            rtt_var_ns: 0,
            send_mss: 536,
            receive_mss: 536,
            window: 10,
            threshold: u32::MAX,
            peer_window: 0,
            unacked: 0,
            retransmits: 0,
            backoff: 0,
            bytes_acked: 0,
            bytes_received: 0,
            segments_in: 0,
            segments_out: 0,
            sack: false,
            window_scale: None,
            path_mtu: 0,
        };
        if let Role::Flow(t) = &inner.role {
            info.state = Some(t.state);
            info.rto_ns = t.rtt.timeout();
            info.rtt_ns = t.rtt.smoothed;
            info.rtt_var_ns = t.rtt.variation;
            info.send_mss = t.mss;
            info.receive_mss = t.rcv_mss;
            info.window = t.cc.window / t.mss.max(1);
            info.threshold = t.cc.threshold / t.mss.max(1);
            info.peer_window = t.window;
            info.unacked = t.flight().div_ceil(t.mss.max(1));
            info.retransmits = t.retransmits;
            info.backoff = t.rtt.backoff;
            info.bytes_acked = t.bytes_acked;
            info.bytes_received = t.bytes_received;
            info.segments_in = t.segments_in;
            info.segments_out = t.segments_out;
            info.sack = t.sack;
            info.window_scale = t.scaled.then_some((t.scale, super::tcb::WINDOW_SHIFT));
            info.path_mtu = t.path.mss() + if t.key.remote.ip.is_v4() { 40 } else { 60 };
        }
        info
    }
}
