//! What is on a disk: its table, boot block, kernel, command line and root.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use boot_layout::{BOOT_LBA, BootBlock};
use fs::partition::{self, BIOS_BOOT, Kind, Medium, ROOT_X86_64, Scheme, Table};

use super::{SECTOR, checksum};
use crate::container::{Disk, Window};
use crate::erofs;

struct Sectors<'a>(&'a dyn Disk);

impl Medium for Sectors<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn block_size(&self) -> u32 {
        SECTOR as u32
    }
    fn read(&self, at: u64, to: &mut [u8]) -> base::Result<()> {
        self.0.read_at(at, to).map_err(|_| base::Errno::EIO)
    }
}

/// A disk that has been looked through.
pub struct Inside {
    disk: Arc<dyn Disk>,
    /// Its partitions.
    pub table: Table,
    /// The boot block, if partition 1 has one that is sound.
    pub block: Result<BootBlock>,
}

impl Inside {
    /// Looks at a disk.
    pub fn of(disk: Arc<dyn Disk>) -> Result<Inside> {
        let table = partition::read(&Sectors(&*disk)).map_err(|e| {
            anyhow::anyhow!("the partition table cannot be read ({e}): the file is truncated or corrupt")
        })?;
        let block = block(&*disk, &table);
        Ok(Inside { disk, table, block })
    }

    /// True if the disk is divided.
    pub fn has_table(&self) -> bool {
        self.table.scheme != Scheme::None
    }

    /// The kernel's file, its checksum verified.
    pub fn kernel(&self) -> Result<Window> {
        let block = self.block.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
        let kernel = Window::new(self.disk.clone(), start(block.kernel_lba)?, block.kernel_len)
            .context("the boot block leads to a kernel outside the disk")?;
        if checksum(&kernel)? != block.kernel_crc {
            bail!("the kernel's checksum is wrong: the image is damaged");
        }
        Ok(kernel)
    }

    /// The kernel's command line, its checksum verified.
    pub fn command_line(&self) -> Result<String> {
        let block = self.block.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
        if block.command_line_len == 0 {
            return Ok(String::new());
        }
        let mut text = vec![0; block.command_line_len as usize];
        Window::new(self.disk.clone(), start(block.command_line_lba)?, text.len() as u64)
            .and_then(|w| w.read_at(0, &mut text))
            .context("the boot block leads to a command line outside the disk")?;
        if boot_layout::crc32(&text) != block.command_line_crc {
            bail!("the command line's checksum is wrong: the image is damaged");
        }
        String::from_utf8(text).context("the command line is not text")
    }

    /// The root partition's bytes.
    pub fn root(&self) -> Result<Window> {
        let root = self.table.partitions.iter().find(|p| p.kind == Kind::Gpt(ROOT_X86_64));
        let Some(root) = root else {
            if let Some(remark) = self.table.remarks.first() {
                bail!("it has no root partition: {remark}; copy or build the image again");
            }
            bail!("it has no root partition ({ROOT_X86_64}): it is no disk that coracle build made");
        };
        Window::new(self.disk.clone(), root.start, root.len)
    }

    /// The root partition's file system; `path` is for the user's eyes.
    pub fn image(&self, path: &Path) -> Result<erofs::Image> {
        erofs::Image::new(Arc::new(self.root()?), path)
    }
}

fn start(lba: u64) -> Result<u64> {
    lba.checked_mul(SECTOR).context("a sector number is impossible")
}

fn block(disk: &dyn Disk, table: &Table) -> Result<BootBlock> {
    let boot = table.partitions.iter().find(|p| p.kind == Kind::Gpt(BIOS_BOOT));
    let at = boot.map_or(BOOT_LBA * SECTOR, |p| p.start);
    let mut sector = [0; SECTOR as usize];
    disk.read_at(at, &mut sector).context("there is no boot block")?;
    BootBlock::decode(&sector).map_err(|refused| anyhow::anyhow!("{}", refused.0))
}
