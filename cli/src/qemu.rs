//! QEMU's command line for a plan, and what this machine offers for it.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::args::{Accel, Disk, Firmware, Machine, Net, Nic, Publish, RootKind};
use crate::container::Format;
use crate::{EXIT_OURS, failure};

/// How a disk's loader is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// By QEMU's own BIOS.
    Bios,
    /// By the UEFI firmware in this file.
    Uefi(PathBuf),
}

/// Where distributions put OVMF.
const OVMF: &[&str] = &[
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/qemu/edk2-x86_64-code.fd",
];

/// The firmware that was asked for, if it is here.
pub fn firmware(kind: Firmware) -> Result<Boot> {
    if kind == Firmware::Bios {
        return Ok(Boot::Bios);
    }
    let told = std::env::var_os("CORACLE_OVMF").map(PathBuf::from);
    let found = match &told {
        Some(path) => Some(path.clone()).filter(|p| p.is_file()),
        None => OVMF.iter().map(PathBuf::from).find(|p| p.is_file()),
    };
    found.map(Boot::Uefi).ok_or_else(|| {
        failure(
            EXIT_OURS,
            "UEFI firmware is missing (OVMF); on Debian run: apt-get install ovmf, or set CORACLE_OVMF to its file",
        )
    })
}

/// The program that emulates the machine, unless `$CORACLE_QEMU` names another.
pub const QEMU: &str = "qemu-system-x86_64";

/// A virtual machine.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Kind.
    pub machine: Machine,
    /// Bytes of memory.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// The kernel's ELF file.
    pub kernel: PathBuf,
    /// Its command line.
    pub append: String,
    /// The root image.
    pub image: PathBuf,
    /// The image's format.
    pub format: Format,
    /// First byte and length of the disk's file inside the image file, unless that is all of it.
    pub window: Option<(u64, u64)>,
    /// Boot by the disk's loader.
    pub firmware: Option<Boot>,
    /// How the image comes to the guest.
    pub root: RootKind,
    /// A file with more parameters, as a module.
    pub params: Option<PathBuf>,
    /// Network.
    pub net: Net,
    /// The network device.
    pub nic: Nic,
    /// The root's disk.
    pub disk: Disk,
    /// Forwarded ports.
    pub publish: Vec<Publish>,
    /// Hardware or emulation.
    pub accel: Accel,
    /// Count instructions.
    pub icount: bool,
    /// More arguments.
    pub extra: Vec<OsString>,
}

impl Vm {
    /// The arguments for QEMU. Its stdin and stdout are the guest's console.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut args = Arguments(Vec::new());
        args.add("-nodefaults", "");
        args.add("-no-user-config", "");
        args.add("-no-reboot", "");
        args.add("-display", "none");
        self.add_processor(&mut args);
        match &self.firmware {
            None => {
                args.add("-kernel", &self.kernel);
                args.add("-append", self.append_with_devices());
            }
            Some(Boot::Bios) => {}
            Some(Boot::Uefi(code)) => {
                args.add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={}", comma(code)));
            }
        }
        args.add("-chardev", "stdio,id=console,signal=off");
        args.add("-serial", "chardev:console");
        args.add("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04");
        match (self.root, &self.params) {
            (RootKind::Module, _) => args.add("-initrd", &self.image),
            (RootKind::Disk, Some(params)) if self.firmware.is_none() => args.add("-initrd", params),
            (RootKind::Disk, _) => {}
        }
        if self.root == RootKind::Disk {
            let file = comma(&self.image);
            // ATA knows no read-only disks, and QEMU's NVMe does not tell: there, what is written goes to a temporary file.
            let access =
                if matches!(self.disk, Disk::Ahci | Disk::Ide | Disk::Nvme) { "snapshot=on" } else { "readonly=on" };
            let format = match self.format {
                Format::Raw | Format::Erofs => "raw",
                Format::Qcow2 => "qcow2",
                Format::Vmdk | Format::Ova => "vmdk",
                Format::Vdi => "vdi",
                Format::Vhd => "vpc",
            };
            let file = match self.window {
                None => format!("file.locking=off,file={file}"),
                Some((start, len)) => format!(
                    "file.driver=raw,file.offset={start},file.size={len},file.file.driver=file,file.file.locking=off,file.file.filename={file}"
                ),
            };
            args.add("-drive", format!("if=none,id=root,format={format},{access},{file}"));
        }
        match &self.net {
            Net::None => {}
            Net::User => {
                let forwards: String = self.publish.iter().map(forward).collect();
                args.add("-netdev", format!("user,id=net0{forwards}"));
            }
            Net::Tap(name) => {
                let queues = if self.cpus > 1 && self.nic == Nic::Virtio {
                    format!(",queues={}", self.cpus)
                } else {
                    String::new()
                };
                let vhost =
                    if self.accel == Accel::Kvm && Path::new("/dev/vhost-net").exists() { ",vhost=on" } else { "" };
                args.add("-netdev", format!("tap,id=net0,ifname={name},script=no,downscript=no{queues}{vhost}"));
            }
        }
        args.add("-object", "rng-builtin,id=rng0");
        for (slot, (name, properties)) in self.devices().into_iter().enumerate() {
            args.add(
                "-device",
                match self.machine {
                    Machine::Microvm => format!("{name}-device,bus=virtio-mmio-bus.{}{properties}", slot + FIRST_SLOT),
                    Machine::Pc | Machine::Q35 => format!("{name}-pci{properties}"),
                },
            );
        }
        for device in self.other_devices() {
            args.add("-device", device);
        }
        args.0.extend(self.extra.iter().cloned());
        args.0
    }

    /// Fails when the machine cannot have the devices.
    pub fn check_devices(&self) -> Result<()> {
        if self.machine != Machine::Microvm {
            return Ok(());
        }
        if self.net != Net::None && self.nic != Nic::Virtio {
            return Err(failure(EXIT_OURS, "a microvm has no PCI; with --machine microvm only --nic virtio works"));
        }
        if self.root == RootKind::Disk && !matches!(self.disk, Disk::Virtio | Disk::VirtioScsi) {
            return Err(failure(
                EXIT_OURS,
                "a microvm has no PCI; with --machine microvm only --disk virtio and virtio-scsi work",
            ));
        }
        Ok(())
    }

    fn add_processor(&self, args: &mut Arguments) {
        args.add(
            "-machine",
            match self.machine {
                Machine::Pc => "pc",
                Machine::Q35 => "q35",
                Machine::Microvm => "microvm,isa-serial=on,rtc=on,acpi=on,ioapic2=on",
            },
        );
        if self.machine == Machine::Microvm {
            args.add("-global", "virtio-mmio.force-legacy=false");
        }
        match (self.accel, self.icount) {
            (Accel::Kvm, _) => {
                args.add("-accel", "kvm");
                args.add("-cpu", "host");
            }
            (Accel::Tcg, true) => {
                args.add("-accel", "tcg");
                args.add("-icount", "shift=0,sleep=off");
                args.add("-cpu", "max");
            }
            (Accel::Tcg, false) => {
                args.add("-accel", "tcg,thread=multi");
                args.add("-cpu", "max");
            }
        }
        args.add("-m", format!("{}k", self.memory >> 10));
        args.add("-smp", self.cpus.to_string());
    }

    /// The virtio devices: name without its bus, and properties.
    fn devices(&self) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if self.root == RootKind::Disk {
            match self.disk {
                Disk::Virtio => all.push(("virtio-blk", ",drive=root".to_owned())),
                Disk::VirtioScsi => all.push(("virtio-scsi", ",id=scsi0".to_owned())),
                Disk::Pvscsi | Disk::Ahci | Disk::Ide | Disk::Nvme => {}
            }
        }
        if self.net != Net::None && self.nic == Nic::Virtio {
            let microvm = self.machine == Machine::Microvm;
            // No network boot: its ROM would be read and run.
            let mut properties = if microvm { ",netdev=net0" } else { ",netdev=net0,romfile=" }.to_owned();
            if matches!(self.net, Net::Tap(_)) && self.cpus > 1 {
                properties += ",mq=on";
                if !microvm {
                    properties += &format!(",vectors={}", 2 * self.cpus + 2);
                }
            }
            all.push(("virtio-net", properties));
        }
        all.push(("virtio-rng", ",rng=rng0".to_owned()));
        all.push(("virtio-balloon", String::new()));
        all
    }

    /// The devices that are not virtio's, with their properties; and the disk of a SCSI controller.
    fn other_devices(&self) -> Vec<&'static str> {
        let mut all: Vec<&str> = Vec::new();
        if self.root == RootKind::Disk {
            all.extend_from_slice(match self.disk {
                Disk::Virtio => &[],
                Disk::VirtioScsi => &["scsi-hd,bus=scsi0.0,drive=root"],
                Disk::Pvscsi => &["pvscsi,id=scsi0", "scsi-hd,bus=scsi0.0,drive=root"],
                Disk::Ahci => &["ahci,id=ahci0", "ide-hd,bus=ahci0.0,drive=root"],
                // The PC's own controller; Q35's own is AHCI.
                Disk::Ide if self.machine == Machine::Pc => &["ide-hd,bus=ide.0,drive=root"],
                Disk::Ide => &["piix3-ide,id=ide0", "ide-hd,bus=ide0.0,drive=root"],
                Disk::Nvme => &["nvme,drive=root,serial=root"],
            });
        }
        if self.net != Net::None {
            all.extend_from_slice(match self.nic {
                Nic::Virtio => &[],
                Nic::Vmxnet3 => &["vmxnet3,netdev=net0,romfile="],
                Nic::E1000 => &["e1000,netdev=net0,romfile="],
                Nic::E1000e => &["e1000e,netdev=net0,romfile="],
            });
        }
        all
    }

    /// The kernel's command line. With ACPI on, QEMU's microvm does not add its devices to it; their places are fixed:
    /// 512 bytes each from 0xfeb00000, interrupts from the first of the second I/O APIC.
    fn append_with_devices(&self) -> String {
        let mut line = self.append.clone();
        if self.machine == Machine::Microvm {
            for slot in FIRST_SLOT..FIRST_SLOT + self.devices().len() {
                line += &format!(" virtio_mmio.device=512@{:#x}:{}", 0xfeb0_0000 + 512 * slot, 24 + slot);
            }
        }
        line
    }
}

/// microvm's first slot that is used. Slot 0 is line 0 of the second I/O APIC, and QEMU moves line 0 of every I/O APIC
/// to line 2 (as PCs do with the timer), which is slot 2's.
const FIRST_SLOT: usize = 1;

/// More than [`Vm::arguments`] ever adds to the kernel's command line, in bytes.
pub const DEVICES_LINE: usize = 256;

struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        let value = value.into();
        if !value.is_empty() {
            self.0.push(value);
        }
    }
}

/// A path inside one of QEMU's comma-separated options.
fn comma(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

fn forward(p: &Publish) -> String {
    let address = match p.address {
        Some(std::net::IpAddr::V6(a)) => format!("[{a}]"),
        Some(a) => a.to_string(),
        None => String::new(),
    };
    format!(",hostfwd={}:{address}:{}-:{}", if p.udp { "udp" } else { "tcp" }, p.host, p.guest)
}

/// Hardware virtualization where it is really there, else emulation.
pub fn choose_accel(wanted: Option<Accel>) -> Result<Accel> {
    match wanted {
        Some(Accel::Kvm) if !kvm_is_there() => Err(failure(
            EXIT_OURS,
            "there is no hardware virtualization here: kvm_intel or kvm_amd is not loaded, or /dev/kvm does not open; leave --accel away",
        )),
        Some(accel) => Ok(accel),
        None => Ok(if kvm_is_there() { Accel::Kvm } else { Accel::Tcg }),
    }
}

/// /dev/kvm alone proves nothing: containers show it on machines without virtualization.
fn kvm_is_there() -> bool {
    let loaded = ["/sys/module/kvm_intel", "/sys/module/kvm_amd"].iter().any(|m| Path::new(m).exists());
    loaded && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// QEMU's program file.
pub fn find() -> Result<PathBuf> {
    let name = std::env::var_os("CORACLE_QEMU").unwrap_or_else(|| QEMU.into());
    let path = PathBuf::from(&name);
    let found = if path.components().count() > 1 {
        path.is_file().then_some(path)
    } else {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|d| d.join(&name))
            .find(|p| p.is_file())
    };
    found.ok_or_else(|| {
        failure(
            EXIT_OURS,
            format!(
                "QEMU is missing ({} is not on this machine); on Debian run: apt-get install qemu-system-x86",
                name.display()
            ),
        )
    })
}

/// Fails when a port to be forwarded is in use here.
pub fn check_ports(ports: &[Publish]) -> Result<()> {
    use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
    for p in ports {
        let at = (p.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), p.host);
        let outcome = if p.udp { UdpSocket::bind(at).map(drop) } else { TcpListener::bind(at).map(drop) };
        let Err(e) = outcome else { continue };
        let kind = if p.udp { "UDP" } else { "TCP" };
        let message = match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!(
                    "{kind} port {} is in use on this machine; choose another: -p {}:{}",
                    p.host,
                    alternative(p.host),
                    p.guest
                )
            }
            std::io::ErrorKind::PermissionDenied => {
                format!(
                    "{kind} port {} needs root; choose one above 1023: -p {}:{}",
                    p.host,
                    alternative(p.host),
                    p.guest
                )
            }
            _ => format!("cannot listen at {kind} port {} of {}: {e}", p.host, at.0),
        };
        return Err(failure(EXIT_OURS, message));
    }
    Ok(())
}

fn alternative(port: u16) -> u16 {
    if port < 1024 { port + 8000 } else { port.checked_add(1000).unwrap_or(18080) }
}

#[cfg(test)]
#[path = "qemu_tests.rs"]
mod tests;
