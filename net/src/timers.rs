//! Timers of connections, neighbours, DHCP and the like.
//!
//! Deadlines move all the time (every segment moves a retransmission timer) but rarely fire. So a heap entry
//! is a promise to look, not a deadline: moving a deadline back costs nothing, and when the entry fires its
//! target says when to look again. A target has at most one entry that counts: the one its slot names.

use alloc::collections::BinaryHeap;
use alloc::sync::{Arc, Weak};
use core::cmp::Ordering as Order;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use base::SpinLock;

use crate::env::Env;
use crate::stack::{Stack, Tx};

/// No deadline.
pub(crate) const NEVER: u64 = u64::MAX;

/// When the heap will look at a target next.
pub(crate) struct TimerSlot(AtomicU64);

impl TimerSlot {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(NEVER))
    }
}

/// Something with deadlines.
pub(crate) trait Timed: Send + Sync {
    fn slot(&self) -> &TimerSlot;
    /// Does what is due; returns when to look again ([`NEVER`]: not until asked).
    fn on_timer(self: Arc<Self>, stack: &Arc<Stack>, now: u64, tx: &mut Tx) -> u64;
}

struct Entry {
    at: u64,
    target: Weak<dyn Timed>,
}

impl Entry {
    /// Its target is there, and names this entry.
    fn counts(&self) -> bool {
        self.target.upgrade().is_some_and(|target| target.slot().0.load(Ordering::Relaxed) == self.at)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
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
        other.at.cmp(&self.at) // the heap's greatest is the earliest
    }
}

pub(crate) struct Timers {
    heap: SpinLock<BinaryHeap<Entry>>,
    next: AtomicU64,
    /// Entries that do not count, about: of targets that are gone, whose memory they keep, or replaced by an earlier one.
    stale: AtomicUsize,
}

/// Fewer stale entries than this are not worth looking for.
const FEW: usize = 64;

impl Timers {
    pub(crate) const fn new() -> Self {
        Self { heap: SpinLock::new(BinaryHeap::new()), next: AtomicU64::new(NEVER), stale: AtomicUsize::new(0) }
    }

    /// A target is dropped: its entry, perhaps minutes away (keep-alive), is to go before its time.
    pub(crate) fn forget(&self, slot: &TimerSlot) {
        if slot.0.load(Ordering::Relaxed) != NEVER {
            self.stale.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes sure that `target` is looked at no later than `at`.
    #[inline]
    pub(crate) fn set<T: Timed + 'static>(&self, env: &dyn Env, target: &Arc<T>, at: u64) {
        if at < target.slot().0.load(Ordering::Relaxed) {
            let target: Arc<dyn Timed> = target.clone();
            self.insert(env, &target, at);
        }
    }

    fn insert(&self, env: &dyn Env, target: &Arc<dyn Timed>, at: u64) {
        let mut heap = self.heap.lock();
        if at >= target.slot().0.load(Ordering::Relaxed) {
            return;
        }
        if target.slot().0.swap(at, Ordering::Relaxed) != NEVER {
            self.stale.fetch_add(1, Ordering::Relaxed);
        }
        // One look at all for at least half as many that go: constant per entry.
        let stale = self.stale.load(Ordering::Relaxed);
        if stale > FEW && stale > heap.len() / 2 {
            heap.retain(Entry::counts);
            self.stale.store(0, Ordering::Relaxed);
        }
        heap.push(Entry { at, target: Arc::downgrade(target) });
        if at < self.next.load(Ordering::Relaxed) {
            self.next.store(at, Ordering::Relaxed);
            env.set_timer(at);
        }
    }

    pub(crate) fn run(&self, stack: &Arc<Stack>, now: u64, tx: &mut Tx) {
        let env = stack.env();
        loop {
            let mut heap = self.heap.lock();
            let Some(first) = heap.peek() else {
                self.next.store(NEVER, Ordering::Relaxed);
                return;
            };
            if first.at > now {
                let at = first.at;
                self.next.store(at, Ordering::Relaxed);
                env.set_timer(at);
                return;
            }
            let Some(entry) = heap.pop() else { return };
            let Some(target) = entry.target.upgrade().filter(|t| t.slot().0.load(Ordering::Relaxed) == entry.at) else {
                // Not below zero: the count starts anew at each clearing.
                let _ = self.stale.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |stale| stale.checked_sub(1));
                continue;
            };
            target.slot().0.store(NEVER, Ordering::Relaxed);
            drop(heap);
            let again = target.clone().on_timer(stack, now, tx);
            if again != NEVER {
                self.insert(env, &target, again.max(now + 1));
            }
        }
    }

    /// When the next look is due; [`NEVER`] if nothing is.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still;

    impl Env for Still {
        fn now_ns(&self) -> u64 {
            0
        }
        fn random(&self) -> u64 {
            0
        }
        fn set_timer(&self, _at: u64) {}
    }

    struct Target(TimerSlot);

    impl Timed for Target {
        fn slot(&self) -> &TimerSlot {
            &self.0
        }
        fn on_timer(self: Arc<Self>, _stack: &Arc<Stack>, _now: u64, _tx: &mut Tx) -> u64 {
            NEVER
        }
    }

    #[test]
    fn targets_that_are_gone_do_not_pile_up() {
        let timers = Timers::new();
        let stays = Arc::new(Target(TimerSlot::new()));
        timers.set(&Still, &stays, 5);
        for at in 0..10_000 {
            let target = Arc::new(Target(TimerSlot::new()));
            timers.set(&Still, &target, 30_000 + at);
            timers.set(&Still, &target, 1000 + at);
            timers.forget(&target.0);
        }
        assert!(timers.heap.lock().len() <= 2 * FEW + 2, "{} entries", timers.heap.lock().len());
        assert!(timers.heap.lock().iter().any(|entry| entry.at == 5 && entry.target.strong_count() > 0));
    }
}
