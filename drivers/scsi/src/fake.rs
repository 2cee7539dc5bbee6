//! A target made of memory, and a host adapter with such targets, for tests and fuzzing; both can lie.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::collections::VecDeque;
use std::sync::Mutex;

use hal_core::device::Dma;
use hal_core::interrupt::Handler;

use crate::cdb::{READ_CAPACITY_16, WRITE_SAME_UNMAP, op};
use crate::parse::{Provisioning, page};
use crate::sense::{CHECK_CONDITION, GOOD};
use crate::{Direction, Host, Limits, Outcome, Task};

/// What a unit gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Status byte.
    pub status: u8,
    /// Sense data.
    pub sense: Vec<u8>,
    /// Data for the host.
    pub data: Vec<u8>,
}

/// A target with one disk, or several that are alike, in memory.
#[derive(Clone, Debug)]
pub struct Target {
    /// The first disk's bytes.
    pub bytes: Vec<u8>,
    /// Bytes in a block.
    pub block_size: usize,
    /// Version of the standard in INQUIRY.
    pub version: u8,
    /// Type in INQUIRY.
    pub kind: u8,
    /// Refuses writes.
    pub read_only: bool,
    /// Has a volatile cache.
    pub write_cache: bool,
    /// How blocks are given back; all false: not at all.
    pub provisioning: Provisioning,
    /// Longest transfer in blocks, 0: any.
    pub longest: u32,
    /// Its units.
    pub luns: Vec<u16>,
    /// So many commands get a unit attention.
    pub attentions: usize,
    /// So many are answered with this status first.
    pub refusals: (usize, u8),
    /// Operation codes that were executed.
    pub seen: Vec<u8>,
}

/// Sense data in fixed format.
pub fn sense(key: u8, code: (u8, u8)) -> Vec<u8> {
    let mut s = vec![0; 18];
    (s[0], s[2], s[7], s[12], s[13]) = (0x70, key, 10, code.0, code.1);
    s
}

fn refuse(key: u8, code: (u8, u8)) -> Reply {
    Reply { status: CHECK_CONDITION, sense: sense(key, code), data: Vec::new() }
}

fn give(data: Vec<u8>) -> Reply {
    Reply { data, ..Reply::default() }
}

impl Target {
    /// A disk of so many blocks of 512 bytes.
    pub fn new(blocks: usize) -> Self {
        Self {
            bytes: (0..blocks * 512).map(|i| (i / 512 + i) as u8).collect(),
            block_size: 512,
            version: 5,
            kind: 0,
            read_only: false,
            write_cache: true,
            provisioning: Provisioning { unmap: true, ..Provisioning::default() },
            longest: 0,
            luns: vec![0],
            attentions: 1,
            refusals: (0, 0),
            seen: Vec::new(),
        }
    }

    /// Executes a command for a unit, with the data that comes with it.
    pub fn execute(&mut self, lun: u16, cdb: &[u8; 16], data: &[u8]) -> Reply {
        self.seen.push(cdb[0]);
        if self.refusals.0 > 0 {
            self.refusals.0 -= 1;
            return Reply { status: self.refusals.1, ..Reply::default() };
        }
        let quiet = matches!(cdb[0], op::INQUIRY | op::REPORT_LUNS);
        if self.attentions > 0 && !quiet {
            self.attentions -= 1;
            return refuse(6, (0x29, 0));
        }
        if !self.luns.contains(&lun) && cdb[0] != op::REPORT_LUNS {
            return if cdb[0] == op::INQUIRY { give(vec![0x7f; 36]) } else { refuse(5, (0x25, 0)) };
        }
        self.known(cdb, data).unwrap_or_else(|| refuse(5, (0x20, 0)))
    }

    fn known(&mut self, cdb: &[u8; 16], data: &[u8]) -> Option<Reply> {
        let blocks = (self.bytes.len() / self.block_size) as u64;
        let be16 = |at: usize| u64::from(u16::from_be_bytes([cdb[at], cdb[at + 1]]));
        let be32 = |at: usize| be16(at) << 16 | be16(at + 2);
        let be64 = |at: usize| be32(at) << 32 | be32(at + 4);
        let size = (self.block_size as u32).to_be_bytes();
        Some(match cdb[0] {
            op::TEST_UNIT_READY | op::SYNCHRONIZE_CACHE_10 => Reply::default(),
            op::INQUIRY if cdb[1] & 1 != 0 => self.vital(cdb[2], be16(3) as usize)?,
            op::INQUIRY => {
                let mut d = vec![0; 36];
                (d[0], d[2], d[3], d[4]) = (self.kind, self.version, 2, 31);
                d.truncate(be16(3) as usize);
                give(d)
            }
            op::REPORT_LUNS => {
                let mut d = ((self.luns.len() * 8) as u32).to_be_bytes().to_vec();
                d.extend([0; 4]);
                for lun in &self.luns {
                    let [high, low] = lun.to_be_bytes();
                    d.extend([if high == 0 { 0 } else { 0x40 | high }, low, 0, 0, 0, 0, 0, 0]);
                }
                give(d)
            }
            op::MODE_SENSE_6 => {
                let mut d = vec![23, 0, u8::from(self.read_only) << 7, 0];
                d.extend([8, 18, u8::from(self.write_cache) << 2]);
                d.resize(24, 0);
                give(d)
            }
            op::READ_CAPACITY_10 => {
                let last = u32::try_from(blocks - 1).unwrap_or(u32::MAX);
                give([last.to_be_bytes(), size].concat())
            }
            op::SERVICE_ACTION_IN_16 if cdb[1] == READ_CAPACITY_16 && self.version >= 5 => {
                let mut d = (blocks - 1).to_be_bytes().to_vec();
                d.extend(size);
                d.resize(32, 0);
                let p = self.provisioning;
                d[14] = u8::from(p.unmap || p.write_same_16 || p.write_same_10) << 7;
                give(d)
            }
            op::READ_10 => self.transfer(be32(2), be16(7), None),
            op::READ_16 => self.transfer(be64(2), be32(10), None),
            op::WRITE_10 => self.transfer(be32(2), be16(7), Some(data)),
            op::WRITE_16 => self.transfer(be64(2), be32(10), Some(data)),
            op::UNMAP if self.provisioning.unmap => {
                let block = u64::from_be_bytes(*data.get(8..)?.first_chunk()?);
                let count = u32::from_be_bytes(*data.get(16..)?.first_chunk()?);
                self.zero(block, u64::from(count))
            }
            op::WRITE_SAME_16 if self.provisioning.write_same_16 && cdb[1] & WRITE_SAME_UNMAP != 0 => {
                self.zero(be64(2), be32(10))
            }
            op::WRITE_SAME_10 if self.provisioning.write_same_10 && cdb[1] & WRITE_SAME_UNMAP != 0 => {
                self.zero(be32(2), be16(7))
            }
            _ => return None,
        })
    }

    fn vital(&self, page: u8, room: usize) -> Option<Reply> {
        let body = match page {
            page::SUPPORTED => vec![page::SUPPORTED, page::SERIAL, page::LIMITS, page::PROVISIONING],
            page::SERIAL => b" SERIAL-1 ".to_vec(),
            page::LIMITS => {
                let mut d = vec![0; 60];
                d[4..8].copy_from_slice(&self.longest.to_be_bytes());
                d[16..20].copy_from_slice(&4096u32.to_be_bytes());
                d[20..24].copy_from_slice(&1u32.to_be_bytes());
                d
            }
            page::PROVISIONING => {
                let p = self.provisioning;
                vec![0, u8::from(p.unmap) << 7 | u8::from(p.write_same_16) << 6 | u8::from(p.write_same_10) << 5, 0, 0]
            }
            _ => return Some(refuse(5, (0x24, 0))),
        };
        let mut d = vec![self.kind, page, 0, body.len() as u8];
        d.extend(body);
        d.truncate(room);
        Some(give(d))
    }

    fn range(&self, block: u64, count: u64) -> Option<core::ops::Range<usize>> {
        let start = block.checked_mul(self.block_size as u64)?;
        let end = start.checked_add(count.checked_mul(self.block_size as u64)?)?;
        (end <= self.bytes.len() as u64).then_some(start as usize..end as usize)
    }

    fn transfer(&mut self, block: u64, count: u64, write: Option<&[u8]>) -> Reply {
        let Some(range) = self.range(block, count) else {
            return refuse(5, (0x21, 0));
        };
        match write {
            None => give(self.bytes[range].to_vec()),
            Some(_) if self.read_only => refuse(7, (0x27, 0)),
            Some(data) => {
                let n = range.len().min(data.len());
                self.bytes[range][..n].copy_from_slice(&data[..n]);
                Reply::default()
            }
        }
    }

    fn zero(&mut self, block: u64, count: u64) -> Reply {
        match self.range(block, count) {
            Some(range) if !self.read_only => self.bytes[range].fill(0),
            _ => return refuse(5, (0x21, 0)),
        }
        Reply { status: GOOD, ..Reply::default() }
    }
}

/// Reads what a task's target may read.
pub fn gather(pieces: &[Dma]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        // SAFETY: whoever started the task keeps this memory.
        bytes.extend_from_slice(unsafe { core::slice::from_raw_parts(piece.address as *const u8, piece.len) });
    }
    bytes
}

/// Writes to what a task's target may write; returns how much fitted.
pub fn scatter(pieces: &[Dma], mut bytes: &[u8]) -> usize {
    let before = bytes.len();
    for piece in pieces {
        let n = piece.len.min(bytes.len());
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), piece.address as *mut u8, n) };
        bytes = &bytes[n..];
    }
    before - bytes.len()
}

/// Changes a reply before the host sees it: the lie.
pub type Lie = Box<dyn FnMut(&mut Reply) + Send>;

struct State {
    targets: Vec<Option<Target>>,
    queue: VecDeque<Task>,
    lie: Option<Lie>,
    silent: bool,
    gave_up: bool,
}

/// A host adapter whose targets answer when it is polled.
pub struct FakeHost {
    limits: Limits,
    state: Mutex<State>,
}

impl FakeHost {
    /// An adapter with these targets.
    pub fn new(targets: Vec<Option<Target>>) -> Arc<Self> {
        let limits = Limits { max_bytes: 1 << 20, max_pieces: 16, queues: 1 };
        let state = State { targets, queue: VecDeque::new(), lie: None, silent: false, gave_up: false };
        Arc::new(Self { limits, state: Mutex::new(state) })
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// From now on it lies in this way.
    pub fn set_lie(&self, lie: Lie) {
        self.with(|s| s.lie = Some(lie));
    }

    /// From now on nothing is answered.
    pub fn silence(&self) {
        self.with(|s| s.silent = true);
    }

    /// True if the driver has given up.
    pub fn gave_up(&self) -> bool {
        self.with(|s| s.gave_up)
    }

    /// Works with a target.
    pub fn target<R>(&self, number: usize, f: impl FnOnce(&mut Target) -> R) -> R {
        self.with(|s| f(s.targets[number].as_mut().expect("a target that is there")))
    }
}

impl Host for FakeHost {
    fn limits(&self) -> Limits {
        self.limits
    }

    unsafe fn start(&self, task: Task) {
        if self.gave_up() {
            return task.finish(self, Outcome::Failed(hal_core::Error::Gone));
        }
        self.with(|s| s.queue.push_back(task));
    }

    fn poll(&self) {
        while let Some(task) = self.with(|s| if s.silent { None } else { s.queue.pop_front() }) {
            let number = usize::from(task.address.target);
            let data = if task.direction == Direction::Out { gather(&task.pieces) } else { Vec::new() };
            let reply = self.with(|s| {
                let mut reply =
                    s.targets.get_mut(number)?.as_mut()?.execute(task.address.lun, task.cdb.padded(), &data);
                if let Some(lie) = &mut s.lie {
                    lie(&mut reply);
                }
                Some(reply)
            });
            let Some(reply) = reply else {
                task.finish(self, Outcome::NoTarget);
                continue;
            };
            let moved = match task.direction {
                Direction::In => scatter(&task.pieces, &reply.data),
                _ => task.len as usize,
            };
            let residual = Some(task.len.wrapping_sub(moved as u32));
            task.finish(self, Outcome::Answered { status: reply.status, sense: &reply.sense, residual });
        }
    }

    fn on_interrupt(&self, _handler: Handler) {}

    fn give_up(&self) {
        let lost = self.with(|s| {
            s.gave_up = true;
            core::mem::take(&mut s.queue)
        });
        for task in lost {
            task.finish(self, Outcome::Failed(hal_core::Error::Gone));
        }
    }
}

/// A read of `len` bytes that nobody waits for.
pub fn task(len: u32) -> Task {
    let address = crate::Address { target: 0, lun: 0 };
    let mut task = Task::new(address, crate::Cdb::transfer(false, 0, 1), crate::task::Done::Raw(Box::new(|_| ())));
    (task.direction, task.len) = (Direction::In, len);
    task
}
