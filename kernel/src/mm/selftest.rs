//! Checks of memory management inside the running kernel, on real page tables: run when the command line asks for it.
//! A check that fails panics. What needs no hardware is tested on the host (`kernel/mm-core`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use base::{Errno, Frame, PageSource, Result, SpinLock};
use hal_core::cpu::PageFault;
use hal_core::memory::direct;
use hal_core::{PAGE_SIZE, VirtAddr};

use super::table::{self, HUGE_SIZE};
use super::zap::Piece;
use crate::sched;

use super::{AddressSpace, Advice, Backing, Fault, Fixed, Map, Prot, RemapFlags, VmaFlags, frame, heap, user};

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// Runs everything; interrupts enabled, on a kernel stack, nothing of the application's running.
pub fn run() {
    let checks: [(&str, fn()); 14] = [
        ("frames", frames),
        ("heap", small_objects),
        ("anonymous memory", anonymous),
        ("rights", rights),
        ("files", files),
        ("fork", fork),
        ("remap", remap),
        ("huge pages", huge_pages),
        ("sparse spaces", sparse),
        ("advice and brk", advice),
        ("stacks", stacks),
        ("user memory", user_memory),
        ("memory runs out", out_of_memory),
        ("threads in parallel", super::stress::run),
    ];
    for (name, check) in checks {
        // Once to fill stocks and make tables that stay, once to see that nothing is lost.
        check();
        let before = used();
        check();
        let after = used();
        if before != after {
            // Threads that ended are freed a little later, and caches of stacks differ. What is lost grows each time.
            let more: [usize; 4] = core::array::from_fn(|_| {
                check();
                used()
            });
            let (early, late) = (before.max(after).max(more[0]), more[1..].iter().copied().min().unwrap_or(0));
            assert!(late <= early, "{name}: frames in use grow: {before}, {after}, {more:?}");
        }
        log::info!("selftest mm: {name}: ok");
    }
}

/// Frames in use that are not the heap's (whose stocks come and go).
fn used() -> usize {
    let stats = frame::stats();
    stats.total - stats.free - heap::pages()
}

/// A small deterministic generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % n
    }
}

fn frames() {
    let mut random = Random(7);
    let mut held = Vec::new();
    for number in 0..2000u64 {
        let order = random.below(40).saturating_sub(35) as u8;
        let Some(at) = frame::alloc(order) else {
            break;
        };
        assert!(at.is_aligned((PAGE_SIZE as u64) << order) && frame::refs(at) == 1);
        // SAFETY: just allocated.
        unsafe { direct::<u64>(at).write(number) };
        held.push((at, order, number));
        if random.below(3) == 0 {
            let (at, _, number) = held.swap_remove(random.below(held.len() as u64) as usize);
            // SAFETY: allocated above, its only reference.
            unsafe {
                assert_eq!(direct::<u64>(at).read(), number);
                frame::put(at);
            }
        }
    }
    for (at, order, number) in held {
        // SAFETY: as above.
        unsafe {
            assert_eq!(direct::<u64>(at).read(), number);
            frame::free(at, order);
        }
    }
}

fn small_objects() {
    let mut random = Random(11);
    let mut held: Vec<Vec<u8>> = Vec::new();
    for _ in 0..4000 {
        let most = if random.below(8) == 0 { 20_000 } else { 600 };
        let len = 1 + random.below(most) as usize;
        held.push(alloc::vec![len as u8; len]);
        if random.below(2) == 0 {
            let one = held.swap_remove(random.below(held.len() as u64) as usize);
            assert!(one.iter().all(|&byte| byte == one.len() as u8));
        }
    }
    assert!(held.iter().all(|one| one.iter().all(|&byte| byte == one.len() as u8)));
}

fn touch(space: &AddressSpace, at: usize, write: bool) -> core::result::Result<(), Fault> {
    space.fault(&PageFault { address: VirtAddr(at as u64), write, fetch: false, present: false, reserved: false })
}

fn get(space: &AddressSpace, at: usize) -> u64 {
    let mut bytes = [0; 8];
    assert_eq!(space.read_from(at, &mut bytes), Ok(8), "read at {at:#x}");
    u64::from_le_bytes(bytes)
}

fn put(space: &AddressSpace, at: usize, value: u64) {
    assert_eq!(space.write_to(at, &value.to_le_bytes()), Ok(8), "write at {at:#x}");
}

fn anonymous() {
    let space = AddressSpace::new().unwrap();
    let at = space.map(Map::anonymous(16 * PAGE_SIZE, RW)).unwrap();
    for page in 0..16 {
        assert_eq!(get(&space, at + page * PAGE_SIZE), 0);
        put(&space, at + page * PAGE_SIZE + 8, page as u64 + 1);
    }
    assert_eq!(space.stats().anonymous, 16);
    // Across a page border, and only as far as it is mapped.
    assert_eq!(space.write_to(at + PAGE_SIZE - 3, b"abcdef"), Ok(6));
    let mut text = [0; 6];
    assert_eq!(space.read_from(at + 16 * PAGE_SIZE - 3, &mut text), Ok(3));
    space.unmap(at + 4 * PAGE_SIZE, 4 * PAGE_SIZE).unwrap();
    assert_eq!(touch(&space, at + 5 * PAGE_SIZE, false), Err(Fault::MAPERR));
    assert_eq!(get(&space, at + 8 * PAGE_SIZE + 8), 9);
    assert_eq!(space.stats().anonymous, 12);
    let again = Map { fixed: Fixed::NoReplace, ..Map::anonymous(PAGE_SIZE, RW).at(at) };
    assert_eq!(space.map(again), Err(Errno::EEXIST));
    space.map(Map::anonymous(8 * PAGE_SIZE, RW).at(at)).unwrap();
    assert_eq!(get(&space, at + 8), 0);
    assert_eq!(space.map(Map::anonymous(PAGE_SIZE, RW).at(0)), Err(Errno::EPERM));
    assert_eq!(space.map(Map::anonymous(0, RW)), Err(Errno::EINVAL));
    assert_eq!(space.map(Map::anonymous(1 << 50, RW)), Err(Errno::ENOMEM));
    let mut seen = 0;
    space.for_each_vma(|_| seen += 1);
    assert_eq!(seen, 1, "what was split and filled again is one region");
}

fn rights() {
    let space = AddressSpace::new().unwrap();
    let at = space.map(Map::anonymous(4 * PAGE_SIZE, RW)).unwrap();
    put(&space, at, 77);
    space.protect(at, PAGE_SIZE, Prot::READ).unwrap();
    assert_eq!(touch(&space, at, true), Err(Fault::ACCERR));
    assert_eq!(get(&space, at), 77);
    space.protect(at, 2 * PAGE_SIZE, Prot::empty()).unwrap();
    assert_eq!(touch(&space, at, false), Err(Fault::ACCERR));
    assert_eq!(space.read_from(at, &mut [0; 8]), Err(Errno::EFAULT));
    space.protect(at, 2 * PAGE_SIZE, RW).unwrap();
    assert_eq!(get(&space, at), 77);
    put(&space, at, 78);
    let fetch = PageFault { address: VirtAddr(at as u64), write: false, fetch: true, present: true, reserved: false };
    assert_eq!(space.fault(&fetch), Err(Fault::ACCERR));
    assert_eq!(space.protect(at, 5 * PAGE_SIZE, RW), Err(Errno::ENOMEM));
    let fixed = Map { max_prot: Prot::READ, ..Map::anonymous(PAGE_SIZE, Prot::READ) };
    let fixed = space.map(fixed).unwrap();
    assert_eq!(space.protect(fixed, PAGE_SIZE, RW), Err(Errno::EACCES));
}

/// A file of eight pages, each full of its number; what is read in stays cached.
struct TestFile {
    pages: SpinLock<[Option<Frame>; 8]>,
    reads: AtomicUsize,
    dirty: AtomicUsize,
}

impl PageSource for TestFile {
    fn page(&self, index: u64) -> Result<Frame> {
        let mut pages = self.pages.lock();
        let slot = pages.get_mut(index as usize).ok_or(Errno::ENXIO)?;
        if let Some(frame) = slot {
            return Ok(frame.clone());
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::zeroed()?;
        frame.write(0, &[index as u8; PAGE_SIZE]);
        Ok(slot.insert(frame).clone())
    }
    fn page_if_cached(&self, index: u64) -> Option<Frame> {
        self.pages.lock().get(index as usize)?.clone()
    }
    fn mark_dirty(&self, index: u64) {
        self.dirty.fetch_or(1 << index, Ordering::Relaxed);
    }
    fn identity(&self) -> (u64, u64) {
        (9, 9)
    }
}

fn files() {
    let file = Arc::new(TestFile {
        pages: SpinLock::new([const { None }; 8]),
        reads: AtomicUsize::new(0),
        dirty: AtomicUsize::new(0),
    });
    let source: Arc<dyn PageSource> = file.clone();
    let space = AddressSpace::new().unwrap();
    let map = |flags, offset, pages: usize| Map {
        flags,
        backing: Backing::File { source: source.clone(), offset },
        ..Map::anonymous(pages * PAGE_SIZE, RW)
    };
    let private = space.map(map(VmaFlags::empty(), 1, 9)).unwrap();
    let shared = space.map(map(VmaFlags::SHARED, 0, 8)).unwrap();
    assert_eq!(get(&space, private), 0x0101_0101_0101_0101);
    assert_eq!(touch(&space, private + 7 * PAGE_SIZE, false), Err(Fault::BUS), "beyond the end");
    put(&space, private, 5);
    assert_eq!(get(&space, shared + PAGE_SIZE), 0x0101_0101_0101_0101, "private writes stay private");
    assert_eq!(file.dirty.load(Ordering::Relaxed), 0);
    put(&space, shared + 2 * PAGE_SIZE, 6);
    assert_eq!(file.dirty.swap(0, Ordering::Relaxed), 1 << 2);
    assert_eq!(get(&space, private + PAGE_SIZE), 6, "shared writes are seen");
    // After a synchronisation the next write is noticed again.
    space.sync(shared, 8 * PAGE_SIZE, true).unwrap();
    assert_eq!(file.dirty.swap(0, Ordering::Relaxed), 1 << 2);
    put(&space, shared + 2 * PAGE_SIZE, 7);
    assert_eq!(file.dirty.load(Ordering::Relaxed), 1 << 2);
    for page in 0..8 {
        get(&space, shared + page * PAGE_SIZE);
    }
    assert_eq!(file.reads.load(Ordering::Relaxed), 8);
    // All are cached now: one fault maps them all.
    let other = AddressSpace::new().unwrap();
    let again = other.map(map(VmaFlags::SHARED, 0, 8)).unwrap();
    get(&other, again + 3 * PAGE_SIZE);
    assert_eq!(other.present_pages(again..again + 8 * PAGE_SIZE), 8, "fault-around");
    put(&other, again + 5 * PAGE_SIZE, 1234);
    assert_eq!(get(&space, shared + 5 * PAGE_SIZE), 1234);
    // The file loses its last two pages: who has them mapped asks again, and private copies stay.
    put(&space, private + 5 * PAGE_SIZE, 4321);
    file.pages.lock()[6..].fill(None);
    super::forget_pages((9, 9), 6..u64::MAX);
    assert_eq!(other.present_pages(again..again + 8 * PAGE_SIZE), 6);
    assert_eq!(get(&space, private + 5 * PAGE_SIZE), 4321);
    assert_eq!(get(&space, shared + 7 * PAGE_SIZE), 0x0707_0707_0707_0707);
    get(&space, shared + 6 * PAGE_SIZE);
    assert_eq!(space.shared_object(shared + 5 * PAGE_SIZE + 4), Some(((9, 9), 5 * PAGE_SIZE as u64 + 4)));
    assert_eq!(space.stats().file, 8 + space.present_pages(private..private + 9 * PAGE_SIZE) - 2);
}

fn fork() {
    let parent = AddressSpace::new().unwrap();
    let at = parent.map(Map::anonymous(600 * PAGE_SIZE, RW)).unwrap();
    let shared = parent.map(Map { flags: VmaFlags::SHARED, ..Map::anonymous(4 * PAGE_SIZE, RW) }).unwrap();
    let hidden = parent.map(Map::anonymous(2 * PAGE_SIZE, RW)).unwrap();
    let wiped = parent.map(Map::anonymous(2 * PAGE_SIZE, RW)).unwrap();
    for page in 0..600 {
        put(&parent, at + page * PAGE_SIZE, page as u64);
    }
    put(&parent, shared, 1);
    put(&parent, hidden, 2);
    put(&parent, wiped, 3);
    parent.protect(at + PAGE_SIZE, PAGE_SIZE, Prot::empty()).unwrap();
    parent.advise(hidden, 2 * PAGE_SIZE, Advice::DontFork).unwrap();
    parent.advise(wiped, 2 * PAGE_SIZE, Advice::WipeOnFork).unwrap();
    let child = parent.fork().unwrap();
    put(&parent, at, 1000);
    put(&child, at + 2 * PAGE_SIZE, 2000);
    assert_eq!((get(&child, at), get(&parent, at)), (0, 1000));
    assert_eq!((get(&child, at + 2 * PAGE_SIZE), get(&parent, at + 2 * PAGE_SIZE)), (2000, 2));
    child.protect(at + PAGE_SIZE, PAGE_SIZE, RW).unwrap();
    assert_eq!(get(&child, at + PAGE_SIZE), 1, "a page without rights comes along");
    put(&child, at + PAGE_SIZE, 3000);
    put(&child, shared, 9);
    assert_eq!(get(&parent, shared), 9);
    assert_eq!(touch(&child, hidden, false), Err(Fault::MAPERR));
    assert_eq!((get(&child, wiped), get(&parent, wiped)), (0, 3));
    // A grandchild, and the middle one goes first.
    let grandchild = child.fork().unwrap();
    drop(child);
    for page in 3..600 {
        assert_eq!(get(&grandchild, at + page * PAGE_SIZE), page as u64);
        put(&grandchild, at + page * PAGE_SIZE, 5);
        assert_eq!(get(&parent, at + page * PAGE_SIZE), page as u64);
    }
    drop(grandchild);
    parent.protect(at + PAGE_SIZE, PAGE_SIZE, RW).unwrap();
    assert_eq!(get(&parent, at + PAGE_SIZE), 1);
    for page in 3..600 {
        put(&parent, at + page * PAGE_SIZE, 6);
    }
}

fn remap() {
    let space = AddressSpace::new().unwrap();
    let at = space.map(Map::anonymous(8 * PAGE_SIZE, RW)).unwrap();
    for page in 0..8 {
        put(&space, at + page * PAGE_SIZE, page as u64 + 10);
    }
    space.remap(at, 8 * PAGE_SIZE, 6 * PAGE_SIZE, RemapFlags::empty(), 0).unwrap();
    assert_eq!(touch(&space, at + 6 * PAGE_SIZE, false), Err(Fault::MAPERR));
    assert_eq!(space.remap(at, 6 * PAGE_SIZE, 8 * PAGE_SIZE, RemapFlags::empty(), 0), Ok(at), "in place");
    assert_eq!(get(&space, at + 7 * PAGE_SIZE), 0);
    space.map(Map::anonymous(PAGE_SIZE, RW).at(at + 8 * PAGE_SIZE)).unwrap();
    let wall = Map { prot: Prot::READ, ..Map::anonymous(PAGE_SIZE, RW) };
    space.map(wall.at(at + 8 * PAGE_SIZE)).unwrap();
    assert_eq!(space.remap(at, 8 * PAGE_SIZE, 64 * PAGE_SIZE, RemapFlags::empty(), 0), Err(Errno::ENOMEM));
    let moved = space.remap(at, 8 * PAGE_SIZE, 64 * PAGE_SIZE, RemapFlags::MAYMOVE, 0).unwrap();
    assert_eq!((get(&space, moved), get(&space, moved + 5 * PAGE_SIZE)), (10, 15));
    assert_eq!(touch(&space, at, false), Err(Fault::MAPERR));
    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
    let target = moved - 300 * PAGE_SIZE;
    assert_eq!(space.remap(moved + 2 * PAGE_SIZE, 3 * PAGE_SIZE, PAGE_SIZE, flags, target), Ok(target));
    assert_eq!(get(&space, target), 12);
    let flags = RemapFlags::MAYMOVE | RemapFlags::DONTUNMAP;
    let twin = space.remap(moved, PAGE_SIZE, PAGE_SIZE, flags, 0).unwrap();
    assert_eq!((get(&space, twin), get(&space, moved)), (10, 0));
    assert_eq!(space.remap(moved + 1, PAGE_SIZE, PAGE_SIZE, flags, 0), Err(Errno::EINVAL));
    assert_eq!(space.remap(0x7000_0000, PAGE_SIZE, PAGE_SIZE, RemapFlags::empty(), 0), Err(Errno::EFAULT));
}

fn huge_pages() {
    let len = 16 << 20;
    if frame::stats().free < len / PAGE_SIZE + 512 {
        log::warn!("selftest mm: huge pages: not run, needs 18 MiB of free memory");
        return;
    }
    let space = AddressSpace::new().unwrap();
    let at = space.map(Map::anonymous(len, RW)).unwrap();
    assert!(at.is_multiple_of(HUGE_SIZE));
    for offset in (0..len).step_by(PAGE_SIZE) {
        touch(&space, at + offset, true).unwrap();
    }
    assert_eq!(space.stats().anonymous, len / PAGE_SIZE);
    let mut huge = 0;
    let whole = space.visit_whole(at..at + len, &mut |piece| huge += usize::from(matches!(piece, Piece::Huge { .. })));
    assert!(whole.is_ok());
    // The first 2 MiB shows that the region is used densely; the others come at once if memory is plentiful.
    let plenty = frame::approximate_free() > super::huge::PLENTY + 2 * len / PAGE_SIZE;
    if table::mmu().has_huge(2) {
        assert!(huge == len / HUGE_SIZE - 1 || !plenty, "{huge} huge pages");
    } else {
        // The rest is as true of small pages.
        log::info!("selftest mm: huge pages: this platform has none");
        assert_eq!(huge, 0);
    }
    let stamp = |space: &AddressSpace, offset: usize, value: u64| {
        touch(space, at + offset, true).unwrap();
        put(space, at + offset, value);
    };
    for offset in (0..len).step_by(HUGE_SIZE / 4) {
        stamp(&space, offset, offset as u64 + 1);
    }
    space.advise(at, len, Advice::HugePage).unwrap();
    space.unmap(at + HUGE_SIZE * 3 / 2, HUGE_SIZE).unwrap();
    space.protect(at + HUGE_SIZE * 7 / 2, HUGE_SIZE, Prot::empty()).unwrap();
    space.protect(at + HUGE_SIZE * 7 / 2, HUGE_SIZE, RW).unwrap();
    let child = space.fork().unwrap();
    space.advise(at + HUGE_SIZE * 5 + PAGE_SIZE, HUGE_SIZE, Advice::DontNeed).unwrap();
    for offset in (0..len).step_by(HUGE_SIZE / 4) {
        if !(HUGE_SIZE * 3 / 2..HUGE_SIZE * 5 / 2).contains(&offset) {
            assert_eq!(get(&child, at + offset), offset as u64 + 1, "at {offset:#x}");
            let gone = (HUGE_SIZE * 5 + PAGE_SIZE..HUGE_SIZE * 6 + PAGE_SIZE).contains(&offset);
            assert_eq!(get(&space, at + offset), if gone { 0 } else { offset as u64 + 1 });
        }
    }
}

fn sparse() {
    let space = AddressSpace::new().unwrap();
    let len = 8 << 40;
    let map = Map { flags: VmaFlags::NORESERVE, ..Map::anonymous(len, RW) };
    let at = space.map(map).unwrap();
    for offset in [0, (len / 3) & !7, len / 2, len - 8] {
        put(&space, at + offset, offset as u64 + 1);
    }
    let child = space.fork().unwrap();
    space.protect(at, len, Prot::READ).unwrap();
    space.advise(at, len / 2, Advice::DontNeed).unwrap();
    assert_eq!((get(&space, at), get(&space, at + len / 2)), (0, len as u64 / 2 + 1));
    space.unmap(at + PAGE_SIZE, len - PAGE_SIZE).unwrap();
    assert_eq!(get(&child, at + len - 8), len as u64 - 7);
}

fn advice() {
    let space = AddressSpace::new().unwrap();
    let at = space.map(Map::anonymous(8 * PAGE_SIZE, RW)).unwrap();
    put(&space, at, 5);
    put(&space, at + PAGE_SIZE, 6);
    assert_eq!(&space.resident(at, 3 * PAGE_SIZE).unwrap()[..], &[1, 1, 0]);
    space.advise(at, PAGE_SIZE, Advice::DontNeed).unwrap();
    assert_eq!((get(&space, at), get(&space, at + PAGE_SIZE)), (0, 6));
    space.advise(at, 8 * PAGE_SIZE, Advice::PopulateWrite).unwrap();
    assert_eq!(space.stats().anonymous, 8);
    space.lock_pages(at, PAGE_SIZE, true).unwrap();
    assert_eq!(space.advise(at, PAGE_SIZE, Advice::DontNeed), Err(Errno::EINVAL));
    assert_eq!(space.advise(at, 9 * PAGE_SIZE, Advice::Hint), Err(Errno::ENOMEM));
    assert_eq!(space.resident(at + 8 * PAGE_SIZE, PAGE_SIZE), Err(Errno::ENOMEM));
    let start = 0x1000_0000;
    space.set_layout(0x7000_0000_0000, start);
    assert_eq!(space.brk(0), start);
    assert_eq!(space.brk(start + 100), start + 100);
    put(&space, start + 64, 1);
    assert_eq!(space.brk(start + 3 * PAGE_SIZE), start + 3 * PAGE_SIZE);
    put(&space, start + 2 * PAGE_SIZE, 1);
    assert_eq!(space.brk(start + PAGE_SIZE), start + PAGE_SIZE);
    assert_eq!(touch(&space, start + PAGE_SIZE, true), Err(Fault::MAPERR));
    assert_eq!(get(&space, start + 64), 1);
    space.clear();
    assert_eq!(touch(&space, at, false), Err(Fault::MAPERR));
}

fn stacks() {
    let space = AddressSpace::new().unwrap();
    let top = 0x7000_0000_0000;
    let map = Map { flags: VmaFlags::GROWSDOWN, ..Map::anonymous(2 * PAGE_SIZE, RW) };
    space.map(map.at(top - 2 * PAGE_SIZE)).unwrap();
    space.set_stack_limit(64 * PAGE_SIZE);
    put(&space, top - 20 * PAGE_SIZE, 3);
    assert_eq!(touch(&space, top - 65 * PAGE_SIZE, true), Err(Fault::MAPERR));
    let kernel: Vec<_> = (0..20).map(|_| super::stack::KernelStack::new().unwrap()).collect();
    for stack in &kernel {
        let word = (stack.top().0 - 8) as *mut u64;
        let last = (stack.top().0 - super::stack::STACK_SIZE as u64) as *mut u64;
        // SAFETY: both words lie in a stack that nobody uses.
        unsafe {
            word.write_volatile(1);
            last.write_volatile(2);
        }
    }
}

fn user_memory() {
    let space = AddressSpace::new().unwrap();
    let at = space.map(Map::anonymous(4 * PAGE_SIZE, RW)).unwrap();
    let only_read = space.map(Map::anonymous(PAGE_SIZE, Prot::READ)).unwrap();
    sched::current().set_space(Some(space));
    // Every first access faults in the kernel.
    assert_eq!(user::read::<u64>(at + 8), Ok(0));
    assert_eq!(user::write(at + PAGE_SIZE - 4, &0x1122_3344_5566_7788u64), Ok(()));
    assert_eq!(user::read::<u32>(at + PAGE_SIZE), Ok(0x1122_3344));
    assert_eq!(user::try_load_u32(at + 2 * PAGE_SIZE), None, "not there, and not waited for");
    assert_eq!(user::compare_exchange_u32(at + 2 * PAGE_SIZE, 0, 5), Ok(0));
    assert_eq!(user::try_load_u32(at + 2 * PAGE_SIZE), Some(5));
    assert_eq!(user::try_compare_exchange_u32(at + 2 * PAGE_SIZE, 6, 7), Some(5));
    assert_eq!(user::fetch_update_u32(at + 2 * PAGE_SIZE, |word| word | 8), Ok(5));
    assert_eq!(user::load_u32(at + 2 * PAGE_SIZE), Ok(13));
    assert_eq!(user::load_u32(at + 1), Err(Errno::EINVAL));
    assert_eq!(user::write(only_read, &1u8), Err(Errno::EFAULT));
    assert_eq!(user::read::<u8>(only_read), Ok(0));
    for bad in [0, 8, at + 64 * PAGE_SIZE, 0x7fff_ffff_ffff, 0x8000_0000_0000, usize::MAX - 3] {
        assert_eq!(user::read::<u32>(bad), Err(Errno::EFAULT), "{bad:#x}");
        assert_eq!(user::write_bytes(bad, b"xyz"), Err(Errno::EFAULT), "{bad:#x}");
    }
    let mut out = base::io::Out::user(at + 4 * PAGE_SIZE - 5, 10);
    assert_eq!(out.write(b"0123456789"), Ok(5), "as far as it goes");
    assert_eq!(user::read_cstr(at + 4 * PAGE_SIZE - 5, 100), Err(Errno::EFAULT));
    user::write_bytes(at, b"hello\0").unwrap();
    assert_eq!(user::read_cstr(at, 100).as_deref(), Ok(&b"hello"[..]));
    assert_eq!(user::read_cstr(at, 3), Err(Errno::ENAMETOOLONG));
    sched::current().set_space(None);
}

fn out_of_memory() {
    let total = frame::stats().total;
    if total > (1 << 30) / PAGE_SIZE {
        log::warn!("selftest mm: memory runs out: not run, takes too long with more than 1 GiB");
        return;
    }
    let space = AddressSpace::new().unwrap();
    assert_eq!(space.map(Map::anonymous((total + 1) * PAGE_SIZE, RW)), Err(Errno::ENOMEM), "more than there is");
    let map = Map { flags: VmaFlags::NORESERVE, ..Map::anonymous(2 * total * PAGE_SIZE, RW) };
    let at = space.map(map).unwrap();
    let failed = (0..2 * total).find(|page| touch(&space, at + page * PAGE_SIZE, true).is_err()).expect("an end");
    assert_eq!(touch(&space, at + failed * PAGE_SIZE, true), Err(Fault::OUT_OF_MEMORY));
    assert!(failed > total / 2, "{failed} of {total} pages could be used");
    // The kernel still has its reserve, and other calls fail as they should.
    drop(alloc::vec![1u8; 3 * PAGE_SIZE]);
    assert!(matches!(space.fork().map(drop), Err(Errno::ENOMEM)));
    assert_eq!(get(&space, at), 0);
    // A little given back is a little to use.
    space.unmap(at + PAGE_SIZE, 64 * PAGE_SIZE).unwrap();
    touch(&space, at + failed * PAGE_SIZE, true).unwrap();
}
