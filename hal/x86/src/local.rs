//! What each CPU has in this crate, behind its per-CPU block.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use hal_core::cpu::MAX_CPUS;
use hal_core::percpu::{self, PerCpu};

use crate::descriptors::CpuTables;
use crate::interrupts::{self, Slot};
use crate::ipi::FlushQueue;

/// One CPU.
#[repr(C)]
pub struct CpuLocal {
    /// What GS points to.
    pub percpu: PerCpu,
    /// Number of its local APIC.
    pub apic_id: AtomicU32,
    /// Handlers by vector.
    pub handlers: [Slot; 256],
    /// Where the search for a free vector begins.
    pub next_vector: AtomicU8,
    /// Monotonic time of the armed clock event in ns; `u64::MAX` if none.
    pub deadline: AtomicU64,
    /// Flushes that others ask for.
    pub flush: FlushQueue,
    /// 1 while the CPU is halted in the idle loop.
    pub idle: AtomicU8,
    /// 1 when the CPU runs.
    pub running: AtomicU8,
    tables: &'static CpuTables,
}

static ALL: [AtomicPtr<CpuLocal>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];

/// The boot CPU's block and tables, there before the heap.
static BOOT: CpuLocal = CpuLocal::new(&BOOT_TABLES);
static BOOT_TABLES: CpuTables = CpuTables::new();

impl CpuLocal {
    const fn new(tables: &'static CpuTables) -> Self {
        Self {
            percpu: PerCpu::EMPTY,
            apic_id: AtomicU32::new(0),
            handlers: interrupts::no_handlers(),
            next_vector: AtomicU8::new(0),
            deadline: AtomicU64::new(u64::MAX),
            flush: FlushQueue::new(),
            idle: AtomicU8::new(0),
            running: AtomicU8::new(0),
            tables,
        }
    }

    /// The boot CPU's block.
    pub fn boot() -> &'static Self {
        &BOOT
    }

    /// Makes the block of CPU `number` (1..) and lists it.
    pub fn create(number: usize, apic_id: u32) -> &'static Self {
        let tables = Box::leak(Box::new(CpuTables::new()));
        let local: &'static Self = Box::leak(Box::new(Self::new(tables)));
        local.list(number, apic_id);
        local
    }

    /// Fills in the numbers and lists the block.
    pub fn list(&'static self, number: usize, apic_id: u32) {
        self.apic_id.store(apic_id, Ordering::Relaxed);
        self.percpu.cpu.store(number as u32, Ordering::Relaxed);
        self.percpu.this.store((&raw const self.percpu) as u64, Ordering::Relaxed);
        self.percpu.backend.store((&raw const *self).cast_mut().cast(), Ordering::Relaxed);
        if let Some(slot) = ALL.get(number) {
            slot.store((&raw const *self).cast_mut(), Ordering::Release);
        }
    }

    /// Number of its local APIC.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// The block of CPU `number`, if it was made.
    pub fn of(number: usize) -> Option<&'static Self> {
        // SAFETY: listed blocks are leaked.
        unsafe { ALL.get(number)?.load(Ordering::Acquire).as_ref() }
    }

    /// This CPU's block. Only after [`CpuLocal::enter`].
    #[inline]
    pub fn this() -> &'static Self {
        let backend = percpu::this().backend.load(Ordering::Relaxed).cast::<Self>();
        // SAFETY: `enter` loaded GS with a block whose `backend` is the leaked block itself.
        unsafe { &*backend }
    }

    /// Makes this CPU use the block: GS base, descriptor tables.
    ///
    /// # Safety
    /// The block is this CPU's alone; interrupts are disabled.
    pub unsafe fn enter(&'static self) {
        // SAFETY: by the caller; the block is static.
        unsafe {
            crate::arch::wrmsr(crate::arch::msr::GS_BASE, (&raw const self.percpu) as u64);
            self.tables.load();
            crate::features::set_cpu_number(self.percpu.cpu.load(Ordering::Relaxed));
        }
        self.running.store(1, Ordering::Release);
    }
}
