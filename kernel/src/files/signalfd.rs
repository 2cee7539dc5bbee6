//! signalfd: signals read from a descriptor.

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use base::io::Out;
use base::{Errno, Events, Result, Subject};
use fs::{File, IoFlags, OpenFlags, Stat, Status};

use crate::process::Process;
use crate::process::signal::{self, SIGKILL, SIGSTOP, SigInfo, SigSet, set_of};
use crate::sched;

/// A signalfd.
pub struct SignalFd {
    status: Status,
    mask: AtomicU64,
    /// Whose notifications end a wait; signals are taken for whoever reads.
    process: Arc<Process>,
}

/// Bytes of `struct signalfd_siginfo`.
const RECORD: usize = 128;

impl SignalFd {
    /// For these signals of the running process.
    pub fn create(mask: SigSet, flags: OpenFlags) -> Result<Arc<Self>> {
        let process = sched::current().process().ok_or(Errno::ESRCH)?.clone();
        let file = Arc::new(Self { status: Status::new(flags | OpenFlags::RDWR), mask: AtomicU64::new(0), process });
        file.set_mask(mask);
        Ok(file)
    }

    /// Other signals from now on.
    pub fn set_mask(&self, mask: SigSet) {
        self.mask.store(mask & !(set_of(SIGKILL) | set_of(SIGSTOP)), Ordering::SeqCst);
        self.process.signal_event.notify(Events::IN);
    }

    fn mask(&self) -> SigSet {
        self.mask.load(Ordering::SeqCst)
    }
}

/// `struct signalfd_siginfo` (linux/signalfd.h).
fn record(info: &SigInfo) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(0, info.signo as u32);
    put(4, info.errno as u32);
    put(8, info.code as u32);
    let low = |n: usize| info.payload[n] as u32;
    let high = |n: usize| (info.payload[n] >> 32) as u32;
    const SI_TIMER: i32 = -2;
    match info.code {
        SI_TIMER => {
            put(24, low(0));
            put(32, high(0));
            put(44, low(1));
            put(48, low(1));
            put(52, high(1));
        }
        code if code > 0 && matches!(info.signo, 4 | 5 | 7 | 8 | 11) => {
            put(72, low(0));
            put(76, high(0));
        }
        _ => {
            put(12, low(0));
            put(16, high(0));
            if info.signo == signal::SIGCHLD && info.code > 0 {
                put(40, low(1));
                put(56, low(2));
                put(60, high(2));
                put(64, low(3));
                put(68, high(3));
            } else {
                put(44, low(1));
                put(48, low(1));
                put(52, high(1));
            }
        }
    }
    bytes
}

impl File for SignalFd {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        if out.remaining() < RECORD {
            return Err(Errno::EINVAL);
        }
        let mut total = 0;
        while out.remaining() >= RECORD {
            let Some(info) = signal::take(self.mask()) else {
                break;
            };
            total += out.write(&record(&info))?;
        }
        if total == 0 { Err(Errno::EAGAIN) } else { Ok(total) }
    }

    fn poll(&self) -> Events {
        if signal::pending_of(sched::current()) & self.mask() != 0 {
            Events::IN | Events::RDNORM
        } else {
            Events::empty()
        }
    }

    fn subject(&self) -> &Subject {
        &self.process.signal_event
    }

    fn stat(&self) -> Result<Stat> {
        Ok(super::anonymous_stat())
    }

    fn describe(&self) -> String {
        "anon_inode:[signalfd]".into()
    }

    fn fdinfo(&self) -> String {
        alloc::format!("sigmask:\t{:016x}\n", self.mask())
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
