//! Tasks in a lab (a cell each): all of one lab are done in one boot of L1, one after the other. One that L1 did not get to because it stopped is
//! tried once more in a fresh L1, and the table says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cells::{Boot, Cell, Place, Signature};
use super::image::Image;
use super::{Verdict, qemu};
use crate::exchange::Facts;
use crate::lab::{self, Ended, Job, Lab};

/// For one cell, from its making to its end. Everything here is emulated twice, and VirtualBox leaves its guest often.
pub fn seconds(lab: Lab) -> u64 {
    if lab == Lab::VirtualBox { 600 } else { 240 }
}

/// What is known of a cell while L1 runs.
#[derive(Default)]
struct Progress {
    begun: Option<Instant>,
    log: Vec<String>,
    verdict: Option<Result<Facts, String>>,
    seconds: f64,
}

/// One machine to make and visit.
#[derive(Clone, Debug)]
pub struct Task {
    /// A name of its own.
    pub name: String,
    /// The line of shell that does it, with the functions of `ci/jobs`.
    pub line: String,
}

/// A cell as a task.
pub fn task(cell: &Cell, image: &Image) -> Task {
    Task { name: cell.name.to_owned(), line: line(cell.name, cell, &image.line) }
}

/// What is done in one lab.
pub struct Work<'a> {
    /// Which.
    pub lab: Lab,
    /// In this order.
    pub tasks: Vec<Task>,
    /// More files for L1.
    pub files: Vec<(String, PathBuf)>,
    /// The image.
    pub image: &'a Image,
    /// Show what L1 prints.
    pub verbose: bool,
}

/// Does it; tells each verdict as it comes.
pub fn run(work: &Work, told: &mut dyn FnMut(&str, Verdict)) {
    let mut left: Vec<&Task> = work.tasks.iter().collect();
    let mut note = String::new();
    for attempt in 0..2 {
        let folder = if attempt == 0 { work.lab.folder() } else { work.lab.verified() };
        let folder = match folder {
            Ok(folder) => folder,
            Err(why) => {
                left.iter().for_each(|task| told(&task.name, Verdict::failed(format!("no lab: {why}"))));
                return;
            }
        };
        let mut progress: BTreeMap<String, Progress> = BTreeMap::new();
        let mut tell = |name: &str, verdict| told(name, Verdict { note: note.clone(), ..verdict });
        let ended = boot(work, &folder, &left, &mut tell, &mut progress);
        left.retain(|task| progress.get(&task.name).is_none_or(|p| p.verdict.is_none()));
        if left.is_empty() {
            return;
        }
        let why = match ended {
            Ok(Ended::Done) => "the job ended without a word about it".to_owned(),
            Ok(Ended::NeverUp(why) | Ended::Broke(why)) | Err(why) => why,
        };
        if attempt == 1 {
            for task in &left {
                let log = progress.get(&task.name).map(|p| p.log.join("\n")).unwrap_or_default();
                tell(&task.name, Verdict::failed(format!("{why}\n{log}")));
            }
            return;
        }
        // what was under way when L1 stopped may stop it again: the others come first
        left.sort_by_key(|task| progress.contains_key(&task.name));
        note = format!("second try; first: {why}");
        println!("      {} again, in a fresh L1: {why}", left.len());
    }
}

fn boot(
    work: &Work,
    folder: &Path,
    tasks: &[&Task],
    told: &mut dyn FnMut(&str, Verdict),
    progress: &mut BTreeMap<String, Progress>,
) -> Result<Ended, String> {
    let visit = std::env::current_exe().map_err(|e| e.to_string())?.with_file_name("visit");
    let mut files: Vec<(String, PathBuf)> = vec![("visit".into(), visit), ("kernel".into(), work.image.kernel.clone())];
    files.extend(work.files.iter().cloned());
    if work.lab == Lab::VirtualBox {
        files.push(("matrix.vdi".into(), work.image.vdi()?));
    }
    let job = Job {
        lab: work.lab,
        script: script(work.lab, tasks),
        files,
        image: &work.image.file,
        limit: Duration::from_secs(120 + (seconds(work.lab) + 60) * tasks.len() as u64),
        silence: Duration::from_secs(seconds(work.lab) + 60),
        verbose: work.verbose,
    };
    lab::run(&job, folder, &mut |line| {
        let Some((name, rest)) = line.strip_prefix("@cell ").and_then(|l| l.split_once(' ')) else { return };
        if !tasks.iter().any(|t| t.name == name) {
            return;
        }
        let p = progress.entry(name.to_owned()).or_default();
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
                told(name, Verdict { outcome: verdict.clone(), seconds: p.seconds, note: String::new() });
            }
            _ => {}
        }
    })
}

/// The job: one line for each task.
fn script(lab: Lab, tasks: &[&Task]) -> String {
    let (library, up) = match lab {
        Lab::Kvm => ("kvm.sh", "kvm_up"),
        Lab::Xen => ("xen.sh", "xen_up"),
        Lab::VirtualBox => ("virtualbox.sh", "virtualbox_up"),
    };
    let lines: Vec<&str> = tasks.iter().map(|task| task.line.as_str()).collect();
    format!(". ./{library}\n{up}\n{}\n", lines.join("\n"))
}

/// The line for a cell, under any name.
pub fn line(name: &str, cell: &Cell, append: &str) -> String {
    let limit = cell.lab().map_or(0, seconds);
    match cell.place {
        Place::Kvm(q, shows) => {
            let accel = match shows {
                // Xen 4.17: what QEMU's emulation knows
                Signature::Xen => "kvm,xen-version=0x40011,kernel-irqchip=split",
                _ => "kvm",
            };
            let words = qemu::arguments(&q, Some(shows), cell.boot, cell.cpus, ("kernel", append));
            let words: Vec<String> = words.iter().map(|w| quoted(w)).collect();
            format!("guest {name} {limit} -accel {accel} {}", words.join(" "))
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
            format!("domain {name} {limit} {} {}", cell.cpus, lines.join(" "))
        }
        Place::VirtualBox(nic, disk) => format!("machine {name} {limit} {nic} {disk}"),
        Place::Emulated(_) => format!("fail {name} 'not a cell of a lab'"),
    }
}

/// For the shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
