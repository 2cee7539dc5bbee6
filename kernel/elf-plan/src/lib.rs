//! From the bytes of an executable to a plan of what is mapped where: pure code, so that every field of a hostile
//! file can be tested on the host. Mapping, reading files and making stacks are the kernel's (`process/exec`).
//!
//! Facts: System V ABI (gABI chapter 4 and 5), psABI x86-64, Linux's binfmt_elf behaviour.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod script;

use alloc::vec::Vec;

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::parse::ParseAt;
use elf::segment::ProgramHeader;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// One past the highest address that a program may use.
pub const USER_END: u64 = (1 << 47) - PAGE;
/// Bytes of the file header.
pub const HEADER_SIZE: usize = 64;
/// Bytes of one program header.
pub const PROGRAM_HEADER_SIZE: usize = 56;
/// Most bytes of program headers, as in Linux.
const MOST_HEADERS: usize = 65536;
/// Longest path of an interpreter, with its terminating zero.
const PATH_MAX: u64 = 4096;

/// Why a file cannot be run; all of these are `ENOEXEC` for the program. The text is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// A range of the file: offset and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

/// What the file header says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Placed anywhere (`ET_DYN`), or at its own addresses (`ET_EXEC`).
    pub movable: bool,
    /// Entry point, before any move.
    pub entry: u64,
    /// Where the program headers are in the file.
    pub program_headers: FileRange,
}

impl Header {
    /// Checks the first [`HEADER_SIZE`] bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let bytes = bytes.get(..HEADER_SIZE).ok_or(Refused("shorter than an ELF header"))?;
        let ident = parse_ident::<LittleEndian>(bytes).map_err(|_| Refused("no little-endian ELF identification"))?;
        if ident.1 != Class::ELF64 {
            return Err(Refused("not a 64-bit ELF file"));
        }
        let header =
            FileHeader::parse_tail(ident, &bytes[abi::EI_NIDENT..]).map_err(|_| Refused("broken ELF header"))?;
        if header.e_machine != abi::EM_X86_64 {
            return Err(Refused("not for x86-64"));
        }
        let movable = match header.e_type {
            abi::ET_EXEC => false,
            abi::ET_DYN => true,
            _ => return Err(Refused("neither an executable nor a shared object")),
        };
        let len = usize::from(header.e_phnum) * PROGRAM_HEADER_SIZE;
        if usize::from(header.e_phentsize) != PROGRAM_HEADER_SIZE || len == 0 || len > MOST_HEADERS {
            return Err(Refused("bad number or size of program headers"));
        }
        if header.e_phoff.checked_add(len as u64).is_none() {
            return Err(Refused("program headers beyond the end of any file"));
        }
        let program_headers = FileRange { offset: header.e_phoff, len };
        Ok(Self { movable, entry: header.e_entry, program_headers })
    }
}

/// Rights of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
}

/// One `PT_LOAD`. Addresses are before any move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First page, from which the file is mapped.
    pub start: u64,
    /// End of the pages mapped from the file; equals `start` if there are none.
    pub file_end: u64,
    /// End of the pages; from `file_end` on they are zeroes.
    pub end: u64,
    /// Offset in the file of `start`; a multiple of the page size.
    pub offset: u64,
    /// Bytes from here to `file_end` are set to zero, if it lies before and the segment may be written.
    pub zero_from: u64,
    /// Rights.
    pub rights: Rights,
}

/// What to do with an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Placed anywhere.
    pub movable: bool,
    /// Entry point, before any move.
    pub entry: u64,
    /// The segments, by rising address, with no byte in two of them.
    pub segments: Vec<Segment>,
    /// Page-aligned range of all segments.
    pub span: (u64, u64),
    /// The start of `span` must be moved by a multiple of this, a power of two, at least the page size.
    pub align: u64,
    /// Where the interpreter's path is in the file, with its terminating zero.
    pub interpreter: Option<FileRange>,
    /// Address of the program headers once loaded, before any move; 0 if they are not loaded.
    pub headers_address: u64,
    /// How many program headers.
    pub header_count: u64,
    /// The stack must be executable (`PT_GNU_STACK` says so; absent means no).
    pub executable_stack: bool,
    /// End of the last segment's bytes: the heap starts after it.
    pub brk: u64,
}

impl Plan {
    /// From the header and the bytes that it names, for a file of `file_len` bytes.
    pub fn new(header: &Header, headers: &[u8], file_len: u64) -> Result<Self, Refused> {
        if headers.len() != header.program_headers.len {
            return Err(Refused("truncated program headers"));
        }
        let mut plan = Self {
            movable: header.movable,
            entry: header.entry,
            segments: Vec::new(),
            span: (u64::MAX, 0),
            align: PAGE,
            interpreter: None,
            headers_address: 0,
            header_count: (headers.len() / PROGRAM_HEADER_SIZE) as u64,
            executable_stack: false,
            brk: 0,
        };
        let mut at = 0;
        let mut loads_end = 0;
        while at < headers.len() {
            let ph = ProgramHeader::parse_at(LittleEndian, Class::ELF64, &mut at, headers)
                .map_err(|_| Refused("broken program header"))?;
            match ph.p_type {
                abi::PT_LOAD if ph.p_memsz != 0 => {
                    loads_end = plan.load(&ph, header, file_len, loads_end)?;
                }
                abi::PT_INTERP => plan.interpreter(&ph, file_len)?,
                abi::PT_GNU_STACK => plan.executable_stack = ph.p_flags & abi::PF_X != 0,
                _ => {}
            }
        }
        if plan.segments.is_empty() {
            return Err(Refused("nothing to load"));
        }
        if !plan.movable && plan.span.0 < 0x1000 {
            return Err(Refused("a segment at address zero"));
        }
        if plan.entry >= USER_END {
            return Err(Refused("entry point beyond the application's addresses"));
        }
        Ok(plan)
    }

    fn interpreter(&mut self, ph: &ProgramHeader, file_len: u64) -> Result<(), Refused> {
        if self.interpreter.is_some() {
            return Err(Refused("two interpreters"));
        }
        let end = ph.p_offset.checked_add(ph.p_filesz);
        if !(2..=PATH_MAX).contains(&ph.p_filesz) || end.is_none_or(|end| end > file_len) {
            return Err(Refused("bad interpreter path"));
        }
        self.interpreter = Some(FileRange { offset: ph.p_offset, len: ph.p_filesz as usize });
        Ok(())
    }

    /// Adds a segment; returns the end of its bytes.
    fn load(&mut self, ph: &ProgramHeader, header: &Header, file_len: u64, after: u64) -> Result<u64, Refused> {
        if ph.p_filesz > ph.p_memsz {
            return Err(Refused("a segment larger in the file than in memory"));
        }
        let end = ph.p_vaddr.checked_add(ph.p_memsz).filter(|end| *end <= USER_END);
        let end = end.ok_or(Refused("a segment beyond the application's addresses"))?;
        let file_range_end = ph.p_offset.checked_add(ph.p_filesz).filter(|end| *end <= file_len);
        let file_range_end = file_range_end.ok_or(Refused("a segment beyond the end of the file"))?;
        let within = ph.p_vaddr % PAGE;
        if ph.p_filesz != 0 && ph.p_offset % PAGE != within {
            return Err(Refused("a segment whose offset does not fit its address"));
        }
        if ph.p_vaddr < after {
            return Err(Refused("segments that overlap or are not in order"));
        }
        let align = ph.p_align.max(PAGE);
        if !align.is_power_of_two() || align > 1 << 40 {
            return Err(Refused("a segment's alignment is not a power of two"));
        }
        let start = ph.p_vaddr - within;
        let zero_from = ph.p_vaddr + ph.p_filesz;
        let segment = Segment {
            start,
            file_end: if ph.p_filesz == 0 { start } else { round_up(zero_from) },
            end: round_up(end),
            offset: if ph.p_filesz == 0 { 0 } else { ph.p_offset - within },
            zero_from,
            rights: Rights {
                read: ph.p_flags & abi::PF_R != 0,
                write: ph.p_flags & abi::PF_W != 0,
                execute: ph.p_flags & abi::PF_X != 0,
            },
        };
        let phdrs = header.program_headers;
        if self.headers_address == 0 && phdrs.offset >= ph.p_offset && phdrs.offset < file_range_end {
            self.headers_address = phdrs.offset - ph.p_offset + ph.p_vaddr;
        }
        self.align = self.align.max(align);
        self.span = (self.span.0.min(start), self.span.1.max(segment.end));
        self.brk = end;
        self.segments.push(segment);
        Ok(end)
    }

    /// Bytes of address space that all segments take together.
    pub fn len(&self) -> u64 {
        self.span.1 - self.span.0
    }

    /// True if nothing is loaded, which [`Plan::new`] refuses.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}

fn round_up(address: u64) -> u64 {
    // Callers pass addresses below 2^47.
    (address + PAGE - 1) & !(PAGE - 1)
}

#[cfg(test)]
mod tests;
