//! Interrupt sources: an x86 vector, a legacy line or an event channel.

use alloc::sync::Arc;

use crate::Result;

/// Runs in the interrupt, with interrupts disabled: it marks and wakes, nothing more.
pub type Handler = Arc<dyn Fn() + Send + Sync>;

/// What a device writes to raise a message-signalled interrupt (PCI 3.0, section 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// Allocates interrupt sources.
pub trait Interrupts: Sync {
    /// A message-signalled interrupt delivered to `cpu`. `Unsupported` where there are only lines.
    fn allocate_message(&self, cpu: usize, handler: Handler) -> Result<MsiMessage>;
    /// Adds a handler to a line (ACPI global system interrupt `gsi`), and unmasks it. Lines may be shared:
    /// each handler on it runs. `level` and `active_low` as the bus or ACPI tells.
    fn attach_line(&self, gsi: u32, level: bool, active_low: bool, handler: Handler) -> Result<()>;
}
