//! CPU features: what is turned on, on each CPU, and the FPU's save format.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use crate::arch::{self, msr};

const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;

/// x87, SSE, AVX, and AVX-512's three.
const XCR0_WANTED: u64 = 0b1110_0111;

/// 0: fxsave, 1: xsave, 2: xsaveopt.
static FPU_MODE: AtomicU8 = AtomicU8::new(0);
static FPU_SIZE: AtomicU32 = AtomicU32::new(512);
/// `rdfsbase` and its like work. Read by `patch`.
#[unsafe(export_name = "coracle_fsgsbase")]
static FSGSBASE: AtomicBool = AtomicBool::new(false);

/// Turns on what the CPU has. The same on every CPU; the first one fixes the FPU's format.
pub fn init_this_cpu() {
    init_control();
    // SAFETY: SYSCALL comes with long mode; the entry is hal/x86's own, and the segments are those of `descriptors`.
    unsafe {
        arch::wrmsr(msr::EFER, arch::rdmsr(msr::EFER) | 1);
        // SYSCALL loads CS from bits 47:32 and SS from the next descriptor: the kernel's own.
        arch::wrmsr(msr::STAR, 0x08 << 32);
        arch::wrmsr(msr::LSTAR, crate::user::syscall_entry_address());
        // IF, TF, DF, AC, NT.
        arch::wrmsr(msr::SFMASK, 0x4_4700);
    }
}

/// The part of [`init_this_cpu`] that does not depend on how system calls come: CR4 and the FPU.
pub fn init_control() {
    let [_, _, ecx1, _] = arch::cpuid(1, 0);
    let [_, ebx7, _, _] = arch::cpuid_checked(7, 0);
    let mut cr4 = arch::cr4() | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    let fsgsbase = ebx7 & 1 != 0;
    let xsave = ecx1 & 1 << 26 != 0;
    if fsgsbase {
        cr4 |= CR4_FSGSBASE;
    }
    if xsave {
        cr4 |= CR4_OSXSAVE;
    }
    // SAFETY: CPUID lists what is turned on; SSE comes with every 64-bit CPU.
    unsafe { arch::set_cr4(cr4) };
    FSGSBASE.store(fsgsbase, Ordering::Relaxed);
    if xsave {
        let [low, _, _, high] = arch::cpuid(13, 0);
        let mut xcr0 = (u64::from(high) << 32 | u64::from(low)) & XCR0_WANTED;
        if xcr0 & 0b1110_0000 != 0b1110_0000 || xcr0 & 4 == 0 {
            xcr0 &= 0b111;
        }
        // SAFETY: OSXSAVE is on and CPUID 13 lists these bits; AVX-512 is all three or none, and only with AVX.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") xcr0 as u32, in("edx") (xcr0 >> 32) as u32,
                options(nostack, preserves_flags))
        };
        FPU_SIZE.store(arch::cpuid(13, 0)[1].max(576), Ordering::Relaxed);
        let opt = arch::cpuid(13, 1)[0] & 1 != 0;
        FPU_MODE.store(if opt { 2 } else { 1 }, Ordering::Relaxed);
    }
}

/// Puts the CPU's number where RDTSCP finds it (for the vDSO's `getcpu`), if the CPU has that.
pub fn set_cpu_number(number: u32) {
    if arch::cpuid_checked(0x8000_0001, 0)[3] & 1 << 27 != 0 {
        // SAFETY: IA32_TSC_AUX comes with RDTSCP.
        unsafe { arch::wrmsr(msr::TSC_AUX, u64::from(number)) };
        hal_core::clock::PARAMS.has_tsc_aux.store(1, Ordering::Relaxed);
    }
}

#[unsafe(no_mangle)]
extern "C" fn coracle_fpu_size() -> usize {
    FPU_SIZE.load(Ordering::Relaxed) as usize
}

#[unsafe(no_mangle)]
unsafe extern "C" fn coracle_fpu_init(area: *mut u8) {
    // SAFETY: the area has `coracle_fpu_size` bytes, by the caller. Zero is the initial state but for the control word
    // (offset 0) and MXCSR (offset 24): Intel SDM vol. 1, sections 8.1.5 and 10.2.3.
    unsafe {
        area.write_bytes(0, coracle_fpu_size());
        area.cast::<u16>().write(0x37f);
        area.add(24).cast::<u32>().write(0x1f80);
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn coracle_fpu_save(area: *mut u8) {
    // SAFETY: the area is 64-byte aligned and large enough, by the caller; the mode is what CPUID offers.
    unsafe {
        match FPU_MODE.load(Ordering::Relaxed) {
            0 => asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)),
            1 => asm!("xsave64 [{}]", in(reg) area, in("eax") -1, in("edx") -1,
                options(nostack, preserves_flags)),
            _ => asm!("xsaveopt64 [{}]", in(reg) area, in("eax") -1, in("edx") -1,
                options(nostack, preserves_flags)),
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn coracle_fpu_restore(area: *const u8) {
    // SAFETY: as in `coracle_fpu_save`; the content was made by it or checked, by the caller.
    unsafe {
        if FPU_MODE.load(Ordering::Relaxed) == 0 {
            asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags));
        } else {
            asm!("xrstor64 [{}]", in(reg) area, in("eax") -1, in("edx") -1,
                options(nostack, preserves_flags));
        }
    }
}
