//! Sleeping until something happened.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use base::time::now_ns;
use base::{Errno, Events, Observer, Result, Subject};

use super::run::block_unless;
use super::thread::Thread;
use super::timer::Timer;
use super::{current, wake};

/// By what a thread sleeps: a flag that stays set until the thread has seen it, so that no
/// notification between a check and the sleep is lost. Each thread has one, used for all its waits.
pub struct Waiter {
    thread: Weak<Thread>,
    signalled: AtomicBool,
    exclusive: AtomicBool,
    /// What the waker tells the sleeper: which of several things it was.
    note: AtomicU32,
    timer: Timer,
}

impl Waiter {
    pub(super) fn new(thread: Weak<Thread>) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Waiter>| {
            let this = this.clone();
            Self {
                thread,
                signalled: AtomicBool::new(false),
                exclusive: AtomicBool::new(false),
                note: AtomicU32::new(0),
                timer: Timer::new(Arc::new(move || {
                    if let Some(waiter) = this.upgrade() {
                        waiter.signal();
                    }
                })),
            }
        })
    }

    /// Forgets earlier signals; the caller checks its condition after this and then sleeps.
    #[inline]
    pub fn reset(&self) {
        self.signalled.store(false, Ordering::SeqCst);
    }

    /// The number that a waker left, for the sleeper to tell what woke it.
    pub fn note(&self) -> u32 {
        self.note.load(Ordering::Acquire)
    }

    /// Leaves a number for the sleeper, before `signal`; the sleeper sets 0 before it waits.
    pub fn set_note(&self, note: u32) {
        self.note.store(note, Ordering::Release);
    }

    /// Ends the sleep, or the next one.
    pub fn signal(&self) {
        if !self.signalled.swap(true, Ordering::SeqCst)
            && let Some(thread) = self.thread.upgrade()
        {
            wake(&thread);
        }
    }

    /// Sleeps until signalled or until `deadline_ns` (monotonic). Only for the waiter's own thread.
    /// Returns false if the deadline passed without a signal of another kind being seen.
    pub fn sleep(&self, deadline_ns: Option<u64>) -> bool {
        if let Some(deadline) = deadline_ns {
            if deadline <= now_ns() {
                return self.signalled.load(Ordering::SeqCst);
            }
            self.timer.set(deadline);
        }
        while !self.signalled.load(Ordering::SeqCst) {
            block_unless(|| self.signalled.load(Ordering::SeqCst));
        }
        match deadline_ns {
            Some(deadline) => {
                self.timer.cancel();
                now_ns() < deadline
            }
            None => true,
        }
    }
}

impl Observer for Waiter {
    fn notify(&self, _events: Events) {
        self.signal();
    }
    fn exclusive(&self) -> bool {
        self.exclusive.load(Ordering::Relaxed)
    }
}

/// Repeats `attempt` while it says `EAGAIN`, sleeping on `subject` in between.
///
/// # Errors
/// What `attempt` returns; `ETIMEDOUT` when `deadline_ns` (monotonic) has passed; `ERESTARTSYS` when a signal
/// waits for the thread.
pub fn wait_for<T>(
    subject: &Subject,
    events: Events,
    deadline_ns: Option<u64>,
    attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    wait_inner(&[subject], events, deadline_ns, true, false, attempt)
}

/// As [`wait_for`], waking one such waiter at a time: for accept.
pub fn wait_for_exclusive<T>(
    subject: &Subject,
    events: Events,
    deadline_ns: Option<u64>,
    attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    wait_inner(&[subject], events, deadline_ns, true, true, attempt)
}

/// As [`wait_for`] on several subjects at once (poll, select).
pub fn wait_for_any<T>(
    subjects: &[&Subject],
    events: Events,
    deadline_ns: Option<u64>,
    attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    wait_inner(subjects, events, deadline_ns, true, false, attempt)
}

/// As [`wait_for`] for waits that no signal ends: disk I/O.
pub fn wait_uninterruptible<T>(subject: &Subject, attempt: impl FnMut() -> Result<T>) -> Result<T> {
    wait_inner(&[subject], Events::all(), None, false, false, attempt)
}

fn wait_inner<T>(
    subjects: &[&Subject],
    events: Events,
    deadline_ns: Option<u64>,
    interruptible: bool,
    exclusive: bool,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    match attempt() {
        Err(Errno::EAGAIN) => {}
        done => return done,
    }
    let thread = current();
    let waiter = &thread.waiter;
    waiter.exclusive.store(exclusive, Ordering::Relaxed);
    let observer: Arc<dyn Observer> = waiter.clone();
    for subject in subjects {
        subject.register(&observer, events);
    }
    let result = loop {
        waiter.reset();
        match attempt() {
            Err(Errno::EAGAIN) => {}
            done => break done,
        }
        if interruptible && thread.interrupted() {
            break Err(Errno::ERESTARTSYS);
        }
        if deadline_ns.is_some_and(|deadline| now_ns() >= deadline) {
            break Err(Errno::ETIMEDOUT);
        }
        waiter.sleep(deadline_ns);
    };
    for subject in subjects {
        subject.unregister(&observer);
    }
    // `attempt` of an outer wait may have led here (a page fault while copying): it must look again, since
    // this wait may have eaten its notification.
    waiter.signalled.store(true, Ordering::SeqCst);
    result
}

/// A place to wait for a condition that is not a file's readiness.
#[derive(Default)]
pub struct WaitQueue(Subject);

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self(Subject::new())
    }

    /// Sleeps until `condition` gives something. Errors as [`wait_for`].
    pub fn wait_until<T>(&self, deadline_ns: Option<u64>, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
        wait_for(&self.0, Events::IN, deadline_ns, || condition().ok_or(Errno::EAGAIN))
    }

    /// As `wait_until`; no signal ends it.
    pub fn wait_uninterruptible<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Ok(value) = wait_uninterruptible(&self.0, || condition().ok_or(Errno::EAGAIN)) {
                return value;
            }
        }
    }

    /// As `wait_uninterruptible`, but not beyond `deadline_ns`: then `None`.
    pub fn wait_uninterruptible_until<T>(
        &self,
        deadline_ns: u64,
        mut condition: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let attempt = || condition().ok_or(Errno::EAGAIN);
        wait_inner(&[&self.0], Events::all(), Some(deadline_ns), false, false, attempt).ok()
    }

    /// Makes all waiters look again. Callable in interrupts.
    pub fn wake_all(&self) {
        self.0.notify(Events::IN);
    }
}

/// Sleeps until `deadline_ns` (monotonic); `ERESTARTSYS` if a signal came first.
pub fn sleep_until(deadline_ns: u64) -> Result<()> {
    let thread = current();
    loop {
        thread.waiter.reset();
        if now_ns() >= deadline_ns {
            return Ok(());
        }
        if thread.interrupted() {
            return Err(Errno::ERESTARTSYS);
        }
        thread.waiter.sleep(Some(deadline_ns));
    }
}
