//! The command's own command line: `coracle run`, `build`, `convert`, `inspect`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::container::Format;

/// Boots one unmodified Linux program in a VM of its own.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pack a program of this machine (or take an image) and boot it.
    Run(Box<RunArgs>),
    /// Write an image file that holds a program and all that it needs.
    Build(BuildArgs),
    /// Write the disk that an image file holds as a file of another format.
    Convert(ConvertArgs),
    /// Say what is in an image file.
    Inspect(InspectArgs),
}

/// Options of `coracle run`.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Forward a port of this machine to the guest: [ADDRESS:]HOST:GUEST[/udp]
    #[arg(short = 'p', long = "publish", value_name = "H:G[/udp]")]
    pub publish: Vec<Publish>,
    /// Copy a folder into the guest's root at PATH (changes there do not come back)
    #[arg(short = 'v', long = "volume", value_name = "DIR:PATH")]
    pub volume: Vec<Pair>,
    /// Set an environment variable (NAME alone: with its value here)
    #[arg(short = 'e', long = "env", value_name = "K=V")]
    pub env: Vec<OsString>,
    /// Memory of the guest: 512M, 2G (a plain number is MiB) [default: 512M]
    #[arg(short = 'm', long, value_name = "MEM")]
    pub memory: Option<Memory>,
    /// Virtual CPUs [default: 1]
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: Option<u32>,
    /// Kind of virtual machine [default: q35]
    #[arg(long, value_enum)]
    pub machine: Option<Machine>,
    /// Network: user, none, or tap=NAME [default: user]
    #[arg(long, value_name = "NET")]
    pub net: Option<Net>,
    /// The network device [default: virtio]
    #[arg(long, value_enum)]
    pub nic: Option<Nic>,
    /// What the root disk is connected to [default: virtio]
    #[arg(long, value_enum)]
    pub disk: Option<Disk>,
    /// The guest's IPv4 address: dhcp, none, or ADDRESS/PREFIX[,GATEWAY[,DNS]]
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    /// Boot a disk image by its own loader, as a cloud does, instead of directly
    #[arg(long, value_enum)]
    pub firmware: Option<Firmware>,
    /// Whether the root image is a disk, or is loaded into memory with the kernel [default: disk]
    #[arg(long, value_enum)]
    pub root: Option<RootKind>,
    /// The program's working directory in the guest [default: the one here]
    #[arg(short = 'w', long, value_name = "PATH")]
    pub workdir: Option<PathBuf>,
    /// The guest's name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Add a file or folder of this machine, at the same path or at GUEST
    #[arg(long, value_name = "PATH[:GUEST]")]
    pub with: Vec<With>,
    /// Give the program a terminal (Ctrl-C then goes to the program; Ctrl-] ends the VM)
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The kernel to boot [default: $CORACLE_KERNEL, or the one beside this command]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// More options for the kernel's command line, as they are
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// One more argument for QEMU, as it is
    #[arg(long = "qemu", value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub qemu: Vec<OsString>,
    /// Hardware virtualization or emulation [default: what is there]
    #[arg(long, value_enum)]
    pub accel: Option<Accel>,
    /// Count instructions: the guest's clock follows them, so that runs repeat exactly (slow)
    #[arg(long)]
    pub icount: bool,
    /// Show QEMU's command line and the kernel's log
    #[arg(long)]
    pub verbose: bool,
    /// Show nothing but the program's output and errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Install a Debian package of the program's name when the program is not there (as root)
    #[arg(long, hide = true)]
    pub install: bool,
    /// A program, an image, a folder (a root file system or one with a Coracle.toml), or a Coracle.toml; then arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// Options of `coracle build`.
#[derive(Args, Clone, Debug, Default)]
pub struct BuildArgs {
    /// The image file to write [default: the program's name with .img]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Its format [default: by FILE's suffix, else raw]
    #[arg(short, long, value_enum)]
    pub format: Option<Format>,
    /// The kernel to put on the disk; the loaders lie beside it [default: $CORACLE_KERNEL, or the one beside this command]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Options for the kernel's command line on the disk, as they are
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// Copy a folder into the root at PATH
    #[arg(short = 'v', long = "volume", value_name = "DIR:PATH")]
    pub volume: Vec<Pair>,
    /// Set an environment variable
    #[arg(short = 'e', long = "env", value_name = "K=V")]
    pub env: Vec<OsString>,
    /// The program's working directory in the guest
    #[arg(short = 'w', long, value_name = "PATH")]
    pub workdir: Option<PathBuf>,
    /// Add a file or folder of this machine, at the same path or at GUEST
    #[arg(long, value_name = "PATH[:GUEST]")]
    pub with: Vec<With>,
    /// No file in the image is newer than this (seconds since 1970) [default: $SOURCE_DATE_EPOCH]
    #[arg(long, value_name = "SECONDS")]
    pub timestamp: Option<u64>,
    /// A program, a folder, or a Coracle.toml; then arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// Options of `coracle convert`.
#[derive(Args, Clone, Debug)]
pub struct ConvertArgs {
    /// The image file to read
    pub input: PathBuf,
    /// The image file to write
    pub output: PathBuf,
    /// Its format [default: by its suffix]
    #[arg(short, long, value_enum)]
    pub format: Option<Format>,
    /// The kernel to put on the disk, for an input that has none [default: $CORACLE_KERNEL, or the one beside this command]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Memory of the machine that an OVA describes [default: 512M]
    #[arg(short = 'm', long, value_name = "MEM")]
    pub memory: Option<Memory>,
    /// Virtual CPUs of that machine [default: 1]
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: Option<u32>,
}

/// Options of `coracle inspect`.
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// The image file
    pub image: PathBuf,
    /// List every file
    #[arg(short, long)]
    pub list: bool,
}

/// Kinds of virtual machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// Intel 440FX, PCI
    Pc,
    /// Intel Q35, PCI Express
    #[default]
    Q35,
    /// No PCI, no firmware to speak of; virtio-mmio
    Microvm,
}

/// Kinds of network device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Nic {
    /// virtio-net
    #[default]
    Virtio,
    /// VMware's paravirtual one
    Vmxnet3,
    /// Intel 82540EM
    E1000,
    /// Intel 82574L
    E1000e,
}

/// Kinds of disk, or of the controller that it is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Disk {
    /// virtio-blk
    #[default]
    Virtio,
    /// VMware's paravirtual SCSI
    Pvscsi,
    /// SCSI over virtio
    VirtioScsi,
    /// SATA
    Ahci,
    /// Parallel ATA
    Ide,
    /// NVM Express
    Nvme,
}

/// What starts a disk's loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// SeaBIOS
    Bios,
    /// OVMF
    Uefi,
}

/// How the root image comes to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RootKind {
    /// A virtio disk
    #[default]
    Disk,
    /// In memory, loaded with the kernel
    Module,
}

/// How instructions of the guest are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// Linux's hardware virtualization
    Kvm,
    /// QEMU's emulation
    Tcg,
}

/// Bytes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(pub u64);

/// Less than this cannot hold the firmware and a kernel.
const LEAST_MEMORY: u64 = 8 << 20;

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_suffix("ib").or(lower.strip_suffix('b')).unwrap_or(&lower);
        let (digits, shift) = match lower.strip_suffix(['k', 'm', 'g', 't']) {
            Some(digits) => (
                digits,
                match lower.as_bytes()[lower.len() - 1] {
                    b'k' => 10,
                    b'm' => 20,
                    b'g' => 30,
                    _ => 40,
                },
            ),
            None => (lower, 20),
        };
        let number: u64 =
            digits.parse().map_err(|_| format!("{text:?} is not a size; write for example 512M or 2G"))?;
        let bytes = number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than any machine has"))?;
        if bytes < LEAST_MEMORY {
            return Err(format!("{text} is too little memory; give at least 16M (a plain number is MiB)"));
        }
        if bytes > 1 << 42 {
            return Err(format!("{text} is more than the 4 TiB that a guest can have"));
        }
        Ok(Memory(bytes))
    }
}

/// A forwarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Address of this machine; all when absent.
    pub address: Option<IpAddr>,
    /// Port of this machine.
    pub host: u16,
    /// Port of the guest.
    pub guest: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a port pair; write HOST:GUEST, for example 8080:80 or 53:53/udp");
        let (rest, udp) = match text.rsplit_once('/') {
            Some((rest, "udp")) => (rest, true),
            Some((rest, "tcp")) => (rest, false),
            Some(_) => return Err(bad()),
            None => (text, false),
        };
        let port = |t: &str| t.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(bad);
        let (before, guest) = match rest.rsplit_once(':') {
            Some((before, guest)) => (before, port(guest)?),
            None => (rest, port(rest)?),
        };
        let (address, host) = match before.rsplit_once(':') {
            Some((address, host)) => {
                let address = address.trim_start_matches('[').trim_end_matches(']');
                (Some(address.parse().map_err(|_| bad())?), port(host)?)
            }
            None => (None, port(before)?),
        };
        Ok(Publish { address, host, guest, udp })
    }
}

/// A folder here and its place in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Here.
    pub host: PathBuf,
    /// In the guest, absolute.
    pub guest: PathBuf,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, guest) = text.rsplit_once(':').unwrap_or((text, ""));
        if host.is_empty() || !guest.starts_with('/') {
            return Err(format!("{text:?} is not a folder and a place; write DIR:/PATH, for example ./www:/srv/www"));
        }
        Ok(Pair { host: host.into(), guest: guest.into() })
    }
}

/// A file or folder to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct With {
    /// Here.
    pub host: PathBuf,
    /// In the guest; the same path when absent.
    pub guest: Option<PathBuf>,
}

impl FromStr for With {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty path; name a file or folder to add".into());
        }
        Ok(match text.rsplit_once(':') {
            Some((host, guest)) if guest.starts_with('/') && !host.is_empty() => {
                With { host: host.into(), guest: Some(guest.into()) }
            }
            _ => With { host: text.into(), guest: None },
        })
    }
}

/// How the guest is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Net {
    /// QEMU's own network; ports are reached by `-p`.
    #[default]
    User,
    /// No network device.
    None,
    /// A tap device of this machine.
    Tap(String),
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "user" => Ok(Net::User),
            None if text == "none" => Ok(Net::None),
            Some(("tap", name)) if is_interface(name) => Ok(Net::Tap(name.to_owned())),
            _ => Err(format!("{text:?} is not a network; write user, none, or tap=NAME with an existing tap device")),
        }
    }
}

fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes() {
        let size = |t: &str| t.parse::<Memory>().map(|m| m.0);
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("512"), Ok(512 << 20));
        assert_eq!(size("2g"), Ok(2 << 30));
        assert_eq!(size("16384k"), Ok(16 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert!(size("1M").unwrap_err().contains("too little"));
        assert!(size("lots").unwrap_err().contains("512M"));
        assert!(size("").is_err() && size("-5").is_err() && size("99999999999999T").is_err());
    }

    #[test]
    fn ports() {
        let p = |t: &str| t.parse::<Publish>();
        assert_eq!(p("8080:80"), Ok(Publish { address: None, host: 8080, guest: 80, udp: false }));
        assert_eq!(p("53:5353/udp").map(|p| (p.guest, p.udp)), Ok((5353, true)));
        assert_eq!(p("80").map(|p| (p.host, p.guest)), Ok((80, 80)));
        assert_eq!(p("127.0.0.1:1:2").map(|p| p.address), Ok(Some("127.0.0.1".parse().unwrap())));
        assert_eq!(p("[::1]:1:2").map(|p| p.address), Ok(Some("::1".parse().unwrap())));
        for bad in ["", "a", "1:", "0:1", "70000:1", "1:2/sctp", "x:1:2"] {
            assert!(p(bad).unwrap_err().contains("HOST:GUEST"), "{bad}");
        }
    }

    #[test]
    fn networks_and_places() {
        assert_eq!("tap=tap0".parse(), Ok(Net::Tap("tap0".into())));
        assert!("tap=".parse::<Net>().is_err() && "bridge".parse::<Net>().is_err());
        assert!("tap=a,script=/x".parse::<Net>().is_err());
        assert_eq!("a:b:/c".parse::<Pair>().map(|p| p.guest), Ok("/c".into()));
        assert!("a:b".parse::<Pair>().is_err() && "/a".parse::<Pair>().is_err());
        assert_eq!("/a:/b".parse::<With>().map(|w| w.guest), Ok(Some("/b".into())));
        assert_eq!("/a".parse::<With>().map(|w| w.guest), Ok(None));
    }

    #[test]
    fn the_programs_options_are_its_own() {
        let line = ["coracle", "run", "-p", "1:2", "redis-server", "--protected-mode", "no", "-p", "7"];
        let Command::Run(run) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        assert_eq!(run.publish.len(), 1);
        assert_eq!(run.program, ["redis-server", "--protected-mode", "no", "-p", "7"]);
        let line = ["coracle", "run", "--", "-odd", "--help"];
        let Command::Run(run) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        assert_eq!(run.program, ["-odd", "--help"]);
        assert!(Cli::try_parse_from(["coracle", "run", "--nonsense", "x"]).is_err());
        assert!(Cli::try_parse_from(["coracle", "run"]).is_err());
        assert!(Cli::try_parse_from(["coracle", "run", "-c", "0", "x"]).is_err());
    }
}
