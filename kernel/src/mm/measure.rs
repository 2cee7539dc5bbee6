//! What the hot paths of memory management cost, in ticks of the time-stamp counter: under QEMU's `-icount shift=0,sleep=off`
//! one tick is one instruction.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hal_core::cpu::PageFault;
use hal_core::{PAGE_SIZE, VirtAddr, clock};

use crate::sched;

use super::{AddressSpace, Map, Prot, frame, user};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const PAGES: usize = 1024;

/// Logs `work`'s cost per `unit`.
fn per(name: &str, units: usize, work: impl FnOnce()) {
    let start = clock::tsc();
    work();
    let ticks = clock::tsc() - start;
    log::info!("measure mm: {name}: {} ticks each", ticks / units as u64);
}

fn touch(space: &AddressSpace, at: usize, write: bool) {
    let fault = PageFault { address: VirtAddr(at as u64), write, fetch: false, present: false, reserved: false };
    assert_eq!(space.fault(&fault), Ok(()));
}

/// Measures and logs; on a kernel stack, interrupts enabled.
pub fn run() {
    let space = AddressSpace::new().expect("memory");
    let map = || space.map(Map::anonymous(PAGES * PAGE_SIZE, RW)).expect("memory");
    let at = map();
    let each = |write| (0..PAGES).for_each(|page| touch(&space, at + page * PAGE_SIZE, write));
    per("write fault on new memory", PAGES, || each(true));
    per("look up a region", PAGES, || {
        (0..PAGES).for_each(|page| assert!(space.shared_object(at + page * 4096).is_none()))
    });
    per("write fault on a page that is there", PAGES, || each(true));
    sched::current().set_space(Some(space.clone()));
    per("read 8 bytes of the program's", PAGES, || {
        (0..PAGES).for_each(|page| assert!(user::read::<u64>(at + page * PAGE_SIZE).is_ok()));
    });
    let mut buffer = alloc::vec![0u8; PAGE_SIZE];
    per("read 4096 bytes of the program's", PAGES, || {
        (0..PAGES).for_each(|page| assert!(user::read_bytes(at + page * PAGE_SIZE, &mut buffer).is_ok()));
    });
    let other = map();
    per("kernel write that faults on new memory", PAGES, || {
        (0..PAGES).for_each(|page| assert!(user::write(other + page * PAGE_SIZE, &1u64).is_ok()));
    });
    sched::current().set_space(None);
    let mut child = None;
    per("fork, per page of 2048", 2 * PAGES, || child = space.fork().ok());
    per("copy-on-write fault", PAGES, || each(true));
    per("exit, per page of 2048", 2 * PAGES, || drop(child.take()));
    per("write fault on a page that is one's own again", PAGES, || each(true));
    per("unmap, per page", PAGES, || assert_eq!(space.unmap(at, PAGES * PAGE_SIZE), Ok(())));
    per("map and unmap one page", 100, || {
        for _ in 0..100 {
            let at = space.map(Map::anonymous(PAGE_SIZE, RW)).expect("memory");
            assert_eq!(space.unmap(at, PAGE_SIZE), Ok(()));
        }
    });
    per("fork and exit of an empty space", 10, || (0..10).for_each(|_| drop(AddressSpace::new())));
    let mut frames = Vec::with_capacity(PAGES);
    per("frame alloc", PAGES, || (0..PAGES).for_each(|_| frames.extend(frame::alloc(0))));
    // SAFETY: allocated above, each with its only reference.
    per("frame free", PAGES, || frames.drain(..).for_each(|at| unsafe { frame::put(at) }));
    per("heap alloc and free of 64 bytes", PAGES, || {
        (0..PAGES).for_each(|i| drop(core::hint::black_box(Box::new([i as u64; 8]))));
    });
}
