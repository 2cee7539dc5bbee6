//! From a BIOS to the kernel: stage 1 in the MBR, stage 2 behind the boot block (docs/architecture.md, "Boot from a
//! disk"). This file is the order of stage 2; what it decides is `boot/plan`'s.
//!
//! Stage 2 reads the kernel from the sectors that the boot block names, makes a start info from the BIOS' memory map,
//! and enters the kernel as the PVH protocol says. No menu, no delay, not a word unless something is wrong.
#![no_std]
#![no_main]

mod bios;
mod entry;
mod say;
mod stage1;

use core::fmt;
use core::panic::PanicInfo;

use boot_layout::{BOOT_LBA, BootBlock, COMMAND_LINE_MAX, Checksum, SECTOR, crc32};
use boot_plan::kernel::{HEAD, Kernel};
use boot_plan::memory::{self, RANGES_MAX, Range};
use boot_plan::start_info::{self, ENTRY_LEN, StartInfo};
use boot_plan::{Refused, firmware};
use say::refuse;

/// Tells the kernel that the screen shows text (docs/command-line.md).
const TEXT_SCREEN: &[u8] = b" screen=text";
/// Most entries of the BIOS' memory map that are looked at.
const MAP_MAX: usize = 256;

/// What is handed to the kernel; it lies below 256 KiB.
struct HandOver {
    info: [u8; start_info::LEN],
    map: [[u8; ENTRY_LEN]; RANGES_MAX],
    command_line: [u8; COMMAND_LINE_MAX as usize + TEXT_SCREEN.len() + 1],
}

static mut HAND_OVER: HandOver = HandOver {
    info: [0; start_info::LEN],
    map: [[0; ENTRY_LEN]; RANGES_MAX],
    command_line: [0; COMMAND_LINE_MAX as usize + TEXT_SCREEN.len() + 1],
};
static mut MAP: [Range; MAP_MAX] = [Range { start: 0, len: 0, kind: 0 }; MAP_MAX];

unsafe extern "C" {
    fn enter_kernel(entry: u32, start_info: u32) -> !;
}

#[unsafe(no_mangle)]
extern "C" fn stage2_main() -> ! {
    let (map, hand_over) = (&raw mut MAP, &raw mut HAND_OVER);
    // SAFETY: this function runs once, alone, and takes each static once.
    let (map, hand_over) = unsafe { (&mut *map, &mut *hand_over) };
    let block = boot_block();
    let count = bios::memory_map(map);
    let map = &mut map[..count];
    let count = memory::compact(map, RANGES_MAX);
    let map = &map[..count];
    if map.is_empty() {
        refuse(format_args!("the BIOS gives no memory map (INT 15h, E820h)"));
    }
    let entry = load_kernel(&block, map);
    command_line(&block, &mut hand_over.command_line);
    for (slot, range) in hand_over.map.iter_mut().zip(map) {
        *slot = start_info::encode_entry(range);
    }
    hand_over.info = StartInfo {
        command_line: hand_over.command_line.as_ptr() as u64,
        rsdp: rsdp(),
        map: hand_over.map.as_ptr() as u64,
        map_entries: map.len() as u32,
    }
    .encode();
    // SAFETY: the kernel is loaded and checked; the start info lies in static memory below 4 GiB.
    unsafe { enter_kernel(entry, hand_over.info.as_ptr() as u32) }
}

fn or_refuse<T>(result: Result<T, Refused>) -> T {
    result.unwrap_or_else(|Refused(why)| refuse(format_args!("{why}")))
}

fn sectors(lba: u64, count: usize, what: &str) -> &'static mut [u8] {
    bios::read(lba, count).unwrap_or_else(|| refuse(format_args!("cannot read {what} (sector {lba})")))
}

fn boot_block() -> BootBlock {
    let bytes = sectors(BOOT_LBA, 1, "the boot block");
    let sector = (&*bytes).try_into().unwrap_or(&[0; SECTOR]);
    BootBlock::decode(sector).unwrap_or_else(|bad| refuse(format_args!("{}", bad.0)))
}

/// Copies the kernel to its place while it is read; returns its entry.
fn load_kernel(block: &BootBlock, map: &[Range]) -> u32 {
    const CHUNK: usize = bios::READ_SECTORS * SECTOR;
    let mut sum = Checksum::new();
    let mut kernel: Option<Kernel> = None;
    let mut at = 0;
    while at < block.kernel_len {
        let len = usize::try_from(block.kernel_len - at).unwrap_or(CHUNK).min(CHUNK);
        let bytes = &*sectors(block.kernel_lba + at / SECTOR as u64, len.div_ceil(SECTOR), "the kernel");
        let bytes = &bytes[..len];
        sum.update(bytes);
        let kernel = kernel.get_or_insert_with(|| {
            let head = &bytes[..len.min(HEAD)];
            or_refuse(Kernel::parse(head, block.kernel_len).and_then(|kernel| kernel.placed(map)))
        });
        for piece in kernel.pieces(at, len) {
            let part = &bytes[piece.from..piece.from + piece.len];
            // SAFETY: `placed` chose memory above 1 MiB that the BIOS calls free; this program lies below.
            unsafe { core::ptr::copy_nonoverlapping(part.as_ptr(), piece.to as *mut u8, part.len()) };
        }
        at += len as u64;
    }
    if sum.finish() != block.kernel_crc {
        refuse(format_args!("the kernel on this disk is damaged (checksum); write the image again"));
    }
    let Some(kernel) = kernel else { refuse(format_args!("the disk has no kernel")) };
    for (start, len) in kernel.zeroes() {
        // SAFETY: as above: a part of a segment.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, len as usize) };
    }
    for (start, len) in kernel.notes() {
        // SAFETY: in a segment that was copied.
        let notes = unsafe { core::slice::from_raw_parts(start as *const u8, len as usize) };
        if let Some(entry) = or_refuse(kernel.entry(notes)) {
            return entry;
        }
    }
    refuse(format_args!("the kernel has no PVH entry note"))
}

/// The disk's command line, with what the loader adds. `out` is zero, so that it ends with a zero byte.
fn command_line(block: &BootBlock, out: &mut [u8]) {
    let len = block.command_line_len as usize;
    if len != 0 {
        let bytes = &*sectors(block.command_line_lba, len.div_ceil(SECTOR), "the command line");
        let bytes = &bytes[..len];
        if crc32(bytes) != block.command_line_crc {
            refuse(format_args!("the command line on this disk is damaged (checksum); write the image again"));
        }
        out[..len].copy_from_slice(bytes);
    }
    if bios::has_text_screen() {
        out[len..len + TEXT_SCREEN.len()].copy_from_slice(TEXT_SCREEN);
    }
}

/// The ACPI root pointer's address, 0 if there is none: in the first KiB of the extended BIOS data area, or in the
/// BIOS' own (ACPI 6.4, section 5.2.5.1).
fn rsdp() -> u64 {
    const EBDA_SEGMENT: *const u16 = 0x40e as *const u16;
    // SAFETY: the BIOS data area is memory.
    let ebda = usize::from(unsafe { EBDA_SEGMENT.read_volatile() }) << 4;
    let places = [(ebda, 1024), (0xe0000, 0x20000)];
    let found = places.iter().filter(|(at, _)| (0x80000..0x10_0000).contains(at)).find_map(|&(at, len)| {
        // SAFETY: below 1 MiB, mapped, and nobody writes to it.
        let area = unsafe { core::slice::from_raw_parts(at as *const u8, len) };
        firmware::find_rsdp(area).map(|offset| at + offset)
    });
    found.unwrap_or(0) as u64
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    struct Message<'a>(&'a PanicInfo<'a>);
    impl fmt::Display for Message<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "the loader failed: {}", self.0.message())
        }
    }
    refuse(format_args!("{}", Message(info)))
}
