//! From a TCP packet to its connection or listener; answers for segments that have neither.

use alloc::sync::Arc;

use hal_core::device::{NetBuf, Offload};

use super::segment::{self, Segment, flag};
use super::tables::Found;
use super::tcb::Cx;
use crate::addr::{Endpoint, FlowKey};
use crate::checksum;
use crate::interface::{Interface, count};
use crate::packet::{Meta, protocol};
use crate::receive::checksum_good;
use crate::stack::{Stack, Tx};
use crate::transmit::SendIp;

impl Stack {
    pub(crate) fn tcp_input(
        self: &Arc<Self>,
        interface: &Arc<Interface>,
        meta: &Meta,
        mut buf: NetBuf,
        now: u64,
        tx: &mut Tx,
    ) {
        if !checksum_good(meta, &buf) {
            count(&interface.counters.rx_errors, 1);
            return;
        }
        let Some(seg) = segment::parse(&mut buf) else {
            count(&interface.counters.rx_errors, 1);
            return;
        };
        let key =
            FlowKey { local: Endpoint::new(meta.dst, seg.dst_port), remote: Endpoint::new(meta.src, seg.src_port) };
        let cx = Cx { stack: self, now };
        match self.tcp().find(&cx, &key, &seg, tx) {
            Found::Flow(tcp) => return tcp.input(&cx, &seg, buf, tx),
            Found::Done => return,
            Found::Nothing => {}
        }
        if !self.is_local(key.local.ip) || !key.remote.ip.is_unicast() || seg.src_port == 0 {
            count(&interface.counters.rx_dropped, 1);
            return;
        }
        if seg.has(flag::RST) {
            return;
        }
        if seg.has(flag::SYN)
            && !seg.has(flag::ACK)
            && let Some(listener) = self.tcp().listener(&key)
        {
            if key.local != key.remote {
                listener.on_syn(&cx, key, &seg, tx);
            }
            return;
        }
        self.tcp_reset(key, &seg, now, tx);
    }

    /// Answers a segment that nobody wants (RFC 9293, 3.5.2).
    pub(crate) fn tcp_reset(&self, key: FlowKey, seg: &Segment, now: u64, tx: &mut Tx) {
        if seg.has(flag::ACK) {
            self.tcp_bare(&key, seg.ack, 0, flag::RST, now, tx);
        } else {
            let ack = seg.seq.wrapping_add(seg.span());
            self.tcp_bare(&key, 0, ack, flag::RST | flag::ACK, now, tx);
        }
    }

    /// Sends a segment that belongs to no connection.
    pub(crate) fn tcp_bare(&self, key: &FlowKey, seq: u32, ack: u32, flags: u8, now: u64, tx: &mut Tx) {
        let Ok(hop) = self.route(key.remote.ip, None) else {
            return;
        };
        let mut buf = NetBuf::new(20);
        buf.set_len(20);
        let h = buf.bytes_mut();
        h[0..2].copy_from_slice(&key.local.port.to_be_bytes());
        h[2..4].copy_from_slice(&key.remote.port.to_be_bytes());
        h[4..8].copy_from_slice(&seq.to_be_bytes());
        h[8..12].copy_from_slice(&ack.to_be_bytes());
        h[12] = 5 << 4;
        h[13] = flags;
        let pseudo = checksum::pseudo(key.local.ip, key.remote.ip, protocol::TCP);
        let sum = checksum::finish(checksum::add(checksum::add_len(pseudo, 20), h));
        h[16..18].copy_from_slice(&sum);
        buf.offload = Offload { checksum_valid: hop.interface.is_loopback(), ..Offload::default() };
        let how = SendIp {
            src: key.local.ip,
            dst: key.remote.ip,
            protocol: protocol::TCP,
            ttl: 64,
            tos: 0,
            dont_fragment: true,
        };
        self.send_ip(&hop, how, buf, now, tx);
    }
}
