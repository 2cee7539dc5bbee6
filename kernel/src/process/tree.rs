//! The tree of processes: parents and children, groups and sessions, orphans.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use base::sync::SpinLock;
use base::{Errno, Result};

use super::signal::{self, SIGCHLD, SIGCONT, SIGHUP, SigInfo, code};
use super::{Process, ids};

/// Held while the tree changes. Each process's `relations` is locked inside it, one at a time.
static TREE: SpinLock<()> = SpinLock::new(());
/// Processes that have not ended.
static ALIVE: AtomicUsize = AtomicUsize::new(0);
/// Clock ticks per second, as `times` and `siginfo` count.
pub const TICKS: u64 = 100;

/// Processes that have not ended.
pub fn alive() -> usize {
    ALIVE.load(Ordering::SeqCst)
}

/// Puts a new process into the tree, below its parent.
pub(super) fn adopt(process: &Arc<Process>) {
    let _tree = TREE.lock();
    let (group, session, parent) = {
        let relations = process.relations.lock();
        (relations.group, relations.session, relations.parent.upgrade())
    };
    ids::join(group);
    ids::join(session);
    ids::publish_process(process);
    ALIVE.fetch_add(1, Ordering::SeqCst);
    if let Some(parent) = parent {
        parent.relations.lock().children.push(process.clone());
    }
}

/// What a parent learns of a child.
pub(super) fn child_info(child: &Process, signal: i32, code: i32, status: i32) -> SigInfo {
    let usage = child.usage();
    let ticks = |ns: u64| ns / (1_000_000_000 / TICKS);
    let uid = child.credentials().uid.real;
    SigInfo::child(signal, code, child.pid, uid, status, ticks(usage.user_ns), ticks(usage.system_ns))
}

/// The information of an ended child.
pub(super) fn end_info(child: &Process, signal: i32) -> SigInfo {
    let status = child.exit_status();
    match status.signal() {
        Some(by) => child_info(child, signal, code::CLD_KILLED, by),
        None => child_info(child, signal, code::CLD_EXITED, status.code()),
    }
}

/// Who takes the children of an ended process: its nearest living ancestor that asked to, else the first process.
fn reaper_of(process: &Process) -> Option<Arc<Process>> {
    let mut at = process.parent();
    while let Some(ancestor) = at {
        let relations = ancestor.relations.lock();
        let (subreaper, next) = (relations.subreaper, relations.parent.upgrade());
        drop(relations);
        if subreaper && !ancestor.is_dying() {
            return Some(ancestor);
        }
        at = next;
    }
    ids::process(1).filter(|first| first.pid != process.pid && !first.is_zombie())
}

/// The last thread is gone: hands the children over, tells the parent. Returns how many processes live on.
pub(super) fn end(process: &Arc<Process>) -> usize {
    let reaper = reaper_of(process);
    let mut orphans_to_reap = Vec::new();
    let mut handed_over = Vec::new();
    let parent = {
        let _tree = TREE.lock();
        let (children, parent) = {
            let mut relations = process.relations.lock();
            (core::mem::take(&mut relations.children), relations.parent.upgrade())
        };
        for child in children {
            child.relations.lock().parent = reaper.as_ref().map_or(Weak::new(), Arc::downgrade);
            child.parent_pid.store(reaper.as_ref().map_or(0, |reaper| reaper.pid), Ordering::Relaxed);
            match &reaper {
                Some(reaper) => {
                    reaper.relations.lock().children.push(child.clone());
                    handed_over.push(child);
                }
                None if child.is_zombie() => orphans_to_reap.push(child),
                None => {}
            }
        }
        process.set_zombie();
        parent
    };
    let alive = ALIVE.fetch_sub(1, Ordering::SeqCst) - 1;
    for child in handed_over {
        let wanted = child.death_signal.load(Ordering::SeqCst);
        if wanted != 0 {
            let _ = signal::send_process(&child, SigInfo::sent(wanted, code::USER, process.pid, 0));
        }
        if child.is_zombie()
            && let Some(reaper) = &reaper
        {
            tell_of_end(&child, reaper);
        }
    }
    for child in orphans_to_reap {
        reap(&child);
    }
    hang_up_orphaned_group(process);
    process.end_event.notify(base::Events::IN);
    process.child_event.wake_all();
    match parent.filter(|parent| !parent.is_zombie()) {
        Some(parent) => tell_of_end(process, &parent),
        None => {
            reap(process);
        }
    }
    alive
}

fn tell_of_end(child: &Arc<Process>, parent: &Arc<Process>) {
    let signal = child.exit_signal.load(Ordering::SeqCst);
    let action = parent.actions().get(SIGCHLD);
    let unwanted =
        signal == SIGCHLD && (action.handler == signal::IGNORE || action.flags & signal::flags::NOCLDWAIT != 0);
    if signal != 0 && !(unwanted && action.handler == signal::IGNORE) {
        let _ = signal::send_process(parent, end_info(child, signal));
    }
    if unwanted {
        reap(child);
    }
    parent.child_event.wake_all();
}

/// Takes a zombie out of the tree and frees its number. Returns false if another thread has done so.
pub(super) fn reap(child: &Arc<Process>) -> bool {
    let (group, session) = {
        let _tree = TREE.lock();
        let (group, session, parent) = {
            let relations = child.relations.lock();
            (relations.group, relations.session, relations.parent.upgrade())
        };
        if let Some(parent) = parent {
            let mut relations = parent.relations.lock();
            let Some(at) = relations.children.iter().position(|c| Arc::ptr_eq(c, child)) else { return false };
            let gone = relations.children.swap_remove(at);
            drop(relations);
            drop(gone);
        }
        (group, session)
    };
    ids::leave(group);
    ids::leave(session);
    ids::release(child.pid);
    true
}

/// True if no member of the group has a parent of another group in its session: nobody would continue it.
pub(super) fn is_orphaned_group(group: u32) -> bool {
    !ids::processes()
        .filter(|p| p.group() == group && !p.is_zombie())
        .any(|p| p.parent().is_some_and(|parent| parent.group() != group && parent.session() == p.session()))
}

/// POSIX: a stopped group that loses its last link to its session gets SIGHUP and SIGCONT.
fn hang_up_orphaned_group(process: &Process) {
    let group = process.group();
    let stopped = |p: &&Arc<Process>| p.group() == group && p.pid != process.pid && p.is_stopped();
    if ids::processes().any(|p| stopped(&&p)) && is_orphaned_group(group) {
        let _ = signal::send_group(group, SigInfo::kernel(SIGHUP), false);
        let _ = signal::send_group(group, SigInfo::kernel(SIGCONT), false);
    }
}

/// Calls `f` with each child, under the tree's lock, until it returns something.
pub(super) fn find_child<R>(parent: &Process, mut f: impl FnMut(&Arc<Process>) -> Option<R>) -> Option<R> {
    let _tree = TREE.lock();
    let children = parent.relations.lock();
    children.children.iter().find_map(&mut f)
}

/// `setpgid`.
pub fn set_group(caller: &Process, pid: u32, group: u32) -> Result<()> {
    let target = ids::process(pid).ok_or(Errno::ESRCH)?;
    let exists = |group: u32, session: u32| ids::processes().any(|p| p.group() == group && p.session() == session);
    let session = caller.session();
    if target.pid != caller.pid {
        if target.parent_pid() != caller.pid {
            return Err(Errno::ESRCH);
        }
        if target.session() != session {
            return Err(Errno::EPERM);
        }
        if target.relations.lock().execed {
            return Err(Errno::EACCES);
        }
    }
    if target.session() == target.pid || (group != target.pid && !exists(group, session)) {
        return Err(Errno::EPERM);
    }
    let _tree = TREE.lock();
    let old = core::mem::replace(&mut target.relations.lock().group, group);
    ids::join(group);
    ids::leave(old);
    Ok(())
}

/// `setsid`.
pub fn new_session(process: &Process) -> Result<u32> {
    if ids::processes().any(|p| p.group() == process.pid) {
        return Err(Errno::EPERM);
    }
    let _tree = TREE.lock();
    let (group, session) = {
        let mut relations = process.relations.lock();
        let old = (relations.group, relations.session);
        (relations.group, relations.session) = (process.pid, process.pid);
        old
    };
    ids::join(process.pid);
    ids::join(process.pid);
    ids::leave(group);
    ids::leave(session);
    Ok(process.pid)
}

/// True if a process outside of the first one's session lives: it daemonised.
pub(super) fn has_daemons(first: &Process) -> bool {
    let session = first.session();
    ids::processes().any(|p| !p.is_zombie() && p.pid != first.pid && p.session() != session)
}

impl Process {
    /// `PR_SET_CHILD_SUBREAPER`.
    pub fn set_subreaper(&self, on: bool) {
        self.relations.lock().subreaper = on;
    }
    /// `PR_GET_CHILD_SUBREAPER`.
    pub fn is_subreaper(&self) -> bool {
        self.relations.lock().subreaper
    }
}
