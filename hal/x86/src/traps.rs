//! Exceptions and interrupts: from the vector to the application's context or to the kernel's stack.
//!
//! A trap is the application's if its instruction pointer is outside of the kernel's code. Then all registers go to the
//! [`hal_core::UserContext`] and `coracle_enter_user` returns. Else the frame moves from the interrupt stack to the
//! interrupted kernel stack, so that the handler may block.

use core::sync::atomic::{AtomicBool, Ordering};

use hal_core::cpu::{KernelTrap, PageFault, irq_restore, irq_save};

use crate::arch;
use crate::patch::fault_address;

/// `int 0x80` of a 32-bit system call: an exception for the kernel, never a device's vector.
pub const INT80: u8 = 0x80;

core::arch::global_asm!(
    r#"
.text
.balign 16
.global coracle_trap_stubs
coracle_trap_stubs:
.set coracle_vector, 0
.rept 256
.balign 16
.if (coracle_vector == 8) || (coracle_vector >= 10 && coracle_vector <= 14) || (coracle_vector == 17) || (coracle_vector == 21) || (coracle_vector == 29) || (coracle_vector == 30)
.else
    pushq $0
.endif
    pushq $coracle_vector
.if (coracle_vector == 2) || (coracle_vector == 8) || (coracle_vector == 18)
    jmp coracle_abort_common
.else
    jmp coracle_trap_common
.endif
.set coracle_vector, coracle_vector + 1
.endr
"#,
    options(att_syntax)
);

core::arch::global_asm!(
    r#"
.text
.balign 64
coracle_trap_common:
    push rax
    push rcx
    // [0] rcx [8] rax [16] vector [24] error [32] rip [40] cs [48] rflags [56] rsp [64] ss
    mov rax, [rsp + 32]
    lea rcx, [rip + __image_start]
    cmp rax, rcx
    jb 2f
    lea rcx, [rip + __text_end]
    cmp rax, rcx
    jb 3f

2:  // The application.
    mov rcx, gs:[16]
    mov [rcx + 8], rbx
    mov [rcx + 24], rdx
    mov [rcx + 32], rsi
    mov [rcx + 40], rdi
    mov [rcx + 48], rbp
    mov [rcx + 64], r8
    mov [rcx + 72], r9
    mov [rcx + 80], r10
    mov [rcx + 88], r11
    mov [rcx + 96], r12
    mov [rcx + 104], r13
    mov [rcx + 112], r14
    mov [rcx + 120], r15
    mov rax, [rsp]
    mov [rcx + 16], rax
    mov rax, [rsp + 8]
    mov [rcx], rax
    mov rax, [rsp + 24]
    mov [rcx + 176], rax
    mov rax, [rsp + 32]
    mov [rcx + 128], rax
    mov rax, [rsp + 48]
    mov [rcx + 136], rax
    mov rax, [rsp + 56]
    mov [rcx + 56], rax
    mov edi, [rsp + 16]
    mov [rcx + 168], rdi
    mov qword ptr [rcx + 152], 1
    mov rsp, [rcx + 144]
    cld
    cmp edi, 14
    je 4f
    cmp edi, 32
    jb 5f
    cmp edi, 0x80
    je 5f
    mov qword ptr [rcx + 160], 2
    xor ebp, ebp
    sub rsp, 8
    call coracle_interrupt
    add rsp, 8
    mov eax, 2
    jmp 6f
4:  mov rax, cr2
    mov [rcx + 184], rax
5:  mov eax, 1
    mov [rcx + 160], rax
6:  pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

3:  // The kernel. A fault of the two exits' last instructions is the application's: its rip is not canonical.
    cmp dword ptr [rsp + 16], 13
    jne 7f
    lea rcx, [rip + coracle_fast_exit]
    cmp rax, rcx
    je 8f
    lea rcx, [rip + coracle_full_exit]
    cmp rax, rcx
    je 8f
7:  // A trap on this very stack: a fault of the copy below, that is, the kernel's stack is used up.
    mov rax, [rsp + 56]
    lea rcx, [rax + 8192]
    sub rcx, rsp
    cmp rcx, 16384
    jb 9f
    and rax, -16
    mov rcx, [rsp + 64]
    mov [rax - 8], rcx
    mov rcx, [rsp + 56]
    mov [rax - 16], rcx
    mov rcx, [rsp + 48]
    mov [rax - 24], rcx
    mov rcx, [rsp + 40]
    mov [rax - 32], rcx
    mov rcx, [rsp + 32]
    mov [rax - 40], rcx
    mov rcx, [rsp + 24]
    mov [rax - 48], rcx
    mov rcx, [rsp + 16]
    mov [rax - 56], rcx
    mov rcx, [rsp + 8]
    mov [rax - 64], rcx
    mov rcx, [rsp]
    mov [rax - 72], rcx
    lea rsp, [rax - 72]
    push rdx
    push rbx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    cld
    call coracle_kernel_trap
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

8:  mov rcx, gs:[16]
    mov rax, [rsp + 24]
    mov [rcx + 176], rax
    mov qword ptr [rcx + 168], 13
    mov qword ptr [rcx + 152], 1
    mov rsp, [rcx + 144]
    jmp 5b

9:  // Rebuild a frame for the report, where it is.
    pop rcx
    pop rax
coracle_abort_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    cld
    sub rsp, 8
    and rsp, -16
    mov rbx, rdi
    call coracle_abort
    mov rsp, rbx
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
"#
);

/// Registers at a trap in the kernel, as the assembly stores them.
#[repr(C)]
struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

const FLAG_TRAP: u64 = 1 << 8;
const FLAG_INTERRUPT: u64 = 1 << 9;

impl Frame {
    fn report(&self) -> KernelTrap {
        KernelTrap {
            vector: self.vector as u8,
            error: self.error,
            address: if self.vector == 14 { fault_address() } else { 0 },
            rip: self.rip,
            rsp: self.rsp,
            rbp: self.rbp,
        }
    }
}

fn fatal(frame: &Frame) -> ! {
    let trap = frame.report();
    match hal_core::kernel() {
        Some(kernel) => kernel.fatal(&trap),
        None => panic!("trap before the kernel was up: {trap:x?}"),
    }
}

#[unsafe(no_mangle)]
extern "C" fn coracle_kernel_trap(frame: &mut Frame) {
    match frame.vector as u8 {
        14 => {
            let fault = PageFault::from_error(fault_address(), frame.error);
            let Some(kernel) = hal_core::kernel() else { fatal(frame) };
            // As in the faulting code.
            irq_restore(frame.rflags & FLAG_INTERRUPT != 0);
            let next = kernel.kernel_page_fault(&fault, frame.rip);
            irq_save();
            match next {
                Some(ip) => frame.rip = ip,
                None => fatal_page_fault(frame, &fault),
            }
        }
        1 => frame.rflags &= !FLAG_TRAP,
        vector @ (0..32 | INT80) => {
            let _ = vector;
            fatal(frame)
        }
        vector => {
            crate::interrupts::dispatch(vector);
            // A hypervisor that is emulated itself (QEMU's TCG with AMD's virtualization, seen with KVM) may lose the shadow of
            // `sti` and interrupt before the `hlt`: then the handler's work would wait for the next interrupt, which may never come.
            if frame.rip == &raw const coracle_idle_halt as u64 {
                frame.rip = &raw const coracle_idle_awake as u64;
            }
        }
    }
}

core::arch::global_asm!(
    r#"
    .text
    .globl coracle_idle
    .globl coracle_idle_halt
    .globl coracle_idle_awake
coracle_idle:
    sti
coracle_idle_halt:
    hlt
coracle_idle_awake:
    ret
"#
);

unsafe extern "C" {
    /// Enables interrupts and waits for one; they stay enabled.
    pub(crate) fn coracle_idle();
    static coracle_idle_halt: u8;
    static coracle_idle_awake: u8;
}

fn fatal_page_fault(frame: &Frame, fault: &PageFault) -> ! {
    let mut trap = frame.report();
    trap.address = fault.address.0;
    match hal_core::kernel() {
        Some(kernel) => kernel.fatal(&trap),
        None => fatal(frame),
    }
}

#[unsafe(no_mangle)]
extern "C" fn coracle_interrupt(vector: u32) {
    crate::interrupts::dispatch(vector as u8);
}

/// Set when the other CPUs shall stop; they learn it by a non-maskable interrupt.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Makes the non-maskable interrupt stop CPUs from now on. False if that was so already.
pub fn begin_stop() -> bool {
    !STOPPING.swap(true, Ordering::SeqCst)
}

#[unsafe(no_mangle)]
extern "C" fn coracle_abort(frame: &mut Frame) {
    if frame.vector == 2 {
        if STOPPING.load(Ordering::SeqCst) {
            loop {
                arch::cli();
                arch::hlt();
            }
        }
        log::warn!("non-maskable interrupt at {:#x}", frame.rip);
        return;
    }
    if frame.vector == 14 {
        log::error!("kernel stack overflow: nothing is mapped at {:#x}", fault_address());
    } else if frame.vector >= 32 {
        // Its frame lies where the first one's was, so there is no way back. Seen only where the machine under the hypervisor is
        // emulated: docs/hypervisors.md, "Labs on an emulated machine".
        log::error!("interrupt {} was delivered with interrupts disabled, over another one's frame", frame.vector);
    }
    fatal(frame)
}
