//! One QEMU line for both systems: only `-kernel`, `-initrd` and `-append` differ.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::System;
use crate::run::{Group, free_port, must, which};

const MAC: &str = "52:54:00:43:4f:52";
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 1);

/// How the guests are reached.
pub enum Network {
    /// A tap device of ours, which goes away with this value.
    Tap(String),
    /// QEMU's own network, where a tap device cannot be had: much slower, and told in the table.
    User,
}

impl Network {
    /// A tap device when this process may make one. The guest's hardware address is pinned: a lost ARP request would
    /// hide a whole second.
    pub fn set_up() -> Network {
        let name = format!("corb{}", std::process::id() % 100_000);
        let ip = |args: &[&str]| must(Command::new("ip").args(args), Duration::from_secs(10));
        let made = ip(&["tuntap", "add", "dev", &name, "mode", "tap"])
            .and_then(|_| ip(&["addr", "add", &format!("{HOST}/24"), "dev", &name]))
            .and_then(|_| ip(&["link", "set", &name, "up"]))
            .and_then(|_| {
                ip(&["neigh", "replace", &GUEST.to_string(), "lladdr", MAC, "dev", &name, "nud", "permanent"])
            });
        match made {
            Ok(_) => Network::Tap(name),
            Err(why) => {
                eprintln!(
                    "bench: no tap device ({}); QEMU's own network instead",
                    why.lines().next().unwrap_or_default()
                );
                Network::User
            }
        }
    }

    /// The guest's address and prefix.
    pub fn guest(&self) -> String {
        match self {
            Network::Tap(_) => format!("{GUEST}/24"),
            Network::User => "10.0.2.15/24".into(),
        }
    }

    /// The value of Coracle's `ip=`.
    pub fn ip_option(&self) -> String {
        match self {
            Network::Tap(_) => format!("{GUEST}/24,{HOST}"),
            Network::User => "10.0.2.15/24,10.0.2.2,10.0.2.3".into(),
        }
    }

    /// In words.
    pub fn words(&self) -> &'static str {
        match self {
            Network::Tap(_) => "virtio-net on a tap device",
            Network::User => "virtio-net on QEMU's user network",
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Network::Tap(name) = self {
            let _ = must(Command::new("ip").args(["link", "del", name]), Duration::from_secs(10));
        }
    }
}

/// What to boot.
pub struct Boot<'a> {
    /// Which system it is.
    pub system: System,
    /// The kernel's file.
    pub kernel: &'a Path,
    /// Linux: the initramfs. Coracle: the root disk.
    pub image: &'a Path,
    /// Memory, MiB.
    pub memory: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Its network; none at all when absent.
    pub network: Option<&'a Network>,
    /// The guest's port.
    pub port: Option<u16>,
    /// Count instructions with this plugin.
    pub plugin: Option<PathBuf>,
    /// More for the kernel's command line.
    pub append: String,
    /// More for QEMU.
    pub qemu: Vec<String>,
}

/// A running guest.
pub struct Guest {
    group: Group,
    console: Arc<Mutex<Vec<u8>>>,
    counters: Option<PathBuf>,
    /// When QEMU was started.
    pub started: Instant,
    /// Where its port is reached.
    pub address: SocketAddr,
}

impl Guest {
    /// Starts QEMU. Files of the run go to `scratch`.
    pub fn start(boot: &Boot, scratch: &Path) -> Result<Guest, String> {
        // counting instructions as the clock does needs one thread for all CPUs
        let counted = boot.qemu.iter().any(|a| a == "-icount");
        let accel = if counted { "tcg,thread=single" } else { "tcg,thread=multi" };
        let qemu = which("qemu-system-x86_64").ok_or("qemu-system-x86_64 is not installed")?;
        let mut c = Command::new(qemu);
        c.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "q35",
            "-accel",
            accel,
        ]);
        c.args(["-cpu", "max", "-m", &format!("{}M", boot.memory), "-smp", &boot.cpus.to_string()]);
        c.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        c.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        c.arg("-kernel").arg(boot.kernel);
        let mut append = boot.append.clone();
        let disk = match boot.system {
            System::Linux => {
                append.push_str(" console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on mitigations=off");
                c.arg("-initrd").arg(boot.image);
                let empty = scratch.join("empty.disk"); // the same devices, though Linux's files are in its initramfs
                std::fs::write(&empty, vec![0; 1 << 20]).map_err(|e| e.to_string())?;
                empty
            }
            System::Coracle => {
                let ip = boot.network.map_or("none".to_owned(), Network::ip_option);
                append.push_str(&format!(" root=disk stdin=none ip={ip}"));
                boot.image.to_owned()
            }
        };
        c.args(["-append", append.trim()]);
        let disk = format!("if=none,id=root,format=raw,readonly=on,file.locking=off,file={}", disk.display());
        c.args(["-drive", &disk, "-device", "virtio-blk-pci,drive=root"]);
        let mut address = SocketAddr::new(IpAddr::V4(GUEST), boot.port.unwrap_or(0));
        match boot.network {
            Some(Network::Tap(name)) => {
                c.args(["-netdev", &format!("tap,id=net0,ifname={name},script=no,downscript=no")]);
            }
            Some(Network::User) => {
                address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), free_port()?);
                c.args(["-netdev", &format!("user,id=net0,hostfwd=tcp:{address}-:{}", boot.port.unwrap_or(1))]);
            }
            None => {}
        }
        if boot.network.is_some() {
            c.args(["-device", &format!("virtio-net-pci,netdev=net0,romfile=,mac={MAC}")]);
        }
        let counters = boot.plugin.as_ref().map(|_| scratch.join("counters"));
        if let (Some(plugin), Some(file)) = (&boot.plugin, &counters) {
            let _ = std::fs::remove_file(file);
            c.args(["-plugin", &format!("{},out={}", plugin.display(), file.display())]);
        }
        c.args(&boot.qemu);
        let started = Instant::now();
        let mut group = Group::spawn_bound(&c, Stdio::null())?;
        let console = Arc::new(Mutex::new(Vec::new()));
        for stream in [
            group.0.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
            group.0.stderr.take().map(|s| Box::new(s) as _),
        ] {
            let (Some(mut stream), console) = (stream, console.clone()) else { continue };
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    console.lock().unwrap_or_else(|e| e.into_inner()).extend_from_slice(&buffer[..n]);
                }
            });
        }
        Ok(Guest { group, console, counters, started, address })
    }

    /// What came from its console so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.console.lock().unwrap_or_else(|e| e.into_inner())).into_owned()
    }

    /// Instructions so far: the program's half and the kernel's.
    pub fn instructions(&self) -> Result<(u64, u64), String> {
        let file = self.counters.as_ref().ok_or("no plugin")?;
        let bytes = std::fs::read(file).map_err(|e| format!("no instruction counters: {e}"))?;
        let word = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
        word(0).zip(word(8)).ok_or_else(|| "the plugin did not start".into())
    }

    /// Whether QEMU still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.group.0.try_wait(), Ok(None))
    }

    /// Waits until the console shows this text.
    pub fn until_prints(&mut self, text: &str, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        loop {
            let running = self.runs();
            if self.text().contains(text) {
                return Ok(());
            }
            if !running || Instant::now() > end {
                let why = if running { "time is over" } else { "the guest has ended" };
                return Err(format!("no {text:?} on the console, {why}:\n{}", crate::run::tail(&self.text(), 12)));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
