//! The state of one connection (RFC 9293, 3.3.1). `input` and `output` hold its two halves.

use alloc::sync::Arc;

use base::{Errno, Events};

use super::buffers::{RecvQueue, Reorder, SendBuf};
use super::congestion::{Congestion, Rtt, Scoreboard};
use super::options::Options;
use super::path::Path;
use super::segment::Segment;
use crate::addr::FlowKey;
use crate::stack::Stack;
use crate::timers::NEVER;

/// Connection states; LISTEN is another kind of socket, and TIME-WAIT outlives the connection's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// Shift of the receive window: 128-byte units, up to 8 MiB.
pub(crate) const WINDOW_SHIFT: u8 = 7;
/// Segment size when the peer does not tell (RFC 9293, 3.7.1).
const DEFAULT_MSS4: u32 = 536;
const DEFAULT_MSS6: u32 = 1220;
/// Below this a peer's segment size is not believed: it would make us send mostly headers.
const MIN_MSS: u32 = 64;

/// The world during one call.
pub(crate) struct Cx<'a> {
    pub stack: &'a Arc<Stack>,
    pub now: u64,
}

/// What a step means for the rest of the stack.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// Tell observers.
    pub events: Events,
    /// The handshake ended: hand the connection to its listener.
    pub established: bool,
    /// There is something to send: call `output` at the end of the batch.
    pub output: bool,
    /// The connection is over: forget it.
    pub dead: bool,
}

/// How a pending acknowledgement is to travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AckDue {
    /// Nothing to acknowledge.
    No,
    /// With the next data, or at this time, ns.
    Delayed(u64),
    /// At the end of the batch.
    Now,
}

/// One connection.
pub(crate) struct Tcb {
    pub state: State,
    pub key: FlowKey,
    pub path: Path,
    /// SO_ERROR, delivered once.
    pub error: Option<Errno>,

    // Sending. Sequence numbers: una <= nxt <= max.
    pub una: u32,
    pub nxt: u32,
    pub max: u32,
    /// Sequence number of the first byte in `tx`.
    pub tx_seq: u32,
    pub tx: SendBuf,
    pub window: u32,
    pub max_window: u32,
    pub wl1: u32,
    pub wl2: u32,
    pub scale: u8,
    pub mss: u32,
    /// End of the last segment that was sent smaller than `mss` (Nagle as Minshall refined it).
    pub small_end: u32,
    /// Our FIN follows the last byte of `tx`.
    pub fin_wanted: bool,
    pub sack: bool,
    pub scoreboard: Scoreboard,
    pub cc: Congestion,
    pub rtt: Rtt,
    /// End and time of the segment that is being timed.
    pub timing: Option<(u32, u64)>,
    pub dup_acks: u8,
    /// In loss recovery until this is acknowledged.
    pub recover: Option<u32>,
    /// Everything before this was retransmitted in this recovery.
    pub rexmit: u32,
    pub last_send: u64,
    /// A send found no room: tell when there is some.
    pub blocked: bool,
    /// The last send announced more (MSG_MORE).
    pub more: bool,
    /// When a corked small segment goes anyway.
    pub cork_at: u64,

    // Receiving.
    pub irs: u32,
    pub rcv_nxt: u32,
    /// Right edge of the window as advertised.
    pub edge: u32,
    pub rx: RecvQueue,
    pub reorder: Reorder,
    /// Sequence number of the peer's FIN, once seen.
    pub fin_seq: Option<u32>,
    /// The peer's FIN came in order.
    pub eof: bool,
    pub scaled: bool,
    /// The biggest segment that came: what "full-sized" means for acknowledging.
    pub rcv_mss: u32,
    /// Everything before this was acknowledged.
    pub acked: u32,
    pub ack: AckDue,
    /// Segments to be acknowledged at once, so that the peer's window opens quickly.
    pub quick: u8,
    /// Requests and answers alternate: acknowledgements ride on the answers.
    pub interactive: bool,
    pub challenged: u64,

    // Life.
    pub rto_at: u64,
    pub keep_at: u64,
    pub keep_probes: u8,
    pub heard: u64,
    /// FIN-WAIT-2 of a closed socket and the like end here.
    pub end_at: u64,
    /// The application has closed its descriptor.
    pub orphan: bool,
    pub read_shut: bool,
    pub segments_in: u32,
    pub segments_out: u32,
    pub retransmits: u32,
    pub bytes_acked: u64,
    pub bytes_received: u64,
}

impl Tcb {
    pub fn new(cx: &Cx<'_>, key: FlowKey, path: Path, iss: u32, state: State, options: &Options) -> Self {
        let default = if key.remote.ip.is_v4() { DEFAULT_MSS4 } else { DEFAULT_MSS6 };
        let mss = default.min(path.mss());
        Self {
            state,
            key,
            path,
            error: None,
            una: iss,
            nxt: iss,
            max: iss,
            tx_seq: iss.wrapping_add(1),
            tx: SendBuf::default(),
            window: 0,
            max_window: 0,
            wl1: 0,
            wl2: 0,
            scale: 0,
            mss,
            small_end: iss,
            fin_wanted: false,
            sack: false,
            scoreboard: Scoreboard::default(),
            cc: Congestion::new(mss),
            rtt: Rtt::new(),
            timing: None,
            dup_acks: 0,
            recover: None,
            rexmit: iss,
            last_send: cx.now,
            blocked: false,
            more: false,
            cork_at: NEVER,
            irs: 0,
            rcv_nxt: 0,
            edge: 0,
            rx: RecvQueue::default(),
            reorder: Reorder::default(),
            fin_seq: None,
            eof: false,
            scaled: false,
            rcv_mss: DEFAULT_MSS4,
            acked: 0,
            ack: AckDue::No,
            quick: 8,
            interactive: false,
            challenged: 0,
            rto_at: NEVER,
            keep_at: if options.keepalive { cx.now + options.keep_idle_ns() } else { NEVER },
            keep_probes: 0,
            heard: cx.now,
            end_at: NEVER,
            orphan: false,
            read_shut: false,
            segments_in: 0,
            segments_out: 0,
            retransmits: 0,
            bytes_acked: 0,
            bytes_received: 0,
        }
    }

    /// Takes what a SYN says: sequence, window and options.
    pub fn on_syn_options(&mut self, seg: &Segment, options: &Options) {
        self.irs = seg.seq;
        self.rcv_nxt = seg.seq.wrapping_add(1);
        self.acked = self.rcv_nxt;
        self.window = u32::from(seg.window);
        self.max_window = self.window;
        self.wl1 = seg.seq;
        self.wl2 = seg.ack;
        if let Some(scale) = seg.scale {
            self.scale = scale;
            self.scaled = true;
        }
        self.sack = seg.sack_permitted;
        let mut mss = self.path.mss();
        if seg.mss != 0 {
            mss = mss.min(u32::from(seg.mss));
        } else {
            mss = mss.min(self.mss);
        }
        if options.max_segment != 0 {
            mss = mss.min(options.max_segment);
        }
        self.mss = mss.max(MIN_MSS);
        self.cc = Congestion::new(self.mss);
        self.edge = self.rcv_nxt.wrapping_add(self.receive_room(options).min(65535));
    }

    /// The end of the bytes in `tx`, in sequence numbers.
    #[inline]
    pub fn tx_end(&self) -> u32 {
        self.tx_seq.wrapping_add(self.tx.len() as u32)
    }

    /// Outstanding sequence space.
    #[inline]
    pub fn flight(&self) -> u32 {
        self.nxt.wrapping_sub(self.una)
    }

    /// The handshake is over and the connection is not.
    #[inline]
    pub fn synchronized(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived | State::Closed)
    }

    /// Data may be sent by the application.
    #[inline]
    pub fn can_send(&self) -> bool {
        matches!(self.state, State::Established | State::CloseWait) && !self.fin_wanted
    }

    /// Room for received bytes, with an eye on the memory that they hold.
    #[inline]
    pub fn receive_room(&self, options: &Options) -> u32 {
        let limit = options.receive_buffer as usize;
        let by_bytes = limit.saturating_sub(self.rx.len());
        let by_memory = (4 * limit).saturating_sub(self.rx.memory() + self.reorder.memory());
        let room = by_bytes.min(by_memory) as u32;
        if self.scaled { room } else { room.min(65535) }
    }

    /// A send would take bytes: at least a third of the buffer is free, as on Linux.
    #[inline]
    pub fn writable(&self, options: &Options) -> bool {
        self.tx.len() * 3 <= options.send_buffer as usize * 2
    }

    /// Readiness as poll reports it.
    pub fn readiness(&self, options: &Options) -> Events {
        let mut e = Events::empty();
        if self.error.is_some() {
            e |= Events::ERR;
        }
        match self.state {
            State::SynSent | State::SynReceived => return e,
            State::Closed | State::TimeWait => {
                return e | Events::IN | Events::RDNORM | Events::OUT | Events::WRNORM | Events::HUP | Events::RDHUP;
            }
            _ => {}
        }
        let finished_reading = self.eof || self.read_shut;
        if finished_reading || self.rx.len() >= (options.low_water as usize).max(1) {
            e |= Events::IN | Events::RDNORM;
        }
        if finished_reading {
            e |= Events::RDHUP;
            if self.fin_wanted {
                e |= Events::HUP;
            }
        }
        if self.fin_wanted || self.writable(options) {
            e |= Events::OUT | Events::WRNORM;
        }
        e
    }

    /// The connection ends with an error.
    pub fn fail(&mut self, error: Errno) -> Step {
        self.error = Some(error);
        self.finish()
    }

    /// The connection is over; what was received may still be read.
    pub fn finish(&mut self) -> Step {
        self.state = State::Closed;
        self.tx.clear();
        self.reorder.clear();
        self.scoreboard.clear();
        self.rto_at = NEVER;
        self.keep_at = NEVER;
        self.end_at = NEVER;
        self.cork_at = NEVER;
        self.ack = AckDue::No;
        Step {
            events: Events::IN
                | Events::OUT
                | Events::ERR
                | Events::HUP
                | Events::RDHUP
                | Events::RDNORM
                | Events::WRNORM,
            dead: true,
            ..Step::default()
        }
    }

    /// The next time that something is due.
    #[inline]
    pub fn deadline(&self) -> u64 {
        let ack = match self.ack {
            AckDue::Delayed(at) => at,
            _ => NEVER,
        };
        self.rto_at.min(ack).min(self.keep_at).min(self.end_at).min(self.cork_at)
    }
}
