//! Processes: making them, running programs, ending, waiting; groups and sessions; pidfd.

use alloc::vec::Vec;

use base::{Errno, Result};
use fs::vfs::Resolve;

use super::values::{read_path, rusage};
use super::{Args, calls};
use crate::files;
use crate::mm::user;
use crate::process::fork::{self, CloneArgs, flags};
use crate::process::signal::{self, SigInfo, code};
use crate::process::wait::{self, Found, Target, options};
use crate::process::{self, ExitStatus, Process, credentials::cap, exec, exit, ids, pidfd, tree};
use crate::sched;

const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EMPTY_PATH: u32 = 0x1000;

fn getpid(_: &Args) -> Result<u64> {
    Ok(process::current()?.pid.into())
}

fn getppid(_: &Args) -> Result<u64> {
    Ok(process::current()?.parent_pid().into())
}

fn start(args: &CloneArgs) -> Result<u64> {
    // As Linux: what waits is handled once, by the parent, before there are two.
    if fork::signal_first() {
        return Err(Errno::ERESTARTNOINTR);
    }
    fork::clone(args).map(u64::from)
}

fn fork(_: &Args) -> Result<u64> {
    start(&fork::fork_args())
}

fn vfork(_: &Args) -> Result<u64> {
    start(&CloneArgs { flags: flags::VM | flags::VFORK, ..fork::fork_args() })
}

fn clone(args: &Args) -> Result<u64> {
    // The low byte is the exit signal.
    let bits = args.u64(0) & 0xffff_ffff;
    if bits & flags::PIDFD != 0 && bits & flags::PARENT_SETTID != 0 {
        return Err(Errno::EINVAL);
    }
    start(&CloneArgs {
        flags: bits & !0xff,
        exit_signal: (bits & 0xff) as i32,
        stack: args.usize(1),
        parent_tid: args.usize(2),
        pidfd: args.usize(2),
        child_tid: args.usize(3),
        tls: args.usize(4),
    })
}

fn clone3(args: &Args) -> Result<u64> {
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup.
    const FIRST_SIZE: usize = 64;
    const KNOWN: usize = 88;
    let (address, size) = (args.usize(0), args.usize(1));
    if size < FIRST_SIZE {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let mut words = [0u64; KNOWN / 8];
    for (index, word) in words.iter_mut().enumerate().take(size / 8) {
        *word = user::read(address + index * 8)?;
    }
    for at in (KNOWN..size).step_by(8) {
        if user::read::<u64>(address + at)? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    let [bits, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, _, set_tid_size, _] = words;
    let no_signal = bits & (flags::THREAD | flags::PARENT) != 0;
    let bad = bits & (flags::DETACHED | 0x7f) != 0
        || exit_signal > 64
        || (no_signal && exit_signal != 0)
        || (stack == 0) != (stack_size == 0)
        || !user::in_range(stack as usize, stack_size as usize);
    // Choosing ids is for restoring checkpoints, which needs more than this.
    if bad || set_tid_size != 0 {
        return Err(Errno::EINVAL);
    }
    start(&CloneArgs {
        flags: bits,
        exit_signal: exit_signal as i32,
        stack: (stack + stack_size) as usize,
        parent_tid: parent_tid as usize,
        pidfd: pidfd as usize,
        child_tid: child_tid as usize,
        tls: tls as usize,
    })
}

/// A list of strings, ended by a null pointer.
fn read_strings(address: usize) -> Result<Vec<Vec<u8>>> {
    const MOST_BYTES: usize = 6 << 20;
    const MOST_STRING: usize = 32 * 4096;
    let mut list = Vec::new();
    let mut bytes = 0;
    if address == 0 {
        return Ok(list);
    }
    loop {
        let pointer: usize = user::read(address + list.len() * 8)?;
        if pointer == 0 {
            return Ok(list);
        }
        let text = user::read_cstr(pointer, MOST_STRING).map_err(|error| match error {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            other => other,
        })?;
        bytes += text.len() + 9;
        if bytes > MOST_BYTES {
            return Err(Errno::E2BIG);
        }
        list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        list.push(text);
    }
}

fn read_program(arguments: usize, environment: usize) -> Result<exec::Strings> {
    Ok(exec::Strings { arguments: read_strings(arguments)?, environment: read_strings(environment)? })
}

fn execve(args: &Args) -> Result<u64> {
    let name = read_path(args.usize(0))?;
    let strings = read_program(args.usize(1), args.usize(2))?;
    let path = files::lookup(&name, Resolve::FOLLOW)?;
    exec::execve(&path, name, strings)?;
    Ok(0)
}

fn execveat(args: &Args) -> Result<u64> {
    let (dir, bits) = (args.int(0), args.u32(4));
    if bits & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = read_path(args.usize(1))?;
    let strings = read_program(args.usize(2), args.usize(3))?;
    let mut how = if bits & AT_SYMLINK_NOFOLLOW != 0 { Resolve::empty() } else { Resolve::FOLLOW };
    if bits & AT_EMPTY_PATH != 0 {
        how |= Resolve::EMPTY;
    }
    if dir == AT_FDCWD || name.first() == Some(&b'/') {
        let path = files::lookup(&name, how)?;
        if path.inode()?.kind() == fs::FileType::Symlink {
            return Err(Errno::ELOOP);
        }
        exec::execve(&path, name, strings)?;
        return Ok(0);
    }
    let file = files::get(dir)?;
    let start = file.path().ok_or(Errno::EACCES)?;
    let root = files::with_context(|context| Ok(context.root()))?;
    let path = fs::Walk { root: &root, start, cred: &files::credentials() }.lookup(&name, how)?;
    if path.inode()?.kind() == fs::FileType::Symlink {
        return Err(Errno::ELOOP);
    }
    let shown = match name.is_empty() {
        true => alloc::format!("/dev/fd/{dir}").into_bytes(),
        false => [alloc::format!("/dev/fd/{dir}/").into_bytes(), name].concat(),
    };
    drop((file, root));
    exec::execve(&path, shown, strings)?;
    Ok(0)
}

fn exit(args: &Args) -> Result<u64> {
    exit::exit_thread(ExitStatus::exited(args.int(0)))
}

fn exit_group(args: &Args) -> Result<u64> {
    exit::end_process(ExitStatus::exited(args.int(0)))
}

fn write_usage(address: Option<usize>, found: &Found) -> Result<()> {
    address.map_or(Ok(()), |address| user::write(address, &rusage(&found.usage, 0)))
}

fn wait4(args: &Args) -> Result<u64> {
    use options::*;
    let bits = args.u32(2);
    if bits & !(NOHANG | STOPPED | CONTINUED | NOTHREAD | CLONE | ALL) != 0 {
        return Err(Errno::EINVAL);
    }
    let parent = process::current()?;
    let target = match args.int(0) {
        i32::MIN => return Err(Errno::ESRCH),
        -1 => Target::Any,
        0 => Target::Group(parent.group()),
        pid @ 1.. => Target::Pid(pid as u32),
        group => Target::Group(group.unsigned_abs()),
    };
    let Some(found) = wait::wait(parent, target, bits | EXITED)? else { return Ok(0) };
    if let Some(address) = args.optional(1) {
        user::write::<u32>(address, &found.status)?;
    }
    write_usage(args.optional(3), &found)?;
    Ok(found.pid.into())
}

fn waitid(args: &Args) -> Result<u64> {
    use options::*;
    let bits = args.u32(3);
    let wanted = EXITED | STOPPED | CONTINUED;
    if bits & !(NOHANG | NOWAIT | wanted | NOTHREAD | CLONE | ALL) != 0 || bits & wanted == 0 {
        return Err(Errno::EINVAL);
    }
    let parent = process::current()?;
    let (mut bits, id) = (bits, args.int(1));
    let mut no_wait_error = false;
    let target = match args.int(0) {
        0 => Target::Any,
        1 if id > 0 => Target::Pid(id as u32),
        2 if id > 0 => Target::Group(id as u32),
        2 if id == 0 => Target::Group(parent.group()),
        3 if id >= 0 => {
            let (process, nonblocking) = pidfd::process_of(id)?;
            if nonblocking {
                no_wait_error = bits & NOHANG == 0;
                bits |= NOHANG;
            }
            Target::Pid(process.pid)
        }
        _ => return Err(Errno::EINVAL),
    };
    let found = wait::wait(parent, target, bits)?;
    if found.is_none() && no_wait_error {
        return Err(Errno::EAGAIN);
    }
    if let Some(address) = args.optional(2) {
        // Up to si_status; an empty one if there is nothing.
        let info = found.map_or(SigInfo::default(), |found| found.info);
        let mut bytes = [0u8; 28];
        bytes.copy_from_slice(&info.to_bytes()[..28]);
        user::write_bytes(address, &bytes)?;
    }
    if let Some(found) = &found {
        write_usage(args.optional(4), found)?;
    }
    Ok(0)
}

/// The process of a pid argument; 0 is the caller.
fn target(pid: i32) -> Result<alloc::sync::Arc<Process>> {
    match pid {
        0 => process::current().cloned(),
        1.. => ids::process(pid as u32).ok_or(Errno::ESRCH),
        _ => Err(Errno::ESRCH),
    }
}

fn setpgid(args: &Args) -> Result<u64> {
    let caller = process::current()?;
    let (pid, group) = (args.int(0), args.int(1));
    if group < 0 || pid < 0 {
        return Err(if group < 0 { Errno::EINVAL } else { Errno::ESRCH });
    }
    let pid = if pid == 0 { caller.pid } else { pid as u32 };
    let group = if group == 0 { pid } else { group as u32 };
    tree::set_group(caller, pid, group).map(|()| 0)
}

fn getpgid(args: &Args) -> Result<u64> {
    Ok(target(args.int(0))?.group().into())
}

fn getpgrp(_: &Args) -> Result<u64> {
    Ok(process::current()?.group().into())
}

fn setsid(_: &Args) -> Result<u64> {
    tree::new_session(process::current()?).map(u64::from)
}

fn getsid(args: &Args) -> Result<u64> {
    Ok(target(args.int(0))?.session().into())
}

fn unshare(args: &Args) -> Result<u64> {
    let bits = args.u64(0);
    let known = flags::THREAD | flags::FS | flags::SIGHAND | flags::VM | flags::FILES | flags::SYSVSEM;
    if bits & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let thread = sched::current();
    if bits & (flags::THREAD | flags::SIGHAND | flags::VM) != 0 && process::current()?.thread_count() > 1 {
        return Err(Errno::EINVAL);
    }
    if bits & flags::FILES != 0 {
        let own = thread.ext.files.with(|table| table.as_ref().map(|table| table.duplicate()));
        drop(thread.ext.files.replace(own));
    }
    if bits & flags::FS != 0 {
        let own = thread.ext.fs.with(|context| context.as_ref().map(|context| context.duplicate()));
        drop(thread.ext.fs.replace(own));
    }
    Ok(0)
}

fn pidfd_open(args: &Args) -> Result<u64> {
    const NONBLOCK: u32 = 0o4000;
    let (pid, bits) = (args.int(0), args.u32(1));
    if pid <= 0 || bits & !NONBLOCK != 0 {
        return Err(Errno::EINVAL);
    }
    let process = match ids::process(pid as u32) {
        Some(process) => process,
        // A thread that is not a main one.
        None if process::thread_exists(pid as u32) => return Err(Errno::EINVAL),
        None => return Err(Errno::ESRCH),
    };
    pidfd::open(&process, bits != 0).map(|fd| fd as u64)
}

fn pidfd_send_signal(args: &Args) -> Result<u64> {
    let (signal, info) = (args.int(1), args.optional(2));
    if args.u32(3) != 0 || !(0..=signal::MAX).contains(&signal) {
        return Err(Errno::EINVAL);
    }
    let (target, _) = pidfd::process_of(args.int(0))?;
    let own = process::current()?;
    let info = match info {
        None => SigInfo::sent(signal, code::USER, own.pid, own.credentials().uid.real),
        Some(address) => {
            let info = SigInfo::from_bytes(&user::read(address)?, signal);
            if (info.code >= 0 || info.code == code::TKILL) && target.pid != own.pid {
                return Err(Errno::EPERM);
            }
            info
        }
    };
    if target.is_zombie() {
        return Err(Errno::ESRCH);
    }
    signal::may_signal(&target, signal)?;
    signal::send_process(&target, info).map(|()| 0)
}

fn pidfd_getfd(args: &Args) -> Result<u64> {
    if args.u32(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let (target, _) = pidfd::process_of(args.int(0))?;
    let (own, other) = (process::current()?.credentials(), target.credentials());
    if own.uid.real != other.uid.real && !own.capable(cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let leader = target.leader().ok_or(Errno::ESRCH)?;
    let table = leader.ext.files.peek().ok_or(Errno::ESRCH)?;
    files::install(table.get(args.int(1))?, true).map(|fd| fd as u64)
}

fn ptrace(_: &Args) -> Result<u64> {
    Err(Errno::EPERM)
}

calls! {
    39 getpid, "complete";
    56 clone, "complete but for namespaces (EINVAL), CLONE_PTRACE and CLONE_UNTRACED (ignored: nothing can trace)";
    57 fork, "complete";
    58 vfork, "complete: the parent sleeps until the child execs or ends";
    59 execve, "ELF static, static-PIE and dynamic, #! scripts, set-id bits; no core dump settings";
    60 exit, "complete";
    61 wait4, "complete; ru_maxrss is 0";
    101 ptrace, "none: EPERM";
    109 setpgid, "complete";
    110 getppid, "complete";
    111 getpgrp, "complete";
    112 setsid, "complete";
    121 getpgid, "complete";
    124 getsid, "complete";
    231 exit_group, "complete";
    247 waitid, "P_ALL, P_PID, P_PGID, P_PIDFD; all options";
    272 unshare, "CLONE_FILES, CLONE_FS, CLONE_SYSVSEM; namespaces give EINVAL";
    322 execveat, "AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW";
    424 pidfd_send_signal, "complete for flags 0";
    434 pidfd_open, "PIDFD_NONBLOCK; PIDFD_THREAD gives EINVAL";
    435 clone3, "as clone; set_tid and CLONE_INTO_CGROUP give EINVAL";
    438 pidfd_getfd, "complete";
}
