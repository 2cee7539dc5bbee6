//! File locks: `flock`, POSIX record locks, open-file-description locks. All advisory.
//!
//! Locks hang on the inode's number in one table of lists, so they cost nothing to files without any.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use base::{Errno, Result, SpinLock};
use fs::File;
use fs::file::Whence;

use crate::mm::{self, user};
use crate::sched;
use crate::sched::wait::WaitQueue;

type Key = (u64, u64);

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// A process (POSIX).
    Process(u32),
    /// An open file, by address.
    File(usize),
}

#[derive(Clone, Copy, Debug)]
struct Range {
    owner: Owner,
    write: bool,
    start: u64,
    /// First byte after it; `u64::MAX` for all there will ever be.
    end: u64,
}

#[derive(Default)]
struct Lists {
    records: BTreeMap<Key, Vec<Range>>,
    whole: BTreeMap<Key, Vec<Range>>,
    /// Which process waits for which, to find deadlocks.
    waits: Vec<(u32, u32)>,
}

static LOCKS: SpinLock<Lists> =
    SpinLock::new(Lists { records: BTreeMap::new(), whole: BTreeMap::new(), waits: Vec::new() });
/// Files with locks: closing looks no further while it is 0.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static CHANGED: WaitQueue = WaitQueue::new();

const LOCK_SH: u32 = 1;
const LOCK_EX: u32 = 2;
const LOCK_NB: u32 = 4;
const LOCK_UN: u32 = 8;

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

fn key(file: &Arc<dyn File>) -> Result<Key> {
    let stat = file.stat()?;
    Ok((stat.dev, stat.ino))
}

fn identity(file: &Arc<dyn File>) -> usize {
    Arc::as_ptr(file).cast::<()>() as usize
}

impl Range {
    fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner && (self.write || other.write) && self.start < other.end && other.start < self.end
    }
}

/// Replaces what `new.owner` holds in the range by `new`, or by nothing.
fn apply(list: &mut Vec<Range>, new: Range, unlock: bool) {
    let mut kept = Vec::with_capacity(list.len() + 2);
    for old in list.drain(..) {
        if old.owner != new.owner || old.end <= new.start || new.end <= old.start {
            kept.push(old);
            continue;
        }
        if old.start < new.start {
            kept.push(Range { end: new.start, ..old });
        }
        if old.end > new.end {
            kept.push(Range { start: new.end, ..old });
        }
    }
    if !unlock {
        kept.push(new);
    }
    // Neighbours of one owner and kind are one.
    kept.sort_by_key(|r| r.start);
    let mut merged: Vec<Range> = Vec::with_capacity(kept.len());
    for range in kept {
        let joined =
            merged.iter_mut().find(|m| m.owner == range.owner && m.write == range.write && m.end == range.start);
        match joined {
            Some(before) => before.end = range.end,
            None => merged.push(range),
        }
    }
    *list = merged;
}

fn count(lists: &Lists) {
    COUNT.store(lists.records.len() + lists.whole.len(), Ordering::Release);
}

/// `flock`.
pub fn flock(file: &Arc<dyn File>, operation: u32) -> Result<()> {
    if file.status().get().contains(fs::OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let write = match operation & !LOCK_NB {
        LOCK_SH => false,
        LOCK_EX => true,
        LOCK_UN => {
            let owner = Owner::File(identity(file));
            release(|lists| &mut lists.whole, Some(key(file)?), |o| o == owner);
            return Ok(());
        }
        _ => return Err(Errno::EINVAL),
    };
    file.status().set_locked();
    let (key, owner) = (key(file)?, Owner::File(identity(file)));
    let new = Range { owner, write, start: 0, end: u64::MAX };
    let attempt = || {
        let mut lists = LOCKS.lock();
        let list = lists.whole.entry(key).or_default();
        let blocked = list.iter().any(|old| old.conflicts(&new));
        if !blocked {
            apply(list, new, false);
        } else if list.is_empty() {
            lists.whole.remove(&key);
        }
        count(&lists);
        (!blocked).then_some(())
    };
    if operation & LOCK_NB != 0 {
        return attempt().ok_or(Errno::EAGAIN);
    }
    CHANGED.wait_until(None, attempt)
}

/// Removes what `gone` is true for from the lists, and wakes who waits.
fn release(lists: fn(&mut Lists) -> &mut BTreeMap<Key, Vec<Range>>, key: Option<Key>, gone: impl Fn(Owner) -> bool) {
    let mut all = LOCKS.lock();
    let map = lists(&mut all);
    match key {
        Some(key) => {
            if let Some(list) = map.get_mut(&key) {
                list.retain(|range| !gone(range.owner));
                if list.is_empty() {
                    map.remove(&key);
                }
            }
        }
        None => map.retain(|_, list| {
            list.retain(|range| !gone(range.owner));
            !list.is_empty()
        }),
    }
    count(&all);
    drop(all);
    CHANGED.wake_all();
}

/// A descriptor of the running process was closed: its POSIX locks on that file go, whatever other descriptors
/// it has.
pub fn closed(file: &Arc<dyn File>) {
    if COUNT.load(Ordering::Acquire) == 0 {
        return;
    }
    if let (Ok(key), Some(process)) = (key(file), sched::current().process()) {
        let owner = Owner::Process(process.pid);
        release(|lists| &mut lists.records, Some(key), |o| o == owner);
    }
}

/// The open file at this address ends, and its locks with it: the `fs` crate's hook.
pub fn file_gone(address: usize) {
    let owner = Owner::File(address);
    release(|lists| &mut lists.whole, None, |o| o == owner);
    release(|lists| &mut lists.records, None, |o| o == owner);
}

/// `struct flock` of x86-64: type, whence, start, length, pid.
struct Request {
    kind: i16,
    range: Range,
}

fn parse(file: &Arc<dyn File>, address: usize, ofd: bool) -> Result<Request> {
    let [a, start, len, pid]: [i64; 4] = user::read(address)?;
    let (kind, whence) = (a as i16, (a >> 16) as i16);
    if ofd && pid as i32 != 0 {
        return Err(Errno::EINVAL);
    }
    let base = match whence {
        0 => 0,
        1 => file.seek(0, Whence::Current)? as i64,
        2 => file.stat()?.size as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(start).ok_or(Errno::EOVERFLOW)?;
    let (start, end) = match len {
        0 => (start, i64::MAX),
        n if n > 0 => (start, start.checked_add(n).ok_or(Errno::EOVERFLOW)?),
        n => (start.checked_add(n).ok_or(Errno::EINVAL)?, start),
    };
    if start < 0 {
        return Err(Errno::EINVAL);
    }
    let owner = if ofd {
        Owner::File(identity(file))
    } else {
        Owner::Process(sched::current().process().ok_or(Errno::ESRCH)?.pid)
    };
    let end = if end == i64::MAX { u64::MAX } else { end as u64 };
    Ok(Request { kind, range: Range { owner, write: kind == F_WRLCK, start: start as u64, end } })
}

/// `fcntl` with `F_GETLK` (0), `F_SETLK` (1) and `F_SETLKW` (2) and their open-file forms.
pub fn control(file: &Arc<dyn File>, command: u32, address: usize, ofd: bool) -> Result<u64> {
    let request = parse(file, address, ofd)?;
    let key = key(file)?;
    if command == 0 {
        if request.kind == F_UNLCK {
            return Err(Errno::EINVAL);
        }
        return report(key, &request.range, address);
    }
    let flags = file.status().get();
    match request.kind {
        F_RDLCK if !flags.readable() => return Err(Errno::EBADF),
        F_WRLCK if !flags.writable() => return Err(Errno::EBADF),
        F_RDLCK | F_WRLCK | F_UNLCK => {}
        _ => return Err(Errno::EINVAL),
    }
    if request.kind != F_UNLCK {
        mm::frame::check_room().map_err(|_| Errno::ENOLCK)?;
    }
    if ofd {
        file.status().set_locked();
    }
    let unlock = request.kind == F_UNLCK;
    let me = match request.range.owner {
        Owner::Process(pid) => Some(pid),
        Owner::File(_) => None,
    };
    let mut deadlock = false;
    let mut attempt = || {
        let mut lists = LOCKS.lock();
        if let Some(me) = me {
            lists.waits.retain(|(waiter, _)| *waiter != me);
        }
        let list = lists.records.entry(key).or_default();
        let blocker = list.iter().find(|old| old.conflicts(&request.range)).map(|old| old.owner);
        if unlock || blocker.is_none() {
            apply(list, request.range, unlock);
            if list.is_empty() {
                lists.records.remove(&key);
            }
            count(&lists);
            return Some(());
        }
        if command == 2
            && let (Some(me), Some(Owner::Process(holder))) = (me, blocker)
        {
            if reaches(&lists.waits, holder, me) {
                deadlock = true;
                return Some(());
            }
            lists.waits.push((me, holder));
        }
        None
    };
    if command == 1 {
        attempt().ok_or(Errno::EAGAIN)?;
    } else {
        let result = CHANGED.wait_until(None, &mut attempt);
        if let (Some(me), Err(_)) = (me, &result) {
            LOCKS.lock().waits.retain(|(waiter, _)| *waiter != me);
        }
        result?;
        if deadlock {
            return Err(Errno::EDEADLK);
        }
    }
    if unlock {
        CHANGED.wake_all();
    }
    Ok(0)
}

/// Does `from` wait for `to`, perhaps through others?
fn reaches(waits: &[(u32, u32)], from: u32, to: u32) -> bool {
    let mut at = from;
    for _ in 0..=waits.len() {
        if at == to {
            return true;
        }
        match waits.iter().find(|(waiter, _)| *waiter == at) {
            Some((_, next)) => at = *next,
            None => return false,
        }
    }
    false
}

fn report(key: Key, wanted: &Range, address: usize) -> Result<u64> {
    let blocker =
        LOCKS.lock().records.get(&key).and_then(|list| list.iter().find(|old| old.conflicts(wanted)).copied());
    let Some(range) = blocker else {
        return user::write(address, &F_UNLCK).map(|()| 0);
    };
    let kind = if range.write { F_WRLCK } else { F_RDLCK };
    let pid = match range.owner {
        Owner::Process(pid) => pid as i32,
        Owner::File(_) => -1,
    };
    let len = if range.end == u64::MAX { 0 } else { range.end - range.start };
    user::write(address, &[kind, 0])?;
    user::write(address + 8, &[range.start, len])?;
    user::write(address + 24, &pid)?;
    Ok(0)
}
