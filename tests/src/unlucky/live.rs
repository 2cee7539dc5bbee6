//! What happens to a VM while it runs: its disk goes away, somebody presses the power button.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::qmp::Qmp;
use super::{Case, Rig};
use crate::e2e::redis;
use crate::report::Outcome;
use crate::run::{Group, retry, which};
use crate::vm::{Spec, with_vm};

/// The disks whose medium is taken away, each a family of drivers.
pub fn disks_gone(machine: &str) -> &'static [Case] {
    const ALL: &[Case] = &[
        ("disk-gone virtio", |rig| disk_gone(rig, "virtio")),
        ("disk-gone virtio-scsi", |rig| disk_gone(rig, "virtio-scsi")),
        ("disk-gone ahci", |rig| disk_gone(rig, "ahci")),
        ("disk-gone ide", |rig| disk_gone(rig, "ide")),
        ("disk-gone nvme", |rig| disk_gone(rig, "nvme")),
        ("disk-gone pvscsi", |rig| disk_gone(rig, "pvscsi")),
    ];
    if machine == "microvm" { &ALL[..2] } else { ALL }
}

/// The root's disk fails for good: what is in memory stays, what is not gives EIO or SIGBUS, the kernel goes on.
fn disk_gone(rig: &Rig, disk: &str) -> Outcome {
    let socket = rig.scratch.path().join(format!("gone-{disk}"));
    let [qmp, to] = Qmp::options(&socket);
    let volume = format!("{}:/data", rig.scratch.path().join("data").display());
    let name = format!("disk-gone-{disk}-{}", rig.place);
    let mut spec = Spec::new(&name, &rig.program, &["disk", "/data/file", "-1"])
        .memory("128M")
        .options(&["--disk", disk, "--net", "none", "-v", &volume, &qmp, &to]);
    spec.stdin = true;
    with_vm(&rig.options, &rig.place, &spec, |vm| {
        vm.until_prints("ready")?;
        Qmp::connect(&socket)?.take_disk("root")?;
        vm.stdin.as_mut().ok_or("no stdin")?.write_all(b"g\n")?;
        vm.must_exit(0)?;
        if vm.stdout().contains("disk: all right") { Ok(()) } else { Err("the program did not get to its end".into()) }
    })
}

/// A program that does not care for SIGTERM ends by it, and the exit code says so. A microvm's button does nothing.
pub fn power_button(rig: &Rig) -> Outcome {
    let socket = rig.scratch.path().join("button");
    let [qmp, to] = Qmp::options(&socket);
    let spec = Spec::new(&format!("power-button-{}", rig.place), &rig.program, &["wait"])
        .memory("128M")
        .options(&["--net", "none", &qmp, &to]);
    with_vm(&rig.options, &rig.place, &spec, |vm| {
        vm.until_prints("ready")?;
        Qmp::connect(&socket)?.power_button()?;
        if !rig.is_microvm() {
            return Ok(vm.must_exit(128 + 15)?);
        }
        thread::sleep(Duration::from_millis(300));
        if !vm.runs() {
            return Err("the VM ended".into());
        }
        vm.signal(Signal::INT);
        Ok(vm.must_exit(130)?)
    })
}

/// Redis serves a benchmark when the button is pressed: it gets SIGTERM and ends in order.
pub fn button_under_load(rig: &Rig) -> Outcome {
    let socket = rig.scratch.path().join("load");
    let [qmp, to] = Qmp::options(&socket);
    let mut spec = redis::spec(&rig.place)?.options(&[&qmp, &to]);
    spec.name = format!("button-under-load-{}", rig.place);
    with_vm(&rig.options, &rig.place, &spec, |vm| {
        let mut redis = redis::connect(vm)?;
        let port = vm.port.to_string();
        let mut bench = Command::new(which("redis-benchmark").ok_or("redis-benchmark is not installed")?);
        bench.args(["-p", &port, "-c", "4", "-n", "100000000", "-P", "16", "-t", "set", "-r", "1000", "-q"]);
        let mut load = Group::spawn(bench.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
        retry(vm.left(), || match redis.call(&["GET", "key:000000000007"])?.text().as_str() {
            "" => Err("the load does not come".to_owned()),
            _ => Ok(()),
        })?;
        if !matches!(load.0.try_wait(), Ok(None)) {
            return Err("the benchmark has ended".into());
        }
        Qmp::connect(&socket)?.power_button()?;
        vm.must_exit(0)?;
        match vm.stdout() {
            text if text.contains("Received SIGTERM") && text.contains("bye bye") => Ok(()),
            _ => Err("Redis did not end by SIGTERM in order".into()),
        }
    })
}
