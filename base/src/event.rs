//! Readiness: what epoll, poll, select and blocking calls wait for.
//!
//! A file, socket or pipe owns a [`Subject`]. Whoever waits registers an [`Observer`] there, checks the
//! state once more, and then sleeps: a notification between check and sleep is kept by the observer.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::IrqSpinLock;

bitflags::bitflags! {
    /// Readiness bits, with the values of Linux's `EPOLL*` (uapi/linux/eventpoll.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Events: u32 {
        /// Data to read, or a connection to accept.
        const IN = 0x001;
        /// Urgent data.
        const PRI = 0x002;
        /// Room to write.
        const OUT = 0x004;
        /// An error is pending; always reported.
        const ERR = 0x008;
        /// Both directions are shut; always reported.
        const HUP = 0x010;
        /// Same as `IN` for our files.
        const RDNORM = 0x040;
        /// Same as `OUT` for our files.
        const WRNORM = 0x100;
        /// The peer will send no more.
        const RDHUP = 0x2000;
    }
}

/// Something that wants to hear of events: a sleeping thread, an epoll entry.
///
/// `notify` may run in an interrupt handler or under the notifier's locks: it only marks and wakes.
pub trait Observer: Send + Sync {
    /// Some of `events` may have become true; the receiver checks the state itself.
    fn notify(&self, events: Events);
    /// True if one notification per wake-up is enough and others in line may sleep on
    /// (threads in accept, `EPOLLEXCLUSIVE`).
    fn exclusive(&self) -> bool {
        false
    }
}

/// The list of observers of one file.
#[derive(Default)]
pub struct Subject {
    // Read without the lock on the hot path: most notifications have no observer.
    len: AtomicUsize,
    observers: IrqSpinLock<Vec<(Events, Weak<dyn Observer>)>>,
}

impl Subject {
    /// A subject without observers.
    pub const fn new() -> Self {
        Self { len: AtomicUsize::new(0), observers: IrqSpinLock::new(Vec::new()) }
    }

    /// Adds an observer for `events` (`ERR` and `HUP` are always included).
    pub fn register(&self, observer: &Arc<dyn Observer>, events: Events) {
        let mut list = self.observers.lock();
        list.push((events | Events::ERR | Events::HUP, Arc::downgrade(observer)));
        self.len.store(list.len(), Ordering::SeqCst);
    }

    /// Removes every registration of this observer.
    pub fn unregister(&self, observer: &Arc<dyn Observer>) {
        let mut list = self.observers.lock();
        let wanted = Arc::as_ptr(observer).cast::<()>();
        list.retain(|(_, o)| o.as_ptr().cast::<()>() != wanted && o.strong_count() > 0);
        self.len.store(list.len(), Ordering::SeqCst);
    }

    /// True if nobody listens.
    pub fn is_empty(&self) -> bool {
        self.len.load(Ordering::SeqCst) == 0
    }

    /// Tells the observers of any of `events`; of the exclusive ones, only the first in line, which
    /// then goes to the end of the line.
    pub fn notify(&self, events: Events) {
        if self.is_empty() {
            return;
        }
        let mut list = self.observers.lock();
        let mut woken_exclusive = None;
        let mut dead = false;
        for (index, (wanted, observer)) in list.iter().enumerate() {
            if !wanted.intersects(events) {
                continue;
            }
            let Some(observer) = observer.upgrade() else {
                dead = true;
                continue;
            };
            if observer.exclusive() {
                if woken_exclusive.is_some() {
                    continue;
                }
                woken_exclusive = Some(index);
            }
            observer.notify(events);
        }
        if let Some(index) = woken_exclusive {
            let entry = list.remove(index);
            list.push(entry);
        }
        if dead {
            list.retain(|(_, o)| o.strong_count() > 0);
            self.len.store(list.len(), Ordering::SeqCst);
        }
    }
}
