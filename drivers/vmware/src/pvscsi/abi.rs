//! The adapter's interface (`vmw_pvscsi.h`): registers, commands, and what is in the rings.

// Registers.
pub(crate) const COMMAND: usize = 0x0;
pub(crate) const COMMAND_DATA: usize = 0x4;
pub(crate) const COMMAND_STATUS: usize = 0x8;
pub(crate) const INTERRUPT_STATUS: usize = 0x100c;
pub(crate) const INTERRUPT_MASK: usize = 0x2010;
pub(crate) const KICK_OTHER: usize = 0x3014;
pub(crate) const KICK_READ_WRITE: usize = 0x4018;

// Commands.
pub(crate) const ADAPTER_RESET: u32 = 1;
pub(crate) const SETUP_RINGS: u32 = 3;
pub(crate) const SETUP_CALL_THRESHOLD: u32 = 10;
/// Status of a command that the adapter does not know.
pub(crate) const FAILED: u32 = u32::MAX;

/// Interrupt cause and mask: completions.
pub(crate) const COMPLETIONS: u32 = 0b11;
/// Interrupt causes that there are.
pub(crate) const ALL_CAUSES: u32 = 0b1111;

/// Pages of a ring that SETUP_RINGS has room for.
pub(crate) const SETUP_PAGES: usize = 32;

// Offsets in the rings' state, a page of its own.
pub(crate) const REQUEST_PRODUCER: usize = 0;
pub(crate) const REQUEST_CONSUMER: usize = 4;
pub(crate) const REQUEST_LOG2: usize = 8;
pub(crate) const COMPLETION_PRODUCER: usize = 12;
pub(crate) const COMPLETION_CONSUMER: usize = 16;
pub(crate) const COMPLETION_LOG2: usize = 20;
pub(crate) const CALL_THRESHOLD: usize = 24;

/// A request descriptor.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub context: u64,
    pub data: u64,
    pub data_len: u64,
    pub sense: u64,
    pub sense_len: u32,
    pub flags: u32,
    pub cdb: [u8; 16],
    pub cdb_len: u8,
    pub lun: [u8; 8],
    pub tag: u8,
    pub bus: u8,
    pub target: u8,
    pub cpu: u8,
    pub unused: [u8; 59],
}
const _: () = assert!(size_of::<Request>() == 128);

// Flags of a request.
pub(crate) const FLAG_LIST: u32 = 1 << 0;
pub(crate) const FLAG_NO_DATA: u32 = 1 << 2;
pub(crate) const FLAG_TO_HOST: u32 = 1 << 3;
pub(crate) const FLAG_TO_DEVICE: u32 = 1 << 4;

/// SCSI's message for a task without order (SIMPLE).
pub(crate) const SIMPLE_TAG: u8 = 0x20;

/// An element of a scatter-gather list.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Element {
    pub address: u64,
    pub len: u32,
    pub flags: u32,
}

/// Elements in one list.
pub(crate) const LIST_LEN: usize = 128;

/// A completion descriptor.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Completion {
    pub context: u64,
    pub data_len: u64,
    pub sense_len: u32,
    pub host_status: u16,
    pub scsi_status: u16,
    pub pad: [u32; 2],
}
const _: () = assert!(size_of::<Completion>() == 32);

/// Host adapter status: names as in the header.
pub(crate) mod host_status {
    pub(crate) const SUCCESS: u16 = 0x00;
    pub(crate) const LINKED_COMMAND_COMPLETED: u16 = 0x0a;
    pub(crate) const LINKED_COMMAND_COMPLETED_WITH_FLAG: u16 = 0x0b;
    pub(crate) const DATA_UNDERRUN: u16 = 0x0c;
    pub(crate) const SELECTION_TIMEOUT: u16 = 0x11;
    pub(crate) const DATARUN: u16 = 0x12;
    pub(crate) const SENT_RESET: u16 = 0x22;
    pub(crate) const RECEIVED_RESET: u16 = 0x23;
    pub(crate) const BUS_RESET: u16 = 0x25;
    pub(crate) const ABORT_QUEUE: u16 = 0x26;
}
