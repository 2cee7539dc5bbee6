//! The dentry cache: names that were looked up, found or not.
//!
//! Each directory holds its cached children under its own lock, so lookups in different directories never meet.
//! A clock over all entries drops what was not used when there are too many.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use base::sync::{Mutex, SpinGuard, SpinLock};
use base::{Errno, Result};
use hashbrown::HashMap;

use crate::inode::Inode;

/// Cached entries in the system beyond which unused ones are dropped.
static LIMIT: AtomicUsize = AtomicUsize::new(16_384);
/// Entries looked at per insertion when over the limit.
const SWEEP: usize = 4;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static CLOCK: SpinLock<VecDeque<Weak<Dentry>>> = SpinLock::new(VecDeque::new());

/// Cached entries now.
pub fn cached() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// Entries of the clock, those of names that are gone included.
#[cfg(test)]
pub fn clock_len() -> usize {
    CLOCK.lock().len()
}

/// Keeps at most about `entries` unused names.
pub fn set_limit(entries: usize) {
    LIMIT.store(entries, Ordering::Relaxed);
}

/// Drops up to about `wanted` names that nothing uses.
pub fn shrink(wanted: usize) {
    if let Some(clock) = CLOCK.try_lock() {
        turn(clock, wanted);
    }
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Arc<[u8]>,
}

#[derive(Default)]
struct Children {
    map: HashMap<Arc<[u8]>, Arc<Dentry>>,
    /// Counts changes of the directory: a lookup that ran meanwhile must not be cached.
    generation: u64,
}

/// A name in a directory, with the inode behind it, or known to be absent.
pub struct Dentry {
    inode: Option<Arc<dyn Inode>>,
    place: SpinLock<Place>,
    children: SpinLock<Children>,
    change: Mutex<()>,
    mounts: AtomicU32,
    used: AtomicBool,
    unlinked: AtomicBool,
}

impl Dentry {
    /// A directory without a parent: the root of a file system.
    pub fn root(inode: Arc<dyn Inode>) -> Arc<Self> {
        Arc::new(Self::new(Some(inode), None, Arc::from(&b""[..])))
    }

    fn new(inode: Option<Arc<dyn Inode>>, parent: Option<Arc<Dentry>>, name: Arc<[u8]>) -> Self {
        COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            inode,
            place: SpinLock::new(Place { parent, name }),
            children: SpinLock::default(),
            change: Mutex::new(()),
            mounts: AtomicU32::new(0),
            used: AtomicBool::new(false),
            unlinked: AtomicBool::new(false),
        }
    }

    /// A file without a name in any directory (`O_TMPFILE`, `memfd_create`); shown as `name (deleted)`.
    pub fn unnamed(inode: Arc<dyn Inode>, parent: Option<Arc<Dentry>>, name: &[u8]) -> Arc<Self> {
        let dentry = Self::new(Some(inode), parent, Arc::from(name));
        dentry.unlinked.store(true, Ordering::Relaxed);
        Arc::new(dentry)
    }

    /// The inode; `None` if the name is known to be absent.
    pub fn inode(&self) -> Option<&Arc<dyn Inode>> {
        self.inode.as_ref()
    }

    /// The parent and the name in it, now.
    pub fn parent_and_name(&self) -> (Option<Arc<Dentry>>, Arc<[u8]>) {
        let place = self.place.lock();
        (place.parent.clone(), place.name.clone())
    }

    /// The parent.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.lock().parent.clone()
    }

    /// The name was removed; the inode may live on in open files.
    pub fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    pub(super) fn mounted(&self) -> bool {
        self.mounts.load(Ordering::Acquire) != 0
    }

    pub(super) fn add_mount(&self) {
        self.mounts.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn remove_mount(&self) {
        self.mounts.fetch_sub(1, Ordering::AcqRel);
    }

    /// The lock that every change of this directory holds.
    pub(super) fn change_lock(&self) -> &Mutex<()> {
        &self.change
    }

    /// Looks up `name`, in the cache or in the file system; the result may be negative.
    pub fn lookup(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Dentry>> {
        let inode = self.inode.as_ref().ok_or(Errno::ENOENT)?;
        loop {
            let generation = {
                let children = self.children.lock();
                if let Some(found) = children.map.get(name) {
                    if !found.used.load(Ordering::Relaxed) {
                        found.used.store(true, Ordering::Relaxed);
                    }
                    return Ok(found.clone());
                }
                children.generation
            };
            let found = match inode.lookup(name) {
                Ok(inode) => Some(inode),
                Err(Errno::ENOENT) => None,
                Err(error) => return Err(error),
            };
            let dentry = Arc::new(Self::new(found, Some(self.clone()), Arc::from(name)));
            if !inode.cacheable() {
                return Ok(dentry);
            }
            let mut children = self.children.lock();
            if let Some(other) = children.map.get(name) {
                return Ok(other.clone());
            }
            if children.generation == generation {
                children.map.insert(Arc::from(name), dentry.clone());
                drop(children);
                remember(&dentry);
                return Ok(dentry);
            }
        }
    }

    /// A new name appeared (with the change lock held).
    pub(super) fn add_child(self: &Arc<Self>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let name: Arc<[u8]> = Arc::from(name);
        let dentry = Arc::new(Self::new(Some(inode), Some(self.clone()), name.clone()));
        let old = {
            let mut children = self.children.lock();
            children.generation += 1;
            children.map.insert(name, dentry.clone())
        };
        drop(old);
        remember(&dentry);
        dentry
    }

    /// A name went away (with the change lock held).
    pub(super) fn remove_child(&self, child: &Arc<Dentry>) {
        child.unlinked.store(true, Ordering::Release);
        self.forget(&child.parent_and_name().1);
    }

    fn forget(&self, name: &[u8]) {
        let old = {
            let mut children = self.children.lock();
            children.generation += 1;
            children.map.remove(name)
        };
        drop(old);
    }

    /// `child` moves to `name` in `to` (both change locks held); what was there is gone.
    pub(super) fn move_child(&self, child: &Arc<Dentry>, to: &Arc<Dentry>, name: &[u8]) {
        let (_, old_name) = child.parent_and_name();
        self.forget(&old_name);
        to.put(child, name);
    }

    fn put(self: &Arc<Self>, child: &Arc<Dentry>, name: &[u8]) {
        let name: Arc<[u8]> = Arc::from(name);
        let old =
            core::mem::replace(&mut *child.place.lock(), Place { parent: Some(self.clone()), name: name.clone() });
        let replaced = {
            let mut children = self.children.lock();
            children.generation += 1;
            children.map.insert(name, child.clone())
        };
        drop((old, replaced));
    }

    /// `a` in this directory and `b` in `other` swap places (both change locks held).
    pub(super) fn exchange(self: &Arc<Self>, a: &Arc<Dentry>, other: &Arc<Dentry>, b: &Arc<Dentry>) {
        let (name_a, name_b) = (a.parent_and_name().1, b.parent_and_name().1);
        other.put(a, &name_b);
        self.put(b, &name_a);
    }

    /// True if `self` is `other` or lies below it.
    pub(super) fn is_within(self: &Arc<Self>, other: &Arc<Dentry>) -> bool {
        let mut at = Some(self.clone());
        while let Some(dentry) = at {
            if Arc::ptr_eq(&dentry, other) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }

    /// Forgets all names below, but mount points: for unmounting, since parents and children hold each other.
    pub(super) fn forget_below(&self) {
        let take = |dentry: &Dentry| -> Vec<Arc<Dentry>> {
            let mut children = dentry.children.lock();
            children.generation += 1;
            children.map.extract_if(|_, child| !child.mounted()).map(|(_, child)| child).collect()
        };
        let mut left = take(self);
        while let Some(dentry) = left.pop() {
            left.extend(take(&dentry));
        }
    }

    /// Removes `child` if only its parent's map and `extra` handles hold it.
    fn evict(&self, child: &Arc<Dentry>, extra: usize) -> bool {
        let (_, name) = child.parent_and_name();
        let mut children = self.children.lock();
        let ours = children.map.get(&name).is_some_and(|c| Arc::ptr_eq(c, child));
        if !ours || Arc::strong_count(child) > extra || child.mounted() {
            return false;
        }
        let gone = children.map.remove(&name);
        drop(children);
        drop(gone);
        true
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
        // A chain of parents that only this one held goes one by one: it may be longer than a stack.
        let mut next = self.place.get_mut().parent.take();
        while let Some(mut parent) = next.and_then(Arc::into_inner) {
            next = parent.place.get_mut().parent.take();
        }
    }
}

/// Puts a new entry on the clock and, over the limit, turns the clock a few steps.
fn remember(dentry: &Arc<Dentry>) {
    let mut clock = CLOCK.lock();
    clock.push_back(Arc::downgrade(dentry));
    let limit = LIMIT.load(Ordering::Relaxed);
    if COUNT.load(Ordering::Relaxed) > limit {
        turn(clock, SWEEP);
        return;
    }
    // Entries that are gone leave the clock as new ones come, so that it is never much longer than the cache.
    for _ in 0..2 {
        if let Some(oldest) = clock.pop_front()
            && oldest.strong_count() > 0
        {
            clock.push_back(oldest);
        }
    }
}

/// Looks at the next `steps` entries of the clock and drops those that were not used since the last time.
fn turn(mut clock: SpinGuard<'_, VecDeque<Weak<Dentry>>>, steps: usize) {
    for _ in 0..steps.min(clock.len()) {
        let Some(oldest) = clock.pop_front() else {
            return;
        };
        let Some(candidate) = oldest.upgrade() else {
            continue;
        };
        drop(clock);
        let parent = candidate.parent();
        let busy = candidate.used.swap(false, Ordering::Relaxed) || candidate.is_unlinked() || parent.is_none();
        let evicted = !busy && parent.is_some_and(|p| p.evict(&candidate, 2));
        let keep = !evicted && !candidate.is_unlinked();
        drop(candidate);
        clock = CLOCK.lock();
        if keep {
            clock.push_back(oldest);
        }
    }
}
