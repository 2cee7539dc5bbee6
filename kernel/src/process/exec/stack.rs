//! The first stack of a program: strings, auxiliary vector, environment and argument pointers (psABI, section 3.4.1;
//! uapi linux/auxvec.h).

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::{Errno, Result};

use super::Strings;
use super::load::Loaded;
use crate::mm::user;
use crate::process::credentials::Credentials;
use crate::process::{random, rseq, signal, tree};

const AT_NULL: u64 = 0;
const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_PAGESZ: u64 = 6;
const AT_BASE: u64 = 7;
const AT_FLAGS: u64 = 8;
const AT_ENTRY: u64 = 9;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_GID: u64 = 13;
const AT_EGID: u64 = 14;
const AT_PLATFORM: u64 = 15;
const AT_HWCAP: u64 = 16;
const AT_CLKTCK: u64 = 17;
const AT_SECURE: u64 = 23;
const AT_RANDOM: u64 = 25;
const AT_HWCAP2: u64 = 26;
const AT_RSEQ_FEATURE_SIZE: u64 = 27;
const AT_RSEQ_ALIGN: u64 = 28;
const AT_EXECFN: u64 = 31;
const AT_SYSINFO_EHDR: u64 = 33;
const AT_MINSIGSTKSZ: u64 = 51;

/// What was put where.
pub struct Made {
    /// The stack pointer.
    pub pointer: usize,
    /// Start and end of the argument strings.
    pub arguments: (usize, usize),
    /// Start and end of the environment strings.
    pub environment: (usize, usize),
    /// The auxiliary vector.
    pub auxv: Arc<[u8]>,
}

/// Bytes at the top of the stack, built from low to high addresses.
struct Block {
    start: usize,
    bytes: Vec<u8>,
}

impl Block {
    fn string(&mut self, text: &[u8]) -> usize {
        let at = self.start + self.bytes.len();
        self.bytes.extend_from_slice(text);
        self.bytes.push(0);
        at
    }
}

/// Fills the stack of the loaded space.
pub fn fill(loaded: &Loaded, strings: &Strings, name: &[u8], cred: &Credentials, secure: bool) -> Result<Made> {
    let lengths = |list: &[Vec<u8>]| list.iter().map(|s| s.len() + 1).sum::<usize>();
    let (argument_bytes, environment_bytes) = (lengths(&strings.arguments), lengths(&strings.environment));
    // From the top: eight zero bytes, the file's name, environment, arguments, platform, random bytes.
    const PLATFORM: &[u8] = b"x86_64";
    let total = argument_bytes + environment_bytes + name.len() + 1 + PLATFORM.len() + 1 + 16 + 8;
    let start = loaded.stack_top.checked_sub(total).ok_or(Errno::E2BIG)? & !15;
    let mut block = Block { start, bytes: Vec::new() };
    block.bytes.try_reserve_exact(total).map_err(|_| Errno::ENOMEM)?;

    let mut seed = [0; 16];
    random::fill(&mut seed);
    block.bytes.extend_from_slice(&seed);
    let platform = block.string(PLATFORM);
    let arguments: Vec<usize> = strings.arguments.iter().map(|s| block.string(s)).collect();
    let environment_start = start + block.bytes.len();
    let environment: Vec<usize> = strings.environment.iter().map(|s| block.string(s)).collect();
    let environment_end = start + block.bytes.len();
    let file_name = block.string(name);
    block.bytes.resize(loaded.stack_top - start, 0);

    let (hwcap, hwcap2) = hal_core::platform().cpu().hwcap();
    let mut vector = Vec::from([
        (AT_MINSIGSTKSZ, signal::state_size() as u64),
        (AT_HWCAP, hwcap),
        (AT_PAGESZ, elf_plan::PAGE),
        (AT_CLKTCK, tree::TICKS),
        (AT_PHDR, loaded.headers),
        (AT_PHENT, elf_plan::PROGRAM_HEADER_SIZE as u64),
        (AT_PHNUM, loaded.header_count),
        (AT_BASE, loaded.base),
        (AT_FLAGS, 0),
        (AT_ENTRY, loaded.program_entry),
        (AT_UID, cred.uid.real.into()),
        (AT_EUID, cred.uid.effective.into()),
        (AT_GID, cred.gid.real.into()),
        (AT_EGID, cred.gid.effective.into()),
        (AT_SECURE, secure.into()),
        (AT_RANDOM, start as u64),
        (AT_HWCAP2, hwcap2),
        (AT_RSEQ_FEATURE_SIZE, rseq::FEATURE_SIZE),
        (AT_RSEQ_ALIGN, rseq::ALIGN),
        (AT_EXECFN, file_name as u64),
        (AT_PLATFORM, platform as u64),
    ]);
    if loaded.vdso != 0 {
        vector.insert(0, (AT_SYSINFO_EHDR, loaded.vdso));
    }
    vector.push((AT_NULL, 0));
    let auxv: Vec<u8> = vector.iter().flat_map(|(kind, value)| [*kind, *value]).flat_map(u64::to_le_bytes).collect();

    let words = 1 + arguments.len() + 1 + environment.len() + 1;
    let below = words * 8 + auxv.len();
    let pointer = start.checked_sub(below).ok_or(Errno::E2BIG)? & !15;
    let mut table: Vec<u8> = Vec::new();
    table.try_reserve_exact(below).map_err(|_| Errno::ENOMEM)?;
    let mut word = |value: usize| table.extend_from_slice(&value.to_le_bytes());
    word(arguments.len());
    for list in [&arguments, &environment] {
        list.iter().for_each(|address| word(*address));
        word(0);
    }
    table.extend_from_slice(&auxv);
    user::write_bytes(pointer, &table)?;
    user::write_bytes(start, &block.bytes)?;
    Ok(Made {
        pointer,
        arguments: (environment_start - argument_bytes, environment_start),
        environment: (environment_start, environment_end),
        auxv: auxv.into(),
    })
}
