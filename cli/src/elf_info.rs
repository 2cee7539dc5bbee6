//! What a file is: an x86-64 ELF file and which loader and libraries it names, a script and its interpreter, or
//! something that cannot be run. The file is read, never executed.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use elf::ElfStream;
use elf::abi;
use elf::endian::AnyEndian;

/// Names that an ELF file carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elf {
    /// The loader (PT_INTERP); none for static programs and for libraries.
    pub interp: Option<PathBuf>,
    /// DT_NEEDED, in order.
    pub needed: Vec<String>,
    /// DT_RPATH, split at colons.
    pub rpath: Vec<String>,
    /// DT_RUNPATH, split at colons.
    pub runpath: Vec<String>,
    /// Whether the kernel could start it: a program, or a library that is one too (PIE).
    pub executable: bool,
}

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An ELF file for x86-64.
    Elf(Elf),
    /// `#!`: the interpreter and its one argument.
    Script(PathBuf, Option<String>),
    /// Something else, in words that fit after "it is".
    Other(String),
}

/// Longest `#!` line that Linux reads.
const SCRIPT_LINE: usize = 256;

/// Looks at the file at `path`.
pub fn look(path: &Path) -> Result<What> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    if file.metadata()?.is_dir() {
        return Ok(What::Other("a directory".into()));
    }
    let mut head = Vec::new();
    file.by_ref()
        .take(SCRIPT_LINE as u64)
        .read_to_end(&mut head)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if head.starts_with(b"#!") {
        return Ok(script(&head));
    }
    if !head.starts_with(b"\x7fELF") {
        return Ok(What::Other(describe(&head).into()));
    }
    if let Some(other) = wrong_elf(&head) {
        return Ok(What::Other(other));
    }
    match read_elf(file) {
        Ok(elf) => Ok(What::Elf(elf)),
        Err(e) => Ok(What::Other(format!("a damaged ELF file ({e})"))),
    }
}

fn script(head: &[u8]) -> What {
    let line = head[2..].split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let line = line.trim();
    let (interpreter, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if interpreter.is_empty() {
        return What::Other("a script whose first line names no interpreter".into());
    }
    let rest = rest.trim();
    What::Script(interpreter.into(), (!rest.is_empty()).then(|| rest.to_owned()))
}

/// Names the architecture when the ELF header is not that of a 64-bit little-endian x86 file.
fn wrong_elf(head: &[u8]) -> Option<String> {
    if head.len() < 20 {
        return Some("a damaged ELF file (its header is cut off)".into());
    }
    let bits = if head[4] == 1 { 32 } else { 64 };
    let machine =
        if head[5] == 2 { u16::from_be_bytes([head[18], head[19]]) } else { u16::from_le_bytes([head[18], head[19]]) };
    if machine == abi::EM_X86_64 && bits == 64 {
        return None;
    }
    let name = match machine {
        abi::EM_386 => "x86",
        abi::EM_X86_64 => "x86-64 (x32)",
        abi::EM_AARCH64 => "ARM64",
        abi::EM_ARM => "ARM",
        abi::EM_RISCV => "RISC-V",
        abi::EM_PPC64 => "POWER",
        abi::EM_S390 => "S/390",
        abi::EM_MIPS => "MIPS",
        _ => "another machine",
    };
    Some(format!("a {bits}-bit ELF file for {name}"))
}

fn describe(head: &[u8]) -> &'static str {
    match head {
        [] => "an empty file",
        [b'M', b'Z', ..] => "a Windows program",
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => "a macOS program or a Java class",
        [0x1f, 0x8b, ..] => "a gzip archive",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "a zstd archive",
        [0xfd, b'7', b'z', ..] => "an xz archive",
        [b'P', b'K', 3, 4, ..] => "a zip archive",
        _ if head.starts_with(b"!<arch>") => "a Debian package or static library",
        _ if head.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) => "a text file without a #! line",
        _ => "data of an unknown kind",
    }
}

fn read_elf(file: File) -> Result<Elf> {
    let mut out = Elf::default();
    let strings_of = file.try_clone()?;
    let mut stream = ElfStream::<AnyEndian, _>::open_stream(file).map_err(|e| anyhow!("{e}"))?;
    let segments = stream.segments().clone();
    out.executable =
        stream.ehdr.e_type == abi::ET_EXEC || (stream.ehdr.e_type == abi::ET_DYN && stream.ehdr.e_entry != 0);
    if let Some(s) = segments.iter().find(|s| s.p_type == abi::PT_INTERP) {
        let mut bytes = vec![0; usize::try_from(s.p_filesz.min(4096))?];
        strings_of.read_exact_at(&mut bytes, s.p_offset)?;
        bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
        out.interp = Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)));
    }
    let (mut table, mut length, mut names) = (0, 0, Vec::new());
    if let Some(dynamic) = stream.dynamic().map_err(|e| anyhow!("{e}"))? {
        for entry in dynamic.iter() {
            match entry.d_tag {
                abi::DT_NULL => break,
                abi::DT_STRTAB => table = entry.d_ptr(),
                abi::DT_STRSZ => length = entry.d_val(),
                abi::DT_NEEDED | abi::DT_RPATH | abi::DT_RUNPATH => names.push((entry.d_tag, entry.d_val())),
                _ => {}
            }
        }
    }
    if names.is_empty() {
        return Ok(out);
    }
    let segment = segments
        .iter()
        .find(|s| s.p_type == abi::PT_LOAD && s.p_vaddr <= table && table - s.p_vaddr < s.p_filesz)
        .ok_or_else(|| anyhow!("its string table is not in the file"))?;
    let mut strings = vec![0; usize::try_from(length.min(segment.p_filesz))?];
    strings_of.read_exact_at(&mut strings, segment.p_offset + (table - segment.p_vaddr))?;
    for (tag, at) in names {
        let at = usize::try_from(at)?;
        let bytes = strings.get(at..).ok_or_else(|| anyhow!("a name lies outside its string table"))?;
        let text = String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        match tag {
            abi::DT_NEEDED => out.needed.push(text),
            abi::DT_RPATH => out.rpath.extend(text.split(':').map(str::to_owned)),
            _ => out.runpath.extend(text.split(':').map(str::to_owned)),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_at(bytes: &[u8]) -> What {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        look(file.path()).unwrap()
    }

    #[test]
    fn our_own_test_program_is_a_dynamic_elf() {
        let What::Elf(elf) = look(&std::env::current_exe().unwrap()).unwrap() else { panic!("not an ELF file") };
        assert!(elf.executable);
        assert!(elf.interp.unwrap().to_str().unwrap().contains("ld-linux"));
        assert!(elf.needed.iter().any(|n| n.starts_with("libc.so")), "{:?}", elf.needed);
    }

    #[test]
    fn scripts() {
        assert_eq!(look_at(b"#!/bin/sh\n"), What::Script("/bin/sh".into(), None));
        assert_eq!(look_at(b"#! /usr/bin/env -S a b \nx"), What::Script("/usr/bin/env".into(), Some("-S a b".into())));
        assert!(matches!(look_at(b"#!\n"), What::Other(_)));
    }

    #[test]
    fn other_files_are_named() {
        let is = |b: &[u8], words: &str| match look_at(b) {
            What::Other(text) => assert!(text.contains(words), "{text}"),
            what => panic!("{what:?}"),
        };
        is(b"", "empty");
        is(b"MZ\0\0", "Windows");
        is(b"hello there\n", "text file");
        is(b"\x7fELF\x02\x01", "damaged");
        let mut header = [0u8; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        header[18] = 183;
        is(&header, "ARM64");
        header[18] = 3;
        header[4] = 1;
        is(&header, "32-bit ELF file for x86");
        header[18] = 62;
        header[4] = 2;
        header[32] = 0xff;
        header[56] = 9;
        header[54] = 56;
        is(&header, "damaged");
    }
}
