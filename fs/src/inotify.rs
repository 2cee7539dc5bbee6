//! inotify: watches on inodes and the queue of events that a program reads.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use base::io::Out;
use base::sync::SpinLock;
use base::{Errno, Events, Result, Subject};

use crate::file::{File, IoFlags, Status};
use crate::notify::{Change, WATCHES};
use crate::types::{OpenFlags, Stat};
use crate::vfs::Path;

const ALL_EVENTS: u32 = 0xfff;
const ONLYDIR: u32 = 0x0100_0000;
const DONT_FOLLOW: u32 = 0x0200_0000;
const MASK_CREATE: u32 = 0x1000_0000;
const MASK_ADD: u32 = 0x2000_0000;
const ONESHOT: u32 = 0x8000_0000;
const IGNORED: u32 = 0x8000;
const OVERFLOW: u32 = 0x4000;
/// Most events that wait to be read (fs/inotify/max_queued_events).
const MAX_QUEUED: usize = 16_384;
/// Most watches of one instance (fs/inotify/max_user_watches).
const MAX_WATCHES: usize = 65_536;

struct Watch {
    key: (u64, u64),
    mask: u32,
    /// Keeps the inode, so that its number stays its own.
    _path: Path,
}

#[derive(Clone, PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

#[derive(Default)]
struct State {
    watches: BTreeMap<i32, Watch>,
    by_inode: BTreeMap<(u64, u64), i32>,
    next: i32,
    queue: VecDeque<Event>,
    bytes: usize,
}

/// An inotify instance.
pub struct Inotify {
    status: Status,
    subject: Subject,
    state: SpinLock<State>,
}

static INSTANCES: SpinLock<Vec<Weak<Inotify>>> = SpinLock::new(Vec::new());

fn padded(name: &[u8]) -> usize {
    if name.is_empty() { 0 } else { (name.len() + 1).next_multiple_of(16) }
}

impl State {
    fn push(&mut self, event: Event) {
        if self.queue.back() == Some(&event) {
            return;
        }
        let event = match self.queue.len() {
            n if n < MAX_QUEUED => event,
            MAX_QUEUED => Event { wd: -1, mask: OVERFLOW, cookie: 0, name: Vec::new() },
            _ => return,
        };
        self.bytes += 16 + padded(&event.name);
        self.queue.push_back(event);
    }

    fn remove(&mut self, wd: i32) -> Option<Watch> {
        let watch = self.watches.remove(&wd)?;
        self.by_inode.remove(&watch.key);
        WATCHES.fetch_sub(1, Ordering::Relaxed);
        self.push(Event { wd, mask: IGNORED, cookie: 0, name: Vec::new() });
        Some(watch)
    }
}

impl Inotify {
    /// A new instance.
    pub fn new(flags: OpenFlags) -> Arc<Self> {
        let inotify =
            Arc::new(Self { status: Status::new(flags), subject: Subject::new(), state: SpinLock::default() });
        let mut instances = INSTANCES.lock();
        instances.retain(|i| i.strong_count() > 0);
        instances.push(Arc::downgrade(&inotify));
        inotify
    }

    /// `IN_DONT_FOLLOW`: whether a final symbolic link is itself watched.
    pub fn follows(mask: u32) -> bool {
        mask & DONT_FOLLOW == 0
    }

    /// Watches `path`, or changes its watch; returns the watch's number.
    pub fn add(&self, path: &Path, mask: u32) -> Result<i32> {
        if mask & ALL_EVENTS == 0 || mask & (MASK_ADD | MASK_CREATE) == MASK_ADD | MASK_CREATE {
            return Err(Errno::EINVAL);
        }
        let inode = path.inode()?;
        if mask & ONLYDIR != 0 && inode.kind() != crate::FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let stat = inode.stat()?;
        let key = (stat.dev, stat.ino);
        let mut state = self.state.lock();
        if let Some(&wd) = state.by_inode.get(&key) {
            if mask & MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            if let Some(watch) = state.watches.get_mut(&wd) {
                watch.mask = if mask & MASK_ADD != 0 { watch.mask | mask } else { mask };
            }
            return Ok(wd);
        }
        if state.watches.len() >= MAX_WATCHES {
            return Err(Errno::ENOSPC);
        }
        state.next = state.next.checked_add(1).ok_or(Errno::ENOSPC)?;
        let wd = state.next;
        state.watches.insert(wd, Watch { key, mask, _path: path.clone() });
        state.by_inode.insert(key, wd);
        WATCHES.fetch_add(1, Ordering::Relaxed);
        Ok(wd)
    }

    /// Ends a watch.
    pub fn remove(&self, wd: i32) -> Result<()> {
        let watch = self.state.lock().remove(wd).ok_or(Errno::EINVAL)?;
        drop(watch);
        self.subject.notify(Events::IN | Events::RDNORM);
        Ok(())
    }

    /// Bytes that can be read (`FIONREAD`).
    pub fn readable(&self) -> usize {
        self.state.lock().bytes
    }

    fn deliver(&self, key: (u64, u64), change: Change, name: &[u8], cookie: u32) {
        let mut gone = None;
        {
            let mut state = self.state.lock();
            let Some(&wd) = state.by_inode.get(&key) else {
                return;
            };
            let mask = state.watches.get(&wd).map_or(0, |w| w.mask);
            let wanted = change.bits() & ALL_EVENTS & mask != 0;
            if wanted {
                state.push(Event { wd, mask: change.bits(), cookie, name: name.to_vec() });
            }
            let deleted = change.contains(Change::DELETE_SELF);
            if deleted || (wanted && mask & ONESHOT != 0) {
                gone = state.remove(wd);
            } else if !wanted {
                return;
            }
        }
        drop(gone);
        self.subject.notify(Events::IN | Events::RDNORM);
    }
}

/// An event for the inode `key`, in every instance that watches it.
pub(crate) fn deliver(key: (u64, u64), change: Change, name: &[u8], cookie: u32) {
    let instances: Vec<Arc<Inotify>> = INSTANCES.lock().iter().filter_map(Weak::upgrade).collect();
    for instance in instances {
        instance.deliver(key, change, name, cookie);
    }
}

impl File for Inotify {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        let mut total = 0;
        loop {
            let event = {
                let mut state = self.state.lock();
                let Some(event) = state.queue.front() else {
                    break;
                };
                let len = 16 + padded(&event.name);
                if len > out.remaining() {
                    return if total == 0 { Err(Errno::EINVAL) } else { Ok(total) };
                }
                state.bytes -= len;
                state.queue.pop_front()
            };
            let Some(event) = event else {
                break;
            };
            let name_len = padded(&event.name);
            let mut raw = Vec::with_capacity(16 + name_len);
            raw.extend_from_slice(&event.wd.to_le_bytes());
            raw.extend_from_slice(&event.mask.to_le_bytes());
            raw.extend_from_slice(&event.cookie.to_le_bytes());
            raw.extend_from_slice(&(name_len as u32).to_le_bytes());
            raw.extend_from_slice(&event.name);
            raw.resize(16 + name_len, 0);
            total += out.write(&raw)?;
        }
        if total == 0 { Err(Errno::EAGAIN) } else { Ok(total) }
    }

    fn poll(&self) -> Events {
        if self.state.lock().queue.is_empty() { Events::empty() } else { Events::IN | Events::RDNORM }
    }

    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn stat(&self) -> Result<Stat> {
        Ok(Stat { mode: 0o600, nlink: 1, blksize: 4096, ..Stat::default() })
    }

    fn describe(&self) -> alloc::string::String {
        "anon_inode:inotify".into()
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        WATCHES.fetch_sub(self.state.lock().watches.len(), Ordering::Relaxed);
    }
}
