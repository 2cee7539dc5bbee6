//! Page-table entries of applications.
//!
//! They are the platform's to encode (`hal_core::Mmu`). But faults, forks and exits make and read thousands, so the bits of
//! each flag are asked for once, and where the platform says that entries hold plain addresses they are put together here.
//!
//! Entries that are not present but not empty are the kernel's own: *held* pages, which a region without rights
//! (`PROT_NONE`) keeps.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use base::Once;
use hal_core::mmu::{Mmu, Pte, PteFlags};
use hal_core::{PAGE_SIZE, PhysAddr, platform};

/// On a leaf: the frame belongs to a page cache too. A private region copies it before a write.
pub const CACHED: PteFlags = PteFlags::COW;

/// Marks a held page. Its address is in the usual bits, inverted: a CPU with the L1TF flaw would read what is at the address in
/// an entry that is not present, and a hypervisor refuses such an entry or slows the guest down for it.
const HELD: u64 = 1 << 1;
const HELD_SPECIAL: u64 = 1 << 2;
const HELD_CACHED: u64 = 1 << 3;
const HELD_ADDRESS: u64 = !(PAGE_SIZE as u64 - 1);

/// What each flag does to an entry.
struct Bits {
    /// `Mmu::address_mask`, or 0 if there is none.
    address: AtomicU64,
    /// A leaf of the application's without rights.
    base: AtomicU64,
    /// Set by the right to write (and the dirty bit, which goes with it).
    write: AtomicU64,
    /// The write bit alone.
    write_only: AtomicU64,
    /// Changed by the right to execute: set, or cleared if `base` has it.
    exec: AtomicU64,
    special: AtomicU64,
    cached: AtomicU64,
    /// Set in a level-2 entry that is a leaf.
    huge: AtomicU64,
}

static BITS: Bits = Bits {
    address: AtomicU64::new(0),
    base: AtomicU64::new(0),
    write: AtomicU64::new(0),
    write_only: AtomicU64::new(0),
    exec: AtomicU64::new(0),
    special: AtomicU64::new(0),
    cached: AtomicU64::new(0),
    huge: AtomicU64::new(0),
};

const BASE: PteFlags = PteFlags::USER.union(PteFlags::ACCESSED);

static MMU: Once<&'static dyn Mmu> = Once::new();

/// The platform's page-table operations, one virtual call nearer.
#[inline]
pub fn mmu() -> &'static dyn Mmu {
    *MMU.get().expect("set by `mm::init`")
}

/// Asks the platform what never changes.
pub fn init() {
    let mmu = *MMU.call_once(|| platform().mmu());
    let bits = |flags: PteFlags| mmu.leaf(PhysAddr(0), BASE | flags, 1).0;
    let base = bits(PteFlags::empty());
    BITS.base.store(base, Relaxed);
    BITS.write.store(bits(PteFlags::WRITE | PteFlags::DIRTY) ^ base, Relaxed);
    BITS.write_only.store(bits(PteFlags::WRITE) ^ base, Relaxed);
    BITS.exec.store(bits(PteFlags::EXEC) ^ base, Relaxed);
    BITS.special.store(bits(PteFlags::SPECIAL) ^ base, Relaxed);
    BITS.cached.store(bits(CACHED) ^ base, Relaxed);
    BITS.huge.store(mmu.leaf(PhysAddr(0), BASE | PteFlags::HUGE, 2).0 & !base, Relaxed);
    BITS.address.store(mmu.address_mask().unwrap_or(0), Relaxed);
}

/// A leaf of level 1 that shows `frame` to the application. Of `flags` the rights, `SPECIAL` and [`CACHED`] count.
#[inline]
pub fn leaf(frame: PhysAddr, flags: PteFlags) -> Pte {
    if BITS.address.load(Relaxed) == 0 {
        return mmu().leaf(frame, flags | BASE, 1);
    }
    let mut bits = BITS.base.load(Relaxed);
    if flags.contains(PteFlags::WRITE) {
        bits ^= BITS.write.load(Relaxed);
    }
    if flags.contains(PteFlags::EXEC) {
        bits ^= BITS.exec.load(Relaxed);
    }
    if flags.contains(PteFlags::SPECIAL) {
        bits ^= BITS.special.load(Relaxed);
    }
    if flags.contains(CACHED) {
        bits ^= BITS.cached.load(Relaxed);
    }
    Pte(bits | frame.0)
}

/// The frame of a present leaf of level 1, and of its flags the rights, `SPECIAL` and [`CACHED`].
#[inline]
pub fn decode(entry: Pte) -> (PhysAddr, PteFlags) {
    let mask = BITS.address.load(Relaxed);
    if mask == 0 {
        return mmu().decode(entry, 1);
    }
    let mut flags = PteFlags::empty();
    flags.set(PteFlags::WRITE, entry.0 & BITS.write_only.load(Relaxed) != 0);
    flags.set(PteFlags::EXEC, (entry.0 ^ BITS.base.load(Relaxed)) & BITS.exec.load(Relaxed) != 0);
    flags.set(PteFlags::SPECIAL, entry.0 & BITS.special.load(Relaxed) != 0);
    flags.set(CACHED, entry.0 & BITS.cached.load(Relaxed) != 0);
    (PhysAddr(entry.0 & mask), flags)
}

/// A present leaf without the right to write.
#[inline]
pub fn without_write(entry: Pte) -> Pte {
    Pte(entry.0 & !BITS.write_only.load(Relaxed))
}

/// The frame or table in a present entry.
#[inline]
pub fn address(entry: Pte, level: u8) -> PhysAddr {
    match BITS.address.load(Relaxed) {
        0 => mmu().decode(entry, level).0,
        mask => PhysAddr(entry.0 & mask),
    }
}

/// True for a present entry of a level-2 table that maps a huge page.
#[inline]
pub fn is_huge(entry: Pte) -> bool {
    entry.is_present() && entry.0 & BITS.huge.load(Relaxed) != 0
}

/// A page that an entry holds without showing it: its address, and which of `SPECIAL` and [`CACHED`] it has.
#[inline]
pub fn held(entry: Pte) -> Option<(PhysAddr, PteFlags)> {
    (!entry.is_present() && entry.0 & HELD != 0).then(|| {
        let mut flags = PteFlags::empty();
        flags.set(PteFlags::SPECIAL, entry.0 & HELD_SPECIAL != 0);
        flags.set(CACHED, entry.0 & HELD_CACHED != 0);
        (PhysAddr(!entry.0 & HELD_ADDRESS), flags)
    })
}

/// An entry that holds `frame` without showing it.
pub fn hold(frame: PhysAddr, flags: PteFlags) -> Pte {
    let special = if flags.contains(PteFlags::SPECIAL) { HELD_SPECIAL } else { 0 };
    let cached = if flags.contains(CACHED) { HELD_CACHED } else { 0 };
    Pte(!frame.0 & HELD_ADDRESS | HELD | special | cached)
}
