//! Finding the disks behind an adapter.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use driver_kit::{DmaArea, Lock, wait_for};
use hal_core::device::{BlockCaps, Dma};
use hal_core::{Error, PAGE_SIZE, Result};

use crate::cdb::Cdb;
use crate::disk::{Discard, Disk};
use crate::parse::{self, BlockLimits, Capacity, Provisioning, page};
use crate::task::{Done, Task};
use crate::{Address, Direction, Host};

/// How long a unit may take for an answer.
const PATIENCE_NS: u64 = 10_000_000_000;
/// Bytes asked for where that is no question of kind.
const ANSWER: u16 = 252;
/// Most bytes and pieces in a request: bounds of our own, above which nothing gets faster.
const MAX_REQUEST: u32 = 1 << 20;
const MAX_PIECES: u16 = 254;
/// More disks than this behind one adapter are left out.
const MOST_DISKS: usize = 256;

/// The disks of these targets, in order. Polls: for the start of a device, when nobody else uses it.
pub fn scan(host: &Arc<dyn Host>, targets: core::ops::Range<u16>) -> Result<Vec<Arc<Disk>>> {
    let mut asker = Asker { host: &**host, area: DmaArea::new(PAGE_SIZE)?, silent: false };
    let mut disks = Vec::new();
    for target in asker.present(targets)? {
        for lun in asker.luns(target) {
            if asker.silent {
                return Err(Error::Device("a disk does not answer"));
            }
            if disks.len() == MOST_DISKS {
                log::warn!("scsi: more than {MOST_DISKS} disks behind one adapter: the rest is left out");
                return Ok(disks);
            }
            let address = Address { target, lun };
            match asker.identify(host, address) {
                Ok(Some(disk)) => disks.push(Arc::new(disk)),
                Ok(None) => {}
                Err(error) => log::warn!("scsi: target {target} unit {lun} is left out: {error:?}"),
            }
        }
    }
    if asker.silent { Err(Error::Device("a disk does not answer")) } else { Ok(disks) }
}

/// Asks questions and waits for the answers.
struct Asker<'a> {
    host: &'a dyn Host,
    /// Where answers go. Lives for ever, so that one which comes too late does no harm.
    area: DmaArea,
    /// Something did not answer, and was reset.
    silent: bool,
}

impl Asker<'_> {
    /// The targets that are there: they are asked all at once.
    fn present(&mut self, targets: core::ops::Range<u16>) -> Result<Vec<u8>> {
        let found = Arc::new(Lock::new(Vec::new()));
        let answers = Arc::new(AtomicUsize::new(0));
        let mut asked = 0;
        for target in targets.filter_map(|t| u8::try_from(t).ok()) {
            let (found, answers) = (found.clone(), answers.clone());
            let done = Done::Raw(Box::new(move |result: Result<u32>| {
                // Any other failure is a target's.
                if result != Err(Error::Gone) {
                    found.lock().push(target);
                }
                answers.fetch_add(1, Ordering::Release);
            }));
            asked += 1;
            // SAFETY: there is no memory.
            unsafe { self.host.start(Task::new(Address { target, lun: 0 }, Cdb::test_unit_ready(), done)) };
        }
        self.wait(|| answers.load(Ordering::Acquire) == asked)?;
        let mut found = core::mem::take(&mut *found.lock());
        found.sort_unstable();
        Ok(found)
    }

    fn wait(&mut self, done: impl Fn() -> bool) -> Result<()> {
        let answered = wait_for(PATIENCE_NS, || {
            self.host.poll();
            done()
        });
        if !answered {
            self.silent = true;
            self.host.give_up();
            return Err(Error::Device("a target does not answer"));
        }
        Ok(())
    }

    /// Sends a command that reads `len` bytes; gives those that came.
    fn ask(&mut self, address: Address, cdb: Cdb, len: usize) -> Result<Vec<u8>> {
        if self.silent {
            return Err(Error::Gone);
        }
        let outcome = Arc::new(spin::Once::new());
        let told = outcome.clone();
        let mut task = Task::new(address, cdb, Done::Raw(Box::new(move |result| _ = told.call_once(|| result))));
        if len > 0 {
            self.area.write(0, &[0; PAGE_SIZE]);
            task.direction = Direction::In;
            task.len = len as u32;
            task.pieces = Box::new([Dma { address: self.area.at::<u8>(0) as usize, len }]);
        }
        // SAFETY: the area lives for ever, and is read only when the answer is there.
        unsafe { self.host.start(task) };
        self.wait(|| outcome.is_completed())?;
        let came = (*outcome.get().ok_or(Error::Gone)?)? as usize;
        let mut bytes = alloc::vec![0; came.min(len)];
        self.area.read(0, &mut bytes);
        Ok(bytes)
    }

    /// The units of a target; unit 0 if it cannot tell.
    fn luns(&mut self, target: u8) -> Vec<u16> {
        let address = Address { target, lun: 0 };
        let answer = self.ask(address, Cdb::report_luns(PAGE_SIZE as u32), PAGE_SIZE);
        let luns = answer.map(|bytes| parse::luns(&bytes)).unwrap_or_default();
        if luns.is_empty() { alloc::vec![0] } else { luns }
    }

    fn vital(&mut self, address: Address, page: u8) -> Option<Vec<u8>> {
        let bytes = self.ask(address, Cdb::vital_data(page, ANSWER), usize::from(ANSWER)).ok()?;
        parse::vital_page(&bytes, page).map(<[u8]>::to_vec)
    }

    fn capacity(&mut self, address: Address, version: u8) -> Result<Capacity> {
        // Units of before SPC-3 know the short form only.
        if version < 5
            && let Some(capacity) = parse::capacity_10(&self.ask(address, Cdb::read_capacity_10(), 8)?)?
        {
            return Ok(capacity);
        }
        match self.ask(address, Cdb::read_capacity_16(32), 32) {
            Ok(bytes) => parse::capacity_16(&bytes),
            Err(Error::Unsupported | Error::Invalid) => {
                parse::capacity_10(&self.ask(address, Cdb::read_capacity_10(), 8)?)?
                    .ok_or(Error::Device("a disk cannot tell its size"))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it refuses writes, and whether it has a volatile cache.
    fn mode(&mut self, address: Address) -> (bool, bool) {
        let len = usize::from(ANSWER);
        if let Ok(bytes) = self.ask(address, Cdb::mode_sense(parse::CACHING, ANSWER as u8), len) {
            return (parse::write_protected(&bytes), parse::write_cache(&bytes).unwrap_or(true));
        }
        let bytes = self.ask(address, Cdb::mode_sense(parse::ALL_PAGES, ANSWER as u8), len).unwrap_or_default();
        (parse::write_protected(&bytes), true)
    }

    /// The disk at an address; `None` if it is something else, or nothing.
    fn identify(&mut self, host: &Arc<dyn Host>, address: Address) -> Result<Option<Disk>> {
        let standard = self.ask(address, Cdb::inquiry(36), 36)?;
        let Some((parse::DISK, version)) = parse::inquiry(&standard) else {
            log::info!("scsi: target {} unit {} is no disk", address.target, address.lun);
            return Ok(None);
        };
        self.ask(address, Cdb::test_unit_ready(), 0)?;
        let capacity = self.capacity(address, version)?;
        let (read_only, cached) = self.mode(address);
        let pages = self.vital(address, page::SUPPORTED).unwrap_or_default();
        let mut vital = |page| if pages.contains(&page) { self.vital(address, page) } else { None };
        let mut serial = vital(page::SERIAL).map(|body| parse::serial(&body)).unwrap_or_default();
        if serial.is_empty() {
            serial = vital(page::IDENTIFICATION).and_then(|body| parse::worldwide_name(&body)).unwrap_or(String::new());
        }
        let limits = vital(page::LIMITS).map(|body| parse::block_limits(&body)).unwrap_or_default();
        let provisioning = vital(page::PROVISIONING).map(|body| parse::provisioning(&body)).unwrap_or_default();
        let (discard, max_discard) = discard(&capacity, &limits, &provisioning);
        let carried = self.host.limits();
        let mut max_request = carried.max_bytes.min(MAX_REQUEST);
        if limits.transfer != 0 {
            max_request = max_request.min(limits.transfer.saturating_mul(capacity.block_size));
        }
        max_request &= !(capacity.block_size - 1);
        if max_request == 0 {
            return Err(Error::Device("the adapter cannot carry a block"));
        }
        let caps = BlockCaps {
            size: capacity.blocks * u64::from(capacity.block_size),
            block_size: capacity.block_size,
            read_only,
            discard: discard != Discard::None,
            max_request,
            max_pieces: carried.max_pieces.clamp(1, MAX_PIECES),
            queues: carried.queues.max(1),
        };
        Ok(Some(Disk { host: host.clone(), address, caps, discard, max_discard, cached, serial }))
    }
}

/// How the unit gives blocks back, and how many at once.
fn discard(capacity: &Capacity, limits: &BlockLimits, provisioning: &Provisioning) -> (Discard, u32) {
    if !capacity.thin {
        return (Discard::None, 0);
    }
    let same = match limits.write_same {
        0 => u32::MAX,
        most => u32::try_from(most).unwrap_or(u32::MAX),
    };
    if provisioning.unmap && limits.unmap > 0 {
        (Discard::Unmap, limits.unmap)
    } else if provisioning.write_same_16 {
        (Discard::Same16, same)
    } else if provisioning.write_same_10 {
        (Discard::Same10, same.min(u32::from(u16::MAX)))
    } else {
        (Discard::None, 0)
    }
}
