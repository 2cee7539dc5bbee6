//! UDP: sockets, the table of ports, and datagrams from the network.

mod socket;
mod table;

use alloc::sync::Arc;

use hal_core::device::NetBuf;

use crate::addr::Endpoint;
use crate::datagram::{Received, duplicate};
use crate::icmp;
use crate::interface::{Interface, count};
use crate::packet::{self, Meta};
use crate::receive::checksum_good;
use crate::stack::{Stack, Tx};

pub use socket::{MAX_PAYLOAD, Options, Udp};
pub(crate) use table::Table;

pub(crate) const HEADER: usize = 8;

impl Stack {
    pub(crate) fn udp_input(
        self: &Arc<Self>,
        interface: &Arc<Interface>,
        meta: &Meta,
        mut buf: NetBuf,
        now: u64,
        tx: &mut Tx,
    ) {
        let Some(h) = buf.bytes().first_chunk::<HEADER>() else {
            count(&interface.counters.rx_errors, 1);
            return;
        };
        let from = Endpoint::new(meta.src, u16::from_be_bytes([h[0], h[1]]));
        let port = u16::from_be_bytes([h[2], h[3]]);
        let len = usize::from(u16::from_be_bytes([h[4], h[5]]));
        let unsummed = h[6..8] == [0, 0];
        if len < HEADER || len > packet::total_len(&buf) || unsummed && !meta.dst.is_v4() && !meta.valid {
            count(&interface.counters.rx_errors, 1);
            return;
        }
        packet::truncate(&mut buf, len);
        if !unsummed && !checksum_good(meta, &buf) {
            count(&interface.counters.rx_errors, 1);
            return;
        }
        if port == 68 && crate::dhcp::input(self, interface, &buf, now, tx) {
            return;
        }
        let several = meta.dst.is_multicast() || interface.is_broadcast(meta.dst);
        if if several { meta.dst.is_multicast() && !interface.in_group(meta.dst) } else { !self.is_local(meta.dst) } {
            count(&interface.counters.rx_dropped, 1);
            return;
        }
        let mut sockets = self.udp().find(meta, port, from, several, self.secret());
        let Some(last) = sockets.pop() else {
            count(&interface.counters.rx_dropped, 1);
            if !several {
                icmp::port_unreachable(self, interface, meta, &mut buf, now, tx);
            }
            return;
        };
        buf.pull_front(HEADER);
        for udp in sockets {
            udp.deliver(Received::new(from, meta, now, duplicate(&buf)));
        }
        if !last.deliver(Received::new(from, meta, now, buf)) {
            count(&interface.counters.rx_dropped, 1);
        }
    }
}
