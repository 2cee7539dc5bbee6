//! What a thread is.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use base::{Errno, Result, SpinLock};
use hal_core::UserContext;
use hal_core::cpu::{self as hal, CpuSet};

use super::wait::Waiter;
use crate::mm::AddressSpace;
use crate::mm::stack::KernelStack;
use crate::process::{Process, ThreadExt};

/// On a CPU, in no run queue.
pub(super) const RUNNING: u32 = 0;
/// In a run queue; perhaps still on its CPU, if it was woken before it had left.
pub(super) const RUNNABLE: u32 = 1;
/// Waits to be woken.
pub(super) const BLOCKED: u32 = 2;
/// Gone for good.
pub(super) const DEAD: u32 = 3;

/// The CPUs that a thread may run on.
pub type Affinity = CpuSet;

/// First function of a thread, on its own stack, interrupts enabled.
pub type Entry = fn() -> !;

enum Start {
    User(Entry),
    Kernel(Box<dyn FnOnce() + Send>),
}

/// FPU state in memory, 64-byte aligned, as long as the CPU's features need.
struct FpuArea(NonNull<u8>);

impl FpuArea {
    fn layout() -> Layout {
        Layout::from_size_align(hal::fpu_size().max(512), 64).expect("an FPU area is a few KiB")
    }

    fn new() -> Result<Self> {
        // SAFETY: the size is not zero.
        let area = NonNull::new(unsafe { alloc_zeroed(Self::layout()) }).ok_or(Errno::ENOMEM)?;
        // SAFETY: aligned and long enough by the layout.
        unsafe { hal::fpu_init(area.as_ptr()) };
        Ok(Self(area))
    }
}

impl Drop for FpuArea {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`.
        unsafe { dealloc(self.0.as_ptr(), Self::layout()) };
    }
}

/// [`Thread::counted_to`] of a thread that does not run, or whose CPU idles on its stack.
pub(super) const OFF_CPU: u64 = 0;
/// [`Thread::counted_to`] while its times are written.
const COUNTING: u64 = u64::MAX;

/// A thread, of a process or of the kernel.
pub struct Thread {
    /// Thread id; 0 for kernel threads.
    pub tid: u32,
    /// What signals, futexes and the like keep per thread.
    pub ext: ThreadExt,
    name: SpinLock<[u8; 16]>,
    process: Option<Arc<Process>>,
    this: Weak<Thread>,

    pub(super) state: AtomicU32,
    /// Its stack is in use; nobody else may switch to it.
    pub(super) on_cpu: AtomicBool,
    /// CPU on which it runs, ran last, or in whose queue it is.
    pub(super) cpu: AtomicU32,
    /// Sum of weighted run time in ns, relative to its queue's floor; changed by its CPU only.
    pub(super) vruntime: AtomicU64,
    nice: AtomicI32,
    affinity: [AtomicU64; hal::MAX_CPUS / 64],
    /// Run time in ns, in the application and in the kernel (attributed at interrupts and switches).
    pub(super) user_ns: AtomicU64,
    pub(super) system_ns: AtomicU64,
    /// Up to when these count while it runs, ns; [`OFF_CPU`] or [`COUNTING`].
    pub(super) counted_to: AtomicU64,
    /// Switches by its own will and by preemption.
    pub(super) voluntary: AtomicU64,
    pub(super) involuntary: AtomicU64,
    interrupted: AtomicBool,
    /// A permit for `park`.
    pub(super) permit: AtomicBool,
    pub(super) waiter: Arc<Waiter>,

    pub(super) stack_pointer: UnsafeCell<u64>,
    _stack: Option<KernelStack>,
    start: SpinLock<Option<Start>>,
    user: UnsafeCell<UserContext>,
    fpu: Option<FpuArea>,
    /// CPU on which its FPU state was loaded last.
    fpu_cpu: AtomicU32,
    fs_base: AtomicU64,
    space: UnsafeCell<Option<Arc<AddressSpace>>>,
}

// SAFETY: the cells are only touched by the thread itself while it runs, or by the switch that saves or
// loads it, which `on_cpu` serialises; everything else is atomic or locked.
unsafe impl Sync for Thread {}
// SAFETY: as above.
unsafe impl Send for Thread {}

impl Thread {
    fn build(
        tid: u32,
        process: Option<Arc<Process>>,
        ext: ThreadExt,
        stack: Option<KernelStack>,
        start: Option<Start>,
        fpu: Option<FpuArea>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Thread>| Self {
            tid,
            ext,
            name: SpinLock::new([0; 16]),
            process,
            this: this.clone(),
            state: AtomicU32::new(BLOCKED),
            on_cpu: AtomicBool::new(false),
            cpu: AtomicU32::new(hal_core::percpu::cpu_id() as u32),
            vruntime: AtomicU64::new(0),
            nice: AtomicI32::new(0),
            affinity: [const { AtomicU64::new(u64::MAX) }; hal::MAX_CPUS / 64],
            user_ns: AtomicU64::new(0),
            system_ns: AtomicU64::new(0),
            counted_to: AtomicU64::new(OFF_CPU),
            voluntary: AtomicU64::new(0),
            involuntary: AtomicU64::new(0),
            interrupted: AtomicBool::new(false),
            permit: AtomicBool::new(false),
            waiter: Waiter::new(this.clone()),
            stack_pointer: UnsafeCell::new(0),
            _stack: stack,
            start: SpinLock::new(start),
            user: UnsafeCell::new(UserContext::default()),
            fpu,
            fpu_cpu: AtomicU32::new(u32::MAX),
            fs_base: AtomicU64::new(0),
            space: UnsafeCell::new(None),
        })
    }

    fn with_stack(
        tid: u32,
        process: Option<Arc<Process>>,
        ext: ThreadExt,
        start: Start,
        fpu: Option<FpuArea>,
    ) -> Result<Arc<Self>> {
        let stack = KernelStack::new()?;
        let top = stack.top();
        let thread = Self::build(tid, process, ext, Some(stack), Some(start), fpu);
        // SAFETY: the stack is new, mapped and ours; `thread_main` never returns. Nobody else has the thread yet.
        unsafe { *thread.stack_pointer.get() = hal::prepare_stack(top.0, super::run::thread_main, 0) };
        Ok(thread)
    }

    /// A thread of a process, not started. It begins in `entry` on its kernel stack, with the application's
    /// registers `context`, a fresh FPU, and `space` loaded.
    pub fn new_user(
        tid: u32,
        process: Arc<Process>,
        space: Arc<AddressSpace>,
        context: &UserContext,
        fs_base: u64,
        ext: ThreadExt,
        entry: Entry,
    ) -> Result<Arc<Self>> {
        let thread = Self::with_stack(tid, Some(process), ext, Start::User(entry), Some(FpuArea::new()?))?;
        // SAFETY: nobody else has the thread yet.
        unsafe {
            *thread.user.get() = *context;
            *thread.space.get() = Some(space);
        }
        thread.fs_base.store(fs_base, Ordering::Relaxed);
        Ok(thread)
    }

    pub(super) fn new_kernel(name: &'static str, body: Box<dyn FnOnce() + Send>) -> Result<Arc<Self>> {
        let thread = Self::with_stack(0, None, ThreadExt::default(), Start::Kernel(body), None)?;
        thread.set_name(name.as_bytes());
        Ok(thread)
    }

    /// A thread for a stack that is running already (boot, secondary CPUs).
    pub(super) fn adopt(name: &'static str) -> Arc<Self> {
        let thread = Self::build(0, None, ThreadExt::default(), None, None, None);
        thread.set_name(name.as_bytes());
        thread
    }

    /// Runs what the thread was made for; called once, on its own stack.
    pub(super) fn run_start(&self) -> ! {
        let start = self.start.lock().take();
        match start {
            Some(Start::User(entry)) => entry(),
            Some(Start::Kernel(body)) => body(),
            None => {}
        }
        super::exit_current()
    }

    /// A counted handle.
    pub fn arc(&self) -> Arc<Thread> {
        self.this.upgrade().expect("a thread that is borrowed is alive")
    }

    /// The process, if it is not a kernel thread.
    #[inline]
    pub fn process(&self) -> Option<&Arc<Process>> {
        self.process.as_ref()
    }

    /// The address space loaded for this thread. Only for the running thread itself.
    #[inline]
    pub fn space(&self) -> Option<&Arc<AddressSpace>> {
        debug_assert!(core::ptr::eq(self, super::current()));
        // SAFETY: only the thread itself changes it (`set_space`), and it is the caller.
        unsafe { (*self.space.get()).as_ref() }
    }

    /// Gives the running thread another address space (exec) or none (exit), and loads it.
    pub fn set_space(&self, space: Option<Arc<AddressSpace>>) {
        assert!(core::ptr::eq(self, super::current()), "only the thread itself changes its space");
        super::cpu::activate(space.as_ref());
        // SAFETY: the caller is the thread; the scheduler reads it only while switching this thread.
        drop(unsafe { core::mem::replace(&mut *self.space.get(), space) });
    }

    pub(super) fn space_for_switch(&self) -> Option<&Arc<AddressSpace>> {
        // SAFETY: called by the CPU that is about to run the thread (`on_cpu` is ours): nobody changes it.
        unsafe { (*self.space.get()).as_ref() }
    }

    /// The application's registers. Valid while the thread is the running one, or not started yet;
    /// the caller must not hold two of these at a time.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub fn context(&self) -> &mut UserContext {
        // SAFETY: the thread's own code is the only user (contract above); it is never shared.
        unsafe { &mut *self.user.get() }
    }

    /// Copies the CPU's FPU state (of the running thread) to this thread, which is not started: for clone.
    pub fn clone_fpu_from_current(&self) {
        if let Some(area) = &self.fpu {
            // SAFETY: the area is long enough and nobody uses it yet.
            unsafe { hal::fpu_save(area.0.as_ptr()) };
        }
    }

    /// Gives the running thread the FPU state of a fresh program.
    pub fn reset_fpu(&self) {
        if let Some(area) = &self.fpu {
            // SAFETY: the area is this thread's and the state written is a valid one.
            unsafe {
                hal::fpu_init(area.0.as_ptr());
                hal::fpu_restore(area.0.as_ptr());
            }
        }
    }

    /// Calls `f` with the running thread's FPU state in memory (`hal_core::cpu::fpu_size` bytes) and loads what
    /// `f` left there: for signal frames. `f` must leave a state that the CPU accepts (header checked).
    pub fn with_fpu<R>(&self, f: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let area = self.fpu.as_ref()?;
        // SAFETY: the area is this running thread's own, `fpu_size` long, and `f` keeps it loadable.
        unsafe {
            hal::fpu_save(area.0.as_ptr());
            let result = f(core::slice::from_raw_parts_mut(area.0.as_ptr(), hal::fpu_size()));
            hal::fpu_restore(area.0.as_ptr());
            Some(result)
        }
    }

    pub(super) fn save_user_state(&self) {
        if let Some(area) = &self.fpu {
            // SAFETY: called in the switch away from this thread: the CPU's FPU state is its own.
            unsafe { hal::fpu_save(area.0.as_ptr()) };
            self.fs_base.store(hal::fs_base(), Ordering::Relaxed);
        }
    }

    pub(super) fn load_user_state(&self, fpu_is_loaded: bool) {
        if let Some(area) = &self.fpu {
            if !fpu_is_loaded {
                // SAFETY: saved by `save_user_state`, or initialised.
                unsafe { hal::fpu_restore(area.0.as_ptr()) };
            }
            hal::set_fs_base(self.fs_base.load(Ordering::Relaxed));
        }
    }

    pub(super) fn fpu_cpu(&self) -> usize {
        self.fpu_cpu.load(Ordering::Relaxed) as usize
    }

    pub(super) fn set_fpu_cpu(&self, cpu: usize) {
        self.fpu_cpu.store(cpu as u32, Ordering::Relaxed);
    }

    pub(super) fn has_user_state(&self) -> bool {
        self.fpu.is_some()
    }

    /// The name, as `PR_GET_NAME` gives it: at most 15 bytes and a zero.
    pub fn name(&self) -> [u8; 16] {
        *self.name.lock()
    }

    /// Sets the name; cut to 15 bytes.
    pub fn set_name(&self, name: &[u8]) {
        let mut bytes = [0; 16];
        let n = name.iter().take(15).position(|&b| b == 0).unwrap_or(name.len().min(15));
        bytes[..n].copy_from_slice(&name[..n]);
        *self.name.lock() = bytes;
    }

    /// True if a signal (or the process's end) waits for this thread.
    #[inline]
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Tells the thread that a signal waits: ends its interruptible sleep, or makes it leave the application.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
        self.waiter.signal();
        super::run::kick_if_running(self);
    }

    /// Nothing waits any more; the signal code checks again after clearing.
    pub fn clear_interrupt(&self) {
        self.interrupted.store(false, Ordering::SeqCst);
    }

    /// Nanoseconds run in the application and in the kernel.
    ///
    /// While it runs on another CPU, the time since that CPU's last interrupt or switch, which may be long ago, counts as the
    /// application's.
    pub fn cpu_times(&self) -> (u64, u64) {
        if core::ptr::eq(self, super::current()) {
            super::cpu::account_now();
        }
        loop {
            let to = self.counted_to.load(Ordering::Acquire);
            let (user, system) = (self.user_ns.load(Ordering::Relaxed), self.system_ns.load(Ordering::Relaxed));
            core::sync::atomic::fence(Ordering::Acquire);
            if to == COUNTING || to != self.counted_to.load(Ordering::Relaxed) {
                core::hint::spin_loop();
                continue;
            }
            let live = if to == OFF_CPU { 0 } else { base::time::now_ns().saturating_sub(to) };
            return if self.has_user_state() { (user + live, system) } else { (user, system + live) };
        }
    }

    /// Adds `ns` to its times, which count up to `now` then; by its CPU alone, interrupts off.
    pub(super) fn count(&self, ns: u64, now: u64, user: bool) {
        self.counted_to.store(COUNTING, Ordering::Relaxed);
        (if user { &self.user_ns } else { &self.system_ns }).fetch_add(ns, Ordering::AcqRel);
        self.counted_to.store(now, Ordering::Release);
    }

    /// Voluntary and involuntary switches.
    pub fn switches(&self) -> (u64, u64) {
        (self.voluntary.load(Ordering::Relaxed), self.involuntary.load(Ordering::Relaxed))
    }

    /// Nice value, -20..=19.
    pub fn nice(&self) -> i32 {
        self.nice.load(Ordering::Relaxed)
    }

    /// Sets the nice value; cut to -20..=19.
    pub fn set_nice(&self, nice: i32) {
        self.nice.store(nice.clamp(-20, 19), Ordering::Relaxed);
    }

    /// CPU on which it runs or ran last.
    pub fn last_cpu(&self) -> usize {
        self.cpu.load(Ordering::Relaxed) as usize
    }

    /// One letter as in `/proc/PID/stat`: R, S or Z.
    pub fn state_letter(&self) -> char {
        match self.state.load(Ordering::Relaxed) {
            RUNNING | RUNNABLE => 'R',
            BLOCKED => 'S',
            _ => 'Z',
        }
    }

    /// The CPUs that it may run on.
    pub fn affinity(&self) -> Affinity {
        Affinity::from_words(core::array::from_fn(|i| self.affinity[i].load(Ordering::Relaxed)))
    }

    /// Restricts it to these CPUs; takes effect when it is next queued.
    pub fn set_affinity(&self, set: Affinity) {
        for (slot, word) in self.affinity.iter().zip(set.words()) {
            slot.store(*word, Ordering::Relaxed);
        }
    }

    pub(super) fn may_run_on(&self, cpu: usize) -> bool {
        self.affinity[cpu / 64].load(Ordering::Relaxed) & (1 << (cpu % 64)) != 0
    }

    /// The object by which it sleeps; `signal` ends a sleep. For futexes.
    pub fn waiter(&self) -> &Arc<Waiter> {
        &self.waiter
    }
}
