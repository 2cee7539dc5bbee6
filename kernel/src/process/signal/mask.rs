//! The running thread's mask, and taking signals from its queues.

use core::sync::atomic::Ordering;

use base::{Errno, Result};

use super::types::{SigInfo, SigSet, UNSTOPPABLE, set_of};
use crate::sched::{self, Thread};

/// Everything that waits for the thread, blocked or not.
pub fn pending_of(thread: &Thread) -> SigSet {
    thread.ext.pending_mask.load(Ordering::SeqCst) | thread.process().map_or(0, |p| p.pending_mask())
}

/// True if the thread has something to do on its way to the application: a signal that is not blocked, its end, a
/// stop.
pub fn must_leave(thread: &Thread) -> bool {
    let ending = |p: &alloc::sync::Arc<crate::process::Process>| p.is_dying() || p.is_stopped();
    pending_of(thread) & !thread.ext.blocked() != 0
        || thread.ext.killed.load(Ordering::SeqCst)
        || thread.process().is_some_and(ending)
}

/// Sets the running thread's mask.
pub fn set_blocked(mask: SigSet) {
    let thread = sched::current();
    let mask = mask & !UNSTOPPABLE;
    let old = thread.ext.blocked.swap(mask, Ordering::SeqCst);
    // A sender marks the queue and then reads masks; this writes the mask and then reads the queues.
    if pending_of(thread) & !mask != 0 {
        thread.interrupt();
    }
    // What the process has to handle and this thread no longer takes is another thread's now.
    let newly = mask & !old;
    if let Some(process) = thread.process() {
        let orphaned = process.pending_mask() & newly;
        if orphaned != 0 && process.thread_count() > 1 {
            for signal in (1..=super::types::MAX).filter(|s| orphaned & set_of(*s) != 0) {
                super::send::wake_one(process, signal);
            }
        }
    }
}

/// Sets a mask for the rest of this call (sigsuspend): delivery, or the call's end, puts the old one back.
pub fn set_temporary_mask(mask: SigSet) {
    let ext = &sched::current().ext;
    let old = ext.blocked();
    ext.update(|own| own.saved_mask = Some(own.saved_mask.unwrap_or(old)));
    set_blocked(mask);
}

/// Runs `f` with another mask, if one is given (ppoll, epoll_pwait). When a signal ended it, the mask stays until the
/// signal has been delivered.
pub fn with_temporary_mask<T>(mask: Option<SigSet>, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(mask) = mask else { return f() };
    set_temporary_mask(mask);
    let result = f();
    if !matches!(result, Err(Errno::EINTR | Errno::ERESTARTSYS | Errno::ERESTARTNOHAND | Errno::ERESTART_RESTARTBLOCK))
    {
        restore_mask();
    }
    result
}

/// Ends a temporary mask.
pub(super) fn restore_mask() {
    if let Some(old) = sched::current().ext.update(|own| own.saved_mask.take()) {
        set_blocked(old);
    }
}

/// Takes the next signal of `wanted` that waits for the running thread: its own first, then its process's.
pub fn take(wanted: SigSet) -> Option<SigInfo> {
    let thread = sched::current();
    let process = thread.process()?;
    if thread.ext.pending_mask.load(Ordering::SeqCst) & wanted != 0 {
        let mut pending = thread.ext.pending.lock();
        let info = pending.pop(wanted);
        thread.ext.pending_mask.store(pending.mask(), Ordering::SeqCst);
        drop(pending);
        if let Some(info) = info {
            return Some(process.timers.signal_taken(info));
        }
    }
    if process.pending_mask() & wanted == 0 {
        return None;
    }
    let mut shared = process.shared.lock();
    let info = shared.pending.pop(wanted);
    process.pending_mask.store(shared.pending.mask(), Ordering::SeqCst);
    drop(shared);
    info.map(|info| process.timers.signal_taken(info))
}
