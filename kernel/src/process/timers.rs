//! Interval timers and POSIX timers of a process.
//!
//! All are scheduler timers, whose callback runs as deferred work. CPU time passes at most as fast as all CPUs together, so
//! a timer of CPU time looks again when it can expire at the earliest.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};

use base::time::now_ns;
use base::{Errno, Result, SpinLock};

use super::signal::{self, SIGALRM, SIGPROF, SIGVTALRM, SigInfo, code};
use super::{Process, ids};
use crate::sched;
use crate::sched::timer::Timer;

/// What a timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time since boot.
    Monotonic,
    /// Time since 1970.
    Realtime,
    /// CPU time of the process, in the application only.
    ProcessUser,
    /// CPU time of the process.
    Process,
    /// CPU time of this thread.
    Thread(u32),
}

impl Clock {
    /// What it shows now, ns.
    fn now(self, process: &Process) -> u64 {
        match self {
            Self::Monotonic => now_ns(),
            Self::Realtime => base::time::wall_ns(),
            Self::ProcessUser => process.usage().user_ns,
            Self::Process => {
                let usage = process.usage();
                usage.user_ns + usage.system_ns
            }
            Self::Thread(tid) => ids::thread(tid).map_or(0, |thread| {
                let (user, system) = thread.cpu_times();
                user + system
            }),
        }
    }
}

/// What happens at the expiry of a POSIX timer.
#[derive(Clone, Copy, Debug)]
pub enum Notify {
    /// Nothing.
    None,
    /// This signal with this value to the process.
    Process(i32, u64),
    /// The same to one thread.
    Thread(u32, i32, u64),
}

/// Time left and interval, ns; 0 left: not armed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Until the next expiry.
    pub left: u64,
    /// Between expiries; 0 for one alone.
    pub interval: u64,
}

struct State {
    /// When it expires next, on its clock; `None` if it is not armed.
    deadline: Option<u64>,
    interval: u64,
    /// Expiries since the last signal was taken.
    pending: u32,
    /// A signal of it waits in a queue.
    queued: bool,
    /// Expiries beyond the one signalled, of the signal taken last (`timer_getoverrun`).
    overrun: u32,
}

struct PosixTimer {
    id: i32,
    clock: Clock,
    notify: Notify,
    process: Weak<Process>,
    state: SpinLock<State>,
    timer: Timer,
}

impl PosixTimer {
    fn new(id: i32, clock: Clock, notify: Notify, process: Weak<Process>) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| {
            let this = this.clone();
            let state = State { deadline: None, interval: 0, pending: 0, queued: false, overrun: 0 };
            let timer = Timer::new(Arc::new(move || {
                if let Some(timer) = this.upgrade() {
                    timer.check();
                }
            }));
            Self { id, clock, notify, process, state: SpinLock::new(state), timer }
        })
    }

    /// Arms the scheduler's timer for the deadline, or for the next look.
    fn arm(&self, deadline: u64) {
        match self.clock {
            Clock::Monotonic => self.timer.set(deadline),
            Clock::Realtime => {
                self.timer.set(now_ns().saturating_add(deadline.saturating_sub(base::time::wall_ns())));
            }
            _ => {
                let left =
                    self.process.upgrade().map_or(0, |process| deadline.saturating_sub(self.clock.now(&process)));
                let step = left / sched::online() as u64;
                self.timer.set(now_ns().saturating_add(step.max(CPU_STEP)));
            }
        }
    }

    /// Sends the signal if the deadline has passed, and goes on to the next one.
    fn check(&self) {
        let Some(process) = self.process.upgrade() else { return };
        let now = self.clock.now(&process);
        let send = {
            let mut state = self.state.lock();
            let Some(deadline) = state.deadline else { return };
            if deadline > now {
                self.arm(deadline);
                return;
            }
            let expiries = match state.interval {
                0 => 1,
                interval => (now - deadline) / interval + 1,
            };
            state.deadline = (state.interval != 0).then(|| deadline + expiries * state.interval);
            state.pending = state.pending.saturating_add(u32::try_from(expiries).unwrap_or(u32::MAX));
            if let Some(next) = state.deadline {
                self.arm(next);
            }
            !core::mem::replace(&mut state.queued, true)
        };
        if send && self.send(&process).is_err() {
            self.state.lock().queued = false;
        }
    }

    fn send(&self, process: &Arc<Process>) -> Result<()> {
        match self.notify {
            Notify::None => Err(Errno::EAGAIN),
            Notify::Process(signal, value) => signal::send_process(process, SigInfo::timer(signal, self.id, value)),
            Notify::Thread(tid, signal, value) => {
                let thread = ids::thread(tid).ok_or(Errno::ESRCH)?;
                signal::send_thread(&thread, SigInfo::timer(signal, self.id, value))
            }
        }
    }

    fn setting(&self, process: &Process) -> Setting {
        let state = self.state.lock();
        let (deadline, interval) = (state.deadline, state.interval);
        drop(state);
        let now = self.clock.now(process);
        Setting { left: deadline.map_or(0, |deadline| deadline.saturating_sub(now).max(1)), interval }
    }

    fn set(&self, process: &Process, new: Setting, absolute: bool) -> Setting {
        let old = self.setting(process);
        let base = if absolute { 0 } else { self.clock.now(process) };
        let deadline = (new.left != 0).then(|| base.saturating_add(new.left));
        {
            let mut state = self.state.lock();
            state.deadline = deadline;
            state.interval = new.interval;
            state.pending = 0;
            state.overrun = 0;
        }
        self.timer.cancel();
        if let Some(deadline) = deadline {
            self.arm(deadline);
        }
        old
    }
}

/// The timers of one process.
pub struct Timers {
    process: Weak<Process>,
    /// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`; made at first use.
    intervals: SpinLock<[Option<Arc<PosixTimer>>; 3]>,
    posix: SpinLock<BTreeMap<i32, Arc<PosixTimer>>>,
}

/// How often a timer of CPU time looks at least, ns.
const CPU_STEP: u64 = 1_000_000;
/// Most POSIX timers of a process.
const MOST: usize = 4096;
/// Ids of the interval timers, which no POSIX timer has.
const INTERVAL_ID: i32 = -1;

impl Timers {
    pub(super) fn new(process: Weak<Process>) -> Self {
        Self { process, intervals: SpinLock::new([None, None, None]), posix: SpinLock::new(BTreeMap::new()) }
    }

    fn interval(&self, which: usize) -> Result<Arc<PosixTimer>> {
        const KINDS: [(Clock, i32); 3] =
            [(Clock::Monotonic, SIGALRM), (Clock::ProcessUser, SIGVTALRM), (Clock::Process, SIGPROF)];
        let (clock, signal) = *KINDS.get(which).ok_or(Errno::EINVAL)?;
        let mut intervals = self.intervals.lock();
        let slot = &mut intervals[which];
        let timer = slot.get_or_insert_with(|| {
            PosixTimer::new(INTERVAL_ID - which as i32, clock, Notify::Process(signal, 0), self.process.clone())
        });
        Ok(timer.clone())
    }

    /// `getitimer`.
    pub fn get_interval(&self, which: usize) -> Result<Setting> {
        let timer = self.interval(which)?;
        let process = self.process.upgrade().ok_or(Errno::ESRCH)?;
        Ok(timer.setting(&process))
    }

    /// `setitimer`; returns the old setting.
    pub fn set_interval(&self, which: usize, new: Setting) -> Result<Setting> {
        let timer = self.interval(which)?;
        let process = self.process.upgrade().ok_or(Errno::ESRCH)?;
        Ok(timer.set(&process, new, false))
    }

    /// `timer_create`; returns the id. Without `notify`: `SIGALRM` with the id as its value.
    pub fn create(&self, clock: Clock, notify: Option<Notify>) -> Result<i32> {
        let mut posix = self.posix.lock();
        if posix.len() >= MOST {
            return Err(Errno::EAGAIN);
        }
        let mut id = 0;
        while posix.contains_key(&id) {
            id += 1;
        }
        let notify = notify.unwrap_or(Notify::Process(SIGALRM, id as u64));
        posix.insert(id, PosixTimer::new(id, clock, notify, self.process.clone()));
        Ok(id)
    }

    fn find(&self, id: i32) -> Result<(Arc<PosixTimer>, Arc<Process>)> {
        let timer = self.posix.lock().get(&id).cloned().ok_or(Errno::EINVAL)?;
        Ok((timer, self.process.upgrade().ok_or(Errno::ESRCH)?))
    }

    /// `timer_settime`; returns the old setting.
    pub fn set(&self, id: i32, new: Setting, absolute: bool) -> Result<Setting> {
        let (timer, process) = self.find(id)?;
        Ok(timer.set(&process, new, absolute))
    }

    /// `timer_gettime`.
    pub fn get(&self, id: i32) -> Result<Setting> {
        let (timer, process) = self.find(id)?;
        Ok(timer.setting(&process))
    }

    /// `timer_getoverrun`.
    pub fn overrun(&self, id: i32) -> Result<u32> {
        Ok(self.find(id)?.0.state.lock().overrun)
    }

    /// `timer_delete`.
    pub fn delete(&self, id: i32) -> Result<()> {
        let gone = self.posix.lock().remove(&id).ok_or(Errno::EINVAL)?;
        gone.timer.cancel();
        Ok(())
    }

    /// Deletes all POSIX timers: at an exec.
    pub fn delete_posix(&self) {
        let gone = core::mem::take(&mut *self.posix.lock());
        for timer in gone.values() {
            timer.timer.cancel();
        }
    }

    /// Stops everything: at the end.
    pub fn cancel_all(&self) {
        self.delete_posix();
        let gone = core::mem::take(&mut *self.intervals.lock());
        for timer in gone.into_iter().flatten() {
            timer.timer.cancel();
        }
    }

    /// A signal is about to be delivered: one of a timer learns how many expiries it stands for.
    pub(super) fn signal_taken(&self, mut info: SigInfo) -> SigInfo {
        if info.code != code::TIMER {
            return info;
        }
        let id = info.payload[0] as i32;
        let timer = match id {
            0.. => self.posix.lock().get(&id).cloned(),
            _ => self.intervals.lock().get((INTERVAL_ID - id) as usize).cloned().flatten(),
        };
        if let Some(timer) = timer {
            let mut state = timer.state.lock();
            state.overrun = state.pending.saturating_sub(1).min(i32::MAX as u32);
            state.pending = 0;
            state.queued = false;
            info.set_overrun(state.overrun as i32);
        }
        // Interval timers come as from the kernel.
        if id < 0 { SigInfo::kernel(info.signo) } else { info }
    }
}
