//! Runs jobs in the labs that `ci/lab` builds: a machine ("L1") in QEMU's emulation, with a real hypervisor in it.
//!
//! Here: getting a lab, booting L1 with a job, its output. Not here: what the jobs are (`ci/jobs`, `matrix`).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::compile::folder;
use crate::run::{Group, Scratch, must, which};

/// A machine with a hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lab {
    /// Linux with KVM.
    Kvm,
    /// Xen with Linux as dom0.
    Xen,
    /// Linux with VirtualBox.
    VirtualBox,
}

/// What L1 is to do.
pub struct Job<'a> {
    /// Where.
    pub lab: Lab,
    /// Lines of shell; the libraries of `ci/jobs` lie beside them.
    pub script: String,
    /// More files to lie there: name and source.
    pub files: Vec<(String, PathBuf)>,
    /// L1's third disk, `/dev/vdc`: it may be written there, the file stays as it is.
    pub image: &'a Path,
    /// For all of it.
    pub limit: Duration,
    /// Without a line for so long it hangs.
    pub silence: Duration,
    /// Show what L1 prints.
    pub verbose: bool,
}

/// How an L1 ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The job ran to its end.
    Done,
    /// It never got to the job.
    NeverUp(String),
    /// It stopped in the middle.
    Broke(String),
}

impl Lab {
    /// The name that `ci/lab` knows.
    fn builder(self) -> &'static str {
        match self {
            Lab::Kvm | Lab::Xen => "xen",
            Lab::VirtualBox => "virtualbox",
        }
    }

    /// Its folder; built when it is missing.
    pub fn folder(self) -> Result<PathBuf, String> {
        self.ask(&[])
    }

    /// Its folder, every file checked; built again when damaged.
    pub fn verified(self) -> Result<PathBuf, String> {
        self.ask(&["--verify"])
    }

    fn ask(self, options: &[&str]) -> Result<PathBuf, String> {
        let mut command = Command::new(folder().join("../ci/lab"));
        command.args(options).arg(self.builder());
        let text = must(&mut command, Duration::from_secs(1800))?;
        // what it says while it builds is in between
        let path = text.lines().map(PathBuf::from).find(|p| p.is_absolute() && p.join("MANIFEST").exists());
        path.ok_or_else(|| format!("ci/lab named no folder: {text}"))
    }

    /// Whether it would have to be built first.
    pub fn is_missing(self) -> bool {
        let mut command = Command::new(folder().join("../ci/lab"));
        must(command.args(["--missing", self.builder()]), Duration::from_secs(20)).is_ok()
    }

    /// QEMU's command line up to the kernel. The CPU models are those on which the hypervisors were seen to work: without SMAP dom0
    /// starts on QEMU 7, without MONITOR Xen does not trap in it, without RDTSCP PVH and HVM guests do not need a feature that is
    /// not emulated, without XSAVE QEMU 7's inconsistent leaves do no harm. VirtualBox loses interrupts with two CPUs.
    fn machine(self, at: &Path) -> Result<Command, String> {
        let (qemu, cpu, memory) = match self {
            Lab::Kvm => (self.qemu(at)?, "EPYC,+svm,+npt,-smap,-monitor,-xsave,-rdtscp", "2560"),
            Lab::Xen => (self.qemu(at)?, "EPYC,+svm,+npt,-smap,-monitor,-xsave,-rdtscp", "3072"),
            Lab::VirtualBox => (self.qemu(at)?, "max,+svm,+npt,-la57,-vgif", "3072"),
        };
        let mut c = Command::new(qemu);
        c.args(["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", cpu, "-smp", "1", "-m", memory]);
        c.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        let plain = "console=ttyS0 panic=5 mitigations=off loglevel=4";
        if self == Lab::Xen {
            c.arg("-kernel").arg(at.join("xen"));
            let line = "console=com1 com1=115200 loglvl=warning guest_loglvl=warning bootscrub=0 dom0_mem=1200M,max:1200M dom0_max_vcpus=1";
            c.args(["-append", line]);
            let modules = format!(
                "{} console=hvc0 panic=5 mitigations=off loglevel=4,{}",
                at.join("vmlinuz").display(),
                at.join("initrd").display()
            );
            c.args(["-initrd", &modules]);
        } else {
            c.arg("-kernel").arg(at.join("vmlinuz")).args(["-append", plain]).arg("-initrd").arg(at.join("initrd"));
        }
        Ok(c)
    }

    fn qemu(self, at: &Path) -> Result<PathBuf, String> {
        match self {
            Lab::VirtualBox => Ok(at.join("qemu/run")),
            _ => which("qemu-system-x86_64").ok_or_else(|| "qemu-system-x86_64 is not installed".into()),
        }
    }
}

/// What shows that L1 is beyond help.
const FATAL: &[&str] =
    &["Hardware Dom0 crashed", "Panic on CPU", "Kernel panic - not", "Hardware Dom0 shutdown: reboot"];

/// Boots L1 with a job and hands over its lines as they come.
pub fn run(job: &Job, at: &Path, on_line: &mut dyn FnMut(&str)) -> Result<Ended, String> {
    let scratch = Scratch::new("lab")?;
    let tar = pack(job, &scratch)?;
    let mut command = job.lab.machine(at)?;
    let disks = [
        (at.join("root.img"), "cache=unsafe,snapshot=on"),
        (tar, "readonly=on"),
        (job.image.to_owned(), "cache=unsafe,snapshot=on"),
    ];
    for (file, options) in disks {
        command.args(["-drive", &format!("if=virtio,format=raw,{options},file={}", file.display())]);
    }
    // snapshots are files here
    command.env("TMPDIR", scratch.path());
    let mut group = Group::spawn_bound(&command, Stdio::null())?;
    let lines = lines_of(&mut group);
    let (started, mut heard) = (Instant::now(), Instant::now());
    let (mut up, mut last) = (false, String::new());
    let broke = |up: bool, why: String| if up { Ended::Broke(why) } else { Ended::NeverUp(why) };
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                heard = Instant::now();
                if job.verbose {
                    println!("      {:6.1} {line}", started.elapsed().as_secs_f32());
                }
                if line.starts_with("@l1 up") {
                    up = true;
                } else if line.starts_with("@l1 done") {
                    return Ok(Ended::Done);
                } else if line.starts_with("@l1 failed") || FATAL.iter().any(|f| line.contains(f)) {
                    return Ok(broke(up, line));
                }
                on_line(&line);
                last = line;
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(broke(up, format!("L1 ended by itself; its last line was: {last}")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if started.elapsed() > job.limit {
            return Ok(broke(up, format!("not done within {} s; the last line was: {last}", job.limit.as_secs())));
        }
        if heard.elapsed() > job.silence {
            return Ok(broke(up, format!("L1 was silent for {} s; its last line was: {last}", job.silence.as_secs())));
        }
    }
}

fn lines_of(group: &mut Group) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let streams = [
        group.0.stdout.take().map(|s| Box::new(s) as Box<dyn std::io::Read + Send>),
        group.0.stderr.take().map(|s| Box::new(s) as _),
    ];
    for stream in streams.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
                let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
                if sender.send(line).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
    }
    receiver
}

/// The job as a tar of whole sectors, to be L1's second disk.
fn pack(job: &Job, scratch: &Scratch) -> Result<PathBuf, String> {
    let tree = scratch.path().join("job");
    std::fs::create_dir_all(&tree).map_err(|e| e.to_string())?;
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, tree.join(name)).map(|_| ()).map_err(|e| format!("cannot copy {}: {e}", from.display()))
    };
    let library = folder().join("../ci/jobs");
    for entry in std::fs::read_dir(&library).map_err(|e| format!("{}: {e}", library.display()))?.flatten() {
        copy(&entry.path(), &entry.file_name().to_string_lossy())?;
    }
    for (name, file) in &job.files {
        copy(file, name)?;
    }
    std::fs::write(tree.join("job.sh"), &job.script).map_err(|e| e.to_string())?;
    let tar = scratch.path().join("job.tar");
    let mut command = Command::new("tar");
    must(command.arg("-C").arg(&tree).arg("-cf").arg(&tar).arg("."), Duration::from_secs(120))?;
    Ok(tar)
}
