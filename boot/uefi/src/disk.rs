//! The disk below the volume that this program comes from: the sector with the boot block, for the kernel's checksum.

use core::ptr::null_mut;

use boot_layout::{BOOT_LBA, BootBlock, SECTOR};
use uefi_raw::Status;
use uefi_raw::protocol::block::BlockIoProtocol;
use uefi_raw::protocol::device_path::DevicePathProtocol;
use uefi_raw::table::boot::MemoryType;

use crate::firmware::{Firmware, PAGE};

/// Longest device path that is followed.
const PATH_MAX: usize = 1024;
/// Length of a node's header, and of the node that ends a path (UEFI 2.10, section 10.3.1).
const NODE: usize = 4;
const END: [u8; NODE] = [0x7f, 0xff, NODE as u8, 0];
/// Type and subtype of the node for a partition (section 10.3.5.1).
const HARD_DRIVE: [u8; 2] = [4, 1];

/// A copy of the path of a partition, cut to that of its disk. `None` if it is no partition's.
///
/// # Safety
/// `path` is firmware's: nodes in one piece, the last one ends it.
unsafe fn disk_path(path: *const u8) -> Option<[u8; PATH_MAX]> {
    let mut out = [0; PATH_MAX];
    let mut at = 0;
    loop {
        // SAFETY: the end was not reached, so there is a node.
        let node: [u8; NODE] = unsafe { path.add(at).cast::<[u8; NODE]>().read() };
        let len = usize::from(u16::from_le_bytes([node[2], node[3]]));
        if node[..2] == HARD_DRIVE {
            out[at..at + NODE].copy_from_slice(&END);
            return Some(out);
        }
        if node[0] == END[0] || len < NODE || at + len + NODE > PATH_MAX {
            return None;
        }
        for (i, byte) in out[at..at + len].iter_mut().enumerate() {
            // SAFETY: inside the node.
            *byte = unsafe { path.add(at + i).read() };
        }
        at += len;
    }
}

/// The boot block of the disk, if the disk has one and firmware lets us read it.
pub fn boot_block(firmware: &Firmware) -> Option<BootBlock> {
    let volume = firmware.device().ok()?;
    let path: *mut u8 = firmware.protocol(volume, &DevicePathProtocol::GUID, "").ok()?;
    // SAFETY: firmware's device path.
    let path = unsafe { disk_path(path) }?;
    let mut rest: *const DevicePathProtocol = path.as_ptr().cast();
    let mut disk = null_mut();
    // SAFETY: a path that ends, and places for the results.
    let found = unsafe { (firmware.boot().locate_device_path)(&BlockIoProtocol::GUID, &mut rest, &mut disk) };
    if found != Status::SUCCESS {
        return None;
    }
    let io: *mut BlockIoProtocol = firmware.protocol(disk, &BlockIoProtocol::GUID, "").ok()?;
    // A page of its own: a device may want its buffer aligned.
    let sector = firmware.allocate(MemoryType::LOADER_DATA, (SECTOR as u64).div_ceil(PAGE)).ok()? as *mut [u8; SECTOR];
    // SAFETY: firmware's interface; the page has room for a sector, and is zero where firmware did not write.
    unsafe {
        sector.write([0; SECTOR]);
        // Field by field: old firmware has a shorter structure.
        let media = (*io).media;
        if (*media).block_size as usize != SECTOR {
            return None;
        }
        let read = ((*io).read_blocks)(io, (*media).media_id, BOOT_LBA, SECTOR, sector.cast());
        if read != Status::SUCCESS {
            return None;
        }
        BootBlock::decode(&*sector).ok()
    }
}
