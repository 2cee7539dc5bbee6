//! Volumes: whole disks and their partitions, read and written at any byte.
//!
//! There is no cache here: every call goes to the disk. Parts of blocks are read, changed and written under the disk's
//! lock. How a disk is divided is `fs::partition`'s matter.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use base::io::{In, Out};
use base::{Errno, Frame, Once, Result};
use fs::partition::{self, Medium, Partition, Scheme};
use hal_core::PAGE_SIZE;

use super::block::{self, Disk, new_frame};

const PAGE: u64 = PAGE_SIZE as u64;
/// Bytes that are moved at once.
const ROUND: usize = 256 * PAGE_SIZE;

/// Major number of disks and of their first partitions; a number "for local use" of Linux's list.
const MAJOR: u32 = 254;
/// Minor numbers of one disk.
const MINORS: u32 = 16;
/// Major number of further partitions (`BLOCK_EXT_MAJOR`).
const MAJOR_MORE: u32 = 259;

static VOLUMES: Once<Vec<Arc<Volume>>> = Once::new();

/// All volumes: each disk is followed by its partitions.
pub fn volumes() -> &'static [Arc<Volume>] {
    VOLUMES.get().map_or(&[], |v| &v[..])
}

/// A disk or a partition.
pub struct Volume {
    name: String,
    disk: Arc<Disk>,
    start: u64,
    len: u64,
    scheme: Scheme,
    partition: Option<Partition>,
    device: u64,
    held: AtomicBool,
}

/// Reads the disks' partition tables. Called once, when the disks are there.
pub(super) fn scan() {
    let mut all = Vec::new();
    let mut more = 0;
    for (disk, number) in block::disks().iter().zip(0..) {
        let mut whole = Volume {
            name: String::from(disk.name()),
            disk: disk.clone(),
            start: 0,
            len: disk.size(),
            scheme: Scheme::None,
            partition: None,
            device: fs::types::makedev(MAJOR, number * MINORS),
            held: AtomicBool::new(false),
        };
        let table = partition::read(&whole).unwrap_or_else(|error| {
            log::warn!("{}: its partition table cannot be read ({error})", disk.name());
            partition::Table::default()
        });
        for remark in &table.remarks {
            log::warn!("{}: {remark}", disk.name());
        }
        whole.scheme = table.scheme;
        all.push(Arc::new(whole));
        for partition in table.partitions {
            if !partition.start.is_multiple_of(disk.caps().block_size.into()) {
                log::warn!("{}: partition {} does not start at a block; it is left out", disk.name(), partition.number);
                continue;
            }
            let device = if partition.number < MINORS {
                fs::types::makedev(MAJOR, number * MINORS + partition.number)
            } else {
                more += 1;
                fs::types::makedev(MAJOR_MORE, more - 1)
            };
            all.push(Arc::new(Volume {
                name: format!("{}{}", disk.name(), partition.number),
                disk: disk.clone(),
                start: partition.start,
                len: partition.len - partition.len % u64::from(disk.caps().block_size),
                scheme: Scheme::None,
                partition: Some(partition),
                device,
                held: AtomicBool::new(false),
            }));
        }
    }
    VOLUMES.call_once(|| all);
}

impl Volume {
    /// Its name in `/dev`, such as `vda` or `vda1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The disk that it is (a part of).
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Its entry in the disk's table, unless it is a whole disk.
    pub fn partition(&self) -> Option<&Partition> {
        self.partition.as_ref()
    }

    /// How a whole disk is divided.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// First byte on the disk.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// `st_rdev` of its node.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// A file system uses it from now on.
    pub fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// True if a file system uses bytes of it.
    pub fn is_busy(&self) -> bool {
        volumes().iter().any(|other| {
            other.held.load(Ordering::Relaxed)
                && Arc::ptr_eq(&other.disk, &self.disk)
                && other.start < self.start + self.len
                && self.start < other.start + other.len
        })
    }

    fn block(&self) -> u64 {
        self.disk.caps().block_size.into()
    }

    /// Where a piece of a transfer lies: its first whole block, the bytes of that before it, its length, and the bytes of
    /// all its blocks.
    fn piece(&self, at: u64, wanted: usize) -> (u64, usize, usize, usize) {
        let skip = (at % self.block()) as usize;
        let n = (self.len.saturating_sub(at)).min(wanted as u64).min((ROUND - skip) as u64) as usize;
        (at - skip as u64, skip, n, (skip + n).next_multiple_of(self.block() as usize))
    }

    /// Reads bytes from `offset` on; returns how many there were before the end.
    pub fn read(&self, offset: u64, out: &mut Out<'_>) -> Result<usize> {
        let mut total = 0;
        loop {
            let (from, skip, n, span) = self.piece(offset.saturating_add(total as u64), out.remaining());
            if n == 0 {
                return Ok(total);
            }
            let frames = match self.disk.read_frames(self.start + from, span) {
                Err(_) if total > 0 => return Ok(total),
                other => other?,
            };
            let moved = each(&frames, skip, n, |frame, offset, len| out.write_frame(frame, offset, len));
            total += match moved {
                Err(_) if total > 0 => return Ok(total),
                other => other?,
            };
        }
    }

    /// Writes bytes from `offset` on; returns how many there was room for before the end.
    pub fn write(&self, offset: u64, input: &mut In<'_>) -> Result<usize> {
        let mut total = 0;
        loop {
            let (to, skip, n, span) = self.piece(offset.saturating_add(total as u64), input.remaining());
            if n == 0 {
                return Ok(total);
            }
            let outcome =
                (0..span.div_ceil(PAGE_SIZE)).map(|_| new_frame()).collect::<Result<Vec<_>>>().and_then(|frames| {
                    let n = each(&frames, skip, n, |frame, offset, len| input.read_frame(frame, offset, len))?;
                    self.store(to, skip, n, &frames).map(|()| n)
                });
            total += match outcome {
                Err(_) if total > 0 => return Ok(total),
                other => other?,
            };
        }
    }

    /// Writes `n` bytes that lie `skip` bytes into the frames; what is missing of the first and last block is read.
    fn store(&self, to: u64, skip: usize, n: usize, frames: &[Frame]) -> Result<()> {
        let block = self.block() as usize;
        let end = skip + n;
        let span = end.next_multiple_of(block);
        let part = skip > 0 || end < span;
        let _one = part.then(|| self.disk.partial().lock());
        let fill = |at: usize, range: core::ops::Range<usize>| -> Result<()> {
            let old = self.disk.read_frames(self.start + to + at as u64, block)?.pop().ok_or(Errno::EIO)?;
            let mut bytes = alloc::vec![0; range.len()];
            old.read(range.start, &mut bytes);
            let at = at + range.start;
            frames.get(at / PAGE_SIZE).ok_or(Errno::EIO)?.write(at % PAGE_SIZE, &bytes);
            Ok(())
        };
        if skip > 0 {
            fill(0, 0..skip)?;
        }
        if end < span {
            fill(span - block, end + block - span..block)?;
        }
        self.disk.write_frames(self.start + to, &frames[..span.div_ceil(PAGE_SIZE)], span)
    }

    /// As [`Volume::read`], into the kernel's memory.
    pub fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<usize> {
        self.read(offset, &mut Out::kernel(to))
    }

    /// As [`Volume::write`], from the kernel's memory.
    pub fn write_at(&self, offset: u64, from: &[u8]) -> Result<usize> {
        self.write(offset, &mut In::kernel(from))
    }

    /// Tells the disk that a range, of whole blocks, holds nothing any more.
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let block = self.block();
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside || !offset.is_multiple_of(block) || !len.is_multiple_of(block) {
            return Err(Errno::EINVAL);
        }
        self.disk.discard(self.start + offset, len)
    }
}

/// Moves `len` bytes that lie `skip` bytes into the frames, piece by piece; stops at the first short piece.
fn each(
    frames: &[Frame],
    skip: usize,
    len: usize,
    mut copy: impl FnMut(&Frame, usize, usize) -> Result<usize>,
) -> Result<usize> {
    let mut done = 0;
    while done < len {
        let at = skip + done;
        let part = (PAGE_SIZE - at % PAGE_SIZE).min(len - done);
        match copy(&frames[at / PAGE_SIZE], at % PAGE_SIZE, part) {
            Ok(moved) => {
                done += moved;
                if moved < part {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

impl Medium for Volume {
    fn size(&self) -> u64 {
        self.len
    }
    fn block_size(&self) -> u32 {
        self.disk.caps().block_size
    }
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        if self.read_at(at, to)? == to.len() { Ok(()) } else { Err(Errno::EIO) }
    }
}

impl fs::erofs::Image for Volume {
    fn len(&self) -> u64 {
        self.len
    }

    fn pages(&self, first: u64, count: u64, put: &mut dyn FnMut(u64, Frame)) -> Result<()> {
        let mut at = first;
        let end = first.checked_add(count.max(1)).ok_or(Errno::EINVAL)?;
        while at < end {
            let wanted = (end - at).min((ROUND / PAGE_SIZE) as u64);
            let start = at.checked_mul(PAGE).ok_or(Errno::EINVAL)?;
            let there = self.len.saturating_sub(start).min(wanted * PAGE);
            let mut frames = self.disk.read_frames(self.start + start, there as usize)?;
            while (frames.len() as u64) < wanted {
                frames.push(Frame::zeroed()?);
            }
            for (index, frame) in (at..).zip(frames) {
                put(index, frame);
            }
            at += wanted;
        }
        Ok(())
    }
}
