//! Sending signals: to a thread, a process, a group.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use base::{Errno, Events, Result};

use super::action::DEFAULT;
use super::stop::continue_process;
use super::types::{RT_MIN, SIGCONT, SIGKILL, STOPPING, SigInfo, SigSet, set_of};
use crate::process::credentials::cap;
use crate::process::limits::resource;
use crate::process::{ExitStatus, Process, ids};
use crate::sched::{self, Thread};

/// May the running thread send `signal` to `target`? (kill(2))
pub fn may_signal(target: &Process, signal: i32) -> Result<()> {
    let Some(sender) = sched::current().process() else { return Ok(()) };
    if sender.pid == target.pid {
        return Ok(());
    }
    let (from, to) = (sender.credentials(), target.credentials());
    let matches = [from.uid.effective, from.uid.real].iter().any(|uid| *uid == to.uid.real || *uid == to.uid.saved);
    let same_session = signal == SIGCONT && sender.session() == target.session();
    if matches || same_session || from.capable(cap::KILL) { Ok(()) } else { Err(Errno::EPERM) }
}

/// What sending does before the signal is queued; false if it goes no further.
fn prepare(target: &Process, signal: i32) -> bool {
    let bit = set_of(signal);
    if target.is_zombie() {
        return false;
    }
    if signal == SIGKILL {
        target.begin_end(ExitStatus::killed(SIGKILL));
        interrupt_all(target);
        return false;
    }
    if bit & STOPPING != 0 {
        discard(target, set_of(SIGCONT));
    } else if signal == SIGCONT {
        discard(target, STOPPING);
        continue_process(target);
    }
    true
}

/// Removes signals from all queues of the process.
pub fn discard(target: &Process, set: SigSet) {
    {
        let mut shared = target.shared.lock();
        shared.pending.discard(set);
        target.pending_mask.store(shared.pending.mask(), Ordering::SeqCst);
    }
    target.for_each_thread(|thread| {
        if thread.ext.pending_mask.load(Ordering::SeqCst) & set != 0 {
            let mut pending = thread.ext.pending.lock();
            pending.discard(set);
            thread.ext.pending_mask.store(pending.mask(), Ordering::SeqCst);
        }
    });
}

/// Makes every thread of a process look at what waits for it.
pub(in crate::process) fn interrupt_all(target: &Process) {
    target.for_each_thread(|thread| thread.interrupt());
}

/// Makes one thread that takes `signal` look.
pub(super) fn wake_one(target: &Process, signal: i32) {
    let bit = set_of(signal);
    let takes = |t: &Thread| t.ext.blocked() & bit == 0 || t.ext.awaited.load(Ordering::SeqCst) & bit != 0;
    // The first that takes it, as a rule the main thread.
    let mut found = false;
    target.for_each_thread(|thread| {
        if !found && takes(thread) && !thread.ext.killed.load(Ordering::SeqCst) {
            found = true;
            thread.interrupt();
        }
    });
}

fn is_ignored(target: &Process, signal: i32, blocked: SigSet) -> bool {
    blocked & set_of(signal) == 0 && target.actions().get(signal).ignores(signal)
}

fn full(target: &Process, queued: usize, info: &SigInfo) -> bool {
    info.signo >= RT_MIN && queued as u64 >= target.limit(resource::SIGPENDING)
}

/// Sends to the process as a whole: one of its threads takes it. `EAGAIN` if the queue is full. Callable in
/// deferred work; not in interrupts.
pub fn send_process(target: &Arc<Process>, info: SigInfo) -> Result<()> {
    let signal = info.signo;
    if signal == 0 || !prepare(target, signal) {
        return Ok(());
    }
    // As Linux: what the main thread blocks is kept even if it is ignored now.
    let (mut blocked, mut awaited) = (0, 0);
    if let Some(leader) = target.leader() {
        blocked = leader.ext.blocked();
        awaited = leader.ext.awaited.load(Ordering::SeqCst);
    }
    if is_ignored(target, signal, blocked | awaited) {
        return Ok(());
    }
    {
        let mut shared = target.shared.lock();
        if full(target, shared.pending.len(), &info) {
            return Err(Errno::EAGAIN);
        }
        if !shared.pending.push(info) {
            return Ok(());
        }
        target.pending_mask.store(shared.pending.mask(), Ordering::SeqCst);
    }
    wake_one(target, signal);
    target.signal_event.notify(Events::IN);
    Ok(())
}

/// Sends to one thread.
pub fn send_thread(thread: &Thread, info: SigInfo) -> Result<()> {
    let Some(process) = thread.process() else { return Err(Errno::ESRCH) };
    let signal = info.signo;
    if signal == 0 || !prepare(process, signal) {
        return Ok(());
    }
    let awaited = thread.ext.awaited.load(Ordering::SeqCst);
    if is_ignored(process, signal, thread.ext.blocked() | awaited) {
        return Ok(());
    }
    if full(process, thread.ext.pending.lock().len(), &info) {
        return Err(Errno::EAGAIN);
    }
    if queue(thread, info) && (thread.ext.blocked() & !awaited) & set_of(signal) == 0 {
        thread.interrupt();
    }
    process.signal_event.notify(Events::IN);
    Ok(())
}

fn queue(thread: &Thread, info: SigInfo) -> bool {
    let mut pending = thread.ext.pending.lock();
    let added = pending.push(info);
    thread.ext.pending_mask.store(pending.mask(), Ordering::SeqCst);
    added
}

/// Raises a signal in the running thread that it cannot escape: if it is blocked or ignored, it kills.
pub fn force(info: SigInfo) {
    let thread = sched::current();
    let Some(process) = thread.process() else { return };
    let bit = set_of(info.signo);
    let actions = process.actions();
    let action = actions.get(info.signo);
    if thread.ext.blocked() & bit != 0 || action.ignores(info.signo) {
        actions.set(info.signo, super::Action { handler: DEFAULT, ..action });
        thread.ext.blocked.fetch_and(!bit, Ordering::SeqCst);
    }
    queue(thread, info);
    thread.interrupt();
}

/// Sends to every process of a group. `ESRCH` if there is none, `EPERM` if none may be signalled.
pub fn send_group(group: u32, info: SigInfo, check: bool) -> Result<()> {
    let members = ids::processes().filter(|p| p.group() == group && !p.is_zombie());
    send_all(members, info, check)
}

/// Sends to each; succeeds if one was reached.
pub fn send_all(targets: impl Iterator<Item = Arc<Process>>, info: SigInfo, check: bool) -> Result<()> {
    let mut result = Err(Errno::ESRCH);
    for target in targets {
        let sent = if check { may_signal(&target, info.signo) } else { Ok(()) };
        match sent.and_then(|()| send_process(&target, info)) {
            Ok(()) => result = Ok(()),
            Err(error) if result != Ok(()) => result = Err(error),
            Err(_) => {}
        }
    }
    result
}
