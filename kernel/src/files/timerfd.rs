//! timerfd: expirations of a timer, counted behind a descriptor.

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::any::Any;

use base::io::Out;
use base::time::{now_ns, wall_ns};
use base::{Errno, Events, Result, SpinLock, Subject};
use fs::types::{OpenFlags, Stat};
use fs::{File, IoFlags, Status};

use crate::sched::timer::Timer;

#[derive(Clone, Copy, Default)]
struct State {
    /// Monotonic time of the next expiration, ns; `None` if disarmed.
    next: Option<u64>,
    /// Between expirations, ns; 0 for a single one.
    interval: u64,
    /// Expirations since the last read.
    expired: u64,
}

impl State {
    /// Counts what has expired by `now` and moves on to the next expiration.
    fn advance(&mut self, now: u64) {
        let Some(next) = self.next.filter(|&next| next <= now) else { return };
        match (now - next).checked_div(self.interval) {
            None => {
                self.expired += 1;
                self.next = None;
            }
            Some(whole) => {
                let count = whole + 1;
                self.expired += count;
                self.next = Some(next + count * self.interval);
            }
        }
    }
}

/// A timer behind a descriptor.
pub struct TimerFd {
    state: SpinLock<State>,
    timer: Timer,
    /// Counts time since 1970 (`CLOCK_REALTIME`).
    realtime: bool,
    subject: Subject,
    status: Status,
}

impl TimerFd {
    /// A disarmed timer. `flags`: `O_NONBLOCK`.
    pub fn create(realtime: bool, flags: OpenFlags) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| {
            let this = this.clone();
            Self {
                state: SpinLock::new(State::default()),
                timer: Timer::new(Arc::new(move || {
                    if let Some(timer) = this.upgrade() {
                        timer.fire();
                    }
                })),
                realtime,
                subject: Subject::new(),
                status: Status::new(flags | OpenFlags::RDWR),
            }
        })
    }

    fn fire(&self) {
        let next = {
            let mut state = self.state.lock();
            state.advance(now_ns());
            state.next
        };
        if let Some(next) = next {
            self.timer.set(next);
        }
        self.subject.notify(Events::IN | Events::RDNORM);
    }

    /// Sets the first expiration (`value` ns; 0 disarms) and the interval. With `absolute`, `value` is a point on the
    /// timer's clock. Returns what was set before: time left and interval.
    pub fn set(&self, value: u64, interval: u64, absolute: bool) -> (u64, u64) {
        let now = now_ns();
        let next = (value != 0).then(|| match (absolute, self.realtime) {
            (false, _) => now.saturating_add(value),
            (true, false) => value,
            (true, true) => now.saturating_add(value.saturating_sub(wall_ns())),
        });
        let old = {
            let mut state = self.state.lock();
            state.advance(now);
            core::mem::replace(&mut *state, State { next, interval, expired: 0 })
        };
        match next {
            Some(next) => self.timer.set(next),
            None => {
                self.timer.cancel();
            }
        }
        (left(&old, now), old.interval)
    }

    /// Time left to the next expiration (0 if disarmed) and the interval, ns.
    pub fn get(&self) -> (u64, u64) {
        let now = now_ns();
        let mut state = self.state.lock();
        state.advance(now);
        (left(&state, now), state.interval)
    }
}

fn left(state: &State, now: u64) -> u64 {
    state.next.map_or(0, |next| next.saturating_sub(now).max(1))
}

impl File for TimerFd {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        if out.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let expired = {
            let mut state = self.state.lock();
            state.advance(now_ns());
            core::mem::take(&mut state.expired)
        };
        if expired == 0 {
            return Err(Errno::EAGAIN);
        }
        match out.write(&expired.to_ne_bytes())? {
            8 => Ok(8),
            _ => Err(Errno::EFAULT),
        }
    }

    fn poll(&self) -> Events {
        let mut state = self.state.lock();
        state.advance(now_ns());
        if state.expired > 0 { Events::IN | Events::RDNORM } else { Events::empty() }
    }

    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn stat(&self) -> Result<Stat> {
        Ok(super::anonymous_stat())
    }

    fn describe(&self) -> String {
        String::from("anon_inode:[timerfd]")
    }

    fn fdinfo(&self) -> String {
        let (left, interval) = self.get();
        let ticks = self.state.lock().expired;
        let time = |ns: u64| format!("({}, {})", ns / 1_000_000_000, ns % 1_000_000_000);
        format!(
            "clockid: {}\nticks: {ticks}\nsettime flags: 00\nit_value: {}\nit_interval: {}\n",
            u32::from(!self.realtime),
            time(left),
            time(interval)
        )
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
