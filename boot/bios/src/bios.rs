//! Services of the BIOS: disk sectors (INT 13h, EDD), memory map (INT 15h, E820h), screen (INT 10h).

use boot_layout::SECTOR;
use boot_plan::firmware::{self, E820_ENTRY};
use boot_plan::memory::Range;

/// Where sectors are read to: real mode reaches it, and no read from here crosses a 64 KiB border.
pub const BUFFER: usize = 0x40000;
/// Sectors of one read. Some BIOSes take at most 127; a multiple of 4 KiB keeps devices with large sectors quick.
pub const READ_SECTORS: usize = 120;

/// Registers at an interrupt, as `entry.rs` knows them by offset.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Registers {
    eax: u32,
    ebx: u32,
    ecx: u32,
    edx: u32,
    esi: u32,
    edi: u32,
    ebp: u32,
    ds: u16,
    es: u16,
    flags: u16,
}

/// A disk address packet (EDD 3.0, section 4.3).
#[repr(C)]
struct Packet {
    len: u8,
    reserved: u8,
    sectors: u16,
    offset: u16,
    segment: u16,
    lba: u64,
}

unsafe extern "C" {
    fn bios_call(vector: u8);
    static mut bios_frame: Registers;
    static mut disk_packet: Packet;
    static mut map_entry: [u8; E820_ENTRY];
    static boot_drive: u8;
}

const CARRY: u16 = 1;

fn call(vector: u8, registers: Registers) -> Registers {
    // SAFETY: one CPU, no interrupts, so nobody else uses the frame; BIOS services return and leave memory that is
    // not theirs alone (the buffers that the registers name are statics or `BUFFER`).
    unsafe {
        (&raw mut bios_frame).write(registers);
        bios_call(vector);
        (&raw const bios_frame).read()
    }
}

/// Reads at most [`READ_SECTORS`] sectors; the bytes are good until the next read. Tries twice.
pub fn read(lba: u64, sectors: usize) -> Option<&'static mut [u8]> {
    let sectors = sectors.min(READ_SECTORS);
    // SAFETY: written by stage 2's entry only.
    let drive = u32::from(unsafe { boot_drive });
    for _ in 0..2 {
        let packet =
            Packet { len: 16, reserved: 0, sectors: sectors as u16, offset: 0, segment: (BUFFER >> 4) as u16, lba };
        // SAFETY: as in `call`; the packet lies in segment 0.
        let at = unsafe {
            (&raw mut disk_packet).write(packet);
            &raw const disk_packet as u32
        };
        let done = call(0x13, Registers { eax: 0x4200, edx: drive, esi: at, ..Registers::default() });
        if done.flags & CARRY == 0 {
            // SAFETY: the buffer is memory that only reads use; the borrow of an earlier one has ended, as the
            // callers in this program keep none.
            return Some(unsafe { core::slice::from_raw_parts_mut(BUFFER as *mut u8, sectors * SECTOR) });
        }
        call(0x13, Registers { edx: drive, ..Registers::default() }); // reset
    }
    None
}

/// Asks for the memory map; returns how many entries of `out` are filled.
pub fn memory_map(out: &mut [Range]) -> usize {
    const SMAP: u32 = 0x534d_4150;
    let mut count = 0;
    let mut next = 0;
    // A BIOS that never says "last" is stopped by the bound.
    for _ in 0..1024 {
        // SAFETY: as in `call`; the entry lies in segment 0. Its last word counts as "valid" where the BIOS does not
        // write it.
        let at = unsafe {
            (&raw mut map_entry).write([0; E820_ENTRY]);
            (&raw mut map_entry).cast::<u8>().add(20).write(1);
            &raw const map_entry as u32
        };
        let ask =
            Registers { eax: 0xe820, ebx: next, ecx: E820_ENTRY as u32, edx: SMAP, edi: at, ..Registers::default() };
        let said = call(0x15, ask);
        if said.flags & CARRY != 0 || said.eax != SMAP {
            break;
        }
        // SAFETY: the BIOS has returned.
        let entry = unsafe { (&raw const map_entry).read() };
        if let Some(range) = firmware::from_e820(&entry, said.ecx & 0xff)
            && let Some(slot) = out.get_mut(count)
        {
            *slot = range;
            count += 1;
        }
        next = said.ebx;
        if next == 0 {
            break;
        }
    }
    count
}

/// True if the screen shows 80 columns of text.
pub fn has_text_screen() -> bool {
    let mode = call(0x10, Registers { eax: 0x0f00, ..Registers::default() }).eax;
    mode >> 8 & 0xff == 80 && matches!(mode & 0x7f, 2 | 3)
}

/// Writes a character at the cursor.
pub fn put(byte: u8) {
    call(0x10, Registers { eax: 0x0e00 | u32::from(byte), ebx: 7, ..Registers::default() });
}
