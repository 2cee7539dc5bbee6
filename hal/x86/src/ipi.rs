//! Signals between CPUs: TLB flushes that wait for their answer.
//!
//! Each CPU has a queue of flushes that others ask for, and two counters: asked and done. Who asks waits until the
//! other's `done` has passed his number, and answers his own queue meanwhile, so that two CPUs that ask each other, even
//! with interrupts disabled, both go on.
//!
//! A CPU that is halted in the idle loop is left alone when only leaf entries of the application's half changed: it uses
//! none of them before it leaves the loop, and answers its queue then. (Freed tables are another matter: a CPU
//! may walk them by speculation. Those come as `Flush::Space`, and wake it.)

use core::sync::atomic::{AtomicU64, Ordering};

use hal_core::cpu::CpuSet;
use hal_core::mmu::Flush;
use hal_core::percpu;
use spin::Mutex;

use crate::local::CpuLocal;
use crate::{apic, arch, interrupts, paging};

/// More requests than this become one flush of everything.
const QUEUE: usize = 4;

struct Queue {
    requests: [Flush; QUEUE],
    count: usize,
    asked: u64,
}

/// Flushes that a CPU is asked for.
pub struct FlushQueue {
    queue: Mutex<Queue>,
    done: AtomicU64,
    asked: AtomicU64,
    /// The last request that somebody waits for. Later ones may wait for a halted CPU to leave its idle loop.
    urgent: AtomicU64,
}

impl FlushQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            queue: Mutex::new(Queue { requests: [Flush::All; QUEUE], count: 0, asked: 0 }),
            done: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            urgent: AtomicU64::new(0),
        }
    }

    /// Adds a request; returns its number. Interrupts are disabled.
    fn push(&self, what: Flush) -> u64 {
        let mut queue = self.queue.lock();
        let index = queue.count;
        if index < QUEUE {
            queue.requests[index] = what;
        }
        queue.count = index + 1;
        queue.asked += 1;
        self.asked.store(queue.asked, Ordering::SeqCst);
        queue.asked
    }

    /// Does what is asked. On the queue's own CPU, interrupts disabled.
    fn answer(&self) {
        let (requests, count, number) = {
            let mut queue = self.queue.lock();
            let count = core::mem::take(&mut queue.count);
            (queue.requests, count, queue.asked)
        };
        if count > QUEUE {
            paging::flush_local(Flush::All);
        } else {
            requests[..count].iter().for_each(|&what| paging::flush_local(what));
        }
        self.done.store(number, Ordering::Release);
    }

    fn is_waiting(&self) -> bool {
        self.done.load(Ordering::Acquire) != self.asked.load(Ordering::SeqCst)
    }
}

impl Default for FlushQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// Answers this CPU's queue: the interrupt's handler.
pub fn answer() {
    CpuLocal::this().flush.answer();
}

fn without_interrupts<T>(body: impl FnOnce() -> T) -> T {
    let enabled = arch::interrupts_enabled();
    arch::cli();
    let result = body();
    if enabled {
        // SAFETY: they were enabled on entry.
        unsafe { arch::sti() };
    }
    result
}

/// Flushes on these CPUs and waits until they have done it.
pub fn flush_cpus(cpus: &CpuSet, what: Flush) {
    let this = percpu::cpu_id();
    let may_wait = matches!(what, Flush::Range(start, _) if start.0 >> 63 == 0);
    let mut wait_for = CpuSet::EMPTY;
    for cpu in cpus.iter().filter(|&cpu| cpu != this) {
        let Some(other) = running(cpu) else { continue };
        let number = without_interrupts(|| other.flush.push(what));
        // Ordered against `leave_idle`: it says that it is awake and then looks at its queue.
        if may_wait && other.idle.load(Ordering::SeqCst) != 0 {
            continue;
        }
        other.flush.urgent.fetch_max(number, Ordering::SeqCst);
        apic::send(other.apic_id(), interrupts::FLUSH);
        wait_for.insert(cpu);
    }
    if cpus.contains(this) {
        paging::flush_local(what);
    }
    for cpu in wait_for.iter() {
        let Some(other) = running(cpu) else { continue };
        // Ours, or a later one that was signalled, too.
        let number = other.flush.urgent.load(Ordering::Acquire);
        while other.flush.done.load(Ordering::Acquire) < number {
            if CpuLocal::this().flush.is_waiting() {
                without_interrupts(answer);
            }
            core::hint::spin_loop();
        }
    }
}

/// Says that this CPU touches nothing of the application's until [`leave_idle`].
#[inline]
pub fn enter_idle() {
    CpuLocal::this().idle.store(1, Ordering::SeqCst);
}

/// Ends what [`enter_idle`] began: does the flushes that came meanwhile.
#[inline]
pub fn leave_idle() {
    let local = CpuLocal::this();
    local.idle.store(0, Ordering::SeqCst);
    if local.flush.is_waiting() {
        without_interrupts(answer);
    }
}

fn running(cpu: usize) -> Option<&'static CpuLocal> {
    CpuLocal::of(cpu).filter(|local| local.running.load(Ordering::Acquire) != 0)
}
