//! `vfork`: the parent sleeps until the child has execed or ended.

use core::sync::atomic::{AtomicBool, Ordering};

use alloc::sync::Arc;

use crate::sched::{self, Thread};

/// Shared by the waiting thread and its child.
pub struct Vfork {
    done: AtomicBool,
    parent: Arc<Thread>,
}

impl Vfork {
    /// For the running thread as the parent.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { done: AtomicBool::new(false), parent: sched::current_arc() })
    }

    /// The child execed or ended.
    pub fn finish(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.parent.waiter().signal();
    }

    /// Sleeps until then, or until the parent itself must end. No other signal ends it.
    pub fn wait(&self) {
        let thread = sched::current();
        loop {
            thread.waiter().reset();
            let dying = thread.process().is_some_and(|p| p.is_dying()) || thread.ext.killed.load(Ordering::SeqCst);
            if self.done.load(Ordering::SeqCst) || dying {
                return;
            }
            thread.waiter().sleep(None);
        }
    }
}
