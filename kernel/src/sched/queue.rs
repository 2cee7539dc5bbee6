//! A run queue: threads ordered by virtual runtime, the smallest first.

use alloc::collections::BinaryHeap;
use core::cmp::{Ordering as Order, Reverse};
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::thread::Thread;

/// A thread in a queue. Alive: a thread keeps itself alive until it has exited, and one that is queued has not.
#[derive(Clone, Copy)]
pub(super) struct ThreadRef(NonNull<Thread>);

// SAFETY: `Thread` is Sync, and alive as said above.
unsafe impl Send for ThreadRef {}

impl ThreadRef {
    pub(super) fn new(thread: &Thread) -> Self {
        Self(NonNull::from(thread))
    }

    pub(super) fn get(&self) -> &'static Thread {
        // SAFETY: alive as said above.
        unsafe { self.0.as_ref() }
    }
}

struct Entry {
    vruntime: u64,
    sequence: u64,
    thread: ThreadRef,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Order {
        (self.vruntime, self.sequence).cmp(&(other.vruntime, other.sequence))
    }
}

/// The threads of one CPU that want to run.
pub(super) struct RunQueue {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    /// No queued or running thread is below this; it only grows. Threads carry their runtime relative to it.
    floor: u64,
}

/// A thread that slept may be this far ahead of the others when it wakes, ns: it runs soon, without
/// starving them.
const SLEEPER_CREDIT: u64 = 3_000_000;

impl RunQueue {
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0, floor: SLEEPER_CREDIT }
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Adds a thread. `vruntime` is absolute here; a woken or new thread gets a place by its own.
    pub(super) fn push(&mut self, thread: ThreadRef, slept: bool) {
        let t = thread.get();
        let mut vruntime = t.vruntime.load(Ordering::Relaxed);
        if slept {
            vruntime = vruntime.clamp(self.floor - SLEEPER_CREDIT, self.floor + SLEEPER_CREDIT);
            t.vruntime.store(vruntime, Ordering::Relaxed);
        }
        self.sequence += 1;
        self.heap.push(Reverse(Entry { vruntime, sequence: self.sequence, thread }));
    }

    /// The virtual runtime of the first in line.
    pub(super) fn first_vruntime(&self) -> Option<u64> {
        self.heap.peek().map(|entry| entry.0.vruntime)
    }

    /// Takes the first in line.
    pub(super) fn pop(&mut self) -> Option<ThreadRef> {
        let Reverse(entry) = self.heap.pop()?;
        self.floor = self.floor.max(entry.vruntime);
        Some(entry.thread)
    }

    /// Takes a thread that may run on `cpu` and whose stack is free, for another CPU.
    pub(super) fn steal(&mut self, cpu: usize) -> Option<ThreadRef> {
        let fits = |entry: &Entry| {
            let thread = entry.thread.get();
            !thread.on_cpu.load(Ordering::Acquire) && thread.may_run_on(cpu)
        };
        let wanted = self.heap.iter().find(|entry| fits(&entry.0)).map(|entry| entry.0.sequence)?;
        let mut stolen = None;
        self.heap.retain(|entry| {
            if entry.0.sequence == wanted {
                stolen = Some(entry.0.thread);
                return false;
            }
            true
        });
        if let Some(thread) = stolen {
            // Relative to this queue's floor, for `adopt` on the other side.
            let t = thread.get();
            t.vruntime.store(
                t.vruntime.load(Ordering::Relaxed).saturating_sub(self.floor - SLEEPER_CREDIT),
                Ordering::Relaxed,
            );
        }
        stolen
    }

    /// Translates the runtime of a thread stolen from another queue to this one.
    pub(super) fn adopt(&mut self, thread: ThreadRef) {
        let t = thread.get();
        let relative = t.vruntime.load(Ordering::Relaxed).min(2 * SLEEPER_CREDIT);
        t.vruntime.store(self.floor - SLEEPER_CREDIT + relative, Ordering::Relaxed);
    }
}
