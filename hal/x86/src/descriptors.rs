//! Segment descriptors, task state and the interrupt table.
//!
//! Every gate uses an interrupt stack (IST), because the application runs at ring 0 and its red zone must stay whole.
//! IST 1 serves all vectors and is left at once (`traps`); non-maskable interrupt, double fault and machine check have
//! their own.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, Ordering};

unsafe extern "C" {
    static coracle_trap_stubs: u8;
}

/// Kernel code segment; the application's too.
pub const CODE: u16 = 0x08;
/// Kernel data segment; the application's too.
pub const DATA: u16 = 0x10;
const TASK: u16 = 0x18;

/// Distance between two vectors' stubs.
const STUB_SIZE: u64 = 16;

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Task state segment (Intel SDM vol. 3, figure 8-11).
#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

/// An interrupt stack.
#[repr(C, align(16))]
struct Stack<const N: usize>(UnsafeCell<[u8; N]>);

impl<const N: usize> Stack<N> {
    fn top(&self) -> u64 {
        self.0.get() as u64 + N as u64
    }
}

/// Bytes of interrupt stack 1; `traps` tells by it whether a trap came while it was in use.
pub const IST_SIZE: usize = 8192;

/// What each CPU has of its own.
#[repr(C, align(64))]
pub struct CpuTables {
    gdt: UnsafeCell<[u64; 5]>,
    task: UnsafeCell<TaskState>,
    common: Stack<IST_SIZE>,
    double_fault: Stack<8192>,
    nmi: Stack<8192>,
    machine_check: Stack<8192>,
}

// SAFETY: written once by `load`, before the CPU uses them; afterwards only the CPU's hardware does.
unsafe impl Sync for CpuTables {}

impl CpuTables {
    /// Tables that `load` fills in.
    pub const fn new() -> Self {
        Self {
            gdt: UnsafeCell::new([0; 5]),
            task: UnsafeCell::new(TaskState {
                reserved0: 0,
                rsp: [0; 3],
                reserved1: 0,
                ist: [0; 7],
                reserved2: 0,
                reserved3: 0,
                io_map: 0,
            }),
            common: Stack(UnsafeCell::new([0; IST_SIZE])),
            double_fault: Stack(UnsafeCell::new([0; 8192])),
            nmi: Stack(UnsafeCell::new([0; 8192])),
            machine_check: Stack(UnsafeCell::new([0; 8192])),
        }
    }

    /// Makes this CPU use these tables and the interrupt table.
    ///
    /// # Safety
    /// The tables are this CPU's alone; interrupts are disabled.
    pub unsafe fn load(&'static self) {
        let task = self.task.get() as u64;
        // SAFETY: nobody else uses these tables yet, by the caller.
        unsafe {
            // No I/O permission map: its offset is behind the segment's end.
            (*self.task.get()).io_map = 104;
            (*self.task.get()).ist[0] = self.common.top();
            (*self.task.get()).ist[1] = self.double_fault.top();
            (*self.task.get()).ist[2] = self.nmi.top();
            (*self.task.get()).ist[3] = self.machine_check.top();
            // Intel SDM vol. 3, figures 3-8 and 8-4: 64-bit code, data, available 64-bit task state.
            *self.gdt.get() = [
                0,
                0x00af_9b00_0000_ffff,
                0x00cf_9300_0000_ffff,
                103 | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56,
                task >> 32,
            ];
            let gdt = TablePointer { limit: 39, base: self.gdt.get() as u64 };
            let idt = TablePointer { limit: 4095, base: IDT.0.get() as u64 };
            asm!(
                "lgdt [{gdt}]",
                "lidt [{idt}]",
                "ltr {task:x}",
                gdt = in(reg) &gdt,
                idt = in(reg) &idt,
                task = in(reg) TASK,
                options(nostack, preserves_flags)
            );
        }
    }
}

impl Default for CpuTables {
    fn default() -> Self {
        Self::new()
    }
}

#[repr(C, align(4096))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once by `init_idt` on the boot CPU.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));
static IDT_DONE: AtomicU8 = AtomicU8::new(0);

/// Fills the interrupt table. Boot CPU, before `CpuTables::load`.
pub fn init_idt() {
    if IDT_DONE.swap(1, Ordering::Relaxed) != 0 {
        return;
    }
    for vector in 0..256usize {
        let ist = match vector {
            8 => 2,
            2 => 3,
            18 => 4,
            _ => 1u64,
        };
        let at = (&raw const coracle_trap_stubs) as u64 + vector as u64 * STUB_SIZE;
        // 64-bit interrupt gate (Intel SDM vol. 3, figure 6-8).
        let low = at & 0xffff | u64::from(CODE) << 16 | ist << 32 | 0x8e << 40 | (at >> 16 & 0xffff) << 48;
        // SAFETY: only the boot CPU runs, and no CPU uses the table yet.
        unsafe { (*IDT.0.get())[vector] = [low, at >> 32] };
    }
}
