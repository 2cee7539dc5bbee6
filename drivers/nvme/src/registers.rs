//! Registers, commands and structures (NVM Express 1.4; 2.0 keeps them).

/// Capabilities, 64 bits.
pub const CAP: usize = 0x00;
/// Interrupt causes to mask, without MSI-X.
pub const INTMS: usize = 0x0c;
/// Interrupt causes to unmask.
pub const INTMC: usize = 0x10;
/// Configuration.
pub const CC: usize = 0x14;
/// Status.
pub const CSTS: usize = 0x1c;
/// Sizes of the admin queues.
pub const AQA: usize = 0x24;
/// Admin submission queue, 64 bits.
pub const ASQ: usize = 0x28;
/// Admin completion queue, 64 bits.
pub const ACQ: usize = 0x30;
/// First doorbell.
pub const DOORBELLS: usize = 0x1000;

/// CC: on, 64-byte submissions, 16-byte completions, pages of 4 KiB, the NVM command set.
pub const CC_ON: u32 = 1 | 6 << 16 | 4 << 20;
/// CSTS: ready.
pub const CSTS_RDY: u32 = 1 << 0;
/// CSTS: fatal error.
pub const CSTS_CFS: u32 = 1 << 1;

/// Bytes of a submission.
pub const SUBMISSION: usize = 64;
/// Bytes of a completion.
pub const COMPLETION: usize = 16;

/// Admin commands.
pub mod admin {
    /// Makes a submission queue.
    pub const CREATE_SQ: u8 = 0x01;
    /// Makes a completion queue.
    pub const CREATE_CQ: u8 = 0x05;
    /// Describes the controller or a namespace.
    pub const IDENTIFY: u8 = 0x06;
    /// Sets a feature.
    pub const SET_FEATURES: u8 = 0x09;
    /// IDENTIFY: a namespace.
    pub const NAMESPACE: u32 = 0;
    /// IDENTIFY: the controller.
    pub const CONTROLLER: u32 = 1;
    /// IDENTIFY: the numbers of active namespaces.
    pub const ACTIVE: u32 = 2;
    /// SET_FEATURES: number of queues.
    pub const QUEUES: u32 = 7;
}

/// Commands of the NVM set.
pub mod nvm {
    /// Empties the write cache.
    pub const FLUSH: u8 = 0x00;
    /// Writes.
    pub const WRITE: u8 = 0x01;
    /// Reads.
    pub const READ: u8 = 0x02;
    /// Tells about ranges.
    pub const DATA_SET_MANAGEMENT: u8 = 0x09;
    /// DATA_SET_MANAGEMENT: they hold nothing any more.
    pub const DEALLOCATE: u32 = 1 << 2;
}
