//! EROFS directories: blocks of sorted entries, each block with its names behind its entries.

use alloc::vec::Vec;
use core::cmp::Ordering;

use base::{Errno, Result};

use super::inode::EroInode;
use super::{u16_at, u64_at};
use crate::types::{FileType, NAME_MAX};

const ENTRY: usize = 12;

/// One directory block, checked.
struct Block {
    data: Vec<u8>,
    count: usize,
}

impl Block {
    fn new(data: Vec<u8>) -> Result<Self> {
        let names = usize::from(u16_at(&data, 8));
        if names < ENTRY || !names.is_multiple_of(ENTRY) || names > data.len() {
            return Err(Errno::EIO);
        }
        Ok(Self { data, count: names / ENTRY })
    }

    fn name(&self, index: usize) -> Result<&[u8]> {
        let start = usize::from(u16_at(&self.data, index * ENTRY + 8));
        let end = if index + 1 < self.count {
            usize::from(u16_at(&self.data, (index + 1) * ENTRY + 8))
        } else {
            self.data.len()
        };
        let name = self.data.get(start..end).ok_or(Errno::EIO)?;
        let name = if index + 1 < self.count {
            name
        } else {
            // The last name ends at the block's end or at a zero.
            &name[..name.iter().position(|&b| b == 0).unwrap_or(name.len())]
        };
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) || name.contains(&b'/') {
            return Err(Errno::EIO);
        }
        Ok(name)
    }

    fn nid(&self, index: usize) -> u64 {
        u64_at(&self.data, index * ENTRY)
    }

    fn kind(&self, index: usize) -> Option<FileType> {
        Some(match self.data[index * ENTRY + 10] {
            1 => FileType::Regular,
            2 => FileType::Directory,
            3 => FileType::Char,
            4 => FileType::Block,
            5 => FileType::Fifo,
            6 => FileType::Socket,
            7 => FileType::Symlink,
            _ => return None,
        })
    }
}

impl EroInode {
    fn blocks(&self) -> u64 {
        self.size().div_ceil(1 << self.fs.dir_block_bits)
    }

    fn block(&self, index: u64) -> Result<Block> {
        let start = index << self.fs.dir_block_bits;
        let len = (self.size() - start).min(1 << self.fs.dir_block_bits);
        let mut data = alloc::vec![0; len as usize];
        self.read_bytes(start, &mut data)?;
        Block::new(data)
    }

    /// The inode number of `name`.
    pub(super) fn find(&self, name: &[u8]) -> Result<u64> {
        if self.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let (mut low, mut high) = (0, self.blocks());
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.block(middle)?;
            if name < block.name(0)? {
                high = middle;
                continue;
            }
            if name > block.name(block.count - 1)? {
                low = middle + 1;
                continue;
            }
            let (mut first, mut end) = (0, block.count);
            while first < end {
                let at = first + (end - first) / 2;
                match name.cmp(block.name(at)?) {
                    Ordering::Less => end = at,
                    Ordering::Greater => first = at + 1,
                    Ordering::Equal => return Ok(block.nid(at)),
                }
            }
            return Err(Errno::ENOENT);
        }
        Err(Errno::ENOENT)
    }

    pub(super) fn list(&self, emit: &mut dyn FnMut(&[u8], u64, FileType)) -> Result<()> {
        if self.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        for index in 0..self.blocks() {
            let block = self.block(index)?;
            for i in 0..block.count {
                let name = block.name(i)?;
                if name == b"." || name == b".." {
                    continue;
                }
                let kind = match block.kind(i) {
                    Some(kind) => kind,
                    None => Self::read(&self.fs, block.nid(i))?.kind(),
                };
                emit(name, block.nid(i), kind);
            }
        }
        Ok(())
    }
}
