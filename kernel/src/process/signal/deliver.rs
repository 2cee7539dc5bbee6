//! Taking signals on the way to the application, and what becomes of an interrupted call.

use core::sync::atomic::Ordering;

use base::Errno;
use hal_core::UserContext;

use super::action::{Action, DEFAULT, flags};
use super::types::{FATAL_WITH_LOG, SIGSEGV, STOPPING, SYNCHRONOUS, SigInfo, name, set_of};
use super::{frame, mask, stop};
use crate::process::{ExitStatus, Process, exit, tree};
use crate::sched;

/// Number of `restart_syscall`.
const RESTART_SYSCALL: u64 = 219;
/// Length of the `syscall` instruction.
const SYSCALL_LENGTH: u64 = 2;

/// A system call that a signal ended: with which error, and its number.
pub type Interrupted = (Errno, u64);

/// Handles everything that waits for the running thread. May not return: the thread or process may end.
/// Interrupts are enabled; the caller holds nothing that must be dropped.
pub fn deliver(context: &mut UserContext, mut call: Option<Interrupted>) {
    let thread = sched::current();
    let Some(process) = thread.process() else { return };
    loop {
        thread.clear_interrupt();
        if process.is_dying() || thread.ext.killed.load(Ordering::SeqCst) {
            exit::exit_thread(ExitStatus::exited(0));
        }
        if process.is_stopped() {
            stop::stop_while_stopped(process);
            continue;
        }
        let blocked = thread.ext.blocked();
        let Some(info) = mask::take(!blocked) else { break };
        let action = process.actions().take(info.signo);
        if action.ignores(info.signo) {
            continue;
        }
        if action.handler == DEFAULT {
            default_action(process, &info, context);
            continue;
        }
        if let Some(call) = call.take() {
            settle(context, call, Some(&action));
        }
        handle(context, &info, &action);
    }
    if let Some(call) = call {
        settle(context, call, None);
    }
    mask::restore_mask();
}

fn handle(context: &mut UserContext, info: &SigInfo, action: &Action) {
    let ext = &sched::current().ext;
    ext.rseq.before_return(context);
    let before = ext.blocked();
    let restored = ext.own.with(|own| own.saved_mask).unwrap_or(before);
    if frame::push(context, info, action, restored).is_err() {
        // No room for a frame: as if the push had been the program's own access.
        if info.signo == SIGSEGV {
            ext.blocked.fetch_or(set_of(SIGSEGV), Ordering::SeqCst);
        }
        super::force(SigInfo::kernel(SIGSEGV));
        return;
    }
    ext.update(|own| own.saved_mask = None);
    let own = if action.flags & flags::NODEFER == 0 { set_of(info.signo) } else { 0 };
    super::set_blocked(before | action.mask | own);
}

/// Decides how an interrupted call goes on: `EINTR` for the program, or the call again.
fn settle(context: &mut UserContext, (error, number): Interrupted, action: Option<&Action>) {
    let again = match (error, action) {
        (Errno::ERESTARTNOINTR, _) | (_, None) => true,
        (Errno::ERESTARTSYS, Some(action)) => action.flags & flags::RESTART != 0,
        _ => false,
    };
    if !again {
        context.rax = Errno::EINTR.to_return();
        return;
    }
    context.rax = if error == Errno::ERESTART_RESTARTBLOCK { RESTART_SYSCALL } else { number };
    context.rip -= SYSCALL_LENGTH;
}

fn default_action(process: &Process, info: &SigInfo, context: &UserContext) {
    let bit = set_of(info.signo);
    if bit & STOPPING != 0 {
        // Nobody could continue an orphaned group: then only SIGSTOP stops (POSIX).
        if info.signo == super::SIGSTOP || !tree::is_orphaned_group(process.group()) {
            stop::stop_process(process, info.signo);
        }
        return;
    }
    if bit & FATAL_WITH_LOG != 0 {
        report(process, info, context);
    }
    exit::end_process(ExitStatus::killed(info.signo));
}

fn report(process: &Process, info: &SigInfo, context: &UserContext) {
    let raw = sched::current().name();
    let length = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
    let comm = core::str::from_utf8(&raw[..length]).unwrap_or("?");
    let (pid, signal, ip) = (process.pid, name(info.signo), context.rip);
    if set_of(info.signo) & SYNCHRONOUS != 0 && info.code > 0 {
        log::error!("{comm}[{pid}]: killed by {signal} at {ip:#x} (address {:#x})", info.payload[0]);
    } else {
        log::error!("{comm}[{pid}]: killed by {signal} at {ip:#x}");
    }
}
