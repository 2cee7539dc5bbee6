//! poll, select, epoll.

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::time::now_ns;
use base::{Errno, Events, Result, Subject};
use fs::File;

use super::{Args, calls};
use crate::files::epoll::{Control, Epoll};
use crate::files::{self, MAX_FD};
use crate::mm::user;
use crate::process::signal::{self, SigSet};
use crate::sched::wait::wait_for_any;

const NVAL: u16 = 0x20;

/// A relative time to a deadline: `None` waits for ever.
fn deadline_ms(timeout: i32) -> Option<u64> {
    u64::try_from(timeout).ok().map(|ms| match ms {
        0 => 0,
        ms => now_ns().saturating_add(ms * 1_000_000),
    })
}

/// As [`deadline_ms`] of a `struct timespec`, if there is one.
fn deadline_timespec(address: Option<usize>) -> Result<Option<u64>> {
    let Some(address) = address else {
        return Ok(None);
    };
    let [sec, nsec]: [i64; 2] = user::read(address)?;
    if sec < 0 || !(0..1_000_000_000).contains(&nsec) {
        return Err(Errno::EINVAL);
    }
    if sec == 0 && nsec == 0 {
        return Ok(Some(0));
    }
    let wait = (sec as u64).saturating_mul(1_000_000_000).saturating_add(nsec as u64);
    Ok(Some(now_ns().saturating_add(wait)))
}

/// A signal mask of a call, if one is given. `EINVAL` for another size than 8.
fn mask(address: Option<usize>, size: usize) -> Result<Option<SigSet>> {
    match address {
        None => Ok(None),
        Some(_) if size != 8 => Err(Errno::EINVAL),
        Some(address) => user::read::<u64>(address).map(Some),
    }
}

/// Waits until `look` counts something, by the subjects of `files`. A deadline of 0 looks once.
fn wait_ready(files: &[Arc<dyn File>], deadline: Option<u64>, mut look: impl FnMut() -> usize) -> Result<usize> {
    let count = look();
    if count > 0 || deadline == Some(0) {
        return Ok(count);
    }
    let subjects: Vec<&Subject> = files.iter().map(|file| file.subject()).collect();
    let result = wait_for_any(&subjects, Events::all(), deadline, || match look() {
        0 => Err(Errno::EAGAIN),
        count => Ok(count),
    });
    match result {
        Err(Errno::ETIMEDOUT) => Ok(0),
        // poll and select are not restarted after a handler ran.
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOHAND),
        other => other,
    }
}

fn poll_list(address: usize, count: usize, deadline: Option<u64>) -> Result<u64> {
    if count as u64 > files::nofile().max(64) {
        return Err(Errno::EINVAL);
    }
    // struct pollfd: descriptor, events (low half of the second word), results (high half).
    let mut list: Vec<[u32; 2]> = user::read_slice(address, count)?;
    let mut open: Vec<Arc<dyn File>> = Vec::new();
    open.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
    // For each entry, which of `open` it is; or none: ignored, or not open.
    let mut which: Vec<Option<usize>> = Vec::new();
    which.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    let mut bad = 0;
    for entry in &mut list {
        entry[1] &= 0xffff;
        let fd = entry[0] as i32;
        which.push(None);
        if fd < 0 {
            continue;
        }
        match files::get(fd) {
            Ok(file) => {
                let last = which.len() - 1;
                which[last] = Some(open.len());
                open.push(file);
            }
            Err(_) => {
                entry[1] |= u32::from(NVAL) << 16;
                bad += 1;
            }
        }
    }
    let deadline = if bad > 0 { Some(0) } else { deadline };
    let always = Events::ERR | Events::HUP;
    let ready = wait_ready(&open, deadline, || {
        let mut ready = 0;
        for (entry, which) in list.iter_mut().zip(&which) {
            let Some(index) = which else { continue };
            let wanted = Events::from_bits_retain(entry[1] & 0xffff) | always;
            let got = open[*index].poll() & wanted;
            entry[1] = entry[1] & 0xffff | got.bits() << 16;
            ready += usize::from(!got.is_empty());
        }
        ready
    });
    let ready = ready?;
    for (index, entry) in list.iter().enumerate() {
        user::write(address + index * 8 + 6, &((entry[1] >> 16) as u16))?;
    }
    Ok((ready + bad) as u64)
}

fn poll(args: &Args) -> Result<u64> {
    poll_list(args.usize(0), args.u32(1) as usize, deadline_ms(args.int(2)))
}

fn ppoll(args: &Args) -> Result<u64> {
    let deadline = deadline_timespec(args.optional(2))?;
    let mask = mask(args.optional(3), args.usize(4))?;
    let result = signal::with_temporary_mask(mask, || poll_list(args.usize(0), args.u32(1) as usize, deadline));
    write_remaining(args.optional(2), deadline, false);
    result
}

/// Linux writes back the time that is left; a failure to do so changes nothing.
fn write_remaining(address: Option<usize>, deadline: Option<u64>, micro: bool) {
    if let (Some(address), Some(deadline)) = (address, deadline) {
        let left = deadline.saturating_sub(now_ns());
        let (sec, rest) = (left / 1_000_000_000, left % 1_000_000_000);
        let _ = user::write(address, &[sec, if micro { rest / 1000 } else { rest }]);
    }
}

fn select_sets(count: i32, sets: [Option<usize>; 3], deadline: Option<u64>) -> Result<u64> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?.min(MAX_FD);
    let words = count.div_ceil(64);
    let wanted_events: [Events; 3] = [
        Events::IN | Events::RDNORM | Events::HUP | Events::ERR,
        Events::OUT | Events::WRNORM | Events::ERR,
        Events::PRI,
    ];
    let mut wanted: [Vec<u64>; 3] = Default::default();
    for (set, address) in wanted.iter_mut().zip(sets) {
        *set = match address {
            Some(address) => user::read_slice(address, words)?,
            None => alloc::vec![0; words],
        };
        if count % 64 != 0
            && let Some(last) = set.last_mut()
        {
            *last &= (1 << (count % 64)) - 1;
        }
    }
    let mut open: Vec<Arc<dyn File>> = Vec::new();
    let mut fds: Vec<usize> = Vec::new();
    for fd in 0..count {
        let bit = 1u64 << (fd % 64);
        if wanted.iter().any(|set| set[fd / 64] & bit != 0) {
            open.push(files::get(fd as i32)?);
            fds.push(fd);
        }
    }
    let mut results: [Vec<u64>; 3] = Default::default();
    let ready = wait_ready(&open, deadline, || {
        let mut ready = 0;
        results = core::array::from_fn(|_| alloc::vec![0; words]);
        for (file, fd) in open.iter().zip(&fds) {
            let got = file.poll();
            let bit = 1u64 << (fd % 64);
            for which in 0..3 {
                if wanted[which][fd / 64] & bit != 0 && got.intersects(wanted_events[which]) {
                    results[which][fd / 64] |= bit;
                    ready += 1;
                }
            }
        }
        ready
    })?;
    for (set, address) in results.iter().zip(sets) {
        if let Some(address) = address {
            user::write_slice(address, set)?;
        }
    }
    Ok(ready as u64)
}

fn select(args: &Args) -> Result<u64> {
    let deadline = match args.optional(4) {
        None => None,
        Some(address) => {
            let [sec, usec]: [i64; 2] = user::read(address)?;
            if sec < 0 || usec < 0 {
                return Err(Errno::EINVAL);
            }
            let wait = (sec as u64).saturating_mul(1_000_000_000).saturating_add((usec as u64).saturating_mul(1000));
            Some(if wait == 0 { 0 } else { now_ns().saturating_add(wait) })
        }
    };
    let result = select_sets(args.int(0), [args.optional(1), args.optional(2), args.optional(3)], deadline);
    write_remaining(args.optional(4), deadline, true);
    result
}

fn pselect6(args: &Args) -> Result<u64> {
    let deadline = deadline_timespec(args.optional(4))?;
    let mask = match args.optional(5) {
        None => None,
        Some(address) => {
            let [set, size]: [usize; 2] = user::read(address)?;
            mask((set != 0).then_some(set), size)?
        }
    };
    let sets = [args.optional(1), args.optional(2), args.optional(3)];
    let result = signal::with_temporary_mask(mask, || select_sets(args.int(0), sets, deadline));
    write_remaining(args.optional(4), deadline, false);
    result
}

fn epoll_create(args: &Args) -> Result<u64> {
    if args.int(0) <= 0 {
        return Err(Errno::EINVAL);
    }
    files::install(Epoll::create(), false).map(|fd| fd as u64)
}

fn epoll_create1(args: &Args) -> Result<u64> {
    const CLOEXEC: u32 = fs::OpenFlags::CLOEXEC.bits();
    if args.u32(0) & !CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    files::install(Epoll::create(), args.u32(0) != 0).map(|fd| fd as u64)
}

fn epoll_ctl(args: &Args) -> Result<u64> {
    let operation = match args.int(1) {
        1 => Some(Control::Add),
        2 => Some(Control::Delete),
        3 => Some(Control::Modify),
        _ => None,
    };
    // struct epoll_event is packed: 32 bits of events, 64 bits of data.
    let (events, data) = if operation == Some(Control::Delete) {
        (0, 0)
    } else {
        let [events, low, high]: [u32; 3] = user::read(args.usize(3))?;
        (events, u64::from(low) | u64::from(high) << 32)
    };
    let set = files::get(args.int(0))?;
    let file = files::get(args.int(2))?;
    if !file.can_epoll() {
        return Err(Errno::EPERM);
    }
    let set = set.as_any().downcast_ref::<Epoll>().ok_or(Errno::EINVAL)?;
    set.control(operation.ok_or(Errno::EINVAL)?, args.int(2), &file, events, data).map(|()| 0)
}

fn wait_events(fd: i32, address: usize, max: i32, deadline: Option<u64>, mask: Option<SigSet>) -> Result<u64> {
    let file = files::get(fd)?;
    let set = file.as_any().downcast_ref::<Epoll>().ok_or(Errno::EINVAL)?;
    let max = usize::try_from(max).ok().filter(|&max| max > 0 && max <= i32::MAX as usize / 12).ok_or(Errno::EINVAL)?;
    if !user::in_range(address, max * 12) {
        return Err(Errno::EFAULT);
    }
    let wait = || {
        let mut at = address;
        set.wait(max, deadline, &mut |events, data| {
            user::write(at, &[events, data as u32, (data >> 32) as u32])?;
            at += 12;
            Ok(())
        })
    };
    let result = match mask {
        None => wait(),
        mask => signal::with_temporary_mask(mask, wait),
    };
    match result {
        Ok(count) => Ok(count as u64),
        Err(Errno::ERESTARTSYS) => Err(Errno::EINTR),
        Err(error) => Err(error),
    }
}

fn epoll_wait(args: &Args) -> Result<u64> {
    wait_events(args.int(0), args.usize(1), args.int(2), deadline_ms(args.int(3)), None)
}

fn epoll_pwait(args: &Args) -> Result<u64> {
    let mask = mask(args.optional(4), args.usize(5))?;
    wait_events(args.int(0), args.usize(1), args.int(2), deadline_ms(args.int(3)), mask)
}

fn epoll_pwait2(args: &Args) -> Result<u64> {
    let deadline = deadline_timespec(args.optional(3))?;
    let mask = mask(args.optional(4), args.usize(5))?;
    wait_events(args.int(0), args.usize(1), args.int(2), deadline, mask)
}

calls! {
    7 poll, "complete";
    23 select, "complete";
    213 epoll_create, "complete";
    232 epoll_wait, "complete";
    233 epoll_ctl, "complete; EPOLLWAKEUP has no effect";
    270 pselect6, "complete";
    271 ppoll, "complete";
    281 epoll_pwait, "complete";
    291 epoll_create1, "complete";
    441 epoll_pwait2, "complete";
}
