//! Randomness of the CPU: RDSEED, else RDRAND.

use core::arch::asm;

use hal_core::Entropy;

use crate::arch;

/// How often a busy generator is asked again (Intel's guide for RDRAND says 10).
const TRIES: u32 = 10;

/// The CPU's generators.
pub struct CpuEntropy;

fn word() -> Option<u64> {
    let seed = arch::cpuid_checked(7, 0)[1] & 1 << 18 != 0;
    let rand = arch::cpuid(1, 0)[2] & 1 << 30 != 0;
    for _ in 0..TRIES {
        let (value, good): (u64, u8);
        // SAFETY: CPUID lists the instruction that is used.
        unsafe {
            if seed {
                asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) good, options(nostack));
            } else if rand {
                asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) good, options(nostack));
            } else {
                return None;
            }
        }
        if good != 0 {
            return Some(value);
        }
    }
    None
}

impl Entropy for CpuEntropy {
    fn fill(&self, to: &mut [u8]) -> usize {
        let mut filled = 0;
        for part in to.chunks_mut(8) {
            let Some(value) = word() else { break };
            part.copy_from_slice(&value.to_le_bytes()[..part.len()]);
            filled += part.len();
        }
        filled
    }
}
