//! The harness' own command line.

use std::path::PathBuf;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Suites to run, in order.
    pub suites: Vec<String>,
    /// Only cases whose name contains this.
    pub filter: String,
    /// Kinds of VM: `q35`, `microvm`, `pc`.
    pub machines: Vec<String>,
    /// Numbers of virtual CPUs.
    pub cpus: Vec<u32>,
    /// More arguments for `coracle run`: devices.
    pub run: Vec<String>,
    /// The kernel, when not the default one.
    pub kernel: Option<PathBuf>,
    /// The `coracle` command.
    pub coracle: PathBuf,
    /// Run the programs on the host itself, not in a VM: checks the tests.
    pub host: bool,
    /// Conformance: boot each program alone, without fork.
    pub nofork: bool,
    /// Soak: how long.
    pub minutes: f64,
    /// Show the guest's output.
    pub verbose: bool,
}

const USAGE: &str = "usage: harness SUITE... [OPTIONS]
  SUITE            boot, disk, volumes, unlucky, conformance, e2e, robust, matrix, soak
  --filter X       only cases whose name contains X
  --machine M      q35, microvm or pc (may be given more than once) [default: q35 and microvm]
  -c N             virtual CPUs (may be given more than once) [default: 1 and 2]
  --nic X, --disk X  the devices, as `coracle run` takes them [default: virtio]
  --qemu ARGUMENT  one more argument for QEMU (may be given more than once)
  --kernel FILE    the kernel [default: $CORACLE_KERNEL, or what `coracle run` takes]
  --coracle FILE   the command [default: $CORACLE, or the one beside this program]
  --host           run the programs on this machine itself: checks the tests, not Coracle
  --nofork         conformance: one boot for each program, without fork
  --minutes N      soak: how long [default: 10]
  --verbose        show what the guests print";

impl Options {
    /// Reads the arguments (without the program's name).
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Options, String> {
        let beside = std::env::current_exe().map(|p| p.with_file_name("coracle")).unwrap_or_else(|_| "coracle".into());
        let mut o = Options {
            suites: vec![],
            filter: String::new(),
            machines: vec![],
            cpus: vec![],
            run: vec![],
            kernel: std::env::var_os("CORACLE_KERNEL").map(PathBuf::from),
            coracle: std::env::var_os("CORACLE").map(PathBuf::from).unwrap_or(beside),
            host: false,
            nofork: false,
            minutes: 10.0,
            verbose: false,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "boot" | "disk" | "volumes" | "unlucky" | "conformance" | "e2e" | "robust" | "matrix" | "soak" => {
                    o.suites.push(arg)
                }
                "--filter" => o.filter = value()?,
                "--machine" => o.machines.push(one_of(&value()?, &["q35", "microvm", "pc"])?),
                "-c" => o.cpus.push(number(&value()?)?),
                "--nic" | "--disk" | "--qemu" => {
                    let value = value()?;
                    o.run.push(format!("{arg}={value}"));
                }
                "--kernel" => o.kernel = Some(value()?.into()),
                "--coracle" => o.coracle = value()?.into(),
                "--host" => o.host = true,
                "--nofork" => o.nofork = true,
                "--minutes" => o.minutes = number(&value()?)?,
                "--verbose" => o.verbose = true,
                _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
            }
        }
        if o.suites.is_empty() {
            return Err(USAGE.to_owned());
        }
        if o.machines.is_empty() {
            o.machines = vec!["q35".into(), "microvm".into()];
        }
        if o.cpus.is_empty() {
            o.cpus = vec![1, 2];
        }
        Ok(o)
    }

    /// Queues that a guest with so many CPUs has on a tap device: of QEMU's devices only virtio's has several.
    pub fn tap_queues(&self, cpus: u32) -> u32 {
        let other = |arg: &String| arg.strip_prefix("--nic=").is_some_and(|nic| nic != "virtio");
        if self.run.iter().any(other) { 1 } else { cpus }
    }

    /// Every machine with every number of CPUs; with `--host` one single entry.
    pub fn combinations(&self) -> Vec<Place> {
        if self.host {
            return vec![Place::Host];
        }
        let vm = |m: &String, c: &u32| Place::Vm { machine: m.clone(), cpus: *c };
        self.machines.iter().flat_map(|m| self.cpus.iter().map(move |c| vm(m, c))).collect()
    }
}

/// Where a program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This machine.
    Host,
    /// A VM.
    Vm {
        /// QEMU's machine type.
        machine: String,
        /// Virtual CPUs.
        cpus: u32,
    },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Host => write!(f, "host"),
            Place::Vm { machine, cpus } => write!(f, "{machine} {cpus} cpu"),
        }
    }
}

fn one_of(text: &str, choices: &[&str]) -> Result<String, String> {
    if choices.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text} is not one of {}", choices.join(", ")))
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn defaults_and_choices() {
        let o = parse("conformance e2e --filter redis -c 2 --machine pc").unwrap();
        assert_eq!(o.suites, ["conformance", "e2e"]);
        assert_eq!((o.machines, o.cpus), (vec!["pc".to_owned()], vec![2]));
        assert_eq!(parse("e2e").unwrap().combinations().len(), 4);
        assert_eq!(parse("e2e --host").unwrap().combinations(), [Place::Host]);
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(parse("e2e --nic vmxnet3 --qemu -x").unwrap().run, ["--nic=vmxnet3", "--qemu=-x"]);
        for bad in ["", "e2e --nic", "--nonsense", "e2e --machine vax", "e2e -c", "e2e -c many"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
