//! Interrupts: an MSI-X vector for each cause where there are enough, MSI for a single one, else the shared line for all.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hal_core::Result;
use hal_core::bus::PciFunction;
use hal_core::interrupt::Handler;

/// Something that interrupts.
pub(crate) struct Cause {
    /// The CPU to interrupt.
    pub cpu: usize,
    /// Runs in the interrupt.
    pub handler: Handler,
}

/// What a driver may get.
pub(crate) struct Causes {
    /// One vector for each of these, in order.
    pub vectors: Vec<Cause>,
    /// For the line: looks whether the device interrupts, acknowledges, and runs what is to be run.
    pub line: Handler,
}

/// How a driver asks for its interrupts: true if by vectors, false if by the line.
pub(crate) type Connect<'a> = &'a mut dyn FnMut(Causes) -> Result<bool>;

/// Connects a PCI function's interrupts.
pub(crate) fn connect(function: &dyn PciFunction, causes: Causes) -> Result<bool> {
    if usize::from(function.msix_vectors()) >= causes.vectors.len() && by_vectors(function, &causes.vectors).is_ok() {
        return Ok(true);
    }
    // One cause can do with the one message of MSI.
    if let [only] = &causes.vectors[..]
        && function.has_msi()
        && let Ok(message) = hal_core::platform().interrupts().allocate_message(only.cpu, only.handler.clone())
        && function.set_msi(message).is_ok()
    {
        return Ok(true);
    }
    let line: Handler = Arc::clone(&causes.line);
    function.attach_line(line)?;
    Ok(false)
}

fn by_vectors(function: &dyn PciFunction, vectors: &[Cause]) -> Result<()> {
    let interrupts = hal_core::platform().interrupts();
    // All messages first: MSI-X, once on, turns the line off.
    let messages: Vec<_> = vectors
        .iter()
        .map(|cause| interrupts.allocate_message(cause.cpu, cause.handler.clone()))
        .collect::<Result<_>>()?;
    for (index, message) in messages.into_iter().enumerate() {
        function.set_msix(index as u16, message)?;
    }
    Ok(())
}
