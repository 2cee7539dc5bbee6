//! Users, groups and capabilities.

use alloc::sync::Arc;

use base::{Errno, Result};

use super::{Args, calls};
use crate::mm::user;
use crate::process::credentials::{Credentials, Ids, cap};
use crate::process::process::flag;
use crate::process::{self, ids};

const NONE: u32 = u32::MAX;

fn credentials() -> Result<Arc<Credentials>> {
    Ok(process::current()?.credentials())
}

fn getuid(_: &Args) -> Result<u64> {
    Ok(credentials()?.uid.real.into())
}

fn geteuid(_: &Args) -> Result<u64> {
    Ok(credentials()?.uid.effective.into())
}

fn getgid(_: &Args) -> Result<u64> {
    Ok(credentials()?.gid.real.into())
}

fn getegid(_: &Args) -> Result<u64> {
    Ok(credentials()?.gid.effective.into())
}

/// Users or groups.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Group,
}

/// Changes one set of ids with `f`, which knows whether the caller is privileged.
fn change(kind: Kind, f: impl FnOnce(&mut Ids, bool) -> Result<()>) -> Result<u64> {
    let own = process::current()?;
    let keep = own.flags.load(core::sync::atomic::Ordering::Relaxed) & flag::KEEP_CAPS != 0;
    own.change_credentials(|cred| {
        match kind {
            Kind::User => {
                let (old, privileged) = (cred.uid, cred.capable(cap::SETUID));
                f(&mut cred.uid, privileged)?;
                cred.after_uid_change(old, keep);
            }
            Kind::Group => {
                let privileged = cred.capable(cap::SETGID);
                f(&mut cred.gid, privileged)?;
            }
        }
        Ok(0)
    })
}

fn set_one(kind: Kind, id: u32) -> Result<u64> {
    if id == NONE {
        return Err(Errno::EINVAL);
    }
    change(kind, |ids, privileged| {
        if privileged {
            *ids = Ids { real: id, effective: id, saved: id, fs: id };
        } else if id == ids.real || id == ids.saved {
            (ids.effective, ids.fs) = (id, id);
        } else {
            return Err(Errno::EPERM);
        }
        Ok(())
    })
}

fn set_two(kind: Kind, real: u32, effective: u32) -> Result<u64> {
    change(kind, |ids, privileged| {
        let old = *ids;
        if real != NONE {
            if !privileged && real != old.real && real != old.effective {
                return Err(Errno::EPERM);
            }
            ids.real = real;
        }
        if effective != NONE {
            if !privileged && ![old.real, old.effective, old.saved].contains(&effective) {
                return Err(Errno::EPERM);
            }
            ids.effective = effective;
        }
        if real != NONE || (effective != NONE && effective != old.real) {
            ids.saved = ids.effective;
        }
        ids.fs = ids.effective;
        Ok(())
    })
}

fn set_three(kind: Kind, args: &Args) -> Result<u64> {
    let wanted = [args.u32(0), args.u32(1), args.u32(2)];
    change(kind, |ids, privileged| {
        let old = [ids.real, ids.effective, ids.saved];
        if !privileged && wanted.iter().any(|id| *id != NONE && !old.contains(id)) {
            return Err(Errno::EPERM);
        }
        let pick = |n: usize| if wanted[n] == NONE { old[n] } else { wanted[n] };
        *ids = Ids { real: pick(0), effective: pick(1), saved: pick(2), fs: pick(1) };
        Ok(())
    })
}

fn get_three(args: &Args, ids: Ids) -> Result<u64> {
    for (n, id) in [ids.real, ids.effective, ids.saved].iter().enumerate() {
        user::write::<u32>(args.usize(n), id)?;
    }
    Ok(0)
}

fn set_fs(kind: Kind, id: u32) -> Result<u64> {
    let cred = credentials()?;
    let old = if kind == Kind::User { cred.uid.fs } else { cred.gid.fs };
    // Never an error: the old id is the result in any case.
    let _ = change(kind, |ids, privileged| {
        if id != NONE && (privileged || [ids.real, ids.effective, ids.saved, ids.fs].contains(&id)) {
            ids.fs = id;
        }
        Ok(())
    });
    Ok(old.into())
}

fn setuid(args: &Args) -> Result<u64> {
    set_one(Kind::User, args.u32(0))
}

fn setgid(args: &Args) -> Result<u64> {
    set_one(Kind::Group, args.u32(0))
}

fn setreuid(args: &Args) -> Result<u64> {
    set_two(Kind::User, args.u32(0), args.u32(1))
}

fn setregid(args: &Args) -> Result<u64> {
    set_two(Kind::Group, args.u32(0), args.u32(1))
}

fn setresuid(args: &Args) -> Result<u64> {
    set_three(Kind::User, args)
}

fn setresgid(args: &Args) -> Result<u64> {
    set_three(Kind::Group, args)
}

fn getresuid(args: &Args) -> Result<u64> {
    get_three(args, credentials()?.uid)
}

fn getresgid(args: &Args) -> Result<u64> {
    get_three(args, credentials()?.gid)
}

fn setfsuid(args: &Args) -> Result<u64> {
    set_fs(Kind::User, args.u32(0))
}

fn setfsgid(args: &Args) -> Result<u64> {
    set_fs(Kind::Group, args.u32(0))
}

const MOST_GROUPS: usize = 65536;

fn getgroups(args: &Args) -> Result<u64> {
    let size = usize::try_from(args.int(0)).map_err(|_| Errno::EINVAL)?;
    let cred = credentials()?;
    if size != 0 {
        if size < cred.groups.len() {
            return Err(Errno::EINVAL);
        }
        user::write_slice(args.usize(1), &cred.groups)?;
    }
    Ok(cred.groups.len() as u64)
}

fn setgroups(args: &Args) -> Result<u64> {
    if !credentials()?.capable(cap::SETGID) {
        return Err(Errno::EPERM);
    }
    let size = usize::try_from(args.int(0)).ok().filter(|n| *n <= MOST_GROUPS).ok_or(Errno::EINVAL)?;
    let groups: Arc<[u32]> = user::read_slice(args.usize(1), size)?.into();
    process::current()?.change_credentials(|cred| {
        cred.groups = groups;
        Ok(0)
    })
}

/// Version 3 of the capability structures has two 32-bit halves, version 1 only the lower one.
fn halves(address: usize) -> Result<usize> {
    match user::read::<u32>(address)? {
        0x1998_0330 => Ok(1),
        0x2007_1026 | 0x2008_0522 => Ok(2),
        _ => {
            user::write::<u32>(address, &0x2008_0522)?;
            Err(Errno::EINVAL)
        }
    }
}

fn capget(args: &Args) -> Result<u64> {
    let halves = match halves(args.usize(0)) {
        // Asking for the version alone is allowed.
        Err(Errno::EINVAL) if args.optional(1).is_none() => return Ok(0),
        other => other?,
    };
    let pid: i32 = user::read(args.usize(0) + 4)?;
    let cred = match pid {
        0 => credentials()?,
        1.. => {
            let process = ids::process(pid as u32)
                .or_else(|| ids::thread(pid as u32).and_then(|thread| thread.process().cloned()));
            process.ok_or(Errno::ESRCH)?.credentials()
        }
        _ => return Err(Errno::EINVAL),
    };
    let Some(data) = args.optional(1) else { return Ok(0) };
    for half in 0..halves {
        let part = |set: u64| (set >> (32 * half)) as u32;
        let words = [part(cred.effective), part(cred.permitted), part(cred.inheritable)];
        user::write(data + half * 12, &words)?;
    }
    Ok(0)
}

fn capset(args: &Args) -> Result<u64> {
    let halves = halves(args.usize(0))?;
    let pid: i32 = user::read(args.usize(0) + 4)?;
    let own = process::current()?;
    if pid != 0 && pid as u32 != own.pid && pid as u32 != crate::sched::current().tid {
        return Err(Errno::EPERM);
    }
    let (mut effective, mut permitted, mut inheritable) = (0u64, 0u64, 0u64);
    for half in 0..halves {
        let words: [u32; 3] = user::read(args.usize(1) + half * 12)?;
        effective |= u64::from(words[0]) << (32 * half);
        permitted |= u64::from(words[1]) << (32 * half);
        inheritable |= u64::from(words[2]) << (32 * half);
    }
    own.change_credentials(|cred| {
        let most_inheritable =
            cred.inheritable | if cred.capable(cap::SETPCAP) { cred.bounding } else { cred.permitted };
        if permitted & !cred.permitted != 0 || effective & !permitted != 0 || inheritable & !most_inheritable != 0 {
            return Err(Errno::EPERM);
        }
        (cred.effective, cred.permitted, cred.inheritable) = (effective, permitted, inheritable);
        cred.ambient &= permitted & inheritable;
        Ok(0)
    })
}

calls! {
    102 getuid, "complete";
    104 getgid, "complete";
    105 setuid, "complete; ids belong to the process, not to the thread";
    106 setgid, "as setuid";
    107 geteuid, "complete";
    108 getegid, "complete";
    113 setreuid, "as setuid";
    114 setregid, "as setuid";
    115 getgroups, "complete";
    116 setgroups, "as setuid";
    117 setresuid, "as setuid";
    118 getresuid, "complete";
    119 setresgid, "as setuid";
    120 getresgid, "complete";
    122 setfsuid, "as setuid";
    123 setfsgid, "as setuid";
    125 capget, "complete";
    126 capset, "as setuid";
}
