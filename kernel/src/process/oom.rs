//! What happens when memory is out: one process ends, with one line that says so.

use core::sync::atomic::Ordering;

use super::signal::{self, SIGKILL, SigInfo};
use super::{Process, exit, ids};
use crate::mm;
use crate::sched;

/// Pages that are there for the process alone.
fn resident(process: &Process) -> usize {
    process.space().map_or(0, |space| space.private_pages())
}

/// How much a process is to blame: its pages, moved by `oom_score_adj` as Linux does.
pub fn badness(process: &Process) -> i64 {
    let adjustment = i64::from(process.oom_score_adj.load(Ordering::Relaxed));
    if adjustment <= -1000 {
        return 0;
    }
    let pages = resident(process) as i64;
    let total = mm::frame::stats().total as i64;
    (pages + adjustment * total / 1000).max(1)
}

/// The running thread needs a page and there is none: the process that uses most memory is killed. If that is
/// another one, the caller tries its access again afterwards.
pub fn out_of_memory() {
    let Some(own) = sched::current().process() else { return };
    let victim = ids::processes()
        .filter(|p| !p.is_zombie() && !p.is_dying() && p.oom_score_adj.load(Ordering::Relaxed) > -1000)
        .max_by_key(|p| badness(p))
        .unwrap_or_else(|| own.clone());
    let name = victim.name();
    let length = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    log::error!(
        "{}[{}]: killed, since memory is out ({} KiB used by it)",
        core::str::from_utf8(&name[..length]).unwrap_or("?"),
        victim.pid,
        resident(&victim) * 4
    );
    let is_own = victim.pid == own.pid;
    let _ = signal::send_process(&victim, SigInfo::kernel(SIGKILL));
    drop(victim);
    if is_own {
        exit::end_process(super::ExitStatus::killed(SIGKILL));
    }
    // The memory comes back when the victim's threads have left the CPU.
    let _ = sched::wait::sleep_until(base::time::now_ns() + 10_000_000);
}
