//! Timers: a callback at a point of monotonic time.
//!
//! Each CPU has a heap of its own. Setting a timer later than the armed clock event touches no
//! hardware, and cancelling never does: the event fires, finds nothing due, and is armed for the next.

use alloc::collections::BinaryHeap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use base::Once;
use base::time::now_ns;

use super::cpu::{self, CpuLocal};
use super::work::{self, WorkId};

/// What runs when a timer is due, as deferred work: it must not sleep.
pub type Callback = Arc<dyn Fn() + Send + Sync>;

struct Inner {
    /// Number of the arming that counts; 0 if the timer is not set.
    armed: AtomicU64,
    next: AtomicU64,
    cpu: AtomicU32,
    callback: Callback,
}

/// A timer. Dropping it cancels it.
pub struct Timer(Arc<Inner>);

struct Entry {
    deadline: u64,
    arming: u64,
    timer: Arc<Inner>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.deadline == other.deadline
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.deadline.cmp(&other.deadline)
    }
}

/// The timers of one CPU.
pub(super) struct TimerQueue {
    heap: BinaryHeap<Reverse<Entry>>,
    /// Entries of timers that were cancelled or set anew since.
    stale: usize,
}

impl TimerQueue {
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), stale: 0 }
    }

    fn is_live(entry: &Entry) -> bool {
        entry.timer.armed.load(Ordering::Acquire) == entry.arming
    }

    fn push(&mut self, entry: Entry) {
        // Each entry is dropped once for each time it was pushed, so this is constant per timer set.
        if self.stale > 64 && self.stale > self.heap.len() / 2 {
            self.heap.retain(|entry| Self::is_live(&entry.0));
            self.stale = 0;
        }
        self.heap.push(Reverse(entry));
    }

    /// Drops stale entries at the front and returns the first live deadline.
    fn first(&mut self) -> Option<u64> {
        while let Some(Reverse(entry)) = self.heap.peek() {
            if Self::is_live(entry) {
                return Some(entry.deadline);
            }
            self.heap.pop();
            self.stale = self.stale.saturating_sub(1);
        }
        None
    }
}

impl Timer {
    /// A timer that is not set.
    pub fn new(callback: Callback) -> Self {
        Self(Arc::new(Inner { armed: AtomicU64::new(0), next: AtomicU64::new(0), cpu: AtomicU32::new(0), callback }))
    }

    /// Sets it to monotonic time `deadline_ns`, in place of what was set before.
    pub fn set(&self, deadline_ns: u64) {
        let arming = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        let replaced = self.0.armed.swap(arming, Ordering::AcqRel) != 0;
        // The kernel is not preempted, so this stays the CPU; interrupts do not touch timers.
        let cpu = cpu::this();
        let old_cpu = self.0.cpu.swap(hal_core::percpu::cpu_id() as u32, Ordering::Relaxed);
        if replaced {
            cpu::get(old_cpu as usize).timers.lock().stale += 1;
        }
        cpu.timers.lock().push(Entry { deadline: deadline_ns, arming, timer: self.0.clone() });
        arm(cpu, deadline_ns);
    }

    /// Unsets it; returns whether it was set. A callback that runs on another CPU now may still finish after this.
    pub fn cancel(&self) -> bool {
        let was_set = self.0.armed.swap(0, Ordering::AcqRel) != 0;
        if was_set {
            cpu::get(self.0.cpu.load(Ordering::Relaxed) as usize).timers.lock().stale += 1;
        }
        was_set
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

static EXPIRE: Once<WorkId> = Once::new();

pub(super) fn init() {
    EXPIRE.call_once(|| work::register(expire));
}

/// In the clock's interrupt: due timers become deferred work, an ended slice a reschedule.
pub(super) fn interrupt(cpu: &CpuLocal) {
    cpu.armed.store(u64::MAX, Ordering::Relaxed);
    if let Some(work) = EXPIRE.get() {
        work::raise(*work);
    }
    if now_ns() >= cpu.slice_end.load(Ordering::Relaxed) {
        cpu.slice_end.store(u64::MAX, Ordering::Relaxed);
        hal_core::percpu::this().attention.fetch_or(super::cpu::RESCHEDULE, Ordering::Relaxed);
    }
}

/// Deferred work: runs the callbacks that are due and arms the next event.
fn expire(_cpu: usize) {
    let cpu = cpu::this();
    let mut due: Vec<Callback> = Vec::new();
    loop {
        {
            let mut queue = cpu.timers.lock();
            let now = now_ns();
            while queue.first().is_some_and(|deadline| deadline <= now) {
                let Some(Reverse(entry)) = queue.heap.pop() else {
                    break;
                };
                let armed = &entry.timer.armed;
                if armed.compare_exchange(entry.arming, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    due.push(entry.timer.callback.clone());
                }
            }
        }
        if due.is_empty() {
            break;
        }
        for callback in due.drain(..) {
            callback();
        }
    }
    arm_next(cpu);
}

/// Arms the clock event for what is due first: a timer or the end of the slice.
pub(super) fn arm_next(cpu: &CpuLocal) {
    let first = cpu.timers.lock().first().unwrap_or(u64::MAX);
    let deadline = first.min(cpu.slice_end.load(Ordering::Relaxed));
    if deadline != u64::MAX {
        arm(cpu, deadline);
    }
}

/// Makes sure that the clock event of this CPU fires at `deadline` or earlier.
pub(super) fn arm(cpu: &CpuLocal, deadline: u64) {
    let enabled = hal_core::cpu::irq_save();
    if deadline < cpu.armed.load(Ordering::Relaxed) {
        cpu.armed.store(deadline, Ordering::Relaxed);
        hal_core::platform().clock().set_event(deadline);
    }
    hal_core::cpu::irq_restore(enabled);
}
