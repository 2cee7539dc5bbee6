//! The conformance suite: the same programs on the host's Linux and in VMs, compared check by check.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::compile::{self, Program, Variant};
use crate::options::{Options, Place};
use crate::report::Suite;
use crate::run::{Scratch, run, tail};
use crate::vm::{Spec, Vm, volume};

/// How one check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it must.
    Ok,
    /// Not as it must; why.
    NotOk(String),
    /// It could not be tried; why.
    Skip(String),
}

/// Check by check, by name.
pub type Verdicts = BTreeMap<String, Verdict>;

/// A program may take so long on the host, and in a VM.
const HOST_LIMIT: Duration = Duration::from_secs(120);
const GUEST_LIMIT: u64 = 120;
/// A check ends within CONF_TIMEOUT (40 s): a guest that prints nothing for longer hangs.
const SILENCE: Duration = Duration::from_secs(60);

/// Reads the lines that a conformance program prints.
pub fn parse(text: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    for line in text.lines() {
        let (kind, rest) = if let Some(r) = line.strip_prefix("ok ") {
            (0, r)
        } else if let Some(r) = line.strip_prefix("not ok ") {
            (1, r)
        } else if let Some(r) = line.strip_prefix("skip ") {
            (2, r)
        } else {
            continue;
        };
        let (name, why) = rest.split_once(": ").unwrap_or((rest, ""));
        let verdict = match kind {
            0 => Verdict::Ok,
            1 => Verdict::NotOk(why.to_owned()),
            _ => Verdict::Skip(why.to_owned()),
        };
        // the first bad word counts: nothing later can mend it
        let old = verdicts.get(name);
        if old.is_none() || old == Some(&Verdict::Ok) {
            verdicts.insert(name.to_owned(), verdict);
        }
    }
    verdicts
}

/// Splits the output of `runall` into the parts of its programs: lines, and the exit status when it ended.
fn split(text: &str) -> BTreeMap<String, (String, Option<i32>)> {
    let mut parts = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("=== end ") {
            if let Some(part) = current.take().and_then(|n| parts.get_mut(&n)) {
                let (_, status): &mut (String, Option<i32>) = part;
                *status = rest.split(' ').next().and_then(|s| s.parse().ok());
            }
        } else if line == "=== done" {
            current = None;
        } else if let Some(name) = line.strip_prefix("=== ") {
            parts.insert(name.to_owned(), (String::new(), None));
            current = Some(name.to_owned());
        } else if let Some((lines, _)) = current.as_ref().and_then(|n| parts.get_mut(n)) {
            lines.push_str(line);
            lines.push('\n');
        }
    }
    parts
}

/// The whole suite: the host first, then each VM against what the host said.
pub fn suite(options: &Options) -> Result<bool, String> {
    let variants = compile::variants_here();
    let started = Instant::now();
    let programs: Vec<Program> =
        compile::conformance(&variants)?.into_iter().filter(|p| label(p).contains(&options.filter)).collect();
    println!("      {} conformance programs built in {:.0} s", programs.len(), started.elapsed().as_secs_f32());
    let mut good = true;
    let mut suite = Suite::new("conformance host");
    let mut expected = BTreeMap::new();
    for program in &programs {
        let verdicts = on_host(program, options.nofork).unwrap_or_else(|why| broken(&why));
        count(&mut suite, &label(program), &verdicts, &verdicts);
        expected.insert(label(program), verdicts);
    }
    for missing in compile::VARIANTS.iter().filter(|v| !variants.contains(v)) {
        suite.fail(missing.name(), "no compiler for it here (Debian: musl-tools)");
    }
    good &= suite.finish();
    if options.host {
        return Ok(good);
    }
    for (n, place) in options.combinations().iter().enumerate() {
        // every variant in the first boot; the others need only one of each C library and way to link
        let chosen: Vec<&Program> =
            programs.iter().filter(|p| n == 0 || matches!(p.variant, Variant::Glibc | Variant::MuslStatic)).collect();
        let mut suite = Suite::new(format!("conformance {place}"));
        let got =
            if options.nofork { one_by_one(options, place, &chosen) } else { in_one_boot(options, place, &chosen) }?;
        for program in &chosen {
            let none = Verdicts::new();
            let name = label(program);
            count(&mut suite, &name, &expected[&name], got.get(&name).unwrap_or(&none));
        }
        good &= suite.finish();
    }
    Ok(good)
}

fn label(program: &Program) -> String {
    format!("{}.{}", program.name, program.variant.name())
}

fn broken(why: &str) -> Verdicts {
    Verdicts::from([("program".to_owned(), Verdict::NotOk(why.to_owned()))])
}

fn on_host(program: &Program, nofork: bool) -> Result<Verdicts, String> {
    let mut command = Command::new(&program.path);
    if nofork {
        command.env("CONF_NOFORK", "1");
    }
    let done = run(&mut command, HOST_LIMIT)?;
    Ok(complete(parse(&done.text), &done.text, Some(done.code)))
}

/// Adds a failed `program` when the output does not end as it must.
fn complete(mut verdicts: Verdicts, text: &str, status: Option<i32>) -> Verdicts {
    let bad = verdicts.values().any(|v| matches!(v, Verdict::NotOk(_)));
    let ended = text.lines().any(|l| l.starts_with("# ") && l.contains(" passed, "));
    let why = match status {
        None => "did not come to its end".to_owned(),
        Some(code) if !ended => format!("ended early with exit code {code}"),
        Some(0) => return verdicts,
        Some(_) if bad => return verdicts,
        Some(code) => format!("exit code {code} though every check passed"),
    };
    verdicts.insert("program".into(), Verdict::NotOk(why));
    verdicts
}

/// Counts the checks of a program against what the host's Linux said.
fn count(suite: &mut Suite, program: &str, host: &Verdicts, got: &Verdicts) {
    let mut missing = 0;
    for (check, expected) in host {
        let name = format!("{program} {check}");
        match (expected, got.get(check)) {
            (Verdict::NotOk(why), _) => suite.fail(&name, &format!("fails on Linux itself: {why}")),
            (Verdict::Skip(why), _) | (_, Some(Verdict::Skip(why))) => suite.skip(&name, why),
            (Verdict::Ok, Some(Verdict::Ok)) => suite.pass(),
            (Verdict::Ok, Some(Verdict::NotOk(why))) => suite.fail(&name, why),
            (Verdict::Ok, None) => missing += 1,
        }
    }
    suite.fail_many(missing, program, "were not reached");
    for (check, verdict) in got {
        if let (None, Verdict::NotOk(why)) = (host.get(check), verdict) {
            suite.fail(&format!("{program} {check}"), why);
        }
    }
}

/// What the guest needs beside the programs: the loaders and C libraries, and a shell.
fn companions() -> Vec<String> {
    let files = [
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib/x86_64-linux-gnu/libgcc_s.so.1", // glibc loads it for pthread_cancel
        "/lib/ld-musl-x86_64.so.1",
    ];
    let mut options: Vec<String> =
        files.iter().filter(|f| PathBuf::from(f).exists()).map(|f| format!("--with={f}")).collect();
    if let Some(busybox) = crate::run::which("busybox") {
        options.push(format!("--with={}:/bin/sh", busybox.display()));
    }
    options
}

/// All programs in one boot, by the driver `runall`. A program that brings the kernel down costs only itself: the
/// rest is tried in another boot.
fn in_one_boot(options: &Options, place: &Place, programs: &[&Program]) -> Result<BTreeMap<String, Verdicts>, String> {
    let driver = compile::c_program(&compile::folder().join("conformance/runall.c"), Variant::GlibcStatic)?;
    let folder = Scratch::new("conformance")?;
    for program in programs {
        std::fs::copy(&program.path, folder.path().join(label(program))).map_err(|e| e.to_string())?;
    }
    let mut left: Vec<String> = programs.iter().map(|p| label(p)).collect();
    let mut verdicts = BTreeMap::new();
    for boot in 0..8 {
        if left.is_empty() {
            break;
        }
        let mut spec = Spec::new(&format!("conformance-{place}-{boot}"), &driver, &[&GUEST_LIMIT.to_string()]);
        spec.args.extend(left.iter().map(|n| format!("/conf/{n}")));
        spec.options = companions();
        spec.options.extend(["-v".into(), volume(&folder, "/conf")]);
        spec.env.push(("CONF_TIMEOUT".into(), "40".into()));
        spec.env.push(("PATH".into(), "/usr/bin:/bin".into()));
        spec.limit = Duration::from_secs(120 + 20 * left.len() as u64);
        let mut vm = Vm::start(options, place, &spec)?;
        let code = vm.exit_code_unless_silent(SILENCE);
        let text = vm.stdout();
        let parts = split(&text);
        let reached = parts.len();
        for (name, (lines, status)) in parts {
            if status.is_none() {
                println!(
                    "      {place}: {name} ended the VM: {code:?}\n      {}",
                    tail(&vm.log(), 15).replace('\n', "\n      ")
                );
            }
            left.retain(|l| *l != name);
            verdicts.insert(name, complete(parse(&lines), &lines, status));
        }
        if reached == 0 {
            println!(
                "      {place}: nothing came out: {code:?}\n      {}",
                tail(&vm.log(), 25).replace('\n', "\n      ")
            );
            break;
        }
    }
    Ok(verdicts)
}

/// One boot for each program, without fork: for a kernel that is not that far.
fn one_by_one(options: &Options, place: &Place, programs: &[&Program]) -> Result<BTreeMap<String, Verdicts>, String> {
    let mut verdicts = BTreeMap::new();
    for program in programs {
        let mut spec = Spec::new(&format!("nofork-{}-{place}", label(program)), &program.path, &[]);
        spec.env.push(("CONF_NOFORK".into(), "1".into()));
        spec.options = companions();
        let mut vm = Vm::start(options, place, &spec)?;
        let code = vm.exit_code();
        let text = vm.stdout();
        if code.as_ref().is_ok_and(|c| *c > 1) || code.is_err() {
            println!("      {}: {code:?}\n      {}", label(program), tail(&vm.log(), 12).replace('\n', "\n      "));
        }
        verdicts.insert(label(program), complete(parse(&text), &text, code.ok()));
    }
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_verdicts() {
        let v = parse(
            "ok a\nnot ok b: line 3: x: y\nskip c: no shell\nnoise\nok d\nnot ok d: later\n# 2 passed, 1 failed, 1 skipped\n",
        );
        assert_eq!(v["a"], Verdict::Ok);
        assert_eq!(v["b"], Verdict::NotOk("line 3: x: y".into()));
        assert_eq!(v["c"], Verdict::Skip("no shell".into()));
        assert_eq!(v["d"], Verdict::NotOk("later".into()));
        assert_eq!(v.len(), 4);
    }

    #[test]
    fn an_early_end_is_a_failure() {
        let bad =
            |text: &str, status| matches!(complete(parse(text), text, status).get("program"), Some(Verdict::NotOk(_)));
        assert!(!bad("ok a\n# 1 passed, 0 failed, 0 skipped\n", Some(0)));
        assert!(bad("ok a\n# 1 passed, 0 failed, 0 skipped\n", Some(3)));
        assert!(bad("ok a\n", Some(0)));
        assert!(bad("ok a\n", None));
    }

    #[test]
    fn parts_of_a_boot() {
        let parts = split("boot\n=== one\nok a\n=== end 0 12\n=== two\nok b\nnot ok");
        assert_eq!(parts["one"], ("ok a\n".into(), Some(0)));
        assert_eq!(parts["two"].1, None);
    }
}
