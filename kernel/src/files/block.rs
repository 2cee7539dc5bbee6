//! Open disks and partitions: their bytes, without a cache, and the requests that tools make of them.

use alloc::sync::Arc;
use core::any::Any;

use base::io::{In, Out};
use base::{Errno, Mutex, Result};
use fs::file::Whence;
use fs::regular::seek_position;
use fs::{File, IoFlags, OpenFlags, Stat, Status};

use crate::devices::volume::{Volume, volumes};
use crate::mm::user;

/// The requests (include/uapi/linux/fs.h).
mod request {
    pub const ROGET: u32 = 0x125e;
    pub const GETSIZE: u32 = 0x1260;
    pub const FLSBUF: u32 = 0x1261;
    pub const RAGET: u32 = 0x1263;
    pub const SSZGET: u32 = 0x1268;
    pub const BSZGET: u32 = 0x8008_1270;
    pub const GETSIZE64: u32 = 0x8008_1272;
    pub const DISCARD: u32 = 0x1277;
    pub const IOMIN: u32 = 0x1278;
    pub const IOOPT: u32 = 0x1279;
    pub const ALIGNOFF: u32 = 0x127a;
    pub const PBSZGET: u32 = 0x127b;
    pub const ROTATIONAL: u32 = 0x127e;
}

/// Opens the volume with this device number. One that cannot be written is refused as Linux's SCSI disks are, one that a
/// file system uses as with `CONFIG_BLK_DEV_WRITE_MOUNTED` off.
pub fn open(device: u64, flags: OpenFlags) -> Result<Arc<dyn File>> {
    let volume = volumes().iter().find(|volume| volume.device() == device).ok_or(Errno::ENXIO)?;
    if flags.writable() && volume.disk().caps().read_only {
        return Err(Errno::EROFS);
    }
    if (flags.writable() || flags.contains(OpenFlags::EXCL)) && volume.is_busy() {
        return Err(Errno::EBUSY);
    }
    Ok(Arc::new(BlockFile { volume: volume.clone(), status: Status::new(flags), position: Mutex::new(0) }))
}

struct BlockFile {
    volume: Arc<Volume>,
    status: Status,
    position: Mutex<u64>,
}

impl BlockFile {
    fn write_from(&self, offset: u64, input: &mut In<'_>) -> Result<usize> {
        if input.remaining() > 0 && offset >= self.volume.len() {
            return Err(Errno::ENOSPC);
        }
        let n = self.volume.write(offset, input)?;
        if n > 0 && self.status.get().contains(OpenFlags::DSYNC) {
            self.volume.disk().flush()?;
        }
        Ok(n)
    }
}

impl File for BlockFile {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        let mut position = self.position.lock();
        let n = self.volume.read(*position, out)?;
        *position += n as u64;
        Ok(n)
    }

    fn write(&self, input: &mut In<'_>, _flags: IoFlags) -> Result<usize> {
        let mut position = self.position.lock();
        let n = self.write_from(*position, input)?;
        *position += n as u64;
        Ok(n)
    }

    fn read_at(&self, offset: u64, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        self.volume.read(offset, out)
    }

    fn write_at(&self, offset: u64, input: &mut In<'_>, _flags: IoFlags) -> Result<usize> {
        self.write_from(offset, input)
    }

    fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        let size = self.volume.len();
        let mut position = self.position.lock();
        // A disk is all data.
        let find = |offset, hole| match offset < size {
            true => Ok(if hole { size } else { offset }),
            false => Err(Errno::ENXIO),
        };
        let new = seek_position(*position, offset, whence, size, find)?;
        if new > size {
            return Err(Errno::EINVAL);
        }
        *position = new;
        Ok(new)
    }

    fn can_epoll(&self) -> bool {
        false
    }

    fn ioctl(&self, command: u32, arg: usize) -> Result<u64> {
        let caps = self.volume.disk().caps();
        let done = |()| 0;
        match command {
            request::ROGET => user::write(arg, &i32::from(caps.read_only)).map(done),
            request::GETSIZE => user::write(arg, &(self.volume.len() / 512)).map(done),
            request::GETSIZE64 => user::write(arg, &self.volume.len()).map(done),
            request::FLSBUF => self.volume.disk().flush().map(done),
            request::SSZGET | request::PBSZGET | request::IOMIN => {
                user::write(arg, &(caps.block_size as i32)).map(done)
            }
            request::BSZGET => user::write(arg, &4096i32).map(done),
            request::IOOPT | request::ALIGNOFF => user::write(arg, &0i32).map(done),
            request::RAGET => user::write(arg, &0u64).map(done),
            request::ROTATIONAL => user::write(arg, &0u16).map(done),
            request::DISCARD => {
                let [offset, len] = user::read::<[u64; 2]>(arg)?;
                if !self.status.get().writable() {
                    return Err(Errno::EBADF);
                }
                self.volume.discard(offset, len).map(done)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn stat(&self) -> Result<Stat> {
        Ok(super::anonymous_stat())
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        if self.volume.disk().caps().read_only { Ok(()) } else { self.volume.disk().flush() }
    }

    fn allocate(&self, _mode: u32, _offset: u64, _len: u64) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
