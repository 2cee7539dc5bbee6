//! EROFS images: writing a [`crate::tree::Tree`] as one, and reading back what the command itself needs.
//!
//! Here: the subset that Coracle's images use: no compression, 4 KiB blocks, 64-byte inodes, regular files in whole
//! blocks (so that the guest can map them in place), links and directory tails beside their inodes. The facts about
//! the format are those of the format's description in Linux's documentation. Not here: compressed or chunked images.
//! Of the crates that know EROFS, `erofs-rs` only reads, and `composefs` writes only images whose files lie elsewhere.

mod read;
mod write;

pub use read::{Entry, Image, Info};
pub use write::{Options, write};

/// Bytes in a block.
pub const BLOCK: u64 = 4096;
/// Where the superblock starts.
const SUPER: usize = 1024;
/// Bytes of the superblock.
const SUPER_LEN: usize = 128;
/// The superblock's first word.
pub const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock carries a checksum; inodes carry modification times.
const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
/// Inode numbers count slots of this many bytes.
const SLOT: u64 = 32;
/// An extended inode.
const INODE: u64 = 64;
/// Data in whole blocks only / whole blocks and a tail beside the inode.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;
/// Bytes of a directory entry before the names.
const DIRENT: usize = 12;

/// CRC-32C as the format wants it: over the rest of the superblock's block, started with ones and not inverted.
fn checksum(block: &[u8]) -> u32 {
    !crc32c::crc32c(&block[SUPER..])
}
