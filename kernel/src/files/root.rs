//! The root file system: the EROFS image on the first disk or in the first boot module, under a tmpfs that takes the
//! writes.

use alloc::string::{String, ToString};
use alloc::sync::Arc;

use base::{Frame, Result};
use fs::Path;
use fs::erofs::{Erofs, Image};
use fs::tmpfs::TmpFs;
use fs::types::OpenFlags;

use crate::devices::block::{self, Disk};
use crate::mm;

/// Bytes in a page.
const PAGE: u64 = 4096;

/// The image on a disk.
struct DiskImage(Arc<Disk>);

impl Image for DiskImage {
    fn len(&self) -> u64 {
        self.0.size()
    }

    fn pages(&self, first: u64, count: u64, put: &mut dyn FnMut(u64, Frame)) -> Result<()> {
        self.0.read_frames(first, count, put)
    }
}

/// The image in a boot module's memory, which stays reserved.
struct ModuleImage(&'static [u8]);

impl Image for ModuleImage {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn pages(&self, first: u64, count: u64, put: &mut dyn FnMut(u64, Frame)) -> Result<()> {
        // Copies: a frame that is handed over becomes the reader's own.
        for index in first..first + count {
            let frame = Frame::zeroed()?;
            let start = usize::try_from(index * PAGE).unwrap_or(usize::MAX);
            frame.write(0, self.0.get(start..).unwrap_or(&[]));
            put(index, frame);
        }
        Ok(())
    }
}

/// Where the image is.
pub enum Source {
    /// On the first disk.
    Disk,
    /// In this module.
    Module(&'static [u8]),
}

/// True if there is a disk.
pub fn has_disk() -> bool {
    !block::disks().is_empty()
}

/// Mounts the root. The text of an error tells what is wrong with the image.
pub fn mount(source: Source) -> Result<Path, String> {
    let (image, name): (Arc<dyn Image>, &str) = match source {
        Source::Disk => {
            let disk = block::disks().first().ok_or("there is no disk (give -drive, or root=module)")?;
            (Arc::new(DiskImage(disk.clone())), "the first disk")
        }
        Source::Module(bytes) => (Arc::new(ModuleImage(bytes)), "the boot module"),
    };
    let lower = Erofs::mount(image).map_err(|error| alloc::format!("{name}: {error}"))?;
    mm::register_shrinker(|pages| fs::tmpfs::reclaim(pages));
    // Half of the memory, in pages, as a tmpfs of Linux.
    let limit = mm::frame::stats().total as u64 / 2;
    let root = fs::vfs::root_mount(TmpFs::over(lower, limit), "overlay");
    Ok(root)
}

/// The image's own command line (docs/command-line.md, section 2), if it has one.
pub fn own_command_line(root: &Path) -> Result<Option<alloc::vec::Vec<u8>>, String> {
    /// Longest that is read.
    const MOST: usize = 64 << 10;
    let cred = fs::Credentials::root();
    let walk = fs::Walk { root, start: root, cred: &cred };
    let Ok(path) = walk.lookup(b"/.coracle/cmdline", fs::vfs::Resolve::FOLLOW) else { return Ok(None) };
    let file = walk.open_path(&path, OpenFlags::empty()).map_err(|error| error.to_string())?;
    let mut text = alloc::vec![0; MOST];
    let mut len = 0;
    while len < MOST {
        let mut out = base::io::Out::kernel(&mut text[len..]);
        match file.read_at(len as u64, &mut out, fs::IoFlags::empty()).map_err(|error| error.to_string())? {
            0 => break,
            n => len += n,
        }
    }
    text.truncate(len);
    Ok(Some(text))
}
