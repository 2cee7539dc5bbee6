//! /sys: CPUs, the memory node, transparent huge pages, network interfaces, control groups, disks: as programs
//! read them to find out how large the machine is; and what the kernel found: the hypervisor and each device's driver.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use base::Errno;
use fs::synth::{dir, dynamic, file, file_rw, fixed, link};
use fs::{FileType, Inode};

use crate::backends::DRIVERS;
use crate::{mm, sched};

mod disks;
mod net;

type Node = Arc<dyn Inode>;

fn text(make: impl Fn() -> String + Send + Sync + 'static) -> Node {
    file(move || Ok(make().into_bytes()))
}

fn cpu_list() -> String {
    match sched::online() {
        1 => String::from("0\n"),
        n => format!("0-{}\n", n - 1),
    }
}

fn cpu_mask() -> String {
    let cpus = sched::online();
    let words = cpus.div_ceil(32);
    let word = |n: usize| match cpus - 32 * n {
        left if left >= 32 => u32::MAX,
        left => (1 << left) - 1,
    };
    let parts: Vec<String> = (0..words).rev().map(|n| format!("{:x}", word(n))).collect();
    parts.join(",") + "\n"
}

/// The numbered directories `PREFIX0` to `PREFIXn`.
fn numbered(
    fixed: Vec<(&'static str, Node)>,
    prefix: &'static str,
    count: fn() -> usize,
    make: fn(usize) -> Node,
) -> Node {
    dynamic(
        fixed,
        move |name| {
            let number = name.strip_prefix(prefix.as_bytes()).and_then(|n| core::str::from_utf8(n).ok());
            let number: usize = number.and_then(|n| n.parse().ok()).ok_or(Errno::ENOENT)?;
            if number < count() { Ok(make(number)) } else { Err(Errno::ENOENT) }
        },
        move || Ok((0..count()).map(|n| (format!("{prefix}{n}").into_bytes(), FileType::Directory)).collect()),
    )
}

fn cpu(number: usize) -> Node {
    let one_bit = move || format!("{:x}\n", 1u64 << (number % 64));
    let topology = dir(alloc::vec![
        ("core_id", text(move || format!("{number}\n"))),
        ("core_cpus", text(one_bit)),
        ("core_cpus_list", text(move || format!("{number}\n"))),
        ("core_siblings", text(cpu_mask)),
        ("core_siblings_list", text(cpu_list)),
        ("die_id", fixed("0\n")),
        ("package_cpus", text(cpu_mask)),
        ("package_cpus_list", text(cpu_list)),
        ("physical_package_id", fixed("0\n")),
        ("thread_siblings", text(one_bit)),
        ("thread_siblings_list", text(move || format!("{number}\n"))),
    ]);
    let cache = |level: &'static str, kind: &'static str, size: &'static str, shared: fn() -> String| {
        dir(alloc::vec![
            ("coherency_line_size", fixed("64\n")),
            ("level", fixed(level)),
            ("shared_cpu_list", text(shared)),
            ("shared_cpu_map", text(cpu_mask)),
            ("size", fixed(size)),
            ("type", fixed(kind)),
            ("ways_of_associativity", fixed("8\n")),
            ("number_of_sets", fixed("64\n")),
        ])
    };
    let caches = dir(alloc::vec![
        ("index0", cache("1\n", "Data\n", "32K\n", cpu_list)),
        ("index1", cache("1\n", "Instruction\n", "32K\n", cpu_list)),
        ("index2", cache("2\n", "Unified\n", "1024K\n", cpu_list)),
        ("index3", cache("3\n", "Unified\n", "16384K\n", cpu_list)),
    ]);
    dir(alloc::vec![("cache", caches), ("online", fixed("1\n")), ("topology", topology)])
}

fn node(_number: usize) -> Node {
    dir(alloc::vec![
        ("cpulist", text(cpu_list)),
        ("cpumap", text(cpu_mask)),
        ("distance", fixed("10\n")),
        (
            "meminfo",
            text(|| {
                let stats = mm::frame::stats();
                format!(
                    "Node 0 MemTotal: {:>14} kB\nNode 0 MemFree: {:>15} kB\nNode 0 MemUsed: {:>15} kB\n",
                    stats.total * 4,
                    stats.free * 4,
                    (stats.total - stats.free) * 4
                )
            })
        ),
    ])
}

/// Control groups as version 2 shows the root group with what containers look for: no limits.
fn cgroup() -> Node {
    dir(alloc::vec![
        ("cgroup.controllers", fixed("cpuset cpu io memory pids\n")),
        ("cgroup.max.depth", fixed("max\n")),
        ("cgroup.procs", text(|| { crate::process::ids::processes().map(|p| format!("{}\n", p.pid)).collect() })),
        ("cgroup.subtree_control", fixed("\n")),
        ("cgroup.threads", fixed("1\n")),
        ("cgroup.type", fixed("domain\n")),
        ("cpu.max", fixed("max 100000\n")),
        (
            "cpu.stat",
            text(|| {
                let busy: u64 = (0..sched::online())
                    .map(|n| {
                        let c = sched::cpu_stats(n);
                        c.user_ns + c.system_ns
                    })
                    .sum();
                format!("usage_usec {}\nuser_usec {}\nsystem_usec 0\n", busy / 1000, busy / 1000)
            })
        ),
        ("cpu.weight", fixed("100\n")),
        ("cpuset.cpus.effective", text(cpu_list)),
        ("cpuset.mems.effective", fixed("0\n")),
        (
            "memory.current",
            text(|| {
                let stats = mm::frame::stats();
                format!("{}\n", (stats.total - stats.free) as u64 * 4096)
            })
        ),
        ("memory.high", fixed("max\n")),
        ("memory.max", fixed("max\n")),
        ("memory.swap.current", fixed("0\n")),
        ("memory.swap.max", fixed("0\n")),
        ("pids.current", text(|| format!("{}\n", crate::process::tree::alive()))),
        ("pids.max", fixed("max\n")),
    ])
}

fn transparent_huge_pages() -> Node {
    // Aligned anonymous memory gets 2 MiB pages; the mode is not changed by writing.
    dir(alloc::vec![
        ("defrag", file_rw(|| Ok(b"always defer defer+madvise [madvise] never\n".to_vec()), |_| Ok(()))),
        ("enabled", file_rw(|| Ok(b"[always] madvise never\n".to_vec()), |_| Ok(()))),
        ("hpage_pmd_size", fixed("2097152\n")),
        ("shmem_enabled", fixed("always within_size advise [never] deny force\n")),
        ("use_zero_page", fixed("1\n")),
        ("khugepaged", dir(alloc::vec![("defrag", fixed("1\n")), ("max_ptes_none", fixed("511\n"))])),
    ])
}

/// The platform, as the kernel found it.
fn hypervisor() -> Node {
    let line = |word: &str| format!("{word}\n");
    dir(alloc::vec![
        ("told_by", text(move || line(hal_core::platform().told_by()))),
        ("type", text(move || line(hal_core::platform().name()))),
    ])
}

/// The drivers that are linked: where the `driver` links of devices lead.
fn drivers() -> Node {
    let names = || DRIVERS.iter().map(|driver| driver.name());
    dynamic(
        Vec::new(),
        move |name| {
            if names().any(|n| n.as_bytes() == name) { Ok(dir(alloc::vec![])) } else { Err(Errno::ENOENT) }
        },
        move || Ok(names().map(|name| (name.as_bytes().to_vec(), FileType::Directory)).collect()),
    )
}

/// The `device` directory of a disk or an interface: which driver it has.
fn device(driver: &'static str) -> Node {
    dir(alloc::vec![
        ("driver", link(move || Ok(format!("/sys/module/{driver}").into_bytes()))),
        ("uevent", text(move || format!("DRIVER={driver}\n"))),
    ])
}

/// The root of /sys.
pub fn tree() -> Node {
    let cpus = alloc::vec![
        ("isolated", fixed("\n")),
        ("kernel_max", fixed("255\n")),
        ("offline", fixed("\n")),
        ("online", text(cpu_list)),
        ("possible", text(cpu_list)),
        ("present", text(cpu_list)),
        ("vulnerabilities", dir(alloc::vec![])),
    ];
    let nodes = alloc::vec![
        ("has_cpu", fixed("0\n")),
        ("has_memory", fixed("0\n")),
        ("online", fixed("0\n")),
        ("possible", fixed("0\n")),
    ];
    let system = dir(alloc::vec![
        ("cpu", numbered(cpus, "cpu", sched::online, cpu)),
        ("node", numbered(nodes, "node", || 1, node)),
        (
            "clocksource",
            dir(alloc::vec![(
                "clocksource0",
                dir(alloc::vec![("available_clocksource", fixed("tsc\n")), ("current_clocksource", fixed("tsc\n")),])
            )])
        ),
    ]);
    let huge = dir(alloc::vec![(
        "hugepages-2048kB",
        dir(alloc::vec![
            ("free_hugepages", fixed("0\n")),
            ("nr_hugepages", fixed("0\n")),
            ("nr_overcommit_hugepages", fixed("0\n")),
        ])
    )]);
    dir(alloc::vec![
        ("block", disks::disks()),
        ("bus", dir(alloc::vec![])),
        ("class", dir(alloc::vec![("block", disks::all()), ("net", net::interfaces())])),
        ("dev", dir(alloc::vec![("block", disks::by_number())])),
        ("devices", dir(alloc::vec![("system", system), ("virtual", dir(alloc::vec![("net", net::interfaces())]))])),
        ("fs", dir(alloc::vec![("cgroup", cgroup())])),
        (
            "kernel",
            dir(alloc::vec![(
                "mm",
                dir(alloc::vec![("hugepages", huge), ("transparent_hugepage", transparent_huge_pages()),])
            )])
        ),
        ("hypervisor", hypervisor()),
        ("module", drivers()),
        ("power", dir(alloc::vec![])),
    ])
}
