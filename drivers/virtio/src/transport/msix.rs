//! Interrupts of a PCI device: MSI-X vectors where there are some, else the shared line.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, Ordering};

use hal_core::Result;
use hal_core::bus::PciFunction;

use super::{MAX_QUEUES, Messages, Source, dispatch};

/// "No vector" in a vector register (virtio 1.2, section 4.1.5.1.2).
pub(crate) const NO_VECTOR: u16 = 0xffff;

/// Which vector belongs to which cause.
pub(crate) struct Vectors {
    queues: Vec<AtomicU16>,
    config: AtomicU16,
}

impl Vectors {
    /// No vectors: the line.
    pub fn new() -> Self {
        Self { queues: (0..MAX_QUEUES).map(|_| AtomicU16::new(NO_VECTOR)).collect(), config: AtomicU16::new(NO_VECTOR) }
    }

    /// The vector of a queue.
    pub fn queue(&self, queue: u16) -> u16 {
        self.queues.get(usize::from(queue)).map_or(NO_VECTOR, |v| v.load(Ordering::Relaxed))
    }

    /// The vector of configuration changes.
    pub fn config(&self) -> u16 {
        self.config.load(Ordering::Relaxed)
    }

    /// Gives each source a vector of its own, or some the same one if there are too few. Returns the sources
    /// back if there are no message interrupts here.
    fn assign(
        &self,
        pci: &dyn PciFunction,
        messages: Messages<'_>,
        sources: Vec<Source>,
    ) -> core::result::Result<(), Vec<Source>> {
        let vectors = pci.msix_vectors();
        if vectors == 0 || sources.is_empty() {
            return Err(sources);
        }
        let count = sources.len().min(usize::from(vectors));
        let sources: Arc<[Source]> = sources.into();
        for vector in 0..count {
            let mine: Vec<_> = (vector..sources.len()).step_by(count).collect();
            let handler: hal_core::interrupt::Handler = match mine[..] {
                [one] => sources[one].handler.clone(),
                _ => {
                    let (sources, mine) = (sources.clone(), mine.clone());
                    Arc::new(move || mine.iter().for_each(|&i| (sources[i].handler)()))
                }
            };
            let done = messages(sources[vector].cpu, handler).and_then(|message| pci.set_msix(vector as u16, message));
            if done.is_err() {
                // All or nothing: a cause without a vector would never be heard.
                return Err(sources
                    .iter()
                    .map(|s| Source { queues: s.queues.clone(), cpu: s.cpu, handler: s.handler.clone() })
                    .collect());
            }
        }
        for (index, source) in sources.iter().enumerate() {
            let vector = (index % count) as u16;
            for &queue in &source.queues {
                if let Some(slot) = self.queues.get(usize::from(queue)) {
                    slot.store(vector, Ordering::Relaxed);
                }
            }
            if source.queues.is_empty() {
                self.config.store(vector, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Connects by messages, else by the line, whose status register `status` reads (and so acknowledges).
    pub fn connect(
        &self,
        pci: &dyn PciFunction,
        messages: Messages<'_>,
        sources: Vec<Source>,
        status: impl Fn() -> u8 + Send + Sync + 'static,
    ) -> Result<bool> {
        match self.assign(pci, messages, sources) {
            Ok(()) => Ok(true),
            Err(sources) => {
                pci.attach_line(Arc::new(move || dispatch(&sources, u32::from(status()))))?;
                Ok(false)
            }
        }
    }
}
