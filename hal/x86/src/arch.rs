//! Instructions: ports, model-specific registers, control registers, CPUID.

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Model-specific registers (Intel SDM vol. 4; AMD APM vol. 2, appendix A).
pub mod msr {
    /// Local APIC base and mode.
    pub const APIC_BASE: u32 = 0x1b;
    /// TSC value at which the local APIC timer fires.
    pub const TSC_DEADLINE: u32 = 0x6e0;
    /// Extended features.
    pub const EFER: u32 = 0xc000_0080;
    /// Segments of SYSCALL.
    pub const STAR: u32 = 0xc000_0081;
    /// 64-bit SYSCALL target.
    pub const LSTAR: u32 = 0xc000_0082;
    /// Flags that SYSCALL clears.
    pub const SFMASK: u32 = 0xc000_0084;
    /// FS base.
    pub const FS_BASE: u32 = 0xc000_0100;
    /// What RDTSCP gives beside the time.
    pub const TSC_AUX: u32 = 0xc000_0103;
    /// GS base.
    pub const GS_BASE: u32 = 0xc000_0101;
}

/// The privilege level that this runs at: 0, unless a hypervisor keeps the kernel out of it.
pub fn ring() -> u16 {
    let cs: u16;
    // SAFETY: reads a register.
    unsafe { asm!("mov {:x}, cs", out(reg) cs, options(nomem, nostack, preserves_flags)) };
    cs & 3
}

/// Reads a byte from a port.
///
/// # Safety
/// Reading this port must have no effect that breaks memory safety or another owner's protocol.
#[inline]
pub unsafe fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: by the caller.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nostack, preserves_flags)) };
    value
}

/// Reads 16 bits from a port.
///
/// # Safety
/// As [`inb`].
#[inline]
pub unsafe fn inw(port: u16) -> u16 {
    let value: u16;
    // SAFETY: by the caller.
    unsafe { asm!("in ax, dx", out("ax") value, in("dx") port, options(nostack, preserves_flags)) };
    value
}

/// Reads 32 bits from a port.
///
/// # Safety
/// As [`inb`].
#[inline]
pub unsafe fn inl(port: u16) -> u32 {
    let value: u32;
    // SAFETY: by the caller.
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nostack, preserves_flags)) };
    value
}

/// Writes a byte to a port.
///
/// # Safety
/// Writing this port must have no effect that breaks memory safety or another owner's protocol.
#[inline]
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: by the caller.
    unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nostack, preserves_flags)) };
}

/// Writes 16 bits to a port.
///
/// # Safety
/// As [`outb`].
#[inline]
pub unsafe fn outw(port: u16, value: u16) {
    // SAFETY: by the caller.
    unsafe { asm!("out dx, ax", in("ax") value, in("dx") port, options(nostack, preserves_flags)) };
}

/// Writes 32 bits to a port.
///
/// # Safety
/// As [`outb`].
#[inline]
pub unsafe fn outl(port: u16, value: u32) {
    // SAFETY: by the caller.
    unsafe { asm!("out dx, eax", in("eax") value, in("dx") port, options(nostack, preserves_flags)) };
}

/// Reads a model-specific register.
///
/// # Safety
/// The register exists, else the CPU raises #GP.
#[inline]
pub unsafe fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: by the caller.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high,
            options(nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists and the value keeps the kernel's assumptions.
#[inline]
pub unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: by the caller.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags))
    };
}

/// Another way to ask CPUID; null: the instruction itself.
static CPUID: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Makes `ask` stand in for CPUID: where the instruction shows the hardware and not what the hypervisor allows.
pub fn set_cpuid(ask: fn(u32, u32) -> [u32; 4]) {
    CPUID.store(ask as *mut (), Ordering::Relaxed);
}

/// CPUID: eax, ebx, ecx, edx. The leaf is trapped by most hypervisors: not for hot paths.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let other = CPUID.load(Ordering::Relaxed);
    if !other.is_null() {
        // SAFETY: `set_cpuid` stored a function of this type.
        let ask: fn(u32, u32) -> [u32; 4] = unsafe { core::mem::transmute(other) };
        return ask(leaf, subleaf);
    }
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// CPUID, or zeros if the leaf is beyond what the CPU has.
pub fn cpuid_checked(leaf: u32, subleaf: u32) -> [u32; 4] {
    if cpuid(leaf & 0xffff_0000, 0)[0] < leaf {
        return [0; 4];
    }
    cpuid(leaf, subleaf)
}

/// The root page table's frame.
#[inline]
pub fn cr3() -> u64 {
    let value: u64;
    // SAFETY: only reads.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nostack, preserves_flags)) };
    value & !0xfff
}

/// Loads the root page table; flushes all entries that are not global.
///
/// # Safety
/// The root maps the kernel.
#[inline]
pub unsafe fn set_cr3(root: u64) {
    // SAFETY: by the caller.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// CR4.
#[inline]
pub fn cr4() -> u64 {
    let value: u64;
    // SAFETY: only reads.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// Writes CR4.
///
/// # Safety
/// The CPU has the features that are turned on, and paging stays as it is.
#[inline]
pub unsafe fn set_cr4(value: u64) {
    // SAFETY: by the caller.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Disables interrupts.
#[inline]
pub fn cli() {
    // SAFETY: fewer interrupts break nothing.
    unsafe { asm!("cli", options(nostack)) };
}

/// Enables interrupts.
///
/// # Safety
/// The interrupt tables are loaded, and the caller holds nothing that a handler locks.
#[inline]
pub unsafe fn sti() {
    // SAFETY: by the caller.
    unsafe { asm!("sti", options(nostack)) };
}

/// Waits for an interrupt.
#[inline]
pub fn hlt() {
    // SAFETY: only waits.
    unsafe { asm!("hlt", options(nostack, preserves_flags)) };
}

/// True if interrupts are enabled.
#[inline]
pub fn interrupts_enabled() -> bool {
    let flags: u64;
    // SAFETY: only reads the flags.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & 0x200 != 0
}

/// A random number, as good as the CPU can give this early: RDRAND, else the time-stamp counter, mixed.
pub fn early_random() -> u64 {
    let mut value: u64 = 0;
    if cpuid(1, 0)[2] & 1 << 30 != 0 {
        // SAFETY: CPUID says that RDRAND is there.
        unsafe { asm!("rdrand {}", out(reg) value, options(nostack)) };
    }
    // splitmix64's finaliser.
    let mut x = value ^ hal_core::clock::tsc().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
