//! The sending half: what may be sent, segments, timers.

use alloc::vec::Vec;

use base::Errno;
use hal_core::device::{NetBuf, Offload, Segment as Cut};

use super::congestion::MAX_RTO;
use super::options::Options;
use super::segment::{before, flag};
use super::tcb::{AckDue, Cx, State, Step, Tcb, WINDOW_SHIFT};
use crate::checksum;
use crate::packet::ETHERNET_LEN;
use crate::stack::Tx;
use crate::timers::NEVER;

/// Free bytes before a frame: for a device's own header.
const ROOM: usize = 32;
/// How often a segment is sent again before the connection is given up, as Linux's tcp_retries2.
const MAX_BACKOFF: u8 = 15;
/// As Linux's tcp_syn_retries and tcp_synack_retries.
const SYN_RETRIES: u8 = 6;
const SYNACK_RETRIES: u8 = 5;
const DELAYED_ACK: u64 = 40_000_000;
/// How long TCP_CORK holds a small segment back, as on Linux.
const CORK_TIME: u64 = 200_000_000;

impl Tcb {
    /// Sends what may be sent, and the acknowledgement that is due.
    pub fn output(&mut self, cx: &Cx<'_>, options: &Options, tx: &mut Tx) {
        match self.state {
            State::SynSent | State::SynReceived => {
                if self.nxt == self.una {
                    self.send_syn(cx, options, tx);
                }
                return;
            }
            State::Closed => return,
            _ => {}
        }
        if self.recover.is_some() {
            self.retransmit_holes(cx, options, tx);
        }
        self.send_new(cx, options, tx);
        if self.ack == AckDue::Now {
            self.emit(cx, options, tx, self.nxt, 0, flag::ACK);
        }
        self.arm(cx);
    }

    /// Payload of a full segment: what SACK blocks take is not there for data.
    fn effective_mss(&self) -> u32 {
        self.mss - if self.sack && !self.reorder.is_empty() { 28 } else { 0 }
    }

    fn send_new(&mut self, cx: &Cx<'_>, options: &Options, tx: &mut Tx) {
        let end = self.tx_end();
        let mss = self.effective_mss();
        loop {
            let unsent = if before(self.nxt, end) { end.wrapping_sub(self.nxt) } else { 0 };
            let fin = self.fin_wanted && !before(end, self.nxt);
            if unsent == 0 && !fin {
                return;
            }
            let flight = self.flight();
            if flight == 0 && cx.now.saturating_sub(self.last_send) > self.rtt.timeout() && unsent > 0 {
                self.cc.on_idle(self.mss);
            }
            let by_peer = self.una.wrapping_add(self.window).wrapping_sub(self.nxt) as i32;
            let by_peer = by_peer.max(0) as u32;
            let by_network = self.cc.window.saturating_sub(self.outstanding());
            let most = (self.path.big() as u32 / mss).max(1) * mss;
            let n = unsent.min(by_peer).min(by_network).min(most);
            let whole = n == unsent;
            if n < mss && n < unsent {
                // The windows cut the segment: a small piece only if nothing else will open them.
                if n == 0 || flight > 0 && n < self.max_window / 2 {
                    return;
                }
            }
            if n < mss && whole && unsent > 0 && !fin {
                let corked = (options.cork || self.more) && cx.now < self.cork_at;
                if corked {
                    if self.cork_at == NEVER {
                        self.cork_at = cx.now + CORK_TIME;
                    }
                    return;
                }
                if flight > 0 && !options.nodelay && before(self.una, self.small_end) {
                    return;
                }
            }
            let n = if n > mss && !whole { n - n % mss } else { n };
            let mut flags = flag::ACK;
            if n == unsent && n > 0 {
                flags |= flag::PSH;
            }
            if n == unsent && fin {
                flags |= flag::FIN;
            }
            self.cork_at = NEVER;
            if n < mss && n > 0 {
                self.small_end = self.nxt.wrapping_add(n);
            }
            self.emit(cx, options, tx, self.nxt, n as usize, flags);
            if flags & flag::FIN != 0 {
                return;
            }
        }
    }

    /// Bytes in the network by the scoreboard's estimate (RFC 6675, "pipe").
    fn outstanding(&self) -> u32 {
        if self.recover.is_none() {
            return self.flight();
        }
        match self.scoreboard.highest() {
            Some(high) => {
                let again = if before(self.rexmit, high) { self.rexmit } else { high };
                let beyond = (self.nxt.wrapping_sub(high) as i32).max(0) as u32;
                beyond + self.scoreboard.missing(self.una, again)
            }
            // Without SACK each duplicate says that one segment has left the network.
            None => self.flight().saturating_sub(u32::from(self.dup_acks) * self.mss),
        }
    }

    /// Sends again what the peer lacks, as far as the window goes; the first piece in any case.
    fn retransmit_holes(&mut self, cx: &Cx<'_>, options: &Options, tx: &mut Tx) {
        loop {
            let first = self.rexmit == self.una;
            let hole = if self.scoreboard.is_empty() {
                first.then_some((self.una, self.una.wrapping_add(self.mss)))
            } else {
                self.scoreboard.hole(self.rexmit)
            };
            let Some((start, end)) = hole else { return };
            if !first && self.cc.window.saturating_sub(self.outstanding()) < self.mss {
                return;
            }
            let data_end = self.tx_end();
            let n = end.wrapping_sub(start).min(self.effective_mss());
            let n = if before(start, data_end) { n.min(data_end.wrapping_sub(start)) } else { 0 };
            let fin = self.fin_wanted && start.wrapping_add(n) == data_end && before(data_end, self.max);
            if n == 0 && !fin {
                return;
            }
            self.retransmits += 1;
            self.emit(cx, options, tx, start, n as usize, flag::ACK | if fin { flag::FIN } else { 0 });
            self.rexmit = start.wrapping_add(n + u32::from(fin));
        }
    }

    fn send_syn(&mut self, cx: &Cx<'_>, options: &Options, tx: &mut Tx) {
        let flags = if self.state == State::SynReceived { flag::SYN | flag::ACK } else { flag::SYN };
        self.emit(cx, options, tx, self.una, 0, flags);
        self.rto_at = cx.now + self.rtt.timeout();
    }

    /// Arms the retransmission or the window probe timer, if one is needed and none runs.
    fn arm(&mut self, cx: &Cx<'_>) {
        if self.rto_at != NEVER {
            return;
        }
        if self.flight() > 0 || before(self.nxt, self.tx_end()) && self.cork_at == NEVER {
            self.rto_at = cx.now + self.rtt.timeout();
        }
    }

    /// The window to advertise; moves the edge when that is worth it (RFC 9293, 3.8.6.2.2).
    #[inline]
    fn advertise(&mut self, options: &Options) -> u32 {
        let room = self.receive_room(options);
        let old = self.edge.wrapping_sub(self.rcv_nxt);
        if (old as i32) < 0 {
            self.edge = self.rcv_nxt;
        }
        if room > old && (room - old >= self.rcv_mss.min(options.receive_buffer / 2) || old == 0) || (old as i32) < 0 {
            let room = if self.scaled { room >> WINDOW_SHIFT << WINDOW_SHIFT } else { room.min(65535) };
            let edge = self.rcv_nxt.wrapping_add(room);
            if before(self.edge, edge) {
                self.edge = edge;
            }
        }
        self.edge.wrapping_sub(self.rcv_nxt)
    }

    /// True if the application has read so much that the peer should hear of it.
    pub fn window_opened(&self, options: &Options) -> bool {
        if self.eof || !self.synchronized() {
            return false;
        }
        let room = self.receive_room(options);
        let old = self.edge.wrapping_sub(self.rcv_nxt);
        room > old && (room - old >= options.receive_buffer / 4 || old < self.rcv_mss && room >= 2 * self.rcv_mss)
    }

    /// Builds one segment and gives it to the interface.
    pub fn emit(&mut self, cx: &Cx<'_>, options: &Options, tx: &mut Tx, seq: u32, len: usize, flags: u8) {
        self.path.refresh(cx.stack, &self.key, options.ttl, options.tos, options.device);
        let syn = flags & flag::SYN != 0;
        let mut extra = [0u8; 40];
        let mut extra_len = 0;
        let window = if syn {
            let room = self.receive_room(options).min(65535);
            if flags & flag::ACK != 0 {
                self.edge = self.rcv_nxt.wrapping_add(room);
            }
            let mut mss = self.path.mss();
            if options.max_segment != 0 {
                mss = mss.min(options.max_segment);
            }
            extra[..4].copy_from_slice(&[2, 4, (mss >> 8) as u8, mss as u8]);
            extra_len = 4;
            if flags & flag::ACK == 0 || self.sack {
                extra[extra_len..extra_len + 4].copy_from_slice(&[1, 1, 4, 2]);
                extra_len += 4;
            }
            if flags & flag::ACK == 0 || self.scaled {
                extra[extra_len..extra_len + 4].copy_from_slice(&[1, 3, 3, WINDOW_SHIFT]);
                extra_len += 4;
            }
            room
        } else {
            let window = self.advertise(options);
            if self.sack && !self.reorder.is_empty() {
                let (blocks, count) = self.reorder.blocks();
                let count = count.min(3);
                extra[..4].copy_from_slice(&[1, 1, 5, 2 + 8 * count as u8]);
                for (i, (start, end)) in blocks[..count].iter().enumerate() {
                    extra[4 + 8 * i..8 + 8 * i].copy_from_slice(&start.to_be_bytes());
                    extra[8 + 8 * i..12 + 8 * i].copy_from_slice(&end.to_be_bytes());
                }
                extra_len = 4 + 8 * count;
            }
            if self.scaled { window.div_ceil(1 << WINDOW_SHIFT).min(65535) } else { window.min(65535) }
        };
        let header = self.path.header();
        let link = self.path.link_len();
        let tcp_at = ROOM + ETHERNET_LEN - link + header.len();
        let payload_at = tcp_at + 20 + extra_len;
        let mut frame = Vec::with_capacity(payload_at + len);
        frame.extend_from_slice(&[0; ROOM + ETHERNET_LEN][..ROOM + ETHERNET_LEN - link]);
        frame.extend_from_slice(header);
        let ack = if flags & flag::ACK != 0 { self.rcv_nxt } else { 0 };
        let mut h = [0u8; 20];
        h[0..2].copy_from_slice(&self.key.local.port.to_be_bytes());
        h[2..4].copy_from_slice(&self.key.remote.port.to_be_bytes());
        h[4..8].copy_from_slice(&seq.to_be_bytes());
        h[8..12].copy_from_slice(&ack.to_be_bytes());
        h[12] = ((20 + extra_len) as u8 / 4) << 4;
        h[13] = flags;
        h[14..16].copy_from_slice(&(window as u16).to_be_bytes());
        frame.extend_from_slice(&h);
        frame.extend_from_slice(&extra[..extra_len]);
        let (a, b) = self.tx.pieces(seq.wrapping_sub(self.tx_seq) as usize, if syn { 0 } else { len });
        frame.extend_from_slice(a);
        frame.extend_from_slice(b);
        let len = a.len() + b.len();
        let tcp_len = 20 + extra_len + len;
        self.path.finish(&mut frame[tcp_at - (header.len() - link)..], tcp_len);

        let mut offload = Offload::default();
        let pseudo = checksum::add_len(self.path.pseudo, tcp_len);
        let caps = &self.path.interface.caps;
        if self.path.interface.is_loopback() {
            offload.checksum_valid = true;
        } else {
            let start = ROOM + ETHERNET_LEN - link;
            if caps.tx_checksum {
                frame[tcp_at + 16..tcp_at + 18].copy_from_slice(&checksum::fold(pseudo).to_le_bytes());
                offload.checksum = Some(((tcp_at - start) as u16, 16));
            } else {
                let sum = checksum::finish(checksum::add(pseudo, &frame[tcp_at..]));
                frame[tcp_at + 16..tcp_at + 18].copy_from_slice(&sum);
            }
            let mss = if syn { 0 } else { self.effective_mss() as usize };
            if !syn && len > mss {
                offload.segment = Some(Cut {
                    ipv6: !self.path.pseudo_is_v4(),
                    size: mss as u16,
                    header_len: (payload_at - start) as u16,
                });
            }
        }
        let total = frame.len();
        let start = ROOM + ETHERNET_LEN - link;
        let mut buf = NetBuf::from_box(frame.into_boxed_slice(), start, total - start);
        buf.offload = offload;
        if self.path.linked {
            cx.stack.push_frame(&self.path.interface, buf, tx);
        } else {
            cx.stack.send_packet(&self.path.interface, self.path.next, buf, cx.now, tx);
        }
        self.sent(cx, seq, len as u32, flags);
    }

    fn sent(&mut self, cx: &Cx<'_>, seq: u32, len: u32, flags: u8) {
        self.segments_out = self.segments_out.wrapping_add(1);
        if flags & flag::ACK != 0 {
            if let AckDue::Delayed(_) = self.ack
                && len > 0
            {
                self.interactive = true;
            }
            self.ack = AckDue::No;
            self.acked = self.rcv_nxt;
        }
        let span = len + u32::from(flags & (flag::SYN | flag::FIN) != 0);
        if span == 0 {
            return;
        }
        self.last_send = cx.now;
        let end = seq.wrapping_add(span);
        if before(seq, self.max) {
            self.timing = None; // Karn: a segment sent twice says nothing about time
        } else if self.timing.is_none() {
            self.timing = Some((end, cx.now));
        }
        if before(self.nxt, end) {
            self.nxt = end;
        }
        if before(self.max, end) {
            self.max = end;
        }
    }

    /// Does what is due at this time.
    pub fn on_timer(&mut self, cx: &Cx<'_>, options: &Options, tx: &mut Tx) -> Step {
        if self.state == State::Closed {
            return Step::default();
        }
        if cx.now >= self.end_at {
            return self.finish();
        }
        if let AckDue::Delayed(at) = self.ack
            && cx.now >= at
        {
            self.interactive = false;
            self.ack = AckDue::Now;
        }
        if cx.now >= self.keep_at {
            let step = self.keep_alive(cx, options, tx);
            if step.dead {
                return step;
            }
        }
        if cx.now >= self.rto_at {
            let step = self.on_timeout(cx, options, tx);
            if step.dead {
                return step;
            }
        }
        self.output(cx, options, tx);
        if self.tx.len() == 0 && self.flight() == 0 {
            self.tx.shrink();
        }
        self.rx.shrink();
        Step::default()
    }

    fn on_timeout(&mut self, cx: &Cx<'_>, options: &Options, tx: &mut Tx) -> Step {
        self.rto_at = NEVER;
        let pending = before(self.una, self.max) || before(self.nxt, self.tx_end());
        if !pending {
            return Step::default();
        }
        let limit = match self.state {
            State::SynSent => SYN_RETRIES,
            State::SynReceived => SYNACK_RETRIES,
            _ if self.orphan => 8,
            _ => MAX_BACKOFF,
        };
        let probing = self.window == 0 && self.flight() == 0 && self.synchronized();
        let silent = cx.now.saturating_sub(self.heard);
        let expired =
            options.user_timeout != 0 && silent >= u64::from(options.user_timeout) * 1_000_000 && self.synchronized();
        // A peer that answers window probes is alive, however long it keeps its window shut.
        let given_up = self.rtt.backoff >= limit && (!probing || silent > MAX_RTO);
        if expired || given_up {
            return self.fail(Errno::ETIMEDOUT);
        }
        self.rtt.backoff = (self.rtt.backoff + 1).min(MAX_BACKOFF);
        self.path.invalidate();
        self.retransmits = self.retransmits.wrapping_add(1);
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.nxt = self.una;
            return Step::default(); // output sends it again
        }
        if self.flight() == 0 && self.max == self.una && self.window > 0 {
            return Step::default(); // nothing was lost: something held the data back
        }
        if probing {
            // One byte beyond the window makes the peer tell its window.
            self.emit(cx, options, tx, self.nxt, 1, flag::ACK);
            self.nxt = self.una;
            self.rto_at = cx.now + self.rtt.timeout();
            return Step::default();
        }
        self.cc.on_timeout(self.max.wrapping_sub(self.una), self.mss);
        self.recover = None;
        self.dup_acks = 0;
        self.scoreboard.clear();
        self.timing = None;
        self.nxt = self.una;
        Step::default()
    }

    fn keep_alive(&mut self, cx: &Cx<'_>, options: &Options, tx: &mut Tx) -> Step {
        if !options.keepalive || !self.synchronized() {
            self.keep_at = NEVER;
            return Step::default();
        }
        let idle_until = self.heard + options.keep_idle_ns();
        if cx.now < idle_until && self.keep_probes == 0 || self.flight() > 0 {
            self.keep_at = idle_until.max(cx.now + options.keep_interval_ns());
            return Step::default();
        }
        if self.keep_probes >= options.keep_count {
            return self.fail(Errno::ETIMEDOUT);
        }
        self.keep_probes += 1;
        self.keep_at = cx.now + options.keep_interval_ns();
        // An old sequence number makes the peer answer (RFC 9293, 3.8.4).
        self.emit(cx, options, tx, self.una.wrapping_sub(1), 0, flag::ACK);
        Step::default()
    }

    /// Notes that `n` bytes came in order and decides when they are acknowledged.
    #[inline]
    pub fn schedule_ack(&mut self, cx: &Cx<'_>, filled_gap: bool) {
        if self.ack == AckDue::Now {
            return;
        }
        let bytes = self.rcv_nxt.wrapping_sub(self.acked);
        if filled_gap || bytes >= 2 * self.rcv_mss {
            self.ack = AckDue::Now;
        } else if self.quick > 0 && !self.interactive {
            self.quick -= 1;
            self.ack = AckDue::Now;
        } else if self.ack == AckDue::No {
            self.ack = AckDue::Delayed(cx.now + DELAYED_ACK);
        }
    }

    /// Sends a reset in place of whatever was to come.
    pub fn send_reset(&mut self, cx: &Cx<'_>, options: &Options, tx: &mut Tx) {
        let flags = if self.state == State::SynSent { flag::RST } else { flag::RST | flag::ACK };
        self.emit(cx, options, tx, self.nxt, 0, flags);
    }
}
