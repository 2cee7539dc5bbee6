//! Programs that do their work and end: a Lua script, Python with threads, subprocesses and asyncio, a shell.

use std::io::Write;

use super::http::python_of_this_machine;
use super::program;
use crate::compile::folder;
use crate::options::{Options, Place};
use crate::report::Outcome;
use crate::vm::{Spec, with_vm};

/// The path of a script in `tests/guests`.
fn guest(name: &str) -> String {
    folder().join("guests").join(name).display().to_string()
}

/// Runs a program that must print these lines, in this order, and end with this code.
fn must_print(options: &Options, place: &Place, spec: &Spec, lines: &[&str], code: i32) -> Outcome {
    with_vm(options, place, spec, |vm| {
        vm.must_exit(code)?;
        let text = vm.stdout();
        let got: Vec<&str> = text.lines().collect();
        if got != lines {
            return Err(format!("printed {got:?}, expected {lines:?}").into());
        }
        Ok(())
    })
}

/// A Lua script: its library functions, files, its exit code.
pub fn lua(options: &Options, place: &Place) -> Outcome {
    let script = guest("script.lua");
    let spec =
        Spec::new(&format!("lua-{place}"), program("lua5.4")?, &[&script, "argument"]).options(&["--with", &script]);
    let lines = [
        "primes 303",
        "sorted true",
        "file line 500",
        "argument argument",
        "coroutines 55",
        "pcall false",
        "time true",
    ];
    must_print(options, place, &spec, &lines, 7)
}

/// What `mixed.py` prints.
pub const MIXED: &[&str] = &[
    "threads 40000",
    "subprocess b'child 42\\n' 3",
    "pipe b'GNINROM DOOG\\n'",
    "asyncio 20",
    "sockets 50",
    "signal 10",
    "files 100",
    "mixed ok",
];

/// The exit code of `mixed.py`.
pub const MIXED_CODE: u8 = 5;

/// Python: threads, subprocess, asyncio, a process pool, files, signals.
pub fn python_mixed(options: &Options, place: &Place) -> Outcome {
    let script = guest("mixed.py");
    let (python, library) = python_of_this_machine()?;
    let mut spec =
        Spec::new(&format!("python-mixed-{place}"), python, &[&script]).options(&["--with", &script]).limit(240);
    spec.options.extend(library);
    must_print(options, place, &spec, MIXED, MIXED_CODE.into())
}

/// A shell with pipes, background jobs, substitution, traps.
pub fn busybox(options: &Options, place: &Place) -> Outcome {
    let script = guest("jobs.sh");
    let busybox = program("busybox")?;
    let mut spec = Spec::new(&format!("busybox-{place}"), &busybox, &["sh", &script]).options(&["--with", &script]);
    spec.env.push(("BUSYBOX".into(), busybox.display().to_string()));
    let lines = [
        "pipe 100 99 98",
        "jobs 1 2 3 4",
        "status 3",
        "substitution 5050",
        "trap caught",
        "here document 2 lines",
        "subshell alone",
        "files a b c",
        "killed 143",
        "done",
    ];
    must_print(options, place, &spec, &lines, 4)
}

/// What goes in comes out, byte for byte, and the end of the input ends the program.
pub fn cat(options: &Options, place: &Place) -> Outcome {
    let mut spec = Spec::new(&format!("cat-{place}"), program("busybox")?, &["cat"]);
    spec.stdin = true;
    with_vm(options, place, &spec, |vm| {
        let sent: Vec<u8> = (0..20_000u32).map(|i| ((i * 31) >> 4) as u8).collect();
        let mut stdin = vm.stdin.take().ok_or("no stdin")?;
        stdin.write_all(&sent)?;
        drop(stdin);
        vm.must_exit(0)?;
        if vm.stdout_bytes() != sent {
            return Err(format!("{} bytes came back of {}, or others", vm.stdout_bytes().len(), sent.len()).into());
        }
        Ok(())
    })
}
