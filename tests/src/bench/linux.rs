//! The Linux guest: Debian's cloud kernel, fetched but not installed, and an initramfs with one program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Workload;
use super::cpio::Archive;
use crate::compile::output;
use crate::run::{must, which};

/// The kernel and its modules on this machine.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `-kernel` takes.
    pub image: PathBuf,
    /// Its version.
    pub version: String,
    modules: PathBuf,
}

/// In the order in which they must be loaded.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/block/virtio_blk.ko",
];

/// Fetches the kernel's package once and unpacks it beside our own build results.
pub fn kernel() -> Result<Kernel, String> {
    let folder = output()?.join("linux-guest");
    let limit = Duration::from_secs(300);
    if !folder.join("boot").exists() {
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        let depends = must(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]), limit)?;
        let package = depends
            .lines()
            .find_map(|l| l.trim().strip_prefix("Depends: "))
            .ok_or("apt knows no linux-image-cloud-amd64")?;
        must(Command::new("apt-get").args(["download", package]).current_dir(&folder), limit)?;
        let deb = find(&folder, |n| n.ends_with(".deb"))?;
        must(Command::new("dpkg").arg("-x").arg(&deb).arg(&folder), limit)?;
        std::fs::remove_file(deb).map_err(|e| e.to_string())?;
    }
    let image = find(&folder.join("boot"), |n| n.starts_with("vmlinuz-"))?;
    let version = image.file_name().unwrap_or_default().to_string_lossy().trim_start_matches("vmlinuz-").to_owned();
    let modules = folder.join("lib/modules").join(&version).join("kernel");
    Ok(Kernel { image, version, modules })
}

fn find(folder: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let mut found = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.file_name().is_some_and(|n| fits(&n.to_string_lossy())));
    found.next().ok_or_else(|| format!("not what was expected in {}", folder.display()))
}

/// The libraries that a program needs, as its loader finds them.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let text = match crate::run::run(Command::new("ldd").arg(program), Duration::from_secs(20))? {
        done if done.code == 0 => done.text,
        _ => return Ok(vec![]), // a static program
    };
    let paths = text.lines().filter_map(|l| l.split_whitespace().find(|w| w.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// Writes an initramfs whose init brings up the network as `address` and becomes the program.
pub fn initramfs(kernel: &Kernel, work: &Workload, network: Option<&str>, to: &Path) -> Result<(), String> {
    let mut archive = Archive::default();
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/root", "/run", "/var/log", "/var/lib"] {
        archive.folder(folder);
    }
    archive.device("/dev/console", 5, 1);
    archive.device("/dev/null", 1, 3);
    archive.file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    archive.file("/etc/group", 0o644, b"root:x:0:\n");
    let program = PathBuf::from(work.command.first().ok_or("no program")?);
    let mut files: BTreeSet<PathBuf> = libraries(&program)?.into_iter().chain(work.files.iter().cloned()).collect();
    files.insert(program);
    for file in &files {
        add(&mut archive, file)?;
    }
    let busybox = which("busybox").ok_or("busybox is not installed (Debian: busybox-static)")?;
    archive.copy(&busybox, "/bin/busybox")?;
    let mut script =
        String::from("#!/bin/busybox sh\nb=/bin/busybox\n$b mount -t proc proc /proc\n$b mount -t sysfs sys /sys\n");
    script.push_str("$b mount -t devtmpfs dev /dev\n");
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        archive.copy(&kernel.modules.join(module), &format!("/modules/{name}"))?;
        script.push_str(&format!("$b insmod /modules/{name}\n"));
    }
    script.push_str("$b ip link set lo up\n");
    if let Some(address) = network {
        script.push_str(&format!("$b ip addr add {address} dev eth0\n$b ip link set eth0 up\n"));
    }
    let quoted: Vec<String> = work.command.iter().map(|w| format!("'{}'", w.replace('\'', "'\\''"))).collect();
    // the program is process 1, as in Coracle; when it ends, the kernel panics and reboots, which ends QEMU
    script.push_str(&format!("exec {}\n", quoted.join(" ")));
    archive.file("/init", 0o755, script.as_bytes());
    std::fs::write(to, archive.finish()).map_err(|e| format!("cannot write {}: {e}", to.display()))
}

fn add(archive: &mut Archive, path: &Path) -> Result<(), String> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        entries.filter_map(Result::ok).try_for_each(|e| add(archive, &e.path()))
    } else {
        archive.copy(path, &path.display().to_string())
    }
}
