//! Vectors: who gets an interrupt. Each CPU has its own table for messages; lines have one for all.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use hal_core::interrupt::{Handler, MsiMessage};
use hal_core::{Error, Interrupts, Result};
use spin::{Mutex, Once};

use crate::local::CpuLocal;
use crate::{apic, ioapic, ipi};

/// First vector for messages and lines; below are exceptions and the masked 8259's.
const FIRST: u8 = 0x30;
/// Behind the last.
const END: u8 = 0xf0;
/// The clock's one-shot event.
pub const TIMER: u8 = 0xf0;
/// Another CPU wants this one to look for work.
pub const RESCHEDULE: u8 = 0xf1;
/// Another CPU wants translations forgotten.
pub const FLUSH: u8 = 0xf2;
/// A hypervisor's events. They may not come through the local APIC: the handler ends the interrupt if they do.
pub const UPCALL: u8 = 0xf3;
/// What a local APIC gives when an interrupt went away; wants no end-of-interrupt.
pub const SPURIOUS: u8 = 0xff;

/// Handlers of one vector of one CPU. Lists only grow; an old list is never freed, since it may be running.
pub type Slot = AtomicPtr<Vec<Handler>>;

/// Interrupts that nobody wanted.
pub static UNCLAIMED: AtomicU64 = AtomicU64::new(0);

static UPCALL_HANDLER: Once<fn()> = Once::new();

/// Calls `handler` whenever vector [`UPCALL`] comes.
pub fn on_upcall(handler: fn()) {
    UPCALL_HANDLER.call_once(|| handler);
}

/// Handles an interrupt on this CPU; interrupts are disabled.
pub fn dispatch(vector: u8) {
    match vector {
        TIMER => {
            apic::eoi();
            crate::timer::interrupt();
        }
        RESCHEDULE => {
            apic::eoi();
            if let Some(kernel) = hal_core::kernel() {
                kernel.reschedule();
            }
        }
        FLUSH => {
            apic::eoi();
            ipi::answer();
        }
        UPCALL => {
            if let Some(handler) = UPCALL_HANDLER.get() {
                handler();
            }
        }
        FIRST..END => {
            let list = CpuLocal::this().handlers[usize::from(vector)].load(Ordering::Acquire);
            // SAFETY: lists are leaked boxes, never freed.
            match unsafe { list.as_ref() } {
                Some(list) => list.iter().for_each(|handler| handler()),
                None => {
                    UNCLAIMED.fetch_add(1, Ordering::Relaxed);
                }
            }
            apic::eoi();
        }
        // The 8259s are masked, and a spurious vector is not in service.
        _ => {
            UNCLAIMED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Adds a handler to a vector of a CPU.
fn add(cpu: usize, vector: u8, handler: Handler) -> Result<()> {
    let local = CpuLocal::of(cpu).ok_or(Error::Invalid)?;
    let slot = &local.handlers[usize::from(vector)];
    let old = slot.load(Ordering::Acquire);
    // SAFETY: as in `dispatch`.
    let mut list = unsafe { old.as_ref() }.cloned().unwrap_or_default();
    list.push(handler);
    slot.store(Box::into_raw(Box::new(list)), Ordering::Release);
    Ok(())
}

/// A vector that is free on `cpu`.
fn allocate(cpu: usize) -> Result<u8> {
    let local = CpuLocal::of(cpu).ok_or(Error::Invalid)?;
    // 0x80 is `int 0x80`.
    let free = |v: u8| v != crate::traps::INT80 && local.handlers[usize::from(v)].load(Ordering::Relaxed).is_null();
    // Spread over the priority classes (16 vectors each).
    let start = local.next_vector.fetch_add(16, Ordering::Relaxed);
    (0..END - FIRST)
        .map(|i| FIRST + ((u16::from(start) + u16::from(i)) % u16::from(END - FIRST)) as u8)
        .find(|&v| free(v))
        .ok_or(Error::Exhausted)
}

/// One allocation or attachment at a time.
static ALLOCATION: Mutex<()> = Mutex::new(());

/// Vectors by local APIC and lines by I/O APIC: every platform but Xen PV.
pub struct ApicInterrupts;

impl Interrupts for ApicInterrupts {
    fn allocate_message(&self, cpu: usize, handler: Handler) -> Result<MsiMessage> {
        let _one = ALLOCATION.lock();
        let id = CpuLocal::of(cpu).ok_or(Error::Invalid)?.apic_id();
        // Without interrupt remapping a message names 8 bits of APIC id (Intel SDM vol. 3, section 10.11.1).
        if id > 0xff {
            return Err(Error::Unsupported);
        }
        let vector = allocate(cpu)?;
        add(cpu, vector, handler)?;
        Ok(MsiMessage { address: 0xfee0_0000 | u64::from(id) << 12, data: u32::from(vector) })
    }

    fn attach_line(&self, gsi: u32, level: bool, active_low: bool, handler: Handler) -> Result<()> {
        let _one = ALLOCATION.lock();
        let mut lines = LINES.lock();
        if let Some(&(_, vector)) = lines.iter().find(|&&(known, _)| known == gsi) {
            return add(0, vector, handler);
        }
        let vector = allocate(0)?;
        add(0, vector, handler)?;
        let id = CpuLocal::of(0).ok_or(Error::Invalid)?.apic_id();
        ioapic::route(gsi, vector, id as u8, level, active_low)?;
        lines.push((gsi, vector));
        Ok(())
    }
}

/// Lines in use: global system interrupt and vector, on CPU 0.
static LINES: Mutex<Vec<(u32, u8)>> = Mutex::new(Vec::new());

/// A fresh table of handlers.
pub const fn no_handlers() -> [Slot; 256] {
    [const { AtomicPtr::new(core::ptr::null_mut()) }; 256]
}
