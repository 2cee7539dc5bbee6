//! Registers and descriptor bits (Intel 8254x software developer's manual, chapter 13 and section 3; 82574 datasheet,
//! chapter 10).

/// Device control.
pub const CTRL: usize = 0x0000;
/// Device status.
pub const STATUS: usize = 0x0008;
/// EEPROM read.
pub const EERD: usize = 0x0014;
/// Extended device control.
pub const CTRL_EXT: usize = 0x0018;
/// Interrupt causes: reading clears them (without MSI-X), writing ones clears these.
pub const ICR: usize = 0x00c0;
/// Interrupt throttling.
pub const ITR: usize = 0x00c4;
/// Causes to enable.
pub const IMS: usize = 0x00d0;
/// Causes to disable.
pub const IMC: usize = 0x00d8;
/// Causes that an MSI-X message clears (82574).
pub const EIAC: usize = 0x00dc;
/// Which vector a cause has (82574).
pub const IVAR: usize = 0x00e4;
/// Receive control.
pub const RCTL: usize = 0x0100;
/// Transmit control.
pub const TCTL: usize = 0x0400;
/// Gaps between packets.
pub const TIPG: usize = 0x0410;
/// Receive ring: address low, high, bytes, head, tail.
pub const RDBAL: usize = 0x2800;
/// See [`RDBAL`].
pub const RDBAH: usize = 0x2804;
/// See [`RDBAL`].
pub const RDLEN: usize = 0x2808;
/// See [`RDBAL`].
pub const RDH: usize = 0x2810;
/// See [`RDBAL`].
pub const RDT: usize = 0x2818;
/// Delays of receive interrupts.
pub const RDTR: usize = 0x2820;
/// See [`RDTR`].
pub const RADV: usize = 0x282c;
/// Send ring, as the receive ring.
pub const TDBAL: usize = 0x3800;
/// See [`TDBAL`].
pub const TDBAH: usize = 0x3804;
/// See [`TDBAL`].
pub const TDLEN: usize = 0x3808;
/// See [`TDBAL`].
pub const TDH: usize = 0x3810;
/// See [`TDBAL`].
pub const TDT: usize = 0x3818;
/// Send descriptor control.
pub const TXDCTL: usize = 0x3828;
/// Receive checksums.
pub const RXCSUM: usize = 0x5000;
/// First receive address, low and high.
pub const RAL: usize = 0x5400;
/// See [`RAL`].
pub const RAH: usize = 0x5404;
/// Where the registers used here end.
pub const END: usize = 0x5500;

/// CTRL: find the speed out.
pub const CTRL_ASDE: u32 = 1 << 5;
/// CTRL: link up.
pub const CTRL_SLU: u32 = 1 << 6;
/// CTRL: forced speed and duplex.
pub const CTRL_FORCED: u32 = 1 << 11 | 1 << 12;
/// CTRL: reset.
pub const CTRL_RST: u32 = 1 << 26;
/// STATUS: the link is up.
pub const STATUS_LU: u32 = 1 << 1;
/// CTRL_EXT: forget messages that are pending (82574).
pub const CTRL_EXT_PBA_CLR: u32 = 1 << 31;
/// RAH: the address is valid.
pub const RAH_AV: u32 = 1 << 31;

/// RCTL: on.
pub const RCTL_EN: u32 = 1 << 1;
/// RCTL: all multicasts (IPv6 lives by them).
pub const RCTL_MPE: u32 = 1 << 4;
/// RCTL: broadcasts. The buffer size, bits 16 and 17, is 0 for 2048 bytes.
pub const RCTL_BAM: u32 = 1 << 15;
/// RCTL: without the frame's check sequence.
pub const RCTL_SECRC: u32 = 1 << 26;
/// TCTL: on.
pub const TCTL_EN: u32 = 1 << 1;
/// TCTL: on, short packets padded, collision threshold 15 and distance 64 (full duplex), again on late collision.
pub const TCTL_ON: u32 = 1 << 1 | 1 << 3 | 0x0f << 4 | 0x40 << 12 | 1 << 24;
/// TIPG for copper: 8, 8, 6.
pub const TIPG_COPPER: u32 = 8 | 8 << 10 | 6 << 20;
/// TXDCTL: thresholds count descriptors; the 82574 wants it set.
pub const TXDCTL_COUNT: u32 = 1 << 22;
/// RXCSUM: IP, and TCP and UDP.
pub const RXCSUM_ON: u32 = 1 << 8 | 1 << 9;

/// Cause: a packet was sent.
pub const CAUSE_TXDW: u32 = 1 << 0;
/// Cause: the link changed.
pub const CAUSE_LSC: u32 = 1 << 2;
/// Causes: few receive descriptors, receiver overrun, a packet arrived.
pub const CAUSE_RX: u32 = 1 << 4 | 1 << 6 | 1 << 7;
/// Cause: receive queue 0 (82574 with MSI-X).
pub const CAUSE_RXQ0: u32 = 1 << 20;
/// Cause: send queue 0 (82574 with MSI-X).
pub const CAUSE_TXQ0: u32 = 1 << 22;
/// Cause: others (82574 with MSI-X).
pub const CAUSE_OTHER: u32 = 1 << 24;
/// IVAR: receive and send queue 0 on vector 0, others on vector 1, all valid.
pub const IVAR_TWO: u32 = 0x8 | 0x8 << 8 | 0x9 << 16;

/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 16;

/// Received: the descriptor is done.
pub const RX_DD: u8 = 1 << 0;
/// Received: last one of its frame.
pub const RX_EOP: u8 = 1 << 1;
/// Received: ignore the checksum bits.
pub const RX_IXSM: u8 = 1 << 2;
/// Received: the TCP or UDP checksum was looked at.
pub const RX_TCPCS: u8 = 1 << 5;
/// Received, errors: CRC, symbol, sequence, data.
pub const RX_BAD: u8 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 7;
/// Received, errors: TCP or UDP checksum, IP checksum.
pub const RX_BAD_SUM: u8 = 1 << 5 | 1 << 6;

/// Sent: the descriptor is done.
pub const TX_DD: u8 = 1 << 0;
/// Command, in the top byte of a descriptor's third word: last one of a packet.
pub const TX_EOP: u32 = 1 << 24;
/// Command: add the check sequence.
pub const TX_IFCS: u32 = 1 << 25;
/// Command: segmentation.
pub const TX_TSE: u32 = 1 << 26;
/// Command: say when done.
pub const TX_RS: u32 = 1 << 27;
/// Command: a descriptor of the extended kind.
pub const TX_DEXT: u32 = 1 << 29;
/// Descriptor type: data. A context has 0.
pub const TX_DATA: u32 = 1 << 20;
/// Context: the packet is TCP.
pub const TX_TCP: u32 = 1 << 24;
/// Context: the packet is IPv4.
pub const TX_IPV4: u32 = 1 << 25;
/// Options of a data descriptor, in its fourth word: fill in the IP checksum.
pub const TX_IXSM: u32 = 1 << 8;
/// Options: fill in the TCP or UDP checksum.
pub const TX_TXSM: u32 = 1 << 9;
