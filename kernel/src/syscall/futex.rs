//! futex, futex_waitv: decoding of the operations (uapi/linux/futex.h) and of their timeouts.

use alloc::vec::Vec;

use base::{Errno, Result};

use super::{Args, calls};
use crate::mm;
use crate::process::futex::{self, ANY, WaitWord};
use crate::process::thread::Restart;

const PRIVATE: u32 = 128;
const REALTIME: u32 = 256;

/// A `struct timespec` as monotonic nanoseconds. `realtime`: it counts from 1970; `relative`: from now.
fn deadline(address: Option<usize>, realtime: bool, relative: bool) -> Result<Option<u64>> {
    let Some(address) = address else { return Ok(None) };
    let [seconds, nanoseconds]: [i64; 2] = mm::user::read(address)?;
    if seconds < 0 || !(0..1_000_000_000).contains(&nanoseconds) {
        return Err(Errno::EINVAL);
    }
    let ns = (seconds as u64).saturating_mul(1_000_000_000).saturating_add(nanoseconds as u64);
    let now = base::time::now_ns();
    Ok(Some(match (relative, realtime) {
        (true, _) => now.saturating_add(ns),
        (false, true) => now.saturating_add(ns.saturating_sub(base::time::wall_ns())),
        (false, false) => ns,
    }))
}

/// A plain wait. With an end it is not simply done again after a signal handler: the time would start anew.
pub fn wait(address: usize, private: bool, expected: u32, deadline: Option<u64>, bitset: u32) -> Result<u64> {
    match (futex::wait(address, private, expected, deadline, bitset), deadline) {
        (Err(Errno::ERESTARTSYS), Some(deadline)) => {
            let restart = Restart::Futex { address, private, expected, deadline, bitset };
            crate::sched::current().ext.update(|own| own.restart = restart);
            Err(Errno::ERESTART_RESTARTBLOCK)
        }
        (done, _) => done.map(|()| 0),
    }
}

fn futex(args: &Args) -> Result<u64> {
    let (address, operation, value) = (args.usize(0), args.u32(1), args.u32(2));
    let (address2, value3) = (args.usize(4), args.u32(5));
    // The fourth argument is a timeout, or a second count.
    let value2 = args.u32(3) as usize;
    let private = operation & PRIVATE != 0;
    let realtime = operation & REALTIME != 0;
    let command = operation & !(PRIVATE | REALTIME);
    // Only waits take the other clock; FUTEX_LOCK_PI has always meant it.
    if realtime && !matches!(command, 0 | 9 | 11 | 13) {
        return Err(Errno::ENOSYS);
    }
    let count = |n: u32| n.min(i32::MAX as u32) as usize;
    match command {
        0 => wait(address, private, value, deadline(args.optional(3), realtime, true)?, ANY),
        1 => futex::wake(address, private, count(value).max(1), ANY).map(|n| n as u64),
        3 | 4 => {
            if (value as i32) < 0 || (value2 as i32) < 0 {
                return Err(Errno::EINVAL);
            }
            let expected = (command == 4).then_some(value3);
            let (woken, moved) = futex::requeue(address, address2, private, value as usize, value2, expected)?;
            // Plain requeue reports the woken alone in the manual, but both in the kernel's practice.
            Ok((woken + moved) as u64)
        }
        5 => futex::wake_op(address, address2, private, count(value).max(1), value2, value3).map(|n| n as u64),
        6 => futex::lock_pi(address, private, deadline(args.optional(3), true, false)?).map(|()| 0),
        7 => futex::unlock_pi(address, private).map(|()| 0),
        8 => futex::trylock_pi(address).map(|()| 0),
        9 => wait(address, private, value, deadline(args.optional(3), realtime, false)?, value3),
        10 => futex::wake(address, private, count(value).max(1), value3).map(|n| n as u64),
        11 => {
            let end = deadline(args.optional(3), realtime, false)?;
            futex::wait_requeue_pi(address, address2, private, value, end, ANY).map(|()| 0)
        }
        12 if value != 1 => Err(Errno::EINVAL),
        12 => futex::cmp_requeue_pi(address, address2, private, value2, value3).map(|n| n as u64),
        13 => futex::lock_pi(address, private, deadline(args.optional(3), realtime, false)?).map(|()| 0),
        _ => Err(Errno::ENOSYS),
    }
}

fn futex_waitv(args: &Args) -> Result<u64> {
    let (list, count, flags) = (args.usize(0), args.u32(1) as usize, args.u32(2));
    if flags != 0 || count == 0 || count > 128 || list == 0 {
        return Err(Errno::EINVAL);
    }
    let clock = args.int(4);
    if args.optional(3).is_some() && !matches!(clock, 0 | 1) {
        return Err(Errno::EINVAL);
    }
    let end = deadline(args.optional(3), clock == 0, false)?;
    let mut words = Vec::new();
    words.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    for index in 0..count {
        // struct futex_waitv: value, address, flags, reserved.
        let [expected, address, rest]: [u64; 3] = mm::user::read(list + index * 24)?;
        let (flags, reserved) = (rest as u32, rest >> 32);
        // FUTEX2_SIZE_U32 is 2 and must be given; FUTEX2_PRIVATE is 128.
        if reserved != 0 || flags & !PRIVATE != 2 {
            return Err(Errno::EINVAL);
        }
        words.push(WaitWord { address: address as usize, expected: expected as u32, private: flags & PRIVATE != 0 });
    }
    futex::wait_any(&words, end).map(|index| index as u64)
}

calls! {
    202 futex, "complete; priorities are not inherited (there are no real-time priorities), hand-over is in order of arrival";
    449 futex_waitv, "complete";
}
