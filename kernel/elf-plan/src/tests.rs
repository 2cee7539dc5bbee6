//! Good files, each kind of bad field, and random damage.

use std::vec;
use std::vec::Vec;

use super::*;

struct Ph {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

fn load(flags: u32, offset: u64, vaddr: u64, filesz: u64, memsz: u64) -> Ph {
    Ph { kind: abi::PT_LOAD, flags, offset, vaddr, filesz, memsz, align: 4096 }
}

fn file(kind: u16, entry: u64, headers: &[Ph]) -> Vec<u8> {
    let mut bytes = vec![0u8; HEADER_SIZE];
    bytes[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    bytes[16..18].copy_from_slice(&kind.to_le_bytes());
    bytes[18..20].copy_from_slice(&abi::EM_X86_64.to_le_bytes());
    bytes[20..24].copy_from_slice(&1u32.to_le_bytes());
    bytes[24..32].copy_from_slice(&entry.to_le_bytes());
    bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
    bytes[52..54].copy_from_slice(&64u16.to_le_bytes());
    bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
    bytes[56..58].copy_from_slice(&(headers.len() as u16).to_le_bytes());
    for ph in headers {
        bytes.extend(ph.kind.to_le_bytes());
        bytes.extend(ph.flags.to_le_bytes());
        for word in [ph.offset, ph.vaddr, ph.vaddr, ph.filesz, ph.memsz, ph.align] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes
}

fn plan(bytes: &[u8], len: u64) -> Result<Plan, Refused> {
    let header = Header::parse(bytes)?;
    let at = header.program_headers.offset as usize;
    let end = at.checked_add(header.program_headers.len).ok_or(Refused("test"))?;
    Plan::new(&header, bytes.get(at..end).ok_or(Refused("truncated"))?, len)
}

#[test]
fn an_ordinary_program() {
    let bytes = file(
        abi::ET_DYN,
        0x1040,
        &[
            load(4, 0, 0, 0x700, 0x700),
            load(5, 0x1000, 0x1000, 0x200, 0x200),
            load(6, 0x2df0, 0x3df0, 0x220, 0x1500),
            Ph { kind: abi::PT_INTERP, flags: 4, offset: 0x318, vaddr: 0x318, filesz: 28, memsz: 28, align: 1 },
            Ph { kind: abi::PT_GNU_STACK, flags: 6, offset: 0, vaddr: 0, filesz: 0, memsz: 0, align: 16 },
        ],
    );
    let plan = plan(&bytes, 0x4000).unwrap();
    assert!(plan.movable && !plan.executable_stack);
    assert_eq!((plan.span, plan.headers_address, plan.header_count), ((0, 0x6000), 64, 5));
    assert_eq!(plan.interpreter, Some(FileRange { offset: 0x318, len: 28 }));
    let data = plan.segments[2];
    assert_eq!((data.start, data.file_end, data.end, data.offset), (0x3000, 0x5000, 0x6000, 0x2000));
    assert_eq!((data.zero_from, plan.brk), (0x3df0 + 0x220, 0x3df0 + 0x1500));
    assert_eq!(data.rights, Rights { read: true, write: true, execute: false });
}

#[test]
fn bss_alone_and_an_executable_stack() {
    let stack = Ph { kind: abi::PT_GNU_STACK, flags: 7, offset: 0, vaddr: 0, filesz: 0, memsz: 0, align: 16 };
    let bytes =
        file(abi::ET_EXEC, 0x400000, &[load(5, 0, 0x400000, 0x100, 0x100), load(6, 0x77, 0x500123, 0, 0x10), stack]);
    let plan = plan(&bytes, 0x100).unwrap();
    assert!(plan.executable_stack && !plan.movable);
    let bss = plan.segments[1];
    assert_eq!((bss.start, bss.file_end, bss.end), (0x500000, 0x500000, 0x501000));
}

#[test]
fn bad_fields_are_refused() {
    let ok = || load(5, 0, 0x400000, 0x100, 0x100);
    let cases: &[(&str, Vec<Ph>)] = &[
        ("no segment", vec![]),
        ("only empty", vec![load(5, 0, 0x400000, 0, 0)]),
        ("filesz > memsz", vec![load(5, 0, 0x400000, 0x200, 0x100)]),
        ("vaddr + memsz wraps", vec![load(5, 0, u64::MAX - 0xfff, 0, u64::MAX)]),
        ("in the kernel's half", vec![load(5, 0, 0xffff_8000_0000_0000, 0x100, 0x100)]),
        ("offset + filesz wraps", vec![load(5, u64::MAX - 0xfff, 0x400000, 0x2000, 0x2000)]),
        ("beyond the file", vec![load(5, 0x1000, 0x401000, 0x100, 0x100)]),
        ("misaligned", vec![load(5, 0x10, 0x400020, 0x10, 0x10)]),
        ("overlap", vec![ok(), load(6, 0, 0x400000, 0x10, 0x10)]),
        ("out of order", vec![load(6, 0, 0x500000, 0x10, 0x10), ok()]),
        ("alignment", vec![Ph { align: 0x3000, ..ok() }]),
        ("page zero", vec![load(5, 0, 0, 0x100, 0x100)]),
        ("empty interpreter", vec![ok(), Ph { kind: abi::PT_INTERP, filesz: 0, ..ok() }]),
        ("long interpreter", vec![ok(), Ph { kind: abi::PT_INTERP, filesz: 5000, ..ok() }]),
        ("interpreter outside", vec![ok(), Ph { kind: abi::PT_INTERP, offset: u64::MAX, filesz: 9, ..ok() }]),
    ];
    for (name, headers) in cases {
        assert!(plan(&file(abi::ET_EXEC, 0x400000, headers), 0x100).is_err(), "{name}");
    }
    let good = file(abi::ET_EXEC, 0x400000, &[ok()]);
    assert!(plan(&good, 0x100).is_ok());
    for (at, value) in [(0, 0u8), (4, 1), (5, 2), (16, 1), (18, 3), (54, 55), (56, 0)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert!(plan(&bad, 0x100).is_err(), "byte {at}");
    }
    assert!(Header::parse(&good[..63]).is_err());
    let far = file(abi::ET_EXEC, 1 << 60, &[ok()]);
    assert!(plan(&far, 0x100).is_err());
}

/// Whatever the bytes: a plan that comes out keeps its promises.
#[test]
fn random_damage_never_breaks_a_promise() {
    let base = file(
        abi::ET_DYN,
        0x1040,
        &[load(4, 0, 0, 0x700, 0x700), load(5, 0x1000, 0x1000, 0x200, 0x200), load(6, 0x2df0, 0x3df0, 0x220, 0x1500)],
    );
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut accepted = 0;
    for _ in 0..200_000 {
        let mut bytes = base.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() as usize % bytes.len();
            bytes[at] = match random() % 4 {
                0 => 0xff,
                1 => 0,
                2 => bytes[at] ^ (1 << (random() % 8)),
                _ => random() as u8,
            };
        }
        let Ok(plan) = plan(&bytes, 0x4000) else { continue };
        accepted += 1;
        let mut after = 0;
        for s in &plan.segments {
            assert!(s.start % PAGE == 0 && s.end % PAGE == 0 && s.file_end % PAGE == 0 && s.offset % PAGE == 0);
            assert!(s.start <= s.file_end && s.file_end <= s.end && s.end <= USER_END);
            // Two segments share at most the page in which one ends and the next starts.
            assert!(s.start + PAGE >= after);
            assert!(s.offset + (s.file_end - s.start) <= 0x4000 + PAGE);
            assert!(s.zero_from <= s.end);
            after = s.end;
        }
        assert!(plan.span.0 <= plan.span.1 && plan.align.is_power_of_two());
    }
    assert!(accepted > 1000);
}

#[test]
fn scripts() {
    let parse = script::parse;
    assert_eq!(parse(b"\x7fELF"), None);
    assert_eq!(parse(b"#!/bin/sh\nexit"), Some(Some((&b"/bin/sh"[..], None))));
    assert_eq!(
        parse(b"#! \t/usr/bin/env python3 -u \nx"),
        Some(Some((&b"/usr/bin/env"[..], Some(&b"python3 -u"[..]))))
    );
    assert_eq!(parse(b"#!/bin/sh"), Some(Some((&b"/bin/sh"[..], None))));
    assert_eq!(parse(b"#!\n"), Some(None));
    assert_eq!(parse(b"#!   "), Some(None));
    let mut long = b"#!/".to_vec();
    long.resize(300, b'a');
    assert_eq!(parse(&long), Some(None));
    long[100] = b' ';
    assert!(matches!(parse(&long), Some(Some((name, Some(_)))) if name.len() == 98));
}
