//! Many threads in one address space at once: faults, forks, protection and advice against each other.
//!
//! Each thread knows what its own pages hold, and all of them count in one shared page: a missing flush or a lost copy shows
//! as a wrong value. Run by the selftest.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use hal_core::{PAGE_SIZE, clock, platform};

use super::{AddressSpace, Advice, Map, Prot, user};
use crate::sched;

const RW: Prot = Prot::READ.union(Prot::WRITE);
/// Pages of each thread.
const PAGES: usize = 32;
const ROUNDS: usize = 100;

/// One thread's part: pages `base..`, the shared counter, and a generator.
struct Worker {
    space: Arc<AddressSpace>,
    base: usize,
    counter: usize,
    random: u64,
}

impl Worker {
    fn below(&mut self, n: u64) -> usize {
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.random >> 33) % n) as usize
    }

    fn work(mut self) {
        sched::current().set_space(Some(self.space.clone()));
        let mut known = [0u64; PAGES];
        for round in 1..=ROUNDS {
            user::fetch_update_u32(self.counter, |count| count + 1).expect("the counter's page");
            let page = self.below(PAGES as u64);
            let at = self.base + page * PAGE_SIZE;
            match self.below(8) {
                0..4 => {
                    known[page] = round as u64;
                    user::write(at + 8, &known[page]).expect("own page");
                }
                4 => {
                    self.space.advise(at, PAGE_SIZE, Advice::DontNeed).expect("own page");
                    known[page] = 0;
                }
                5 => {
                    self.space.protect(at, PAGE_SIZE, Prot::READ).expect("own page");
                    assert!(user::write(at + 8, &1u64).is_err(), "written without the right");
                    self.space.protect(at, PAGE_SIZE, RW).expect("own page");
                }
                6 => {
                    let child = self.space.fork().expect("memory");
                    // The copy stands while this one changes.
                    user::write(at + 8, &u64::MAX).expect("own page");
                    let mut seen = [0; 8];
                    assert_eq!(child.read_from(at + 8, &mut seen), Ok(8));
                    assert_eq!(u64::from_le_bytes(seen), known[page], "in the child");
                    user::write(at + 8, &known[page]).expect("own page");
                }
                _ => {
                    let new = self.space.map(Map::anonymous(4 * PAGE_SIZE, RW)).expect("memory");
                    user::write(new + PAGE_SIZE, &7u64).expect("new page");
                    assert_eq!(user::read::<u64>(new + PAGE_SIZE), Ok(7));
                    self.space.unmap(new, 4 * PAGE_SIZE).expect("own pages");
                }
            }
            for (page, value) in known.iter().enumerate() {
                assert_eq!(user::read::<u64>(self.base + page * PAGE_SIZE + 8), Ok(*value), "page {page}");
            }
        }
        sched::current().set_space(None);
    }
}

/// Starts the threads and waits for them.
pub fn run() {
    let threads = 2 * platform().cpu().count().min(8);
    let space = AddressSpace::new().expect("memory");
    let base = space.map(Map::anonymous((threads * PAGES + 1) * PAGE_SIZE, RW)).expect("memory");
    let counter = base + threads * PAGES * PAGE_SIZE;
    let done = Arc::new(AtomicUsize::new(0));
    for thread in 0..threads {
        let worker = Worker {
            space: space.clone(),
            base: base + thread * PAGES * PAGE_SIZE,
            counter,
            random: thread as u64 + 1,
        };
        let done = done.clone();
        sched::spawn_kernel("mm-stress", None, move || {
            worker.work();
            done.fetch_add(1, Ordering::Release);
        })
        .expect("memory");
    }
    let end = clock::now_ns() + 60_000_000_000;
    while done.load(Ordering::Acquire) < threads {
        assert!(clock::now_ns() < end, "the threads are stuck");
        let _ = sched::wait::sleep_until(clock::now_ns() + 1_000_000);
    }
    let mut count = [0; 4];
    assert_eq!(space.read_from(counter, &mut count), Ok(4));
    assert_eq!(u32::from_le_bytes(count) as usize, threads * ROUNDS, "every count is there");
}
