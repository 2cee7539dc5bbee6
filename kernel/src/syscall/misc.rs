//! The system as a whole: names, memory and load, limits, random numbers, umask, reboot; what is refused for good.

use alloc::vec::Vec;

use base::time::now_ns;
use base::{Errno, Result, SpinLock};

use super::{Args, calls};
use crate::files;
use crate::mm::{self, user};
use crate::process::credentials::cap;
use crate::process::limits::{Limit, resource};
use crate::process::{self, ExitStatus, Process, exit, ids, random, tree};
use crate::sched;

/// Longest host name.
const NAME_MAX: usize = 64;
/// What `uname` says of the kernel: the release of Linux whose calls these are.
pub const RELEASE: &str = "6.1.0-coracle";

static HOST_NAME: SpinLock<Vec<u8>> = SpinLock::new(Vec::new());
static DOMAIN_NAME: SpinLock<Vec<u8>> = SpinLock::new(Vec::new());

/// The host name.
pub fn host_name() -> Vec<u8> {
    let name = HOST_NAME.lock().clone();
    if name.is_empty() { b"coracle".to_vec() } else { name }
}

/// Sets the host name; cut to what `uname` can show.
pub fn set_host_name(name: &[u8]) {
    *HOST_NAME.lock() = name[..name.len().min(NAME_MAX)].to_vec();
}

/// What `uname -v` and `/proc/version` say.
pub fn version() -> &'static str {
    concat!("#1 SMP Coracle ", env!("CARGO_PKG_VERSION"))
}

fn uname(args: &Args) -> Result<u64> {
    const FIELD: usize = 65;
    let mut domain = DOMAIN_NAME.lock().clone();
    if domain.is_empty() {
        domain = b"(none)".to_vec();
    }
    let host = host_name();
    let fields: [&[u8]; 6] = [b"Linux", &host, RELEASE.as_bytes(), version().as_bytes(), b"x86_64", &domain];
    let mut bytes = [0u8; FIELD * 6];
    for (slot, text) in bytes.chunks_exact_mut(FIELD).zip(fields) {
        let n = text.len().min(FIELD - 1);
        slot[..n].copy_from_slice(&text[..n]);
    }
    user::write_bytes(args.usize(0), &bytes).map(|()| 0)
}

fn set_name(args: &Args, slot: &SpinLock<Vec<u8>>) -> Result<u64> {
    if !process::current()?.credentials().capable(cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(args.int(1)).ok().filter(|len| *len <= NAME_MAX).ok_or(Errno::EINVAL)?;
    let name = user::read_slice::<u8>(args.usize(0), len)?;
    *slot.lock() = name;
    Ok(0)
}

fn sethostname(args: &Args) -> Result<u64> {
    set_name(args, &HOST_NAME)
}

fn setdomainname(args: &Args) -> Result<u64> {
    set_name(args, &DOMAIN_NAME)
}

fn sysinfo(args: &Args) -> Result<u64> {
    const PAGE: u64 = hal_core::PAGE_SIZE as u64;
    let stats = mm::frame::stats();
    let load = (sched::load_average() as u64) << 16;
    let mut words = [0u64; 14];
    words[0] = now_ns() / super::values::SECOND;
    words[1..4].fill(load);
    words[4] = stats.total as u64 * PAGE;
    words[5] = stats.free as u64 * PAGE;
    // Shared memory and swap are 0; then the number of processes (16 bits), the unit being one byte.
    words[10] = tree::alive().min(0xffff) as u64;
    words[13] = 1;
    user::write(args.usize(0), &words).map(|()| 0)
}

fn umask(args: &Args) -> Result<u64> {
    files::with_context(|context| Ok(context.set_umask(args.u32(0)).into()))
}

fn getrandom(args: &Args) -> Result<u64> {
    const KNOWN: u32 = 7;
    let flags = args.u32(2);
    if flags & !KNOWN != 0 || flags & 6 == 6 {
        return Err(Errno::EINVAL);
    }
    let (address, len) = (args.usize(0), args.usize(1).min(i32::MAX as usize));
    let mut buffer = [0u8; 256];
    let mut done = 0;
    while done < len {
        let n = buffer.len().min(len - done);
        random::fill(&mut buffer[..n]);
        match user::write_bytes(address + done, &buffer[..n]) {
            Ok(()) => done += n,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        if done % 65536 == 0 {
            sched::schedule_if_needed();
            if sched::current().interrupted() {
                break;
            }
        }
    }
    Ok(done as u64)
}

fn change_limit(target: &Process, which: usize, new: Limit) -> Result<Limit> {
    if new.soft > new.hard {
        return Err(Errno::EINVAL);
    }
    let privileged = process::current()?.credentials().capable(cap::SYS_RESOURCE);
    if which == resource::NOFILE && new.hard > files::MAX_FD as u64 {
        return Err(Errno::EPERM);
    }
    let old = target.change_limits(|limits| {
        let old = limits.0[which];
        if new.hard > old.hard && !privileged {
            return Err(Errno::EPERM);
        }
        limits.0[which] = new;
        Ok(old)
    })?;
    if let Some(space) = target.space() {
        let bytes = usize::try_from(new.soft).unwrap_or(usize::MAX);
        match which {
            resource::AS => space.set_limit(bytes),
            resource::STACK => space.set_stack_limit(bytes),
            _ => {}
        }
    }
    Ok(old)
}

fn resource_of(number: u32) -> Result<usize> {
    usize::try_from(number).ok().filter(|n| *n < resource::COUNT).ok_or(Errno::EINVAL)
}

fn read_limit(address: usize) -> Result<Limit> {
    let [soft, hard]: [u64; 2] = user::read(address)?;
    Ok(Limit { soft, hard })
}

fn getrlimit(args: &Args) -> Result<u64> {
    let limit = process::current()?.limits().0[resource_of(args.u32(0))?];
    user::write(args.usize(1), &[limit.soft, limit.hard]).map(|()| 0)
}

fn setrlimit(args: &Args) -> Result<u64> {
    let which = resource_of(args.u32(0))?;
    let new = read_limit(args.usize(1))?;
    change_limit(process::current()?, which, new).map(|_| 0)
}

fn prlimit64(args: &Args) -> Result<u64> {
    let which = resource_of(args.u32(1))?;
    let own = process::current()?;
    let target = match args.int(0) {
        0 => own.clone(),
        pid => u32::try_from(pid).ok().and_then(ids::process).ok_or(Errno::ESRCH)?,
    };
    if target.pid != own.pid {
        let (from, to) = (own.credentials(), target.credentials());
        if from.uid.real != to.uid.real && !from.capable(cap::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
    }
    let old = match args.optional(2) {
        Some(address) => change_limit(&target, which, read_limit(address)?)?,
        None => target.limits().0[which],
    };
    args.optional(3).map_or(Ok(()), |address| user::write(address, &[old.soft, old.hard])).map(|()| 0)
}

fn reboot(args: &Args) -> Result<u64> {
    const MAGIC: u32 = 0xfee1_dead;
    const RESTART: u32 = 0x0123_4567;
    const HALT: u32 = 0xcdef_0123;
    const POWER_OFF: u32 = 0x4321_fedc;
    if !process::current()?.credentials().capable(cap::SYS_BOOT) {
        return Err(Errno::EPERM);
    }
    if args.u32(0) != MAGIC || ![672_274_793, 85_072_278, 369_367_448, 537_993_216].contains(&args.u32(1)) {
        return Err(Errno::EINVAL);
    }
    match args.u32(2) {
        // Ctrl-Alt-Del has no meaning here.
        0 | 0x89ab_cdef => Ok(0),
        RESTART => hal_core::platform().power().reboot(),
        HALT | POWER_OFF => exit::end_run(ExitStatus::exited(0)),
        _ => Err(Errno::EINVAL),
    }
}

/// What only hardware access, modules or tracing would need.
fn refuse(_: &Args) -> Result<u64> {
    Err(Errno::EPERM)
}

/// Known, and answered as by a kernel that was built without it: no log line.
fn absent(_: &Args) -> Result<u64> {
    Err(Errno::ENOSYS)
}

macro_rules! same {
    ($target:ident: $($name:ident)*) => {
        $(fn $name(args: &Args) -> Result<u64> { $target(args) })*
    };
}
same!(refuse: iopl ioperm init_module finit_module delete_module kexec_load bpf acct swapon swapoff vhangup open_by_handle_at);
same!(absent: io_uring_setup io_uring_enter io_uring_register perf_event_open userfaultfd modify_ldt kcmp);
same!(absent: set_mempolicy get_mempolicy mbind migrate_pages move_pages add_key request_key keyctl);

calls! {
    63 uname, "complete; the release is that of the Linux whose ABI is followed";
    95 umask, "complete";
    97 getrlimit, "complete";
    99 sysinfo, "complete; the load is that of the moment";
    154 modify_ldt, "none: ENOSYS";
    153 vhangup, "none: EPERM";
    160 setrlimit, "all are kept; AS, DATA, STACK, NOFILE, NPROC, MEMLOCK, SIGPENDING, NICE, FSIZE have an effect";
    163 acct, "none: EPERM";
    167 swapon, "none: EPERM";
    168 swapoff, "none: EPERM";
    169 reboot, "restart, halt, power off; they end the run";
    170 sethostname, "complete";
    171 setdomainname, "complete";
    172 iopl, "none: EPERM";
    173 ioperm, "none: EPERM";
    175 init_module, "none: EPERM";
    176 delete_module, "none: EPERM";
    237 mbind, "none: ENOSYS, one NUMA node";
    238 set_mempolicy, "none: ENOSYS, one NUMA node";
    239 get_mempolicy, "none: ENOSYS, one NUMA node";
    246 kexec_load, "none: EPERM";
    248 add_key, "none: ENOSYS";
    249 request_key, "none: ENOSYS";
    250 keyctl, "none: ENOSYS";
    256 migrate_pages, "none: ENOSYS, one NUMA node";
    279 move_pages, "none: ENOSYS, one NUMA node";
    298 perf_event_open, "none: ENOSYS";
    302 prlimit64, "as setrlimit";
    304 open_by_handle_at, "none: EPERM";
    312 kcmp, "none: ENOSYS";
    313 finit_module, "none: EPERM";
    318 getrandom, "complete";
    321 bpf, "none: EPERM";
    323 userfaultfd, "none: ENOSYS";
    425 io_uring_setup, "none: ENOSYS";
    426 io_uring_enter, "none: ENOSYS";
    427 io_uring_register, "none: ENOSYS";
}
