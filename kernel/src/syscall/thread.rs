//! Threads: ids, exit notes, scheduling parameters, affinity, names, prctl.

use core::sync::atomic::Ordering;

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::{Errno, Result};
use hal_core::mmu::Flush;
use hal_core::{VirtAddr, platform};

use super::values::write_timespec;
use super::{Args, calls};
use crate::mm::user;
use crate::process::credentials::cap;
use crate::process::{self, Process, ids};
use crate::sched::{self, Affinity, Thread};

fn gettid(_: &Args) -> Result<u64> {
    Ok(sched::current().tid.into())
}

fn set_tid_address(args: &Args) -> Result<u64> {
    let thread = sched::current();
    thread.ext.clear_child_tid.store(args.usize(0), Ordering::SeqCst);
    Ok(thread.tid.into())
}

/// Bytes of `struct robust_list_head`.
const ROBUST_HEAD: usize = 24;

fn set_robust_list(args: &Args) -> Result<u64> {
    if args.usize(1) != ROBUST_HEAD {
        return Err(Errno::EINVAL);
    }
    sched::current().ext.robust_list.store(args.usize(0), Ordering::SeqCst);
    Ok(0)
}

fn get_robust_list(args: &Args) -> Result<u64> {
    let thread = thread_of(args.int(0))?;
    may_change(&thread)?;
    user::write::<usize>(args.usize(2), &ROBUST_HEAD)?;
    user::write::<usize>(args.usize(1), &thread.ext.robust_list.load(Ordering::SeqCst))?;
    Ok(0)
}

/// The thread of an id argument; 0 is the caller. `ESRCH`.
fn thread_of(tid: i32) -> Result<Arc<Thread>> {
    match tid {
        0 => Ok(sched::current_arc()),
        1.. => ids::thread(tid as u32).ok_or(Errno::ESRCH),
        _ => Err(Errno::ESRCH),
    }
}

/// May the caller change another thread's scheduling?
fn may_change(thread: &Thread) -> Result<()> {
    let own = process::current()?.credentials();
    let of = thread.process().ok_or(Errno::EPERM)?.credentials();
    let same = own.uid.effective == of.uid.effective || own.uid.effective == of.uid.real;
    if same || own.capable(cap::SYS_NICE) { Ok(()) } else { Err(Errno::EPERM) }
}

fn rseq(args: &Args) -> Result<u64> {
    const UNREGISTER: u32 = 1;
    let area = &sched::current().ext.rseq;
    let (address, length, signature) = (args.usize(0), args.u32(1), args.u32(3));
    match args.u32(2) {
        0 => area.register(address, length, signature).map(|()| 0),
        UNREGISTER => area.unregister(address, length, signature).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

fn membarrier(args: &Args) -> Result<u64> {
    const GLOBAL: i32 = 1;
    const ALL: i32 = GLOBAL | 2 | 4 | 8 | 16 | 32 | 64;
    if args.u32(1) != 0 {
        return Err(Errno::EINVAL);
    }
    match args.int(0) {
        0 => Ok(ALL as u64),
        // Registrations: everything is prepared always.
        4 | 16 | 64 => Ok(0),
        1 | 2 | 8 | 32 => {
            core::sync::atomic::fence(Ordering::SeqCst);
            let own = hal_core::percpu::cpu_id();
            let mut others = Affinity::EMPTY;
            (0..sched::online()).filter(|cpu| *cpu != own).for_each(|cpu| others.insert(cpu));
            if !others.is_empty() {
                // An interrupt that is waited for orders memory, and synchronises the core, on each of them.
                platform().mmu().flush_cpus(&others, Flush::Range(VirtAddr(0), 1));
            }
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn sched_yield(_: &Args) -> Result<u64> {
    sched::yield_now();
    Ok(0)
}

fn online_words() -> usize {
    sched::online().div_ceil(64)
}

fn sched_setaffinity(args: &Args) -> Result<u64> {
    let thread = thread_of(args.int(0))?;
    let mut words = *Affinity::EMPTY.words();
    let size = args.usize(1).min(words.len() * 8);
    let mut bytes = [0u8; size_of::<Affinity>()];
    user::read_bytes(args.usize(2), &mut bytes[..size])?;
    for (word, piece) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(core::array::from_fn(|i| piece[i]));
    }
    may_change(&thread)?;
    let wanted = Affinity::from_words(words);
    let mut usable = Affinity::EMPTY;
    (0..sched::online()).filter(|cpu| wanted.contains(*cpu)).for_each(|cpu| usable.insert(cpu));
    if usable.is_empty() {
        return Err(Errno::EINVAL);
    }
    thread.set_affinity(usable);
    drop(thread);
    if !usable.contains(hal_core::percpu::cpu_id()) {
        sched::yield_now();
    }
    Ok(0)
}

fn sched_getaffinity(args: &Args) -> Result<u64> {
    let thread = thread_of(args.int(0))?;
    let len = args.usize(1);
    if !len.is_multiple_of(8) || len * 8 < sched::online() {
        return Err(Errno::EINVAL);
    }
    let set = thread.affinity();
    let words = online_words().min(len / 8);
    let mut out = Vec::new();
    for index in 0..words {
        let online = (0..64).filter(|bit| index * 64 + bit < sched::online()).fold(0u64, |m, bit| m | 1 << bit);
        out.push(set.words()[index] & online);
    }
    user::write_slice(args.usize(2), &out)?;
    Ok((words * 8) as u64)
}

const FIFO: u32 = 1;
const RR: u32 = 2;
const RESET_ON_FORK: u32 = 0x4000_0000;

/// Policy and real-time priority of a thread.
fn policy_of(thread: &Thread) -> (u32, i32) {
    let value = thread.ext.policy.load(Ordering::Relaxed);
    (value as u32, (value >> 32) as i32)
}

fn set_policy(thread: &Thread, policy: u32, priority: i32) -> Result<()> {
    let valid = match policy & !RESET_ON_FORK {
        FIFO | RR => (1..=99).contains(&priority),
        // Normal, batch, idle.
        0 | 3 | 5 => priority == 0,
        _ => false,
    };
    if !valid {
        return Err(Errno::EINVAL);
    }
    may_change(thread)?;
    let real_time = matches!(policy & !RESET_ON_FORK, FIFO | RR);
    if real_time && !process::current()?.credentials().capable(cap::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    thread.ext.policy.store(u64::from(policy) | (priority as u64) << 32, Ordering::Relaxed);
    Ok(())
}

fn sched_setparam(args: &Args) -> Result<u64> {
    let priority: i32 = user::read(args.usize(1))?;
    let thread = thread_of(args.int(0))?;
    let (policy, _) = policy_of(&thread);
    set_policy(&thread, policy, priority).map(|()| 0)
}

fn sched_getparam(args: &Args) -> Result<u64> {
    if args.usize(1) == 0 || args.int(0) < 0 {
        return Err(Errno::EINVAL);
    }
    let (_, priority) = policy_of(&*thread_of(args.int(0))?);
    user::write::<i32>(args.usize(1), &priority).map(|()| 0)
}

fn sched_setscheduler(args: &Args) -> Result<u64> {
    if args.int(0) < 0 || args.int(1) < 0 {
        return Err(Errno::EINVAL);
    }
    let priority: i32 = user::read(args.usize(2))?;
    set_policy(&*thread_of(args.int(0))?, args.u32(1), priority).map(|()| 0)
}

fn sched_getscheduler(args: &Args) -> Result<u64> {
    if args.int(0) < 0 {
        return Err(Errno::EINVAL);
    }
    Ok(policy_of(&*thread_of(args.int(0))?).0.into())
}

fn sched_get_priority_max(args: &Args) -> Result<u64> {
    match args.u32(0) {
        FIFO | RR => Ok(99),
        0 | 3 | 5 | 6 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_get_priority_min(args: &Args) -> Result<u64> {
    match args.u32(0) {
        FIFO | RR => Ok(1),
        0 | 3 | 5 | 6 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_rr_get_interval(args: &Args) -> Result<u64> {
    thread_of(args.int(0))?;
    write_timespec(args.usize(1), 4_000_000).map(|()| 0)
}

/// `struct sched_attr`, its first version: 48 bytes.
const ATTR_SIZE: u32 = 48;

fn sched_setattr(args: &Args) -> Result<u64> {
    if args.u32(2) != 0 || args.usize(1) == 0 || args.int(0) < 0 {
        return Err(Errno::EINVAL);
    }
    let [size, policy]: [u32; 2] = user::read(args.usize(1))?;
    if size != 0 && size < ATTR_SIZE {
        return Err(Errno::E2BIG);
    }
    // After size and policy: flags (8 bytes), nice, priority.
    let [flags_low, _, nice, priority]: [u32; 4] = user::read(args.usize(1) + 8)?;
    let thread = thread_of(args.int(0))?;
    let reset = if flags_low & 1 != 0 { RESET_ON_FORK } else { 0 };
    set_policy(&thread, policy | reset, priority as i32)?;
    if policy == 0 || policy == 3 {
        set_nice(&thread, nice as i32)?;
    }
    Ok(0)
}

fn sched_getattr(args: &Args) -> Result<u64> {
    let size = args.u32(2);
    if args.int(0) < 0 || args.u32(3) != 0 || !(ATTR_SIZE..=4096).contains(&size) {
        return Err(Errno::EINVAL);
    }
    let thread = thread_of(args.int(0))?;
    let (policy, priority) = policy_of(&thread);
    let flags = u32::from(policy & RESET_ON_FORK != 0);
    let mut words = [0u32; 12];
    words[..6].copy_from_slice(&[ATTR_SIZE, policy & !RESET_ON_FORK, flags, 0, thread.nice() as u32, priority as u32]);
    user::write(args.usize(1), &words).map(|()| 0)
}

fn set_nice(thread: &Thread, nice: i32) -> Result<()> {
    let nice = nice.clamp(-20, 19);
    may_change(thread)?;
    let own = process::current()?;
    if nice < thread.nice() && !own.credentials().capable(cap::SYS_NICE) {
        // RLIMIT_NICE: 20 - nice may be at most the limit.
        let limit = own.limit(process::limits::resource::NICE);
        if (20 - nice) as u64 > limit {
            return Err(Errno::EACCES);
        }
    }
    thread.set_nice(nice);
    Ok(())
}

/// The threads that `getpriority` and `setpriority` name.
fn selected(which: i32, who: i32) -> Result<Vec<Arc<Thread>>> {
    let of = |wanted: &dyn Fn(&Process) -> bool| {
        ids::processes().filter(|p| wanted(p)).flat_map(|p| p.threads()).collect::<Vec<_>>()
    };
    let own = process::current()?;
    let found = match which {
        0 => return Ok(Vec::from([thread_of(who)?])),
        1 => {
            let group = if who == 0 { own.group() } else { who as u32 };
            of(&|p| p.group() == group)
        }
        2 => {
            let uid = if who == 0 { own.credentials().uid.real } else { who as u32 };
            of(&|p| p.credentials().uid.real == uid)
        }
        _ => return Err(Errno::EINVAL),
    };
    if found.is_empty() { Err(Errno::ESRCH) } else { Ok(found) }
}

fn getpriority(args: &Args) -> Result<u64> {
    let threads = selected(args.int(0), args.int(1))?;
    // As the call gives it: 20 - nice, the highest.
    Ok(threads.iter().map(|thread| (20 - thread.nice()) as u64).max().unwrap_or(20))
}

fn setpriority(args: &Args) -> Result<u64> {
    let threads = selected(args.int(0), args.int(1))?;
    threads.iter().try_for_each(|thread| set_nice(thread, args.int(2))).map(|()| 0)
}

fn ioprio_set(args: &Args) -> Result<u64> {
    if args.int(0) != 1 {
        return if matches!(args.int(0), 2 | 3) { Ok(0) } else { Err(Errno::EINVAL) };
    }
    let class = args.u32(2) >> 13;
    if class > 3 {
        return Err(Errno::EINVAL);
    }
    let thread = thread_of(args.int(1))?;
    may_change(&thread)?;
    thread.ext.io_priority.store(args.int(2), Ordering::Relaxed);
    Ok(0)
}

fn ioprio_get(args: &Args) -> Result<u64> {
    match args.int(0) {
        1 => Ok(thread_of(args.int(1))?.ext.io_priority.load(Ordering::Relaxed) as u64),
        2 | 3 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn getcpu(args: &Args) -> Result<u64> {
    if let Some(address) = args.optional(0) {
        user::write::<u32>(address, &(hal_core::percpu::cpu_id() as u32))?;
    }
    if let Some(address) = args.optional(1) {
        user::write::<u32>(address, &0)?;
    }
    Ok(0)
}

calls! {
    24 sched_yield, "complete";
    140 getpriority, "complete";
    141 setpriority, "complete";
    142 sched_setparam, "kept and reported; the scheduler has no real-time classes";
    143 sched_getparam, "complete";
    144 sched_setscheduler, "kept and reported; the scheduler has no real-time classes";
    145 sched_getscheduler, "complete";
    146 sched_get_priority_max, "complete";
    147 sched_get_priority_min, "complete";
    148 sched_rr_get_interval, "complete";
    186 gettid, "complete";
    203 sched_setaffinity, "complete";
    204 sched_getaffinity, "complete";
    218 set_tid_address, "complete";
    251 ioprio_set, "kept and reported; I/O has no priorities";
    252 ioprio_get, "complete";
    273 set_robust_list, "complete";
    274 get_robust_list, "complete";
    309 getcpu, "complete; one NUMA node";
    314 sched_setattr, "policy, nice, priority; no SCHED_DEADLINE, no utilisation clamps";
    315 sched_getattr, "as sched_setattr";
    324 membarrier, "all commands but the RSEQ ones";
    334 rseq, "complete; no mm_cid, one NUMA node";
}
