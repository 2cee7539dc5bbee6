//! What the scheduler keeps per CPU.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use base::sync::IrqSpinLock;
use base::{Once, Result, SpinLock};
use hal_core::cpu::MAX_CPUS;

use super::queue::{RunQueue, ThreadRef};
use super::thread::Thread;
use super::timer::TimerQueue;
use super::work::{self, WorkId};
use crate::mm::AddressSpace;

/// `attention` bits of `hal_core::percpu::PerCpu`.
pub(super) const RESCHEDULE: u32 = 1;
pub(super) const WORK: u32 = 2;
pub(super) const SIGNAL: u32 = 4;

/// True once the boot CPU can schedule.
pub(super) static READY: AtomicBool = AtomicBool::new(false);

/// One CPU. Aligned so that two CPUs share no cache line.
#[repr(align(128))]
pub(super) struct CpuLocal {
    pub(super) queue: IrqSpinLock<RunQueue>,
    /// Length of `queue`, readable without its lock.
    pub(super) queued: AtomicUsize,
    /// Halted or about to: wants an IPI to notice a new thread.
    pub(super) idle: AtomicBool,
    /// Spins in the idle loop: notices by itself.
    pub(super) polling: AtomicBool,
    pub(super) online: AtomicBool,
    pub(super) pending_work: AtomicU32,
    pub(super) in_work: AtomicBool,
    pub(super) timers: SpinLock<TimerQueue>,
    /// When the clock event fires that is armed now; `u64::MAX` if none.
    pub(super) armed: AtomicU64,
    /// End of the running thread's slice, ns; `u64::MAX` if nothing else wants to run.
    pub(super) slice_end: AtomicU64,
    /// Until when the running thread's time is accounted, ns.
    pub(super) accounted: AtomicU64,
    pub(super) idle_ns: AtomicU64,
    pub(super) user_ns: AtomicU64,
    pub(super) system_ns: AtomicU64,
    pub(super) switches: AtomicU64,
    /// What lost its last user with interrupts off, to be freed as deferred work.
    reap: SpinLock<Vec<Reap>>,
    local: UnsafeCell<Local>,
}

/// Something whose last reference may go away in the middle of a switch; freeing it takes long, or waits for
/// other CPUs.
pub(super) enum Reap {
    Thread(#[expect(dead_code, reason = "held to be dropped")] Arc<Thread>),
    Space(#[expect(dead_code, reason = "held to be dropped")] Arc<AddressSpace>),
}

static REAP: Once<WorkId> = Once::new();

/// Drops `what` as deferred work on this CPU.
pub(super) fn reap_later(what: Reap) {
    this().reap.lock().push(what);
    work::raise(*REAP.call_once(|| work::register(reap)));
}

fn reap(_cpu: usize) {
    let list = core::mem::take(&mut *this().reap.lock());
    drop(list);
}

/// Touched by the CPU itself only, with interrupts disabled or in thread context between switches.
pub(super) struct Local {
    pub(super) idle_thread: Option<Arc<Thread>>,
    /// The thread that this CPU just switched away from.
    pub(super) previous: Option<ThreadRef>,
    /// Whose FPU state is in the registers.
    pub(super) fpu_owner: *const Thread,
    /// The loaded address space, kept alive.
    active: Option<Arc<AddressSpace>>,
}

// SAFETY: `local` is used by its own CPU only (see `local()`); the rest is atomic or locked.
unsafe impl Sync for CpuLocal {}

impl CpuLocal {
    const fn new() -> Self {
        Self {
            queue: IrqSpinLock::new(RunQueue::new()),
            queued: AtomicUsize::new(0),
            idle: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            online: AtomicBool::new(false),
            pending_work: AtomicU32::new(0),
            in_work: AtomicBool::new(false),
            timers: SpinLock::new(TimerQueue::new()),
            armed: AtomicU64::new(u64::MAX),
            slice_end: AtomicU64::new(u64::MAX),
            accounted: AtomicU64::new(0),
            idle_ns: AtomicU64::new(0),
            user_ns: AtomicU64::new(0),
            system_ns: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            reap: SpinLock::new(Vec::new()),
            local: UnsafeCell::new(Local {
                idle_thread: None,
                previous: None,
                fpu_owner: core::ptr::null(),
                active: None,
            }),
        }
    }

    /// The CPU's private part.
    ///
    /// # Safety
    /// Called on this CPU; the reference ends before the caller may switch, and no second one is held.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn local(&self) -> &mut Local {
        // SAFETY: by the caller.
        unsafe { &mut *self.local.get() }
    }
}

static CPUS: [CpuLocal; MAX_CPUS] = [const { CpuLocal::new() }; MAX_CPUS];
static ONLINE: AtomicUsize = AtomicUsize::new(0);

/// This CPU. Stable until the caller blocks.
#[inline]
pub(super) fn this() -> &'static CpuLocal {
    &CPUS[hal_core::percpu::cpu_id()]
}

/// CPU `number`.
#[inline]
pub(super) fn get(number: usize) -> &'static CpuLocal {
    &CPUS[number]
}

/// Every CPU that runs threads, with its number.
pub(super) fn all() -> impl Iterator<Item = (usize, &'static CpuLocal)> {
    CPUS[..online_bound()].iter().enumerate().filter(|(_, cpu)| cpu.online.load(Ordering::Relaxed))
}

fn online_bound() -> usize {
    ONLINE.load(Ordering::Acquire)
}

/// How many CPUs run threads.
pub fn online() -> usize {
    online_bound().max(1)
}

pub(super) fn set_online(number: usize) {
    CPUS[number].accounted.store(base::time::now_ns(), Ordering::Relaxed);
    CPUS[number].online.store(true, Ordering::Release);
    ONLINE.fetch_max(number + 1, Ordering::AcqRel);
}

/// Prepares CPU `number`: its idle thread.
pub(super) fn init(number: usize) -> Result<()> {
    let idle = super::run::new_idle_thread(number)?;
    // SAFETY: CPU 0 at boot, or a CPU that does not run yet: nobody else uses its private part.
    unsafe { CPUS[number].local().idle_thread = Some(idle) };
    Ok(())
}

/// Loads an address space on this CPU (`None`: the kernel's own tables) and keeps it alive while loaded.
pub(super) fn activate(space: Option<&Arc<AddressSpace>>) {
    let enabled = hal_core::cpu::irq_save();
    let old = {
        // SAFETY: interrupts are off, so we stay on this CPU and the reference ends below.
        let local = unsafe { this().local() };
        match (space, &local.active) {
            (Some(new), Some(old)) if Arc::ptr_eq(new, old) => None,
            (None, None) => None,
            _ => {
                match space {
                    Some(new) => new.activate(),
                    None => AddressSpace::activate_kernel(),
                }
                core::mem::replace(&mut local.active, space.cloned())
            }
        }
    };
    hal_core::cpu::irq_restore(enabled);
    match old {
        Some(old) if !enabled => reap_later(Reap::Space(old)),
        old => drop(old),
    }
}

/// In the interrupt that the running application was left by: its time so far was its own.
pub fn account_user() {
    let thread = super::current();
    let delta = account(this(), thread, base::time::now_ns(), true);
    thread
        .vruntime
        .store(thread.vruntime.load(Ordering::Relaxed) + super::run::weighted(delta, thread.nice()), Ordering::Relaxed);
}

/// Attributes the running thread's time since the last call; `user` if the application was interrupted.
pub(super) fn account(cpu: &CpuLocal, thread: &Thread, now: u64, user: bool) -> u64 {
    let delta = now.saturating_sub(cpu.accounted.swap(now, Ordering::Relaxed));
    let total = if user { &cpu.user_ns } else { &cpu.system_ns };
    thread.count(delta, now, user);
    total.store(total.load(Ordering::Relaxed) + delta, Ordering::Relaxed);
    delta
}

/// Brings the running thread's accounting up to date, counting the time as the application's: that is
/// where most of it went since the last interrupt or switch.
pub(super) fn account_now() {
    let enabled = hal_core::cpu::irq_save();
    let thread = super::current();
    let delta = account(this(), thread, base::time::now_ns(), thread.has_user_state());
    thread
        .vruntime
        .store(thread.vruntime.load(Ordering::Relaxed) + super::run::weighted(delta, thread.nice()), Ordering::Relaxed);
    hal_core::cpu::irq_restore(enabled);
}

/// Times of one CPU since boot, for `/proc/stat`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuStats {
    /// In applications, ns.
    pub user_ns: u64,
    /// In the kernel, ns.
    pub system_ns: u64,
    /// Idle, ns.
    pub idle_ns: u64,
    /// Thread switches.
    pub switches: u64,
    /// Threads waiting to run now.
    pub queued: usize,
}

/// Statistics of CPU `number`, which is below [`online`].
pub fn cpu_stats(number: usize) -> CpuStats {
    let cpu = get(number);
    CpuStats {
        user_ns: cpu.user_ns.load(Ordering::Relaxed),
        system_ns: cpu.system_ns.load(Ordering::Relaxed),
        idle_ns: cpu.idle_ns.load(Ordering::Relaxed),
        switches: cpu.switches.load(Ordering::Relaxed),
        queued: cpu.queued.load(Ordering::Relaxed) + usize::from(!cpu.idle.load(Ordering::Relaxed)),
    }
}

/// Threads that run or want to, now; the load average of `/proc/loadavg` without its decay.
pub fn load_average() -> usize {
    (0..online()).map(|n| cpu_stats(n).queued).sum()
}
