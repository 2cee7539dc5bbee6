//! The disk that boots everywhere: a GPT, boot code for BIOSes, an EFI system partition with loader, kernel and
//! configuration, and the EROFS root. `boot_layout` says where things lie; `docs/images.md` shows it.
//!
//! Here: putting such a disk together from its parts, and reading one. Not here: the files that hold disks
//! ([`crate::container`]).

mod fat;
mod gpt;
mod inside;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use boot_layout::{ALIGNMENT, BOOT_LAST_LBA, BOOT_LBA, BootBlock, ESP_LBA, STAGE1_LEN, STAGE2_LBA, STAGE2_MAX_SECTORS};
use fs::partition::{BIOS_BOOT, EFI_SYSTEM, ROOT_X86_64};
use sha2::{Digest, Sha256};

use crate::container::{Disk, RawFile, identifier};
use crate::{EXIT_OURS, failure};

pub use inside::Inside;

/// Bytes in a sector.
const SECTOR: u64 = boot_layout::SECTOR as u64;

/// What a disk boots with.
pub struct Boot {
    /// Stage 1, in the first sector.
    stage1: Vec<u8>,
    /// Stage 2, in whole sectors.
    stage2: Vec<u8>,
    /// The UEFI loader.
    efi: Vec<u8>,
    /// The kernel's ELF file.
    kernel: Arc<dyn Disk>,
}

impl Boot {
    /// The kernel (its stripped copy where there is one) and the loaders beside it.
    pub fn find(kernel: &Path) -> Result<Boot> {
        let mut stripped = kernel.as_os_str().to_owned();
        stripped.push(".stripped");
        let stripped = PathBuf::from(stripped);
        let fresh = |p: &Path| p.metadata().and_then(|m| m.modified()).ok();
        // A stripped copy older than the kernel is of another build.
        let kernel = if fresh(&stripped) >= fresh(kernel) { &stripped } else { kernel };
        let folder = kernel.parent().unwrap_or(Path::new("."));
        let loader = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|_| {
                let message = format!(
                    "a disk that boots needs the loader {}, which is not there; build it with: ./x build (an image of the root alone needs none: -o NAME.erofs)",
                    path.display()
                );
                failure(EXIT_OURS, message)
            })
        };
        let mut bios = loader("bios.bin")?;
        let efi = loader("bootx64.efi")?;
        if bios.len() <= SECTOR as usize {
            bail!("{} is no BIOS loader: it has only {} bytes", folder.join("bios.bin").display(), bios.len());
        }
        let mut stage2 = bios.split_off(SECTOR as usize);
        bios.truncate(STAGE1_LEN);
        stage2.resize(stage2.len().next_multiple_of(SECTOR as usize), 0);
        let room = (BOOT_LAST_LBA - STAGE2_LBA + 1).min(STAGE2_MAX_SECTORS.into()) * SECTOR;
        if stage2.len() as u64 > room {
            bail!("stage 2 of the BIOS loader has {} bytes, there is room for {room}", stage2.len());
        }
        let kernel: Arc<dyn Disk> = Arc::new(RawFile::open(kernel)?);
        if kernel.size() > boot_layout::KERNEL_MAX {
            bail!("the kernel has {} bytes, a loader takes {}; strip it", kernel.size(), boot_layout::KERNEL_MAX);
        }
        Ok(Boot { stage1: bios, stage2, efi, kernel })
    }
}

/// A disk made of pieces; what is between them is zero.
pub struct Assembled {
    size: u64,
    /// In order, not overlapping: first byte and contents.
    parts: Vec<(u64, Arc<dyn Disk>)>,
}

impl Disk for Assembled {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<()> {
        crate::container::inside(self, at, to.len() as u64)?;
        to.fill(0);
        let end = at + to.len() as u64;
        let first = self.parts.partition_point(|(start, part)| start + part.size() <= at);
        for (start, part) in self.parts[first..].iter().take_while(|(start, _)| *start < end) {
            let from = at.max(*start);
            let until = end.min(start + part.size());
            part.read_at(from - start, &mut to[(from - at) as usize..(until - at) as usize])?;
        }
        Ok(())
    }

    fn is_hole(&self, at: u64, len: u64) -> bool {
        let end = at.saturating_add(len);
        let first = self.parts.partition_point(|(start, part)| start + part.size() <= at);
        self.parts[first..].iter().take_while(|(start, _)| *start < end).all(|(start, part)| {
            let from = at.max(*start);
            let until = end.min(start + part.size());
            part.is_hole(from - start, until - from)
        })
    }
}

/// What GRUB's menu for Xen's PV domains (pygrub, pvgrub2) reads: `docs/images.md`.
pub const GRUB_MENU: &str = "/boot/grub/grub.cfg";

fn grub_menu(command_line: &str) -> String {
    let kernel = boot_layout::KERNEL;
    format!(
        "set default=0\nset timeout=0\nsearch --no-floppy --set=root --file {kernel}\nmenuentry 'Coracle' {{\n\tlinux {kernel} {command_line}\n}}\n"
    )
}

/// Puts a disk together around the EROFS image `root`. The same parts give the same bytes.
pub fn assemble(boot: &Boot, command_line: &str, root: Arc<dyn Disk>) -> Result<Assembled> {
    if command_line.len() > boot_layout::COMMAND_LINE_MAX as usize {
        bail!(
            "the kernel's command line has {} bytes, at most {} fit",
            command_line.len(),
            boot_layout::COMMAND_LINE_MAX
        );
    }
    let line: Arc<dyn Disk> = Arc::new(command_line.as_bytes().to_vec());
    let menu: Arc<dyn Disk> = Arc::new(grub_menu(command_line).into_bytes());
    let efi: Arc<dyn Disk> = Arc::new(boot.efi.clone());
    let files = [efi, boot.kernel.clone(), line.clone(), menu];
    let contents = hash(&[&boot.stage1, &boot.stage2], files.iter().chain([&root]))?;
    let id = |what: &str| identifier(&contents, what);
    let [a, b, c, d, ..] = id("EFI system volume");
    let esp = fat::plan(&tree(&files), ESP_LBA, u32::from_le_bytes([a, b, c, d]))?;

    let root_start = ((ESP_LBA + esp.sectors) * SECTOR).next_multiple_of(ALIGNMENT);
    let root_len = root.size().next_multiple_of(SECTOR);
    let size = (root_start + root_len + gpt::BACKUP * SECTOR).next_multiple_of(ALIGNMENT);
    let entry = |kind, name, first: u64, last| gpt::Entry { kind, id: id(name), first, last, name };
    let entries = [
        entry(BIOS_BOOT, "BIOS boot", BOOT_LBA, BOOT_LAST_LBA),
        entry(EFI_SYSTEM, "EFI system", ESP_LBA, ESP_LBA + esp.sectors - 1),
        entry(ROOT_X86_64, "root", root_start / SECTOR, (root_start + root_len) / SECTOR - 1),
    ];

    let place = |number: usize| {
        let at = esp.files.iter().find(|(n, _)| *n == number).map(|(_, at)| *at);
        at.map(|at| ESP_LBA * SECTOR + at).context("a file has no place on the EFI system partition")
    };
    let block = BootBlock {
        stage2_lba: STAGE2_LBA,
        stage2_sectors: (boot.stage2.len() as u64 / SECTOR) as u32,
        stage2_crc: boot_layout::crc32(&boot.stage2),
        kernel_lba: place(1)? / SECTOR,
        kernel_len: boot.kernel.size(),
        kernel_crc: checksum(&*boot.kernel)?,
        command_line_lba: if command_line.is_empty() { 0 } else { place(2)? / SECTOR },
        command_line_len: command_line.len() as u32,
        command_line_crc: boot_layout::crc32(command_line.as_bytes()),
    };

    let mut parts: Vec<(u64, Arc<dyn Disk>)> = vec![
        (BOOT_LBA * SECTOR, Arc::new(block.encode().to_vec())),
        (STAGE2_LBA * SECTOR, Arc::new(boot.stage2.clone())),
        (root_start, root),
    ];
    for (at, bytes) in gpt::table(&entries, &boot.stage1, size / SECTOR, id("disk")) {
        parts.push((at, Arc::new(bytes)));
    }
    for (at, bytes) in esp.parts {
        parts.push((ESP_LBA * SECTOR + at, Arc::new(bytes)));
    }
    for (number, file) in files.into_iter().enumerate() {
        parts.push((place(number)?, file));
    }
    parts.retain(|(_, part)| part.size() > 0);
    parts.sort_by_key(|(start, _)| *start);
    let overlaps = parts.windows(2).any(|w| w[0].0 + w[0].1.size() > w[1].0);
    if overlaps || parts.last().is_some_and(|(start, part)| start + part.size() > size) {
        bail!("the disk's parts overlap");
    }
    Ok(Assembled { size, parts })
}

/// The EFI system partition's files, by their number.
fn tree(files: &[Arc<dyn Disk>; 4]) -> Vec<(&'static str, fat::Node)> {
    use fat::Node::{Dir, File};
    let file = |number: usize| File(number, files[number].size());
    vec![
        ("EFI", Dir(vec![("BOOT", Dir(vec![("BOOTX64.EFI", file(0))]))])),
        ("coracle", Dir(vec![("kernel", file(1)), ("cmdline", file(2))])),
        ("boot", Dir(vec![("grub", Dir(vec![("grub.cfg", file(3))]))])),
    ]
}

/// All bytes of a disk, in pieces.
fn pieces(disk: &dyn Disk, take: &mut dyn FnMut(&[u8])) -> Result<()> {
    let mut bytes = vec![0; 1 << 18];
    let mut at = 0;
    while at < disk.size() {
        let n = (disk.size() - at).min(bytes.len() as u64) as usize;
        disk.read_at(at, &mut bytes[..n])?;
        take(&bytes[..n]);
        at += n as u64;
    }
    Ok(())
}

fn checksum(disk: &dyn Disk) -> Result<u32> {
    let mut sum = boot_layout::Checksum::new();
    pieces(disk, &mut |bytes| sum.update(bytes))?;
    Ok(sum.finish())
}

fn hash<'a>(first: &[&[u8]], rest: impl Iterator<Item = &'a Arc<dyn Disk>>) -> Result<Vec<u8>> {
    let mut hash = Sha256::new();
    for bytes in first {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    for disk in rest {
        hash.update(disk.size().to_le_bytes());
        pieces(&**disk, &mut |bytes| hash.update(bytes))?;
    }
    Ok(hash.finalize().to_vec())
}
