//! The interface's registers, commands and structures (`vmxnet3_defs.h`, `upt1_defs.h`), revision 1: later ones only add to it.

// Registers of BAR 0, for each interrupt or queue 8 bytes apart.
pub(crate) const INTERRUPT_MASK: usize = 0x0;
pub(crate) const TX_PRODUCER: usize = 0x600;
/// Of the first receive ring; the second's is 0x200 higher.
pub(crate) const RX_PRODUCER: usize = 0x800;
pub(crate) const RX_PRODUCER_STEP: usize = 0x200;

// Registers of BAR 1.
pub(crate) const REVISIONS: usize = 0x0;
pub(crate) const UPT_REVISIONS: usize = 0x8;
pub(crate) const SHARED_LOW: usize = 0x10;
pub(crate) const SHARED_HIGH: usize = 0x18;
pub(crate) const COMMAND: usize = 0x20;
pub(crate) const MAC_LOW: usize = 0x28;
pub(crate) const MAC_HIGH: usize = 0x30;
pub(crate) const INTERRUPT_CAUSE: usize = 0x38;
pub(crate) const EVENT_CAUSE: usize = 0x40;

/// Bytes of registers in each BAR.
pub(crate) const REGISTERS: u64 = 4096;

// Commands.
pub(crate) const ACTIVATE: u32 = 0xcafe_0000;
pub(crate) const QUIESCE: u32 = 0xcafe_0001;
pub(crate) const RESET: u32 = 0xcafe_0002;
pub(crate) const UPDATE_RX_MODE: u32 = 0xcafe_0003;
pub(crate) const GET_QUEUE_STATUS: u32 = 0xf00d_0000;
pub(crate) const GET_LINK: u32 = 0xf00d_0002;
pub(crate) const GET_INTERRUPT_CONFIG: u32 = 0xf00d_0008;

// Offsets in what driver and device share (`Vmxnet3_DriverShared`).
pub(crate) const SHARED_LEN: usize = 720;
pub(crate) const MAGIC: (usize, u32) = (0, 0xbabe_fee1);
pub(crate) const DRIVER_VERSION: usize = 8;
pub(crate) const GUEST_SYSTEM: usize = 12;
pub(crate) const DRIVER_REVISIONS: usize = 16;
pub(crate) const DRIVER_UPT: usize = 20;
pub(crate) const FEATURES: usize = 24;
pub(crate) const QUEUES_AT: usize = 40;
pub(crate) const QUEUES_LEN: usize = 52;
pub(crate) const MTU: usize = 56;
pub(crate) const MAX_RX_PIECES: usize = 60;
pub(crate) const TX_QUEUES: usize = 62;
pub(crate) const RX_QUEUES: usize = 63;
pub(crate) const AUTO_MASK: usize = 80;
pub(crate) const INTERRUPTS: usize = 81;
pub(crate) const EVENT_INTERRUPT: usize = 82;
/// A byte for each interrupt.
pub(crate) const MODERATION: usize = 83;
pub(crate) const MAX_INTERRUPTS: usize = 25;
pub(crate) const INTERRUPT_CONTROL: usize = 108;
pub(crate) const RX_MODE: usize = 120;
/// Version, length, address.
pub(crate) const RSS: usize = 648;
pub(crate) const EVENTS: usize = 696;

/// 64-bit, another system than those that the device knows: packets may be in several buffers.
pub(crate) const GUEST_OTHER_64: u32 = 2;
/// Adaptive interrupt moderation.
pub(crate) const MODERATION_ADAPTIVE: u8 = 8;
/// In [`INTERRUPT_CONTROL`]: none at all.
pub(crate) const INTERRUPTS_OFF: u32 = 1;

// Features.
pub(crate) const FEATURE_RX_CHECKSUM: u64 = 1 << 0;
pub(crate) const FEATURE_RSS: u64 = 1 << 1;
pub(crate) const FEATURE_LRO: u64 = 1 << 3;

/// Frames to us, broadcasts, all multicasts.
pub(crate) const RX_MODE_USUAL: u32 = 0x01 | 0x04 | 0x08;

// Events.
pub(crate) const EVENT_RX_ERROR: u32 = 1 << 0;
pub(crate) const EVENT_TX_ERROR: u32 = 1 << 1;
pub(crate) const EVENT_LINK: u32 = 1 << 2;

// Offsets in a queue's description; those of the send queues come first, then those of the receive queues.
pub(crate) const QUEUE_LEN: usize = 256;
/// Send: packets that the device was not told of; from how many on it wants to be.
pub(crate) const TX_DEFERRED: usize = 0;
pub(crate) const TX_THRESHOLD: usize = 4;
/// Receive: the device wants to be told of buffers.
pub(crate) const RX_TELL: usize = 0;
/// Send: the ring. Receive: the two rings.
pub(crate) const RING_AT: usize = 16;
pub(crate) const COMPLETIONS_AT: usize = 32;
pub(crate) const RING_SIZE: usize = 56;
pub(crate) const COMPLETIONS_SIZE: usize = 64;
pub(crate) const QUEUE_INTERRUPT: usize = 72;
pub(crate) const STOPPED: usize = 80;
pub(crate) const STOP_REASON: usize = 84;

/// Bytes of every descriptor.
pub(crate) const DESCRIPTOR: usize = 16;

// Third word of a send descriptor.
pub(crate) const TX_GENERATION: u32 = 1 << 14;
pub(crate) const TX_OFFSET_SHIFT: u32 = 18;
// Fourth word.
pub(crate) const TX_CHECKSUM: u32 = 2 << 10;
pub(crate) const TX_SEGMENT: u32 = 3 << 10;
pub(crate) const TX_END: u32 = 1 << 12;
pub(crate) const TX_COMPLETE: u32 = 1 << 13;
/// Most bytes in a descriptor, which are said as 0.
pub(crate) const TX_PIECE: usize = 1 << 14;
/// Most descriptors of a packet that is not cut; more are refused.
pub(crate) const TX_MAX_PIECES: usize = 16;
/// Header lengths and checksum places are below this.
pub(crate) const TX_MAX_HEADER: u32 = 1 << 10;

// Third word of a receive descriptor.
pub(crate) const RX_BODY: u32 = 1 << 14;
pub(crate) const RX_GENERATION: u32 = 1 << 31;

// First word of a completion.
pub(crate) const INDEX: u32 = 0xfff;
pub(crate) const RX_END: u32 = 1 << 14;
pub(crate) const RX_START: u32 = 1 << 15;
pub(crate) const RX_QUEUE_SHIFT: u32 = 16;
pub(crate) const RX_QUEUE: u32 = 0x3ff;
pub(crate) const RX_NO_CHECKSUM: u32 = 1 << 30;
// Third word.
pub(crate) const RX_LEN: u32 = 0x3fff;
pub(crate) const RX_ERROR: u32 = 1 << 14;
// Fourth word.
pub(crate) const RX_L4_GOOD: u32 = 1 << 16;
pub(crate) const RX_UDP: u32 = 1 << 17;
pub(crate) const RX_TCP: u32 = 1 << 18;
pub(crate) const RX_IP_GOOD: u32 = 1 << 19;
pub(crate) const RX_V4: u32 = 1 << 21;
pub(crate) const RX_FRAGMENT: u32 = 1 << 22;
pub(crate) const COMPLETION_GENERATION: u32 = 1 << 31;

/// `UPT1_RSSConf`: kinds of hash, function, key length, table length, then 40 bytes of key and 128 of table.
pub(crate) const RSS_LEN: usize = 176;
/// IPv4, TCP over IPv4, IPv6, TCP over IPv6.
pub(crate) const RSS_KINDS: u16 = 0xf;
pub(crate) const RSS_TOEPLITZ: u16 = 1;
pub(crate) const RSS_KEY: usize = 40;
pub(crate) const RSS_TABLE: usize = 32;
