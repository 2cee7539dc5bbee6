//! /proc: the tree, and what is about the whole system.

mod process;
mod sysctl;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use base::time::now_ns;
use base::{Errno, Result};
use fs::synth::{dir, dynamic, file, fixed, link};
use fs::types::{major, minor};
use fs::{FileType, Inode};

use crate::devices::volume::volumes;
use crate::process::{ids, tree as processes};
use crate::{mm, sched};

type Node = Arc<dyn Inode>;

/// Nanoseconds per clock tick (`USER_HZ` is 100).
const TICK_NS: u64 = 10_000_000;

/// A file whose text is made by `make`.
fn text(make: impl Fn() -> String + Send + Sync + 'static) -> Node {
    file(move || Ok(make().into_bytes()))
}

/// The root of /proc.
pub fn tree() -> Node {
    let entries = alloc::vec![
        ("self", link(|| Ok(format!("{}", own_pid()?).into_bytes()))),
        ("thread-self", link(|| Ok(format!("{}/task/{}", own_pid()?, sched::current().tid).into_bytes()))),
        ("buddyinfo", fixed("")),
        ("cgroups", fixed("#subsys_name\thierarchy\tnum_cgroups\tenabled\n")),
        ("cmdline", text(|| format!("{}\n", crate::files::kernel_command_line()))),
        ("cpuinfo", text(cpuinfo)),
        ("devices", fixed(DEVICES)),
        ("diskstats", fixed("")),
        ("filesystems", fixed(FILESYSTEMS)),
        ("interrupts", fixed("")),
        ("loadavg", text(loadavg)),
        ("meminfo", text(meminfo)),
        ("slabinfo", text(slabinfo)),
        ("modules", fixed("")),
        ("mounts", link(|| Ok(b"self/mounts".to_vec()))),
        ("net", link(|| Ok(b"self/net".to_vec()))),
        ("partitions", text(partitions)),
        ("stat", text(stat)),
        ("swaps", fixed("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")),
        ("sys", sysctl::tree()),
        ("sysvipc", dir(alloc::vec![])),
        ("uptime", text(uptime)),
        ("version", text(|| format!("{}\n", version()))),
        ("vmstat", text(vmstat)),
    ];
    dynamic(entries, find, || {
        let mut names: Vec<_> = ids::processes().map(|p| p.pid).collect();
        names.sort_unstable();
        Ok(names.iter().map(|pid| (format!("{pid}").into_bytes(), FileType::Directory)).collect())
    })
}

fn partitions() -> String {
    let mut out = String::from("major minor  #blocks  name\n\n");
    for volume in volumes() {
        let (major, minor) = (major(volume.device()), minor(volume.device()));
        let _ = writeln!(out, "{major:4}  {minor:7} {:>10} {}", volume.len() >> 10, volume.name());
    }
    out
}

fn own_pid() -> Result<u32> {
    Ok(sched::current().process().ok_or(Errno::ENOENT)?.pid)
}

fn parse(name: &[u8]) -> Result<u32> {
    // No leading zeroes: each process has one name.
    if name.first() == Some(&b'0') {
        return Err(Errno::ENOENT);
    }
    core::str::from_utf8(name).ok().and_then(|n| n.parse().ok()).ok_or(Errno::ENOENT)
}

fn find(name: &[u8]) -> Result<Node> {
    let id = parse(name)?;
    if ids::process(id).is_some() {
        return Ok(process::directory(id));
    }
    // A thread's id works too, though it is not listed.
    let thread = ids::thread(id).ok_or(Errno::ENOENT)?;
    Ok(process::directory(thread.process().ok_or(Errno::ENOENT)?.pid))
}

/// As `uname` has it.
pub fn version() -> String {
    format!("Linux version {} (coracle@localhost) (rustc) {}", crate::files::release(), crate::files::build_version())
}

fn meminfo() -> String {
    let stats = mm::frame::stats();
    let kib = |pages: usize| pages as u64 * 4;
    let (total, free, cached) = (kib(stats.total), kib(stats.free), kib(stats.cached));
    let slab = kib(mm::heap::pages());
    let available = free + cached / 2;
    let mut out = String::new();
    let rows: [(&str, u64); 32] = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", available.min(total)),
        ("Buffers", 0),
        ("Cached", cached),
        ("SwapCached", 0),
        ("Active", total.saturating_sub(free + cached)),
        ("Inactive", cached),
        ("Active(anon)", total.saturating_sub(free + cached)),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", cached),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", total.saturating_sub(free + cached)),
        ("Mapped", cached),
        ("Shmem", 0),
        ("KReclaimable", 0),
        ("Slab", slab),
        ("SReclaimable", 0),
        ("SUnreclaim", slab),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("CommitLimit", total / 2),
        ("Committed_AS", total.saturating_sub(free)),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "{:<16}{value:>8} kB", format!("{name}:"));
    }
    out +=
        "AnonHugePages:         0 kB\nHugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\n";
    out += "HugePages_Surp:        0\nHugepagesize:       2048 kB\nHugetlb:               0 kB\n";
    out
}

/// The heap's size classes, in the format of Linux' slabinfo 2.1.
fn slabinfo() -> String {
    let mut out = String::from(
        "slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables \
         <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n",
    );
    for class in mm::heap::classes() {
        let per_slab = hal_core::PAGE_SIZE / class.size;
        let name = format!("kmalloc-{}", class.size);
        let _ = writeln!(
            out,
            "{name:<17} {:>6} {:>6} {:>6} {per_slab:>4} {:>4} : tunables {:>4} {:>4} {:>4} : slabdata {:>6} {:>6} {:>6}",
            class.objects,
            class.pages * per_slab,
            class.size,
            1,
            0,
            0,
            0,
            class.pages,
            class.pages,
            0
        );
    }
    out
}

fn cpuinfo() -> String {
    use core::arch::x86_64::__cpuid;
    let leaf = __cpuid(1);
    let vendor_leaf = __cpuid(0);
    let mut vendor = Vec::new();
    for word in [vendor_leaf.ebx, vendor_leaf.edx, vendor_leaf.ecx] {
        vendor.extend_from_slice(&word.to_le_bytes());
    }
    let mut brand = Vec::new();
    if __cpuid(0x8000_0000).eax >= 0x8000_0004 {
        for n in 0x8000_0002u32..=0x8000_0004 {
            let part = __cpuid(n);
            for word in [part.eax, part.ebx, part.ecx, part.edx] {
                brand.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
    let name = |bytes: &[u8]| String::from(String::from_utf8_lossy(bytes).trim_matches(['\0', ' ']));
    let (vendor, brand) = (name(&vendor), name(&brand));
    let base_family = leaf.eax >> 8 & 15;
    let family = if base_family == 15 { base_family + (leaf.eax >> 20 & 255) } else { base_family };
    let model = (leaf.eax >> 4 & 15) | if base_family >= 6 { leaf.eax >> 12 & 0xf0 } else { 0 };
    let flags = flags();
    let khz = hal_core::platform().clock().tsc_khz();
    let cpus = sched::online();
    let mut out = String::new();
    for cpu in 0..cpus {
        let _ = write!(
            out,
            "processor\t: {cpu}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
             model name\t: {brand}\nstepping\t: {}\ncpu MHz\t\t: {}.{:03}\ncache size\t: 16384 KB\n\
             physical id\t: 0\nsiblings\t: {cpus}\ncore id\t\t: {cpu}\ncpu cores\t: {cpus}\napicid\t\t: {cpu}\n\
             initial apicid\t: {cpu}\nfpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: {}\nwp\t\t: yes\n\
             flags\t\t: {flags}\nbugs\t\t:\nbogomips\t: {}.{:02}\nclflush size\t: 64\ncache_alignment\t: 64\n\
             address sizes\t: 40 bits physical, 48 bits virtual\npower management:\n\n",
            leaf.eax & 15,
            khz / 1000,
            khz % 1000,
            vendor_leaf.eax,
            khz / 500,
            khz / 5 % 100,
        );
    }
    out
}

/// The CPU's features by the names that Linux gives them (those that programs look for).
fn flags() -> String {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    let (one, seven, extended) = (__cpuid(1), __cpuid_count(7, 0), __cpuid(0x8000_0001));
    let table: [(u32, &[(u32, &str)]); 5] = [
        (
            one.edx,
            &[
                (0, "fpu"),
                (1, "vme"),
                (2, "de"),
                (3, "pse"),
                (4, "tsc"),
                (5, "msr"),
                (6, "pae"),
                (7, "mce"),
                (8, "cx8"),
                (9, "apic"),
                (11, "sep"),
                (12, "mtrr"),
                (13, "pge"),
                (14, "mca"),
                (15, "cmov"),
                (16, "pat"),
                (17, "pse36"),
                (19, "clflush"),
                (23, "mmx"),
                (24, "fxsr"),
                (25, "sse"),
                (26, "sse2"),
                (28, "ht"),
            ],
        ),
        (extended.edx, &[(11, "syscall"), (20, "nx"), (26, "pdpe1gb"), (27, "rdtscp"), (29, "lm")]),
        (
            one.ecx,
            &[
                (0, "pni"),
                (1, "pclmulqdq"),
                (9, "ssse3"),
                (12, "fma"),
                (13, "cx16"),
                (17, "pcid"),
                (19, "sse4_1"),
                (20, "sse4_2"),
                (21, "x2apic"),
                (22, "movbe"),
                (23, "popcnt"),
                (24, "tsc_deadline_timer"),
                (25, "aes"),
                (26, "xsave"),
                (28, "avx"),
                (29, "f16c"),
                (30, "rdrand"),
                (31, "hypervisor"),
            ],
        ),
        (extended.ecx, &[(0, "lahf_lm"), (5, "abm"), (6, "sse4a")]),
        (
            seven.ebx,
            &[
                (0, "fsgsbase"),
                (3, "bmi1"),
                (5, "avx2"),
                (7, "smep"),
                (8, "bmi2"),
                (9, "erms"),
                (10, "invpcid"),
                (16, "avx512f"),
                (17, "avx512dq"),
                (18, "rdseed"),
                (19, "adx"),
                (20, "smap"),
                (23, "clflushopt"),
                (24, "clwb"),
                (28, "avx512cd"),
                (29, "sha_ni"),
                (30, "avx512bw"),
                (31, "avx512vl"),
            ],
        ),
    ];
    let mut names: Vec<&str> = Vec::new();
    for (bits, known) in table {
        names.extend(known.iter().filter(|(bit, _)| bits >> bit & 1 != 0).map(|(_, name)| *name));
    }
    names.join(" ")
}

fn stat() -> String {
    let ticks = |ns: u64| ns / TICK_NS;
    let cpus: Vec<_> = (0..sched::online()).map(sched::cpu_stats).collect();
    let line = |name: String, user: u64, system: u64, idle: u64| {
        format!("{name} {} 0 {} {} 0 0 0 0 0 0\n", ticks(user), ticks(system), ticks(idle))
    };
    let mut out = line(
        String::from("cpu "),
        cpus.iter().map(|c| c.user_ns).sum(),
        cpus.iter().map(|c| c.system_ns).sum(),
        cpus.iter().map(|c| c.idle_ns).sum(),
    );
    for (n, cpu) in cpus.iter().enumerate() {
        out += &line(format!("cpu{n}"), cpu.user_ns, cpu.system_ns, cpu.idle_ns);
    }
    let boot = (base::time::wall_ns() - now_ns()) / 1_000_000_000;
    let _ = write!(
        out,
        "intr 0\nctxt {}\nbtime {boot}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        cpus.iter().map(|c| c.switches).sum::<u64>(),
        processes::alive(),
        sched::load_average().max(1),
    );
    out
}

fn uptime() -> String {
    let seconds = |ns: u64| format!("{}.{:02}", ns / 1_000_000_000, ns / 10_000_000 % 100);
    let idle = (0..sched::online()).map(|n| sched::cpu_stats(n).idle_ns).sum();
    format!("{} {}\n", seconds(now_ns()), seconds(idle))
}

fn loadavg() -> String {
    // Without decay: what runs now stands for all three averages.
    let load = sched::load_average();
    let last = ids::processes().map(|p| p.pid).max().unwrap_or(1);
    format!("{load}.00 {load}.00 {load}.00 {load}/{} {last}\n", processes::alive())
}

fn vmstat() -> String {
    let stats = mm::frame::stats();
    format!(
        "nr_free_pages {}\nnr_file_pages {}\nnr_anon_pages {}\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\noom_kill 0\n",
        stats.free,
        stats.cached,
        stats.total.saturating_sub(stats.free + stats.cached)
    )
}

const DEVICES: &str = "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n254 vd\n259 blkext\n";
const FILESYSTEMS: &str = "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevpts\nnodev\toverlay\n\terofs\n";
