//! One QEMU line for both systems: only `-kernel`, `-initrd` and `-append` differ.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::System;
use crate::network::{MAC, Network};
use crate::run::{Group, which};

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
        let address = match boot.network {
            Some(network) => network.peer(boot.port.unwrap_or(1))?,
            None => SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        match boot.network {
            Some(Network::Tap(name, _)) => {
                c.args(["-netdev", &format!("tap,id=net0,ifname={name},script=no,downscript=no")]);
            }
            Some(Network::User) => {
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
