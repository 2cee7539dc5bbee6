//! The hottest functions of [`hal_core::cpu`], in assembly, and how a platform with another privilege model replaces them at
//! boot: by a jump over their first bytes. So they cost nothing on the others, and the compiler, which sees none of their
//! code, takes nothing for granted about it.
//!
//! What is replaced: the functions here, and `coracle_enter_user` (`user`).

core::arch::global_asm!(
    r#"
.text
.balign 16
.global coracle_irq_save
coracle_irq_save:
    pushfq
    pop rax
    shr eax, 9
    and eax, 1
    cli
    ret

.balign 16
.global coracle_irq_restore
coracle_irq_restore:
    test dil, dil
    je 1f
    sti
1:  ret

.balign 16
.global coracle_irq_enabled
coracle_irq_enabled:
    pushfq
    pop rax
    shr eax, 9
    and eax, 1
    ret

.balign 16
.global coracle_set_fs_base
coracle_set_fs_base:
    cmp byte ptr [rip + coracle_fsgsbase], 0
    je 1f
    wrfsbase rdi
    ret
1:  mov eax, edi
    mov rdx, rdi
    shr rdx, 32
    mov ecx, 0xc0000100
    wrmsr
    ret

.balign 16
.global coracle_fs_base
coracle_fs_base:
    cmp byte ptr [rip + coracle_fsgsbase], 0
    je 1f
    rdfsbase rax
    ret
1:  mov ecx, 0xc0000100
    rdmsr
    shl rdx, 32
    or rax, rdx
    ret

.balign 16
.global coracle_fault_address
coracle_fault_address:
    mov rax, cr2
    ret
"#
);

unsafe extern "C" {
    fn coracle_fault_address() -> u64;
}

/// The address of the last page fault.
#[inline]
pub fn fault_address() -> u64 {
    // SAFETY: only reads.
    unsafe { coracle_fault_address() }
}

/// Makes `function` a jump to `other`.
///
/// # Safety
/// `function` is one that this module's head names, its code is writable now and no CPU runs it; `other` is within 2 GiB and
/// behaves alike.
pub unsafe fn replace(function: *const u8, other: *const u8) {
    const JUMP: u8 = 0xe9;
    let distance = (other as i64).wrapping_sub(function as i64 + 5) as i32;
    // SAFETY: by the caller; each of the functions has at least five bytes.
    unsafe {
        function.cast_mut().write_volatile(JUMP);
        function.cast_mut().add(1).cast::<i32>().write_unaligned(distance);
    }
}
