//! eventfd: a counter behind a descriptor.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;

use base::io::{In, Out};
use base::{Errno, Events, Result, SpinLock, Subject};
use fs::types::{OpenFlags, Stat};
use fs::{File, IoFlags, Status};

/// The counter and its mode.
pub struct EventFd {
    count: SpinLock<u64>,
    /// Reads take 1 instead of all (`EFD_SEMAPHORE`).
    semaphore: bool,
    subject: Subject,
    status: Status,
}

/// A new eventfd with this count. `flags`: `O_NONBLOCK`.
pub fn create(count: u64, semaphore: bool, flags: OpenFlags) -> Arc<EventFd> {
    Arc::new(EventFd {
        count: SpinLock::new(count),
        semaphore,
        subject: Subject::new(),
        status: Status::new(flags | OpenFlags::RDWR),
    })
}

impl File for EventFd {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        if out.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = {
            let mut count = self.count.lock();
            if *count == 0 {
                return Err(Errno::EAGAIN);
            }
            let taken = if self.semaphore { 1 } else { *count };
            *count -= taken;
            taken
        };
        self.subject.notify(Events::OUT | Events::WRNORM);
        match out.write(&value.to_ne_bytes())? {
            8 => Ok(8),
            _ => Err(Errno::EFAULT),
        }
    }

    fn write(&self, input: &mut In<'_>, _flags: IoFlags) -> Result<usize> {
        if input.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if input.read(&mut bytes)? != 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        {
            let mut count = self.count.lock();
            // The largest count is 2^64 - 2 (eventfd(2)).
            if value > u64::MAX - 1 - *count {
                return Err(Errno::EAGAIN);
            }
            *count += value;
        }
        if value != 0 {
            self.subject.notify(Events::IN | Events::RDNORM);
        }
        Ok(8)
    }

    fn poll(&self) -> Events {
        let count = *self.count.lock();
        let mut events = Events::empty();
        if count > 0 {
            events |= Events::IN | Events::RDNORM;
        }
        if count < u64::MAX - 1 {
            events |= Events::OUT | Events::WRNORM;
        }
        events
    }

    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn stat(&self) -> Result<Stat> {
        Ok(super::anonymous_stat())
    }

    fn describe(&self) -> String {
        String::from("anon_inode:[eventfd]")
    }

    fn fdinfo(&self) -> String {
        format!("eventfd-count: {:16x}\n", *self.count.lock())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
