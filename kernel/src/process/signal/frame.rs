//! Linux's signal frame on x86-64 (`struct rt_sigframe`; uapi asm/sigcontext.h, asm-generic/ucontext.h): made
//! for a handler, and taken back by `rt_sigreturn`.

use alloc::vec;

use base::{Errno, Result};
use hal_core::UserContext;

use super::action::{Action, flags};
use super::fpu;
use super::types::{SIGINFO_SIZE, SigInfo, SigSet};
use crate::mm::user;
use crate::process::thread::{AltStack, SS_AUTODISARM, SS_DISABLE};
use crate::sched;

/// The part of the application's stack below its pointer that it may use (psABI).
const RED_ZONE: usize = 128;
/// One past the highest address of the application.
const USER_END: u64 = 1 << 47;

// Offsets in the frame.
const UC: usize = 8;
const STACK: usize = UC + 16;
const MCONTEXT: usize = UC + 40;
const SIGMASK: usize = UC + 296;
const INFO: usize = UC + 304;
const SIZE: usize = INFO + SIGINFO_SIZE;
// Offsets in `mcontext`, in 8-byte words.
const SELECTORS: usize = 18;
const ERROR: usize = 19;
const TRAP: usize = 20;
const OLD_MASK: usize = 21;
const CR2: usize = 22;
const FPSTATE: usize = 23;

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
/// What Linux gives applications in CS and SS.
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;

/// Flags that a program may change: CF PF AF ZF SF TF DF OF RF AC.
const CHANGEABLE_FLAGS: u64 = 0x1_0000 | 0x4_0000 | 0xdd5;
/// Interrupts on, and the bit that is always set.
const FIXED_FLAGS: u64 = 0x202;
/// DF, TF and RF are clear in a handler.
const CLEARED_IN_HANDLER: u64 = 0x400 | 0x100 | 0x1_0000;

/// Bytes that a frame takes on the stack: `AT_MINSIGSTKSZ`.
pub fn state_size() -> usize {
    // Alignment of the FPU state and of the frame, the frame, the red zone.
    fpu::frame_size() + 64 + 16 + SIZE + RED_ZONE
}

fn registers(context: &mut UserContext) -> [&mut u64; 18] {
    let c = context;
    [
        &mut c.r8,
        &mut c.r9,
        &mut c.r10,
        &mut c.r11,
        &mut c.r12,
        &mut c.r13,
        &mut c.r14,
        &mut c.r15,
        &mut c.rdi,
        &mut c.rsi,
        &mut c.rbp,
        &mut c.rbx,
        &mut c.rdx,
        &mut c.rax,
        &mut c.rcx,
        &mut c.rsp,
        &mut c.rip,
        &mut c.rflags,
    ]
}

fn put(frame: &mut [u8], at: usize, value: u64) {
    frame[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get(frame: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|i| frame[at + i]))
}

/// Where the frame goes: the frame's address and that of the FPU state.
fn place(context: &UserContext, action: &Action, alt: &AltStack) -> Result<(usize, usize)> {
    let sp = context.rsp as usize;
    let on_alt = alt.contains(sp);
    let enters_alt = action.flags & flags::ONSTACK != 0 && alt.size != 0 && !on_alt;
    let top = if enters_alt { alt.address + alt.size } else { sp.wrapping_sub(RED_ZONE) };
    let state = top.wrapping_sub(fpu::frame_size()) & !63;
    let frame = (state.wrapping_sub(SIZE) & !15).wrapping_sub(8);
    let fits = if on_alt || enters_alt { frame >= alt.address } else { true };
    if fits && frame < top && top as u64 <= USER_END { Ok((frame, state)) } else { Err(Errno::EFAULT) }
}

/// Pushes a frame and turns `context` into a call of the handler. `mask` is what `rt_sigreturn` restores.
pub(super) fn push(context: &mut UserContext, info: &SigInfo, action: &Action, mask: SigSet) -> Result<()> {
    if action.flags & flags::RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    let thread = sched::current();
    let alt = thread.ext.own.with(|own| own.alt_stack);
    let (address, state_address) = place(context, action, &alt)?;
    let state = thread.with_fpu(|state| fpu::to_frame(state)).unwrap_or_default();
    user::write_bytes(state_address, &state)?;

    let mut frame = [0u8; SIZE];
    put(&mut frame, 0, action.restorer as u64);
    let extended = if state.len() > 512 { UC_FP_XSTATE } else { 0 };
    put(&mut frame, UC, extended | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS);
    put(&mut frame, STACK, alt.address as u64);
    put(&mut frame, STACK + 8, alt.flags as u32 as u64);
    put(&mut frame, STACK + 16, alt.size as u64);
    let (trap, error, cr2) = (context.vector, context.error, context.address);
    for (word, register) in registers(context).into_iter().enumerate() {
        put(&mut frame, MCONTEXT + word * 8, *register);
    }
    put(&mut frame, MCONTEXT + SELECTORS * 8, USER_CS | USER_SS << 48);
    put(&mut frame, MCONTEXT + ERROR * 8, error);
    put(&mut frame, MCONTEXT + TRAP * 8, trap);
    put(&mut frame, MCONTEXT + OLD_MASK * 8, mask);
    put(&mut frame, MCONTEXT + CR2 * 8, cr2);
    put(&mut frame, MCONTEXT + FPSTATE * 8, state_address as u64);
    put(&mut frame, SIGMASK, mask);
    frame[INFO..].copy_from_slice(&info.to_bytes());
    user::write_bytes(address, &frame)?;

    if alt.flags & SS_AUTODISARM != 0 {
        thread.ext.update(|own| own.alt_stack = AltStack::NONE);
    }
    context.rip = action.handler as u64;
    context.rsp = address as u64;
    context.rdi = info.signo as u64;
    context.rsi = (address + INFO) as u64;
    context.rdx = (address + UC) as u64;
    context.rax = 0;
    context.rflags &= !CLEARED_IN_HANDLER;
    context.full = 1;
    Ok(())
}

/// `rt_sigreturn`: takes the registers, the mask and the alternate stack from the frame. Nothing in it is trusted.
pub fn sigreturn(context: &mut UserContext) -> Result<()> {
    let thread = sched::current();
    let mut frame = [0u8; SIZE];
    user::read_bytes((context.rsp as usize).wrapping_sub(8), &mut frame)?;
    let state_address = get(&frame, MCONTEXT + FPSTATE * 8) as usize;
    let mut state = vec![];
    if state_address != 0 {
        state.resize(fpu::frame_size(), 0);
        if user::read_bytes(state_address, &mut state).is_err() {
            state.truncate(512);
            user::read_bytes(state_address, &mut state)?;
        }
    }
    if get(&frame, MCONTEXT + 16 * 8) >= USER_END {
        return Err(Errno::EFAULT);
    }
    for (word, register) in registers(context).into_iter().enumerate() {
        *register = get(&frame, MCONTEXT + word * 8);
    }
    context.rflags = context.rflags & CHANGEABLE_FLAGS | FIXED_FLAGS;
    context.full = 1;
    if state.is_empty() {
        thread.reset_fpu();
    } else {
        thread.with_fpu(|area| fpu::from_frame(&state, area));
    }
    super::set_blocked(get(&frame, SIGMASK));
    let alt = AltStack {
        address: get(&frame, STACK) as usize,
        flags: get(&frame, STACK + 8) as i32,
        size: get(&frame, STACK + 16) as usize,
    };
    // As sigaltstack: silently ignored if it cannot be.
    if alt.flags & !(SS_AUTODISARM | SS_DISABLE) == 0 && alt.address.checked_add(alt.size).is_some() {
        thread.ext.update(|own| own.alt_stack = if alt.flags & SS_DISABLE != 0 { AltStack::NONE } else { alt });
    }
    Ok(())
}
