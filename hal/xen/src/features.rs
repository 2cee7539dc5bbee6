//! What this Xen can do (features.h, version.h).

use crate::abi::op;
use crate::hypercall::{call, check};

/// Events of HVM guests can come by a vector on every CPU.
pub const HVM_CALLBACK_VECTOR: u32 = 8;
/// Page-table updates can keep accessed and dirty bits.
pub const MMU_PT_UPDATE_PRESERVE_AD: u32 = 5;

/// Major and minor version.
pub fn version() -> (u16, u16) {
    // SAFETY: only asks.
    let version = unsafe { call(op::XEN_VERSION, [0, 0, 0, 0, 0]) }.max(0);
    ((version >> 16) as u16, version as u16)
}

/// True if Xen has feature `number` (below 32).
pub fn has(number: u32) -> bool {
    #[repr(C)]
    struct Info {
        index: u32,
        bits: u32,
    }
    let mut info = Info { index: number / 32, bits: 0 };
    // SAFETY: `XENVER_get_features` (6) fills the structure.
    check(unsafe { call(op::XEN_VERSION, [6, (&raw mut info) as u64, 0, 0, 0]) }).is_ok()
        && info.bits & 1 << (number % 32) != 0
}
