//! Calling Xen: through the hypercall page, which Xen fills with the instructions that fit the guest's kind (arch-x86/xen-x86_64.h).
//!
//! The page is in the kernel's text, since it is executed: PV gets it by an ELF note with the address of
//! `coracle_hypercall_page`, PVH and HVM name its frame to Xen by a model-specific register ([`crate::hvm`]).

use hal_core::{Error, Result};

use crate::abi::{DOMID_SELF, evtchn, hvm, memory, op, sched, vcpu};

core::arch::global_asm!(
    r#"
.section .text.hypercall, "ax"
.balign 4096
.global coracle_hypercall_page
coracle_hypercall_page:
    .skip 4096, 0xcc
.text
"#
);

unsafe extern "C" {
    static coracle_hypercall_page: u8;
}

/// Where the page is.
pub fn page() -> *const u8 {
    &raw const coracle_hypercall_page
}

/// Calls Xen with up to five arguments; negative results are error numbers.
///
/// # Safety
/// What the hypercall `number` does with these arguments is sound, and the page is filled.
#[inline]
pub unsafe fn call(number: u32, a: [u64; 5]) -> i64 {
    let result: i64;
    // SAFETY: by the caller. Each entry has 32 bytes; Xen changes rax, the arguments' registers, and for PV rcx and r11.
    unsafe {
        core::arch::asm!(
            "call {entry}",
            entry = in(reg) page() as u64 + u64::from(number) * 32,
            inlateout("rdi") a[0] => _,
            inlateout("rsi") a[1] => _,
            inlateout("rdx") a[2] => _,
            inlateout("r10") a[3] => _,
            inlateout("r8") a[4] => _,
            lateout("rax") result,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Xen's error numbers are Linux's.
pub fn check(result: i64) -> Result<u64> {
    match result {
        0.. => Ok(result as u64),
        -12 | -28 => Err(Error::Exhausted),
        -38 | -95 => Err(Error::Unsupported),
        -22 | -2 | -3 => Err(Error::Invalid),
        _ => Err(Error::Device("Xen refuses a hypercall")),
    }
}

/// A hypercall with a sub-operation and a structure.
///
/// # Safety
/// `argument` is the structure of `command`, and what the hypercall does with it is sound.
#[inline]
pub unsafe fn with<T>(number: u32, command: u64, argument: &mut T) -> Result<u64> {
    // SAFETY: by the caller; the structure lives on for the call.
    check(unsafe { call(number, [command, (&raw mut *argument) as u64, 0, 0, 0]) })
}

/// An operation on event channels.
#[inline]
pub fn event_channel<T>(command: u64, argument: &mut T) -> Result<u64> {
    // SAFETY: event channels carry no memory; the modules of this crate pass the structure that goes with `command`.
    unsafe { with(op::EVENT_CHANNEL, command, argument) }
}

/// Notifies the other end of a channel. A channel that is closed meanwhile makes no difference to the caller.
#[inline]
pub fn notify(port: u32) {
    let _ = event_channel(evtchn::SEND, &mut evtchn::Port { port });
}

/// Lets other domains run.
pub fn yield_now() {
    // SAFETY: only gives up the CPU.
    unsafe { call(op::SCHED, [sched::YIELD, 0, 0, 0, 0]) };
}

/// Gives up the CPU until channel `port` is pending or Xen's system time `deadline_ns` (not 0) is past. May return early.
pub fn poll(port: u32, deadline_ns: u64) {
    let ports = [port];
    let mut argument = sched::Poll { ports: ports.as_ptr() as u64, count: 1, timeout: deadline_ns };
    // SAFETY: the array lives on for the call, and only gives up the CPU.
    if unsafe { with(op::SCHED, sched::POLL, &mut argument) }.is_err() {
        core::hint::spin_loop();
    }
}

/// Ends the domain.
pub fn shutdown(reason: u32) -> ! {
    let mut argument = reason;
    loop {
        // SAFETY: nothing runs afterwards.
        let _ = unsafe { with(op::SCHED, sched::SHUTDOWN, &mut argument) };
    }
}

/// A parameter of an HVM or PVH domain.
pub fn hvm_param(index: u32) -> Result<u64> {
    let mut param = hvm::Param { domain: DOMID_SELF, index, value: 0 };
    // SAFETY: only reads.
    unsafe { with(op::HVM, hvm::GET_PARAM, &mut param) }?;
    Ok(param.value)
}

/// Sets a parameter of an HVM or PVH domain.
///
/// # Safety
/// The parameter's meaning with this value is sound.
pub unsafe fn set_hvm_param(index: u32, value: u64) -> Result<()> {
    let mut param = hvm::Param { domain: DOMID_SELF, index, value };
    // SAFETY: by the caller.
    unsafe { with(op::HVM, hvm::SET_PARAM, &mut param) }.map(|_| ())
}

/// Has the events of a VCPU told by this vector of its local APIC.
///
/// # Safety
/// The vector's handler expects that.
pub unsafe fn set_upcall_vector(vcpu: u32, vector: u8) -> Result<()> {
    let mut argument = hvm::UpcallVector { vcpu, vector };
    // SAFETY: by the caller.
    unsafe { with(op::HVM, hvm::SET_UPCALL_VECTOR, &mut argument) }.map(|_| ())
}

/// Puts a page of Xen's at guest frame `frame` (HVM and PVH); the memory that was there is given up.
///
/// # Safety
/// The frame is the caller's, and is never used as ordinary memory again.
pub unsafe fn add_to_physmap(space: u32, index: u64, frame: u64) -> Result<()> {
    let mut argument = memory::AddToPhysmap { domain: DOMID_SELF, size: 0, space, index, frame };
    // SAFETY: by the caller.
    unsafe { with(op::MEMORY, memory::ADD_TO_PHYSMAP, &mut argument) }.map(|_| ())
}

/// Arms the one-shot timer of VCPU `vcpu`, which is this one, for system time `deadline_ns`; `u64::MAX` disarms it.
pub fn set_timer(vcpu: u32, deadline_ns: u64) -> Result<()> {
    if deadline_ns == u64::MAX {
        // SAFETY: fewer interrupts break nothing.
        return check(unsafe { call(op::VCPU, [vcpu::STOP_TIMER, u64::from(vcpu), 0, 0, 0]) }).map(|_| ());
    }
    let mut argument = vcpu::SetTimer { deadline: deadline_ns, flags: 0 };
    // SAFETY: the structure lives on for the call; an event is what its handler expects.
    check(unsafe { call(op::VCPU, [vcpu::SET_TIMER, u64::from(vcpu), (&raw mut argument) as u64, 0, 0]) }).map(|_| ())
}

/// One operation on the grant table.
///
/// # Safety
/// `argument` is the structure of `command`, and what the hypercall does with it is sound.
pub unsafe fn grant_op<T>(command: u64, argument: &mut T) -> Result<()> {
    // SAFETY: by the caller; the last argument says that it is one structure.
    check(unsafe { call(op::GRANT_TABLE, [command, (&raw mut *argument) as u64, 1, 0, 0]) }).map(|_| ())
}
