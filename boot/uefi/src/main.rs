//! BOOTX64.EFI: from UEFI firmware to the kernel (docs/architecture.md, "Boot from a disk"). This file is the order;
//! what it decides is `boot/plan`'s, what firmware does is in `firmware`.
//!
//! Reads the kernel and its command line from the volume that it comes from, makes a start info from firmware's memory
//! map, ends boot services and enters the kernel as the PVH protocol says. Nothing is said unless something is wrong.
#![no_std]
#![no_main]

mod disk;
mod entry;
mod firmware;

use core::convert::Infallible;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use boot_layout::{COMMAND_LINE, COMMAND_LINE_MAX, KERNEL, KERNEL_MAX, crc32};
use boot_plan::Refused;
use boot_plan::kernel::{ALIGN, HEAD, Kernel};
use boot_plan::memory::{self, RANGES_MAX, Range};
use boot_plan::start_info::{self, ENTRY_LEN, StartInfo};
use firmware::{Console, File, Firmware, MemoryMap, PAGE, Result};
use uefi_raw::table::boot::MemoryType;
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Guid, Handle, Status, guid};

/// Room for what the memory map grows by between the question for its size and its last copy.
const MAP_SLACK: usize = 16384;
/// How long an error stays on the screen before firmware goes on to what it boots next.
const READING_TIME_US: usize = 5_000_000;

const ACPI_2: Guid = guid!("8868e871-e4f1-11d3-bc22-0080c73c8881");
const ACPI_1: Guid = guid!("eb9d2d30-2d88-11d3-9a16-0090273fc14d");

/// What is handed to the kernel, in pages below 4 GiB.
struct HandOver {
    info: [u8; start_info::LEN],
    map: [[u8; ENTRY_LEN]; RANGES_MAX],
    command_line: [u8; COMMAND_LINE_MAX as usize + 1],
}

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
}

#[unsafe(no_mangle)]
extern "efiapi" fn efi_main(image: Handle, table: *const SystemTable) -> Status {
    // SAFETY: called by firmware with these arguments, once.
    let firmware = unsafe { Firmware::new(image, table) };
    TABLE.store(table.cast_mut(), Ordering::Relaxed);
    let Err(problem) = boot(&firmware);
    let _ = writeln!(Console(&firmware), "\nCoracle: {problem}");
    firmware.stall(READING_TIME_US);
    Status::LOAD_ERROR
}

fn boot(firmware: &Firmware) -> Result<Infallible> {
    let volume = firmware.volume()?;
    let entry = load_kernel(firmware, &volume)?;
    let hand_over: &mut HandOver = allocate_zeroed(firmware)?;
    command_line(&volume, &mut hand_over.command_line)?;
    let jump = trampoline_page(firmware)?;

    let room = firmware.memory_map_len() + MAP_SLACK;
    let buffer = firmware.allocate(MemoryType::LOADER_DATA, pages(room as u64))?;
    // A descriptor is longer than a range, so there are as many ranges as fit in the map's room.
    let ranges = firmware.allocate(MemoryType::LOADER_DATA, pages(room as u64))?;
    // SAFETY: fresh pages; every bit pattern that is written below is a range. Zero is one, too.
    let ranges = unsafe {
        core::ptr::write_bytes(ranges as *mut u8, 0, room);
        core::slice::from_raw_parts_mut(ranges as *mut Range, room / size_of::<Range>())
    };
    let rsdp = match firmware.configuration(&ACPI_2) {
        0 => firmware.configuration(&ACPI_1),
        at => at,
    };
    TABLE.store(null_mut(), Ordering::Relaxed);
    firmware.exit(buffer, room, |map| {
        let count = convert(map, ranges);
        for (slot, range) in hand_over.map.iter_mut().zip(&ranges[..count]) {
            *slot = start_info::encode_entry(range);
        }
        hand_over.info = StartInfo {
            command_line: hand_over.command_line.as_ptr() as u64,
            rsdp,
            map: hand_over.map.as_ptr() as u64,
            map_entries: count as u32,
        }
        .encode();
    })?;
    // SAFETY: the page holds the trampoline's code, lies below 4 GiB and is mapped to itself, as UEFI has it; the
    // kernel is loaded, and firmware's services have ended.
    unsafe {
        let jump: extern "sysv64" fn(u64, u64) -> ! = core::mem::transmute(jump as *const u8);
        jump(u64::from(entry), hand_over.info.as_ptr() as u64)
    }
}

fn pages(len: u64) -> u64 {
    len.div_ceil(PAGE)
}

/// A zeroed value in pages of its own.
fn allocate_zeroed(firmware: &Firmware) -> Result<&'static mut HandOver> {
    let at = firmware.allocate(MemoryType::LOADER_DATA, pages(size_of::<HandOver>() as u64))? as *mut HandOver;
    // SAFETY: fresh pages, for ever this program's; bytes may be anything.
    unsafe {
        at.write_bytes(0, 1);
        Ok(&mut *at)
    }
}

/// Loads the kernel; returns its entry.
fn load_kernel(firmware: &Firmware, volume: &File) -> Result<u32> {
    const WHAT: &str = "the kernel (/coracle/kernel) cannot be read";
    let file = volume.open(KERNEL, WHAT)?;
    let len = file.len(WHAT)?;
    if len > KERNEL_MAX {
        return Err(Refused("the kernel is impossibly long").into());
    }
    let buffer = firmware.allocate(MemoryType::LOADER_DATA, pages(len).max(1))? as *mut u8;
    // SAFETY: fresh pages, at least so many bytes.
    let bytes = unsafe { core::slice::from_raw_parts_mut(buffer, len as usize) };
    file.read(0, bytes, WHAT)?;
    // A kernel of another length was put there by somebody, after the disk was written.
    if let Some(block) = disk::boot_block(firmware)
        && block.kernel_len == len
        && block.kernel_crc != crc32(bytes)
    {
        return Err(Refused("the kernel on this disk is damaged (checksum); write the image again").into());
    }
    let kernel = place(firmware, Kernel::parse(&bytes[..HEAD.min(bytes.len())], len)?)?;
    for piece in kernel.pieces(0, bytes.len()) {
        let part = &bytes[piece.from..piece.from + piece.len];
        // SAFETY: into the pages that `place` got from firmware.
        unsafe { core::ptr::copy_nonoverlapping(part.as_ptr(), piece.to as *mut u8, part.len()) };
    }
    for (start, len) in kernel.zeroes() {
        // SAFETY: as above.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, len as usize) };
    }
    for (at, len) in kernel.notes() {
        // SAFETY: in a segment that was copied.
        let notes = unsafe { core::slice::from_raw_parts(at as *const u8, len as usize) };
        if let Some(entry) = kernel.entry(notes)? {
            return Ok(entry);
        }
    }
    Err(Refused("the kernel has no PVH entry note").into())
}

/// Gets the memory that the kernel wants, or other memory if it may be moved.
fn place(firmware: &Firmware, kernel: Kernel) -> Result<Kernel> {
    let (start, end) = kernel.span();
    let page = start - start % PAGE;
    match firmware.allocate_at(page, pages(end - page)) {
        Ok(()) => Ok(kernel),
        Err(problem) if !kernel.movable() => Err(problem),
        Err(_) => {
            let room = firmware.allocate(MemoryType::LOADER_DATA, pages(end - page + ALIGN))?;
            Ok(kernel.moved_to(room.next_multiple_of(ALIGN))?)
        }
    }
}

/// Reads the command line into `out`, which is zero and one byte longer than any. A volume without one is allowed.
fn command_line(volume: &File, out: &mut [u8]) -> Result<()> {
    const WHAT: &str = "the command line (/coracle/cmdline) cannot be read";
    let file = match volume.open(COMMAND_LINE, WHAT) {
        Err(problem) if problem.is_missing() => return Ok(()),
        other => other?,
    };
    let len = file.len(WHAT)?;
    if len > u64::from(COMMAND_LINE_MAX) {
        return Err(Refused("the command line (/coracle/cmdline) is longer than 4095 bytes").into());
    }
    file.read(0, &mut out[..len as usize], WHAT)
}

/// A page below 4 GiB with the code that leaves long mode.
fn trampoline_page(firmware: &Firmware) -> Result<u64> {
    let page = firmware.allocate(MemoryType::LOADER_CODE, 1)?;
    let code = &raw const trampoline;
    // SAFETY: the symbols are the ends of the code, which is shorter than the fresh page.
    unsafe {
        let len = (&raw const trampoline_end).offset_from(code) as usize;
        core::ptr::copy_nonoverlapping(code, page as *mut u8, len);
    }
    Ok(page)
}

/// Firmware's memory map as the kernel takes it; returns how many ranges there are.
fn convert(map: &MemoryMap, out: &mut [Range]) -> usize {
    let mut count = 0;
    for (slot, d) in out.iter_mut().zip(map.descriptors()) {
        let kind = boot_plan::firmware::from_efi(d.ty.0, d.att.bits());
        *slot = Range { start: d.phys_start, len: d.page_count.saturating_mul(PAGE), kind };
        count += 1;
    }
    memory::compact(&mut out[..count], RANGES_MAX)
}

/// For a panic: the table while firmware's console may be used.
static TABLE: AtomicPtr<SystemTable> = AtomicPtr::new(null_mut());

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    let table = TABLE.load(Ordering::Relaxed);
    if !table.is_null() {
        // SAFETY: firmware's table; the console needs no image.
        let firmware = unsafe { Firmware::new(null_mut(), table) };
        let _ = writeln!(Console(&firmware), "\nCoracle: the loader failed: {}", info.message());
    }
    loop {
        // SAFETY: waits for ever.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
