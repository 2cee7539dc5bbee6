//! CPUs: starting them, entering the application, switching threads, the interrupt flag.
//!
//! The functions in the `extern` block are defined by the architecture's crate (`hal/x86`, assembly) and
//! linked directly; a backend that needs another way (Xen PV) patches them at boot.

use crate::Result;
use crate::addr::VirtAddr;

/// The application's registers while it does not run. `repr(C)`: the entry code knows the offsets.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserContext {
    /// Offset 0. System call number and result.
    pub rax: u64,
    /// Offset 8.
    pub rbx: u64,
    /// Offset 16.
    pub rcx: u64,
    /// Offset 24. Third argument of a system call.
    pub rdx: u64,
    /// Offset 32. Second argument.
    pub rsi: u64,
    /// Offset 40. First argument.
    pub rdi: u64,
    /// Offset 48.
    pub rbp: u64,
    /// Offset 56.
    pub rsp: u64,
    /// Offset 64. Fifth argument.
    pub r8: u64,
    /// Offset 72. Sixth argument.
    pub r9: u64,
    /// Offset 80. Fourth argument.
    pub r10: u64,
    /// Offset 88.
    pub r11: u64,
    /// Offset 96.
    pub r12: u64,
    /// Offset 104.
    pub r13: u64,
    /// Offset 112.
    pub r14: u64,
    /// Offset 120.
    pub r15: u64,
    /// Offset 128.
    pub rip: u64,
    /// Offset 136.
    pub rflags: u64,
    /// Offset 144: the kernel's stack pointer inside `enter_user`, for the entry code.
    pub kernel_rsp: u64,
    /// Offset 152: 1 if `rcx` and `r11` matter (left by an exception, interrupt; set by signal delivery,
    /// `rt_sigreturn`, `execve`), so that the slow exit restores everything. 0 after a system call.
    pub full: u64,
    /// Offset 160: how the application was left; see [`Exit`].
    pub exit_kind: u64,
    /// Offset 168: vector of an exception.
    pub vector: u64,
    /// Offset 176: error code of an exception.
    pub error: u64,
    /// Offset 184: CR2 of a page fault.
    pub address: u64,
}

/// Why the application was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A system call: number in `rax`, arguments in rdi, rsi, rdx, r10, r8, r9; `rip` is the next instruction.
    SystemCall,
    /// A page fault at this address.
    PageFault(PageFault),
    /// Another exception: vector and error code (Intel SDM vol. 3, table 6-1).
    Exception(u8, u64),
    /// An interrupt, already handled; the kernel looks for work.
    Interrupt,
}

/// What a page fault was (Intel SDM vol. 3, section 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The address accessed.
    pub address: VirtAddr,
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// The page was present: the rights forbade it.
    pub present: bool,
    /// The page tables are corrupt (reserved bit).
    pub reserved: bool,
}

impl PageFault {
    /// From the hardware's error code.
    pub fn from_error(address: u64, error: u64) -> Self {
        Self {
            address: VirtAddr(address),
            present: error & 1 != 0,
            write: error & 2 != 0,
            reserved: error & 8 != 0,
            fetch: error & 16 != 0,
        }
    }
}

/// Kernel registers at a trap, for the panic report.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelTrap {
    /// Vector.
    pub vector: u8,
    /// Error code.
    pub error: u64,
    /// CR2 for a page fault.
    pub address: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Frame pointer, where the backtrace starts.
    pub rbp: u64,
}

unsafe extern "C" {
    /// Runs the application from `context` until it leaves; returns the kind (0 system call, 1 exception,
    /// 2 interrupt). Called with interrupts disabled; returns with interrupts disabled.
    fn coracle_enter_user(context: *mut UserContext) -> u64;
    /// Saves the callee-saved registers on this stack and the stack pointer in `*save`, continues at `load`.
    /// `after` runs first on the new stack, with the argument given to it there (see `switch`).
    fn coracle_switch(save: *mut u64, load: u64);
    /// Saves or restores FPU, SSE, AVX state with the widest instruction the CPU has.
    fn coracle_fpu_save(area: *mut u8);
    fn coracle_fpu_restore(area: *const u8);
    /// The application's thread pointer.
    fn coracle_set_fs_base(value: u64);
    fn coracle_fs_base() -> u64;
    /// Bytes of an FPU area (64-byte aligned), after the CPU's features are known.
    fn coracle_fpu_size() -> usize;
    /// Fills an area with the state of a fresh program.
    fn coracle_fpu_init(area: *mut u8);
    fn coracle_irq_save() -> bool;
    fn coracle_irq_restore(enabled: bool);
    fn coracle_irq_enabled() -> bool;
}

/// Runs the application until it leaves. Interrupts must be disabled, and are on return.
///
/// # Safety
/// The address space and FS base of the context's thread are loaded, and so is its FPU state.
#[inline]
pub unsafe fn enter_user(context: &mut UserContext) -> Exit {
    // SAFETY: by the caller; the context outlives the call.
    match unsafe { coracle_enter_user(context) } {
        0 => Exit::SystemCall,
        1 if context.vector == 14 => Exit::PageFault(PageFault::from_error(context.address, context.error)),
        1 => Exit::Exception(context.vector as u8, context.error),
        _ => Exit::Interrupt,
    }
}

/// Switches kernel stacks: stores this one's pointer in `save` and continues on `load`.
///
/// # Safety
/// `load` was stored by an earlier switch or made by [`prepare_stack`], is used once, and its stack is
/// alive. Interrupts are disabled.
#[inline]
pub unsafe fn switch(save: *mut u64, load: u64) {
    // SAFETY: by the caller.
    unsafe { coracle_switch(save, load) }
}

/// Lays out a new stack so that the first [`switch`] to it calls `entry(argument)`. Returns the pointer to load.
///
/// # Safety
/// `top` is the 16-byte aligned end of a writable stack that nobody uses. `entry` never returns.
pub unsafe fn prepare_stack(top: u64, entry: extern "C" fn(usize) -> !, argument: usize) -> u64 {
    unsafe extern "C" {
        /// Moves r12 to rdi and calls rbx.
        fn coracle_thread_start();
    }
    // What `coracle_switch` pops: r15 r14 r13 r12 rbx rbp, then the return address.
    let frame = [0, 0, 0, argument as u64, entry as usize as u64, 0, coracle_thread_start as *const () as u64];
    let pointer = top - 16 - (frame.len() as u64) * 8;
    // SAFETY: the stack is writable and free, by the caller.
    unsafe { core::ptr::copy_nonoverlapping(frame.as_ptr(), pointer as *mut u64, frame.len()) };
    pointer
}

/// Bytes of an FPU save area; its alignment is 64.
pub fn fpu_size() -> usize {
    // SAFETY: no precondition after early boot.
    unsafe { coracle_fpu_size() }
}

/// Writes the state of a fresh program to `area`.
///
/// # Safety
/// `area` is 64-byte aligned and [`fpu_size`] long.
pub unsafe fn fpu_init(area: *mut u8) {
    // SAFETY: by the caller.
    unsafe { coracle_fpu_init(area) }
}

/// Saves the CPU's FPU state.
///
/// # Safety
/// As [`fpu_init`].
#[inline]
pub unsafe fn fpu_save(area: *mut u8) {
    // SAFETY: by the caller.
    unsafe { coracle_fpu_save(area) }
}

/// Loads the CPU's FPU state.
///
/// # Safety
/// `area` was filled by [`fpu_save`] or [`fpu_init`], or its header was checked.
#[inline]
pub unsafe fn fpu_restore(area: *const u8) {
    // SAFETY: by the caller.
    unsafe { coracle_fpu_restore(area) }
}

/// Sets the application's thread pointer; must be canonical.
#[inline]
pub fn set_fs_base(value: u64) {
    // SAFETY: the kernel itself does not use FS.
    unsafe { coracle_set_fs_base(value) }
}

/// The application's thread pointer (it may have changed it itself by `wrfsbase`).
#[inline]
pub fn fs_base() -> u64 {
    // SAFETY: only reads.
    unsafe { coracle_fs_base() }
}

/// Disables interrupts; returns whether they were enabled.
#[inline]
pub fn irq_save() -> bool {
    // SAFETY: no precondition.
    unsafe { coracle_irq_save() }
}

/// Enables interrupts if `enabled`.
#[inline]
pub fn irq_restore(enabled: bool) {
    // SAFETY: no precondition.
    unsafe { coracle_irq_restore(enabled) }
}

/// True if interrupts are enabled.
#[inline]
pub fn irq_enabled() -> bool {
    // SAFETY: only reads.
    unsafe { coracle_irq_enabled() }
}

/// A set of CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

/// The most CPUs that are used.
pub const MAX_CPUS: usize = 256;

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self([0; MAX_CPUS / 64]);

    /// One CPU.
    pub fn single(cpu: usize) -> Self {
        let mut set = Self::EMPTY;
        set.insert(cpu);
        set
    }
    /// Adds a CPU; ignores a number beyond [`MAX_CPUS`].
    pub fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.0.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
        }
    }
    /// Removes a CPU.
    pub fn remove(&mut self, cpu: usize) {
        if let Some(word) = self.0.get_mut(cpu / 64) {
            *word &= !(1 << (cpu % 64));
        }
    }
    /// True if the CPU is in the set.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.get(cpu / 64).is_some_and(|word| word & (1 << (cpu % 64)) != 0)
    }
    /// True if no CPU is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }
    /// The CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..MAX_CPUS).filter(|&cpu| self.contains(cpu))
    }
    /// The bits, 64 CPUs a word.
    pub fn words(&self) -> &[u64; MAX_CPUS / 64] {
        &self.0
    }
    /// From bits, 64 CPUs a word.
    pub fn from_words(words: [u64; MAX_CPUS / 64]) -> Self {
        Self(words)
    }
}

/// Operations on CPUs.
pub trait Cpu: Sync {
    /// How many CPUs the machine has, this one included; at most [`MAX_CPUS`].
    fn count(&self) -> usize;
    /// Starts `cpu` (1..count): it sets up its per-CPU block, descriptor tables and clock event and calls
    /// `entry(cpu)` on the stack that ends at `stack_top`, interrupts disabled. Returns when it runs.
    fn start(&self, cpu: usize, stack_top: VirtAddr, entry: fn(usize) -> !) -> Result<()>;
    /// Makes `cpu` call [`crate::Kernel::reschedule`] (and leave [`Cpu::idle`]).
    fn send_reschedule(&self, cpu: usize);
    /// Stops all other CPUs for good: for a panic and for power-off.
    fn stop_others(&self);
    /// Enables interrupts and waits for one, atomically; returns with interrupts enabled. Called with
    /// interrupts disabled.
    fn idle(&self);
    /// Tells the stack to use when the application is left (Xen PV; the others take it from the context).
    fn set_kernel_stack(&self, _top: VirtAddr) {}
    /// `AT_HWCAP` (CPUID 1 EDX) and `AT_HWCAP2` for the application.
    fn hwcap(&self) -> (u64, u64);
    /// Vendor, brand and feature flags as `/proc/cpuinfo` names them.
    fn describe(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;
}
