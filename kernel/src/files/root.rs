//! The root file system: the EROFS image on the first disk or in the first boot module, under a tmpfs that takes the
//! writes.

use alloc::string::{String, ToString};
use alloc::sync::Arc;

use base::Result;
use fs::Path;
use fs::erofs::{Erofs, Image};
use fs::tmpfs::TmpFs;
use fs::types::OpenFlags;

use crate::devices::block;
use crate::devices::module::ModuleImage;

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
            (disk.clone(), "the first disk")
        }
        Source::Module(bytes) => {
            let image = ModuleImage::new(bytes).ok_or("the boot module does not start at a page")?;
            (Arc::new(image), "the boot module")
        }
    };
    let lower = Erofs::mount(image).map_err(|error| alloc::format!("{name}: {error}"))?;
    super::mount::set_up(TmpFs::over(lower, super::mount::memory_share()), "overlay")
        .map_err(|error| alloc::format!("{name}: the root's own directories cannot be made: {error}"))
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
