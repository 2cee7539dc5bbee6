//! ELF files: the real kernel's shape, each bad field, random damage.

use std::vec;
use std::vec::Vec;

use super::Random;
use crate::kernel::{ALIGN, BOTTOM, Kernel, TOP};
use crate::memory::{Range, kind};

const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// Type, offset, physical address, length in the file, length in memory.
type Ph = (u32, u64, u64, u64, u64);

/// As the kernel is linked: text, constants with the note, data with .bss.
const HEADERS: [Ph; 4] = [
    (LOAD, 0x1000, 0x20_0000, 0x3000, 0x3000),
    (LOAD, 0x4000, 0x20_3000, 0x1800, 0x1800),
    (LOAD, 0x6000, 0x20_5000, 0x0200, 0x9000),
    (NOTE, 0x4000, 0x20_3000, 0x0018, 0x0018),
];
const FILE_LEN: usize = 0x6200;

fn file_of(kind: u16, headers: &[Ph]) -> Vec<u8> {
    let mut bytes = vec![0u8; FILE_LEN];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    put(16, &kind.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &(headers.len() as u16).to_le_bytes());
    for (i, &(kind, offset, address, file_len, len)) in headers.iter().enumerate() {
        let at = 64 + i * 56;
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 24, &address.to_le_bytes());
        put(at + 32, &file_len.to_le_bytes());
        put(at + 40, &len.to_le_bytes());
        put(at + 48, &4096u64.to_le_bytes());
    }
    put(0x4000, &note(18, 0x20_0040));
    bytes
}

fn file() -> Vec<u8> {
    file_of(3, &HEADERS)
}

fn note(kind: u32, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [4, 8, kind] {
        bytes.extend(u32::to_le_bytes(word));
    }
    bytes.extend([0x58, 0x65, 0x6e, 0]);
    bytes.extend(value.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Result<Kernel, &'static str> {
    Kernel::parse(&bytes[..bytes.len().min(4096)], bytes.len() as u64).map_err(|bad| bad.0)
}

fn ram(start: u64, len: u64) -> Range {
    Range { start, len, kind: kind::USABLE }
}

#[test]
fn stays_where_it_is_linked() {
    let bytes = file();
    let kernel = parse(&bytes).unwrap().placed(&[ram(0, 0x9_f000), ram(0x10_0000, 0x700_0000)]).unwrap();
    assert_eq!(kernel.span(), (0x20_0000, 0x20_e000));
    assert_eq!(kernel.zeroes().collect::<Vec<_>>(), [(0x20_5200, 0x8e00)]);
    assert_eq!(kernel.notes().collect::<Vec<_>>(), [(0x20_3000, 0x18)]);
    assert_eq!(kernel.entry(&bytes[0x4000..0x4018]).unwrap(), Some(0x20_0040));
}

#[test]
fn moves_when_its_place_is_taken() {
    let bytes = file();
    let taken = Range { start: 0x20_4000, len: 0x1000, kind: kind::RESERVED };
    let kernel = parse(&bytes).unwrap().placed(&[ram(0x10_0000, 0x700_0000), taken]).unwrap();
    assert_eq!(kernel.span(), (0x40_0000, 0x40_e000));
    assert_eq!(kernel.entry(&bytes[0x4000..0x4018]).unwrap(), Some(0x40_0040));
    assert_eq!(kernel.notes().next(), Some((0x40_3000, 0x18)));
    // Only memory high up, and then none.
    let kernel = parse(&bytes).unwrap().placed(&[ram(0x8000_0000, 0x2_0000)]).unwrap();
    assert_eq!(kernel.span().0, 0x8000_0000);
    assert!(parse(&bytes).unwrap().placed(&[ram(0x10_0000, 0xa000)]).unwrap_err().0.contains("no room"));
    assert!(parse(&bytes).unwrap().placed(&[ram(TOP, 1 << 30)]).unwrap_err().0.contains("no room"));
    // A file that says that it must not be moved.
    let fixed = file_of(2, &HEADERS);
    let refused = parse(&fixed).unwrap().placed(&[ram(0x100_0000, 0x700_0000)]).unwrap_err();
    assert!(refused.0.contains("cannot be moved"));
}

#[test]
fn an_odd_start_keeps_its_place_in_the_page() {
    let mut headers = HEADERS;
    for ph in &mut headers {
        ph.2 -= 0x20_0000 - 0x40;
    }
    let kernel = parse(&file_of(3, &headers)).unwrap().placed(&[ram(0, 0x700_0000)]).unwrap();
    assert_eq!(kernel.span().0, ALIGN + 0x40);
}

#[test]
fn pieces_make_the_memory_image() {
    let mut bytes = file();
    let mut random = Random(7);
    for byte in &mut bytes[0x1000..0x4000] {
        *byte = random.next() as u8;
    }
    let kernel = parse(&bytes).unwrap();
    for chunk in [1usize, 100, 512, 4096, 61440] {
        let mut memory = vec![0xaau8; 0xe000];
        for (i, part) in bytes.chunks(chunk).enumerate() {
            for piece in kernel.pieces((i * chunk) as u64, part.len()) {
                let to = (piece.to - 0x20_0000) as usize;
                memory[to..to + piece.len].copy_from_slice(&part[piece.from..piece.from + piece.len]);
            }
        }
        for (start, len) in kernel.zeroes() {
            let start = (start - 0x20_0000) as usize;
            memory[start..start + len as usize].fill(0);
        }
        assert_eq!(memory[..0x3000], bytes[0x1000..0x4000]);
        assert_eq!(memory[0x3000..0x4800], bytes[0x4000..0x5800]);
        assert_eq!(memory[0x5000..0x5200], bytes[0x6000..0x6200]);
        assert!(memory[0x5200..].iter().all(|&b| b == 0));
    }
}

#[test]
fn each_bad_field_has_its_message() {
    let refused = |change: fn(&mut Vec<u8>)| {
        let mut bytes = file();
        change(&mut bytes);
        parse(&bytes).unwrap_err()
    };
    assert!(refused(|b| b.truncate(10)).contains("shorter"));
    assert!(refused(|b| b[0] = 0).contains("not an ELF"));
    assert!(refused(|b| b[4] = 1).contains("64-bit"));
    assert!(refused(|b| b[18] = 3).contains("x86-64"));
    assert!(refused(|b| b[16] = 1).contains("no executable"));
    assert!(refused(|b| b[54] = 32).contains("unknown size"));
    assert!(refused(|b| b[33] = 0xff).contains("not at its start"));
    assert!(refused(|b| b[56] = 0xff).contains("not at its start"));
    assert!(refused(|b| b[56] = 0).contains("nothing to load"));
    assert!(refused(|b| b.truncate(0x6100)).contains("truncated"));
    let headers = |change: fn(&mut [Ph; 4])| {
        let mut headers = HEADERS;
        change(&mut headers);
        parse(&file_of(3, &headers)).unwrap_err()
    };
    assert!(headers(|h| h[0].4 = 1).contains("larger"));
    assert!(headers(|h| h[0].1 = u64::MAX).contains("truncated"));
    assert!(headers(|h| h[0].2 = TOP).contains("above 4 GiB"));
    assert!(headers(|h| h[0].2 = u64::MAX).contains("above 4 GiB"));
    assert!(headers(|h| h[1].2 = 0x20_2fff).contains("overlap"));
    assert!(headers(|h| h[2].2 = 0x8000_0000).contains("too far"));
    assert!(headers(|h| h[3].1 = 0x10).contains("note"));
    assert!(headers(|h| h[3].3 = u64::MAX).contains("note"));
    assert!(parse(&file_of(3, &[HEADERS[3]; 17])).unwrap_err().contains("too many"));
}

#[test]
fn the_entry_note_is_found_among_others() {
    let kernel = parse(&file()).unwrap();
    let mut notes = note(6, 1);
    notes.extend(note(18, 0x20_2fff));
    assert_eq!(kernel.entry(&notes).unwrap(), Some(0x20_2fff));
    assert_eq!(kernel.entry(&note(17, 0)).unwrap(), None);
    assert_eq!(kernel.entry(&[]).unwrap(), None);
    assert_eq!(kernel.entry(&[0xff; 40]).unwrap(), None);
    for outside in [0, 0x1f_ffff, 0x20_3000 + 0x1800, 0x20_5200, u64::MAX, 1 << 40] {
        assert!(kernel.entry(&note(18, outside)).is_err(), "{outside:#x}");
    }
    // Four bytes are as good as eight.
    let mut short = note(18, 0x20_0000);
    short[4] = 4;
    short.truncate(20);
    assert_eq!(kernel.entry(&short).unwrap(), Some(0x20_0000));
}

#[test]
fn random_damage_never_leaves_free_memory() {
    let mut random = Random(0x5eed);
    let whole = file();
    let map = [
        ram(0, 0x9_fc00),
        Range { start: 0xf_0000, len: 0x1_0000, kind: kind::RESERVED },
        ram(0x10_0000, 0x300_0000),
        Range { start: 0x28_0000, len: 0x1000, kind: kind::ACPI_NVS },
    ];
    let mut taken = 0;
    for _ in 0..100_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(4) {
            let at = if random.below(4) == 0 { random.below(0x140) } else { 64 + random.below(224) };
            bytes[at as usize] = match random.below(3) {
                0 => random.next() as u8,
                1 => 0xff,
                _ => bytes[at as usize] ^ (1 << random.below(8)),
            };
        }
        let Ok(kernel) = parse(&bytes) else { continue };
        let Ok(kernel) = kernel.placed(&map) else { continue };
        taken += 1;
        check(&kernel, &map, &bytes);
    }
    assert!(taken > 10_000, "only {taken} files were taken");
}

/// What must hold for a placed kernel, whatever the file says.
fn check(kernel: &Kernel, map: &[Range], bytes: &[u8]) {
    let free = |start: u64, len: u64| start >= BOTTOM && crate::memory::is_free(map, start, len);
    for s in kernel.segments() {
        assert!(free(s.at, s.len), "{s:?}");
    }
    for piece in kernel.pieces(0, bytes.len()) {
        assert!(free(piece.to, piece.len as u64) && piece.from + piece.len <= bytes.len());
    }
    assert!(kernel.zeroes().all(|(start, len)| free(start, len)));
    for (at, len) in kernel.notes() {
        assert!(len == 0 || free(at, len));
    }
    if let Ok(Some(entry)) = kernel.entry(&bytes[0x4000..0x4018]) {
        assert!(free(u64::from(entry), 1));
    }
}
