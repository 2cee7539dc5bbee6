//! Exceptions and events: Xen pushes a frame on the kernel's stack, or on the CPU's entry stack if the application ran, and goes
//! to the address that was registered. From there on it is as in `hal_x86::traps`: the application's registers go to the
//! context and `enter_user` returns; a trap in the kernel has its frame where it is, because the kernel has no red zone.

use hal_core::Result;

use super::{sys, user};
use crate::event;

core::arch::global_asm!(
    r#"
.text
.macro CORACLE_PV_STUB vector, error
    .balign 16
    pop rcx
    pop r11
    .if \error == 0
    push 0
    .endif
    push \vector
    jmp coracle_pv_trap
.endm

.balign 16
.global coracle_pv_stubs
coracle_pv_stubs:
.set coracle_pv_vector, 0
.rept 32
.if (coracle_pv_vector == 8) || (coracle_pv_vector >= 10 && coracle_pv_vector <= 14) || (coracle_pv_vector == 17) || (coracle_pv_vector == 21) || (coracle_pv_vector == 29) || (coracle_pv_vector == 30)
    CORACLE_PV_STUB coracle_pv_vector, 1
.else
    CORACLE_PV_STUB coracle_pv_vector, 0
.endif
.set coracle_pv_vector, coracle_pv_vector + 1
.endr
.global coracle_pv_int80
    .balign 16
coracle_pv_int80:
    CORACLE_PV_STUB 0x80, 0
.global coracle_pv_event
    .balign 16
coracle_pv_event:
    CORACLE_PV_STUB 0x100, 0
// A return that Xen could not make: rcx, r11, ds, es, fs, gs, then as for an exception.
.global coracle_pv_failsafe
    .balign 16
coracle_pv_failsafe:
    pop rcx
    pop r11
    add rsp, 32
    push 0
    push 13
    jmp coracle_pv_trap

.balign 64
coracle_pv_trap:
    // [0] vector [8] error [16] rip [24] cs [32] rflags [40] rsp [48] ss
    test byte ptr [rsp + 24], 3
    jz 3f

    push rcx
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
    mov [rcx + 88], r11
    mov [rcx + 96], r12
    mov [rcx + 104], r13
    mov [rcx + 112], r14
    mov [rcx + 120], r15
    pop rax
    mov [rcx + 16], rax
    mov edi, [rsp]
    mov [rcx + 168], rdi
    mov rax, [rsp + 8]
    mov [rcx + 176], rax
    mov rax, [rsp + 16]
    mov [rcx + 128], rax
    mov rax, [rsp + 32]
    mov [rcx + 136], rax
    mov rax, [rsp + 40]
    mov [rcx + 56], rax
    mov qword ptr [rcx + 152], 1
    mov rsp, [rcx + 144]
    cld
    cmp edi, 0x100
    jne 1f
    mov qword ptr [rcx + 160], 2
    xor ebp, ebp
    sub rsp, 8
    call coracle_pv_events
    add rsp, 8
    mov eax, 2
    jmp coracle_pv_left
1:  mov rax, gs:[80]
    mov [rcx + 184], rax
    mov eax, 1
    mov [rcx + 160], rax
    jmp coracle_pv_left

3:  // The kernel: `hal_x86::traps::Frame`.
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
    cld
    mov rdi, rsp
    cmp dword ptr [rsp + 120], 0x100
    je 4f
    call coracle_kernel_trap
    jmp 5f
4:  call coracle_pv_events
5:  pop r15
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
    // cs says guest-kernel mode, rflags whether events are masked.
    push 0
    push rcx
    push r11
    push rax
    mov eax, 23                 // HYPERVISOR_iret
    syscall
    ud2
"#
);

unsafe extern "C" {
    static coracle_pv_stubs: u8;
    static coracle_pv_int80: u8;
    static coracle_pv_event: u8;
    static coracle_pv_failsafe: u8;
}

/// Distance between two stubs.
const STUB: u64 = 16;
/// Exceptions with a handler of their own.
const EXCEPTIONS: u8 = 22;

/// `struct trap_info` (arch-x86/xen.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Trap {
    vector: u8,
    flags: u8,
    segment: u16,
    address: u64,
}

impl Trap {
    /// The vector.
    pub fn vector(&self) -> u8 {
        self.vector
    }

    /// True for the entry that ends a table.
    pub fn is_end(&self) -> bool {
        self.address == 0
    }
}

/// Events are masked when the handler begins.
const MASKED: u8 = 1 << 2;
/// The application may raise it by an instruction.
const FROM_USER: u8 = 3;
/// `int3`, `into`.
const SOFTWARE: [u8; 2] = [3, 4];

/// The table of handlers, terminated by an empty entry.
pub fn table() -> [Trap; EXCEPTIONS as usize + 2] {
    let stubs = (&raw const coracle_pv_stubs) as u64;
    let mut table = [Trap::default(); EXCEPTIONS as usize + 2];
    for vector in 0..EXCEPTIONS {
        let privilege = if SOFTWARE.contains(&vector) { FROM_USER } else { 0 };
        table[usize::from(vector)] = Trap {
            vector,
            flags: MASKED | privilege,
            segment: sys::KERNEL_CODE,
            address: stubs + u64::from(vector) * STUB,
        };
    }
    table[usize::from(EXCEPTIONS)] = Trap {
        vector: hal_x86::traps::INT80,
        flags: MASKED | FROM_USER,
        segment: sys::KERNEL_CODE,
        address: (&raw const coracle_pv_int80) as u64,
    };
    table
}

/// Where events, returns that fail, and system calls go.
pub fn callbacks() -> [u64; 3] {
    [(&raw const coracle_pv_event) as u64, (&raw const coracle_pv_failsafe) as u64, user::syscall_entry()]
}

/// Registers this VCPU's handlers.
pub fn init_this_cpu() -> Result<()> {
    sys::set_trap_table(&table())?;
    for (kind, address) in callbacks().into_iter().enumerate() {
        sys::register_callback(kind as u16, address)?;
    }
    Ok(())
}

const _: () = assert!(size_of::<Trap>() == 16);

#[unsafe(no_mangle)]
extern "C" fn coracle_pv_events() {
    event::dispatch(hal_core::percpu::cpu_id());
}
