//! The life of a VM, with a shell script in QEMU's place: output, input, exit codes, signals, and that nothing is left.

mod common;

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Sandbox, assert_error, text};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn pid_in(path: &std::path::Path) -> Option<Pid> {
    Pid::from_raw(std::fs::read_to_string(path).ok()?.trim().parse().ok()?)
}

#[test]
fn output_and_exit_code() {
    let s = Sandbox::new();
    let script = r"printf '\037info: booting\n\036 coracle:framing\nto out\n\0202to err\n\0201\037note\nmore\n\036 coracle:exit 200\n'; exit 145";
    let out = s.with_qemu(script).args(["run", "-q", "sh"]).output().unwrap();
    assert_eq!(out.status.code(), Some(200));
    assert_eq!(text(&out.stdout), "to out\nmore\n");
    assert_eq!(text(&out.stderr), "to err\n");
    let out = s.with_qemu(script).args(["run", "-q", "--verbose", "sh"]).output().unwrap();
    let said = text(&out.stderr);
    assert!(said.contains("kernel: info: booting\n") && said.contains("-kernel"), "{said}");
}

#[test]
fn the_status_counts_when_there_is_no_line() {
    let s = Sandbox::new();
    let code = |script: &str| s.with_qemu(script).args(["run", "-q", "sh"]).output().unwrap();
    assert_eq!(code("exit 1").status.code(), Some(0));
    assert_eq!(code("exit 7").status.code(), Some(3));
    assert_error(&code("exit 0"), 125, &["stopped by itself", "--verbose"]);
    assert_error(&code("echo 'qemu: no such device' >&2; exit 1"), 125, &["QEMU failed", "no such device"]);
}

#[test]
fn a_panic_shows_the_kernels_words() {
    let s = Sandbox::new();
    let out = s
        .with_qemu(r"printf 'x\n\037panic: at page 7\n\036 coracle:panic\n'; exit 251")
        .args(["run", "-q", "sh"])
        .output()
        .unwrap();
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(125));
    assert!(said.contains("kernel: panic: at page 7") && said.contains("the kernel panicked"), "{said}");
}

#[test]
fn the_kernels_refusal_is_shown() {
    let s = Sandbox::new();
    let script = r"printf '\037[0.1] error: the root is damaged\n\037[0.1] info: x\n\036 coracle:exit 125\n'; exit 251";
    let out = s.with_qemu(script).args(["run", "-q", "sh"]).output().unwrap();
    assert_eq!(out.status.code(), Some(125));
    assert_eq!(text(&out.stderr), "kernel: [0.1] error: the root is damaged\n");
}

#[test]
fn input_goes_to_the_guest_with_its_end() {
    let s = Sandbox::new();
    let script = r"printf '\036 coracle:framing\n'; head -c 8 >got; printf '\036 coracle:exit 0\n'; exit 1";
    let mut child = s.with_qemu(script).args(["run", "-q", "sh"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"ab\x10cd").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read(s.path("got")).unwrap(), b"ab\x10Pcd\x100");
}

/// Runs until the script has written its process id, sends `signal` to the command, and returns code and QEMU's id.
fn interrupted(s: &Sandbox, script: &str, signal: Signal) -> (Option<i32>, Pid, Duration) {
    let mut command = s.with_qemu(script);
    let mut child = command.args(["run", "-q", "sh"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let _open = child.stdin.take(); // or wait() would close it, and the guest be told
    wait_for("the VM", || pid_in(&s.path("pid")).is_some());
    let qemu = pid_in(&s.path("pid")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    kill_process(Pid::from_child(&child), signal).unwrap();
    let code = child.wait().unwrap().code();
    (code, qemu, start.elapsed())
}

#[test]
fn ctrl_c_ends_a_vm_that_knows_no_signals() {
    let s = Sandbox::new();
    let (code, qemu, time) = interrupted(&s, "echo $$ >pid; exec sleep 60", Signal::INT);
    assert_eq!(code, Some(130));
    assert!(time < Duration::from_secs(3), "{time:?}");
    assert!(test_kill_process(qemu).is_err(), "QEMU is still there");
}

#[test]
fn a_vm_that_does_not_listen_is_killed() {
    let s = Sandbox::new();
    let script = r#"trap "" TERM; printf '\036 coracle:framing\n'; echo $$ >pid; exec tail -f /dev/null"#;
    let (code, qemu, _) = interrupted(&s, script, Signal::TERM);
    assert_eq!(code, Some(143));
    assert!(test_kill_process(qemu).is_err(), "QEMU is still there");
}

#[test]
fn ctrl_c_reaches_the_program_first() {
    let s = Sandbox::new();
    let script =
        r"printf '\036 coracle:framing\n'; echo $$ >pid; head -c 4 >got; printf 'bye\n\036 coracle:exit 0\n'; exit 1";
    let (code, _, time) = interrupted(&s, script, Signal::INT);
    assert_eq!(code, Some(130));
    assert_eq!(std::fs::read(s.path("got")).unwrap(), b"\x10s02");
    assert!(time < Duration::from_secs(3), "{time:?}");
}

#[test]
fn no_orphan_is_left_when_the_command_is_killed() {
    let s = Sandbox::new();
    let (_, qemu, _) = interrupted(&s, "echo $$ >pid; exec sleep 60", Signal::KILL);
    wait_for("QEMU's end", || test_kill_process(qemu).is_err());
}

#[test]
fn a_reader_that_goes_away_ends_the_vm() {
    let s = Sandbox::new();
    let script = "echo $$ >pid; while :; do echo line; sleep 0.01; done";
    let mut child = s.with_qemu(script).args(["run", "-q", "sh"]).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the VM", || pid_in(&s.path("pid")).is_some());
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(141));
}
