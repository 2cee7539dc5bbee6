//! Entering and leaving the application, the interrupt flag and the other functions that `hal_x86::patch` lets replace.
//!
//! The kernel runs in Xen's guest-kernel mode, the application in guest-user mode, both at ring 3 and on the same page
//! tables. `HYPERVISOR_iret` enters; a system call, an exception or an event comes back on the CPU's own small entry stack
//! (`cpu`), which is left at once for the thread's kernel stack, whose pointer is in the context. Events are masked meanwhile.
//!
//! GS is the kernel's in guest-kernel mode and the application's in guest-user mode: Xen swaps them. The interrupt flag is
//! `evtchn_upcall_mask` of the VCPU's part of the shared information, which is behind the per-CPU block: gs:[64] pending,
//! gs:[65] mask, gs:[80] the page fault's address (xen.h, `struct vcpu_info`).
//!
//! Frames: `struct iret_context` (arch-x86/xen-x86_64.h); a bounce pushes rcx, r11, (error code,) rip, cs, rflags, rsp, ss.

core::arch::global_asm!(
    r#"
.set HYPERVISOR_xen_version, 17
.set HYPERVISOR_iret, 23
.set USER_CS, 0xe033
.set USER_SS, 0xe02b
.set IN_SYSCALL, 256

.text
.balign 64
.global coracle_pv_enter_user
coracle_pv_enter_user:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi + 144], rsp
    mov gs:[16], rdi
    // Xen would report an address that is not canonical as a fault of its own.
    mov rax, [rdi + 128]
    mov rcx, rax
    shl rcx, 16
    sar rcx, 16
    cmp rax, rcx
    jne 3f
    mov rax, [rdi + 136]
    or rax, 0x200
    push USER_SS
    push qword ptr [rdi + 56]
    push rax
    push USER_CS
    push qword ptr [rdi + 128]
    cmp qword ptr [rdi + 152], 0
    jne 1f
    push IN_SYSCALL
    push 0
    push 0
    jmp 2f
1:  push 0
    push qword ptr [rdi + 16]
    push qword ptr [rdi + 88]
2:  push qword ptr [rdi]
    mov rbx, [rdi + 8]
    mov rdx, [rdi + 24]
    mov rsi, [rdi + 32]
    mov rbp, [rdi + 48]
    mov r8, [rdi + 64]
    mov r9, [rdi + 72]
    mov r10, [rdi + 80]
    mov r12, [rdi + 96]
    mov r13, [rdi + 104]
    mov r14, [rdi + 112]
    mov r15, [rdi + 120]
    mov rdi, [rdi + 40]
    mov eax, HYPERVISOR_iret
    syscall
    ud2
3:  // A general protection fault of the application.
    mov qword ptr [rdi + 168], 13
    mov qword ptr [rdi + 176], 0
    mov qword ptr [rdi + 152], 1
    mov eax, 1
    mov [rdi + 160], rax
    jmp coracle_pv_left

.balign 64
.global coracle_pv_syscall
coracle_pv_syscall:
    // [0] rcx [8] r11 [16] rip [24] cs [32] rflags [40] rsp [48] ss
    mov rcx, gs:[16]
    mov [rcx], rax
    mov [rcx + 8], rbx
    mov [rcx + 24], rdx
    mov [rcx + 32], rsi
    mov [rcx + 40], rdi
    mov [rcx + 48], rbp
    mov [rcx + 64], r8
    mov [rcx + 72], r9
    mov [rcx + 80], r10
    mov [rcx + 96], r12
    mov [rcx + 104], r13
    mov [rcx + 112], r14
    mov [rcx + 120], r15
    mov rax, [rsp + 16]
    mov [rcx + 128], rax
    mov [rcx + 16], rax
    mov rax, [rsp + 32]
    mov [rcx + 136], rax
    mov [rcx + 88], rax
    mov rax, [rsp + 40]
    mov [rcx + 56], rax
    xor eax, eax
    mov [rcx + 152], rax
    mov [rcx + 160], rax
    mov rsp, [rcx + 144]
    cld
.global coracle_pv_left
coracle_pv_left:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

.balign 16
.global coracle_pv_irq_save
coracle_pv_irq_save:
    movzx eax, byte ptr gs:[65]
    mov byte ptr gs:[65], 1
    xor eax, 1
    and eax, 1
    ret

.balign 16
.global coracle_pv_irq_restore
coracle_pv_irq_restore:
    test dil, dil
    je 1f
    mov byte ptr gs:[65], 0
    // An event that came while they were masked is delivered at the end of any hypercall.
    cmp byte ptr gs:[64], 0
    jne 2f
1:  ret
2:  mov eax, HYPERVISOR_xen_version
    xor edi, edi
    xor esi, esi
    syscall
    ret

.balign 16
.global coracle_pv_irq_enabled
coracle_pv_irq_enabled:
    movzx eax, byte ptr gs:[65]
    xor eax, 1
    and eax, 1
    ret

.balign 16
.global coracle_pv_fault_address
coracle_pv_fault_address:
    mov rax, gs:[80]
    ret
"#
);

macro_rules! functions {
    ($($name:ident),*) => {
        unsafe extern "C" { $(fn $name();)* }
        /// Each function that is replaced, and its replacement.
        const REPLACED: &[(unsafe extern "C" fn(), unsafe extern "C" fn())] = &[
            (coracle_enter_user, coracle_pv_enter_user),
            (coracle_irq_save, coracle_pv_irq_save),
            (coracle_irq_restore, coracle_pv_irq_restore),
            (coracle_irq_enabled, coracle_pv_irq_enabled),
            (coracle_fault_address, coracle_pv_fault_address),
        ];
    };
}

functions!(
    coracle_enter_user,
    coracle_irq_save,
    coracle_irq_restore,
    coracle_irq_enabled,
    coracle_fault_address,
    coracle_fs_base,
    coracle_set_fs_base,
    coracle_pv_enter_user,
    coracle_pv_irq_save,
    coracle_pv_irq_restore,
    coracle_pv_irq_enabled,
    coracle_pv_fault_address,
    coracle_pv_syscall
);

/// Where Xen delivers the application's system calls.
pub fn syscall_entry() -> u64 {
    coracle_pv_syscall as *const () as u64
}

/// Puts this module's functions in force.
///
/// # Safety
/// The image is writable, and no other CPU runs.
pub unsafe fn replace_functions() {
    for &(function, other) in REPLACED {
        // SAFETY: by the caller; both are in the image, and do the same by Xen's means.
        unsafe { hal_x86::patch::replace(function as *const u8, other as *const u8) };
    }
}

/// Puts the functions for the application's thread pointer in force, where the CPU's instructions for it may not be used.
///
/// # Safety
/// As [`replace_functions`].
pub unsafe fn replace_fs_functions() {
    // SAFETY: as in `replace_functions`.
    unsafe {
        hal_x86::patch::replace(coracle_set_fs_base as *const u8, set_fs_base as *const u8);
        hal_x86::patch::replace(coracle_fs_base as *const u8, fs_base as *const u8);
    }
}

/// Without `wrfsbase` the application cannot change its FS base itself, so a copy tells it.
extern "C" fn set_fs_base(value: u64) {
    let cpu = super::cpu::PvCpu::this();
    cpu.fs_base.store(value, core::sync::atomic::Ordering::Relaxed);
    super::sys::set_segment_base(super::sys::SEGMENT_FS, value);
}

extern "C" fn fs_base() -> u64 {
    super::cpu::PvCpu::this().fs_base.load(core::sync::atomic::Ordering::Relaxed)
}
