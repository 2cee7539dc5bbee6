//! Console, screen, power and randomness.

/// The console that works before any driver and in a panic.
pub trait Console: Sync {
    /// Writes all bytes; polls. Callable in any context.
    fn write(&self, bytes: &[u8]);
    /// Reads what has arrived, without waiting; returns the number of bytes.
    fn read(&self, to: &mut [u8]) -> usize;
    /// Calls `handler` (in an interrupt) when input arrives.
    fn on_input(&self, handler: crate::interrupt::Handler) -> crate::Result<()>;
    /// A second channel for the program's standard error (COM2), if asked for and there.
    fn write_error(&self, bytes: &[u8]) {
        self.write(bytes);
    }
}

/// A screen in front of a person, where the console may be seen by nobody: shows why the machine stopped.
pub trait Screen: Sync {
    /// Writes a line. Callable in any context, before any driver; not for two CPUs at once.
    fn line(&self, text: core::fmt::Arguments);
    /// Gives the person time to read, before the machine is switched off.
    fn hold(&self);
}

/// Ends of a run.
pub trait Power: Sync {
    /// Ends the VM and hands `code` (0..=255) to the host where there is a way; else switches off.
    fn exit(&self, code: u8) -> !;
    /// Starts the VM anew.
    fn reboot(&self) -> !;
}

/// Randomness for the kernel's generator.
pub trait Entropy: Sync {
    /// Fills `to` with what the CPU or the hypervisor offers; returns how many bytes are good.
    fn fill(&self, to: &mut [u8]) -> usize;
}
