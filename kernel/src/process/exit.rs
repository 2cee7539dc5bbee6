//! The end of threads and processes, and of the run.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use super::process::Usage;
use super::{ExitStatus, Process, futex, ids, robust, signal, tree};
use crate::mm::user;
use crate::sched::{self, Thread};

/// The status of the first process if it ended and daemons live on, plus 1; else 0.
static FIRST_ENDED: AtomicU32 = AtomicU32::new(0);

/// `exit_group`, or a fatal signal: the whole process ends, the running thread first.
pub fn end_process(status: ExitStatus) -> ! {
    if let Some(process) = sched::current().process()
        && process.begin_end(status)
    {
        signal::interrupt_all(process);
    }
    exit_thread(status)
}

/// `exit`: the running thread ends; `status` is the process's if it is the main thread or the last one.
/// The caller holds nothing that must be dropped.
pub fn exit_thread(status: ExitStatus) -> ! {
    finish_thread(sched::current(), status);
    sched::exit_current()
}

fn finish_thread(thread: &Thread, status: ExitStatus) {
    let Some(process) = thread.process() else { return };
    if thread.tid == process.pid && !process.is_dying() {
        process.set_exit_status(status);
    }
    release_user_memory(thread);
    let files = thread.ext.files.replace(None);
    drop(files);
    let fs = thread.ext.fs.replace(None);
    drop(fs);
    process.ended_threads.lock().add(&Usage::of_thread(thread));
    let left = process.remove_thread(thread);
    if left == 0 {
        let space = process.space.lock().take();
        drop(space);
    }
    thread.set_space(None);
    ids::forget_thread(thread.tid);
    if thread.tid != process.pid {
        ids::release(thread.tid);
    }
    if left == 0 {
        finish_process(process);
    } else {
        // An exec may wait for the others to be gone.
        let execer = process.execer.load(Ordering::SeqCst);
        process.for_each_thread(|other| {
            if other.tid == execer {
                other.waiter().signal();
            }
        });
    }
}

/// What the thread owes through its memory: robust futexes, the word that joiners wait on, its vfork parent.
pub(super) fn release_user_memory(thread: &Thread) {
    robust::release(thread);
    let word = thread.ext.clear_child_tid.swap(0, Ordering::SeqCst);
    if word != 0 && user::write::<u32>(word, &0).is_ok() {
        let _ = futex::wake(word, false, 1, futex::ANY);
    }
    let vfork = thread.ext.vfork.lock().take();
    if let Some(vfork) = vfork {
        vfork.finish();
    }
}

fn finish_process(process: &Arc<Process>) {
    process.timers.cancel_all();
    let status = process.exit_status();
    let daemons = process.pid == 1 && status == ExitStatus::exited(0) && tree::has_daemons(process);
    let alive = tree::end(process);
    if process.pid == 1 {
        if daemons {
            FIRST_ENDED.store(1, Ordering::SeqCst);
        } else {
            end_run(status);
        }
    }
    if alive == 0 && FIRST_ENDED.load(Ordering::SeqCst) != 0 {
        end_run(status);
    }
}

/// Ends the run with the code that a shell would show (docs/command-line.md, section 4).
pub fn end_run(status: ExitStatus) -> ! {
    let code = status.signal().map_or(status.code(), |signal| 128 + signal);
    crate::devices::block::flush_all();
    crate::devices::console::flush();
    crate::panic::exit(code as u8)
}
