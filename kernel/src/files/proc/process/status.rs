//! The state of a process or thread as /proc/PID/status and /proc/PID/stat show it.

use alloc::format;
use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use base::Result;

use super::{TICK_NS, context, name_of, process, table, thread};
use crate::process::Process;
use crate::process::limits::resource;
use crate::sched::Thread;

fn state(process: &Process, thread: Option<&Thread>) -> char {
    if process.is_zombie() {
        'Z'
    } else if process.is_stopped() {
        'T'
    } else {
        thread.map_or('X', |thread| thread.state_letter())
    }
}

fn state_name(letter: char) -> &'static str {
    match letter {
        'R' => "running",
        'S' => "sleeping",
        'D' => "disk sleep",
        'T' => "stopped",
        'Z' => "zombie",
        _ => "dead",
    }
}

pub(super) fn status(pid: u32, tid: u32) -> Result<String> {
    let process = process(pid)?;
    let thread = thread(pid, tid).ok();
    let cred = process.credentials();
    let space = process.space().map(|space| space.stats()).unwrap_or_default();
    let letter = state(&process, thread.as_deref());
    let (pending, blocked) =
        thread.as_ref().map_or((0, 0), |t| (t.ext.pending_mask.load(Ordering::Relaxed), t.ext.blocked()));
    let actions = process.actions();
    let (mut ignored, mut caught) = (0u64, 0u64);
    for signal in 1..=64 {
        match actions.get(signal).handler {
            0 => {}
            1 => ignored |= 1 << (signal - 1),
            _ => caught |= 1 << (signal - 1),
        }
    }
    let ids =
        |ids: &crate::process::credentials::Ids| format!("{}\t{}\t{}\t{}", ids.real, ids.effective, ids.saved, ids.fs);
    let groups: String = cred.groups.iter().map(|g| format!("{g} ")).collect();
    let (voluntary, involuntary) = thread.as_ref().map_or((0, 0), |t| t.switches());
    let slots = table(pid, tid).map_or(0, |table| table.numbers().len().next_power_of_two().max(64));
    let umask = context(pid, tid).map_or(0o22, |context| context.umask());
    let cpus = crate::sched::online();
    let kib = |pages: usize| pages * 4;
    let resident = space.anonymous + space.file;
    let name = thread.as_ref().map_or_else(String::new, |t| name_of(t));
    let shown = thread.as_ref().map_or(pid, |t| if t.tid == tid { tid } else { pid });
    let mut out = format!(
        "Name:\t{name}\nUmask:\t{umask:04o}\nState:\t{letter} ({})\nTgid:\t{pid}\nNgid:\t0\nPid:\t{shown}\nPPid:\t{}\n\
         TracerPid:\t0\nUid:\t{}\nGid:\t{}\nFDSize:\t{slots}\nGroups:\t{groups}\nNStgid:\t{pid}\nNSpid:\t{shown}\n\
         NSpgid:\t{}\nNSsid:\t{}\n",
        state_name(letter),
        process.parent_pid(),
        ids(&cred.uid),
        ids(&cred.gid),
        process.group(),
        process.session(),
    );
    if !process.is_zombie() {
        let rows = [
            ("VmPeak", space.mapped),
            ("VmSize", space.mapped),
            ("VmLck", space.locked),
            ("VmPin", 0),
            ("VmHWM", space.peak),
            ("VmRSS", resident),
            ("RssAnon", space.anonymous),
            ("RssFile", space.file),
            ("RssShmem", 0),
            ("VmData", space.data),
            ("VmStk", space.stack),
            ("VmExe", space.text),
            ("VmLib", 0),
            ("VmPTE", 0),
            ("VmSwap", 0),
        ];
        for (name, pages) in rows {
            let _ = writeln!(out, "{name}:\t{:>8} kB", kib(pages));
        }
    }
    let all = if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 };
    let no_new = u32::from(process.flags.load(Ordering::Relaxed) & crate::process::process::flag::NO_NEW_PRIVS != 0);
    let _ = write!(
        out,
        "CoreDumping:\t0\nTHP_enabled:\t1\nThreads:\t{}\nSigQ:\t0/{}\nSigPnd:\t{pending:016x}\nShdPnd:\t{:016x}\n\
         SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\nCapInh:\t{:016x}\nCapPrm:\t{:016x}\n\
         CapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{no_new}\nSeccomp:\t0\nSeccomp_filters:\t0\n\
         Cpus_allowed:\t{all:x}\nCpus_allowed_list:\t0-{}\nMems_allowed:\t1\nMems_allowed_list:\t0\n\
         voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n",
        process.thread_count(),
        process.limit(resource::SIGPENDING),
        process.pending_mask(),
        cred.inheritable,
        cred.permitted,
        cred.effective,
        cred.bounding,
        cred.ambient,
        cpus - 1,
    );
    Ok(out)
}

pub(super) fn stat(pid: u32, tid: u32, whole: bool) -> Result<String> {
    let process = process(pid)?;
    let thread = thread(pid, tid).ok();
    let letter = state(&process, thread.as_deref());
    let usage = match (&thread, whole) {
        (Some(thread), false) => crate::process::process::Usage::of_thread(thread),
        _ => process.usage(),
    };
    let children = process.children_usage();
    let space = process.space().map(|space| space.stats()).unwrap_or_default();
    let tty = crate::files::controlling::of(process.session());
    let (tty_number, foreground) = tty.map_or((0, -1), |tty| (tty.number() as i64, i64::from(tty.foreground() as i32)));
    let nice = thread.as_ref().map_or(0, |t| t.nice());
    let program = process.program();
    let limit = process.limit(resource::AS);
    let name = thread.as_ref().map_or_else(String::new, |t| name_of(t));
    let cpu = thread.as_ref().map_or(0, |t| t.last_cpu());
    let shown = if whole { pid } else { tid };
    let exit_signal = process.exit_signal.load(Ordering::Relaxed);
    Ok(format!(
        "{shown} ({name}) {letter} {} {} {} {tty_number} {foreground} 4194304 {} {} 0 0 {} {} {} {} {} {nice} {} 0 {} {} {} \
         {limit} 0 0 {} 0 0 0 0 0 0 0 0 0 {exit_signal} {cpu} 0 0 0 0 0 0 0 0 {} {} {} {} 0\n",
        process.parent_pid(),
        process.group(),
        process.session(),
        usage.faults,
        children.faults,
        usage.user_ns / TICK_NS,
        usage.system_ns / TICK_NS,
        children.user_ns / TICK_NS,
        children.system_ns / TICK_NS,
        20 + nice,
        process.thread_count(),
        process.started_ns / TICK_NS,
        space.mapped * 4096,
        space.anonymous + space.file,
        program.stack,
        program.arguments.0,
        program.arguments.1,
        program.environment.0,
        program.environment.1,
    ))
}
