//! Entering and leaving the application, and switching stacks.
//!
//! The application runs at ring 0 with the kernel's segments. A system call enters at LSTAR and leaves by `jmp rcx`;
//! between `mov rsp` and that jump no interrupt can come, because `sti` takes effect one instruction late (NMI and
//! machine check have stacks of their own). Offsets are those of [`hal_core::UserContext`] and
//! [`hal_core::percpu::PerCpu`].

core::arch::global_asm!(
    r#"
.text
.balign 64
.global coracle_enter_user
coracle_enter_user:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi + 144], rsp
    mov gs:[16], rdi
    mov rax, [rdi]
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
    cmp qword ptr [rdi + 152], 0
    jne 2f
    mov rcx, [rdi + 128]
    mov r11, [rdi + 136]
    mov rsp, [rdi + 56]
    mov rdi, [rdi + 40]
    sti
.global coracle_fast_exit
coracle_fast_exit:
    jmp rcx
2:
    push 0x10
    push qword ptr [rdi + 56]
    push qword ptr [rdi + 136]
    push 0x08
    push qword ptr [rdi + 128]
    mov rcx, [rdi + 16]
    mov r11, [rdi + 88]
    mov rdi, [rdi + 40]
.global coracle_full_exit
coracle_full_exit:
    iretq

.balign 64
.global coracle_syscall_entry
coracle_syscall_entry:
    mov gs:[8], rsp
    mov rsp, gs:[16]
    mov [rsp], rax
    mov [rsp + 8], rbx
    mov [rsp + 16], rcx
    mov [rsp + 24], rdx
    mov [rsp + 32], rsi
    mov [rsp + 40], rdi
    mov [rsp + 48], rbp
    mov [rsp + 64], r8
    mov [rsp + 72], r9
    mov [rsp + 80], r10
    mov [rsp + 88], r11
    mov [rsp + 96], r12
    mov [rsp + 104], r13
    mov [rsp + 112], r14
    mov [rsp + 120], r15
    mov [rsp + 128], rcx
    mov [rsp + 136], r11
    mov rax, gs:[8]
    mov [rsp + 56], rax
    xor eax, eax
    mov [rsp + 152], rax
    mov [rsp + 160], rax
    mov rsp, [rsp + 144]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

.balign 16
.global coracle_switch
coracle_switch:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

.global coracle_thread_start
coracle_thread_start:
    mov rdi, r12
    call rbx
    ud2
"#
);

unsafe extern "C" {
    fn coracle_syscall_entry();
}

/// The address that SYSCALL jumps to.
pub fn syscall_entry_address() -> u64 {
    coracle_syscall_entry as *const () as u64
}
