//! The kernel's ELF file (gABI chapters 4 and 5): what is copied where, and the entry that its note names.

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::parse::ParseAt;
use elf::segment::ProgramHeader;

use crate::Refused;
use crate::memory::{self, Range};

/// How much of the file [`Kernel::parse`] needs: the file header and the program headers lie in it.
pub const HEAD: usize = 4096;
/// The kernel lies below this: it is entered in 32-bit mode.
pub const TOP: u64 = 1 << 32;
/// Nothing is loaded below this: the loader and the firmware are there.
pub const BOTTOM: u64 = 1 << 20;
/// The kernel's place is a multiple of this when the loader chooses it.
pub const ALIGN: u64 = 2 << 20;

/// Most segments.
const SEGMENTS: usize = 16;
/// Most note segments.
const NOTES: usize = 4;
/// Most memory that the kernel may ask for.
const SPAN_MAX: u64 = 256 << 20;
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (xen/include/public/elfnote.h): the 32-bit entry of the PVH protocol.
const NOTE_ENTRY: u32 = 18;
/// The note's owner, with its terminating zero.
const NOTE_NAME: &[u8] = &[0x58, 0x65, 0x6e, 0];

/// A `PT_LOAD`: bytes of the file, then zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes from the file.
    pub file_len: u64,
    /// Physical address.
    pub at: u64,
    /// Bytes in memory, at least `file_len`.
    pub len: u64,
}

/// A part of some bytes of the file that belongs into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte, counted from the first of those given.
    pub from: usize,
    /// Bytes.
    pub len: usize,
    /// Where it goes: physical address.
    pub to: u64,
}

/// A checked kernel file. No two segments share a byte of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    segments: [Segment; SEGMENTS],
    count: usize,
    /// Physical addresses and lengths of the notes.
    notes: [(u64, u64); NOTES],
    note_count: usize,
    movable: bool,
    /// How far it was moved from where the file wants to be (wraps).
    shift: u64,
    span: (u64, u64),
}

impl Kernel {
    /// From the first [`HEAD`] bytes (or all, if there are fewer) of a file of `file_len` bytes.
    pub fn parse(head: &[u8], file_len: u64) -> Result<Self, Refused> {
        let (header, movable) = header(head)?;
        let headers = usize::try_from(header.e_phoff)
            .ok()
            .and_then(|at| head.get(at..at.checked_add(usize::from(header.e_phnum) * PROGRAM_HEADER_SIZE)?))
            .ok_or(Refused("the kernel's program headers are not at its start"))?;
        let mut kernel = Self {
            segments: [Segment::default(); SEGMENTS],
            count: 0,
            notes: [(0, 0); NOTES],
            note_count: 0,
            movable,
            shift: 0,
            span: (u64::MAX, 0),
        };
        let mut at = 0;
        while at < headers.len() {
            let ph = ProgramHeader::parse_at(LittleEndian, Class::ELF64, &mut at, headers)
                .map_err(|_| Refused("the kernel has a broken program header"))?;
            match ph.p_type {
                abi::PT_LOAD if ph.p_memsz != 0 => kernel.add(&ph, file_len)?,
                abi::PT_NOTE => kernel.add_note(&ph)?,
                _ => {}
            }
        }
        if kernel.count == 0 {
            return Err(Refused("the kernel has nothing to load"));
        }
        if kernel.span.1 - kernel.span.0 > SPAN_MAX {
            return Err(Refused("the kernel's segments lie too far apart"));
        }
        kernel.find_notes()?;
        Ok(kernel)
    }

    fn add(&mut self, ph: &ProgramHeader, file_len: u64) -> Result<(), Refused> {
        if ph.p_filesz > ph.p_memsz {
            return Err(Refused("a segment of the kernel is larger in the file than in memory"));
        }
        if ph.p_offset.checked_add(ph.p_filesz).is_none_or(|end| end > file_len) {
            return Err(Refused("the kernel file is truncated: a segment lies beyond its end"));
        }
        let end = ph.p_paddr.checked_add(ph.p_memsz).filter(|&end| end <= TOP);
        let end = end.ok_or(Refused("the kernel wants to lie above 4 GiB"))?;
        if self.segments().iter().any(|s| s.at < end && ph.p_paddr < s.at + s.len) {
            return Err(Refused("segments of the kernel overlap"));
        }
        let slot = self.segments.get_mut(self.count).ok_or(Refused("the kernel has too many segments"))?;
        *slot = Segment { offset: ph.p_offset, file_len: ph.p_filesz, at: ph.p_paddr, len: ph.p_memsz };
        self.count += 1;
        self.span = (self.span.0.min(ph.p_paddr), self.span.1.max(end));
        Ok(())
    }

    /// Notes the place in the file; [`Kernel::find_notes`] turns it into an address.
    fn add_note(&mut self, ph: &ProgramHeader) -> Result<(), Refused> {
        let slot = self.notes.get_mut(self.note_count).ok_or(Refused("the kernel has too many notes"))?;
        *slot = (ph.p_offset, ph.p_filesz);
        self.note_count += 1;
        Ok(())
    }

    fn find_notes(&mut self) -> Result<(), Refused> {
        for i in 0..self.note_count {
            let (offset, len) = self.notes[i];
            let segment = self.segments().iter().find(|s| {
                s.offset <= offset && offset.checked_add(len).is_some_and(|end| end <= s.offset + s.file_len)
            });
            let s = segment.ok_or(Refused("a note of the kernel is not in memory"))?;
            self.notes[i].0 = s.at + (offset - s.offset);
        }
        Ok(())
    }

    /// The segments, where they are now.
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }

    /// First and one past the last physical address.
    pub fn span(&self) -> (u64, u64) {
        self.span
    }

    /// True if it may lie elsewhere.
    pub fn movable(&self) -> bool {
        self.movable
    }

    /// The same kernel with its span's page at `start` (its offset in the page stays).
    pub fn moved_to(mut self, start: u64) -> Result<Self, Refused> {
        let len = self.span.1 - self.span.0;
        let start = start + self.span.0 % memory::PAGE;
        let shift = start.wrapping_sub(self.span.0);
        if shift != 0 && !self.movable {
            return Err(Refused("the kernel cannot be moved, and its place is taken"));
        }
        if start.checked_add(len).is_none_or(|end| end > TOP) {
            return Err(Refused("the kernel's new place is above 4 GiB"));
        }
        for s in &mut self.segments[..self.count] {
            s.at = s.at.wrapping_add(shift);
        }
        for note in &mut self.notes[..self.note_count] {
            note.0 = note.0.wrapping_add(shift);
        }
        self.span = (start, start + len);
        self.shift = self.shift.wrapping_add(shift);
        Ok(self)
    }

    /// The kernel at its own place if that is free in `map`, else at the lowest that is.
    pub fn placed(self, map: &[Range]) -> Result<Self, Refused> {
        let (start, end) = self.span;
        if start >= BOTTOM && memory::is_free(map, start, end - start) {
            return Ok(self);
        }
        if !self.movable {
            return Err(Refused("the kernel cannot be moved, and its place is taken"));
        }
        let len = end - start + start % memory::PAGE;
        let new = memory::find(map, BOTTOM, TOP, len, ALIGN).ok_or(Refused("no room in memory for the kernel"))?;
        self.moved_to(new)
    }

    /// Which parts of `len` bytes of the file from `offset` on go where.
    pub fn pieces(&self, offset: u64, len: usize) -> impl Iterator<Item = Piece> {
        let end = offset.saturating_add(len as u64);
        self.segments().iter().filter_map(move |s| {
            let from = s.offset.max(offset);
            let to = (s.offset + s.file_len).min(end);
            (from < to).then(|| Piece {
                from: (from - offset) as usize,
                len: (to - from) as usize,
                to: s.at + (from - s.offset),
            })
        })
    }

    /// What is zero after the file's bytes: address and length.
    pub fn zeroes(&self) -> impl Iterator<Item = (u64, u64)> {
        self.segments().iter().filter(|s| s.file_len < s.len).map(|s| (s.at + s.file_len, s.len - s.file_len))
    }

    /// Where the notes are in memory: address and length.
    pub fn notes(&self) -> impl Iterator<Item = (u64, u64)> {
        self.notes[..self.note_count].iter().copied()
    }

    /// The entry that a note segment's bytes name, if they do.
    pub fn entry(&self, notes: &[u8]) -> Result<Option<u32>, Refused> {
        let Some(value) = find_entry(notes) else { return Ok(None) };
        let entry = value.wrapping_add(self.shift);
        let within = self.segments().iter().any(|s| s.at <= entry && entry - s.at < s.file_len);
        match u32::try_from(entry) {
            Ok(entry) if within => Ok(Some(entry)),
            _ => Err(Refused("the kernel's entry lies outside of it")),
        }
    }
}

fn header(head: &[u8]) -> Result<(FileHeader<LittleEndian>, bool), Refused> {
    let bytes = head.get(..HEADER_SIZE).ok_or(Refused("the kernel file is shorter than an ELF header"))?;
    let ident = parse_ident::<LittleEndian>(bytes).map_err(|_| Refused("the kernel is not an ELF file"))?;
    if ident.1 != Class::ELF64 {
        return Err(Refused("the kernel is not a 64-bit ELF file"));
    }
    let header = FileHeader::parse_tail(ident, &bytes[abi::EI_NIDENT..])
        .map_err(|_| Refused("the kernel has a broken ELF header"))?;
    if header.e_machine != abi::EM_X86_64 {
        return Err(Refused("the kernel is not for x86-64"));
    }
    if usize::from(header.e_phentsize) != PROGRAM_HEADER_SIZE {
        return Err(Refused("the kernel's program headers have an unknown size"));
    }
    match header.e_type {
        abi::ET_DYN => Ok((header, true)),
        abi::ET_EXEC => Ok((header, false)),
        _ => Err(Refused("the kernel is no executable file")),
    }
}

/// The value of the entry note in a note segment (4 or 8 bytes).
fn find_entry(mut notes: &[u8]) -> Option<u64> {
    loop {
        let word = |at: usize| Some(u32::from_le_bytes(notes.get(at..at + 4)?.try_into().ok()?));
        let (name_len, value_len, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let value_at = 12usize.checked_add(name_len.checked_next_multiple_of(4)?)?;
        let end = value_at.checked_add(value_len)?;
        let name = notes.get(12..12usize.checked_add(name_len)?)?;
        let value = notes.get(value_at..end)?;
        if kind == NOTE_ENTRY && name == NOTE_NAME {
            return match value.len() {
                4 => Some(u64::from(u32::from_le_bytes(value.try_into().ok()?))),
                8 => Some(u64::from_le_bytes(value.try_into().ok()?)),
                _ => None,
            };
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}
