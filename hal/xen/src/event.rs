//! Event channels by the two-level interface (event_channel.h): binding, and the loop over the shared bits.
//!
//! A channel's handler runs on the VCPU that the channel is bound to, with interrupts disabled. Its pending bit is cleared before,
//! so an event that comes meanwhile makes it run again. Handlers are leaked by their owners and never freed: one may be
//! running on another CPU while its channel is closed.

use core::sync::atomic::{AtomicPtr, AtomicU16, AtomicU64, Ordering};

use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use crate::abi::{DOMID_SELF, evtchn};
use crate::hypercall::event_channel;
use crate::{mode, shared};

static HANDLERS: [AtomicPtr<Handler>; evtchn::PORTS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; evtchn::PORTS];
/// The CPU that handles the channel: several CPUs' channels share a word.
static CPUS: [AtomicU16; evtchn::PORTS] = [const { AtomicU16::new(0) }; evtchn::PORTS];

/// Events that nobody waits for.
pub static UNCLAIMED: AtomicU64 = AtomicU64::new(0);

fn slot(port: u32) -> Result<usize> {
    // Port 0 is never given out.
    if port == 0 || port as usize >= evtchn::PORTS { Err(Error::Exhausted) } else { Ok(port as usize) }
}

/// Masks all channels: what the boot loader or firmware used is none of ours.
pub fn mask_all() {
    for word in &shared::get().mask {
        word.store(u64::MAX, Ordering::Relaxed);
    }
}

/// Calls `handler` for events of `port` on CPU `cpu`, from now on. What came before is delivered.
pub fn attach(port: u32, cpu: usize, handler: &'static Handler) -> Result<()> {
    let slot = slot(port)?;
    CPUS[slot].store(cpu as u16, Ordering::Relaxed);
    HANDLERS[slot].store((&raw const *handler).cast_mut(), Ordering::Release);
    unmask(port);
    Ok(())
}

/// Delivers events of `port`; at once if one is waiting.
pub fn unmask(port: u32) {
    // Xen clears the bit and looks for a pending event in one step.
    let _ = event_channel(evtchn::UNMASK, &mut evtchn::Port { port });
}

/// Holds events of `port` back.
pub fn mask(port: u32) {
    if let Ok(slot) = slot(port) {
        shared::get().mask[slot / 64].fetch_or(1 << (slot % 64), Ordering::SeqCst);
    }
}

/// True if an event of `port` waits; it is forgotten.
pub fn take_pending(port: u32) -> bool {
    slot(port).is_ok_and(|slot| {
        let bit = 1 << (slot % 64);
        shared::get().pending[slot / 64].fetch_and(!bit, Ordering::SeqCst) & bit != 0
    })
}

/// Binds the one-shot timer of `cpu`, and attaches `handler`.
pub fn bind_virq(virq: u32, cpu: usize, handler: &'static Handler) -> Result<u32> {
    let mut argument = evtchn::BindVirq { virq, vcpu: (mode::get().vcpu)(cpu), port: 0 };
    event_channel(evtchn::BIND_VIRQ, &mut argument)?;
    attach(argument.port, cpu, handler)?;
    Ok(argument.port)
}

/// A channel by which CPUs signal `cpu`, with its handler.
pub fn bind_ipi(cpu: usize, handler: &'static Handler) -> Result<u32> {
    let mut argument = evtchn::BindIpi { vcpu: (mode::get().vcpu)(cpu), port: 0 };
    event_channel(evtchn::BIND_IPI, &mut argument)?;
    attach(argument.port, cpu, handler)?;
    Ok(argument.port)
}

/// A channel that domain `remote` may bind to; its events go to `cpu`, if that CPU runs, else to the boot CPU.
pub fn allocate(remote: u16, cpu: usize, handler: &'static Handler) -> Result<u32> {
    let mut argument = evtchn::AllocUnbound { domain: DOMID_SELF, remote_domain: remote, port: 0 };
    event_channel(evtchn::ALLOC_UNBOUND, &mut argument)?;
    let port = argument.port;
    let cpu = if shared::vcpu(cpu).is_some() { cpu } else { 0 };
    let mut target = evtchn::BindVcpu { port, vcpu: (mode::get().vcpu)(cpu) };
    let attached = if cpu == 0 { Ok(0) } else { event_channel(evtchn::BIND_VCPU, &mut target) }
        .and_then(|_| attach(port, cpu, handler));
    if let Err(error) = attached {
        close(port);
        return Err(error);
    }
    Ok(port)
}

/// Closes a channel. Its handler may still be running on another CPU.
pub fn close(port: u32) {
    if let Ok(slot) = slot(port) {
        mask(port);
        HANDLERS[slot].store(core::ptr::null_mut(), Ordering::Release);
    }
    let _ = event_channel(evtchn::CLOSE, &mut evtchn::Port { port });
}

/// Handles what waits for this CPU: the upcall. Interrupts are disabled.
pub fn dispatch(cpu: usize) {
    let Some(vcpu) = shared::vcpu(cpu) else { return };
    let page = shared::get();
    // Cleared before looking: an event that comes meanwhile sets it again and causes another upcall.
    while vcpu.upcall_pending.swap(0, Ordering::SeqCst) != 0 {
        let mut words = vcpu.pending_selector.swap(0, Ordering::SeqCst);
        while words != 0 {
            let word = words.trailing_zeros() as usize;
            words &= words - 1;
            let mut bits = page.pending[word].load(Ordering::SeqCst) & !page.mask[word].load(Ordering::Relaxed);
            while bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let port = word * 64 + bit;
                if usize::from(CPUS[port].load(Ordering::Relaxed)) != cpu {
                    continue;
                }
                page.pending[word].fetch_and(!(1 << bit), Ordering::SeqCst);
                // SAFETY: `attach` takes handlers that live for ever.
                match unsafe { HANDLERS[port].load(Ordering::Acquire).as_ref() } {
                    Some(handler) => handler(),
                    None => {
                        UNCLAIMED.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}
