//! The FPU state in signal frames: the layout that Linux shows (uapi asm/sigcontext.h), and the check of what a
//! program hands back.

use alloc::vec::Vec;

use hal_core::cpu;

/// The legacy area, which is all there is without `xsave`.
const LEGACY: usize = 512;
/// Legacy area and `xsave` header.
const HEADER_END: usize = 576;
/// Where the legacy area keeps bytes for software.
const SOFTWARE: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// Bits of the state components in the header.
const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
/// x87 control word and MXCSR of a fresh program.
const INITIAL_FCW: u16 = 0x37f;
const INITIAL_MXCSR: u32 = 0x1f80;
/// MXCSR bits that a CPU accepts, where the area does not tell them.
const MXCSR_DEFAULT_MASK: u32 = 0xffbf;

/// True if the state is an `xsave` area.
fn extended() -> bool {
    cpu::fpu_size() > LEGACY
}

/// Bytes of the state in a frame.
pub(super) fn frame_size() -> usize {
    if extended() { cpu::fpu_size() + 4 } else { LEGACY }
}

/// The state components that the system has enabled (XCR0).
fn enabled_features() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reached only where the state is an `xsave` area, so that CR4.OSXSAVE is set and xgetbv exists.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(low) | u64::from(high) << 32
}

fn put(area: &mut [u8], at: usize, bytes: &[u8]) {
    area[at..at + bytes.len()].copy_from_slice(bytes);
}

fn get<const N: usize>(area: &[u8], at: usize) -> [u8; N] {
    core::array::from_fn(|i| area[at + i])
}

/// Makes a frame's copy of a saved state.
pub(super) fn to_frame(state: &[u8]) -> Vec<u8> {
    let mut area = Vec::with_capacity(frame_size());
    area.extend_from_slice(state);
    area.resize(frame_size(), 0);
    if extended() {
        let features = enabled_features();
        put(&mut area, SOFTWARE, &MAGIC1.to_le_bytes());
        put(&mut area, SOFTWARE + 4, &(frame_size() as u32).to_le_bytes());
        put(&mut area, SOFTWARE + 8, &features.to_le_bytes());
        put(&mut area, SOFTWARE + 16, &(cpu::fpu_size() as u32).to_le_bytes());
        let end = cpu::fpu_size();
        put(&mut area, end, &MAGIC2.to_le_bytes());
        // x87 and SSE are always in the frame. A part in its initial state was not written to memory by the CPU
        // (init optimisation, Intel SDM vol. 1, section 13.6): what is there is old.
        let present = u64::from_le_bytes(get(&area, LEGACY));
        if present & X87 == 0 {
            area[..24].fill(0);
            put(&mut area, 0, &INITIAL_FCW.to_le_bytes());
            area[32..160].fill(0);
        }
        if present & SSE == 0 {
            area[160..416].fill(0);
            if present & AVX == 0 {
                put(&mut area, 24, &INITIAL_MXCSR.to_le_bytes());
            }
        }
        put(&mut area, LEGACY, &(present | X87 | SSE).to_le_bytes());
    }
    area
}

/// Makes the program's bytes a state that the CPU accepts, in `state`. A frame without the extended magic gives
/// the legacy part alone.
pub(super) fn from_frame(frame: &[u8], state: &mut [u8]) {
    let mask = match u32::from_le_bytes(get(state, 28)) {
        0 => MXCSR_DEFAULT_MASK,
        mask => mask,
    };
    let whole = extended()
        && frame.len() >= frame_size()
        && get(frame, SOFTWARE) == MAGIC1.to_le_bytes()
        && get(frame, SOFTWARE + 16) == (cpu::fpu_size() as u32).to_le_bytes()
        && get(frame, cpu::fpu_size()) == MAGIC2.to_le_bytes();
    let len = if whole { cpu::fpu_size() } else { LEGACY };
    state[..len].copy_from_slice(&frame[..len]);
    let mxcsr = u32::from_le_bytes(get(state, 24)) & mask;
    put(state, 24, &mxcsr.to_le_bytes());
    put(state, 28, &mask.to_le_bytes());
    if extended() {
        let present = if whole { u64::from_le_bytes(get(state, LEGACY)) & enabled_features() } else { 3 };
        state[LEGACY..HEADER_END].fill(0);
        put(state, LEGACY, &present.to_le_bytes());
    }
}
