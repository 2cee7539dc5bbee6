//! Frame numbers: the guest counts its own from 0, page tables hold the machine's. The domain builder left a list of the
//! machine's numbers (P2M); Xen shows the way back, for all of the machine (M2P, arch-x86/xen-x86_64.h).

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use hal_core::PhysAddr;

/// Where Xen maps the list of guest frames by machine frame.
const MACHINE_TO_GUEST: *const u64 = 0xffff_8000_0000_0000 as *const u64;
/// In the builder's list: no frame there.
const NOTHING: u64 = u64::MAX;

static LIST: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Takes the builder's list.
///
/// # Safety
/// `list` has `count` numbers and stays mapped for ever; `count` is not 0.
pub unsafe fn init(list: *mut u64, count: u64) {
    LIST.store(list.cast(), Ordering::Relaxed);
    COUNT.store(count, Ordering::Relaxed);
}

/// How many guest frames there are.
#[inline]
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// The machine's number of guest frame `number`, if memory is there.
#[inline]
pub fn machine(number: u64) -> Option<u64> {
    if number >= count() {
        return None;
    }
    // SAFETY: within the list.
    let frame = unsafe { (*LIST.load(Ordering::Relaxed).add(number as usize)).load(Ordering::Relaxed) };
    (frame != NOTHING).then_some(frame)
}

/// Changes what is at guest frame `number`, which is in the list.
pub fn set(number: u64, machine: Option<u64>) {
    assert!(number < count(), "guest frame {number:#x} is not in the list");
    // SAFETY: within the list.
    unsafe {
        (*LIST.load(Ordering::Relaxed).add(number as usize)).store(machine.unwrap_or(NOTHING), Ordering::Relaxed)
    };
}

/// The machine's number of a frame that must be there.
#[inline]
pub fn of(at: PhysAddr) -> u64 {
    machine(at.page()).unwrap_or_else(|| missing(at))
}

#[cold]
fn missing(at: PhysAddr) -> ! {
    panic!("no memory at guest-physical {at:?}")
}

/// The guest's number of machine frame `frame`, which is one of this domain's.
#[inline]
pub fn guest(frame: u64) -> u64 {
    // SAFETY: Xen maps the list for every frame that an entry of this domain can name.
    unsafe { MACHINE_TO_GUEST.add(frame as usize).read_volatile() }
}
