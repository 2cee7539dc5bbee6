//! The console ring (io/console.h): works before the heap, and in a panic. Without one, COM1.
//!
//! Who reads the ring is another domain, so a full ring is waited for. One that nobody reads must not hold the guest up: after
//! [`PATIENCE_NS`] without progress output goes to COM1 from then on.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering};

use alloc::boxed::Box;
use hal_core::interrupt::Handler;
use hal_core::{Console, Error, Result, clock};
use hal_x86::serial::SerialConsole;

use crate::{event, hypercall};

const IN: usize = 1024;
const OUT: usize = 2048;
const PATIENCE_NS: u64 = 2_000_000_000;

/// `struct xencons_interface`.
#[repr(C)]
pub struct Interface {
    input: [AtomicU8; IN],
    output: [AtomicU8; OUT],
    input_consumed: AtomicU32,
    input_produced: AtomicU32,
    output_consumed: AtomicU32,
    output_produced: AtomicU32,
}

static PAGE: AtomicPtr<Interface> = AtomicPtr::new(core::ptr::null_mut());
static PORT: AtomicU32 = AtomicU32::new(0);
/// Nobody reads the ring.
static DEAF: AtomicBool = AtomicBool::new(false);
/// Time-stamp counter ticks that stand for the patience before the clock runs: 4 s at 1 GHz.
const EARLY_TICKS: u64 = 4_000_000_000;

static WRITING: AtomicBool = AtomicBool::new(false);
static READING: AtomicBool = AtomicBool::new(false);

/// Says where the ring is, and its channel.
///
/// # Safety
/// `page` is the console's page and stays mapped for ever.
pub unsafe fn init(page: *mut Interface, port: u32) {
    PORT.store(port, Ordering::Relaxed);
    PAGE.store(page, Ordering::Release);
}

fn page() -> Option<&'static Interface> {
    // SAFETY: `init`'s caller vouches for it; all fields are atomic.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

/// True if output goes to the ring.
pub fn is_up() -> bool {
    page().is_some() && !DEAF.load(Ordering::Relaxed)
}

impl Interface {
    /// Bytes that nobody has taken yet; a corrupt count is taken for a full ring.
    fn waiting(&self) -> usize {
        let produced = self.output_produced.load(Ordering::Relaxed);
        (produced.wrapping_sub(self.output_consumed.load(Ordering::Acquire)) as usize).min(OUT)
    }

    /// Puts on the ring what fits; returns how many bytes.
    fn put(&self, bytes: &[u8]) -> usize {
        let produced = self.output_produced.load(Ordering::Relaxed);
        let count = (OUT - self.waiting()).min(bytes.len());
        for (i, &byte) in bytes[..count].iter().enumerate() {
            self.output[(produced as usize).wrapping_add(i) % OUT].store(byte, Ordering::Relaxed);
        }
        self.output_produced.store(produced.wrapping_add(count as u32), Ordering::Release);
        count
    }
}

/// Waits a moment for the reader; false when it took too long since `start`.
fn patient(start: &mut Option<(u64, u64)>) -> bool {
    let (ticks, ns) = *start.get_or_insert_with(|| (clock::tsc(), clock::now_ns()));
    hypercall::yield_now();
    // Before the clock is set up its time stands for ticks, which are shorter.
    clock::now_ns().wrapping_sub(ns) < PATIENCE_NS || clock::tsc().wrapping_sub(ticks) < EARLY_TICKS
}

/// Waits until everything was read: before the end.
pub fn drain() {
    let Some(page) = page() else { return };
    let mut start = None;
    while is_up() && page.waiting() > 0 && patient(&mut start) {}
}

/// One writer and one reader at a time, with interrupts disabled. A panic may have interrupted another one, who will never go on:
/// it is waited for only so long.
struct Turn {
    busy: &'static AtomicBool,
    enabled: bool,
}

impl Turn {
    fn take(busy: &'static AtomicBool) -> Self {
        let enabled = hal_core::cpu::irq_save();
        let mut start = None;
        while busy.swap(true, Ordering::Acquire) && patient(&mut start) {}
        Self { busy, enabled }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.store(false, Ordering::Release);
        hal_core::cpu::irq_restore(self.enabled);
    }
}

/// The ring, else COM1.
pub struct RingConsole;

impl Console for RingConsole {
    fn write(&self, mut bytes: &[u8]) {
        if !is_up() {
            return SerialConsole.write(bytes);
        }
        let Some(page) = page() else { return };
        let _one = Turn::take(&WRITING);
        let mut start = None;
        while !bytes.is_empty() {
            let count = page.put(bytes);
            bytes = &bytes[count..];
            if count > 0 {
                hypercall::notify(PORT.load(Ordering::Relaxed));
                start = None;
            } else if !patient(&mut start) {
                DEAF.store(true, Ordering::Relaxed);
                return SerialConsole.write(bytes);
            }
        }
    }

    fn read(&self, to: &mut [u8]) -> usize {
        if !is_up() {
            return SerialConsole.read(to);
        }
        let Some(page) = page() else { return 0 };
        let _one = Turn::take(&READING);
        let consumed = page.input_consumed.load(Ordering::Relaxed);
        let there = page.input_produced.load(Ordering::Acquire).wrapping_sub(consumed) as usize;
        // A corrupt count reads as nothing.
        let count = if there > IN { 0 } else { there.min(to.len()) };
        for (i, byte) in to[..count].iter_mut().enumerate() {
            *byte = page.input[(consumed as usize).wrapping_add(i) % IN].load(Ordering::Relaxed);
        }
        if count > 0 {
            page.input_consumed.store(consumed.wrapping_add(count as u32), Ordering::Release);
            hypercall::notify(PORT.load(Ordering::Relaxed));
        }
        count
    }

    fn on_input(&self, handler: Handler) -> Result<()> {
        if !is_up() {
            return SerialConsole.on_input(handler);
        }
        match PORT.load(Ordering::Relaxed) {
            0 => Err(Error::Unsupported),
            port => event::attach(port, 0, Box::leak(Box::new(handler))),
        }
    }
}
