//! /proc/sys: what programs look at, with the values that hold here.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use base::Errno;
use fs::Inode;
use fs::synth::{dir, file_rw, fixed};

use super::text;
use crate::process::{ids, random};

type Node = Arc<dyn Inode>;

/// A number that is kept and shown, and means nothing more.
fn number(value: &'static AtomicU64) -> Node {
    file_rw(
        || Ok(format!("{}\n", value.load(Ordering::Relaxed)).into_bytes()),
        |bytes| {
            let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
            value.store(text.trim().parse().map_err(|_| Errno::EINVAL)?, Ordering::Relaxed);
            Ok(())
        },
    )
}

macro_rules! numbers {
    ($($name:literal = $value:expr),* $(,)?) => {
        alloc::vec![$(($name, {
            static VALUE: AtomicU64 = AtomicU64::new($value);
            number(&VALUE)
        })),*]
    };
}

fn uuid() -> String {
    let mut bytes = [0u8; 16];
    random::fill(&mut bytes);
    bytes[6] = bytes[6] & 15 | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = |part: &[u8]| part.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let b = &bytes;
    format!("{}-{}-{}-{}-{}\n", hex(&b[..4]), hex(&b[4..6]), hex(&b[6..8]), hex(&b[8..10]), hex(&b[10..]))
}

fn boot_id() -> String {
    static ID: base::Once<String> = base::Once::new();
    ID.call_once(uuid).clone()
}

/// The directory.
pub fn tree() -> Node {
    let random = dir(alloc::vec![
        ("boot_id", text(boot_id)),
        ("entropy_avail", fixed("256\n")),
        ("poolsize", fixed("256\n")),
        ("uuid", text(uuid)),
    ]);
    let mut kernel = alloc::vec![
        ("cap_last_cap", fixed("40\n")),
        (
            "hostname",
            file_rw(
                || Ok(format!("{}\n", crate::files::hostname()).into_bytes()),
                |name| crate::files::set_hostname(name.trim_ascii()),
            ),
        ),
        ("domainname", fixed("(none)\n")),
        ("ostype", fixed("Linux\n")),
        ("osrelease", text(|| format!("{}\n", crate::files::release()))),
        ("version", text(|| format!("{}\n", crate::files::build_version()))),
        ("pid_max", text(|| format!("{}\n", ids::PID_MAX))),
        ("ngroups_max", fixed("65536\n")),
        ("overflowuid", fixed("65534\n")),
        ("overflowgid", fixed("65534\n")),
        ("random", random),
        ("core_pattern", fixed("core\n")),
        ("seccomp", dir(alloc::vec![("actions_avail", fixed("\n"))])),
    ];
    kernel.extend(numbers! {
        "threads-max" = 32_768, "randomize_va_space" = 2, "panic" = 0, "printk_ratelimit" = 5, "perf_event_paranoid" = 4,
        "shmmax" = 18_446_744_073_692_774_399, "shmall" = 18_446_744_073_692_774_399, "shmmni" = 4096,
        "msgmax" = 8192, "msgmnb" = 16_384, "sched_child_runs_first" = 0, "numa_balancing" = 0, "yama" = 0,
        "core_uses_pid" = 0, "kptr_restrict" = 1, "dmesg_restrict" = 1,
    });
    let vm = numbers! {
        "overcommit_memory" = 1, "overcommit_ratio" = 50, "max_map_count" = 65_530, "swappiness" = 60,
        "nr_hugepages" = 0, "mmap_min_addr" = 65_536, "dirty_ratio" = 20, "dirty_background_ratio" = 10,
        "zone_reclaim_mode" = 0, "min_free_kbytes" = 1024, "drop_caches" = 0, "panic_on_oom" = 0,
    };
    let mut fs = numbers! {
        "file-max" = 9_223_372_036_854_775_807, "nr_open" = 1_048_576, "pipe-max-size" = 1_048_576,
        "pipe-user-pages-soft" = 16_384, "protected_hardlinks" = 1, "protected_symlinks" = 1, "suid_dumpable" = 0,
        "lease-break-time" = 45, "aio-max-nr" = 65_536, "aio-nr" = 0,
    };
    fs.push(("file-nr", fixed("0\t0\t9223372036854775807\n")));
    fs.push((
        "inotify",
        dir(numbers! { "max_queued_events" = 16_384, "max_user_instances" = 128, "max_user_watches" = 65_536 }),
    ));
    let mut core = numbers! {
        "somaxconn" = 4096, "rmem_max" = 4_194_304, "wmem_max" = 4_194_304, "rmem_default" = 212_992,
        "wmem_default" = 212_992, "netdev_max_backlog" = 1000, "optmem_max" = 20_480,
    };
    core.push(("default_qdisc", fixed("noqueue\n")));
    let mut ipv4 = numbers! {
        "ip_forward" = 0, "tcp_fin_timeout" = 60, "tcp_keepalive_time" = 7200, "tcp_keepalive_intvl" = 75,
        "tcp_keepalive_probes" = 9, "tcp_max_syn_backlog" = 4096, "tcp_tw_reuse" = 2, "tcp_syncookies" = 0,
        "ip_unprivileged_port_start" = 1024, "tcp_sack" = 1, "tcp_timestamps" = 1, "tcp_window_scaling" = 1,
        "tcp_fastopen" = 0, "ip_nonlocal_bind" = 0,
    };
    ipv4.push(("ip_local_port_range", fixed("32768\t60999\n")));
    ipv4.push(("tcp_rmem", fixed("4096\t131072\t6291456\n")));
    ipv4.push(("tcp_wmem", fixed("4096\t16384\t4194304\n")));
    ipv4.push(("tcp_congestion_control", fixed("cubic\n")));
    ipv4.push(("tcp_available_congestion_control", fixed("reno cubic\n")));
    let ipv6 = dir(alloc::vec![
        ("all", dir(numbers! { "disable_ipv6" = 0, "forwarding" = 0 })),
        ("default", dir(numbers! { "disable_ipv6" = 0, "forwarding" = 0 })),
    ]);
    dir(alloc::vec![
        ("kernel", dir(kernel)),
        ("vm", dir(vm)),
        ("fs", dir(fs)),
        (
            "net",
            dir(alloc::vec![
                ("core", dir(core)),
                ("ipv4", dir(ipv4)),
                ("ipv6", dir(alloc::vec![("conf", ipv6)])),
                ("unix", dir(numbers! { "max_dgram_qlen" = 512 })),
            ])
        ),
    ])
}
