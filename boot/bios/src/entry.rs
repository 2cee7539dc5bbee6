//! The ways between real mode and long mode: stage 2's entry, a call of the BIOS, and the jump to the kernel.
//!
//! Long mode runs on an identity map of the low 4 GiB, interrupts disabled, without an IDT. The BIOS runs in real mode
//! with its own interrupt table and a stack below 0x7c00.

core::arch::global_asm!(
    r#"
.section .text.entry, "awx"
.code16
# 0:8000, real mode, dl = drive.
stage2:
    movb %dl, boot_drive
    pushfl                      # CPUID and long mode are there?
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb 1f
    movl $0x80000001, %eax
    cpuid
    testl $1 << 29, %edx
    jnz 2f
1:  movw $.Lno_long_mode, %si
    jmp .Lrefuse
2:  popfl

    # A20: by the BIOS, by port 92h, by the keyboard controller; most machines have it on already.
    call .La20_is_on
    jne 3f
    movw $0x2401, %ax
    int $0x15
    call .La20_is_on
    jne 3f
    inb $0x92, %al
    orb $2, %al
    andb $0xfe, %al             # not the reset
    outb %al, $0x92
    call .La20_wait
    jne 3f
    call .Lkeyboard_ready
    movb $0xd1, %al
    outb %al, $0x64
    call .Lkeyboard_ready
    movb $0xdf, %al
    outb %al, $0x60
    call .Lkeyboard_ready
    call .La20_wait
    jne 3f
    movw $.Lno_a20, %si
    jmp .Lrefuse
3:  cli
    lgdtl .Lgdtr
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $.Lprotected

# Not equal if a write below 1 MiB does not show 1 MiB higher.
.La20_is_on:
    movw $0xffff, %ax
    movw %ax, %fs
    movl .La20_word, %eax
    notl %eax
    movl %eax, .La20_word
    cmpl %fs:.La20_word + 0x10, %eax
    ret
.La20_wait:
    movw $0xffff, %cx
4:  call .La20_is_on
    jne 5f
    decw %cx
    jnz 4b
    cmpw %cx, %cx               # equal: it is off
5:  ret
.Lkeyboard_ready:
    movw $0xffff, %cx
6:  inb $0x64, %al
    testb $2, %al
    jz 7f
    decw %cx
    jnz 6b
7:  ret

# Says the text at si by the BIOS and to the serial port, and stops.
.Lrefuse:
    lodsb
    testb %al, %al
    jz 8f
    movw %ax, %di
    movb $0x0e, %ah
    movw $7, %bx
    int $0x10
    movw %di, %ax
    movw $0x3f8, %dx
    outb %al, %dx
    jmp .Lrefuse
8:  cli
    hlt
    jmp 8b
.Lno_long_mode: .asciz "Coracle: this CPU has no 64-bit mode; allow it in the machine's settings\r\n"
.Lno_a20: .asciz "Coracle: memory above 1 MiB cannot be reached (A20)\r\n"

.code32
.Lprotected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $__bss_start, %edi
    movl $__bss_end, %ecx
    subl %edi, %ecx
    xorl %eax, %eax
    cld
    rep stosb

    # Identity map: 4 x 512 pages of 2 MiB.
    movl $.Lpd, %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl $.Lpd + 3, %eax
    movl $.Lpdpt, %edi
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    decl %ecx
    jnz 2b
    movl $.Lpdpt + 3, .Lpml4
    movl $.Lstack_top, %esp
    call .Llong_mode
.code64
    call stage2_main

# From 32-bit mode without paging to long mode; returns there. The caller's address is a 32-bit one.
.code32
.Llong_mode:
    popl %edx
    movl $.Lpml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orb $0x20, %al              # PAE
    movl %eax, %cr4
    pushl %edx
    movl $0xc0000080, %ecx      # EFER
    rdmsr
    orl $0x100, %eax            # LME
    wrmsr
    popl %edx
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    pushl $0x18
    pushl %edx
    lret

# bios_call(vector): executes the interrupt with the registers in bios_frame.
.code64
.global bios_call
bios_call:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movl %esp, .Lsaved_stack
    movb %dil, .Lvector + 1
    pushq $0x08
    leaq 1f(%rip), %rax
    pushq %rax
    lretq
.code32
1:  movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    ljmp $0x20, $2f
.code16
2:  movw $0x28, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    lidtl .Lreal_idtr
    movl %cr0, %eax
    andb $0xfe, %al
    movl %eax, %cr0
    ljmp $0, $3f
3:  xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movl $0x7c00, %esp
    movw bios_frame + 30, %es
    movl bios_frame, %eax
    movl bios_frame + 4, %ebx
    movl bios_frame + 8, %ecx
    movl bios_frame + 12, %edx
    movl bios_frame + 16, %esi
    movl bios_frame + 20, %edi
    movl bios_frame + 24, %ebp
    pushw bios_frame + 28
    popw %ds
    sti
.Lvector:
    int $0
    cli
    cld
    pushfw
    pushl %eax
    xorw %ax, %ax
    movw %ax, %ds
    popl bios_frame
    popw bios_frame + 32
    movl %ebx, bios_frame + 4
    movl %ecx, bios_frame + 8
    movl %edx, bios_frame + 12
    movl %esi, bios_frame + 16
    movl %edi, bios_frame + 20
    movl %ebp, bios_frame + 24
    movw %es, bios_frame + 30
    lgdtl .Lgdtr                # the BIOS may have used its own
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $4f
.code32
4:  movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl .Lsaved_stack, %esp
    call .Llong_mode
.code64
    movl .Lsaved_stack, %esp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

# enter_kernel(entry, start_info): 32-bit mode without paging, as the PVH protocol has it.
.global enter_kernel
enter_kernel:
    movl %esi, %ebx
    movl %edi, %esi
    pushq $0x08
    leaq 5f(%rip), %rax
    pushq %rax
    lretq
.code32
5:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0x11, %eax            # PE, ET
    movl %eax, %cr0
    movl $0xc0000080, %ecx
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
    .quad 0x00af9b000000ffff    # 18: 64-bit code
    .quad 0x00009b000000ffff    # 20: 16-bit code
    .quad 0x000093000000ffff    # 28: 16-bit data
.Lgdtr:
    .word 47
    .long .Lgdt
.Lreal_idtr:
    .word 0x3ff
    .long 0
.balign 4
.La20_word: .long 0x5eaf1234
.Lsaved_stack: .long 0
.global bios_frame
bios_frame: .skip 36
.global disk_packet
.balign 8
disk_packet: .skip 16
.global boot_drive
boot_drive: .byte 0
.balign 8
.global map_entry
map_entry: .skip 24

.section .bss.tables, "aw", @nobits
.balign 4096
.Lpml4: .skip 4096
.Lpdpt: .skip 4096
.Lpd: .skip 4096 * 4
.Lstack: .skip 32768
.Lstack_top:
.text
.code64
"#,
    options(att_syntax)
);
