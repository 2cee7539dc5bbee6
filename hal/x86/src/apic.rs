//! The local APIC: x2APIC by MSRs where CPUID has it, else by memory (Intel SDM vol. 3, chapter 10).

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hal_core::{PhysAddr, Platform, Result};

use crate::arch::{self, msr};

const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND_LOW: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

const MASKED: u32 = 1 << 16;
const TSC_DEADLINE: u32 = 2 << 17;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_INIT: u32 = 5 << 8;
const DELIVER_START: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const PENDING: u32 = 1 << 12;

/// 0: not set up, 1: by memory, 2: x2APIC.
static MODE: AtomicU8 = AtomicU8::new(0);
static REGISTERS: AtomicU64 = AtomicU64::new(0);

fn x2() -> bool {
    MODE.load(Ordering::Relaxed) == 2
}

fn read(register: u32) -> u32 {
    if x2() {
        // SAFETY: x2APIC is on; this register exists.
        unsafe { arch::rdmsr(0x800 + (register >> 4)) as u32 }
    } else {
        // SAFETY: the registers are mapped for ever.
        unsafe { ((REGISTERS.load(Ordering::Relaxed) + u64::from(register)) as *const u32).read_volatile() }
    }
}

#[inline]
fn write(register: u32, value: u32) {
    if x2() {
        // SAFETY: x2APIC is on; this register exists.
        unsafe { arch::wrmsr(0x800 + (register >> 4), u64::from(value)) };
    } else {
        // SAFETY: the registers are mapped for ever.
        unsafe { ((REGISTERS.load(Ordering::Relaxed) + u64::from(register)) as *mut u32).write_volatile(value) };
    }
}

/// Finds the APIC (firmware tells where its registers are) and turns this CPU's on. Boot CPU, heap works.
pub fn init(platform: &dyn Platform, registers: PhysAddr) -> Result<()> {
    let x2apic = arch::cpuid(1, 0)[2] & 1 << 21 != 0;
    if !x2apic {
        let at = platform.mmu().map_device(registers, 4096)?;
        REGISTERS.store(at.0, Ordering::Relaxed);
    }
    MODE.store(if x2apic { 2 } else { 1 }, Ordering::Relaxed);
    init_this_cpu();
    Ok(())
}

/// True once [`init`] ran.
pub fn is_up() -> bool {
    MODE.load(Ordering::Relaxed) != 0
}

/// Turns this CPU's APIC on; its lines are masked, its timer off.
pub fn init_this_cpu() {
    // SAFETY: every 64-bit CPU has this register; x2APIC is enabled where CPUID lists it.
    unsafe {
        let base = arch::rdmsr(msr::APIC_BASE) | 1 << 11;
        if x2() {
            arch::wrmsr(msr::APIC_BASE, base);
            arch::wrmsr(msr::APIC_BASE, base | 1 << 10);
        } else {
            arch::wrmsr(msr::APIC_BASE, base);
        }
    }
    write(TASK_PRIORITY, 0);
    write(LVT_TIMER, MASKED);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, DELIVER_NMI);
    write(LVT_ERROR, MASKED);
    write(SPURIOUS, 0x100 | u32::from(crate::interrupts::SPURIOUS));
    eoi();
}

/// This CPU's APIC number.
pub fn id() -> u32 {
    let id = read(ID);
    if x2() { id } else { id >> 24 }
}

/// Ends the interrupt in service.
#[inline]
pub fn eoi() {
    write(EOI, 0);
}

fn command(target: u32, low: u32) {
    if x2() {
        // SAFETY: x2APIC is on; the command register is one 64-bit register.
        unsafe { arch::wrmsr(0x830, u64::from(target) << 32 | u64::from(low)) };
        return;
    }
    let interrupts = arch::interrupts_enabled();
    arch::cli();
    wait_sent();
    write(COMMAND_HIGH, target << 24);
    write(COMMAND_LOW, low);
    if interrupts {
        // SAFETY: they were enabled on entry.
        unsafe { arch::sti() };
    }
}

fn wait_sent() {
    while !x2() && read(COMMAND_LOW) & PENDING != 0 {
        core::hint::spin_loop();
    }
}

/// Sends a vector to the CPU with this APIC number. Memory writes before it are visible to its handler.
#[inline]
pub fn send(target: u32, vector: u8) {
    // Writes to x2APIC registers do not wait for stores (Intel SDM vol. 3, section 10.12.3).
    core::sync::atomic::fence(Ordering::SeqCst);
    command(target, ASSERT | u32::from(vector));
}

/// Sends a non-maskable interrupt.
pub fn send_nmi(target: u32) {
    command(target, ASSERT | DELIVER_NMI);
}

/// Resets a CPU, so that it waits for [`send_start`].
pub fn send_init(target: u32) {
    command(target, ASSERT | DELIVER_INIT);
    wait_sent();
}

/// Lets a CPU start in real mode at `page`, a frame below 1 MiB.
pub fn send_start(target: u32, page: u64) {
    command(target, ASSERT | DELIVER_START | (page >> 12) as u32);
    wait_sent();
}

/// Prepares this CPU's timer: one-shot, or TSC-deadline where the CPU has it.
pub fn init_timer(deadline_mode: bool) {
    if deadline_mode {
        write(LVT_TIMER, TSC_DEADLINE | u32::from(crate::interrupts::TIMER));
        // The mode must be in force before the first deadline is written (Intel SDM vol. 3, section 10.5.4.1).
        core::sync::atomic::fence(Ordering::SeqCst);
    } else {
        // Divide by one.
        write(DIVIDE, 0b1011);
        write(LVT_TIMER, u32::from(crate::interrupts::TIMER));
    }
}

/// Starts the counter; 0 stops it.
#[inline]
pub fn start_count(ticks: u32) {
    write(INITIAL_COUNT, ticks);
}

/// Counts down from all ones without an interrupt: for calibration.
pub fn start_free_count() {
    write(DIVIDE, 0b1011);
    write(LVT_TIMER, MASKED);
    write(INITIAL_COUNT, u32::MAX);
}

/// The counter.
pub fn count() -> u32 {
    read(CURRENT_COUNT)
}
