//! `prctl`, `arch_prctl`, `personality`: settings of the process and of the thread.

use core::sync::atomic::{AtomicU32, Ordering};

use base::{Errno, Result};

use super::{Args, calls};
use crate::mm::user;
use crate::process;
use crate::process::credentials::{ALL_CAPABILITIES, cap};
use crate::process::process::flag;
use crate::process::signal::MAX;
use crate::sched;

/// Sets or clears a bit.
fn assign(word: &AtomicU32, bit: u32, on: bool) {
    if on {
        word.fetch_or(bit, Ordering::Relaxed);
    } else {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

fn is_set(word: &AtomicU32, bit: u32) -> Result<u64> {
    Ok(u64::from(word.load(Ordering::Relaxed) & bit != 0))
}

fn boolean(value: u64) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::EINVAL),
    }
}

fn name(address: usize) -> Result<u64> {
    let mut bytes = [0u8; 16];
    // Up to the zero: the string may end right before memory that is not there.
    for (at, byte) in bytes.iter_mut().take(15).enumerate() {
        *byte = user::read(address + at)?;
        if *byte == 0 {
            break;
        }
    }
    sched::current().set_name(&bytes);
    Ok(0)
}

fn ambient(args: &Args) -> Result<u64> {
    let (operation, number) = (args.u64(1), args.u64(2));
    let own = process::current()?;
    if operation == 4 {
        return own.change_credentials(|cred| {
            cred.ambient = 0;
            Ok(0)
        });
    }
    let bit = 1u64.checked_shl(number as u32).filter(|bit| number < 64 && bit & ALL_CAPABILITIES != 0);
    let bit = bit.ok_or(Errno::EINVAL)?;
    own.change_credentials(|cred| match operation {
        1 => Ok(u64::from(cred.ambient & bit != 0)),
        2 if cred.permitted & cred.inheritable & bit == 0 => Err(Errno::EPERM),
        2 => {
            cred.ambient |= bit;
            Ok(0)
        }
        3 => {
            cred.ambient &= !bit;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    })
}

fn bounding(number: u64, drop: bool) -> Result<u64> {
    let bit = 1u64.checked_shl(number as u32).filter(|bit| number < 64 && bit & ALL_CAPABILITIES != 0);
    let bit = bit.ok_or(Errno::EINVAL)?;
    process::current()?.change_credentials(|cred| {
        if !drop {
            return Ok(u64::from(cred.bounding & bit != 0));
        }
        if !cred.capable(cap::SETPCAP) {
            return Err(Errno::EPERM);
        }
        cred.bounding &= !bit;
        Ok(0)
    })
}

fn prctl(args: &Args) -> Result<u64> {
    let own = process::current()?;
    let thread = sched::current();
    let value = args.u64(1);
    match args.int(0) {
        // PR_SET_PDEATHSIG, PR_GET_PDEATHSIG
        1 => {
            let signal = i32::try_from(value).ok().filter(|s| (0..=MAX).contains(s)).ok_or(Errno::EINVAL)?;
            own.death_signal.store(signal, Ordering::SeqCst);
            Ok(0)
        }
        2 => user::write::<i32>(args.usize(1), &own.death_signal.load(Ordering::SeqCst)).map(|()| 0),
        // PR_GET_DUMPABLE, PR_SET_DUMPABLE
        3 => is_set(&own.flags, flag::DUMPABLE),
        4 => boolean(value).map(|on| assign(&own.flags, flag::DUMPABLE, on)).map(|()| 0),
        // PR_GET_KEEPCAPS, PR_SET_KEEPCAPS
        7 => is_set(&own.flags, flag::KEEP_CAPS),
        8 => boolean(value).map(|on| assign(&own.flags, flag::KEEP_CAPS, on)).map(|()| 0),
        // PR_GET_TIMING, PR_SET_TIMING: statistical
        13 => Ok(0),
        14 if value == 0 => Ok(0),
        // PR_SET_NAME, PR_GET_NAME
        15 => name(args.usize(1)),
        16 => user::write_bytes(args.usize(1), &thread.name()).map(|()| 0),
        // PR_GET_SECCOMP
        21 => Ok(0),
        // PR_CAPBSET_READ, PR_CAPBSET_DROP
        23 => bounding(value, false),
        24 => bounding(value, true),
        // PR_GET_TSC, PR_SET_TSC: always readable
        25 => user::write::<i32>(args.usize(1), &1).map(|()| 0),
        26 if value == 1 => Ok(0),
        // PR_GET_SECUREBITS, PR_SET_SECUREBITS
        27 => Ok(own.credentials().securebits.into()),
        28 => own.change_credentials(|cred| {
            if !cred.capable(cap::SETPCAP) {
                return Err(Errno::EPERM);
            }
            cred.securebits = u32::try_from(value).ok().filter(|bits| bits & !0xff == 0).ok_or(Errno::EPERM)?;
            Ok(0)
        }),
        // PR_SET_TIMERSLACK, PR_GET_TIMERSLACK
        29 => {
            thread.ext.update(|own| own.timer_slack = if value == 0 { 50_000 } else { value });
            Ok(0)
        }
        30 => Ok(thread.ext.own.with(|own| own.timer_slack)),
        // PR_MCE_KILL_GET: the default
        34 => Ok(2),
        // PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER
        36 => {
            own.set_subreaper(value != 0);
            Ok(0)
        }
        37 => user::write::<i32>(args.usize(1), &i32::from(own.is_subreaper())).map(|()| 0),
        // PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS
        38 if value == 1 && args.0[2..5] == [0; 3] => {
            assign(&own.flags, flag::NO_NEW_PRIVS, true);
            Ok(0)
        }
        39 if args.0[1..5] == [0; 4] => is_set(&own.flags, flag::NO_NEW_PRIVS),
        // PR_GET_THP_DISABLE
        42 => Ok(0),
        // PR_CAP_AMBIENT
        47 => ambient(args),
        _ => Err(Errno::EINVAL),
    }
}

fn arch_prctl(args: &Args) -> Result<u64> {
    const SET_GS: i32 = 0x1001;
    const SET_FS: i32 = 0x1002;
    const GET_FS: i32 = 0x1003;
    const GET_GS: i32 = 0x1004;
    let value = args.u64(1);
    match args.int(0) {
        SET_FS if value < crate::mm::USER_END as u64 => {
            hal_core::cpu::set_fs_base(value);
            Ok(0)
        }
        SET_FS => Err(Errno::EPERM),
        GET_FS => user::write::<u64>(args.usize(1), &hal_core::cpu::fs_base()).map(|()| 0),
        // GS is the kernel's own here; no C library uses it on x86-64.
        SET_GS if value == 0 => Ok(0),
        SET_GS => Err(Errno::EPERM),
        GET_GS => user::write::<u64>(args.usize(1), &0).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

fn personality(args: &Args) -> Result<u64> {
    let own = process::current()?;
    let old = own.personality.load(Ordering::Relaxed);
    if args.u32(0) != u32::MAX {
        own.personality.store(args.u32(0), Ordering::Relaxed);
    }
    Ok(old.into())
}

fn seccomp(_: &Args) -> Result<u64> {
    Err(Errno::EINVAL)
}

calls! {
    135 personality, "kept; of its bits ADDR_NO_RANDOMIZE has an effect";
    157 prctl, "names, death signal, dumpable, keepcaps, capabilities, securebits, timer slack, subreaper, no_new_privs, TSC; others EINVAL, seccomp among them";
    158 arch_prctl, "ARCH_SET_FS, ARCH_GET_FS; GS is the kernel's: ARCH_SET_GS gives EPERM";
    317 seccomp, "none: EINVAL, as a kernel without it";
}
