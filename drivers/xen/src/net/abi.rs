//! Requests and responses of a network interface (io/netif.h).

/// Sending: the checksum is to be filled in.
pub(super) const TX_CHECKSUM_BLANK: u16 = 1 << 0;
/// Sending: the data is good (it comes from this host).
pub(super) const TX_VALID: u16 = 1 << 1;
/// Sending: the packet goes on in the next request.
pub(super) const TX_MORE: u16 = 1 << 2;
/// Sending: an [`Extra`] comes next.
pub(super) const TX_EXTRA: u16 = 1 << 3;

/// Received: the checksum was found good.
pub(super) const RX_VALID: u16 = 1 << 0;
/// Received: the checksum is not filled in; the packet comes from the same host.
pub(super) const RX_CHECKSUM_BLANK: u16 = 1 << 1;
/// Received: the packet goes on in the next response.
pub(super) const RX_MORE: u16 = 1 << 2;
/// Received: an [`Extra`] comes next.
pub(super) const RX_EXTRA: u16 = 1 << 3;

/// Type of an [`Extra`]: segmentation.
pub(super) const EXTRA_GSO: u8 = 1;
/// Another [`Extra`] comes next.
pub(super) const EXTRA_MORE: u8 = 1;
/// Segments of TCP over IPv4.
pub(super) const GSO_TCPV4: u8 = 1;
/// Segments of TCP over IPv6.
pub(super) const GSO_TCPV6: u8 = 2;

/// `struct netif_tx_request`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct TxRequest {
    pub reference: u32,
    pub offset: u16,
    pub flags: u16,
    pub id: u16,
    /// Of the whole packet in its first request, else of this part.
    pub size: u16,
}

/// `struct netif_tx_response`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct TxResponse {
    pub id: u16,
    pub status: i16,
}

/// `struct netif_extra_info` with what segmentation needs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Extra {
    pub kind: u8,
    pub flags: u8,
    pub size: u16,
    pub gso: u8,
    pub pad: u8,
    pub features: u16,
}

/// `struct netif_rx_request`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct RxRequest {
    pub id: u16,
    pub pad: u16,
    pub reference: u32,
}

/// `struct netif_rx_response`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct RxResponse {
    pub id: u16,
    pub offset: u16,
    pub flags: u16,
    /// Bytes, or an error if negative.
    pub status: i16,
}

impl RxResponse {
    /// The same eight bytes as what an extra response is.
    pub fn as_extra(self) -> Extra {
        let [kind, flags] = self.id.to_le_bytes();
        let [gso, pad] = self.flags.to_le_bytes();
        Extra { kind, flags, size: self.offset, gso, pad, features: self.status as u16 }
    }
}

const _: () = assert!(size_of::<TxRequest>() == 12 && size_of::<Extra>() == 8 && size_of::<RxResponse>() == 8);
