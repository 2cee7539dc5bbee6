//! The time-stamp counter's frequency: told by the hypervisor or CPUID, else measured against HPET, the ACPI timer or
//! the PIT, shortly at boot and better later, as longer and longer stretches pass.

use core::sync::atomic::{AtomicU64, Ordering};

use hal_core::clock::{PARAMS, tsc};
use hal_core::{PhysAddr, Platform};
use spin::{Mutex, Once};

use crate::scale::{frequency, scale, ticks_per_ns, unwrap};
use crate::{apic, arch};

static HZ: AtomicU64 = AtomicU64::new(0);
static PER_NS: AtomicU64 = AtomicU64::new(1 << 32);
static SOURCE: Once<&'static str> = Once::new();
/// Re-reads the hypervisor's clock page; given the time now in ns.
static HOOK: Once<fn(u64)> = Once::new();
static NEXT_REFRESH: AtomicU64 = AtomicU64::new(u64::MAX);

/// How often a hypervisor's clock page is read again.
const HOOK_INTERVAL_NS: u64 = 1_000_000_000;
/// First measurement.
const FIRST_NS: u64 = 400_000;
/// Measurements end when one covered this long.
const LAST_NS: u64 = 60_000_000_000;

/// A counter of known frequency.
#[derive(Clone, Copy)]
enum Counter {
    /// Registers' virtual address.
    Hpet(u64),
    /// Port.
    AcpiTimer(u16),
    /// Channel 2 of the 8254.
    Pit,
}

#[derive(Clone, Copy)]
struct Reference {
    counter: Counter,
    hz: u64,
    mask: u64,
}

/// What firmware says about counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Firmware {
    /// HPET registers.
    pub hpet: Option<PhysAddr>,
    /// ACPI timer: port, and whether it has 32 bits.
    pub acpi_timer: Option<(u16, bool)>,
}

struct Measurement {
    reference: Reference,
    start: (u64, u64),
}

static MEASUREMENT: Mutex<Option<Measurement>> = Mutex::new(None);

impl Reference {
    fn find(platform: &dyn Platform, firmware: &Firmware) -> (Self, &'static str) {
        if let Some(registers) = firmware.hpet.and_then(|at| platform.mmu().map_device(at, 1024).ok()) {
            // SAFETY: the table names HPET registers (IA-PC HPET 1.0a): capabilities at 0, configuration at 16. Turning the
            // counter on has no effect on interrupts.
            let period = unsafe {
                let base = registers.0 as *mut u32;
                base.add(4).write_volatile(base.add(4).read_volatile() | 1);
                base.add(1).read_volatile()
            };
            // Femtoseconds; the specification's limit is 100 ns.
            if (1..=100_000_000).contains(&period) {
                let hz = 1_000_000_000_000_000 / u64::from(period);
                return (Self { counter: Counter::Hpet(registers.0), hz, mask: 0xffff_ffff }, "tsc, measured by HPET");
            }
        }
        if let Some((port, wide)) = firmware.acpi_timer {
            let mask = if wide { 0xffff_ffff } else { 0xff_ffff };
            return (
                Self { counter: Counter::AcpiTimer(port), hz: 3_579_545, mask },
                "tsc, measured by the ACPI timer",
            );
        }
        // SAFETY: channel 2 of the 8254 (mode 2, full count), which only the speaker would use; its gate is on, the
        // speaker off.
        unsafe {
            arch::outb(0x61, arch::inb(0x61) & !2 | 1);
            arch::outb(0x43, 0xb4);
            arch::outb(0x42, 0);
            arch::outb(0x42, 0);
        }
        (Self { counter: Counter::Pit, hz: 1_193_182, mask: 0xffff }, "tsc, measured by the PIT")
    }

    fn read(&self) -> u64 {
        // SAFETY: the counter was found by `find`; reading it has no side effect but the PIT's latch.
        unsafe {
            match self.counter {
                Counter::Hpet(base) => u64::from(((base + 0xf0) as *const u32).read_volatile()),
                Counter::AcpiTimer(port) => u64::from(arch::inl(port)) & self.mask,
                Counter::Pit => {
                    arch::outb(0x43, 0x80);
                    let low = arch::inb(0x42);
                    let high = arch::inb(0x42);
                    // It counts down.
                    0xffff - (u64::from(high) << 8 | u64::from(low))
                }
            }
        }
    }

    /// Counter and TSC at the same moment: the best of three tries.
    fn pair(&self) -> (u64, u64) {
        let mut best = (0, 0);
        let mut least = u64::MAX;
        for _ in 0..3 {
            let before = tsc();
            let value = self.read();
            let took = tsc().wrapping_sub(before);
            if took < least {
                least = took;
                best = (value, before + took / 2);
            }
        }
        best
    }
}

/// Frequency from CPUID, in Hz: leaf 0x15 (crystal and ratio), or the hypervisors' leaf 0x40000010 (kHz).
fn told() -> Option<(u64, &'static str)> {
    let [denominator, numerator, crystal, _] = arch::cpuid_checked(0x15, 0);
    if denominator != 0 && numerator != 0 && crystal != 0 {
        let hz = u64::from(crystal) * u64::from(numerator) / u64::from(denominator);
        return Some((hz, "tsc, CPUID leaf 15"));
    }
    let hypervisor = arch::cpuid(1, 0)[2] & 1 << 31 != 0;
    if hypervisor && arch::cpuid(0x4000_0000, 0)[0] >= 0x4000_0010 {
        let khz = arch::cpuid(0x4000_0010, 0)[0];
        if khz > 1000 {
            return Some((u64::from(khz) * 1000, "tsc, hypervisor leaf 40000010"));
        }
    }
    None
}

/// Starts the clock, unless [`set_told`] did, and measures the APIC counter. Returns the latter's kHz.
pub fn init(platform: &dyn Platform, firmware: &Firmware, entry_tsc: u64) -> u64 {
    if SOURCE.get().is_none()
        && let Some((hz, source)) = told()
    {
        set_frequency(source, hz, entry_tsc);
    }
    apic::start_free_count();
    if SOURCE.get().is_some() {
        // Only the APIC's counter is unknown; where events are made by the TSC nobody needs it.
        if arch::cpuid(1, 0)[2] & 1 << 24 != 0 {
            return 1_000_000;
        }
        let (from, count) = (hal_core::clock::now_ns(), apic::count());
        while hal_core::clock::now_ns() < from + FIRST_NS {
            core::hint::spin_loop();
        }
        let (to, end) = (hal_core::clock::now_ns(), apic::count());
        return frequency(u64::from(count - end), 1_000_000_000, to - from) / 1000;
    }
    let (reference, source) = Reference::find(platform, firmware);
    let count = apic::count();
    let start = reference.pair();
    let wanted = reference.hz * FIRST_NS / 1_000_000_000;
    // A reference that stands still must not stop the boot: 2^28 ticks are long enough with any CPU.
    while reference.read().wrapping_sub(start.0) & reference.mask < wanted && tsc().wrapping_sub(start.1) < 1 << 28 {
        core::hint::spin_loop();
    }
    let end = reference.pair();
    let counted = u64::from(count - apic::count());
    let went = end.0.wrapping_sub(start.0) & reference.mask;
    if went == 0 {
        log::error!("no working time reference; taking the time-stamp counter for 1 GHz");
        set_hz(1_000_000_000, entry_tsc, 0);
        SOURCE.call_once(|| "tsc, frequency unknown");
        return 1_000_000;
    }
    set_hz(frequency(end.1 - start.1, reference.hz, went), entry_tsc, 0);
    SOURCE.call_once(|| source);
    *MEASUREMENT.lock() = Some(Measurement { reference, start });
    NEXT_REFRESH.store(16_000_000, Ordering::Relaxed);
    frequency(counted, reference.hz, went) / 1000
}

fn set_hz(hz: u64, base_tsc: u64, base_ns: u64) {
    let (mult, shift) = scale(hz);
    HZ.store(hz, Ordering::Relaxed);
    PER_NS.store(ticks_per_ns(hz), Ordering::Relaxed);
    PARAMS.update(base_tsc, base_ns, mult, shift);
}

/// A hypervisor's clock: its conversion, its frequency, and what to call about once a second to read it again.
pub fn set_told(source: &'static str, base: (u64, u64), mult: u32, shift: u32, hz: u64, again: fn(u64)) {
    HZ.store(hz, Ordering::Relaxed);
    PER_NS.store(ticks_per_ns(hz), Ordering::Relaxed);
    PARAMS.update(base.0, base.1, mult, shift);
    SOURCE.call_once(|| source);
    HOOK.call_once(|| again);
    NEXT_REFRESH.store(base.1 + HOOK_INTERVAL_NS, Ordering::Relaxed);
}

/// The counter's frequency in Hz as the hypervisor tells it: before [`init`], which then measures nothing.
pub fn set_frequency(source: &'static str, hz: u64, entry_tsc: u64) {
    set_hz(hz, entry_tsc, 0);
    SOURCE.call_once(|| source);
}

/// Counter ticks in `ns` nanoseconds.
#[inline]
pub fn ticks(ns: u64) -> u64 {
    ((u128::from(ns) * u128::from(PER_NS.load(Ordering::Relaxed))) >> 32) as u64
}

/// Frequency in kHz.
pub fn khz() -> u64 {
    HZ.load(Ordering::Relaxed) / 1000
}

/// Where the frequency comes from.
pub fn source() -> &'static str {
    SOURCE.get().copied().unwrap_or("tsc, not measured yet")
}

/// Called in each clock event: makes the conversion better, or reads the hypervisor's again, when it is time.
#[inline]
pub fn refresh(now_ns: u64) {
    if now_ns >= NEXT_REFRESH.load(Ordering::Relaxed) && hal_core::percpu::cpu_id() == 0 {
        refresh_slow(now_ns);
    }
}

#[cold]
fn refresh_slow(now_ns: u64) {
    if let Some(hook) = HOOK.get() {
        NEXT_REFRESH.store(now_ns + HOOK_INTERVAL_NS, Ordering::Relaxed);
        hook(now_ns);
        return;
    }
    NEXT_REFRESH.store(u64::MAX, Ordering::Relaxed);
    let Some(mut measurement) = MEASUREMENT.try_lock() else { return };
    let Some(m) = measurement.as_ref() else { return };
    let (value, at) = m.reference.pair();
    let passed = at.saturating_sub(m.start.1);
    let expected = frequency(passed, m.reference.hz, HZ.load(Ordering::Relaxed));
    let went = unwrap(m.start.0, value, m.reference.mask, expected);
    // Believe a correction of up to 2 %: more means that the machine was stopped in between.
    if went.abs_diff(expected) < expected / 50 {
        set_hz(frequency(passed, m.reference.hz, went), at, PARAMS.ns_at(at));
    }
    if now_ns < LAST_NS {
        NEXT_REFRESH.store(now_ns * 16, Ordering::Relaxed);
    } else {
        *measurement = None;
    }
}
