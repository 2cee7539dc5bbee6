//! The entry that the ELF notes name (`kernel/kernel.ld`): 64-bit code, paging on, the image at its virtual address and
//! writable, `rsi` the start info, events masked (xen/include/public/arch-x86/xen.h). The loader has cleared .bss.

core::arch::global_asm!(
    r#"
.section .text.boot, "ax"
.global coracle_pv_entry
coracle_pv_entry:
    cld
    rdtsc
    mov [rip + coracle_entry_tsc], eax
    mov [rip + coracle_entry_tsc + 4], edx
    lea rsp, [rip + coracle_boot_stack_top]
    mov rbx, rsi
    lea rdi, [rip + __image_start]
    mov rsi, rdi
    lea rdx, [rip + __relr_start]
    lea rcx, [rip + __relr_end]
    call coracle_relocate
    mov rdi, rbx
    xor ebp, ebp
    push 0
    jmp coracle_pv_start

// Another VCPU, by its context (`smp`): rdi its block.
.global coracle_pv_secondary
coracle_pv_secondary:
    cld
    xor ebp, ebp
    push 0
    jmp coracle_pv_secondary_start
.text
"#
);

unsafe extern "C" {
    fn coracle_pv_secondary();
}

/// Where another VCPU begins.
pub fn secondary_entry() -> u64 {
    coracle_pv_secondary as *const () as u64
}
