//! Coracle beside a Linux guest of the same kind, in the same lab and alternating: from create to the first answer, requests per
//! second, bulk throughput.

use std::path::{Path, PathBuf};

use super::cells::{CELLS, Cell, Place};
use super::image::{self, Image};
use super::labs::{self, CELL_SECONDS, Task, Work, quoted};
use super::linux::{self, Devices};
use crate::bench::System;
use crate::bench::table::{Better, Table};
use crate::compile::folder;
use crate::lab::Lab;
use crate::options::Options;
use crate::run::Scratch;

/// A kind of machine: Coracle's cell, and how Linux is made there.
struct Kind {
    words: &'static str,
    cell: &'static str,
    devices: Devices,
    console: &'static str,
}

const KINDS: &[Kind] = &[
    Kind { words: "Xen PV", cell: "xen-pv", devices: Devices::Xen, console: "hvc0" },
    Kind { words: "Xen PVH", cell: "xen-pvh", devices: Devices::Xen, console: "hvc0" },
    Kind { words: "Xen HVM", cell: "xen-hvm", devices: Devices::Xen, console: "hvc0" },
    Kind { words: "KVM", cell: "kvm-direct", devices: Devices::Virtio, console: "ttyS0" },
    Kind { words: "VirtualBox", cell: "virtualbox-e1000-ahci", devices: Devices::E1000Ahci, console: "ttyS0" },
];

/// What is compared: fact, words, which direction is good.
const MEASURES: &[(&str, &str, Better)] = &[
    ("first", "create to first HTTP answer, s", Better::Less),
    ("http_rps", "HTTP requests/s", Better::More),
    ("redis_rps", "Redis requests/s", Better::More),
    ("down_mb_s", "50 MB from the guest, MB/s", Better::More),
    ("up_mb_s", "50 MB to the guest, MB/s", Better::More),
];

impl Kind {
    fn cell(&self) -> Result<&'static Cell, String> {
        CELLS.iter().find(|cell| cell.name == self.cell).ok_or_else(|| format!("no cell {}", self.cell))
    }

    /// The line of shell that makes the Linux machine.
    fn line(&self, name: &str, cell: &Cell) -> String {
        let append = format!("console={} {}", self.console, linux::LINE);
        match cell.place {
            Place::Xen(kind) => {
                let mut lines = vec![
                    format!("type = \"{kind}\""),
                    "kernel = \"/job/vmlinuz\"".to_owned(),
                    "ramdisk = \"/job/linux.initrd\"".to_owned(),
                    format!("cmdline = \"{append}\""),
                ];
                if kind == "hvm" {
                    lines.push("vga = \"none\"".to_owned());
                }
                let lines: Vec<String> = lines.iter().map(|l| quoted(l)).collect();
                format!("domain {name} {CELL_SECONDS} {} {}", cell.cpus, lines.join(" "))
            }
            Place::Kvm(q, shows) => {
                let words = super::qemu::arguments(&q, Some(shows), cell.boot, cell.cpus, ("vmlinuz", &append));
                let words: Vec<String> = words.iter().map(|w| quoted(w)).collect();
                format!("guest {name} {CELL_SECONDS} -accel kvm -initrd linux.initrd {}", words.join(" "))
            }
            Place::VirtualBox(nic, disk) => format!("CDROM=/job/linux.iso machine {name} {CELL_SECONDS} {nic} {disk}"),
            Place::Emulated(_) => format!("fail {name} 'not a cell of a lab'"),
        }
    }
}

/// Kernel and initramfs (VirtualBox: a CD-ROM) for L1. The kernel is that of the lab for Xen, the full one, in every kind.
fn files(kind: &Kind, lab: Lab, scratch: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let built = Lab::Xen.folder()?;
    let kernel = built.join("vmlinuz");
    let initramfs = scratch.join("linux.initrd");
    linux::initramfs(&built, kind.devices, &initramfs)?;
    if lab == Lab::VirtualBox {
        let cdrom = scratch.join("linux.iso");
        linux::cdrom(&kernel, &initramfs, kind.console, &cdrom)?;
        return Ok(vec![("linux.iso".into(), cdrom)]);
    }
    Ok(vec![("vmlinuz".into(), kernel), ("linux.initrd".into(), initramfs)])
}

/// Measures the kinds whose cells were named (all, when none were); prints the table, and puts it into docs/performance.md. True when nothing
/// went wrong.
pub fn run(options: &Options, named: &[String], rounds: usize, write: bool) -> Result<bool, String> {
    let image = image::build(options)?;
    let mut table = Table::default();
    let wanted = |kind: &&Kind| named.is_empty() || named.iter().any(|n| kind.cell.starts_with(n.as_str()));
    let kinds: Vec<&Kind> = KINDS.iter().filter(wanted).collect();
    for lab in [Lab::Xen, Lab::Kvm, Lab::VirtualBox] {
        let mut own = Vec::new();
        for kind in &kinds {
            let cell = kind.cell()?;
            if cell.lab() == Some(lab) {
                own.push((*kind, cell));
            }
        }
        measure(lab, &own, &image, rounds, options.verbose, &mut table)?;
    }
    let text = table.markdown();
    println!("\n{text}");
    if write {
        let words = format!(
            "Measured on {}, by `./x matrix --compare --rounds {rounds} --write`: Xen 4.20, QEMU's KVM and VirtualBox 7.2 in a machine that QEMU emulates (docs/matrix.md), \
             one virtual CPU and 512 MB (Xen: 256 MB) for each guest; the client runs beside the hypervisor. Linux is Debian 13's kernel with an initramfs of the modules that it needs, and serves from \
             the same disk the same programs. Medians of n alternating runs; without n it is one run.",
            crate::report::today()
        );
        let page = folder().join("../docs/performance.md");
        crate::report::put_between(&page, "matrix", &format!("{words}\n\n{text}"))?;
    }
    Ok(!table.has_notes())
}

fn measure(
    lab: Lab,
    kinds: &[(&Kind, &Cell)],
    image: &Image,
    rounds: usize,
    verbose: bool,
    table: &mut Table,
) -> Result<(), String> {
    let Some((first, _)) = kinds.first() else { return Ok(()) };
    let scratch = Scratch::new("compare")?;
    let mut tasks = Vec::new();
    for (number, (kind, cell)) in kinds.iter().enumerate() {
        for round in 0..rounds {
            let linux = format!("linux-{number}-{round}");
            tasks.push(Task { line: kind.line(&linux, cell), name: linux });
            let ours = format!("coracle-{number}-{round}");
            tasks.push(Task { line: labs::line(&ours, cell, &image.line), name: ours });
        }
    }
    let files = files(first, lab, scratch.path())?;
    let work = Work { lab, tasks, files, image, verbose };
    labs::run(&work, &mut |name, verdict| {
        let mut parts = name.split('-');
        let system = if parts.next() == Some("linux") { System::Linux } else { System::Coracle };
        let Some((kind, _)) = parts.next().and_then(|n| n.parse::<usize>().ok()).and_then(|n| kinds.get(n)) else {
            return;
        };
        match verdict.outcome {
            Ok(facts) => {
                for (fact, words, better) in MEASURES {
                    if let Ok(value) = facts.get(fact).parse() {
                        table.add(&format!("{}: {words}", kind.words), *better, system, value);
                    }
                }
            }
            Err(why) => table.note(format!("{system} on {}: {why}", kind.words)),
        }
    });
    Ok(())
}
