//! The list of cells: which machine, which devices, what must be seen there.

use crate::lab::Lab;

/// How the kernel gets into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The hypervisor loads the image's kernel itself (PVH, Xen PV).
    Direct,
    /// From the disk by a BIOS.
    Bios,
    /// From the disk by UEFI firmware.
    Uefi,
    /// From the disk by pygrub in dom0.
    Pygrub,
    /// From the disk by GRUB running in the domain.
    Pvgrub,
}

impl Boot {
    /// For the table.
    pub fn words(self) -> &'static str {
        match self {
            Boot::Direct => "direct",
            Boot::Bios => "disk, BIOS",
            Boot::Uefi => "disk, UEFI",
            Boot::Pygrub => "disk, pygrub",
            Boot::Pvgrub => "disk, pvgrub2",
        }
    }
}

/// A network interface, as QEMU models it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nic {
    /// virtio-net on PCI.
    Virtio,
    /// virtio-net on virtio-mmio.
    VirtioMmio,
    /// VMware's.
    Vmxnet3,
    /// Intel 82540EM.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// Xen's, emulated by QEMU.
    Xen,
}

/// What the disks hang on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// virtio-blk on PCI.
    Virtio,
    /// virtio-blk on virtio-mmio.
    VirtioMmio,
    /// virtio-scsi.
    VirtioScsi,
    /// VMware's paravirtual SCSI.
    Pvscsi,
    /// AHCI.
    Ahci,
    /// IDE (PIIX).
    Ide,
    /// NVMe.
    Nvme,
    /// Xen's, emulated by QEMU.
    Xen,
}

/// A machine made by QEMU, on this machine or in L1.
#[derive(Clone, Copy, Debug)]
pub struct Qemu {
    /// `pc`, `q35`, `microvm`.
    pub machine: &'static str,
    /// Its network interface.
    pub nic: Nic,
    /// Its disks.
    pub disk: Disk,
    /// It says that it is VMware, by DMI and the backdoor port.
    pub vmware: bool,
}

/// Where a cell runs.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// QEMU's emulation on this machine.
    Emulated(Qemu),
    /// QEMU on a real, nested KVM.
    Kvm(Qemu, Signature),
    /// A domain of real Xen, of this type.
    Xen(&'static str),
    /// Real VirtualBox: type of network interface and of disk controller, as VBoxManage names them.
    VirtualBox(&'static str, &'static str),
}

/// What KVM shows to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Its own.
    Kvm,
    /// It emulates Xen's hypercalls.
    Xen,
    /// VMware's signature and backdoor port.
    VMware,
}

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Its name.
    pub name: &'static str,
    /// Where it runs.
    pub place: Place,
    /// How the kernel is loaded.
    pub boot: Boot,
    /// Virtual CPUs.
    pub cpus: u32,
    /// It is one of those that `./x test` runs.
    pub fast: bool,
    /// What `/sys/hypervisor/type` must say.
    pub hypervisor: &'static str,
    /// The drivers that must be in use: network, disk.
    pub drivers: (&'static str, &'static str),
}

impl Cell {
    /// The lab that it needs.
    pub fn lab(&self) -> Option<Lab> {
        match self.place {
            Place::Emulated(_) => None,
            Place::Kvm(..) => Some(Lab::Kvm),
            Place::Xen(_) => Some(Lab::Xen),
            Place::VirtualBox(..) => Some(Lab::VirtualBox),
        }
    }
}

const fn qemu(machine: &'static str, nic: Nic, disk: Disk) -> Qemu {
    Qemu { machine, nic, disk, vmware: false }
}

const fn vmware(machine: &'static str, nic: Nic, disk: Disk) -> Qemu {
    Qemu { machine, nic, disk, vmware: true }
}

const fn emulated(
    name: &'static str,
    machine: Qemu,
    boot: Boot,
    cpus: u32,
    drivers: (&'static str, &'static str),
) -> Cell {
    let hypervisor = if machine.vmware { "vmware" } else { "pc" };
    Cell { name, place: Place::Emulated(machine), boot, cpus, fast: true, hypervisor, drivers }
}

/// The same, but only in the whole matrix: `./x test` has a cell for each of its parts already.
const fn slow(cell: Cell) -> Cell {
    Cell { fast: false, ..cell }
}

const fn kvm(
    name: &'static str,
    machine: Qemu,
    shows: Signature,
    boot: Boot,
    cpus: u32,
    drivers: (&'static str, &'static str),
) -> Cell {
    let hypervisor = match shows {
        Signature::Kvm => "kvm",
        Signature::Xen => "xen",
        Signature::VMware => "vmware",
    };
    Cell { name, place: Place::Kvm(machine, shows), boot, cpus, fast: false, hypervisor, drivers }
}

const fn xen(name: &'static str, kind: &'static str, boot: Boot, cpus: u32, hypervisor: &'static str) -> Cell {
    Cell { name, place: Place::Xen(kind), boot, cpus, fast: false, hypervisor, drivers: XEN }
}

/// A PV domain of Xen whose kernel is the image's.
pub const fn pv(name: &'static str, cpus: u32) -> Cell {
    xen(name, "pv", Boot::Direct, cpus, "xen-pv")
}

const fn virtualbox(
    name: &'static str,
    nic: &'static str,
    disk: &'static str,
    drivers: (&'static str, &'static str),
) -> Cell {
    let place = Place::VirtualBox(nic, disk);
    Cell { name, place, boot: Boot::Bios, cpus: 1, fast: false, hypervisor: "virtualbox", drivers }
}

const VIRTIO: (&str, &str) = ("virtio", "virtio");
const XEN: (&str, &str) = ("xen", "xen");

/// All of them.
pub const CELLS: &[Cell] = &[
    emulated("pc-direct", qemu("pc", Nic::Virtio, Disk::Virtio), Boot::Direct, 1, VIRTIO),
    emulated("q35-direct-2", qemu("q35", Nic::Virtio, Disk::Virtio), Boot::Direct, 2, VIRTIO),
    emulated("microvm-direct", qemu("microvm", Nic::VirtioMmio, Disk::VirtioMmio), Boot::Direct, 1, VIRTIO),
    slow(emulated("microvm-direct-2", qemu("microvm", Nic::VirtioMmio, Disk::VirtioMmio), Boot::Direct, 2, VIRTIO)),
    emulated("pc-bios-2", qemu("pc", Nic::Virtio, Disk::Virtio), Boot::Bios, 2, VIRTIO),
    emulated("q35-bios", qemu("q35", Nic::Virtio, Disk::Virtio), Boot::Bios, 1, VIRTIO),
    emulated("q35-uefi", qemu("q35", Nic::Virtio, Disk::Virtio), Boot::Uefi, 1, VIRTIO),
    slow(emulated("q35-uefi-2", qemu("q35", Nic::Virtio, Disk::Virtio), Boot::Uefi, 2, VIRTIO)),
    emulated("vmware-dmi-pc", vmware("pc", Nic::Vmxnet3, Disk::Pvscsi), Boot::Bios, 1, ("vmware", "vmware")),
    emulated("vmware-dmi-q35-2", vmware("q35", Nic::Vmxnet3, Disk::Pvscsi), Boot::Bios, 2, ("vmware", "vmware")),
    emulated("q35-e1000-ahci", qemu("q35", Nic::E1000, Disk::Ahci), Boot::Bios, 1, ("e1000", "ahci")),
    emulated("q35-e1000e-nvme-2", qemu("q35", Nic::E1000e, Disk::Nvme), Boot::Bios, 2, ("e1000", "nvme")),
    slow(emulated("q35-e1000e-nvme-uefi", qemu("q35", Nic::E1000e, Disk::Nvme), Boot::Uefi, 1, ("e1000", "nvme"))),
    emulated("pc-virtio-scsi", qemu("pc", Nic::Virtio, Disk::VirtioScsi), Boot::Bios, 1, VIRTIO),
    slow(emulated("pc-e1000-ahci", qemu("pc", Nic::E1000, Disk::Ahci), Boot::Bios, 1, ("e1000", "ahci"))),
    slow(emulated("pc-e1000-ide", qemu("pc", Nic::E1000, Disk::Ide), Boot::Bios, 1, ("e1000", "ide"))),
    kvm("kvm-bios", qemu("pc", Nic::Virtio, Disk::Virtio), Signature::Kvm, Boot::Bios, 1, VIRTIO),
    kvm("kvm-bios-2", qemu("q35", Nic::Virtio, Disk::Virtio), Signature::Kvm, Boot::Bios, 2, VIRTIO),
    kvm("kvm-direct", qemu("q35", Nic::Virtio, Disk::Virtio), Signature::Kvm, Boot::Direct, 1, VIRTIO),
    kvm("kvm-xen", qemu("q35", Nic::Xen, Disk::Xen), Signature::Xen, Boot::Direct, 1, XEN),
    kvm(
        "kvm-vmware",
        vmware("q35", Nic::Vmxnet3, Disk::Pvscsi),
        Signature::VMware,
        Boot::Bios,
        1,
        ("vmware", "vmware"),
    ),
    pv("xen-pv", 1),
    pv("xen-pv-2", 2),
    xen("xen-pv-pygrub", "pv", Boot::Pygrub, 1, "xen-pv"),
    xen("xen-pv-pvgrub", "pv", Boot::Pvgrub, 1, "xen-pv"),
    xen("xen-pvh", "pvh", Boot::Direct, 1, "xen"),
    xen("xen-pvh-2", "pvh", Boot::Direct, 2, "xen"),
    xen("xen-hvm", "hvm", Boot::Bios, 1, "xen"),
    xen("xen-hvm-2", "hvm", Boot::Bios, 2, "xen"),
    virtualbox("virtualbox-virtio", "virtio", "virtio", VIRTIO),
    virtualbox("virtualbox-e1000-ahci", "82540EM", "ahci", ("e1000", "ahci")),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::apps::APPS;

    #[test]
    fn names_differ() {
        let cells: Vec<&Cell> = CELLS.iter().chain(APPS.iter().map(|a| &a.cell)).collect();
        for (n, cell) in cells.iter().enumerate() {
            assert!(cells[n + 1..].iter().all(|other| other.name != cell.name), "{}", cell.name);
            assert!(cell.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{}", cell.name);
        }
    }
}
