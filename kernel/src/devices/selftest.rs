//! Checks of the devices that are there, for `selftest`: each passes where there is no such device.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use hal_core::PAGE_SIZE;

use fs::erofs::Image;

use super::entropy;
use super::volume::{Volume, volumes};
use crate::sched;

/// Pages of each disk that are read.
const PAGES: u64 = 2048;
const THREADS: u64 = 8;

/// Sums the bytes of a page so that their order counts.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &b| (sum ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn whole() -> impl Iterator<Item = &'static Arc<Volume>> {
    volumes().iter().filter(|volume| volume.partition().is_none())
}

/// A disk gives the same bytes by big reads, by small ones at odd places, and to many threads at once.
pub fn disks_read() -> Result<(), &'static str> {
    for disk in whole() {
        let pages = (disk.len() / PAGE_SIZE as u64).min(PAGES);
        let mut expected = Vec::new();
        let mut page = vec![0; PAGE_SIZE];
        disk.pages(0, pages, &mut |_, frame| {
            frame.read(0, &mut page);
            expected.push(digest(&page));
        })
        .map_err(|_| "a disk does not read")?;
        if expected.len() as u64 != pages {
            return Err("a disk gave a wrong number of pages");
        }
        let expected: Arc<[u64]> = expected.into();
        let (right, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for thread in 0..THREADS {
            let (disk, expected) = (disk.clone(), expected.clone());
            let (right, done) = (right.clone(), done.clone());
            let body = move || {
                let mut page = vec![0; PAGE_SIZE];
                for index in (thread..pages).step_by(THREADS as usize) {
                    // Two parts that do not end at a sector.
                    let cut = 1 + (index as usize * 97) % (PAGE_SIZE - 2);
                    let at = index * PAGE_SIZE as u64;
                    let first = disk.read_at(at, &mut page[..cut]);
                    let second = disk.read_at(at + cut as u64, &mut page[cut..]);
                    if (first, second) == (Ok(cut), Ok(PAGE_SIZE - cut)) && digest(&page) == expected[index as usize] {
                        right.fetch_add(1, Ordering::Relaxed);
                    }
                }
                done.fetch_add(1, Ordering::Release);
            };
            sched::spawn_kernel("selftest", None, body).map_err(|_| "no thread")?;
        }
        while done.load(Ordering::Acquire) < THREADS as usize {
            let _ = sched::wait::sleep_until(base::time::now_ns() + 1_000_000);
        }
        if right.load(Ordering::Relaxed) as u64 != pages {
            return Err("a disk gave different bytes the second time");
        }
        if disk.read_at(disk.len(), &mut page) != Ok(0) {
            return Err("a disk can be read behind its end");
        }
    }
    Ok(())
}

/// A disk that may be written takes a page back that it gave, and a flush.
pub fn disks_write() -> Result<(), &'static str> {
    for disk in whole().filter(|d| !d.disk().caps().read_only && d.len() > 0) {
        let mut page = vec![0; PAGE_SIZE];
        let last = disk.len() - disk.len().min(PAGE_SIZE as u64) + 100;
        let n = disk.read_at(last, &mut page).map_err(|_| "a disk does not read")?;
        if disk.write_at(last, &page[..n]) != Ok(n) || disk.disk().flush().is_err() {
            return Err("a disk does not write");
        }
        let mut again = vec![0; PAGE_SIZE];
        if disk.read_at(last, &mut again) != Ok(n) || again != page {
            return Err("a disk has forgotten what was written");
        }
    }
    Ok(())
}

static ENTROPY: AtomicUsize = AtomicUsize::new(0);

/// Entropy devices answer, with bytes that are not all alike.
pub fn entropy_arrives() -> Result<(), &'static str> {
    let asked = entropy::sample(|bytes| {
        if bytes.iter().any(|b| *b != bytes[0]) {
            ENTROPY.fetch_add(1, Ordering::Relaxed);
        }
    });
    for _ in 0..5000 {
        if ENTROPY.load(Ordering::Relaxed) >= asked {
            return Ok(());
        }
        let _ = sched::wait::sleep_until(base::time::now_ns() + 1_000_000);
    }
    Err("an entropy device does not answer")
}
