//! In the final place: per-CPU block, direct map, and the loader's start info turned into [`BootInfo`].

use hal_core::boot::{MAX_RANGES, MemoryKind, MemoryRange, Module};
use hal_core::{BootInfo, PhysAddr, memory};
use spin::Once;

use super::symbol;
use crate::memmap::{RawRange, sanitise};
use crate::pc::has_word;
use crate::screen::TEXT_SCREEN;
use crate::{arch, paging, serial};

unsafe extern "Rust" {
    /// The kernel. Defined by the kernel's crate.
    fn kernel_main(info: &'static BootInfo) -> !;
}

const NOTHING: MemoryRange = MemoryRange { start: PhysAddr(0), len: 0, kind: MemoryKind::Reserved };

/// What [`BootInfo`] points to.
struct Storage {
    info: BootInfo,
}

static INFO: Once<Storage> = Once::new();
static MEMORY: Once<([MemoryRange; MAX_RANGES], usize)> = Once::new();
static RESERVED: Once<([MemoryRange; MAX_RANGES], usize)> = Once::new();
static MODULES: Once<([Module; MAX_RANGES], usize)> = Once::new();

/// `hvm_start_info`, version 1 (xen/include/public/arch-x86/hvm/start_info.h).
#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_entries: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ModuleEntry {
    start: u64,
    len: u64,
    command_line: u64,
    reserved: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryEntry {
    start: u64,
    len: u64,
    kind: u32,
    reserved: u32,
}

/// Reads a loader's structure through the direct map.
fn read<T: Copy>(at: u64) -> T {
    let len = size_of::<T>() as u64;
    paging::map_direct(PhysAddr(at), len).expect("the start info lies in memory that can be mapped");
    // SAFETY: mapped by the line above; plain numbers, for which every bit pattern is good.
    unsafe { memory::direct::<T>(PhysAddr(at)).read_unaligned() }
}

/// Where the assembly jumps to, on the boot stack, in the final place.
#[unsafe(no_mangle)]
extern "C" fn coracle_start(_delta: u64, start_info: u32) -> ! {
    crate::descriptors::init_idt();
    let boot = crate::local::CpuLocal::boot();
    boot.list(0, 0);
    // SAFETY: the boot CPU's own block; the root table is the image's, and maps this code and stack.
    unsafe {
        boot.enter();
        arch::set_cr3(paging::kernel_root_phys());
    }
    crate::features::init_this_cpu();
    serial::COM1.init();
    hal_core::set_early_console(&serial::EarlySerial);

    let start: StartInfo = read(u64::from(start_info));
    let info = describe(u64::from(start_info), &start);
    // SAFETY: the kernel defines it with this signature.
    unsafe { kernel_main(info) }
}

fn describe(at: u64, start: &StartInfo) -> &'static BootInfo {
    assert!(
        start.version >= 1 && start.memory_entries > 0,
        "the loader's start info (version {}) has no memory map",
        start.version
    );
    let mut raw: [RawRange; MAX_RANGES] = [(0, 0, 0); MAX_RANGES];
    let entries = (start.memory_entries as usize).min(MAX_RANGES);
    for (i, slot) in raw[..entries].iter_mut().enumerate() {
        let e: MemoryEntry = read(start.memory_map + (i * size_of::<MemoryEntry>()) as u64);
        *slot = (e.start, e.len, e.kind);
    }
    let memory = MEMORY.call_once(|| {
        let mut out = [NOTHING; MAX_RANGES];
        let count = sanitise(&raw[..entries], &mut out);
        (out, count)
    });
    let memory = &memory.0[..memory.1];

    let modules = MODULES.call_once(|| {
        let mut out = [Module { start: PhysAddr(0), len: 0 }; MAX_RANGES];
        let count = (start.modules as usize).min(MAX_RANGES);
        for (i, slot) in out[..count].iter_mut().enumerate() {
            let m: ModuleEntry = read(start.module_list + (i * size_of::<ModuleEntry>()) as u64);
            *slot = Module { start: PhysAddr(m.start), len: m.len };
        }
        (out, count)
    });
    let modules = &modules.0[..modules.1];

    let command_line = command_line(start.command_line);
    if has_word(command_line, b"screen=text") {
        hal_core::set_screen(&TEXT_SCREEN);
    }
    let reserved = RESERVED.call_once(|| {
        let mut list = List { out: [NOTHING; MAX_RANGES], count: 0 };
        // The first page (real-mode tables) and the page that other CPUs start in.
        list.add(0, 4096);
        if let Some(page) = trampoline_page(memory, at, start) {
            list.add(page, 4096);
            crate::smp::set_trampoline(page);
        }
        list.add(super::image_phys(), super::image_len());
        list.add(start.command_line, command_line.len() as u64 + 1);
        for module in modules {
            list.add(module.start.0, module.len);
        }
        reserve_tables(memory, &mut list);
        (list.out, list.count)
    });
    let reserved = &reserved.0[..reserved.1];

    let base = symbol!(__image_start);
    &INFO
        .call_once(|| Storage {
            info: BootInfo {
                memory,
                reserved,
                command_line,
                modules,
                rsdp: (start.rsdp != 0).then_some(PhysAddr(start.rsdp)),
                entry_tsc: super::entry_tsc(),
                image: (base, base + super::image_len()),
            },
        })
        .info
}

struct List {
    out: [MemoryRange; MAX_RANGES],
    count: usize,
}

impl List {
    fn add(&mut self, start: u64, len: u64) {
        if len == 0 {
            return;
        }
        let slot = self.out.get_mut(self.count).expect("boot modules fit in the list of reserved ranges");
        *slot = MemoryRange { start: PhysAddr(start), len, kind: MemoryKind::Reserved };
        self.count += 1;
    }
    fn overlapping(&self, start: u64, len: u64) -> Option<u64> {
        self.out[..self.count]
            .iter()
            .filter(|r| r.start.0 < start + len && start < r.start.0 + r.len)
            .map(|r| r.start.0 + r.len)
            .max()
    }
}

/// The command line where the loader put it; its memory is reserved.
fn command_line(at: u64) -> &'static [u8] {
    const LIMIT: u64 = 1 << 20;
    if at == 0 {
        return &[];
    }
    let len = (0..LIMIT).find(|&i| read::<u8>(at + i) == 0).expect("the command line ends within 1 MiB");
    // SAFETY: mapped by the reads above, reserved below, never written.
    unsafe { core::slice::from_raw_parts(memory::direct::<u8>(PhysAddr(at)), len as usize) }
}

/// A page below 640 KiB for the start of other CPUs, free of what the loader put there.
fn trampoline_page(memory: &[MemoryRange], at: u64, start: &StartInfo) -> Option<u64> {
    let busy = |page: u64| {
        let taken = |from: u64, len: u64| from < page + 4096 && page < from + len;
        taken(at, size_of::<StartInfo>() as u64)
            || taken(start.command_line & !0xfff, 8192)
            || taken(start.memory_map, u64::from(start.memory_entries) * 24)
            || taken(start.module_list, u64::from(start.modules) * 32)
    };
    (1..0xa0u64).rev().map(|n| n * 4096).find(|&page| is_usable(memory, page, 4096) && !busy(page))
}

fn is_usable(memory: &[MemoryRange], start: u64, len: u64) -> bool {
    memory.iter().any(|r| r.kind == MemoryKind::Usable && r.start.0 <= start && start + len <= r.start.0 + r.len)
}

/// Sets frames aside for the direct map's tables: one per GiB of usable memory, and one per 512 GiB.
fn reserve_tables(memory: &[MemoryRange], list: &mut List) {
    let mut frames = 0;
    let mut last = u64::MAX;
    let mut top = 0;
    for r in memory.iter().filter(|r| r.kind == MemoryKind::Usable) {
        let (first, end) = (r.start.0 >> 30, (r.start.0 + r.len - 1) >> 30);
        frames += end - first + u64::from(first != last);
        last = end;
        top = r.start.0 + r.len;
    }
    // ACPI tables lie in reserved memory below 4 GiB, at most one GiB of it is looked at besides.
    frames += 4 + top.div_ceil(1 << 39);
    let len = frames * 4096;
    let mut at = (super::image_phys() + super::image_len()).next_multiple_of(4096);
    while let Some(end) = list.overlapping(at, len) {
        at = end.next_multiple_of(4096);
    }
    if !is_usable(memory, at, len) {
        at = memory
            .iter()
            .filter(|r| r.kind == MemoryKind::Usable && r.start.0 >= 1 << 20)
            .find_map(|r| fit(list, r, len))
            .expect("there is memory for the page tables");
    }
    list.add(at, len);
    paging::add_pool(at, at + len).expect("the first tables are enough to map the others");
    paging::prepare_roots(top).expect("the tables set aside are enough");
    paging::copy_roots_to_identity();
}

fn fit(list: &List, range: &MemoryRange, len: u64) -> Option<u64> {
    let mut at = range.start.0;
    while let Some(end) = list.overlapping(at, len) {
        at = end.next_multiple_of(4096);
    }
    (at + len <= range.start.0 + range.len).then_some(at)
}
