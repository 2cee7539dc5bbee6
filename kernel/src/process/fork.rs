//! New threads and processes: `clone` in all its forms.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use base::{Errno, Result};
use hal_core::UserContext;

use super::credentials::cap;
use super::limits::resource;
use super::process::Inherit;
use super::signal::{self, MAX, SIGCHLD};
use super::thread::{AltStack, OwnState};
use super::vfork::Vfork;
use super::{Process, ThreadExt, ids, pidfd, run, tree};
use crate::files;
use crate::mm::{self, user};
use crate::sched::{self, Thread};

/// Flags of `clone` (uapi linux/sched.h).
#[allow(missing_docs, dead_code, reason = "the whole list of the ABI, under its names there")]
pub mod flags {
    pub const VM: u64 = 0x100;
    pub const FS: u64 = 0x200;
    pub const FILES: u64 = 0x400;
    pub const SIGHAND: u64 = 0x800;
    pub const PIDFD: u64 = 0x1000;
    pub const PTRACE: u64 = 0x2000;
    pub const VFORK: u64 = 0x4000;
    pub const PARENT: u64 = 0x8000;
    pub const THREAD: u64 = 0x1_0000;
    pub const NEWNS: u64 = 0x2_0000;
    pub const SYSVSEM: u64 = 0x4_0000;
    pub const SETTLS: u64 = 0x8_0000;
    pub const PARENT_SETTID: u64 = 0x10_0000;
    pub const CHILD_CLEARTID: u64 = 0x20_0000;
    pub const DETACHED: u64 = 0x40_0000;
    pub const UNTRACED: u64 = 0x80_0000;
    pub const CHILD_SETTID: u64 = 0x100_0000;
    pub const NEWCGROUP: u64 = 0x200_0000;
    pub const NEWUTS: u64 = 0x400_0000;
    pub const NEWIPC: u64 = 0x800_0000;
    pub const NEWUSER: u64 = 0x1000_0000;
    pub const NEWPID: u64 = 0x2000_0000;
    pub const NEWNET: u64 = 0x4000_0000;
    pub const IO: u64 = 0x8000_0000;
    pub const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    pub const INTO_CGROUP: u64 = 0x2_0000_0000;
    pub const NEWTIME: u64 = 0x80;
    /// Other namespaces: there is one of each.
    pub const NAMESPACES: u64 = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWTIME;
}

/// What to make.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneArgs {
    /// `CLONE_*`, without the exit signal.
    pub flags: u64,
    /// Where the pidfd's number is written.
    pub pidfd: usize,
    /// Where the child writes its id.
    pub child_tid: usize,
    /// Where the parent writes the child's id.
    pub parent_tid: usize,
    /// Signal at the child's end.
    pub exit_signal: i32,
    /// The child's stack pointer; 0 keeps the parent's.
    pub stack: usize,
    /// The child's thread pointer.
    pub tls: usize,
}

fn check(args: &CloneArgs) -> Result<()> {
    use flags::*;
    let has = |bit| args.flags & bit != 0;
    let bad = (has(SIGHAND) && !has(VM))
        || (has(THREAD) && !has(SIGHAND))
        || (has(FS) && has(NEWNS))
        || (has(PIDFD) && has(DETACHED))
        || (has(CLEAR_SIGHAND) && has(SIGHAND))
        || !(0..=MAX).contains(&args.exit_signal);
    // Namespaces and cgroups need a kernel that is configured with them.
    if bad || has(NAMESPACES) || has(INTO_CGROUP) { Err(Errno::EINVAL) } else { Ok(()) }
}

/// `EAGAIN` if the user has too many processes, or there are too many for the memory.
fn check_limits(process: &Process) -> Result<()> {
    let limit = process.limit(resource::NPROC);
    let credentials = process.credentials();
    let privileged = credentials.capable(cap::SYS_RESOURCE) || credentials.capable(cap::SYS_ADMIN);
    if !privileged && limit != u64::MAX {
        let own = credentials.uid.real;
        let count: usize = ids::processes().filter(|p| p.credentials().uid.real == own).map(|p| p.thread_count()).sum();
        if count as u64 >= limit {
            return Err(Errno::EAGAIN);
        }
    }
    // A thread costs a kernel stack and an FPU area, a process page tables too, in proportion to its pages.
    let pages = process.space().map_or(0, |space| space.stats().anonymous);
    mm::frame::check_room_for(64 + pages / 256).map_err(|_| Errno::EAGAIN)
}

/// `clone`: returns the child's id, to the parent.
pub fn clone(args: &CloneArgs) -> Result<u32> {
    check(args)?;
    let thread = sched::current();
    let process = thread.process().ok_or(Errno::EINVAL)?;
    check_limits(process)?;
    let id = ids::allocate()?;
    let made = if args.flags & flags::THREAD != 0 {
        make_thread(thread, process, id, args).map(|child| (child, None))
    } else {
        make_process(thread, process, id, args).map(|(child, new)| (child, Some(new)))
    };
    let (child, new_process) = match made {
        Ok(made) => made,
        Err(error) => {
            ids::release(id);
            return Err(error);
        }
    };
    let vfork = (args.flags & flags::VFORK != 0).then(Vfork::new);
    *child.ext.vfork.lock() = vfork.clone();
    if let Err(error) = announce(args, id, &child, new_process.as_ref()) {
        ids::release(id);
        return Err(error);
    }
    sched::start(&child);
    drop(child);
    drop(new_process);
    if let Some(vfork) = vfork {
        vfork.wait();
    }
    Ok(id)
}

/// The last steps that can fail, and those that make the child known.
fn announce(args: &CloneArgs, id: u32, child: &Arc<Thread>, new_process: Option<&Arc<Process>>) -> Result<()> {
    if args.flags & flags::PARENT_SETTID != 0 {
        user::write::<u32>(args.parent_tid, &id)?;
    }
    let of = new_process.or_else(|| child.process()).ok_or(Errno::EINVAL)?;
    if args.flags & flags::PIDFD != 0 {
        let fd = pidfd::open(of, false)?;
        if let Err(error) = user::write::<i32>(args.pidfd, &fd) {
            let _ = files::close_fd(fd);
            return Err(error);
        }
    }
    if !of.add_thread(child) {
        // The process began to end meanwhile; this thread does, too, on its way out of the call.
        return Err(Errno::ERESTARTNOINTR);
    }
    ids::publish_thread(id, child);
    if let Some(new) = new_process {
        tree::adopt(new);
    }
    Ok(())
}

fn child_context(args: &CloneArgs) -> UserContext {
    let mut context = *sched::current().context();
    context.rax = 0;
    context.full = 1;
    if args.stack != 0 {
        context.rsp = args.stack as u64;
    }
    context
}

fn fs_base(args: &CloneArgs) -> u64 {
    if args.flags & flags::SETTLS != 0 { args.tls as u64 } else { hal_core::cpu::fs_base() }
}

/// The part of the new thread that comes from `args` and its parent.
fn new_ext(parent: &Thread, args: &CloneArgs) -> Result<ThreadExt> {
    let open = match parent.ext.files.with(|files| files.clone()) {
        Some(table) if args.flags & flags::FILES == 0 => Some(table.duplicate()),
        same => same,
    };
    let fs = match parent.ext.fs.with(|fs| fs.clone()) {
        Some(context) if args.flags & flags::FS == 0 => Some(context.duplicate()),
        same => same,
    };
    let ext = ThreadExt::inherit(&parent.ext, open, fs);
    if args.flags & flags::CHILD_CLEARTID != 0 {
        ext.clear_child_tid.store(args.child_tid, Ordering::SeqCst);
    }
    if args.flags & flags::CHILD_SETTID != 0 {
        ext.set_child_tid.store(args.child_tid, Ordering::SeqCst);
    }
    // A thread registers its own area; a forked child has its parent's at the same address.
    if args.flags & flags::VM == 0 {
        ext.rseq.copy_from(&parent.ext.rseq);
    }
    // A child with memory of its own, or one that borrows it for a vfork, keeps the alternate stack.
    if args.flags & flags::VM == 0 || args.flags & flags::VFORK != 0 {
        let alt_stack: AltStack = parent.ext.own.with(|own| own.alt_stack);
        ext.update(|own: &mut OwnState| own.alt_stack = alt_stack);
    }
    Ok(ext)
}

fn finish(parent: &Thread, child: &Thread) {
    child.clone_fpu_from_current();
    child.set_nice(parent.nice());
    child.set_affinity(parent.affinity());
    child.set_name(&parent.name());
}

fn make_thread(parent: &Thread, process: &Arc<Process>, id: u32, args: &CloneArgs) -> Result<Arc<Thread>> {
    let space = parent.space().ok_or(Errno::EINVAL)?.clone();
    let ext = new_ext(parent, args)?;
    let child = Thread::new_user(id, process.clone(), space, &child_context(args), fs_base(args), ext, run::start)?;
    finish(parent, &child);
    Ok(child)
}

fn make_process(
    parent: &Thread,
    process: &Arc<Process>,
    id: u32,
    args: &CloneArgs,
) -> Result<(Arc<Thread>, Arc<Process>)> {
    let space = parent.space().ok_or(Errno::EINVAL)?;
    let space = if args.flags & flags::VM != 0 { space.clone() } else { space.fork()? };
    let actions = process.actions();
    let actions = match args.flags {
        f if f & flags::SIGHAND != 0 => actions,
        f if f & flags::CLEAR_SIGHAND != 0 => Arc::new(actions.without_handlers(true)),
        _ => Arc::new(actions.duplicate()),
    };
    let above = if args.flags & flags::PARENT != 0 { process.parent() } else { Some(process.clone()) };
    let new = Process::new(
        id,
        space.clone(),
        above.as_ref().map_or(alloc::sync::Weak::new(), Arc::downgrade),
        Inherit {
            actions,
            credentials: process.credentials(),
            limits: process.limits(),
            program: process.program(),
            group: process.group(),
            session: process.session(),
            exit_signal: if args.flags & flags::PARENT != 0 {
                process.exit_signal.load(Ordering::Relaxed)
            } else {
                args.exit_signal
            },
            flags: process.flags.load(Ordering::Relaxed),
            personality: process.personality.load(Ordering::Relaxed),
            oom_score_adj: process.oom_score_adj.load(Ordering::Relaxed),
        },
    );
    let ext = new_ext(parent, args)?;
    let child = Thread::new_user(id, new.clone(), space, &child_context(args), fs_base(args), ext, run::start)?;
    finish(parent, &child);
    Ok((child, new))
}

/// Arguments of plain `fork`.
pub fn fork_args() -> CloneArgs {
    CloneArgs { exit_signal: SIGCHLD, ..CloneArgs::default() }
}

/// True if a signal waits that must be handled before a fork, so that it is not handled twice.
pub fn signal_first() -> bool {
    let thread = sched::current();
    signal::pending_of(thread) & !thread.ext.blocked() != 0
}
