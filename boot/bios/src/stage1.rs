//! Stage 1: the code in the MBR. Reads the boot block and stage 2, checks both, jumps.
//!
//! Entered by the BIOS at 0:7c00 (or 7c0:0) in real mode with the drive's number in `dl`. Reads by INT 13h extensions (EDD).
//! On failure one line goes to the screen (INT 10h) and to the first serial port, and the machine stops.

use boot_layout::{BOOT_LBA, STAGE2_ADDRESS, STAGE2_MAX_SECTORS};

core::arch::global_asm!(
    r#"
.section .stage1, "awx"
.code16
.global stage1
stage1:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    cld                         # move from 0:7c00 to where it is linked, 0:7e00
    movw %sp, %si
    movw $stage1, %di
    movw $256, %cx
    rep movsw
    ljmp $0, $.Lhere
.Lhere:
    sti
    movb %dl, .Ldrive

    movw $1, %bx                # the boot block, to 0:7c00
    call .Lread
    movw $.Lmagic, %si
    movw $0x7c00, %di
    movw $6, %cx                # eight letters and the version
    repe cmpsw
    movw $.Lno_block, %si
    jne .Lfail

    movl 0x7c10, %eax           # stage 2: first sector and number of sectors
    movl %eax, .Llba
    movl 0x7c14, %eax
    movl %eax, .Llba + 4
    movl 0x7c18, %ebp
    decl %ebp
    cmpl ${max}, %ebp           # zero is the largest number now
    jae .Lfail
    incl %ebp
    movw ${stage2} >> 4, .Lsegment
    pushl %ebp
.Lnext:
    movw $64, %bx               # 32 KiB from a 32 KiB border: crosses no segment
    cmpw %bx, %bp
    jae 1f
    movw %bp, %bx
1:  call .Lread
    subw %bx, %bp
    movzwl %bx, %eax
    addl %eax, .Llba
    adcl $0, .Llba + 4
    shlw $5, %ax
    addw %ax, .Lsegment
    testw %bp, %bp
    jnz .Lnext

    # CRC-32 of stage 2, sector by sector.
    popl %ebp
    movl $-1, %eax
    movl $0xedb88320, %edx
    movw ${stage2} >> 4, %bx
.Lsector:
    movw %bx, %ds
    xorw %si, %si
.Lbyte:
    xorb (%si), %al
    movw $8, %cx
2:  shrl $1, %eax
    jnc 3f
    xorl %edx, %eax
3:  loop 2b
    incw %si
    cmpw $512, %si
    jb .Lbyte
    addw $32, %bx
    decw %bp
    jnz .Lsector
    movw %cx, %ds               # 0
    notl %eax
    cmpl 0x7c1c, %eax
    movw $.Lbad_stage2, %si
    jne .Lfail
    movb .Ldrive, %dl
    ljmp $0, ${stage2}

# Reads bx sectors as the packet says; tries twice.
.Lread:
    movw $2, %di
4:  movw %bx, .Lcount
    movw $.Lpacket, %si
    movb .Ldrive, %dl
    movb $0x42, %ah
    pushw %bx
    pushw %di
    pushl %ebp
    int $0x13
    popl %ebp
    popw %di
    popw %bx
    jnc 5f
    xorw %ax, %ax
    movb .Ldrive, %dl
    pushw %di
    int $0x13
    popw %di
    decw %di
    jnz 4b
    movw $.Lno_read, %si
    jmp .Lfail
5:  ret

# Says the text at si, and stops.
.Lfail:
    pushw %si
    movw $.Lwho, %si
    call .Lsay
    popw %si
    call .Lsay
    movw $.Lend, %si
    call .Lsay
6:  cli
    hlt
    jmp 6b
.Lsay:
    lodsb
    testb %al, %al
    jz 5b
    pushw %ax
    movw $7, %bx
    movb $0x0e, %ah
    int $0x10
    movw $0x3fd, %dx            # the transmitter is empty, or there is none
    xorw %cx, %cx
7:  inb %dx, %al
    testb $0x20, %al
    loopz 7b
    popw %ax
    movb $0xf8, %dl
    outb %al, %dx
    jmp .Lsay

.Lmagic: .ascii "CORACLEB"
    .long 1
.Lwho: .asciz "Coracle: "
.Lno_read: .asciz "cannot read the disk"
.Lno_block: .asciz "no boot block on the disk"
.Lbad_stage2: .asciz "the boot code is damaged"
.Lend: .asciz "\r\n"
.balign 4
.Lpacket: .byte 16, 0
.Lcount: .word 0
    .word 0
.Lsegment: .word 0x7c0
.Llba: .quad {boot}
.Ldrive: .byte 0
"#,
    max = const STAGE2_MAX_SECTORS,
    stage2 = const STAGE2_ADDRESS,
    boot = const BOOT_LBA,
    options(att_syntax)
);
