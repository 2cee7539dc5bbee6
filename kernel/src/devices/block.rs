//! Disks: whole blocks, read and written by threads that sleep meanwhile, several requests at once.
//!
//! Bytes at any place, and partitions, are `volume.rs`'s; the page cache is the file systems'.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use base::{Errno, Frame, Mutex, Once, Result};
use hal_core::PAGE_SIZE;
use hal_core::device::{BlockCaps, BlockDevice, BlockOp, Completion, Dma};
use hal_core::memory::direct;

use crate::mm::frame;
use crate::sched;
use crate::sched::wait::WaitQueue;
use crate::sched::work::{self, WorkId};

/// How often a disk is looked at that does not say that it is done.
const LOOK_NS: u64 = 1_000_000_000;

static DISKS: Once<Vec<Arc<Disk>>> = Once::new();
static WORK: Once<WorkId> = Once::new();

/// The disks in the order in which they were found.
pub fn disks() -> &'static [Arc<Disk>] {
    DISKS.get().map_or(&[], |d| &d[..])
}

pub(super) fn set(found: Vec<Arc<Disk>>) {
    DISKS.call_once(|| found);
    poll_all(0);
}

/// Deferred work: completions.
fn poll_all(_cpu: usize) {
    for disk in disks() {
        disk.device.poll();
    }
}

/// Makes what was written to any disk durable: for the end of a run.
pub fn flush_all() {
    for disk in disks() {
        if let Err(error) = disk.flush() {
            log::error!("{}: flushing its cache failed ({error})", disk.name);
        }
    }
}

/// A disk.
pub struct Disk {
    name: String,
    driver: &'static str,
    device: Arc<dyn BlockDevice>,
    caps: BlockCaps,
    /// Held while a part of a block is changed.
    partial: Mutex<()>,
}

/// Requests that are waited for together.
struct Batch {
    /// Requests under way, and one for the caller who still adds some.
    left: AtomicU32,
    failed: AtomicBool,
    done: WaitQueue,
}

impl Batch {
    fn new() -> Arc<Self> {
        Arc::new(Self { left: AtomicU32::new(1), failed: AtomicBool::new(false), done: WaitQueue::new() })
    }

    /// What to run when one more request is done.
    fn completion(self: &Arc<Self>) -> Completion {
        self.left.fetch_add(1, Ordering::Relaxed);
        let batch = self.clone();
        Box::new(move |result| {
            if result.is_err() {
                batch.failed.store(true, Ordering::Relaxed);
            }
            if batch.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                batch.done.wake_all();
            }
        })
    }

    /// Waits until every request is done; no signal ends that, since the device has the memory.
    fn wait(&self, device: &dyn BlockDevice) -> Result<()> {
        self.left.fetch_sub(1, Ordering::AcqRel);
        let finished = || (self.left.load(Ordering::Acquire) == 0).then_some(());
        // Many devices are done when the doorbell returns.
        device.poll();
        if finished().is_none() {
            if sched::is_up() {
                // A disk that answers no more finds that out when it is asked, and so does a lost interrupt.
                let look = || base::time::now_ns() + LOOK_NS;
                while self.done.wait_uninterruptible_until(look(), finished).is_none() {
                    device.poll();
                }
            } else {
                while finished().is_none() {
                    device.poll();
                    core::hint::spin_loop();
                }
            }
        }
        if self.failed.load(Ordering::Relaxed) { Err(Errno::EIO) } else { Ok(()) }
    }
}

impl Disk {
    pub(super) fn new(number: usize, device: Arc<dyn BlockDevice>, driver: &'static str) -> Arc<Self> {
        let work = *WORK.call_once(|| work::register(poll_all));
        device.on_interrupt(Arc::new(move || work::raise(work)));
        Arc::new(Self { name: name_of(number), driver, caps: device.caps(), device, partial: Mutex::new(()) })
    }

    /// Its name in `/dev`, such as `vda`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its driver's name.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// What it is.
    pub fn caps(&self) -> BlockCaps {
        self.caps
    }

    /// True if its blocks are of a size that frames are made of.
    pub(super) fn has_usable_blocks(&self) -> bool {
        self.caps.block_size.is_power_of_two() && (512..=PAGE_SIZE as u32).contains(&self.caps.block_size)
    }

    /// The device's own name, if it tells one.
    pub fn serial(&self) -> String {
        self.device.serial()
    }

    /// Bytes that whole blocks can reach.
    pub fn size(&self) -> u64 {
        self.caps.size - self.caps.size % u64::from(self.caps.block_size)
    }

    /// Starts requests for `memory`, in as many parts as the device needs.
    ///
    /// # Safety
    /// As [`BlockDevice::submit`]: the caller waits for the batch before the memory goes.
    unsafe fn start(&self, write: bool, mut position: u64, memory: &[Dma], batch: &Arc<Batch>) {
        let op = || if write { BlockOp::Write } else { BlockOp::Read };
        let most = self.caps.max_request as usize;
        let mut pieces: Vec<Dma> = Vec::with_capacity(memory.len().min(usize::from(self.caps.max_pieces)));
        let mut bytes = 0;
        let mut send = |pieces: &mut Vec<Dma>, bytes: &mut usize| {
            if *bytes > 0 {
                // SAFETY: by the caller.
                unsafe { self.device.submit(op(), position, pieces, batch.completion()) };
                position += *bytes as u64;
                pieces.clear();
                *bytes = 0;
            }
        };
        for area in memory {
            let (mut address, mut left) = (area.address, area.len);
            while left > 0 {
                let joins = pieces.last().is_some_and(|p| p.address + p.len == address);
                if bytes == most || (!joins && pieces.len() == usize::from(self.caps.max_pieces)) {
                    send(&mut pieces, &mut bytes);
                    continue;
                }
                let n = left.min(most - bytes);
                match pieces.last_mut() {
                    Some(last) if joins => last.len += n,
                    _ => pieces.push(Dma { address, len: n }),
                }
                (address, left, bytes) = (address + n, left - n, bytes + n);
            }
        }
        send(&mut pieces, &mut bytes);
    }

    /// Moves `len` bytes, whole blocks from `position` on, between the disk and the frames, which they fill in order.
    fn transfer(&self, write: bool, position: u64, frames: &[Frame], len: usize) -> Result<()> {
        let mut left = len;
        let piece = |frame: &Frame| {
            let len = left.min(PAGE_SIZE);
            left -= len;
            Dma { address: frame.address().as_ptr() as usize, len }
        };
        let memory: Vec<_> = frames.iter().map(piece).collect();
        let batch = Batch::new();
        // SAFETY: the caller's handles keep the frames until the batch is done, which is waited for at once; what
        // somebody writes to them meanwhile is written or not, as with any shared mapping. Frames to be read into
        // are new, so nobody else uses them.
        unsafe { self.start(write, position, &memory, &batch) };
        batch.wait(&*self.device)
    }

    /// Reads whole blocks from `position` on into new frames; the rest of the last one is zero.
    pub(super) fn read_frames(&self, position: u64, len: usize) -> Result<Vec<Frame>> {
        let frames = (0..len.div_ceil(PAGE_SIZE)).map(|_| new_frame()).collect::<Result<Vec<_>>>()?;
        if let Some(last) = frames.last().filter(|_| !len.is_multiple_of(PAGE_SIZE)) {
            last.zero(len % PAGE_SIZE..PAGE_SIZE);
        }
        self.transfer(false, position, &frames, len)?;
        Ok(frames)
    }

    /// Writes whole blocks from `position` on out of the frames.
    pub(super) fn write_frames(&self, position: u64, frames: &[Frame], len: usize) -> Result<()> {
        if self.caps.read_only {
            return Err(Errno::EROFS);
        }
        self.transfer(true, position, frames, len)
    }

    /// Held while a part of a block is changed: two threads that do must not undo each other's.
    pub(super) fn partial(&self) -> &Mutex<()> {
        &self.partial
    }

    /// Makes earlier writes durable.
    pub fn flush(&self) -> Result<()> {
        self.command(BlockOp::Flush, 0)
    }

    /// Tells that a range, of whole blocks, holds nothing any more. `EOPNOTSUPP` if the disk does not care.
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        if !self.caps.discard || self.caps.read_only {
            return Err(Errno::EOPNOTSUPP);
        }
        self.command(BlockOp::Discard(len), offset)
    }

    fn command(&self, op: BlockOp, position: u64) -> Result<()> {
        let batch = Batch::new();
        // SAFETY: there is no memory.
        unsafe { self.device.submit(op, position, &[], batch.completion()) };
        batch.wait(&*self.device)
    }
}

/// A frame that is not cleared: the caller fills all of it.
pub(super) fn new_frame() -> Result<Frame> {
    let at = frame::with_reclaim(|| frame::alloc(0)).ok_or(Errno::ENOMEM)?;
    let address = NonNull::new(direct::<u8>(at)).ok_or(Errno::ENOMEM)?;
    // SAFETY: just allocated with one reference, which the handle takes over.
    Ok(unsafe { Frame::from_raw(address) })
}

/// `vda` to `vdz`, then `vdaa`.
fn name_of(number: usize) -> String {
    let letter = |n: usize| (b'a' + (n % 26) as u8) as char;
    match number / 26 {
        0 => format!("vd{}", letter(number)),
        high => format!("vd{}{}", letter(high - 1), letter(number)),
    }
}
