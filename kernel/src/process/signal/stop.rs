//! Job control: stopping and continuing a process.

use core::sync::atomic::Ordering;

use super::action::flags;
use super::types::{SIGCHLD, SIGCONT, code};
use crate::process::{Process, tree};
use crate::sched;

/// The running thread took a stop signal whose action is the default: the process stops.
pub(super) fn stop_process(process: &Process, signal: i32) {
    if process.stopped.swap(true, Ordering::SeqCst) {
        return;
    }
    {
        let mut shared = process.shared.lock();
        shared.stop_report = Some(signal);
        shared.continue_report = false;
    }
    super::send::interrupt_all(process);
    tell_parent(process, code::CLD_STOPPED, signal);
}

/// A `SIGCONT` was sent: the process goes on, whatever its action for the signal.
pub fn continue_process(process: &Process) {
    if !process.stopped.swap(false, Ordering::SeqCst) {
        return;
    }
    {
        let mut shared = process.shared.lock();
        shared.stop_report = None;
        shared.continue_report = true;
    }
    process.for_each_thread(|thread| thread.waiter().signal());
    tell_parent(process, code::CLD_CONTINUED, SIGCONT);
}

fn tell_parent(process: &Process, code: i32, signal: i32) {
    let Some(parent) = process.parent() else { return };
    if parent.actions().get(SIGCHLD).flags & flags::NOCLDSTOP == 0 {
        let _ = super::send_process(&parent, tree::child_info(process, SIGCHLD, code, signal));
    }
    parent.child_event.wake_all();
}

/// Sleeps while the running thread's process is stopped. Only its end or `SIGCONT` wakes it.
pub fn stop_while_stopped(process: &Process) {
    let thread = sched::current();
    loop {
        thread.waiter().reset();
        if !process.is_stopped() || process.is_dying() || thread.ext.killed.load(Ordering::SeqCst) {
            return;
        }
        thread.waiter().sleep(None);
    }
}
