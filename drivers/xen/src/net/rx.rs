//! Receiving: pages wait on the ring for packets, which are copied out of them as they come; a page goes back on the ring at once.

use alloc::vec::Vec;

use hal_core::device::{NET_HEADROOM, NetBuf, Segment};
use hal_core::{PAGE_SIZE, Result};

use super::abi::{
    EXTRA_GSO, EXTRA_MORE, GSO_TCPV4, GSO_TCPV6, RX_CHECKSUM_BLANK, RX_EXTRA, RX_MORE, RX_VALID, RxRequest, RxResponse,
};
use crate::pages::{Page, Pool};
use crate::ring::FrontRing;

/// Pages on the ring at first; more when they are used up. A backend needs 18 for its largest packet.
const FIRST_TARGET: u32 = 64;
/// Longest packet: what an IP packet can be, and its link header with a VLAN tag.
const LONGEST: usize = 65535 + 18;

/// What is wrong with a response, if something is.
type Outcome<T> = core::result::Result<T, &'static str>;

/// What comes next on the ring.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Packet,
    Extra,
    Part,
}

/// The receiving half of a queue.
pub(super) struct Rx {
    pub ring: FrontRing,
    /// The page of each slot that the backend has, by slot: also the request's id.
    posted: Vec<Option<Page>>,
    target: u32,
    expect: Expect,
    /// More parts follow after the extra ones.
    more: bool,
    /// The packet of which parts are still to come; `None` if one of them could not be had.
    packet: Option<NetBuf>,
    length: usize,
}

impl Rx {
    /// Fills a fresh ring with pages.
    pub fn new(ring: FrontRing, pool: &mut Pool) -> Result<Self> {
        let mut posted = Vec::new();
        posted.resize_with(ring.size() as usize, || None);
        let target = FIRST_TARGET.min(ring.size());
        let mut rx = Self { ring, posted, target, expect: Expect::Packet, more: false, packet: None, length: 0 };
        while rx.ring.in_flight() < target {
            rx.post(pool.take()?);
        }
        Ok(rx)
    }

    fn post(&mut self, page: Page) {
        let slot = self.ring.next_slot();
        self.ring.put(RxRequest { id: slot as u16, pad: 0, reference: page.reference });
        self.posted[slot] = Some(page);
    }

    /// Takes up to `budget` packets. Returns how many, and if the backend is to be notified of pages.
    pub fn receive(&mut self, budget: usize, pool: &mut Pool, sink: &mut dyn FnMut(NetBuf)) -> (usize, bool) {
        let before = self.ring.in_flight();
        let (mut packets, mut taken) = (0, 0);
        while packets < budget {
            let slot = self.ring.response_slot();
            let Some(response) = self.ring.take::<RxResponse>() else { break };
            taken += 1;
            let Some(page) = self.posted[slot].take() else {
                self.ring.fail("the backend answers for a page that it does not have");
                break;
            };
            match self.part(response, slot, &page) {
                Err(why) => self.ring.fail(why),
                Ok(None) => {}
                Ok(Some(packet)) => {
                    packets += 1;
                    sink(packet);
                }
            }
            self.post(page);
        }
        // The backend used most of what it had: give it more next time.
        if taken > before / 2 && self.target < self.ring.size() {
            self.target = (self.target * 2).min(self.ring.size());
            while self.ring.in_flight() < self.target {
                let Ok(page) = pool.take() else { break };
                self.post(page);
            }
        }
        (packets, self.ring.publish())
    }

    /// One response: the last part of a packet gives it.
    #[inline]
    fn part(&mut self, response: RxResponse, slot: usize, page: &Page) -> Outcome<Option<NetBuf>> {
        if self.expect == Expect::Extra {
            self.extra(response)?;
        } else {
            if usize::from(response.id) != slot {
                return Err("the backend answers in another order");
            }
            self.data(response, page)?;
        }
        match self.expect {
            Expect::Packet => Ok(self.packet.take()),
            _ => Ok(None),
        }
    }

    #[inline]
    fn data(&mut self, response: RxResponse, page: &Page) -> Outcome<()> {
        let first = self.expect == Expect::Packet;
        // A packet that the backend could not deliver has no bytes; it is dropped when it is whole.
        let bytes = usize::try_from(response.status).unwrap_or(0);
        let offset = usize::from(response.offset);
        if offset + bytes > PAGE_SIZE {
            return Err("a received part lies outside of its page");
        }
        self.length = if first { bytes } else { self.length + bytes };
        if self.length > LONGEST {
            return Err("a received packet is too long");
        }
        let part = if bytes == 0 { None } else { Some(copy(page, offset, bytes)) };
        if first {
            self.packet = part;
            if let Some(packet) = &mut self.packet {
                packet.offload.checksum_valid = response.flags & (RX_VALID | RX_CHECKSUM_BLANK) != 0;
            }
        } else {
            match (&mut self.packet, part) {
                (Some(packet), Some(part)) => packet.more.push(part),
                _ => self.packet = None,
            }
        }
        self.more = response.flags & RX_MORE != 0;
        self.expect = match (first && response.flags & RX_EXTRA != 0, self.more) {
            (true, _) => Expect::Extra,
            (false, true) => Expect::Part,
            (false, false) => Expect::Packet,
        };
        Ok(())
    }

    fn extra(&mut self, response: RxResponse) -> Outcome<()> {
        let extra = response.as_extra();
        if extra.kind != EXTRA_GSO {
            return Err("a received packet has an extra part that was not agreed on");
        }
        if !matches!(extra.gso, GSO_TCPV4 | GSO_TCPV6) || extra.size == 0 {
            return Err("a received packet has impossible segments");
        }
        if let Some(packet) = &mut self.packet {
            packet.offload.segment = Some(Segment { ipv6: extra.gso == GSO_TCPV6, size: extra.size, header_len: 0 });
        }
        self.expect = match (extra.flags & EXTRA_MORE != 0, self.more) {
            (true, _) => Expect::Extra,
            (false, true) => Expect::Part,
            (false, false) => Expect::Packet,
        };
        Ok(())
    }

    /// Ends it: gives the pages back.
    pub fn into_parts(self) -> (FrontRing, impl Iterator<Item = Page>) {
        (self.ring, self.posted.into_iter().flatten())
    }
}

/// A buffer of its own with bytes of a page, and room for headers before them.
#[inline]
fn copy(page: &Page, offset: usize, len: usize) -> NetBuf {
    let mut bytes: Vec<u8> = Vec::with_capacity(NET_HEADROOM + len);
    bytes.resize(NET_HEADROOM, 0);
    // SAFETY: there is capacity for `len` more bytes, which are all written before the length says so.
    unsafe {
        page.copy_to(offset, bytes.as_mut_ptr().add(NET_HEADROOM), len);
        bytes.set_len(NET_HEADROOM + len);
    }
    NetBuf::from_box(bytes.into_boxed_slice(), NET_HEADROOM, len)
}
