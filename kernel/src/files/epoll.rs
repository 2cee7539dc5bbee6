//! epoll: a set of files and the list of those that became ready.
//!
//! Each entry observes its file's subject and puts itself on the ready list when told: waiting costs in
//! proportion to the files that are ready, not to those in the set.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use base::sync::IrqSpinLock;
use base::{Errno, Events, Mutex, Observer, Result, Subject};
use fs::types::{OpenFlags, Stat};
use fs::{File, Status};

use crate::sched::wait::wait_for_exclusive;

/// Flags beside the events (uapi/linux/eventpoll.h).
const EXCLUSIVE: u32 = 1 << 28;
const WAKEUP: u32 = 1 << 29;
const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;
/// Ours: the entry reports; cleared after a one-shot has fired, so that an interest in no events is told apart.
const LIVE: u32 = 1 << 27;
/// Deepest nesting of epolls.
const MAX_DEPTH: usize = 5;

/// Operations of `epoll_ctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Add the file. `EEXIST` if it is there.
    Add,
    /// Remove it. `ENOENT` if it is not there.
    Delete,
    /// Change its events and data. `ENOENT` if it is not there.
    Modify,
}

struct Entry {
    file: Weak<dyn File>,
    /// Events and flags; 0 after a one-shot has fired.
    interest: AtomicU32,
    data: AtomicU64,
    /// On the ready list.
    queued: AtomicBool,
    exclusive: bool,
    ready: Arc<Ready>,
    this: Weak<Entry>,
}

/// The ready list; entries outlive the epoll in their files' subjects, so they hold it themselves.
struct Ready {
    list: IrqSpinLock<VecDeque<Arc<Entry>>>,
    subject: Subject,
}

impl Ready {
    fn push(&self, entry: Arc<Entry>) {
        if !entry.queued.swap(true, Ordering::AcqRel) {
            self.list.lock().push_back(entry);
        }
    }
}

impl Entry {
    fn interest(&self) -> Events {
        let interest = self.interest.load(Ordering::Acquire);
        let events = Events::from_bits_retain(interest & !(EXCLUSIVE | WAKEUP | ONESHOT | EDGE | LIVE));
        // A fired one-shot reports nothing at all.
        if interest == 0 { Events::empty() } else { events | Events::ERR | Events::HUP }
    }

    /// What is ready of what is wanted.
    fn poll(&self) -> Events {
        self.file.upgrade().map_or(Events::empty(), |file| file.poll() & self.interest())
    }
}

impl Observer for Entry {
    fn notify(&self, events: Events) {
        if !self.interest().intersects(events) {
            return;
        }
        if let Some(entry) = self.this.upgrade() {
            self.ready.push(entry);
            self.ready.subject.notify(Events::IN | Events::RDNORM);
        }
    }

    fn exclusive(&self) -> bool {
        self.exclusive
    }
}

/// Key of an entry: descriptor and open file, as one descriptor number may come to mean several.
type Key = (i32, usize);

#[derive(Default)]
struct Table {
    entries: BTreeMap<Key, Arc<Entry>>,
    /// Entries after the last sweep for files that were closed.
    swept: usize,
}

/// An epoll instance.
pub struct Epoll {
    table: Mutex<Table>,
    ready: Arc<Ready>,
    status: Status,
}

fn address(file: &Arc<dyn File>) -> usize {
    Arc::as_ptr(file).cast::<()>() as usize
}

impl Epoll {
    /// An empty instance.
    pub fn create() -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(Table::default()),
            ready: Arc::new(Ready { list: IrqSpinLock::new(VecDeque::new()), subject: Subject::new() }),
            status: Status::new(OpenFlags::RDWR),
        })
    }

    /// `epoll_ctl`.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT` as [`Control`] says; `EPERM` for files that are always ready; `EINVAL` for `file` being this
    /// epoll or a wrong use of `EPOLLEXCLUSIVE`; `ELOOP` for a cycle or deep nesting.
    pub fn control(&self, operation: Control, fd: i32, file: &Arc<dyn File>, events: u32, data: u64) -> Result<()> {
        if !file.can_epoll() {
            return Err(Errno::EPERM);
        }
        let nested = file.as_any().downcast_ref::<Epoll>();
        if nested.is_some_and(|epoll| core::ptr::eq(epoll, self)) {
            return Err(Errno::EINVAL);
        }
        if events & EXCLUSIVE != 0 && operation != Control::Delete {
            let allowed = (Events::IN | Events::OUT | Events::ERR | Events::HUP).bits() | EXCLUSIVE | WAKEUP | EDGE;
            if operation == Control::Modify || nested.is_some() || events & !allowed != 0 {
                return Err(Errno::EINVAL);
            }
        }
        if operation == Control::Add {
            crate::mm::frame::check_room()?;
        }
        if let (Control::Add, Some(epoll)) = (operation, nested) {
            epoll.check_nesting(self, 1)?;
        }
        let key = (fd, address(file));
        let mut table = self.table.lock();
        match operation {
            Control::Add => {
                if table.entries.contains_key(&key) {
                    return Err(Errno::EEXIST);
                }
                // A closed file leaves its entry behind: swept when the table has doubled.
                if table.entries.len() >= 2 * table.swept + 16 {
                    table.entries.retain(|_, entry| entry.file.strong_count() > 0);
                    table.swept = table.entries.len();
                }
                let entry = Arc::new_cyclic(|this: &Weak<Entry>| Entry {
                    file: Arc::downgrade(file),
                    interest: AtomicU32::new(events | LIVE),
                    data: AtomicU64::new(data),
                    queued: AtomicBool::new(false),
                    exclusive: events & EXCLUSIVE != 0,
                    ready: self.ready.clone(),
                    this: this.clone(),
                });
                table.entries.insert(key, entry.clone());
                drop(table);
                // All events: what is wanted may change, and `notify` filters.
                let observer: Arc<dyn Observer> = entry.clone();
                file.subject().register(&observer, Events::all());
                self.look_at(entry);
            }
            Control::Modify => {
                let entry = table.entries.get(&key).ok_or(Errno::ENOENT)?.clone();
                if entry.exclusive {
                    return Err(Errno::EINVAL);
                }
                entry.data.store(data, Ordering::Release);
                entry.interest.store(events | LIVE, Ordering::Release);
                drop(table);
                self.look_at(entry);
            }
            Control::Delete => {
                let entry = table.entries.remove(&key).ok_or(Errno::ENOENT)?;
                drop(table);
                // Whatever is still on the ready list reports nothing.
                entry.interest.store(0, Ordering::Release);
                let observer: Arc<dyn Observer> = entry;
                file.subject().unregister(&observer);
            }
        }
        Ok(())
    }

    /// Queues the entry if it is ready now.
    fn look_at(&self, entry: Arc<Entry>) {
        if !entry.poll().is_empty() {
            self.ready.push(entry);
            self.ready.subject.notify(Events::IN | Events::RDNORM);
        }
    }

    /// Fails if `target` is reachable from here, or the nesting gets too deep.
    fn check_nesting(&self, target: &Epoll, depth: usize) -> Result<()> {
        if depth >= MAX_DEPTH || core::ptr::eq(self, target) {
            return Err(Errno::ELOOP);
        }
        let files: alloc::vec::Vec<_> = self.table.lock().entries.values().filter_map(|e| e.file.upgrade()).collect();
        for file in files {
            if let Some(epoll) = file.as_any().downcast_ref::<Epoll>() {
                epoll.check_nesting(target, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Reports up to `max` ready files to `emit` (events, data), without waiting; returns how many.
    fn collect(&self, max: usize, emit: &mut dyn FnMut(u32, u64) -> Result<()>) -> Result<usize> {
        let mut count = 0;
        let mut result = Ok(());
        let mut again: VecDeque<Arc<Entry>> = VecDeque::new();
        // Entries that come back onto the list while we work wait for the next call.
        let mut budget = self.ready.list.lock().len();
        while count < max && budget > 0 {
            budget -= 1;
            let Some(entry) = self.ready.list.lock().pop_front() else { break };
            // Cleared first: a notification from here on queues it again.
            entry.queued.store(false, Ordering::SeqCst);
            let events = entry.poll();
            if events.is_empty() {
                continue;
            }
            if let Err(error) = emit(events.bits(), entry.data.load(Ordering::Acquire)) {
                again.push_back(entry);
                result = Err(error);
                break;
            }
            count += 1;
            let interest = entry.interest.load(Ordering::Acquire);
            if interest & ONESHOT != 0 {
                let _ = entry.interest.compare_exchange(interest, 0, Ordering::AcqRel, Ordering::Relaxed);
            } else if interest & EDGE == 0 {
                again.push_back(entry);
            }
        }
        // Level-triggered ones are looked at again by the next call.
        let more = !again.is_empty();
        for entry in again {
            self.ready.push(entry);
        }
        // Another thread may sleep here while there is more to report than this one took.
        if more && !self.ready.subject.is_empty() {
            self.ready.subject.notify(Events::IN | Events::RDNORM);
        }
        if count > 0 { Ok(count) } else { result.map(|()| 0) }
    }

    /// Waits until files are ready and reports up to `max` of them to `emit` (events, data); returns how many. 0 when
    /// `deadline_ns` (monotonic) has passed; a deadline of 0 does not wait.
    ///
    /// # Errors
    /// `ERESTARTSYS` for a signal (the caller makes it `EINTR`), or what `emit` returns.
    pub fn wait(
        &self,
        max: usize,
        deadline_ns: Option<u64>,
        emit: &mut dyn FnMut(u32, u64) -> Result<()>,
    ) -> Result<usize> {
        let count = self.collect(max, emit)?;
        if count > 0 || deadline_ns == Some(0) {
            return Ok(count);
        }
        let result =
            wait_for_exclusive(&self.ready.subject, Events::IN, deadline_ns, || match self.collect(max, emit)? {
                0 => Err(Errno::EAGAIN),
                count => Ok(count),
            });
        if result.is_err() && !self.ready.list.lock().is_empty() {
            // We may have been the one that was woken for this: pass it on.
            self.ready.subject.notify(Events::IN | Events::RDNORM);
        }
        match result {
            Err(Errno::ETIMEDOUT) => Ok(0),
            other => other,
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        for (_, entry) in core::mem::take(&mut self.table.get_mut().entries) {
            entry.interest.store(0, Ordering::Release);
            if let Some(file) = entry.file.upgrade() {
                let observer: Arc<dyn Observer> = entry;
                file.subject().unregister(&observer);
            }
        }
        // Breaks the cycle of entries on the list and the list that they hold.
        let left = core::mem::take(&mut *self.ready.list.lock());
        drop(left);
    }
}

impl File for Epoll {
    fn status(&self) -> &Status {
        &self.status
    }

    fn poll(&self) -> Events {
        let entries: alloc::vec::Vec<_> = self.ready.list.lock().iter().cloned().collect();
        if entries.iter().any(|entry| !entry.poll().is_empty()) { Events::IN | Events::RDNORM } else { Events::empty() }
    }

    fn subject(&self) -> &Subject {
        &self.ready.subject
    }

    fn stat(&self) -> Result<Stat> {
        Ok(super::anonymous_stat())
    }

    fn describe(&self) -> String {
        String::from("anon_inode:[eventpoll]")
    }

    fn fdinfo(&self) -> String {
        let table = self.table.lock();
        let mut text = String::new();
        for ((fd, _), entry) in &table.entries {
            let events = entry.interest.load(Ordering::Relaxed) & !LIVE;
            let data = entry.data.load(Ordering::Relaxed);
            text += &format!("tfd: {fd:8} events: {events:8x} data: {data:16x}\n");
        }
        text
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
