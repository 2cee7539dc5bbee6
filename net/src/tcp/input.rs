//! The receiving half: what a segment does to a connection (RFC 9293, 3.10.7; RFC 5961; RFC 6675).

use base::{Errno, Events};
use hal_core::device::NetBuf;

use super::buffers::pull;
use super::options::Options;
use super::segment::{Segment, before, flag};
use super::tcb::{AckDue, Cx, State, Step, Tcb, WINDOW_SHIFT};
use crate::stack::Tx;
use crate::timers::NEVER;

const SECOND: u64 = 1_000_000_000;
/// How long a closed socket waits for the peer's FIN, as Linux's tcp_fin_timeout.
pub(crate) const FIN_TIMEOUT: u64 = 60 * SECOND;

impl Tcb {
    /// Takes one segment. `room` says whether the listener could take the connection if this ends the handshake.
    pub fn input(
        &mut self,
        cx: &Cx<'_>,
        options: &Options,
        seg: &Segment,
        buf: NetBuf,
        room: bool,
        tx: &mut Tx,
    ) -> Step {
        self.segments_in = self.segments_in.wrapping_add(1);
        match self.state {
            State::SynSent => return self.input_syn_sent(cx, options, seg, tx),
            State::Closed => return Step::default(),
            _ => {}
        }
        self.heard = cx.now;
        self.keep_probes = 0;
        let offset = seg.seq.wrapping_sub(self.rcv_nxt) as i32;
        let edge = self.edge.wrapping_add(if self.scaled { (1 << WINDOW_SHIFT) - 1 } else { 0 });

        if seg.has(flag::RST) {
            return if offset == 0 {
                self.reset_by_peer()
            } else if offset > 0 && before(seg.seq, edge) {
                self.challenge(cx, options, tx)
            } else {
                Step::default()
            };
        }
        if seg.has(flag::SYN) {
            if self.state == State::SynReceived && seg.seq == self.irs && !seg.has(flag::ACK) {
                self.nxt = self.una; // our SYN-ACK was lost
                return Step { output: true, ..Step::default() };
            }
            if !(self.state == State::SynReceived && seg.has(flag::ACK)) {
                return self.challenge(cx, options, tx);
            }
        }
        if !seg.has(flag::ACK) {
            return Step::default();
        }

        let span = seg.span();
        let end = seg.seq.wrapping_add(span);
        let acceptable = if span == 0 {
            offset == 0 || offset > 0 && before(seg.seq, edge)
        } else {
            before(seg.seq, edge) && before(self.rcv_nxt, end)
        };

        let mut step = Step::default();
        if self.state == State::SynReceived {
            if !before(self.una, seg.ack) || before(self.max, seg.ack) {
                cx.stack.tcp_reset(self.key, seg, cx.now, tx);
                return step;
            }
            if !acceptable && !seg.has(flag::SYN) || !room {
                return step; // the peer will send again
            }
            self.state = State::Established;
            self.una = self.una.wrapping_add(1);
            self.sample(cx, seg.ack);
            self.rto_at = NEVER;
            self.rtt.backoff = 0;
            self.window = u32::from(seg.window) << self.scale;
            self.max_window = self.window;
            (self.wl1, self.wl2) = (seg.seq, seg.ack);
            self.edge = self.rcv_nxt.wrapping_add(self.receive_room(options).min(65535));
            step.established = true;
            step.events |= Events::OUT | Events::WRNORM;
        }

        if before(self.max, seg.ack) {
            let more = self.challenge(cx, options, tx);
            step.output |= more.output;
            return step;
        }
        if !before(seg.ack, self.una) {
            self.on_ack(cx, options, seg, &mut step);
            if step.dead || self.state == State::TimeWait {
                return step;
            }
        }
        if span == 0 {
            if offset < 0 {
                // A keep-alive or an old acknowledgement: the former wants an answer.
                if offset == -1 {
                    self.ack = AckDue::Now;
                    step.output = true;
                }
            }
            return step;
        }
        if !acceptable {
            self.ack = AckDue::Now;
            step.output = true;
            return step;
        }
        self.on_data(cx, options, seg, buf, edge, &mut step, tx);
        step
    }

    fn input_syn_sent(&mut self, cx: &Cx<'_>, options: &Options, seg: &Segment, tx: &mut Tx) -> Step {
        let acks = seg.has(flag::ACK);
        if acks && (!before(self.una, seg.ack) || before(self.max, seg.ack)) {
            if !seg.has(flag::RST) {
                cx.stack.tcp_reset(self.key, seg, cx.now, tx);
            }
            return Step::default();
        }
        if seg.has(flag::RST) {
            return if acks { self.fail(Errno::ECONNREFUSED) } else { Step::default() };
        }
        if !seg.has(flag::SYN) {
            return Step::default();
        }
        self.heard = cx.now;
        self.on_syn_options(seg, options);
        if !self.scaled {
            self.scale = 0;
        }
        if !acks {
            // Simultaneous open: answer with SYN-ACK.
            self.state = State::SynReceived;
            self.nxt = self.una;
            return Step { output: true, ..Step::default() };
        }
        self.sample(cx, seg.ack);
        self.una = seg.ack;
        self.nxt = seg.ack;
        self.rto_at = NEVER;
        self.rtt.backoff = 0;
        self.state = State::Established;
        self.ack = AckDue::Now;
        Step { events: Events::OUT | Events::WRNORM, output: true, ..Step::default() }
    }

    fn reset_by_peer(&mut self) -> Step {
        let error = match self.state {
            State::CloseWait => Errno::EPIPE,
            _ => Errno::ECONNRESET,
        };
        match self.state {
            State::Closing | State::LastAck | State::TimeWait => self.finish(),
            _ => self.fail(error),
        }
    }

    /// A blind attacker could have sent this: ask, at most ten times a second (RFC 5961).
    fn challenge(&mut self, cx: &Cx<'_>, _options: &Options, _tx: &mut Tx) -> Step {
        if cx.now < self.challenged {
            return Step::default();
        }
        self.challenged = cx.now + SECOND / 10;
        self.ack = AckDue::Now;
        Step { output: true, ..Step::default() }
    }

    fn sample(&mut self, cx: &Cx<'_>, ack: u32) {
        if let Some((end, sent)) = self.timing
            && !before(ack, end)
        {
            self.rtt.sample(cx.now.saturating_sub(sent));
            self.timing = None;
        }
    }

    fn on_ack(&mut self, cx: &Cx<'_>, options: &Options, seg: &Segment, step: &mut Step) {
        let ack = seg.ack;
        let acked = ack.wrapping_sub(self.una);
        let mut news = false;
        for (start, end) in &seg.sacks[..usize::from(seg.sack_count)] {
            news |= self.sack && self.scoreboard.add(*start, *end, ack, self.max);
        }
        let window = u32::from(seg.window) << self.scale;
        let mut updated = false;
        if before(self.wl1, seg.seq) || self.wl1 == seg.seq && !before(ack, self.wl2) {
            updated = window != self.window;
            if updated {
                if self.window == 0 && self.flight() == 0 {
                    self.rto_at = NEVER; // no more probes
                    self.rtt.backoff = 0;
                }
                self.window = window;
                self.max_window = self.max_window.max(window);
            }
            (self.wl1, self.wl2) = (seg.seq, ack);
        }
        if acked > 0 {
            self.on_progress(cx, options, ack, acked, step);
        } else if seg.span() == 0 && before(self.una, self.max) && (!updated && self.flight() > 0 || news) {
            self.dup_acks = self.dup_acks.saturating_add(1);
        }
        if self.recover.is_none() && before(self.una, self.nxt) {
            let sacked = self.scoreboard.bytes();
            if self.dup_acks >= 3 || sacked > 2 * self.mss {
                self.recover = Some(self.max);
                self.rexmit = self.una;
                self.cc.on_loss(self.flight(), self.mss);
                self.timing = None;
                step.output = true;
            }
        } else if self.recover.is_some() {
            step.output = true;
        }
        if before(self.nxt, self.tx_end()) || self.fin_wanted && !before(self.tx_end(), self.nxt) {
            step.output = true;
        }
        self.finish_closing(cx, ack, step);
    }

    /// New bytes were acknowledged.
    fn on_progress(&mut self, cx: &Cx<'_>, options: &Options, ack: u32, acked: u32, step: &mut Step) {
        let flight = self.flight();
        self.sample(cx, ack);
        let limited =
            flight + self.mss >= self.cc.window || self.cc.window < self.cc.threshold && flight * 2 >= self.cc.window;
        let data = (ack.wrapping_sub(self.tx_seq) as i32).clamp(0, self.tx.len() as i32) as usize;
        self.tx.consume(data);
        self.tx_seq = self.tx_seq.wrapping_add(data as u32);
        self.bytes_acked += data as u64;
        self.una = ack;
        if before(self.nxt, ack) {
            self.nxt = ack;
        }
        self.scoreboard.advance(ack);
        self.rtt.backoff = 0;
        match self.recover {
            Some(end) if before(ack, end) => {
                // A partial acknowledgement: what follows it is lost too (RFC 6582), unless SACK says otherwise.
                if self.scoreboard.is_empty() || before(self.rexmit, ack) {
                    self.rexmit = ack;
                }
                self.dup_acks = 0;
            }
            Some(_) => {
                self.recover = None;
                self.dup_acks = 0;
                self.cc.window = self.cc.threshold.max(2 * self.mss);
            }
            None => {
                self.dup_acks = 0;
                if limited {
                    self.cc.on_ack(acked, self.mss, cx.now, self.rtt.smoothed);
                }
            }
        }
        self.rto_at = if self.una == self.max && self.nxt == self.max { NEVER } else { cx.now + self.rtt.timeout() };
        if self.blocked && self.writable(options) {
            self.blocked = false;
            step.events |= Events::OUT | Events::WRNORM;
        }
    }

    /// Moves on if the peer has acknowledged our FIN.
    fn finish_closing(&mut self, cx: &Cx<'_>, ack: u32, step: &mut Step) {
        if !self.fin_wanted || ack != self.tx_end().wrapping_add(1) {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.orphan {
                    self.end_at = cx.now + FIN_TIMEOUT;
                }
            }
            State::Closing => {
                self.state = State::TimeWait;
                step.events |= Events::HUP;
            }
            State::LastAck => *step = self.finish(),
            _ => {}
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn on_data(
        &mut self,
        cx: &Cx<'_>,
        options: &Options,
        seg: &Segment,
        mut buf: NetBuf,
        edge: u32,
        step: &mut Step,
        tx: &mut Tx,
    ) {
        let receiving = matches!(self.state, State::Established | State::FinWait1 | State::FinWait2);
        if !receiving {
            // After the peer's FIN nothing new can come: a repetition is acknowledged again.
            self.ack = AckDue::Now;
            step.output = true;
            return;
        }
        let (mut seq, mut len) = (seg.seq, seg.payload);
        if seg.has(flag::SYN) {
            seq = seq.wrapping_add(1);
        }
        if len > 0 && self.orphan {
            // Nobody will read it: tell the peer (RFC 2525, 2.17).
            self.send_reset(cx, options, tx);
            *step = self.finish();
            return;
        }
        if seg.has(flag::FIN) {
            let at = seq.wrapping_add(len);
            if !before(edge, at) {
                self.fin_seq = Some(at);
            }
        }
        if before(seq, self.rcv_nxt) {
            let old = self.rcv_nxt.wrapping_sub(seq).min(len);
            pull(&mut buf, old as usize);
            seq = seq.wrapping_add(old);
            len -= old;
            if len == 0 {
                self.ack = AckDue::Now;
                step.output = true;
            }
        }
        if before(edge, seq.wrapping_add(len)) {
            len = edge.wrapping_sub(seq);
            crate::packet::truncate(&mut buf, len as usize);
        }
        if len > 0 {
            if seq == self.rcv_nxt {
                self.receive(len, buf);
                let filled = !self.reorder.is_empty();
                while let Some((seq, len, mut buf)) = self.reorder.take(self.rcv_nxt) {
                    let old = self.rcv_nxt.wrapping_sub(seq);
                    pull(&mut buf, old as usize);
                    self.receive(len - old, buf);
                }
                self.schedule_ack(cx, filled);
                step.events |= Events::IN | Events::RDNORM;
            } else {
                let limit = options.receive_buffer as usize * 2;
                self.reorder.insert(seq, len, buf, limit);
                self.ack = AckDue::Now;
            }
            step.output |= self.ack == AckDue::Now;
        }
        if self.fin_seq == Some(self.rcv_nxt) && !self.eof {
            self.on_fin(cx, step);
        }
    }

    #[inline]
    fn receive(&mut self, len: u32, buf: NetBuf) {
        self.rcv_nxt = self.rcv_nxt.wrapping_add(len);
        self.bytes_received += u64::from(len);
        if len > self.rcv_mss {
            self.rcv_mss = len.min(self.path.mss());
        }
        if self.read_shut {
            return;
        }
        self.rx.push(buf);
    }

    fn on_fin(&mut self, cx: &Cx<'_>, step: &mut Step) {
        self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
        self.eof = true;
        self.ack = AckDue::Now;
        step.output = true;
        step.events |= Events::IN | Events::RDNORM | Events::RDHUP;
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => {
                self.state = State::TimeWait;
                step.events |= Events::HUP;
            }
            _ => {}
        }
        let _ = cx;
    }
}
