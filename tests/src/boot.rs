//! The kernel alone, without a root: it boots on every machine, its own checks pass there, a panic is told with names,
//! and a bad command line is refused. QEMU is called directly.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::options::{Options, Place};
use crate::report::{Outcome, Suite};
use crate::run::{Finished, run, tail};

const LIMIT: Duration = Duration::from_secs(240);

/// What a command line must lead to.
struct Case {
    name: &'static str,
    line: &'static str,
    memory: &'static str,
    /// The program's or the kernel's exit code, as `isa-debug-exit` gives it.
    code: u8,
    /// Texts that must be in the output.
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case { name: "selftest", line: "selftest", memory: "128M", code: 0, says: &["passed", "coracle:exit 0"] },
    Case {
        name: "fixed-addresses",
        line: "selftest=quick nokaslr",
        memory: "128M",
        code: 0,
        says: &["coracle:exit 0"],
    },
    Case {
        name: "panic",
        line: "selftest=panic",
        memory: "64M",
        code: 125,
        says: &["kernel panic on CPU 0", "asked for by selftest=panic", "kernel_main", "coracle:panic"],
    },
    Case {
        name: "kernel-fault",
        line: "selftest=fault",
        memory: "64M",
        code: 125,
        says: &["page fault", "kernel::selftest", "address 0x100000", "kernel_main", "coracle:panic"],
    },
    Case {
        name: "stack-overflow",
        line: "selftest=overflow",
        memory: "64M",
        code: 125,
        says: &["kernel stack overflow", "kernel::selftest::deeper", "coracle:panic"],
    },
    Case {
        name: "bad-command-line",
        line: "selftest log=loud",
        memory: "64M",
        code: 125,
        says: &["log=loud", "coracle:exit 125"],
    },
    Case { name: "bad-percent", line: "arg=%4", memory: "64M", code: 125, says: &["arg=%4", "coracle:exit 125"] },
    Case {
        name: "boot-chart",
        line: "chart selftest=quick",
        memory: "64M",
        code: 0,
        says: &["chart: memory", "chart: devices", "coracle:exit 0"],
    },
];

/// Runs every case on every machine with every number of CPUs.
pub fn suite(options: &Options) -> Result<bool, String> {
    let kernel = options.kernel.clone().ok_or("which kernel? give --kernel FILE or CORACLE_KERNEL")?;
    let mut good = true;
    for place in options.combinations() {
        let Place::Vm { machine, cpus } = &place else { continue };
        let mut suite = Suite::new(format!("boot {place}"));
        for case in CASES.iter().filter(|case| case.name.contains(&options.filter)) {
            suite.case(case.name, || boots(&kernel, machine, *cpus, case, options.verbose));
        }
        if "power-off".contains(&options.filter) {
            suite.case("power-off", || powers_off(&kernel, machine, *cpus));
        }
        good &= suite.finish();
    }
    Ok(good)
}

fn qemu(kernel: &Path, machine: &str, cpus: u32, memory: &str, line: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", machine, "-accel", "tcg", "-cpu", "max", "-smp", &cpus.to_string(), "-m", memory]);
    command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.arg("-kernel").arg(kernel).args(["-append", line]);
    command
}

fn boots(kernel: &Path, machine: &str, cpus: u32, case: &Case, verbose: bool) -> Outcome {
    let mut command = qemu(kernel, machine, cpus, case.memory, case.line);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    let Finished { code, text } = run(&mut command, LIMIT)?;
    if verbose {
        println!("{text}");
    }
    // QEMU returns (code << 1) | 1 in 8 bits.
    let expected = i32::from((u16::from(case.code) << 1 | 1) as u8);
    if code != expected {
        return Err(format!("QEMU's status is {code}, not {expected}:\n{}", tail(&text, 12)).into());
    }
    match case.says.iter().find(|wanted| !text.contains(**wanted)) {
        Some(missing) => Err(format!("the output lacks {missing:?}:\n{}", tail(&text, 12)).into()),
        None => Ok(()),
    }
}

/// Without a device for the exit code the machine still ends, by ACPI or reset, and the code is in the last line.
fn powers_off(kernel: &Path, machine: &str, cpus: u32) -> Outcome {
    let Finished { code, text } = run(&mut qemu(kernel, machine, cpus, "64M", "selftest=quick"), LIMIT)?;
    if code != 0 || !text.contains("coracle:exit 0") {
        return Err(format!("QEMU's status is {code}:\n{}", tail(&text, 12)).into());
    }
    Ok(())
}
