//! Keeps packed images by the content they would have, so that a second run of the same program packs nothing.
//!
//! The key covers every name, owner, mode and link, and for host files their length, times and inode; a file that
//! changed gives another key. Old images go when there are more than a few.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::erofs;
use crate::progress::Progress;
use crate::tree::{Kind, Source, Tree};

/// Changes when the writer's output for the same tree does.
const FORMAT: &[u8] = b"coracle image 1";
/// At most so many images are kept.
const KEEP: usize = 24;

/// The user's cache folder for images.
pub fn folder() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("coracle/images")
}

/// A key for the image that `tree` would become.
pub fn key(tree: &Tree) -> String {
    let mut hash = Sha256::new();
    hash.update(FORMAT);
    tree.walk(&mut |path, node| {
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        let a = &node.attrs;
        field(path.as_os_str().as_bytes());
        field(format!("{:o} {} {} {}.{}", a.mode, a.uid, a.gid, a.mtime, a.mtime_nsec).as_bytes());
        match &node.kind {
            Kind::Dir(_) => field(b"dir"),
            Kind::Fifo => field(b"fifo"),
            Kind::Link(target) => field(target.as_bytes()),
            Kind::Device(kind, rdev) => field(format!("{kind:o} {rdev}").as_bytes()),
            Kind::File(Source::Bytes(bytes)) => field(bytes),
            Kind::File(Source::Host { path, size, id, changed }) => {
                field(path.as_os_str().as_bytes());
                field(format!("{size} {id:?} {changed:?}").as_bytes());
            }
        }
    });
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// The image for `tree`: from `folder`, or packed now and kept there.
pub fn image(tree: &Tree, folder: &Path, progress: &Progress) -> Result<PathBuf> {
    let path = folder.join(format!("{}.img", key(tree)));
    if let Ok(image) = erofs::Image::open(&path) {
        // Its age says when it was last of use.
        if let Ok(file) = fs::File::options().write(true).open(&path) {
            file.set_modified(SystemTime::now()).ok();
        }
        drop(image);
        return Ok(path);
    }
    fs::create_dir_all(folder).with_context(|| {
        format!("cannot make the cache folder {}; set XDG_CACHE_HOME to a folder that you may write", folder.display())
    })?;
    write(tree, &path, &erofs::Options::default(), progress)?;
    tidy(folder, KEEP);
    Ok(path)
}

/// Writes the image for `tree` at `path`; the file appears there whole or not at all.
pub fn write(tree: &Tree, path: &Path, options: &erofs::Options, progress: &Progress) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
    progress.bytes(tree.totals().1, "Packing");
    erofs::write(tree, options, file.as_file_mut(), &mut |n| progress.add(n))
        .with_context(|| format!("cannot write the image {}", path.display()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode)?;
    file.persist(path).with_context(|| format!("cannot write the image {}", path.display()))?;
    Ok(())
}

/// Removes all but the `keep` youngest images, and what a killed run left behind an hour ago or more.
fn tidy(folder: &Path, keep: usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut images: Vec<(SystemTime, PathBuf)> =
        entries.filter_map(|e| e.ok()).filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
    images.sort();
    images.reverse();
    let mut kept = 0;
    for (time, path) in images {
        let old = time.elapsed().is_ok_and(|age| age.as_secs() > 3600);
        if path.extension().is_some_and(|e| e == "img") {
            kept += 1;
            if kept > keep && old {
                fs::remove_file(path).ok();
            }
        } else if old {
            fs::remove_file(path).ok();
        }
    }
}
