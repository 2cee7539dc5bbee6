//! Where things lie on a bootable disk: the contract between what writes disks (`cli`) and what boots from them
//! (`boot/bios`, the kernel). Numbers and the boot block only; partition tables and file systems are the writers'.
//!
//! A disk has 512-byte sectors, a GPT (UEFI specification, chapter 5) and three partitions:
//!
//! | LBA | what |
//! |---|---|
//! | 0 | protective MBR; its first [`STAGE1_LEN`] bytes are stage 1 of the BIOS loader |
//! | 1..=33 | GPT; its copy is at the end of the disk |
//! | [`BOOT_LBA`]..=[`BOOT_LAST_LBA`] | partition 1, [`BIOS_BOOT`]: the boot block, then stage 2 |
//! | [`ESP_LBA`].. | partition 2, [`EFI_SYSTEM`], FAT: [`EFI_LOADER`], [`KERNEL`], [`COMMAND_LINE`] |
//! | a multiple of [`ALIGNMENT`] | partition 3, [`ROOT`]: the EROFS image |
//!
//! The BIOS loader reads no file system: the [`BootBlock`] says where the kernel's and the command line's sectors are.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

use crc::{CRC_32_ISO_HDLC, Crc, Table};

/// Bytes in a sector.
pub const SECTOR: usize = 512;
/// Bytes of the MBR that are stage 1; a disk signature and the partition table follow.
pub const STAGE1_LEN: usize = 440;
/// The boot block: the first sector of partition 1.
pub const BOOT_LBA: u64 = 64;
/// The first sector of stage 2, by convention; the boot block decides.
pub const STAGE2_LBA: u64 = BOOT_LBA + 1;
/// The last sector of partition 1.
pub const BOOT_LAST_LBA: u64 = 2047;
/// The first sector of the EFI system partition.
pub const ESP_LBA: u64 = 2048;
/// What the root partition's start and the disk's size are multiples of, in bytes.
pub const ALIGNMENT: u64 = 1 << 20;
/// Longest command line in bytes, without an end mark.
pub const COMMAND_LINE_MAX: u32 = 4095;
/// Longest stage 2 in sectors: it is loaded to [`STAGE2_ADDRESS`] and stays below 256 KiB.
pub const STAGE2_MAX_SECTORS: u32 = 256;
/// Where stage 1 loads stage 2.
pub const STAGE2_ADDRESS: u32 = 0x8000;
/// Longest kernel in bytes that a loader takes.
pub const KERNEL_MAX: u64 = 64 << 20;

/// Partition type "BIOS boot" (GRUB's), as text.
pub const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
/// Partition type "EFI system" (UEFI specification, 5.3.3), as text.
pub const EFI_SYSTEM: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
/// Partition type "Linux root (x86-64)" (Discoverable Partitions Specification), as text.
pub const ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

/// Path of the UEFI loader on the EFI system partition.
pub const EFI_LOADER: &str = "/EFI/BOOT/BOOTX64.EFI";
/// Path of the kernel on the EFI system partition: a stripped ELF file, its sectors in one piece.
pub const KERNEL: &str = "/coracle/kernel";
/// Path of the kernel's command line there, as text, its sectors in one piece.
pub const COMMAND_LINE: &str = "/coracle/cmdline";

const MAGIC: &[u8; 8] = b"CORACLEB";
const VERSION: u32 = 1;
/// Where the block's own checksum is.
const CRC_AT: usize = 12;

/// CRC-32 as in Ethernet and zip.
static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);

/// CRC-32 (IEEE 802.3) of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// A CRC-32 of bytes that come in pieces.
pub struct Checksum(crc::Digest<'static, u32, Table<16>>);

impl Checksum {
    /// Of no bytes.
    pub fn new() -> Self {
        Self(CRC.digest())
    }
    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// The result.
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

/// What the boot block says. Its sector holds these fields little-endian at the offsets in [`BootBlock::encode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootBlock {
    /// First sector of stage 2.
    pub stage2_lba: u64,
    /// Its length in sectors.
    pub stage2_sectors: u32,
    /// CRC-32 of these sectors.
    pub stage2_crc: u32,
    /// First sector of the kernel.
    pub kernel_lba: u64,
    /// Its length in bytes.
    pub kernel_len: u64,
    /// CRC-32 of the kernel's bytes.
    pub kernel_crc: u32,
    /// First sector of the command line.
    pub command_line_lba: u64,
    /// Its length in bytes, at most [`COMMAND_LINE_MAX`]; 0 if there is none.
    pub command_line_len: u32,
    /// CRC-32 of its bytes.
    pub command_line_crc: u32,
}

/// Why a sector is no usable boot block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

impl BootBlock {
    /// The block as a sector.
    pub fn encode(&self) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(16, &self.stage2_lba.to_le_bytes());
        put(24, &self.stage2_sectors.to_le_bytes());
        put(28, &self.stage2_crc.to_le_bytes());
        put(32, &self.kernel_lba.to_le_bytes());
        put(40, &self.kernel_len.to_le_bytes());
        put(48, &self.kernel_crc.to_le_bytes());
        put(56, &self.command_line_lba.to_le_bytes());
        put(64, &self.command_line_len.to_le_bytes());
        put(68, &self.command_line_crc.to_le_bytes());
        let crc = crc32(&out);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks a sector.
    pub fn decode(sector: &[u8; SECTOR]) -> Result<Self, Refused> {
        let word = |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if !sector.starts_with(MAGIC) {
            return Err(Refused("there is no boot block"));
        }
        if word(8) != VERSION {
            return Err(Refused("the boot block has an unknown version"));
        }
        let mut zeroed = *sector;
        zeroed[CRC_AT..CRC_AT + 4].fill(0);
        if crc32(&zeroed) != word(CRC_AT) {
            return Err(Refused("the boot block is damaged (checksum)"));
        }
        let block = Self {
            stage2_lba: long(16),
            stage2_sectors: word(24),
            stage2_crc: word(28),
            kernel_lba: long(32),
            kernel_len: long(40),
            kernel_crc: word(48),
            command_line_lba: long(56),
            command_line_len: word(64),
            command_line_crc: word(68),
        };
        block.check()?;
        Ok(block)
    }

    /// The limits that hold whatever a checksum says.
    fn check(&self) -> Result<(), Refused> {
        if self.stage2_sectors == 0 || self.stage2_sectors > STAGE2_MAX_SECTORS {
            return Err(Refused("the boot block gives stage 2 an impossible length"));
        }
        if self.kernel_len == 0 {
            return Err(Refused("the disk has no kernel"));
        }
        if self.kernel_len > KERNEL_MAX {
            return Err(Refused("the boot block gives the kernel an impossible length"));
        }
        if self.command_line_len > COMMAND_LINE_MAX {
            return Err(Refused("the boot block gives the command line an impossible length"));
        }
        // A sector number that cannot be added to, or that names what the boot code itself is in.
        let outside = |lba: u64| !(STAGE2_LBA..=1 << 48).contains(&lba);
        if outside(self.stage2_lba)
            || outside(self.kernel_lba)
            || (self.command_line_len != 0 && outside(self.command_line_lba))
        {
            return Err(Refused("the boot block names impossible sectors"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
