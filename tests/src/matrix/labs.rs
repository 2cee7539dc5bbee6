//! Cells in a lab: all of one lab are done in one boot of L1, one after the other. A cell that L1 did not get to because it stopped is
//! tried once more in a fresh L1, and the table says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::cells::{Boot, Cell, Place, Signature};
use super::image::Image;
use super::{Verdict, qemu};
use crate::exchange::Facts;
use crate::lab::{self, Ended, Job, Lab};

/// For one cell, from its making to its end. Everything here is emulated twice.
const CELL_SECONDS: u64 = 240;

/// What is known of a cell while L1 runs.
#[derive(Default)]
struct Progress {
    begun: Option<Instant>,
    log: Vec<String>,
    verdict: Option<Result<Facts, String>>,
    seconds: f64,
}

/// Runs the cells of one lab; tells each verdict as it comes.
pub fn run(lab: Lab, cells: &[&Cell], image: &Image, verbose: bool, told: &mut dyn FnMut(&Cell, Verdict)) {
    let mut left: Vec<&Cell> = cells.to_vec();
    let mut note = String::new();
    for attempt in 0..2 {
        let folder = if attempt == 0 { lab.folder() } else { lab.verified() };
        let folder = match folder {
            Ok(folder) => folder,
            Err(why) => {
                left.iter().for_each(|cell| told(cell, Verdict::failed(format!("no lab: {why}"))));
                return;
            }
        };
        let mut progress: BTreeMap<&str, Progress> = BTreeMap::new();
        let ended = boot(
            lab,
            &folder,
            &left,
            image,
            verbose,
            &mut |cell, verdict| told(cell, Verdict { note: note.clone(), ..verdict }),
            &mut progress,
        );
        left.retain(|cell| progress.get(cell.name).is_none_or(|p| p.verdict.is_none()));
        if left.is_empty() {
            return;
        }
        let why = match ended {
            Ok(Ended::Done) => "the job ended without a word about it".to_owned(),
            Ok(Ended::NeverUp(why) | Ended::Broke(why)) | Err(why) => why,
        };
        if attempt == 1 {
            for cell in &left {
                let log = progress.get(cell.name).map(|p| p.log.join("\n")).unwrap_or_default();
                told(cell, Verdict { note: note.clone(), ..Verdict::failed(format!("{why}\n{log}")) });
            }
            return;
        }
        note = format!("second try; first: {why}");
        println!("      {} cells again, in a fresh L1: {why}", left.len());
    }
}

fn boot<'a>(
    lab: Lab,
    folder: &std::path::Path,
    cells: &[&'a Cell],
    image: &Image,
    verbose: bool,
    told: &mut dyn FnMut(&Cell, Verdict),
    progress: &mut BTreeMap<&'a str, Progress>,
) -> Result<Ended, String> {
    let visit = std::env::current_exe().map_err(|e| e.to_string())?.with_file_name("visit");
    let mut files: Vec<(String, PathBuf)> = vec![("visit".into(), visit), ("kernel".into(), image.kernel.clone())];
    if lab == Lab::VirtualBox {
        files.push(("matrix.vdi".into(), image.vdi()?));
    }
    let job = Job {
        lab,
        script: script(lab, cells, &image.line),
        files,
        image: &image.file,
        limit: Duration::from_secs(120 + (CELL_SECONDS + 60) * cells.len() as u64),
        silence: Duration::from_secs(CELL_SECONDS + 60),
        verbose,
    };
    lab::run(&job, folder, &mut |line| {
        let Some((name, rest)) = line.strip_prefix("@cell ").and_then(|l| l.split_once(' ')) else { return };
        let Some(cell) = cells.iter().find(|c| c.name == name) else { return };
        let p = progress.entry(cell.name).or_default();
        let (what, text) = rest.split_once(' ').unwrap_or((rest, ""));
        match what {
            "begins" => p.begun = Some(Instant::now()),
            "log" => p.log.push(text.to_owned()),
            "passed" => p.verdict = Some(Ok(Facts::parse(text))),
            "failed" => p.verdict = Some(Err(format!("{text}\n--- the end of its console\n{}", p.log.join("\n")))),
            _ => return,
        }
        p.seconds = p.begun.map_or(0.0, |b| b.elapsed().as_secs_f64());
        match &p.verdict {
            Some(verdict) if what == "passed" || what == "failed" => {
                told(cell, Verdict { outcome: verdict.clone(), seconds: p.seconds, note: String::new() });
            }
            _ => {}
        }
    })
}

/// The job: one line for each cell.
fn script(lab: Lab, cells: &[&Cell], append: &str) -> String {
    let (library, up) = match lab {
        Lab::Kvm => ("kvm.sh", "kvm_up"),
        Lab::Xen => ("xen.sh", "xen_up"),
        Lab::VirtualBox => ("virtualbox.sh", "virtualbox_up"),
    };
    let lines: Vec<String> = cells.iter().map(|cell| line(cell, append)).collect();
    format!(". ./{library}\n{up}\n{}\n", lines.join("\n"))
}

fn line(cell: &Cell, append: &str) -> String {
    let name = cell.name;
    match cell.place {
        Place::Kvm(q, shows) => {
            let accel = match shows {
                // Xen 4.17: what QEMU's emulation knows
                Signature::Xen => "kvm,xen-version=0x40011,kernel-irqchip=split",
                _ => "kvm",
            };
            let words = qemu::arguments(&q, Some(shows), cell.boot, cell.cpus, ("kernel", append));
            let words: Vec<String> = words.iter().map(|w| quoted(w)).collect();
            format!("guest {name} {CELL_SECONDS} -accel {accel} {}", words.join(" "))
        }
        Place::Xen(kind) => {
            let mut lines = vec![format!("type = \"{kind}\"")];
            match cell.boot {
                Boot::Direct => lines.extend(["kernel = \"/job/kernel\"".into(), format!("cmdline = \"{append}\"")]),
                Boot::Pygrub => lines.push("bootloader = \"pygrub\"".into()),
                Boot::Pvgrub => lines.push("kernel = \"/usr/lib/grub-xen/grub-x86_64-xen.bin\"".into()),
                Boot::Bios | Boot::Uefi => lines.push("vga = \"none\"".into()),
            }
            let lines: Vec<String> = lines.iter().map(|l| quoted(l)).collect();
            format!("domain {name} {CELL_SECONDS} {} {}", cell.cpus, lines.join(" "))
        }
        Place::VirtualBox(nic, disk) => format!("machine {name} {CELL_SECONDS} {nic} {disk}"),
        Place::Emulated(_) => format!("fail {name} 'not a cell of a lab'"),
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
