//! Robustness: whatever a program, an image or a too small machine does has a clear outcome, and never a panic.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::compile::{Variant, c_program, folder};
use crate::options::{Options, Place};
use crate::report::{Bad, Outcome, Suite};
use crate::run::{Scratch, must, run, tail};
use crate::vm::{Spec, Vm, with_vm};

/// A bad program and what must come of it.
struct Abuse {
    mode: &'static str,
    code: i32,
    prints: &'static str,
    memory: &'static str,
    /// Would harm the host itself.
    harmful: bool,
}

const ABUSES: &[Abuse] = &[
    Abuse { mode: "unknown", code: 0, prints: "ENOSYS each time", memory: "128M", harmful: false },
    Abuse { mode: "jump", code: 139, prints: "jumping", memory: "128M", harmful: false },
    Abuse { mode: "jump-kernel", code: 0, prints: "SIGSEGV each time", memory: "128M", harmful: false },
    Abuse { mode: "stack", code: 139, prints: "without a stack", memory: "128M", harmful: false },
    Abuse { mode: "faults", code: 0, prints: "each one killed", memory: "128M", harmful: false },
    Abuse { mode: "memory", code: 0, prints: "survived three times", memory: "128M", harmful: true },
    Abuse { mode: "bomb", code: 0, prints: "recovered after errno", memory: "128M", harmful: true },
    Abuse { mode: "opens", code: 0, prints: "opens, then EMFILE", memory: "512M", harmful: false },
];

/// Runs every case at every place.
pub fn suite(options: &Options) -> Result<bool, String> {
    let program = c_program(&folder().join("guests/abuse.c"), Variant::GlibcStatic)?;
    let mut good = true;
    for place in options.combinations() {
        let mut suite = Suite::new(format!("robust {place}"));
        for abuse in ABUSES.iter().filter(|a| a.mode.contains(&options.filter)) {
            suite.case(abuse.mode, || badly(options, &place, &program, abuse));
        }
        if "eat-alone".contains(&options.filter) {
            suite.case("eat-alone", || eat_alone(options, &place, &program));
        }
        if let Place::Vm { machine, cpus: 1 } = &place {
            if "least-memory".contains(&options.filter) {
                suite.case("least-memory", || least_memory(options, &place, &program).map(|_| ()));
            }
            if "truncated-image".contains(&options.filter) {
                suite.case("truncated-image", || truncated_image(options, machine, &program));
            }
        }
        good &= suite.finish();
    }
    Ok(good)
}

/// The kernel must never panic.
fn no_panic(vm: &Vm) -> Result<(), String> {
    let log = vm.log().to_lowercase();
    match log.lines().find(|l| l.contains("panic")) {
        Some(line) => Err(format!("the kernel panicked: {line}")),
        None => Ok(()),
    }
}

fn badly(options: &Options, place: &Place, program: &Path, abuse: &Abuse) -> Outcome {
    if abuse.harmful && *place == Place::Host {
        return Err(Bad::Skipped("would harm this machine".into()));
    }
    let spec =
        Spec::new(&format!("robust-{}-{place}", abuse.mode), program, &[abuse.mode]).memory(abuse.memory).limit(150);
    with_vm(options, place, &spec, |vm| {
        let code = vm.exit_code();
        no_panic(vm)?;
        if code? != abuse.code {
            return Err(format!("not exit code {}", abuse.code).into());
        }
        if !vm.stdout().contains(abuse.prints) {
            return Err(format!("did not print {:?}", abuse.prints).into());
        }
        if abuse.mode == "opens" && *place != Place::Host && !vm.stdout().contains("100000 opens") {
            return Err("the first process may not open 100,000 files".into());
        }
        if abuse.mode == "unknown" && *place != Place::Host {
            let told = vm.log().lines().filter(|l| l.contains("5000")).count();
            if told != 1 {
                return Err(format!("system call 5000, called 500 times, is logged in {told} lines, expected 1").into());
            }
        }
        Ok(())
    })
}

/// The only program eats all memory: it is killed, and one log line says why.
fn eat_alone(options: &Options, place: &Place, program: &Path) -> Outcome {
    if *place == Place::Host {
        return Err(Bad::Skipped("would harm this machine".into()));
    }
    let spec = Spec::new(&format!("robust-eat-{place}"), program, &["eat"]).memory("128M").limit(120);
    with_vm(options, place, &spec, |vm| {
        let code = vm.exit_code();
        no_panic(vm)?;
        match code? {
            12 => Ok(()), // mmap said ENOMEM
            137 if vm.log().to_lowercase().contains("memory") => Ok(()),
            137 => Err("killed, but no log line speaks of memory".into()),
            other => Err(format!("exit code {other}, expected 137 (killed) or 12 (ENOMEM)").into()),
        }
    })
}

/// Whether a static hello runs with so many MiB; the exit code and log when it does not.
pub fn hello_runs(
    options: &Options,
    place: &Place,
    program: &Path,
    mebibytes: u32,
) -> Result<(), (Option<i32>, String)> {
    let spec =
        Spec::new("least-memory", program, &[]).memory(&format!("{mebibytes}M")).options(&["--net", "none"]).limit(40);
    let mut vm = Vm::start(options, place, &spec).map_err(|e| (None, e))?;
    let code = vm.exit_code();
    match code {
        Ok(0) if vm.stdout().contains("hello") => Ok(()),
        Ok(code) => Err((Some(code), vm.log())),
        Err(why) => Err((None, format!("{why}\n{}", vm.log()))),
    }
}

/// Finds the smallest memory that works, at most 16 MiB; one MiB less must be told in one clear line.
pub fn least_memory(options: &Options, place: &Place, program: &Path) -> Result<u32, Bad> {
    if let Err((code, log)) = hello_runs(options, place, program, 16) {
        return Err(format!("a static hello does not run with 16M: {code:?}\n{}", tail(&log, 15)).into());
    }
    let mut works = 16;
    while works > 8 && hello_runs(options, place, program, works - 1).is_ok() {
        works -= 1;
    }
    // below 8M it is the command that refuses
    match hello_runs(options, place, program, works - 1) {
        Ok(()) => Err(format!("runs with {}M after it did not", works - 1).into()),
        Err((Some(code @ (125 | 2)), log)) if log.to_lowercase().contains("memory") => {
            println!("      {place}: a static hello needs {works}M; with {}M: exit code {code}", works - 1);
            Ok(works)
        }
        Err((code, log)) => {
            let log = tail(&log, 15);
            Err(format!("with {}M: exit code {code:?}, expected 125 and a line about memory\n{log}", works - 1).into())
        }
    }
}

/// An image that was cut short, in several places: an error of one line, not a hang, not a panic.
fn truncated_image(options: &Options, machine: &str, program: &Path) -> Outcome {
    let folder = Scratch::new("truncated")?;
    let image: PathBuf = folder.path().join("hello.erofs");
    must(
        Command::new(&options.coracle).args(["build", "-o"]).arg(&image).arg("--").arg(program),
        Duration::from_secs(60),
    )?;
    let whole = std::fs::read(&image)?;
    let boot = |path: &Path| {
        let mut c = Command::new(&options.coracle);
        c.args(["run", "--accel", "tcg", "--machine", machine, "-m", "128M"]);
        if let Some(kernel) = &options.kernel {
            c.arg("--kernel").arg(kernel);
        }
        run(c.arg("--").arg(path), Duration::from_secs(60))
    };
    let good = boot(&image)?;
    if good.code != 0 || !good.text.contains("hello") {
        return Err(format!("the whole image gives {}: {}", good.code, tail(&good.text, 10)).into());
    }
    for length in [0, 512, 4096, whole.len() / 2, whole.len() - 4096] {
        let cut = folder.write("cut.erofs", &whole[..length.min(whole.len())])?;
        let done = boot(&cut)?;
        let text = done.text.to_lowercase();
        let clear = ["truncated", "corrupt", "cut", "not an image", "damaged", "short", "image"]
            .iter()
            .any(|w| text.contains(w));
        if done.code == 0 || text.contains("panic") || !clear {
            return Err(format!(
                "{length} of {} bytes: exit code {}, no clear error: {}",
                whole.len(),
                done.code,
                tail(&done.text, 10)
            )
            .into());
        }
    }
    Ok(())
}
