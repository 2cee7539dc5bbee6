//! `wait4` and `waitid`: learning of children.

use alloc::sync::Arc;

use base::{Errno, Result};

use super::process::Usage;
use super::signal::{SIGCHLD, SIGCONT, SigInfo, code};
use super::{Process, tree};

/// Options (uapi linux/wait.h).
#[allow(missing_docs)]
pub mod options {
    pub const NOHANG: u32 = 1;
    pub const STOPPED: u32 = 2;
    pub const EXITED: u32 = 4;
    pub const CONTINUED: u32 = 8;
    pub const NOWAIT: u32 = 0x0100_0000;
    pub const NOTHREAD: u32 = 0x2000_0000;
    pub const ALL: u32 = 0x4000_0000;
    pub const CLONE: u32 = 0x8000_0000;
}

/// Whose state is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any child.
    Any,
    /// The child of this pid.
    Pid(u32),
    /// Any child of this process group.
    Group(u32),
}

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The child.
    pub pid: u32,
    /// For `waitid`.
    pub info: SigInfo,
    /// For `wait4`.
    pub status: u32,
    /// What the child used, with its own children.
    pub usage: Usage,
}

enum Event {
    Ended(Arc<Process>),
    Reported(Found),
}

fn matches(child: &Process, target: Target, flags: u32) -> bool {
    let by_target = match target {
        Target::Any => true,
        Target::Pid(pid) => child.pid == pid,
        Target::Group(group) => child.group() == group,
    };
    let is_clone = child.exit_signal.load(core::sync::atomic::Ordering::SeqCst) != SIGCHLD;
    by_target && (flags & options::ALL != 0 || is_clone == (flags & options::CLONE != 0))
}

fn event_of(child: &Arc<Process>, flags: u32) -> Option<Event> {
    if child.is_zombie() {
        return (flags & options::EXITED != 0).then(|| Event::Ended(child.clone()));
    }
    let keep = flags & options::NOWAIT != 0;
    let mut shared = child.shared.lock();
    let (signal, code, status) = if let Some(signal) = shared.stop_report.filter(|_| flags & options::STOPPED != 0) {
        if !keep {
            shared.stop_report = None;
        }
        (signal, code::CLD_STOPPED, (signal as u32) << 8 | 0x7f)
    } else if shared.continue_report && flags & options::CONTINUED != 0 {
        shared.continue_report = keep;
        (SIGCONT, code::CLD_CONTINUED, 0xffff)
    } else {
        return None;
    };
    drop(shared);
    let info = tree::child_info(child, SIGCHLD, code, signal);
    Some(Event::Reported(Found { pid: child.pid, info, status, usage: child.usage() }))
}

fn attempt(parent: &Process, target: Target, flags: u32) -> Result<Option<Found>> {
    let mut any = false;
    let event = tree::find_child(parent, |child| {
        if !matches(child, target, flags) {
            return None;
        }
        any = true;
        event_of(child, flags)
    });
    match event {
        Some(Event::Reported(found)) => Ok(Some(found)),
        Some(Event::Ended(child)) => {
            let mut usage = child.usage();
            usage.add(&child.children_usage());
            let info = tree::end_info(&child, SIGCHLD);
            let found = Found { pid: child.pid, info, status: child.exit_status().0, usage };
            if flags & options::NOWAIT == 0 {
                if !tree::reap(&child) {
                    return attempt(parent, target, flags);
                }
                parent.waited_children.lock().add(&usage);
            }
            Ok(Some(found))
        }
        None if !any => Err(Errno::ECHILD),
        None => Ok(None),
    }
}

/// Waits for a child; `None` if there is nothing yet and `NOHANG` was given.
pub fn wait(parent: &Process, target: Target, flags: u32) -> Result<Option<Found>> {
    if let Some(found) = attempt(parent, target, flags)? {
        return Ok(Some(found));
    }
    if flags & options::NOHANG != 0 {
        return Ok(None);
    }
    parent.child_event.wait_until(None, || attempt(parent, target, flags).transpose())?.map(Some)
}
