//! Clocks and sleeping; CPU times.

use base::time::{now_ns, wall_ns};
use base::{Errno, Result};

use super::values::{read_timespec, rusage, timeval, write_timespec};
use super::{Args, calls};
use crate::mm::user;
use crate::process::credentials::cap;
use crate::process::process::Usage;
use crate::process::thread::Restart;
use crate::process::timers::Clock;
use crate::process::tree::TICKS;
use crate::process::{self, ids};
use crate::sched;

/// The CPU clock of a negative clock id: `~pid << 3`, with the kind in the low bits (uapi linux/posix-timers.h).
pub fn cpu_clock(id: i32) -> Result<Clock> {
    let (pid, per_thread, kind) = (!(id >> 3), id & 4 != 0, id & 3);
    if kind == 3 {
        // A clock that is a descriptor: there are no such devices.
        return Err(Errno::EINVAL);
    }
    let own = process::current()?;
    if per_thread {
        let tid = if pid == 0 { sched::current().tid } else { pid as u32 };
        let thread = ids::thread(tid).ok_or(Errno::EINVAL)?;
        return if thread.process().is_some_and(|p| p.pid == own.pid) {
            Ok(Clock::Thread(tid))
        } else {
            Err(Errno::EINVAL)
        };
    }
    if pid != 0 && pid as u32 != own.pid {
        return Err(Errno::EINVAL);
    }
    Ok(if kind == 1 { Clock::ProcessUser } else { Clock::Process })
}

fn thread_time(tid: u32) -> Result<u64> {
    let (user, system) = ids::thread(tid).ok_or(Errno::EINVAL)?.cpu_times();
    Ok(user + system)
}

/// What clock `id` shows, ns.
fn read_clock(id: i32) -> Result<u64> {
    let usage_sum = |usage: Usage| usage.user_ns + usage.system_ns;
    Ok(match id {
        // Realtime, its coarse form, its alarm form, and TAI (whose offset nobody has set).
        0 | 5 | 8 | 11 => wall_ns(),
        // Monotonic, raw, coarse; boot time, which is the same since the VM never sleeps.
        1 | 4 | 6 | 7 | 9 => now_ns(),
        2 => usage_sum(process::current()?.usage()),
        3 => {
            let (user, system) = sched::current().cpu_times();
            user + system
        }
        id if id < 0 => {
            let pid = !(id >> 3);
            if id & 4 == 0 && id & 3 != 3 && pid > 0 {
                // Another process's clock may be read.
                let usage = ids::process(pid as u32).ok_or(Errno::EINVAL)?.usage();
                return Ok(if id & 3 == 1 { usage.user_ns } else { usage_sum(usage) });
            }
            match cpu_clock(id)? {
                Clock::Thread(tid) => thread_time(tid)?,
                Clock::ProcessUser => process::current()?.usage().user_ns,
                _ => usage_sum(process::current()?.usage()),
            }
        }
        _ => return Err(Errno::EINVAL),
    })
}

fn clock_gettime(args: &Args) -> Result<u64> {
    write_timespec(args.usize(1), read_clock(args.int(0))?).map(|()| 0)
}

fn clock_getres(args: &Args) -> Result<u64> {
    let id = args.int(0);
    read_clock(id)?;
    // The coarse clocks are as fine as the others here, but programs expect a tick.
    let ns = if matches!(id, 5 | 6) { 4_000_000 } else { 1 };
    args.optional(1).map_or(Ok(()), |address| write_timespec(address, ns)).map(|()| 0)
}

/// May the caller set the clock?
fn may_set_time() -> Result<()> {
    if process::current()?.credentials().capable(cap::SYS_TIME) { Ok(()) } else { Err(Errno::EPERM) }
}

fn set_wall(ns: u64) -> Result<u64> {
    may_set_time()?;
    let offset = ns.checked_sub(now_ns()).ok_or(Errno::EINVAL)?;
    hal_core::clock::PARAMS.wall_offset_ns.store(offset, core::sync::atomic::Ordering::Relaxed);
    Ok(0)
}

fn clock_settime(args: &Args) -> Result<u64> {
    match args.int(0) {
        0 => set_wall(read_timespec(args.usize(1))?),
        id => read_clock(id).and(Err(Errno::EINVAL)),
    }
}

fn settimeofday(args: &Args) -> Result<u64> {
    match args.optional(0) {
        Some(address) => set_wall(super::values::read_timeval(user::read(address)?)?),
        // A time zone alone: the kernel keeps none.
        None => may_set_time().map(|()| 0),
    }
}

fn gettimeofday(args: &Args) -> Result<u64> {
    if let Some(address) = args.optional(0) {
        user::write(address, &timeval(wall_ns()))?;
    }
    if let Some(address) = args.optional(1) {
        user::write(address, &[0i32; 2])?;
    }
    Ok(0)
}

fn time(args: &Args) -> Result<u64> {
    let seconds = wall_ns() / super::values::SECOND;
    args.optional(0).map_or(Ok(()), |address| user::write(address, &seconds))?;
    Ok(seconds)
}

/// Sleeps until monotonic `deadline`; if a signal comes, the rest is written and the call can be restarted.
pub fn sleep_relative(deadline: u64, remaining: usize) -> Result<u64> {
    match sched::wait::sleep_until(deadline) {
        Err(Errno::ERESTARTSYS) => {
            if remaining != 0 {
                write_timespec(remaining, deadline.saturating_sub(now_ns()))?;
            }
            sched::current().ext.update(|own| own.restart = Restart::Sleep { deadline, remaining });
            Err(Errno::ERESTART_RESTARTBLOCK)
        }
        done => done.map(|()| 0),
    }
}

fn nanosleep(args: &Args) -> Result<u64> {
    let ns = read_timespec(args.usize(0))?;
    if ns == 0 {
        sched::schedule_if_needed();
        return Ok(0);
    }
    sleep_relative(now_ns().saturating_add(ns), args.usize(1))
}

fn clock_nanosleep(args: &Args) -> Result<u64> {
    const ABSOLUTE: u32 = 1;
    let (id, absolute) = (args.int(0), args.u32(1) & ABSOLUTE != 0);
    let ns = read_timespec(args.usize(2))?;
    if !matches!(id, 0..=2 | 7..=9 | 11) {
        return Err(if id < 0 || id == 3 { Errno::EOPNOTSUPP } else { Errno::EINVAL });
    }
    if id == 2 {
        return sleep_cpu_time(ns, absolute);
    }
    if !absolute {
        return sleep_relative(now_ns().saturating_add(ns), args.usize(3));
    }
    loop {
        let deadline = match id {
            0 | 8 | 11 => now_ns().saturating_add(ns.saturating_sub(wall_ns())),
            _ => ns,
        };
        match sched::wait::sleep_until(deadline) {
            Err(Errno::ERESTARTSYS) => return Err(Errno::ERESTARTNOHAND),
            // The clock may have been set back meanwhile.
            Ok(()) if matches!(id, 0 | 8 | 11) && wall_ns() < ns => {}
            done => return done.map(|()| 0),
        }
    }
}

/// Sleeps on the process's CPU clock: other threads must run for it to end.
fn sleep_cpu_time(ns: u64, absolute: bool) -> Result<u64> {
    let own = process::current()?;
    let now = || {
        let usage = own.usage();
        usage.user_ns + usage.system_ns
    };
    let end = if absolute { ns } else { now().saturating_add(ns) };
    loop {
        let left = end.saturating_sub(now());
        if left == 0 {
            return Ok(0);
        }
        // The clock runs at most as fast as all CPUs together.
        let step = (left / sched::online() as u64).max(100_000);
        if sched::wait::sleep_until(now_ns().saturating_add(step)).is_err() {
            return Err(Errno::ERESTARTNOHAND);
        }
    }
}

fn times(args: &Args) -> Result<u64> {
    let own = process::current()?;
    if let Some(address) = args.optional(0) {
        let (usage, children) = (own.usage(), own.children_usage());
        let ticks = |ns: u64| ns / (super::values::SECOND / TICKS);
        let words = [usage.user_ns, usage.system_ns, children.user_ns, children.system_ns].map(ticks);
        user::write(address, &words)?;
    }
    Ok(now_ns() / (super::values::SECOND / TICKS))
}

fn getrusage(args: &Args) -> Result<u64> {
    let own = process::current()?;
    let peak = || own.space().map_or(0, |space| space.stats().peak * 4);
    let (usage, peak) = match args.int(0) {
        0 => (own.usage(), peak()),
        -1 => (own.children_usage(), 0),
        1 => (Usage::of_thread(sched::current()), peak()),
        _ => return Err(Errno::EINVAL),
    };
    user::write(args.usize(1), &rusage(&usage, peak)).map(|()| 0)
}

/// `struct timex`: what a clock that nobody disciplines reports. Changing anything is refused.
fn adjust(address: usize) -> Result<u64> {
    const SIZE: usize = 208;
    const UNSYNCHRONISED: u64 = 5;
    let mut bytes = [0u8; SIZE];
    user::read_bytes(address, &mut bytes)?;
    if bytes[..4] != [0; 4] {
        may_set_time()?;
        return Err(Errno::EOPNOTSUPP);
    }
    let mut words = [0u64; SIZE / 8];
    // Largest and estimated error (us), status, tolerance, and the time; ticks last 10 ms.
    words[3] = 16_000_000;
    words[4] = 16_000_000;
    words[5] = 64;
    words[6] = 2;
    words[7] = 1;
    words[8] = 32_768_000;
    let now = timeval(wall_ns());
    words[9] = now[0] as u64;
    words[10] = now[1] as u64;
    words[11] = 10_000;
    user::write(address, &words)?;
    Ok(UNSYNCHRONISED)
}

fn adjtimex(args: &Args) -> Result<u64> {
    adjust(args.usize(0))
}

fn clock_adjtime(args: &Args) -> Result<u64> {
    match args.int(0) {
        0 => adjust(args.usize(1)),
        id => read_clock(id).and(Err(Errno::EOPNOTSUPP)),
    }
}

calls! {
    35 nanosleep, "complete";
    96 gettimeofday, "complete; the time zone is UTC";
    98 getrusage, "RUSAGE_SELF, RUSAGE_CHILDREN, RUSAGE_THREAD; no block I/O counts";
    100 times, "complete";
    159 adjtimex, "reading; changes give EOPNOTSUPP";
    164 settimeofday, "complete; time zones are not kept";
    201 time, "complete";
    227 clock_settime, "CLOCK_REALTIME";
    228 clock_gettime, "all clocks but those of devices";
    229 clock_getres, "as clock_gettime";
    230 clock_nanosleep, "complete";
    305 clock_adjtime, "as adjtimex";
}
