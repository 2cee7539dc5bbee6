//! The root file system: the EROFS image on a partition, on a whole disk or in the first boot module, under a tmpfs that
//! takes the writes.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use base::Result;
use fs::Path;
use fs::erofs::{self, Erofs, Image};
use fs::partition::{Kind, ROOT_X86_64, Scheme};
use fs::tmpfs::TmpFs;
use fs::types::OpenFlags;

use crate::devices::module::ModuleImage;
use crate::devices::volume::{Volume, volumes};

/// Where the image is.
pub enum Source {
    /// On this disk or partition.
    Volume(&'static Arc<Volume>),
    /// In this module.
    Module(&'static [u8]),
}

/// True if the volume starts like an image.
fn holds_image(volume: &Volume) -> bool {
    let mut start = [0; erofs::HEAD];
    volume.read_at(0, &mut start) == Ok(start.len()) && erofs::is_image(&start)
}

/// The volume that holds the root: of all disks in their order, the first partition of the root's type with an image, else
/// the first disk that is an image as a whole. So neither a data disk without a table that comes first, nor a data
/// partition, is taken for the root of a disk that was made to boot.
///
/// # Errors
/// A line that tells what there is instead.
pub fn find() -> Result<&'static Arc<Volume>, String> {
    let is_root = |v: &&Arc<Volume>| v.partition().is_some_and(|p| p.kind == Kind::Gpt(ROOT_X86_64));
    let is_whole = |v: &&Arc<Volume>| v.partition().is_none() && v.scheme() == Scheme::None;
    let partition = volumes().iter().filter(is_root).find(|v| holds_image(v));
    partition.or_else(|| volumes().iter().filter(is_whole).find(|v| holds_image(v))).ok_or_else(seen)
}

/// The volume of this name.
///
/// # Errors
/// A line that tells what there is instead.
pub fn named(name: &str) -> Result<&'static Arc<Volume>, String> {
    volumes().iter().find(|v| v.name() == name).ok_or_else(|| format!("there is no {name}: {}", seen()))
}

/// What there is, in one line.
fn seen() -> String {
    if volumes().is_empty() {
        return String::from("there is neither a disk nor a boot module (give the machine the image as a disk)");
    }
    let all: Vec<String> = volumes()
        .iter()
        .map(|volume| {
            let what = match (volume.partition(), volume.scheme()) {
                (Some(p), _) => match p.kind {
                    Kind::Gpt(ROOT_X86_64) => "type root, no EROFS image".to_string(),
                    Kind::Gpt(kind) => format!("type {kind}"),
                    Kind::Mbr(kind) => format!("type {kind:#04x}"),
                },
                (None, Scheme::None) => "no EROFS image, no partitions".to_string(),
                (None, Scheme::Mbr) => "MBR".to_string(),
                (None, Scheme::Gpt | Scheme::GptBackup) => "GPT".to_string(),
            };
            format!("{} {} KiB ({what})", volume.name(), volume.len() >> 10)
        })
        .collect();
    format!("no disk holds one that coracle build made; there is {}", all.join(", "))
}

/// Mounts the root. The text of an error tells what is wrong with the image.
pub fn mount(source: Source) -> Result<Path, String> {
    let (image, name): (Arc<dyn Image>, &str) = match source {
        Source::Volume(volume) => {
            volume.hold();
            log::info!("root: {}", volume.name());
            (volume.clone(), volume.name())
        }
        Source::Module(bytes) => {
            let image = ModuleImage::new(bytes).ok_or("the boot module does not start at a page")?;
            (Arc::new(image), "the boot module")
        }
    };
    let lower = Erofs::mount(image).map_err(|error| format!("{name}: {error}"))?;
    super::mount::set_up(TmpFs::over(lower, super::mount::memory_share()), "overlay")
        .map_err(|error| format!("{name}: the root's own directories cannot be made: {error}"))
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
