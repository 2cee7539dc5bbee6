//! Switching, waking, stealing and idling.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use base::Result;
use base::time::now_ns;
use hal_core::cpu as hal;
use hal_core::percpu;

use super::cpu::{self, CpuLocal, RESCHEDULE, SIGNAL};
use super::queue::ThreadRef;
use super::thread::{BLOCKED, DEAD, OFF_CPU, RUNNABLE, RUNNING, Thread};
use super::{current, timer, work};

/// How long a thread runs while others wait, ns.
const SLICE: u64 = 4_000_000;
/// A woken thread preempts only if it is this far behind the running one, ns of virtual runtime.
const WAKE_GRANULARITY: u64 = 1_000_000;
/// How long the idle loop spins before it halts, ns; only with several CPUs, where another may wake us.
const IDLE_POLL: u64 = 5_000;

/// Run time weighed by the nice value: each step is a factor of about 1.25, as in Linux.
pub(super) fn weighted(ns: u64, nice: i32) -> u64 {
    match nice {
        0 => ns,
        1.. => (0..nice).fold(ns, |t, _| t + t / 4),
        _ => (nice..0).fold(ns, |t, _| t - t / 5),
    }
}

/// Runs another thread if one is due, or idles until one is: the only place where a thread leaves its CPU.
///
/// With the caller blocked (see `wait`), returns when it has been woken.
pub fn schedule() {
    work::run_pending();
    let enabled = hal::irq_save();
    loop {
        let cpu = cpu::this();
        let previous = current();
        percpu::this().attention.fetch_and(!RESCHEDULE, Ordering::Relaxed);
        let now = now_ns();
        let delta = cpu::account(cpu, previous, now, false);
        previous.vruntime.fetch_add(weighted(delta, previous.nice()), Ordering::Relaxed);
        let moved = move_away(cpu, previous);
        let next = pick(cpu, previous, moved);
        match next {
            Some(next) if core::ptr::eq(next, previous) => {
                previous.state.store(RUNNING, Ordering::Relaxed);
                break;
            }
            Some(next) => {
                switch_to(cpu, previous, next);
                break;
            }
            // Nothing to run. A blocked thread idles on its own stack; a dead one, or one that another CPU waits to run,
            // hands over to the idle thread.
            None if moved || previous.state.load(Ordering::Relaxed) == DEAD => {
                // SAFETY: on this CPU, interrupts off; the reference ends in this expression.
                let idle = unsafe { cpu.local().idle_thread.as_deref().map(ThreadRef::new) };
                let idle = idle.expect("each CPU has an idle thread").get();
                idle.state.store(RUNNING, Ordering::Relaxed);
                switch_to(cpu, previous, idle);
                break;
            }
            None => idle_once(cpu),
        }
    }
    hal::irq_restore(enabled);
}

/// If the running caller may no longer run here (its affinity changed), queues it elsewhere. True then: it must leave
/// its stack at once, since the other CPU may be waiting for that.
fn move_away(cpu: &CpuLocal, previous: &'static Thread) -> bool {
    let here = percpu::cpu_id();
    if previous.state.load(Ordering::Relaxed) != RUNNING || previous.may_run_on(here) || is_idle_thread(cpu, previous) {
        return false;
    }
    let Some((number, target)) = cpu::all().find(|(n, _)| previous.may_run_on(*n)) else { return false };
    previous.state.store(RUNNABLE, Ordering::Relaxed);
    previous.involuntary.fetch_add(1, Ordering::Relaxed);
    {
        let mut queue = target.queue.lock();
        queue.push(ThreadRef::new(previous), true);
        target.queued.store(queue.len(), Ordering::SeqCst);
    }
    hal_core::platform().cpu().send_reschedule(number);
    true
}

/// Chooses what to run: the first in line, the caller itself if it still wants to run, or a thread
/// stolen from another CPU.
fn pick(cpu: &CpuLocal, previous: &'static Thread, moved: bool) -> Option<&'static Thread> {
    let mut queue = cpu.queue.lock();
    // A running caller gives its place: it goes back in line unless nobody else is there.
    if !moved && previous.state.load(Ordering::Relaxed) == RUNNING && !is_idle_thread(cpu, previous) {
        if queue.len() == 0 {
            return Some(previous);
        }
        previous.state.store(RUNNABLE, Ordering::Relaxed);
        previous.involuntary.fetch_add(1, Ordering::Relaxed);
        queue.push(ThreadRef::new(previous), false);
    }
    let next = queue.pop();
    let others = queue.len();
    cpu.queued.store(others, Ordering::Relaxed);
    drop(queue);
    let next = next.or_else(|| steal(cpu))?.get();
    next.state.store(RUNNING, Ordering::Relaxed);
    if others > 0 {
        start_slice(cpu);
    } else {
        cpu.slice_end.store(u64::MAX, Ordering::Relaxed);
    }
    Some(next)
}

fn is_idle_thread(cpu: &CpuLocal, thread: &Thread) -> bool {
    // SAFETY: on this CPU, interrupts off; the reference ends in this expression.
    unsafe { cpu.local().idle_thread.as_deref().is_some_and(|idle| core::ptr::eq(idle, thread)) }
}

fn start_slice(cpu: &CpuLocal) {
    let end = now_ns() + SLICE;
    cpu.slice_end.store(end, Ordering::Relaxed);
    timer::arm(cpu, end);
}

fn steal(thief: &CpuLocal) -> Option<ThreadRef> {
    let number = percpu::cpu_id();
    let victim = cpu::all().filter(|(n, _)| *n != number).max_by_key(|(_, c)| c.queued.load(Ordering::Relaxed))?.1;
    if victim.queued.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let thread = {
        let mut queue = victim.queue.lock();
        let thread = queue.steal(number)?;
        victim.queued.store(queue.len(), Ordering::Relaxed);
        thread
    };
    thief.queue.lock().adopt(thread);
    thread.get().cpu.store(number as u32, Ordering::Relaxed);
    Some(thread)
}

fn switch_to(cpu: &CpuLocal, previous: &'static Thread, next: &'static Thread) {
    cpu.switches.fetch_add(1, Ordering::Relaxed);
    if previous.state.load(Ordering::Relaxed) == BLOCKED {
        previous.voluntary.fetch_add(1, Ordering::Relaxed);
    }
    previous.save_user_state();
    // Its last CPU may still be on its way out of the thread's stack.
    while next.on_cpu.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    next.on_cpu.store(true, Ordering::Relaxed);
    previous.counted_to.store(OFF_CPU, Ordering::Release);
    next.counted_to.store(cpu.accounted.load(Ordering::Relaxed), Ordering::Release);
    next.cpu.store(percpu::cpu_id() as u32, Ordering::Relaxed);
    if next.space_for_switch().is_some() || previous.state.load(Ordering::Relaxed) == DEAD {
        // A thread without a space runs on the loaded one: it only uses the kernel's half.
        cpu::activate(next.space_for_switch());
    }
    percpu::this().thread.store(core::ptr::from_ref(next).cast_mut().cast(), Ordering::Relaxed);
    // SAFETY: on this CPU, interrupts off; the reference ends before the switch.
    let fpu_is_loaded = unsafe {
        let local = cpu.local();
        local.previous = Some(ThreadRef::new(previous));
        // A state loaded here is stale if the thread ran elsewhere since: then that CPU took ownership.
        let loaded = core::ptr::eq(local.fpu_owner, next) && next.fpu_cpu() == percpu::cpu_id();
        if next.has_user_state() {
            local.fpu_owner = next;
        }
        loaded
    };
    next.load_user_state(fpu_is_loaded);
    next.set_fpu_cpu(percpu::cpu_id());
    // SAFETY: `next` was off its CPU (above), so its stack pointer was saved by a switch or prepared, and this
    // CPU alone took it from a queue. Interrupts are off.
    unsafe { hal::switch(previous.stack_pointer.get(), *next.stack_pointer.get()) };
    finish_switch();
}

/// First act on the new stack: the previous thread's stack is free now.
fn finish_switch() {
    // SAFETY: on this CPU, interrupts off; the reference ends in this expression.
    let previous = unsafe { cpu::this().local().previous.take() };
    let Some(previous) = previous else { return };
    let previous = previous.get();
    let dead = previous.state.load(Ordering::Relaxed) == DEAD;
    previous.on_cpu.store(false, Ordering::Release);
    if cpu::online() > 1 && cpu::this().queued.load(Ordering::Relaxed) > 0 {
        // Threads woken while they were still on this stack could only be queued here; now they may move.
        let here = percpu::cpu_id();
        if let Some((idle, _)) = cpu::all().find(|(n, c)| *n != here && c.idle.load(Ordering::Relaxed)) {
            hal_core::platform().cpu().send_reschedule(idle);
        }
    }
    if dead {
        // SAFETY: on this CPU, interrupts off.
        let local = unsafe { cpu::this().local() };
        if core::ptr::eq(local.fpu_owner, previous) {
            local.fpu_owner = core::ptr::null();
        }
        // SAFETY: the reference that `start` gave the thread to itself; it will not run again.
        cpu::reap_later(cpu::Reap::Thread(unsafe { Arc::from_raw(core::ptr::from_ref(previous)) }));
    }
}

/// First function of every thread made by `Thread::new_user` and `new_kernel`.
pub(super) extern "C" fn thread_main(_argument: usize) -> ! {
    finish_switch();
    hal::irq_restore(true);
    current().run_start()
}

/// Waits once for something to do; interrupts are off before and after.
fn idle_once(cpu: &CpuLocal) {
    let start = now_ns();
    current().counted_to.store(OFF_CPU, Ordering::Release);
    // Ordered against `enqueue`: it queues and then looks at `idle`; we say idle and then look at the queue.
    cpu.idle.store(true, Ordering::SeqCst);
    let due = || {
        cpu.queued.load(Ordering::SeqCst) != 0
            || cpu.pending_work.load(Ordering::Relaxed) != 0
            || percpu::this().attention.load(Ordering::Relaxed) & RESCHEDULE != 0
    };
    if cpu::online() > 1 && !due() {
        cpu.polling.store(true, Ordering::SeqCst);
        hal::irq_restore(true);
        while !due() && now_ns() - start < IDLE_POLL {
            core::hint::spin_loop();
        }
        hal::irq_save();
        cpu.polling.store(false, Ordering::SeqCst);
    }
    if !due() {
        timer::arm_next(cpu);
        hal_core::platform().cpu().idle();
        hal::irq_save();
    }
    cpu.idle.store(false, Ordering::SeqCst);
    let now = now_ns();
    cpu.accounted.store(now, Ordering::Relaxed);
    current().counted_to.store(now, Ordering::Release);
    cpu.idle_ns.store(cpu.idle_ns.load(Ordering::Relaxed) + (now - start), Ordering::Relaxed);
    hal::irq_restore(true);
    work::run_pending();
    hal::irq_save();
}

/// Gives way to others that want to run.
pub fn yield_now() {
    let thread = current();
    let cpu = cpu::this();
    // Behind the others: one that yields wants them to run, not to be picked at once again.
    let behind = cpu.queue.lock().first_vruntime();
    if let Some(first) = behind {
        thread.vruntime.fetch_max(first + 1, Ordering::Relaxed);
    }
    schedule();
}

/// Calls [`schedule`] if a more urgent thread or the end of the slice asks for it, and runs deferred work:
/// for long loops in the kernel.
pub fn schedule_if_needed() {
    let attention = percpu::this().attention.load(Ordering::Relaxed);
    if attention & RESCHEDULE != 0 {
        schedule();
    } else if attention != 0 {
        work::run_pending();
    }
}

/// Makes a blocked thread runnable. Harmless, and cheap, for any other. Callable in interrupts.
pub fn wake(thread: &Thread) {
    if thread.state.compare_exchange(BLOCKED, RUNNABLE, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        enqueue(thread);
    }
}

pub(super) fn start(thread: &Arc<Thread>) {
    // The thread's reference to itself, dropped in `finish_switch` when it is dead.
    core::mem::forget(thread.clone());
    wake(thread);
}

fn choose_cpu(thread: &Thread) -> usize {
    let last = thread.last_cpu();
    // Still on its stack there (idling, or on its way into the switch): it can only go on there.
    if thread.on_cpu.load(Ordering::SeqCst) {
        return last;
    }
    let here = percpu::cpu_id();
    let is_free = |number: usize, cpu: &CpuLocal| {
        cpu.queued.load(Ordering::Relaxed) == 0
            && if number == here {
                // Deferred work in the idle loop wakes somebody: this CPU has nothing else to do.
                current().state.load(Ordering::Relaxed) == BLOCKED || is_idle_thread(cpu, current())
            } else {
                cpu.idle.load(Ordering::Relaxed)
            }
    };
    let last_is_usable = thread.may_run_on(last) && cpu::get(last).online.load(Ordering::Relaxed);
    if last_is_usable && (cpu::online() == 1 || is_free(last, cpu::get(last))) {
        return last;
    }
    if let Some((number, _)) = cpu::all().find(|(n, c)| thread.may_run_on(*n) && is_free(*n, c)) {
        return number;
    }
    if last_is_usable {
        return last;
    }
    cpu::all().find(|(n, _)| thread.may_run_on(*n)).map_or(here, |(n, _)| n)
}

fn enqueue(thread: &Thread) {
    let number = choose_cpu(thread);
    let cpu = cpu::get(number);
    let here = percpu::cpu_id();
    let urgent = {
        let mut queue = cpu.queue.lock();
        if !thread.on_cpu.load(Ordering::Relaxed) {
            thread.cpu.store(number as u32, Ordering::Relaxed);
        }
        queue.push(ThreadRef::new(thread), true);
        cpu.queued.store(queue.len(), Ordering::SeqCst);
        let waiting = thread.vruntime.load(Ordering::Relaxed);
        number == here
            && !cpu.idle.load(Ordering::Relaxed)
            && current().vruntime.load(Ordering::Relaxed) > waiting + WAKE_GRANULARITY
    };
    if number == here {
        if urgent {
            percpu::this().attention.fetch_or(RESCHEDULE, Ordering::Relaxed);
        } else if cpu.slice_end.load(Ordering::Relaxed) == u64::MAX && !cpu.idle.load(Ordering::Relaxed) {
            start_slice(cpu);
        }
    } else if !cpu.polling.load(Ordering::SeqCst) {
        // Idle: it wakes up. Busy: its interrupt handler decides on preemption and starts the slice.
        hal_core::platform().cpu().send_reschedule(number);
    }
}

/// In the handler of another CPU's reschedule request: preempt, or start the slice.
pub(super) fn reschedule_requested() {
    let cpu = cpu::this();
    if cpu.idle.load(Ordering::Relaxed) {
        return;
    }
    let first = cpu.queue.lock().first_vruntime();
    if let Some(first) = first {
        if current().vruntime.load(Ordering::Relaxed) > first + WAKE_GRANULARITY {
            percpu::this().attention.fetch_or(RESCHEDULE, Ordering::Relaxed);
        } else if cpu.slice_end.load(Ordering::Relaxed) == u64::MAX {
            start_slice(cpu);
        }
    }
    if current().interrupted() {
        percpu::this().attention.fetch_or(SIGNAL, Ordering::Relaxed);
    }
}

/// If the thread runs on another CPU, makes that CPU look at it; on this one, marks it.
pub(super) fn kick_if_running(thread: &Thread) {
    if !thread.on_cpu.load(Ordering::SeqCst) {
        return;
    }
    let number = thread.last_cpu();
    if number == percpu::cpu_id() {
        percpu::this().attention.fetch_or(SIGNAL, Ordering::Relaxed);
    } else {
        hal_core::platform().cpu().send_reschedule(number);
    }
}

/// On the way back to the application: what `attention` asks for. Interrupts are enabled. The caller looks
/// at signals (`Thread::interrupted`) itself.
pub fn attend() {
    // An interrupt between the clearing of WORK and the taking of the work leaves the bit set with nothing behind it:
    // so it is cleared here, before the look at what is pending.
    let attention = percpu::this().attention.fetch_and(!(SIGNAL | super::cpu::WORK), Ordering::Relaxed);
    if attention & RESCHEDULE != 0 {
        schedule();
    } else {
        work::run_pending();
    }
}

/// Ends the running thread.
pub fn exit_current() -> ! {
    let thread = current();
    hal::irq_save();
    thread.state.store(DEAD, Ordering::SeqCst);
    schedule();
    unreachable!("a dead thread was scheduled")
}

/// Blocks the running thread unless `ready()` is true after it has said that it sleeps.
/// Returns after a wake-up, whatever the reason.
pub(super) fn block_unless(ready: impl Fn() -> bool) {
    let thread = current();
    thread.state.store(BLOCKED, Ordering::SeqCst);
    if ready() && thread.state.compare_exchange(BLOCKED, RUNNING, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        return;
    }
    // Still blocked, or woken and in the queue already: both end in `schedule`.
    schedule();
}

pub(super) fn new_idle_thread(number: usize) -> Result<Arc<Thread>> {
    let thread = if number == 0 {
        Thread::new_kernel("idle", alloc::boxed::Box::new(|| idle_forever()))?
    } else {
        Thread::adopt("idle")
    };
    thread.set_affinity(super::Affinity::single(number));
    Ok(thread)
}

fn idle_forever() -> ! {
    loop {
        schedule();
    }
}

/// The boot code's thread: on the boot stack of CPU 0.
pub(super) fn adopt_boot_thread() -> Result<()> {
    let thread = Thread::adopt("boot");
    make_current(&thread);
    core::mem::forget(thread);
    cpu::set_online(0);
    Ok(())
}

fn make_current(thread: &Arc<Thread>) {
    thread.state.store(RUNNING, Ordering::SeqCst);
    thread.on_cpu.store(true, Ordering::SeqCst);
    thread.cpu.store(percpu::cpu_id() as u32, Ordering::Relaxed);
    percpu::this().thread.store(Arc::as_ptr(thread).cast_mut().cast(), Ordering::Relaxed);
}

/// First function of CPUs 1.., on the stack of its idle thread, interrupts off.
pub(super) fn secondary_main(number: usize) -> ! {
    let cpu = cpu::get(number);
    // SAFETY: on this CPU, which just started; the reference ends in this expression.
    let idle = unsafe { cpu.local().idle_thread.clone() };
    make_current(&idle.expect("made before the CPU was started"));
    cpu::set_online(number);
    hal::irq_restore(true);
    idle_forever()
}
