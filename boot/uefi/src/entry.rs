//! The two ends in assembly: firmware's jump to this program, and the jump from long mode to the kernel's 32-bit entry.

core::arch::global_asm!(
    r#"
.section .text.entry, "ax"
.code64
# efi_entry(image, system table), Microsoft's calling convention.
.global efi_entry
efi_entry:
    pushq %rsi
    pushq %rdi
    pushq %rcx
    pushq %rdx
    subq $8, %rsp
    leaq __image_start(%rip), %rdi
    leaq __relr_start(%rip), %rsi
    leaq __relr_end(%rip), %rdx
    call relocate
    addq $8, %rsp
    popq %rdx
    popq %rcx
    subq $40, %rsp
    call efi_main
    addq $40, %rsp
    popq %rdi
    popq %rsi
    ret

# trampoline(entry, start_info), System V convention: copied to a page below 4 GiB, runs there. Interrupts off, 32-bit
# mode without paging, then the kernel's entry with the start info in ebx.
.global trampoline
.global trampoline_end
trampoline:
    cli
    movl %esi, %ebx
    movl %edi, %esi
    leaq .Lgdt(%rip), %rax
    movq %rax, .Lgdtr + 2(%rip)
    lgdt .Lgdtr(%rip)
    movq %cr4, %rax             # shadow stacks (CET) forbid the change of CR0 below
    andl $0xff7fffff, %eax
    movq %rax, %cr4
    pushq $8
    leaq 1f(%rip), %rax
    pushq %rax
    lretq
.code32
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0x11, %eax            # PE, ET
    movl %eax, %cr0
    movl $0xc0000080, %ecx      # EFER
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
    movl %eax, %cr4
    jmpl *%esi
.balign 8
.Lgdt:
    .quad 0
    .quad 0x00cf9b000000ffff    # 08: 32-bit code
    .quad 0x00cf93000000ffff    # 10: data
.Lgdtr:
    .word 23
    .quad 0
trampoline_end:
.code64
.text
"#,
    options(att_syntax)
);

/// Applies the relative relocations (gABI: RELR). Runs before any static is right, and uses none.
///
/// # Safety
/// `start..end` is the table of the image at `base`, which is linked at 0 and was not relocated yet.
#[unsafe(no_mangle)]
unsafe extern "sysv64" fn relocate(base: u64, start: *const u64, end: *const u64) {
    let mut entry = start;
    let mut at = base;
    // SAFETY: the linker made the table: every word lies in the writable part of the image and is aligned.
    unsafe {
        while entry < end {
            let value = *entry;
            let (mut bits, mut word) = if value & 1 == 0 {
                at = base + value + 8;
                (1, (base + value) as *mut u64)
            } else {
                let word = at as *mut u64;
                at += 63 * 8;
                (value >> 1, word)
            };
            while bits != 0 {
                if bits & 1 != 0 {
                    *word = (*word).wrapping_add(base);
                }
                bits >>= 1;
                word = word.add(1);
            }
            entry = entry.add(1);
        }
    }
}
