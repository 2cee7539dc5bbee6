//! Writes a tree as an EROFS image: first a plan (where every inode and every block goes), then the bytes in order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};

use super::{
    BLOCK, COMPAT_CHECKSUM, COMPAT_MTIME, DIRENT, INLINE, INODE, MAGIC, PLAIN, SLOT, SUPER, SUPER_LEN, checksum,
};
use crate::tree::{Attrs, Kind, Node, Source, Tree};

/// What an image says of itself besides its tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The file system's UUID.
    pub uuid: [u8; 16],
    /// No file is newer than this, in seconds since 1970 (as SOURCE_DATE_EPOCH asks).
    pub latest: Option<u64>,
}

/// Bytes that belong to an inode.
enum Data<'a> {
    None,
    /// Host file or bytes of ours, in whole blocks.
    File(&'a Source),
    /// Bytes beside the inode: a link's target.
    Tail(Vec<u8>),
    /// A directory: its entries as (name, index of the inode, type).
    Dir(Vec<(Vec<u8>, usize, u8)>),
}

struct Inode<'a> {
    attrs: Attrs,
    /// The type bits of `st_mode`.
    kind: u16,
    links: u32,
    size: u64,
    data: Data<'a>,
    rdev: u32,
    /// Byte offset in the image.
    place: u64,
    /// First data block; 0 when there is none.
    block: u64,
}

impl Inode<'_> {
    /// Bytes that lie directly after the inode.
    fn tail(&self) -> u64 {
        match &self.data {
            Data::Tail(t) => t.len() as u64,
            Data::Dir(_) if tail_fits(self.size) => self.size % BLOCK,
            _ => 0,
        }
    }

    /// Whole blocks in the data area.
    fn blocks(&self) -> u64 {
        match &self.data {
            Data::None | Data::Tail(_) => 0,
            Data::File(_) => self.size.div_ceil(BLOCK),
            Data::Dir(_) if tail_fits(self.size) => self.size / BLOCK,
            Data::Dir(_) => self.size.div_ceil(BLOCK),
        }
    }

    fn layout(&self) -> u16 {
        if self.tail() > 0 { INLINE } else { PLAIN }
    }
}

/// Whether the last, partial block of `size` bytes can lie beside an inode without crossing a block's end.
fn tail_fits(size: u64) -> bool {
    !size.is_multiple_of(BLOCK) && size % BLOCK <= BLOCK - INODE
}

/// Writes `tree` to `out` (from its start). `progress` is told the bytes of file contents as they go. Returns the
/// image's length in bytes. The same tree gives the same bytes.
pub fn write(tree: &Tree, options: &Options, out: &mut File, progress: &mut dyn FnMut(u64)) -> Result<u64> {
    let mut inodes = Vec::new();
    let mut shared = HashMap::new();
    collect(tree.root(), &mut inodes, &mut shared)?;
    let root = 0;
    let blocks = place(&mut inodes)?;
    let out = &mut io::BufWriter::with_capacity(1 << 18, out);
    out.seek(SeekFrom::Start(0))?;
    let parents = parents(&inodes, root);
    write_meta(&inodes, &parents, options, blocks, out)?;
    for (index, parent) in parents.into_iter().enumerate() {
        write_data(&inodes, index, parent, out, progress)?;
    }
    out.flush()?;
    out.get_mut().set_len(blocks * BLOCK)?;
    Ok(blocks * BLOCK)
}

/// Adds `node` and all below it to `inodes`, parents first; returns its index.
fn collect<'a>(node: &'a Node, inodes: &mut Vec<Inode<'a>>, shared: &mut HashMap<(u64, u64), usize>) -> Result<usize> {
    let (kind, size, data, rdev) = match &node.kind {
        Kind::Dir(_) => (0o040000, 0, Data::Dir(Vec::new()), 0),
        Kind::File(source) => {
            if let Source::Host { id, .. } = source {
                if let Some(&index) = shared.get(id) {
                    inodes[index].links += 1;
                    return Ok(index);
                }
                shared.insert(*id, inodes.len());
            }
            (0o100000, source.size(), Data::File(source), 0)
        }
        Kind::Link(target) => {
            let target = target.as_bytes().to_vec();
            if target.len() as u64 > BLOCK - INODE {
                bail!("a symbolic link's target is longer than {} bytes", BLOCK - INODE);
            }
            (0o120000, target.len() as u64, Data::Tail(target), 0)
        }
        Kind::Device(kind, rdev) => (*kind, 0, Data::None, device_number(*rdev)),
        Kind::Fifo => (0o010000, 0, Data::None, 0),
    };
    let index = inodes.len();
    inodes.push(Inode { attrs: node.attrs, kind, links: 1, size, data, rdev, place: 0, block: 0 });
    if let Kind::Dir(entries) = &node.kind {
        let mut list = Vec::with_capacity(entries.len());
        let mut folders = 0;
        for (name, child) in entries {
            if name.len() > 255 {
                bail!("the name {name:?} is longer than 255 bytes");
            }
            let child_index = collect(child, inodes, shared)?;
            let kind = inodes[child_index].kind;
            folders += u32::from(kind == 0o040000);
            list.push((name.as_bytes().to_vec(), child_index, dirent_type(kind)));
        }
        inodes[index].links = 2 + folders;
        inodes[index].size = dir_size(&list);
        inodes[index].data = Data::Dir(list);
    }
    Ok(index)
}

/// `st_rdev` in the 32-bit form that images use: 12 bits of major, 20 of minor number.
fn device_number(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn dirent_type(kind: u16) -> u8 {
    match kind {
        0o100000 => 1,
        0o040000 => 2,
        0o020000 => 3,
        0o060000 => 4,
        0o010000 => 5,
        0o120000 => 7,
        _ => 0,
    }
}

/// All names of a directory in the order of the format (bytes), the two dots included.
fn all_names(list: &[(Vec<u8>, usize, u8)], own: usize, parent: usize) -> impl Iterator<Item = (&[u8], usize, u8)> {
    let mut all: Vec<(&[u8], usize, u8)> = list.iter().map(|(n, i, t)| (&n[..], *i, *t)).collect();
    all.push((b".", own, 2));
    all.push((b"..", parent, 2));
    all.sort_unstable();
    all.into_iter()
}

/// Splits names into blocks: how many entries each block takes, and the bytes used in it.
fn dir_blocks<'a>(lengths: impl Iterator<Item = &'a [u8]>) -> Vec<(usize, u64)> {
    let mut blocks = vec![(0usize, 0u64)];
    for name in lengths {
        let need = (DIRENT + name.len()) as u64;
        let last = blocks.len() - 1;
        if blocks[last].1 + need > BLOCK {
            blocks.push((1, need));
        } else {
            blocks[last].0 += 1;
            blocks[last].1 += need;
        }
    }
    blocks
}

fn dir_size(list: &[(Vec<u8>, usize, u8)]) -> u64 {
    let blocks = dir_blocks(all_names(list, 0, 0).map(|(n, _, _)| n));
    (blocks.len() as u64 - 1) * BLOCK + blocks[blocks.len() - 1].1
}

/// Gives every inode its place and its blocks; returns the number of blocks in the image.
fn place(inodes: &mut [Inode<'_>]) -> Result<u64> {
    let mut at = (SUPER + SUPER_LEN) as u64;
    for inode in inodes.iter_mut() {
        let need = INODE + inode.tail();
        if at % BLOCK + need > BLOCK {
            at = at.next_multiple_of(BLOCK);
        }
        inode.place = at;
        at = (at + need).next_multiple_of(SLOT);
    }
    let mut block = at.div_ceil(BLOCK);
    // Directories first: a lookup then finds its blocks close together.
    for folders in [true, false] {
        for inode in inodes.iter_mut().filter(|i| matches!(i.data, Data::Dir(_)) == folders) {
            if inode.blocks() > 0 {
                inode.block = block;
                block += inode.blocks();
            }
        }
    }
    if block > u64::from(u32::MAX) {
        bail!("the image would be larger than 16 TiB");
    }
    Ok(block)
}

/// Writes superblock, inodes and tails.
fn write_meta(
    inodes: &[Inode<'_>],
    parents: &[usize],
    options: &Options,
    blocks: u64,
    out: &mut impl Write,
) -> Result<()> {
    let end = inodes.iter().map(|i| i.place + INODE + i.tail()).max().unwrap_or(0).next_multiple_of(BLOCK);
    let mut meta = vec![0u8; end as usize];
    for (index, inode) in inodes.iter().enumerate() {
        let at = inode.place as usize;
        encode_inode(inode, index, options, &mut meta[at..at + INODE as usize]);
        let tail = match &inode.data {
            Data::Tail(t) => t.clone(),
            Data::Dir(list) if inode.tail() > 0 => {
                let bytes = dir_bytes(list, index, parents[index], inodes);
                bytes[(inode.blocks() * BLOCK) as usize..].to_vec()
            }
            _ => continue,
        };
        let at = at + INODE as usize;
        meta[at..at + tail.len()].copy_from_slice(&tail);
    }
    let root_nid = inodes[0].place / SLOT;
    let latest = inodes.iter().map(|i| mtime(&i.attrs, options).0).max().unwrap_or(0);
    let s = &mut meta[SUPER..SUPER + SUPER_LEN];
    put(s, 0, &MAGIC.to_le_bytes());
    put(s, 8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
    s[12] = BLOCK.trailing_zeros() as u8;
    put(s, 14, &(root_nid as u16).to_le_bytes());
    put(s, 16, &(inodes.len() as u64).to_le_bytes());
    put(s, 24, &latest.to_le_bytes());
    put(s, 36, &(blocks as u32).to_le_bytes());
    put(s, 48, &options.uuid);
    let sum = checksum(&meta[..BLOCK as usize]);
    put(&mut meta, SUPER + 4, &sum.to_le_bytes());
    out.write_all(&meta)?;
    Ok(())
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

fn mtime(attrs: &Attrs, options: &Options) -> (u64, u32) {
    match options.latest {
        Some(latest) if attrs.mtime >= latest => (latest, 0),
        _ => (attrs.mtime, attrs.mtime_nsec),
    }
}

fn encode_inode(inode: &Inode<'_>, index: usize, options: &Options, to: &mut [u8]) {
    let (seconds, nanos) = mtime(&inode.attrs, options);
    let pointer = match inode.kind {
        0o020000 | 0o060000 => inode.rdev,
        _ => inode.block as u32,
    };
    put(to, 0, &(1 | inode.layout() << 1).to_le_bytes());
    put(to, 4, &(inode.kind | inode.attrs.mode).to_le_bytes());
    put(to, 8, &inode.size.to_le_bytes());
    put(to, 16, &pointer.to_le_bytes());
    put(to, 20, &(index as u32 + 1).to_le_bytes());
    put(to, 24, &inode.attrs.uid.to_le_bytes());
    put(to, 28, &inode.attrs.gid.to_le_bytes());
    put(to, 32, &seconds.to_le_bytes());
    put(to, 40, &nanos.to_le_bytes());
    put(to, 44, &inode.links.to_le_bytes());
}

/// For every directory, the index of its parent (the root's is itself).
fn parents(inodes: &[Inode<'_>], root: usize) -> Vec<usize> {
    let mut parents = vec![root; inodes.len()];
    for (index, inode) in inodes.iter().enumerate() {
        if let Data::Dir(list) = &inode.data {
            for (_, child, _) in list {
                parents[*child] = index;
            }
        }
    }
    parents
}

/// A directory's contents: per block the fixed entries, then the names; unused bytes of all but the last are zero.
fn dir_bytes(list: &[(Vec<u8>, usize, u8)], own: usize, parent: usize, inodes: &[Inode<'_>]) -> Vec<u8> {
    let entries: Vec<_> = all_names(list, own, parent).collect();
    let mut bytes = Vec::new();
    let mut rest = &entries[..];
    let blocks = dir_blocks(entries.iter().map(|(n, _, _)| *n));
    for (number, (count, _)) in blocks.iter().enumerate() {
        let (now, later) = rest.split_at(*count);
        rest = later;
        let mut name_at = count * DIRENT;
        for (name, index, kind) in now {
            bytes.extend_from_slice(&(inodes[*index].place / SLOT).to_le_bytes());
            bytes.extend_from_slice(&(name_at as u16).to_le_bytes());
            bytes.extend_from_slice(&[*kind, 0]);
            name_at += name.len();
        }
        for (name, _, _) in now {
            bytes.extend_from_slice(name);
        }
        if number + 1 < blocks.len() {
            bytes.resize((number + 1) * BLOCK as usize, 0);
        }
    }
    bytes
}

/// Writes the whole blocks of one inode.
fn write_data(
    inodes: &[Inode<'_>],
    index: usize,
    parent: usize,
    out: &mut io::BufWriter<&mut File>,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let inode = &inodes[index];
    if inode.blocks() == 0 {
        return Ok(());
    }
    out.seek(SeekFrom::Start(inode.block * BLOCK))?;
    match &inode.data {
        Data::Dir(list) => {
            let bytes = dir_bytes(list, index, parent, inodes);
            let end = bytes.len().min((inode.blocks() * BLOCK) as usize);
            out.write_all(&bytes[..end])?;
        }
        Data::File(Source::Bytes(bytes)) => {
            out.write_all(bytes)?;
            progress(bytes.len() as u64);
        }
        Data::File(Source::Host { path, size, .. }) => {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            out.flush()?;
            let copied = io::copy(&mut io::Read::take(file, *size), &mut **out.get_mut())
                .with_context(|| format!("cannot copy {}", path.display()))?;
            if copied != *size {
                bail!("{} became shorter while it was packed; run again", path.display());
            }
            progress(copied);
        }
        Data::None | Data::Tail(_) => {}
    }
    Ok(())
}
