//! OVA: a tar archive of a description (OVF), a stream-optimized VMDK and a manifest with their SHA-256 sums, in this
//! order (DMTF DSP0243, 5.3).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::ovf::{Machine, describe};
use super::vmdk::Vmdk;
use super::{Disk, Window, vmdk_write};

const BLOCK: u64 = 512;
/// Bytes of the description, filled up with white space: so that the disk can be written before its size is known.
const DESCRIPTION: u64 = 8192;
/// The manifest and names longer than any are not ours.
const MOST_TEXT: u64 = 1 << 20;

fn header(name: &str, len: u64) -> Result<Vec<u8>> {
    let mut h = tar::Header::new_ustar();
    h.set_path(name)?;
    h.set_size(len);
    h.set_mode(0o644);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(0);
    h.set_entry_type(tar::EntryType::Regular);
    h.set_cksum();
    Ok(h.as_bytes().to_vec())
}

/// A name that is one in a tar archive and a manifest.
fn file_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = name.chars().map(|c| if plain(c) { c } else { '-' }).take(80).collect();
    if name.trim_matches(['.', '-']).is_empty() { "coracle".into() } else { name }
}

/// Writes the archive.
pub fn write(disk: &dyn Disk, machine: &Machine, out: &mut File, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let name = file_name(&machine.name);
    let (ovf_name, vmdk_name) = (format!("{name}.ovf"), format!("{name}-disk1.vmdk"));
    let vmdk_at = BLOCK + DESCRIPTION + BLOCK;
    let written = vmdk_write::write(disk, out, vmdk_at, progress)?;
    let mut ovf = describe(machine, &vmdk_name, written.len, disk.size(), written.populated).into_bytes();
    if ovf.len() as u64 > DESCRIPTION {
        bail!("the machine's name is too long for a description");
    }
    ovf.resize(DESCRIPTION as usize, b'\n');
    let sum = sum(&FilePart { file: out, start: vmdk_at, len: written.len })?;
    let manifest = format!("SHA256({ovf_name})= {}\nSHA256({vmdk_name})= {sum}\n", hex(&Sha256::digest(&ovf)));

    out.write_all_at(&header(&ovf_name, DESCRIPTION)?, 0)?;
    out.write_all_at(&ovf, BLOCK)?;
    out.write_all_at(&header(&vmdk_name, written.len)?, BLOCK + DESCRIPTION)?;
    let end = (vmdk_at + written.len).next_multiple_of(BLOCK);
    out.write_all_at(&header(&format!("{name}.mf"), manifest.len() as u64)?, end)?;
    out.write_all_at(manifest.as_bytes(), end + BLOCK)?;
    // Two empty blocks end an archive, and whole records of 20 blocks make it.
    let len = (end + BLOCK + manifest.len() as u64).next_multiple_of(BLOCK) + 2 * BLOCK;
    out.set_len(len.next_multiple_of(20 * BLOCK))?;
    Ok(())
}

/// A part of a file that is being written.
struct FilePart<'a> {
    file: &'a File,
    start: u64,
    len: u64,
}

impl Disk for FilePart<'_> {
    fn size(&self) -> u64 {
        self.len
    }
    fn read_at(&self, at: u64, to: &mut [u8]) -> Result<()> {
        Ok(self.file.read_exact_at(to, self.start + at)?)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn sum(disk: &dyn Disk) -> Result<String> {
    let mut hash = Sha256::new();
    let mut bytes = vec![0; 1 << 18];
    let mut at = 0;
    while at < disk.size() {
        let n = (disk.size() - at).min(bytes.len() as u64) as usize;
        disk.read_at(at, &mut bytes[..n])?;
        hash.update(&bytes[..n]);
        at += n as u64;
    }
    Ok(hex(&hash.finalize()))
}

/// A disk as a stream.
struct Reader<'a> {
    disk: &'a dyn Disk,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.disk.size().saturating_sub(self.at).min(to.len() as u64) as usize;
        self.disk.read_at(self.at, &mut to[..n]).map_err(io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let new = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.disk.size().checked_add_signed(by),
        };
        self.at = new.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

struct Contents {
    /// Name, first byte and length of each VMDK.
    disks: Vec<(String, u64, u64)>,
    manifest: Option<String>,
}

fn contents(file: &dyn Disk) -> Result<Contents> {
    let mut archive = tar::Archive::new(Reader { disk: file, at: 0 });
    let mut all = Contents { disks: Vec::new(), manifest: None };
    for entry in archive.entries_with_seek().context("it is no tar archive")? {
        let mut entry = entry.context("the archive is truncated or corrupt")?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let (at, len) = (entry.raw_file_position(), entry.size());
        if name.ends_with(".vmdk") {
            super::inside(file, at, len).with_context(|| format!("{name} in it is cut short"))?;
            all.disks.push((name, at, len));
        } else if name.ends_with(".mf") && len <= MOST_TEXT {
            let mut text = String::new();
            entry.read_to_string(&mut text).context("its manifest cannot be read")?;
            all.manifest = Some(text);
        }
    }
    Ok(all)
}

/// Where the archive's only disk file is: first byte and length.
pub fn disk_file(file: &dyn Disk) -> Result<(u64, u64)> {
    let all = contents(file)?;
    match &all.disks[..] {
        [(_, at, len)] => Ok((*at, *len)),
        [] => bail!("there is no VMDK in the archive"),
        many => bail!("there are {} disks in the archive; unpack it with tar and name one of them", many.len()),
    }
}

/// The disk in an archive, its sum verified where there is a manifest with one.
pub fn open(file: Arc<dyn Disk>) -> Result<Vmdk> {
    let all = contents(&*file)?;
    let (at, len) = disk_file(&*file)?;
    let part = Window::new(file, at, len)?;
    if let (Some(manifest), Some((name, ..))) = (&all.manifest, all.disks.first()) {
        let line = manifest.lines().find_map(|l| l.strip_prefix(&format!("SHA256({name})=")));
        if let Some(wanted) = line
            && !sum(&part)?.eq_ignore_ascii_case(wanted.trim())
        {
            bail!("{name} in it does not have the sum that the manifest says: the file is corrupt");
        }
    }
    Vmdk::open(Arc::new(part))
}
