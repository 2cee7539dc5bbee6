//! End-to-end: real programs of this machine, unmodified, served from a VM to real clients.

pub mod http;
pub mod redis;
pub mod scripts;

use std::path::PathBuf;

use crate::options::{Options, Place};
use crate::report::{Bad, Outcome, Suite};
use crate::run::which;

/// One program: its name and what is done with it.
struct Case {
    name: &'static str,
    run: fn(&Options, &Place) -> Outcome,
}

const CASES: &[Case] = &[
    Case { name: "redis", run: redis::whole },
    Case { name: "redis-ctrl-c", run: redis::interrupted },
    Case { name: "redis-tap", run: redis::over_tap },
    Case { name: "nginx", run: http::nginx },
    Case { name: "memcached", run: redis::memcached },
    Case { name: "lua", run: scripts::lua },
    Case { name: "python-http", run: http::python },
    Case { name: "python-mixed", run: scripts::python_mixed },
    Case { name: "busybox-sh", run: scripts::busybox },
    Case { name: "go-http", run: http::go },
    Case { name: "rust-http", run: http::rust },
    Case { name: "stdin-stdout", run: scripts::cat },
];

/// Devices of other families than the default one, each pair with a machine and a number of CPUs.
const DEVICES: &[(&str, &str, &str, u32)] = &[
    ("e1000", "ahci", "pc", 1),
    ("e1000", "ahci", "q35", 2),
    ("e1000e", "nvme", "q35", 1),
    ("e1000e", "nvme", "pc", 2),
    ("vmxnet3", "pvscsi", "q35", 1),
    ("vmxnet3", "pvscsi", "pc", 2),
    ("virtio", "virtio-scsi", "microvm", 1),
];
/// What is run on them: enough to move much in both directions, and to read the disk.
const ON_DEVICES: &[&str] = &["redis", "nginx"];

/// Runs every case at every place, and some on other devices unless some were asked for.
pub fn suite(options: &Options) -> Result<bool, String> {
    let mut good = true;
    for place in options.combinations() {
        good &= cases(options, &place, format!("e2e {place}"), |_| true);
    }
    if options.host || !options.run.is_empty() {
        return Ok(good);
    }
    for &(nic, disk, machine, cpus) in DEVICES.iter().filter(|d| options.cpus.contains(&d.3)) {
        let place = Place::Vm { machine: machine.to_owned(), cpus };
        let run = vec![format!("--nic={nic}"), format!("--disk={disk}")];
        let options = Options { run, ..options.clone() };
        good &= cases(&options, &place, format!("e2e {nic} {disk} {place}"), |name| ON_DEVICES.contains(&name));
    }
    Ok(good)
}

/// Runs the cases that are `wanted` and that the filter lets through.
fn cases(options: &Options, place: &Place, name: String, wanted: impl Fn(&str) -> bool) -> bool {
    let mut suite = Suite::new(name);
    for case in CASES.iter().filter(|c| wanted(c.name) && c.name.contains(&options.filter)) {
        suite.case(case.name, || (case.run)(options, place));
    }
    suite.finish()
}

/// A program that the case needs; the case fails without it, as its package is one of `./x test`'s.
fn program(name: &str) -> Result<PathBuf, Bad> {
    which(name).ok_or_else(|| Bad::Failed(format!("{name} is not installed")))
}

/// What the command returns after Ctrl-C: 130 from a VM; on the host the program's own exit code.
fn interrupted_code(place: &Place, own: i32) -> i32 {
    if *place == Place::Host { own } else { 130 }
}
