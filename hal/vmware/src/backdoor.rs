//! The backdoor port: a call to the hypervisor by an IN from port 0x5658 with a magic number in eax (VMware's
//! `vmware_hypercall.h` and `backdoor_def.h` of open-vm-tools). On another machine it reads a port that nothing is at, so it is
//! called only where firmware or CPUID says VMware.

use core::arch::asm;

use crate::answers::{Answer, MAGIC, UNKNOWN};

const PORT: u32 = 0x5658;

/// Commands.
pub const GET_VERSION: u32 = 10;
/// Seconds in 32 bits.
pub const GET_TIME: u32 = 23;
/// Frequency of the time-stamp counter.
pub const GET_HZ: u32 = 45;
/// Seconds in 64 bits.
pub const GET_TIME_FULL: u32 = 46;

/// Calls. At ring 0 only.
pub fn call(command: u32) -> Answer {
    let (a, b, c, d, si): (u32, u64, u32, u32, u32);
    // SAFETY: the commands here only give information, in these registers; rbx, which the compiler keeps for itself, is
    // put back. Where there is no such hypervisor this reads a port that no device of a PC has.
    unsafe {
        asm!(
            "xchg {b}, rbx",
            "in eax, dx",
            "xchg {b}, rbx",
            b = inlateout(reg) u64::from(UNKNOWN) => b,
            inlateout("eax") MAGIC => a,
            inlateout("ecx") command => c,
            inlateout("edx") PORT => d,
            inlateout("esi") 0u32 => si,
            inlateout("edi") 0u32 => _,
            options(nostack)
        );
    }
    Answer { a, b: b as u32, c, d, si }
}
