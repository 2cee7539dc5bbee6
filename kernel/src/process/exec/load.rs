//! Mapping an ELF file, its interpreter, the stack and the vDSO into a new address space.

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::{Errno, PageSource, Result};
use elf_plan::{HEADER_SIZE, Header, Plan, Rights};
use fs::File;
use fs::vfs::Resolve;

use crate::files;
use crate::mm::{AddressSpace, Backing, Fixed, Map, Name, Prot, VmaFlags};
use crate::process::random;
use crate::process::vdso::{self, Vdso};

const PAGE: u64 = elf_plan::PAGE;
/// Where movable programs are put, before randomisation: two thirds of the address space, as Linux does.
const MOVABLE_BASE: u64 = 0x5555_5555_4000;
/// Gap between the stack's limit and what is mapped below it.
const STACK_GAP: u64 = 1 << 20;
/// The stack may be assumed to grow to this at least, so that the area below is not too near.
const STACK_MIN: u64 = 128 << 20;
/// And at most to this: five sixths of the space.
const STACK_MAX: u64 = elf_plan::USER_END / 6 * 5;
/// Stack that is mapped from the start; it grows on demand.
const STACK_INITIAL: usize = 132 << 10;

/// What was mapped, for the stack and the registers.
pub struct Loaded {
    /// First instruction: the interpreter's, if there is one.
    pub entry: u64,
    /// The program's own entry (`AT_ENTRY`).
    pub program_entry: u64,
    /// `AT_PHDR`.
    pub headers: u64,
    /// `AT_PHNUM`.
    pub header_count: u64,
    /// `AT_BASE`: where the interpreter is; 0 without.
    pub base: u64,
    /// One past the stack's highest address.
    pub stack_top: usize,
    /// `AT_SYSINFO_EHDR`; 0 without a vDSO.
    pub vdso: u64,
    /// Addresses and lengths to be zeroed: the rest of a segment's last page from the file.
    pub to_zero: Vec<(usize, usize)>,
}

/// A file whose plan is made.
struct Source {
    plan: Plan,
    pages: Arc<dyn PageSource>,
    name: Name,
}

fn refuse<T>(name: &Name, reason: elf_plan::Refused) -> Result<T> {
    log::debug!("{}: {}", name.as_str(), reason.0);
    Err(Errno::ENOEXEC)
}

fn open_source(file: &Arc<dyn File>) -> Result<Source> {
    let root = files::with_context(|context| Ok(context.root()))?;
    let path = file.path().map(|path| path.render(&root).0).unwrap_or_default();
    let name = Name::Path(alloc::string::String::from_utf8_lossy(&path).into());
    let header = match Header::parse(&super::read(&**file, 0, HEADER_SIZE)?) {
        Ok(header) => header,
        Err(reason) => return refuse(&name, reason),
    };
    let headers = super::read(&**file, header.program_headers.offset, header.program_headers.len)?;
    match Plan::new(&header, &headers, file.stat()?.size) {
        Ok(plan) => Ok(Source { plan, pages: file.page_source().ok_or(Errno::ENOEXEC)?, name }),
        Err(reason) => refuse(&name, reason),
    }
}

fn interpreter_of(file: &Arc<dyn File>, plan: &Plan) -> Result<Option<Source>> {
    let Some(range) = plan.interpreter else { return Ok(None) };
    let mut path = super::read(&**file, range.offset, range.len)?;
    // The path's zero ends the segment; what is not a string is no path.
    if path.pop() != Some(0) || path.is_empty() || path.contains(&0) {
        return Err(Errno::ENOEXEC);
    }
    let interpreter = super::open(&files::lookup(&path, Resolve::FOLLOW)?)?;
    // A broken interpreter is ELIBBAD, as Linux has it.
    match open_source(&interpreter) {
        Ok(source) if source.plan.interpreter.is_none() => Ok(Some(source)),
        Ok(_) | Err(Errno::ENOEXEC) => Err(Errno::ELIBBAD),
        Err(error) => Err(error),
    }
}

fn prot_of(rights: Rights) -> Prot {
    let mut prot = Prot::empty();
    prot.set(Prot::READ, rights.read);
    prot.set(Prot::WRITE, rights.write);
    prot.set(Prot::EXEC, rights.execute);
    prot
}

/// Maps the segments, moved by `bias`.
fn map_segments(space: &AddressSpace, source: &Source, bias: u64, to_zero: &mut Vec<(usize, usize)>) -> Result<()> {
    for segment in &source.plan.segments {
        let prot = prot_of(segment.rights);
        let (start, file_end, end) = (segment.start + bias, segment.file_end + bias, segment.end + bias);
        if file_end > start {
            space.map(Map {
                backing: Backing::File { source: source.pages.clone(), offset: segment.offset / PAGE },
                name: source.name.clone(),
                ..Map::anonymous((file_end - start) as usize, prot).at(start as usize)
            })?;
            let zero_from = segment.zero_from + bias;
            if zero_from < file_end && segment.rights.write {
                to_zero.push((zero_from as usize, (file_end - zero_from) as usize));
            }
        }
        if end > file_end {
            space.map(Map::anonymous((end - file_end) as usize, prot).at(file_end as usize))?;
        }
    }
    Ok(())
}

/// A place for all segments together, and by how much they move. Nothing but the segments is mapped afterwards.
fn place(space: &AddressSpace, plan: &Plan, wanted: Option<u64>) -> Result<u64> {
    let len = plan.len() as usize;
    let slack = (plan.align - PAGE) as usize;
    let hint = wanted.map_or(0, |at| at & !(plan.align - 1)) as usize;
    let at = space.map(Map { hint, fixed: Fixed::No, ..Map::anonymous(len + slack, Prot::empty()) })?;
    space.unmap(at, len + slack)?;
    let aligned = (at as u64 + plan.align - 1) & !(plan.align - 1);
    Ok(aligned.wrapping_sub(plan.span.0 & !(plan.align - 1)))
}

/// Maps everything that a new program finds in its memory.
pub fn load(space: &Arc<AddressSpace>, file: &Arc<dyn File>, stack_limit: u64, randomize: bool) -> Result<Loaded> {
    let program = open_source(file)?;
    let interpreter = interpreter_of(file, &program.plan)?;
    let random_pages = |bits: u32| if randomize { random::below(1 << bits) * PAGE } else { 0 };

    let stack_top = elf_plan::USER_END - random_pages(22);
    let reserve = stack_limit.saturating_add(STACK_GAP).clamp(STACK_MIN, STACK_MAX);
    let mmap_top = stack_top.saturating_sub(reserve).saturating_sub(random_pages(28));
    space.set_layout(mmap_top as usize, 0);

    let mut to_zero = Vec::new();
    let bias = match (program.plan.movable, &interpreter) {
        (false, _) => 0,
        (true, Some(_)) => place(space, &program.plan, Some(MOVABLE_BASE + random_pages(28)))?,
        // A static PIE, or a dynamic loader run by hand: among the mappings, far from a fixed program's place.
        (true, None) => place(space, &program.plan, None)?,
    };
    map_segments(space, &program, bias, &mut to_zero)?;
    let (entry, base) = match &interpreter {
        Some(source) if source.plan.movable => {
            let base = place(space, &source.plan, None)?;
            map_segments(space, source, base, &mut to_zero)?;
            (source.plan.entry.wrapping_add(base), base)
        }
        Some(source) => {
            map_segments(space, source, 0, &mut to_zero)?;
            (source.plan.entry, 0)
        }
        None => (program.plan.entry.wrapping_add(bias), 0),
    };
    // Without an interpreter the program is in the middle of the mappings: its heap goes where a program would be.
    let heap_base = if program.plan.movable && interpreter.is_none() { MOVABLE_BASE } else { program.plan.brk + bias };
    let brk = ((heap_base + PAGE - 1) & !(PAGE - 1)) + random_pages(13);
    space.set_layout(mmap_top as usize, brk as usize);

    let executable = if program.plan.executable_stack { Prot::EXEC } else { Prot::empty() };
    let stack_start = stack_top as usize - STACK_INITIAL;
    space.map(Map {
        flags: VmaFlags::GROWSDOWN,
        name: Name::Fixed("[stack]"),
        ..Map::anonymous(STACK_INITIAL, Prot::READ | Prot::WRITE | executable).at(stack_start)
    })?;
    Ok(Loaded {
        entry,
        program_entry: program.plan.entry.wrapping_add(bias),
        headers: if program.plan.headers_address == 0 { 0 } else { program.plan.headers_address + bias },
        header_count: program.plan.header_count,
        base,
        stack_top: stack_top as usize,
        vdso: map_vdso(space)?,
        to_zero,
    })
}

fn map_vdso(space: &AddressSpace) -> Result<u64> {
    let Some(source) = vdso::source() else { return Ok(0) };
    let len = Vdso::DATA_LEN + Vdso::code_len();
    let at = space.map(Map::anonymous(len, Prot::empty()))?;
    let part = |offset: usize, len: usize, prot: Prot, name: &'static str| Map {
        backing: Backing::File { source: source.clone(), offset: (offset as u64) / PAGE },
        max_prot: prot,
        name: Name::Fixed(name),
        ..Map::anonymous(len, prot).at(at + offset)
    };
    space.map(part(0, Vdso::DATA_LEN, Prot::READ, "[vvar]"))?;
    space.map(part(Vdso::DATA_LEN, Vdso::code_len(), Prot::READ | Prot::EXEC, "[vdso]"))?;
    Ok((at + Vdso::DATA_LEN) as u64)
}
