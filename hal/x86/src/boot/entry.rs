//! The 32-bit PVH entry: clears .bss, builds an identity map of the low 4 GiB and goes to long mode.
//!
//! Entered as xen/include/public/arch-x86/hvm/start_info.h says: protected mode without paging, flat segments, `ebx`
//! the physical address of the start info, no stack. The image may lie anywhere below 4 GiB: all addresses are
//! relative to `.Lbase`, found by a `call` whose return address goes to the start info's first word (the magic, which
//! is put back).

core::arch::global_asm!(
    r#"
.section .text.boot, "ax"
.code32
.global coracle_pvh_entry
coracle_pvh_entry:
    cld
    cli
    leal 4(%ebx), %esp
    call .Lbase
.Lbase:
    popl %ebp
    movl $0x336ec578, (%ebx)
    rdtsc
    movl %eax, (coracle_entry_tsc - .Lbase)(%ebp)
    movl %edx, (coracle_entry_tsc + 4 - .Lbase)(%ebp)

    leal (__bss_start - .Lbase)(%ebp), %edi
    leal (__bss_end - .Lbase)(%ebp), %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl
    leal (coracle_boot_stack_top - .Lbase)(%ebp), %esp

    # Identity map: 4 x 512 pages of 2 MiB.
    leal (coracle_boot_pd - .Lbase)(%ebp), %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b
    leal (coracle_boot_pdpt - .Lbase)(%ebp), %edi
    leal (coracle_boot_pd + 3 - .Lbase)(%ebp), %eax
    movl %eax, (%edi)
    addl $0x1000, %eax
    movl %eax, 8(%edi)
    addl $0x1000, %eax
    movl %eax, 16(%edi)
    addl $0x1000, %eax
    movl %eax, 24(%edi)
    leal (coracle_boot_pml4 - .Lbase)(%ebp), %edx
    leal 3(%edi), %eax
    movl %eax, (%edx)

    movl %cr4, %eax
    orl $0x20, %eax             # PAE
    movl %eax, %cr4
    movl %edx, %cr3
    movl $0xc0000080, %ecx      # EFER
    rdmsr
    orl $0x901, %eax            # SCE, LME, NXE
    wrmsr
    movl %cr0, %eax
    andl $0x9ffffff3, %eax      # caches on, no emulation, no task switch
    orl $0x80010023, %eax       # PG, WP, NE, MP, PE
    movl %eax, %cr0

    leal (coracle_boot_gdt - .Lbase)(%ebp), %eax
    leal (coracle_boot_gdtr - .Lbase)(%ebp), %edx
    movl %eax, 2(%edx)
    lgdt (%edx)
    leal (.Llong - .Lbase)(%ebp), %eax
    pushl $8
    pushl %eax
    lret

.code64
.Llong:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    xorl %ebp, %ebp
    movl %esp, %esp
    # Relocate to where the image is now, build the page tables, relocate to where it will be.
    leaq __image_start(%rip), %rdi
    movq %rdi, %rsi
    leaq __relr_start(%rip), %rdx
    leaq __relr_end(%rip), %rcx
    call coracle_relocate
    movl %ebx, %edi
    leaq __image_start(%rip), %rsi
    call coracle_early
    movq %rax, %r12             # distance from the identity-mapped to the final image
    leaq __image_start(%rip), %rdi
    movq %rax, %rsi
    leaq __relr_start(%rip), %rdx
    leaq __relr_end(%rip), %rcx
    call coracle_relocate
    movq %r12, %rdi
    leaq coracle_boot_stack_top(%rip), %rsp
    addq %rdi, %rsp
    leaq coracle_start(%rip), %rax
    addq %rdi, %rax
    movl %ebx, %esi
    pushq $0
    jmpq *%rax

.section .data.boot, "aw"
.balign 8
.global coracle_entry_tsc
coracle_entry_tsc: .quad 0
.global coracle_boot_gdt
coracle_boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
coracle_boot_gdtr:
    .short 23
    .long 0

.section .bss.boot, "aw", @nobits
.balign 4096
.global coracle_boot_pml4
coracle_boot_pml4: .skip 4096
coracle_boot_pdpt: .skip 4096
coracle_boot_pd: .skip 4096 * 4
# The boot CPU's stack; the page below it is not mapped in the final image.
.global coracle_boot_stack_guard
coracle_boot_stack_guard: .skip 4096
coracle_boot_stack: .skip 32768
.global coracle_boot_stack_top
coracle_boot_stack_top:
.text
"#,
    options(att_syntax)
);
