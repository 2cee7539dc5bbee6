//! Signals: actions, masks, sending, waiting, interval and POSIX timers.

use base::time::now_ns;
use base::{Errno, Result};

use super::values::{SECOND, read_sigset, read_timespec, read_timeval, timespec, timeval};
use super::{Args, calls};
use crate::mm::user;
use crate::process::signal::{self, Action, MAX, SigInfo, UNSTOPPABLE, code, set_of};
use crate::process::thread::{AltStack, Restart, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK};
use crate::process::timers::{Clock, Notify, Setting};
use crate::process::{self, ids};
use crate::sched;

fn rt_sigaction(args: &Args) -> Result<u64> {
    let signal = args.int(0);
    if args.usize(3) != 8 || !(1..=MAX).contains(&signal) {
        return Err(Errno::EINVAL);
    }
    let actions = process::current()?.actions();
    // struct sigaction of the kernel: handler, flags, restorer, mask.
    let new = args.optional(1).map(user::read::<[u64; 4]>).transpose()?;
    if new.is_some() && set_of(signal) & UNSTOPPABLE != 0 {
        return Err(Errno::EINVAL);
    }
    let old = match new {
        Some([handler, flags, restorer, mask]) => {
            let action = Action { handler: handler as usize, flags, restorer: restorer as usize, mask };
            let old = actions.set(signal, action);
            if action.ignores(signal) {
                signal::discard(process::current()?, set_of(signal));
            }
            old
        }
        None => actions.get(signal),
    };
    if let Some(address) = args.optional(2) {
        user::write(address, &[old.handler as u64, old.flags, old.restorer as u64, old.mask])?;
    }
    Ok(0)
}

fn rt_sigprocmask(args: &Args) -> Result<u64> {
    if args.usize(3) != 8 {
        return Err(Errno::EINVAL);
    }
    let old = sched::current().ext.blocked();
    if let Some(address) = args.optional(1) {
        let set: u64 = user::read(address)?;
        let new = match args.int(0) {
            0 => old | set,
            1 => old & !set,
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        signal::set_blocked(new);
    }
    args.optional(2).map_or(Ok(()), |address| user::write(address, &old)).map(|()| 0)
}

fn rt_sigreturn(_: &Args) -> Result<u64> {
    let context = sched::current().context();
    if signal::sigreturn(context).is_err() {
        signal::force(SigInfo::kernel(signal::SIGSEGV));
    }
    // The frame's rax is the result, whatever it is.
    Ok(context.rax)
}

fn rt_sigpending(args: &Args) -> Result<u64> {
    let size = args.usize(1);
    if size > 8 {
        return Err(Errno::EINVAL);
    }
    let thread = sched::current();
    let set = signal::pending_of(thread) & thread.ext.blocked();
    user::write_bytes(args.usize(0), &set.to_le_bytes()[..size]).map(|()| 0)
}

fn rt_sigtimedwait(args: &Args) -> Result<u64> {
    let set = read_sigset(args.usize(0), args.usize(3))? & !UNSTOPPABLE;
    let deadline = match args.optional(2) {
        Some(address) => Some(now_ns().saturating_add(read_timespec(address)?)),
        None => None,
    };
    let thread = sched::current();
    let awaited = &thread.ext.awaited;
    awaited.store(set, core::sync::atomic::Ordering::SeqCst);
    let result = loop {
        thread.waiter().reset();
        if let Some(info) = signal::take(set) {
            break Ok(info);
        }
        // Something else that is to be handled ends the wait.
        if thread.interrupted() && signal::must_leave(thread) {
            break Err(Errno::EINTR);
        }
        if thread.interrupted() {
            thread.clear_interrupt();
            continue;
        }
        if deadline.is_some_and(|deadline| now_ns() >= deadline) {
            break Err(Errno::EAGAIN);
        }
        thread.waiter().sleep(deadline);
    };
    awaited.store(0, core::sync::atomic::Ordering::SeqCst);
    if signal::must_leave(thread) {
        thread.interrupt();
    }
    let info = result?;
    if let Some(address) = args.optional(1) {
        user::write_bytes(address, &info.to_bytes())?;
    }
    Ok(info.signo as u64)
}

fn rt_sigsuspend(args: &Args) -> Result<u64> {
    let mask = read_sigset(args.usize(0), args.usize(1))?;
    signal::set_temporary_mask(mask);
    wait_for_signal()
}

fn pause(_: &Args) -> Result<u64> {
    wait_for_signal()
}

fn wait_for_signal() -> Result<u64> {
    let thread = sched::current();
    loop {
        thread.waiter().reset();
        if thread.interrupted() {
            return Err(Errno::ERESTARTNOHAND);
        }
        thread.waiter().sleep(None);
    }
}

fn sigaltstack(args: &Args) -> Result<u64> {
    const MIN_SIZE: usize = 2048;
    let thread = sched::current();
    let sp = thread.context().rsp as usize;
    let old = thread.ext.own.with(|own| own.alt_stack);
    let on_it = old.contains(sp);
    if let Some(address) = args.optional(0) {
        let [base, flags, size]: [u64; 3] = user::read(address)?;
        let flags = flags as i32;
        if on_it {
            return Err(Errno::EPERM);
        }
        let mode = flags & !SS_AUTODISARM;
        if mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0 {
            return Err(Errno::EINVAL);
        }
        let new = if mode == SS_DISABLE {
            AltStack::NONE
        } else if (size as usize) < MIN_SIZE.max(signal::state_size() - 128) {
            return Err(Errno::ENOMEM);
        } else {
            AltStack { address: base as usize, size: size as usize, flags: flags & SS_AUTODISARM }
        };
        thread.ext.update(|own| own.alt_stack = new);
    }
    if let Some(address) = args.optional(1) {
        let flags = old.flags | if on_it { SS_ONSTACK } else { 0 };
        user::write(address, &[old.address as u64, flags as u32 as u64, old.size as u64])?;
    }
    Ok(0)
}

/// Information of a signal that the running process sends.
fn from_caller(signal: i32, code: i32) -> Result<SigInfo> {
    let own = process::current()?;
    Ok(SigInfo::sent(signal, code, own.pid, own.credentials().uid.real))
}

fn valid(signal: i32) -> Result<()> {
    if (0..=MAX).contains(&signal) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn kill(args: &Args) -> Result<u64> {
    let (pid, signal) = (args.int(0), args.int(1));
    valid(signal)?;
    let own = process::current()?;
    let info = from_caller(signal, code::USER)?;
    match pid {
        1.. => {
            let target = ids::process(pid as u32).ok_or(Errno::ESRCH)?;
            signal::may_signal(&target, signal)?;
            signal::send_process(&target, info)?;
        }
        0 => signal::send_group(own.group(), info, true)?,
        -1 => {
            let others = ids::processes().filter(|p| p.pid != 1 && p.pid != own.pid && !p.is_zombie());
            signal::send_all(others, info, true)?;
        }
        i32::MIN => return Err(Errno::ESRCH),
        group => signal::send_group(group.unsigned_abs(), info, true)?,
    }
    Ok(0)
}

/// Sends to one thread, which must be of `process` if that is given.
fn send_to_thread(process: Option<i32>, tid: i32, info: SigInfo) -> Result<u64> {
    if tid <= 0 || process.is_some_and(|pid| pid <= 0) {
        return Err(Errno::EINVAL);
    }
    valid(info.signo)?;
    let thread = ids::thread(tid as u32).ok_or(Errno::ESRCH)?;
    let of = thread.process().ok_or(Errno::ESRCH)?;
    if process.is_some_and(|pid| pid as u32 != of.pid) {
        return Err(Errno::ESRCH);
    }
    signal::may_signal(of, info.signo)?;
    signal::send_thread(&thread, info).map(|()| 0)
}

fn tkill(args: &Args) -> Result<u64> {
    send_to_thread(None, args.int(0), from_caller(args.int(1), code::TKILL)?)
}

fn tgkill(args: &Args) -> Result<u64> {
    send_to_thread(Some(args.int(0)), args.int(1), from_caller(args.int(2), code::TKILL)?)
}

/// A program's own siginfo; only to itself may it pretend to be the kernel or a kill.
fn own_info(address: usize, signal: i32, own: bool) -> Result<SigInfo> {
    let info = SigInfo::from_bytes(&user::read(address)?, signal);
    if (info.code >= 0 || info.code == code::TKILL) && !own { Err(Errno::EPERM) } else { Ok(info) }
}

fn rt_sigqueueinfo(args: &Args) -> Result<u64> {
    let (pid, signal) = (args.int(0), args.int(1));
    let own = process::current()?;
    let info = own_info(args.usize(2), signal, pid == own.pid as i32)?;
    valid(signal)?;
    let target = u32::try_from(pid).ok().and_then(ids::process).ok_or(Errno::ESRCH)?;
    signal::may_signal(&target, signal)?;
    signal::send_process(&target, info).map(|()| 0)
}

fn rt_tgsigqueueinfo(args: &Args) -> Result<u64> {
    let (pid, tid, signal) = (args.int(0), args.int(1), args.int(2));
    let own = process::current()?;
    let info = own_info(args.usize(3), signal, pid == own.pid as i32)?;
    send_to_thread(Some(pid), tid, info)
}

fn alarm(args: &Args) -> Result<u64> {
    let new = Setting { left: u64::from(args.u32(0)) * SECOND, interval: 0 };
    let old = process::current()?.timers.set_interval(0, new)?;
    // Rounded to the nearest second, but never to 0 while it was set.
    let seconds = (old.left + SECOND / 2) / SECOND;
    Ok(if old.left != 0 { seconds.max(1) } else { 0 })
}

fn write_itimer(address: usize, setting: Setting) -> Result<()> {
    let [interval, left] = [timeval(setting.interval), timeval(setting.left.next_multiple_of(1000))];
    user::write(address, &[interval[0], interval[1], left[0], left[1]])
}

fn getitimer(args: &Args) -> Result<u64> {
    let which = usize::try_from(args.int(0)).map_err(|_| Errno::EINVAL)?;
    write_itimer(args.usize(1), process::current()?.timers.get_interval(which)?).map(|()| 0)
}

fn setitimer(args: &Args) -> Result<u64> {
    let which = usize::try_from(args.int(0)).map_err(|_| Errno::EINVAL)?;
    let new = match args.optional(1) {
        Some(address) => {
            let [interval_s, interval_us, left_s, left_us]: [i64; 4] = user::read(address)?;
            Setting { left: read_timeval([left_s, left_us])?, interval: read_timeval([interval_s, interval_us])? }
        }
        // As Linux: a null pointer stops the timer.
        None => Setting::default(),
    };
    let old = process::current()?.timers.set_interval(which, new)?;
    args.optional(2).map_or(Ok(()), |address| write_itimer(address, old)).map(|()| 0)
}

fn timer_create(args: &Args) -> Result<u64> {
    let own = process::current()?;
    let clock = match args.int(0) {
        0 | 8 | 11 => Clock::Realtime,
        1 | 4 | 7 | 9 => Clock::Monotonic,
        2 => Clock::Process,
        3 => Clock::Thread(sched::current().tid),
        id if id < 0 => super::time::cpu_clock(id)?,
        _ => return Err(Errno::EINVAL),
    };
    let notify = match args.optional(1) {
        None => None,
        Some(address) => {
            // struct sigevent: value, signo, notify, thread id.
            let [value, kinds, tid]: [u64; 3] = user::read(address)?;
            let (signal, kind, tid) = (kinds as i32, (kinds >> 32) as i32, tid as u32);
            if kind != 1 && !(1..=MAX).contains(&signal) {
                return Err(Errno::EINVAL);
            }
            Some(match kind {
                // SIGEV_THREAD is the C library's: it becomes a signal to its helper thread.
                0 | 2 => Notify::Process(signal, value),
                1 => Notify::None,
                4 => {
                    let thread = ids::thread(tid).ok_or(Errno::EINVAL)?;
                    if thread.process().is_none_or(|p| p.pid != own.pid) {
                        return Err(Errno::EINVAL);
                    }
                    Notify::Thread(tid, signal, value)
                }
                _ => return Err(Errno::EINVAL),
            })
        }
    };
    let id = own.timers.create(clock, notify)?;
    user::write::<i32>(args.usize(2), &id).inspect_err(|_| {
        let _ = own.timers.delete(id);
    })?;
    Ok(0)
}

fn write_setting(address: usize, setting: Setting) -> Result<()> {
    let [interval, left] = [timespec(setting.interval), timespec(setting.left)];
    user::write(address, &[interval[0], interval[1], left[0], left[1]])
}

fn timer_settime(args: &Args) -> Result<u64> {
    const ABSOLUTE: u32 = 1;
    let new = args.optional(2).ok_or(Errno::EINVAL)?;
    let setting = Setting { interval: read_timespec(new)?, left: read_timespec(new + 16)? };
    let old = process::current()?.timers.set(args.int(0), setting, args.u32(1) & ABSOLUTE != 0)?;
    args.optional(3).map_or(Ok(()), |address| write_setting(address, old)).map(|()| 0)
}

fn timer_gettime(args: &Args) -> Result<u64> {
    let setting = process::current()?.timers.get(args.int(0))?;
    write_setting(args.usize(1), setting).map(|()| 0)
}

fn timer_getoverrun(args: &Args) -> Result<u64> {
    process::current()?.timers.overrun(args.int(0)).map(u64::from)
}

fn timer_delete(args: &Args) -> Result<u64> {
    process::current()?.timers.delete(args.int(0)).map(|()| 0)
}

fn restart_syscall(_: &Args) -> Result<u64> {
    match sched::current().ext.update(|own| core::mem::take(&mut own.restart)) {
        Restart::None => Err(Errno::EINTR),
        Restart::Sleep { deadline, remaining } => super::time::sleep_relative(deadline, remaining),
        Restart::Futex { address, private, expected, deadline, bitset } => {
            super::futex::wait(address, private, expected, Some(deadline), bitset)
        }
    }
}

calls! {
    13 rt_sigaction, "complete";
    14 rt_sigprocmask, "complete";
    15 rt_sigreturn, "complete; the frame is checked";
    34 pause, "complete";
    36 getitimer, "complete";
    37 alarm, "complete";
    38 setitimer, "complete; those of CPU time expire up to a millisecond late";
    62 kill, "complete";
    127 rt_sigpending, "complete";
    128 rt_sigtimedwait, "complete";
    129 rt_sigqueueinfo, "complete";
    130 rt_sigsuspend, "complete";
    131 sigaltstack, "complete, with SS_AUTODISARM";
    200 tkill, "complete";
    219 restart_syscall, "nanosleep, clock_nanosleep, futex";
    222 timer_create, "SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD_ID; real-time, monotonic, boot-time and CPU clocks";
    223 timer_settime, "complete";
    224 timer_gettime, "complete";
    225 timer_getoverrun, "complete";
    226 timer_delete, "complete";
    234 tgkill, "complete";
    297 rt_tgsigqueueinfo, "complete";
}
