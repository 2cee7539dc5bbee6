//! What `/proc/cpuinfo` says of a CPU: vendor, family, model, brand and flags, from CPUID.

use core::fmt::Write;

use crate::arch::{cpuid, cpuid_checked};

/// Leaf, subleaf, register, and its bits' names.
type Flags = (u32, u32, usize, &'static [(u8, &'static str)]);

/// Names by leaf, subleaf, register (0 eax .. 3 edx) and bit, as Linux's `/proc/cpuinfo` spells them.
#[rustfmt::skip]
const FLAGS: &[Flags] = &[
    (1, 0, 3, &[(0, "fpu"), (1, "vme"), (2, "de"), (3, "pse"), (4, "tsc"), (5, "msr"), (6, "pae"), (7, "mce"), (8, "cx8"),
        (9, "apic"), (11, "sep"), (12, "mtrr"), (13, "pge"), (14, "mca"), (15, "cmov"), (16, "pat"), (17, "pse36"),
        (19, "clflush"), (23, "mmx"), (24, "fxsr"), (25, "sse"), (26, "sse2"), (27, "ss"), (28, "ht")]),
    (0x8000_0001, 0, 3, &[(11, "syscall"), (20, "nx"), (22, "mmxext"), (25, "fxsr_opt"), (26, "pdpe1gb"), (27, "rdtscp"),
        (29, "lm"), (30, "3dnowext"), (31, "3dnow")]),
    (1, 0, 2, &[(0, "pni"), (1, "pclmulqdq"), (9, "ssse3"), (12, "fma"), (13, "cx16"), (17, "pcid"), (19, "sse4_1"),
        (20, "sse4_2"), (21, "x2apic"), (22, "movbe"), (23, "popcnt"), (24, "tsc_deadline_timer"), (25, "aes"),
        (26, "xsave"), (28, "avx"), (29, "f16c"), (30, "rdrand"), (31, "hypervisor")]),
    (0x8000_0001, 0, 2, &[(0, "lahf_lm"), (5, "abm"), (6, "sse4a"), (7, "misalignsse"), (8, "3dnowprefetch")]),
    (7, 0, 1, &[(0, "fsgsbase"), (3, "bmi1"), (5, "avx2"), (7, "smep"), (8, "bmi2"), (9, "erms"), (10, "invpcid"),
        (16, "avx512f"), (17, "avx512dq"), (18, "rdseed"), (19, "adx"), (20, "smap"), (21, "avx512ifma"),
        (23, "clflushopt"), (24, "clwb"), (28, "avx512cd"), (29, "sha_ni"), (30, "avx512bw"), (31, "avx512vl")]),
    (13, 1, 0, &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves")]),
    (7, 0, 2, &[(1, "avx512vbmi"), (2, "umip"), (3, "pku"), (6, "avx512_vbmi2"), (8, "gfni"), (9, "vaes"),
        (10, "vpclmulqdq"), (11, "avx512_vnni"), (12, "avx512_bitalg"), (14, "avx512_vpopcntdq"), (22, "rdpid")]),
    (7, 0, 3, &[(4, "fsrm")]),
];

/// Writes the lines from `vendor_id` to `flags`.
pub fn describe(out: &mut dyn Write) -> core::fmt::Result {
    let [_, b, c, d] = cpuid(0, 0);
    let mut vendor = [0; 12];
    for (part, word) in vendor.chunks_mut(4).zip([b, d, c]) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    let signature = cpuid(1, 0)[0];
    let mut family = signature >> 8 & 0xf;
    let mut model = signature >> 4 & 0xf;
    if family == 6 || family == 15 {
        model |= signature >> 12 & 0xf0;
    }
    if family == 15 {
        family += signature >> 20 & 0xff;
    }
    let mut brand = [0; 48];
    if cpuid(0x8000_0000, 0)[0] >= 0x8000_0004 {
        let words = (0..3).flat_map(|i| cpuid(0x8000_0002 + i, 0));
        for (part, word) in brand.chunks_mut(4).zip(words) {
            part.copy_from_slice(&word.to_le_bytes());
        }
    }
    let text = |bytes| core::str::from_utf8(bytes).unwrap_or("unknown");
    writeln!(out, "vendor_id\t: {}", text(&vendor))?;
    writeln!(out, "cpu family\t: {family}")?;
    writeln!(out, "model\t\t: {model}")?;
    writeln!(out, "model name\t: {}", text(&brand).trim_matches('\0').trim())?;
    writeln!(out, "stepping\t: {}", signature & 0xf)?;
    let khz = crate::tsc::khz();
    writeln!(out, "cpu MHz\t\t: {}.{:03}", khz / 1000, khz % 1000)?;
    write!(out, "flags\t\t:")?;
    for &(leaf, subleaf, register, names) in FLAGS {
        let word = cpuid_checked(leaf, subleaf)[register];
        for &(bit, name) in names {
            if word & 1 << bit != 0 {
                write!(out, " {name}")?;
            }
        }
    }
    writeln!(out)
}
