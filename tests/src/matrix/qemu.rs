//! QEMU's command line for a cell: its machine and devices. The same words serve on this machine and in L1.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::cells::{Boot, Cell, Disk, Nic, Qemu, Signature};
use super::image::Image;
use crate::exchange::{self, Facts, Target};
use crate::pattern::SECOND_BYTES;
use crate::run::{Group, Scratch, free_port, tail, which};
use crate::vm::collect;

/// Debian's package `ovmf`, by the names of its releases.
const FIRMWARE: &[&str] =
    &["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/ovmf/OVMF.fd"];

/// What QEMU must be told: everything but the accelerator, memory, and the backends `n0`, `root`, `second` and `console`. The kernel is a file and a command line,
/// for machines that load it.
pub fn arguments(q: &Qemu, shows: Option<Signature>, boot: Boot, cpus: u32, kernel: (&str, &str)) -> Vec<String> {
    let mut a: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| a.extend(words.iter().map(|&w| w.to_owned()));
    let port = if q.vmware { ",vmport=on" } else { "" };
    add(&["-machine", &format!("{}{port}", q.machine), "-smp", &cpus.to_string()]);
    match shows {
        None => add(&["-cpu", "max"]),
        Some(Signature::Kvm) => add(&["-cpu", "host"]),
        Some(Signature::Xen) => add(&["-cpu", "host,+xen-vapic"]),
        Some(Signature::VMware) => add(&["-cpu", "host,kvm=off,hv-vendor-id=VMwareVMware,hv-relaxed"]),
    }
    if q.vmware {
        add(&[
            "-smbios",
            "type=1,manufacturer=VMware,, Inc.,product=VMware Virtual Platform,serial=VMware-56 4d 00 00",
        ]);
    }
    let microvm = q.machine == "microvm";
    if boot == Boot::Direct {
        let (kernel, line) = kernel;
        let devices = if microvm { transports() } else { String::new() };
        add(&["-kernel", kernel, "-append", &format!("{line}{devices}")]);
    }
    if shows == Some(Signature::Xen) {
        add(&["-device", "xen-console,chardev=console"]);
    } else {
        add(&["-serial", "chardev:console"]);
    }
    if microvm {
        add(&["-global", "virtio-mmio.force-legacy=false"]);
    }
    let nic = match q.nic {
        Nic::Virtio => "virtio-net-pci,romfile=",
        Nic::VirtioMmio => "virtio-net-device,bus=virtio-mmio-bus.1",
        Nic::Vmxnet3 => "vmxnet3,romfile=",
        Nic::E1000 => "e1000,romfile=",
        Nic::E1000e => "e1000e,romfile=",
        Nic::Xen => "xen-net-device",
    };
    add(&["-device", &format!("{nic},netdev=n0")]);
    let (controller, root, second) = match q.disk {
        Disk::Virtio => ("", "virtio-blk-pci", "virtio-blk-pci"),
        Disk::VirtioMmio => ("", "virtio-blk-device,bus=virtio-mmio-bus.2", "virtio-blk-device,bus=virtio-mmio-bus.3"),
        Disk::VirtioScsi => ("virtio-scsi-pci,id=s0", "scsi-hd,bus=s0.0", "scsi-hd,bus=s0.0"),
        Disk::Pvscsi => ("pvscsi,id=s0", "scsi-hd,bus=s0.0", "scsi-hd,bus=s0.0"),
        // q35 has this controller already, as `ide`
        Disk::Ahci if q.machine == "q35" => ("", "ide-hd,bus=ide.0", "ide-hd,bus=ide.1"),
        Disk::Ahci => ("ich9-ahci,id=ahci0", "ide-hd,bus=ahci0.0", "ide-hd,bus=ahci0.1"),
        Disk::Ide => ("", "ide-hd,bus=ide.0,unit=0", "ide-hd,bus=ide.0,unit=1"),
        Disk::Nvme => ("", "nvme,serial=root", "nvme,serial=second"),
        Disk::Xen => ("", "xen-disk,vdev=xvda", "xen-disk,vdev=xvdb"),
    };
    if !controller.is_empty() {
        add(&["-device", controller]);
    }
    // a kernel that QEMU loads comes first of itself
    let first = if boot == Boot::Direct || q.disk == Disk::Xen { "" } else { ",bootindex=0" };
    add(&["-device", &format!("{root}{first},drive=root"), "-device", &format!("{second},drive=second")]);
    a
}

/// Where microvm's devices of virtio-mmio are, for the kernel's command line. Slot 0 is left free: its interrupt is line 0 of the
/// second I/O APIC, which QEMU moves.
fn transports() -> String {
    (1..4).map(|slot| format!(" virtio_mmio.device=512@{:#x}:{}", 0xfeb0_0000u32 + 512 * slot, 24 + slot)).collect()
}

fn firmware() -> Result<PathBuf, String> {
    FIRMWARE.iter().map(PathBuf::from).find(|p| p.exists()).ok_or_else(|| "no OVMF firmware (Debian: ovmf)".into())
}

/// Runs a cell in QEMU's emulation on this machine.
pub fn run(cell: &Cell, q: &Qemu, image: &Image, limit: Duration, verbose: bool) -> Result<Facts, String> {
    let scratch = Scratch::new("matrix")?;
    let second = scratch.path().join("second.img");
    std::fs::File::create(&second).and_then(|f| f.set_len(SECOND_BYTES)).map_err(|e| e.to_string())?;
    let (http, redis) = (free_port()?, free_port()?);
    let mut c = Command::new(which("qemu-system-x86_64").ok_or("qemu-system-x86_64 is not installed")?);
    c.args([
        "-accel",
        "tcg,thread=multi",
        "-m",
        "512",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    c.args(["-chardev", "stdio,id=console,signal=off"]);
    let forward = format!("hostfwd=tcp:127.0.0.1:{http}-:80,hostfwd=tcp:127.0.0.1:{redis}-:6379");
    c.args(["-netdev", &format!("user,id=n0,{forward}")]);
    let drive = |id: &str, file: &Path, more: &str| format!("if=none,id={id},format=raw,{more}file={}", file.display());
    c.args(["-drive", &drive("root", &image.file, "snapshot=on,")]);
    c.args(["-drive", &drive("second", &second, "cache=unsafe,")]);
    if cell.boot == Boot::Uefi {
        c.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", firmware()?.display())]);
    }
    c.args(arguments(q, None, cell.boot, cell.cpus, (&image.kernel.display().to_string(), &image.line)));
    c.env("TMPDIR", scratch.path());
    if verbose {
        println!("      {c:?}");
    }
    let created = Instant::now();
    let mut group = Group::spawn_bound(&c, Stdio::null())?;
    let console = Arc::new(Mutex::new(Vec::new()));
    let mut readers = Vec::new();
    if let Some(stream) = group.0.stdout.take() {
        readers.push(collect(stream, vec![console.clone()], verbose));
    }
    if let Some(stream) = group.0.stderr.take() {
        readers.push(collect(stream, vec![console.clone()], verbose));
    }
    let text = || String::from_utf8_lossy(&console.lock().unwrap_or_else(|e| e.into_inner())).into_owned();
    let address = |port| ([127, 0, 0, 1], port).into();
    let target = Target { http: address(http), redis: address(redis), created, deadline: created + limit };
    let outcome = (|| {
        let first = exchange::first_answer(&target, exchange::hello, || match group.0.try_wait() {
            Ok(None) => Ok(()),
            _ => Err("the machine has ended".to_owned()),
        })?;
        let mut facts = exchange::exchange(&target, &mut |part| {
            if verbose {
                println!("      {:6.1} {part}", created.elapsed().as_secs_f32());
            }
        })?;
        facts.0.push(("first".into(), format!("{first:.2}")));
        exchange::end(&target)?;
        group.wait(Duration::from_secs(30)).ok_or("it was told to end and is still there")?;
        for reader in readers {
            let _ = reader.join();
        }
        if !exchange::ended_with(&text(), exchange::CODE) {
            return Err(format!("the console does not show the exit code {}", exchange::CODE));
        }
        exchange::check_second(&second)?;
        Ok(facts)
    })();
    outcome.map_err(|why: String| format!("{why}\n--- the end of its console\n{}", tail(&text(), 25)))
}
