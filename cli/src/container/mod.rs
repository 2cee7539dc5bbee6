//! Disks and the files that hold them: raw, qcow2, VMDK, OVA, VDI, VHD.
//!
//! Here: what a disk is to the command, which format a file has, and one module for each format's reader and writer.
//! Readers believe nothing: every offset is checked against the file. Writers go through a disk once, from its start, and
//! give the same bytes for the same disk: identifiers come from the contents. Not here: what is on a disk
//! ([`crate::disk`]).

mod claims;
mod ova;
mod ovf;
mod qcow2;
mod vdi;
mod vhd;
mod vmdk;
mod vmdk_write;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

pub use ovf::Machine;

/// Bytes that can be read at any place: a disk, or a file that holds one.
pub trait Disk: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;
    /// Fills `to` from `at` on. The range must be inside.
    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<()>;
    /// True if the range is known to hold zeroes only, without reading it.
    fn is_hole(&self, at: u64, len: u64) -> bool {
        let _ = (at, len);
        false
    }
}

/// Fails unless the range is inside.
pub(crate) fn inside(disk: &dyn Disk, at: u64, len: u64) -> Result<()> {
    if at.checked_add(len).is_none_or(|end| end > disk.size()) {
        bail!("a pointer leads past the end ({at} + {len} of {} bytes): the file is truncated or corrupt", disk.size());
    }
    Ok(())
}

impl Disk for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }
    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<()> {
        inside(self, at, to.len() as u64)?;
        to.copy_from_slice(&self[at as usize..][..to.len()]);
        Ok(())
    }
}

/// A file as it is.
pub struct RawFile {
    file: File,
    size: u64,
}

impl RawFile {
    /// Opens it for reading.
    pub fn open(path: &Path) -> Result<RawFile> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Self::new(file).with_context(|| format!("cannot read {}", path.display()))
    }

    /// An open file, or block device.
    pub fn new(mut file: File) -> Result<RawFile> {
        use std::io::{Seek, SeekFrom};
        let size = file.seek(SeekFrom::End(0))?;
        Ok(RawFile { file, size })
    }
}

impl Disk for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<()> {
        inside(self, at, to.len() as u64)?;
        self.file.read_exact_at(to, at)?;
        Ok(())
    }

    fn is_hole(&self, at: u64, len: u64) -> bool {
        use rustix::fs::{SeekFrom, seek};
        match seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => data >= at.saturating_add(len),
            Err(rustix::io::Errno::NXIO) => true,
            Err(_) => false,
        }
    }
}

/// A part of a disk.
pub struct Window {
    disk: Arc<dyn Disk>,
    start: u64,
    len: u64,
}

impl Window {
    /// The part of `len` bytes from `start` on.
    pub fn new(disk: Arc<dyn Disk>, start: u64, len: u64) -> Result<Window> {
        inside(&*disk, start, len)?;
        Ok(Window { disk, start, len })
    }
}

impl Disk for Window {
    fn size(&self) -> u64 {
        self.len
    }
    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<()> {
        inside(self, at, to.len() as u64)?;
        self.disk.read_at(self.start + at, to)
    }
    fn is_hole(&self, at: u64, len: u64) -> bool {
        self.disk.is_hole(self.start + at, len.min(self.len.saturating_sub(at)))
    }
}

/// Formats of files that hold a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The disk's bytes
    Raw,
    /// QEMU's
    Qcow2,
    /// VMware's, stream-optimized
    Vmdk,
    /// A VMDK with a description of its machine, for import
    Ova,
    /// VirtualBox's
    Vdi,
    /// Virtual PC's and Azure's, of fixed size
    Vhd,
    /// The root file system alone, without a disk around it
    Erofs,
}

impl Format {
    /// By a file's suffix.
    pub fn of_name(path: &Path) -> Option<Format> {
        Some(match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "img" | "raw" => Format::Raw,
            "qcow2" => Format::Qcow2,
            "vmdk" => Format::Vmdk,
            "ova" => Format::Ova,
            "vdi" => Format::Vdi,
            "vhd" | "vpc" => Format::Vhd,
            "erofs" => Format::Erofs,
            _ => return None,
        })
    }

    /// By what the file says of itself; a VHD only does so at its end.
    fn of_content(file: &dyn Disk) -> Result<Format> {
        let mut head = vec![0; file.size().min(2048) as usize];
        file.read_at(0, &mut head)?;
        let is = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
        Ok(if is(0, b"QFI\xfb") {
            Format::Qcow2
        } else if is(0, b"KDMV") {
            Format::Vmdk
        } else if is(64, &vdi::SIGNATURE.to_le_bytes()) {
            Format::Vdi
        } else if is(257, b"ustar") {
            Format::Ova
        } else if vhd::footer(file)?.is_some() {
            Format::Vhd
        } else if is(1024, &crate::erofs::MAGIC.to_le_bytes()) {
            Format::Erofs
        } else {
            Format::Raw
        })
    }

    /// As users call it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Ova => "ova",
            Format::Vdi => "vdi",
            Format::Vhd => "vhd",
            Format::Erofs => "erofs",
        }
    }
}

/// Opens what a file holds, whatever its format.
pub fn open(path: &Path) -> Result<(Format, Arc<dyn Disk>)> {
    let file = Arc::new(RawFile::open(path)?);
    disk_in(file).with_context(|| format!("the image {} cannot be used", path.display()))
}

/// The disk in a file.
pub fn disk_in(file: Arc<dyn Disk>) -> Result<(Format, Arc<dyn Disk>)> {
    let format = Format::of_content(&*file)?;
    let disk: Arc<dyn Disk> = match format {
        Format::Raw | Format::Erofs => file,
        Format::Qcow2 => Arc::new(qcow2::Qcow2::open(file).context("bad qcow2 file")?),
        Format::Vmdk => Arc::new(vmdk::Vmdk::open(file).context("bad VMDK file")?),
        Format::Ova => Arc::new(ova::open(file).context("bad OVA file")?),
        Format::Vdi => Arc::new(vdi::Vdi::open(file).context("bad VDI file")?),
        Format::Vhd => vhd::open(file).context("bad VHD file")?,
    };
    Ok((format, disk))
}

/// The VMDK inside an OVA: where it lies in the file.
pub fn vmdk_in_ova(path: &Path) -> Result<(u64, u64)> {
    ova::disk_file(&RawFile::open(path)?)
}

/// Writes `disk` as a file of this format into `out`, an empty file. `machine` is described in an OVA.
pub fn write(
    format: Format,
    disk: &dyn Disk,
    machine: &Machine,
    out: &mut File,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    match format {
        Format::Raw | Format::Erofs => write_raw(disk, out, progress),
        Format::Qcow2 => qcow2::write(disk, out, progress),
        Format::Vmdk => vmdk_write::write(disk, out, 0, progress).map(drop),
        Format::Ova => ova::write(disk, machine, out, progress),
        Format::Vdi => vdi::write(disk, out, progress),
        Format::Vhd => vhd::write(disk, out, progress),
    }
}

/// Goes through a disk in pieces of `unit` bytes and hands over those that are not all zero: number and bytes. The last
/// piece is filled up with zeroes.
pub(crate) fn each_piece(
    disk: &dyn Disk,
    unit: usize,
    progress: &mut dyn FnMut(u64),
    piece: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut bytes = vec![0; unit];
    let mut at = 0;
    while at < disk.size() {
        let n = (disk.size() - at).min(unit as u64) as usize;
        if !disk.is_hole(at, n as u64) {
            disk.read_at(at, &mut bytes[..n])?;
            bytes[n..].fill(0);
            if !is_zero(&bytes) {
                piece(at / unit as u64, &bytes)?;
            }
        }
        progress(n as u64);
        at += n as u64;
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    let words = bytes.chunks_exact(16);
    let rest = words.remainder();
    words.into_iter().all(|w| u128::from_ne_bytes(w.try_into().unwrap_or([1; 16])) == 0) && rest.iter().all(|b| *b == 0)
}

/// The bytes as they are; holes stay holes.
fn write_raw(disk: &dyn Disk, out: &mut File, progress: &mut dyn FnMut(u64)) -> Result<()> {
    out.set_len(disk.size())?;
    each_piece(disk, 1 << 16, progress, &mut |number, bytes| {
        let at = number << 16;
        let n = (disk.size() - at).min(bytes.len() as u64) as usize;
        Ok(out.write_all_at(&bytes[..n], at)?)
    })
}

/// 16 bytes that stand for `what` of some contents, in the form of a random UUID (RFC 9562, version 8).
pub(crate) fn identifier(contents: &[u8], what: &str) -> [u8; 16] {
    use sha2::{Digest, Sha256};
    let hash = Sha256::new().chain_update(what).chain_update([0]).chain_update(contents).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// A running hash of the pieces that a writer meets: what its identifiers are made of.
#[derive(Default)]
pub(crate) struct Contents(sha2::Sha256);

impl Contents {
    pub fn of_size(size: u64) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::new().chain_update(size.to_le_bytes()))
    }
    pub fn add(&mut self, number: u64, bytes: &[u8]) {
        use sha2::Digest;
        self.0.update(number.to_le_bytes());
        self.0.update(bytes);
    }
    pub fn finish(self) -> Vec<u8> {
        use sha2::Digest;
        self.0.finalize().to_vec()
    }
}

/// Little- and big-endian numbers in a buffer that is long enough.
pub(crate) mod num {
    pub fn le32(b: &[u8], at: usize) -> u32 {
        u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
    }
    pub fn le64(b: &[u8], at: usize) -> u64 {
        u64::from(le32(b, at)) | u64::from(le32(b, at + 4)) << 32
    }
    pub fn be32(b: &[u8], at: usize) -> u32 {
        le32(b, at).swap_bytes()
    }
    pub fn be64(b: &[u8], at: usize) -> u64 {
        le64(b, at).swap_bytes()
    }
    pub fn put(b: &mut [u8], at: usize, bytes: &[u8]) {
        b[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
