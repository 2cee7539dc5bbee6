//! The direct map: opened on demand in pieces of 2 MiB, each with a leaf table of its own.
//!
//! The frames for its tables are one run, set aside at boot and not touched: where the leaf table of a piece is follows from
//! the piece's number, and so does the entry of every guest frame. A leaf table is filled through a window while it is ordinary
//! memory, so opening a piece costs one hypercall for its 512 entries and not one for each. Frames that are tables are mapped
//! read-only; all frames of the run are, from the start.

use core::sync::atomic::{AtomicBool, Ordering};

use hal_core::{Error, PhysAddr, Result, memory};
use hal_x86::paging::{Frame, pte};
use spin::{Mutex, Once};

use super::frames;
use super::sys::{self, Update};
use crate::plan::{ENTRIES, Plan};

/// Root entry of the map's base. Xen has 256 to 271 (arch-x86/xen-x86_64.h).
pub const SLOT: u64 = 288;
/// A leaf: what Xen shows both modes alike is global, and stays in the TLB when they change.
pub const LEAF: u64 = pte::PRESENT | pte::USER | pte::ACCESSED | pte::DIRTY | pte::NO_EXECUTE;
/// An entry that points to a lower table; the software bit tells it from a leaf (see `tables`).
pub const TABLE: u64 = pte::PRESENT | pte::WRITE | pte::USER | pte::ACCESSED | pte::APPLICATION;

/// The tables.
struct Run {
    plan: Plan,
    /// Guest frame of the root.
    root: u64,
    /// The builder's tables: first and end.
    builder: (u64, u64),
}

static RUN: Once<Run> = Once::new();
/// The tables of the run can be read in the map itself.
static READABLE: AtomicBool = AtomicBool::new(false);
static WINDOW: Frame = Frame::new();
static OPENING: Mutex<Early> = Mutex::new(Early { known: [u64::MAX; 64], count: 0 });

/// What was made before the tables could be read: pieces, and tables of level 2.
struct Early {
    known: [u64; 64],
    count: usize,
}

/// Marks a table of level 2.
const LEVEL2: u64 = 1 << 63;

impl Early {
    fn has(&self, what: u64) -> bool {
        self.known[..self.count].contains(&what)
    }
    fn add(&mut self, what: u64) {
        if !self.has(what) {
            let slot = self.known.get_mut(self.count).expect("few pieces are opened before the tables can be read");
            *slot = what;
            self.count += 1;
        }
    }
}

fn run() -> &'static Run {
    RUN.get().expect("the direct map is set up at boot")
}

/// Machine address of entry `index` of the table in guest frame `table`.
pub fn entry_address(table: u64, index: u64) -> u64 {
    frames::of(PhysAddr(table * 4096)) * 4096 + index * 8
}

fn link(table: u64, index: u64, lower: u64) -> Result<()> {
    let value = frames::of(PhysAddr(lower * 4096)) << 12 | TABLE;
    // SAFETY: the entry was empty, and the lower table is this module's.
    unsafe { sys::mmu_update(&[Update { at: entry_address(table, index), value }]) }
}

/// Fills guest frame `table`, which is not a table yet, by the window.
fn fill(table: u64, entry: impl Fn(u64) -> u64) -> Result<()> {
    let window = WINDOW.as_mut_ptr() as u64;
    // SAFETY: the window is a page of this module's own, and the lock of `OPENING` is held; the frame is set aside.
    unsafe {
        sys::update_mapping(window, frames::of(PhysAddr(table * 4096)) << 12 | LEAF | pte::WRITE)?;
        for index in 0..ENTRIES {
            (window as *mut u64).add(index as usize).write_volatile(entry(index));
        }
        // No table may be mapped writable.
        sys::update_mapping(window, 0)
    }
}

/// Reads an entry of a table of the run.
fn read(table: u64, index: u64) -> u64 {
    // SAFETY: tables of the run are in the map once `READABLE` says so, and each table's own piece is opened before it is used.
    unsafe { memory::direct::<u64>(PhysAddr(table * 4096)).add(index as usize).read_volatile() }
}

impl Run {
    fn is_table(&self, frame: u64) -> bool {
        (self.plan.level3..self.plan.end).contains(&frame) || (self.builder.0..self.builder.1).contains(&frame)
    }

    /// True if the table of level 2 for the piece is linked; the tables can be read.
    fn is_linked(&self, piece: u64) -> bool {
        let (table, index) = self.plan.at_level3(piece);
        read(table, index) & pte::PRESENT != 0
    }

    /// True if the piece is open; the tables can be read.
    fn shows(&self, piece: u64) -> bool {
        let (table, index) = self.plan.at_level2(piece);
        self.is_linked(piece) && read(table, index) & pte::PRESENT != 0
    }

    fn open(&self, piece: u64, early: &mut Early) -> Result<()> {
        let readable = READABLE.load(Ordering::Acquire);
        if if readable { self.shows(piece) } else { early.has(piece) } {
            return Ok(());
        }
        // The piece that shows this one's leaf table comes first.
        let shown_by = self.plan.shown_by(piece);
        if shown_by != piece {
            self.open(shown_by, early)?;
        }
        let (level3, index3) = self.plan.at_level3(piece);
        let (level2, index2) = self.plan.at_level2(piece);
        let linked = if readable { self.is_linked(piece) } else { early.has(level2 | LEVEL2) };
        if !linked {
            fill(level2, |_| 0)?;
            link(level3, index3, level2)?;
        }
        let first = piece * ENTRIES;
        let (leaf, _) = self.plan.at_leaf(first);
        fill(leaf, |index| match frames::machine(first + index) {
            Some(machine) if self.is_table(first + index) => machine << 12 | LEAF,
            Some(machine) => machine << 12 | LEAF | pte::WRITE,
            None => 0,
        })?;
        link(level2, index2, leaf)?;
        if !readable {
            early.add(piece);
            early.add(level2 | LEVEL2);
        }
        Ok(())
    }
}

/// Where things are at boot, as guest frame numbers.
pub struct Boot {
    /// The root that the builder made.
    pub root: u64,
    /// The builder's tables.
    pub builder: (u64, u64),
    /// First of [`Plan::len`] frames for the tables.
    pub tables: u64,
}

/// Makes the map's upper part and the kernel's area, and opens the pieces that hold the tables.
pub fn init(boot: &Boot) -> Result<()> {
    let plan = Plan::new(boot.tables, frames::count());
    let run = RUN.call_once(|| Run { plan, root: boot.root, builder: boot.builder });
    memory::set_direct_base(0xffff << 48 | SLOT << 39);
    let mut early = OPENING.lock();
    for table in plan.level3..=plan.area {
        fill(table, |_| 0)?;
    }
    for (slot, table) in (plan.level3..plan.area).enumerate() {
        link(run.root, SLOT + slot as u64, table)?;
    }
    link(run.root, hal_x86::paging::AREA_SLOT as u64, plan.area)?;
    for frame in (plan.level3..plan.leaves).step_by(ENTRIES as usize).chain([plan.leaves - 1, run.root]) {
        run.open(frame / ENTRIES, &mut early)?;
    }
    READABLE.store(true, Ordering::Release);
    Ok(())
}

/// Makes `len` bytes from `start` accessible.
pub fn map(start: PhysAddr, len: u64) -> Result<()> {
    let run = run();
    let (first, end) = (start.page() / ENTRIES, (start.0 + len).div_ceil(4096 * ENTRIES));
    if end > run.plan.pieces {
        return Err(Error::Invalid);
    }
    for piece in first..end {
        if !run.shows(piece) {
            run.open(piece, &mut OPENING.lock())?;
        }
    }
    Ok(())
}

/// Guest frame of the root that the builder made, which is the kernel's.
pub fn root() -> u64 {
    run().root
}

/// The entry that shows guest frame `frame` in the map: its value and the machine address of its place.
#[inline]
pub fn entry_of(frame: u64) -> (u64, u64) {
    let (table, index) = run().plan.at_leaf(frame);
    (read(table, index), entry_address(table, index))
}

/// True if guest frame `frame` is a table that Xen guards: it is mapped read-only.
#[inline]
pub fn is_guarded(frame: u64) -> bool {
    let (table, index) = run().plan.at_leaf(frame);
    read(table, index) & pte::WRITE == 0
}
