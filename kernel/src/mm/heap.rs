//! The kernel's heap: small objects by size class from slab pages, larger ones straight from the frames.
//!
//! Each CPU keeps free objects of each class, so that the common path takes no shared lock. Interrupt handlers may allocate and
//! free: one that interrupts the common path itself goes to the pages. Objects are in the direct map and
//! physically contiguous, which DMA needs.
//!
//! A slab page's free objects are a list inside the page, its counters are in the frame's metadata: `refs` holds
//! objects in use (low half) and objects ever carved (high half), `extra` the first free one.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use base::sync::IrqSpinLock;
use hal_core::memory::{direct, phys_of};
use hal_core::{PAGE_SIZE, PhysAddr};
use mm_core::buddy::{NONE, state};

use super::frame::{self, Purpose};
use super::local::{self, Objects};
use super::section;

/// Number of size classes.
pub const CLASSES: usize = 13;
const SIZES: [u16; CLASSES] = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048];
const LARGEST: usize = 2048;
/// Size class by (size + 15) / 16.
const CLASS_OF: [u8; LARGEST / 16 + 1] = {
    let mut table = [0; LARGEST / 16 + 1];
    let (mut index, mut class) = (0, 0);
    while index < table.len() {
        if index * 16 > SIZES[class] as usize {
            class += 1;
        }
        table[index] = class as u8;
        index += 1;
    }
    table
};
/// No object, in a page's list.
const END: u16 = u16::MAX;

/// One class's pages that have free objects: the first one's frame number. Its own cache line.
#[repr(align(64))]
struct Class {
    partial: IrqSpinLock<u32>,
    /// Slab pages, and objects outside of them (in use or in a CPU's stock); `objects` is written under the lock.
    pages: AtomicUsize,
    objects: AtomicUsize,
}

static CLASS: [Class; CLASSES] =
    [const { Class { partial: IrqSpinLock::new(NONE), pages: AtomicUsize::new(0), objects: AtomicUsize::new(0) } };
        CLASSES];
/// Frames in slab pages, and in larger objects.
static PAGES: AtomicUsize = AtomicUsize::new(0);

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

/// Frames that the heap holds.
pub fn pages() -> usize {
    PAGES.load(Relaxed)
}

/// One size class, for `/proc/slabinfo`.
pub struct ClassStats {
    /// Bytes of an object.
    pub size: usize,
    /// Objects in use, and those that CPUs keep for the next allocation.
    pub objects: usize,
    /// Slab pages.
    pub pages: usize,
}

/// Every size class.
pub fn classes() -> impl Iterator<Item = ClassStats> {
    CLASS.iter().zip(SIZES).map(|(class, size)| ClassStats {
        size: size.into(),
        objects: class.objects.load(Relaxed),
        pages: class.pages.load(Relaxed),
    })
}

/// The size class of a layout; `None` if it needs whole frames.
#[inline]
fn class_of(layout: Layout) -> Option<usize> {
    let (size, align) = (layout.size(), layout.align());
    // Objects lie at multiples of their class's size; powers of two are aligned to themselves.
    let size = if align > 16 { size.max(align).next_power_of_two() } else { size };
    (size <= LARGEST).then(|| CLASS_OF[size.div_ceil(16)] as usize)
}

fn order_of(layout: Layout) -> u8 {
    let pages = layout.size().max(layout.align()).div_ceil(PAGE_SIZE);
    pages.next_power_of_two().trailing_zeros() as u8
}

/// How many objects a CPU keeps of a class.
const fn limit(class: usize) -> u32 {
    let fit = 8192 / SIZES[class] as u32;
    if fit > 64 { 64 } else { fit }
}

// SAFETY: blocks are distinct, aligned (see `class_of`; frames are aligned to their size) and as long as asked.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else {
            return alloc_large(layout);
        };
        let object = local::with(|local| {
            let objects = &mut local.objects[class];
            let object = objects.head;
            if !object.is_null() {
                // SAFETY: a free object's first word is the next one.
                objects.head = unsafe { object.cast::<*mut u8>().read() };
                objects.count -= 1;
            }
            object
        });
        match object {
            Some(object) if !object.is_null() => object,
            _ => refill(class),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(class) = class_of(layout) else {
            PAGES.fetch_sub(1 << order_of(layout), Relaxed);
            // SAFETY: allocated by `alloc_large` with the same layout, hence the same order.
            return unsafe { frame::free(phys_of(pointer), order_of(layout)) };
        };
        // SAFETY: the object is free from now on, and at least 16 bytes.
        unsafe { release(class, pointer) };
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_size, layout.align()) else {
            return null_mut();
        };
        let same = match (class_of(layout), class_of(new)) {
            (None, None) => order_of(layout) == order_of(new),
            (old, new) => old == new,
        };
        if same {
            return pointer;
        }
        // SAFETY: `new` is valid; both blocks hold the bytes copied; the old one is the caller's.
        unsafe {
            let to = self.alloc(new);
            if !to.is_null() {
                core::ptr::copy_nonoverlapping(pointer, to, layout.size().min(new_size));
                self.dealloc(pointer, layout);
            }
            to
        }
    }
}

#[cold]
fn alloc_large(layout: Layout) -> *mut u8 {
    let order = order_of(layout);
    if order > frame::MAX_ORDER {
        return null_mut();
    }
    let Some(at) = frame::alloc_for(order, Purpose::Kernel) else {
        return null_mut();
    };
    PAGES.fetch_add(1 << order, Relaxed);
    direct(at)
}

/// Puts a free object into this CPU's stock.
///
/// # Safety
/// It is an object of this class that nobody uses.
unsafe fn release(class: usize, object: *mut u8) {
    let surplus = local::with(|local| {
        let objects = &mut local.objects[class];
        // SAFETY: by the caller.
        unsafe { object.cast::<*mut u8>().write(objects.head) };
        objects.head = object;
        objects.count += 1;
        if objects.count > limit(class) {
            return cut(objects, limit(class) / 2 + 1);
        }
        null_mut()
    });
    // Without per-CPU data there is nowhere to keep it but its page.
    let surplus = surplus.unwrap_or_else(|| {
        // SAFETY: by the caller.
        unsafe { object.cast::<*mut u8>().write(null_mut()) };
        object
    });
    if !surplus.is_null() {
        give_back(class, surplus);
    }
}

/// Takes `count` objects off, as a list.
fn cut(objects: &mut Objects, count: u32) -> *mut u8 {
    let first = objects.head;
    let mut last = first;
    for _ in 1..count {
        // SAFETY: there are more than `count` objects in the list.
        last = unsafe { last.cast::<*mut u8>().read() };
    }
    // SAFETY: `last` is a free object; the list is cut behind it.
    unsafe {
        objects.head = last.cast::<*mut u8>().read();
        last.cast::<*mut u8>().write(null_mut());
    }
    objects.count -= count;
    first
}

/// Gets a batch of objects from the class's pages: one to return, the others for this CPU.
#[cold]
fn refill(class: usize) -> *mut u8 {
    let mut got = Objects { head: null_mut(), count: 0 };
    let want = (limit(class) / 2).max(1);
    loop {
        let mut partial = CLASS[class].partial.lock();
        while got.count < want && *partial != NONE {
            let page = *partial;
            if !carve(class, page, want, &mut got) {
                unlink(&mut partial, page);
            }
        }
        if got.count > 0 {
            CLASS[class].objects.fetch_add(got.count as usize, Relaxed);
            break;
        }
        drop(partial);
        let Some(at) = frame::alloc_for(0, Purpose::Kernel) else {
            return null_mut();
        };
        PAGES.fetch_add(1, Relaxed);
        let page = (at.0 / PAGE_SIZE as u64) as u32;
        let meta = section::meta(page);
        meta.refs.store(0, Relaxed);
        meta.extra.store(END, Relaxed);
        meta.order.store(class as u8, Relaxed);
        meta.state.store(state::SLAB, Relaxed);
        CLASS[class].pages.fetch_add(1, Relaxed);
        link(&mut CLASS[class].partial.lock(), page);
    }
    let object = got.head;
    // SAFETY: at least one object was got; each one's first word is the next.
    let mut rest = unsafe { object.cast::<*mut u8>().read() };
    while !rest.is_null() {
        // SAFETY: as above; `release` takes the object over.
        unsafe {
            let next = rest.cast::<*mut u8>().read();
            release(class, rest);
            rest = next;
        }
    }
    object
}

/// Moves free objects of a page to `got`; false if the page has no more.
fn carve(class: usize, page: u32, want: u32, got: &mut Objects) -> bool {
    let meta = section::meta(page);
    let base: *mut u8 = direct(PhysAddr(u64::from(page) * PAGE_SIZE as u64));
    let size = SIZES[class] as usize;
    let fit = (PAGE_SIZE / size) as u32;
    let mut refs = meta.refs.load(Relaxed);
    let mut head = meta.extra.load(Relaxed);
    while got.count < want {
        let object = if head != END {
            // SAFETY: the object lies in this page and is free; its first word is the next one's place.
            unsafe {
                let object = base.add(head as usize * 16);
                head = object.cast::<u16>().read();
                object
            }
        } else if refs >> 16 < fit {
            refs += 1 << 16;
            // SAFETY: the object lies in this page, by `fit`.
            unsafe { base.add(((refs >> 16) as usize - 1) * size) }
        } else {
            break;
        };
        refs += 1;
        // SAFETY: a free object of at least 16 bytes.
        unsafe { object.cast::<*mut u8>().write(got.head) };
        got.head = object;
        got.count += 1;
    }
    meta.refs.store(refs, Relaxed);
    meta.extra.store(head, Relaxed);
    refs & 0xffff != fit
}

/// Returns a list of objects to their pages; pages that become empty go back to the frames.
#[cold]
fn give_back(class: usize, mut object: *mut u8) {
    let fit = (PAGE_SIZE / SIZES[class] as usize) as u32;
    let mut empty = NONE;
    let mut objects = 0;
    let mut partial = CLASS[class].partial.lock();
    while !object.is_null() {
        // SAFETY: a free object; its first word is the next.
        let next = unsafe { object.cast::<*mut u8>().read() };
        let page = (phys_of(object).0 / PAGE_SIZE as u64) as u32;
        let meta = section::meta(page);
        let refs = meta.refs.load(Relaxed);
        // SAFETY: as above.
        unsafe { object.cast::<u16>().write(meta.extra.load(Relaxed)) };
        meta.extra.store((object as usize % PAGE_SIZE / 16) as u16, Relaxed);
        meta.refs.store(refs - 1, Relaxed);
        if refs & 0xffff == fit {
            link(&mut partial, page);
        }
        // One page stays, so that a class at its edge does not take and give a page again and again.
        if refs & 0xffff == 1 && (*partial != page || meta.next.load(Relaxed) != NONE) {
            unlink(&mut partial, page);
            meta.next.store(empty, Relaxed);
            empty = page;
        }
        object = next;
        objects += 1;
    }
    CLASS[class].objects.fetch_sub(objects, Relaxed);
    drop(partial);
    while empty != NONE {
        let meta = section::meta(empty);
        let next = meta.next.load(Relaxed);
        meta.order.store(0, Relaxed);
        meta.state.store(state::USED, Relaxed);
        PAGES.fetch_sub(1, Relaxed);
        CLASS[class].pages.fetch_sub(1, Relaxed);
        // SAFETY: the page holds no object any more and is on no list.
        unsafe { frame::free(PhysAddr(u64::from(empty) * PAGE_SIZE as u64), 0) };
        empty = next;
    }
}

fn link(head: &mut u32, page: u32) {
    let meta = section::meta(page);
    meta.next.store(*head, Relaxed);
    meta.prev.store(NONE, Relaxed);
    if *head != NONE {
        section::meta(*head).prev.store(page, Relaxed);
    }
    *head = page;
}

fn unlink(head: &mut u32, page: u32) {
    let meta = section::meta(page);
    let (next, prev) = (meta.next.load(Relaxed), meta.prev.load(Relaxed));
    if next != NONE {
        section::meta(next).prev.store(prev, Relaxed);
    }
    if prev != NONE {
        section::meta(prev).next.store(next, Relaxed);
    } else {
        *head = next;
    }
}
