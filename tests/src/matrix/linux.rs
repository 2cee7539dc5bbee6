//! The Linux guest that Coracle is compared with: Debian's kernel as it comes, an initramfs with only the modules that the machine
//! needs, and from then on the very same disk: the same Redis and web server, out of the image's EROFS partition.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bench::cpio::Archive;
use crate::run::{Scratch, must, which};

/// Of the whole list of modules those that this kind of machine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Xen's.
    Xen,
    /// virtio.
    Virtio,
    /// An 82540EM and AHCI, and a CD-ROM drive to boot from.
    E1000Ahci,
}

impl Devices {
    fn modules(self) -> &'static [&'static str] {
        match self {
            Devices::Xen => &["xen-blkfront", "xen-netfront"],
            Devices::Virtio => &["virtio_blk", "failover", "net_failover", "virtio_net"],
            Devices::E1000Ahci => &["e1000", "scsi_common", "scsi_mod", "libata", "libahci", "ahci", "sd_mod"],
        }
    }
}

/// Every machine's: the image's file system, what takes the writes, and the DHCP client's sockets.
const ALWAYS: &[&str] = &[
    "netfs",
    "lz4_decompress",
    "erofs",
    "overlay",
    "af_packet",
    "crc32c",
    "libcrc32c",
    "libcrc32c-intel",
    "crc32c_generic",
];

/// The first program. It waits for the disk and the interface, as udev would, without a pause that could be seen.
const INIT: &str = r#"#!/busybox sh
b=/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for m in $($b cat /modules/order); do $b insmod /modules/$m; done
while :; do
    for d in xvda3 vda3 sda3; do [ -b /dev/$d ] && [ -e /sys/class/net/eth0 ] && break 2; done
    $b usleep 5000
done
$b mount -t erofs -o ro /dev/$d /lower
$b mount -t tmpfs tmp /upper
$b mkdir /upper/data /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /root
$b mkdir -p /root/proc /root/sys /root/dev /root/tmp
for m in proc sys dev; do $b mount --move /$m /root/$m; done
$b ip link set lo up
$b ip link set eth0 up
$b udhcpc -i eth0 -q -n -t 20 -T 1 -s /dhcp >/dev/null
$b chroot /root BUSYBOX sh /matrix/init.sh
echo "coracle:exit $?"
$b poweroff -f
"#;

/// What the DHCP client calls.
const DHCP: &str = r#"#!/busybox sh
[ "$1" = bound ] || exit 0
/busybox ip addr add $ip/$mask dev $interface
[ -z "$router" ] || /busybox ip route add default via $router
"#;

/// The command line, but for the console.
pub const LINE: &str = "quiet loglevel=3 panic=1 mitigations=off random.trust_cpu=on";

/// Writes the initramfs; the modules and busybox are the lab's.
pub fn initramfs(lab: &Path, devices: Devices, to: &Path) -> Result<(), String> {
    let guest = lab.join("guest");
    let order = std::fs::read_to_string(guest.join("order")).map_err(|e| format!("{}: {e}", guest.display()))?;
    let mut archive = Archive::default();
    for folder in ["/proc", "/sys", "/dev", "/lower", "/upper", "/root"] {
        archive.folder(folder);
    }
    archive.device("/dev/console", 5, 1);
    archive.device("/dev/null", 1, 3);
    archive.copy(&guest.join("busybox"), "/busybox")?;
    let mut wanted = String::new();
    for file in order.lines() {
        let name = file.trim_end_matches(".ko");
        if devices.modules().contains(&name) || ALWAYS.contains(&name) {
            archive.copy(&guest.join(file), &format!("/modules/{file}"))?;
            wanted.push_str(&format!("{file}\n"));
        }
    }
    archive.file("/modules/order", 0o644, wanted.as_bytes());
    // where the image has its busybox: where this machine has it
    let busybox = which("busybox").ok_or("busybox is not installed")?;
    archive.file("/init", 0o755, INIT.replace("BUSYBOX", &busybox.display().to_string()).as_bytes());
    archive.file("/dhcp", 0o755, DHCP.as_bytes());
    std::fs::write(to, archive.finish()).map_err(|e| format!("cannot write {}: {e}", to.display()))
}

/// A CD-ROM image that boots the kernel by BIOS, for hypervisors that load no kernel themselves.
pub fn cdrom(kernel: &Path, initramfs: &Path, console: &str, to: &Path) -> Result<(), String> {
    let loader = PathBuf::from("/usr/lib/ISOLINUX/isolinux.bin");
    let library = PathBuf::from("/usr/lib/syslinux/modules/bios/ldlinux.c32");
    let tool = which("xorriso").filter(|_| loader.exists() && library.exists());
    let tool = tool.ok_or("no xorriso or isolinux (Debian: xorriso isolinux syslinux-common)")?;
    let tree = Scratch::new("cdrom")?;
    for (from, name) in
        [(loader.as_path(), "isolinux.bin"), (&library, "ldlinux.c32"), (kernel, "vmlinuz"), (initramfs, "initrd")]
    {
        std::fs::copy(from, tree.path().join(name)).map_err(|e| format!("cannot copy {}: {e}", from.display()))?;
    }
    tree.write("isolinux.cfg", format!("default linux\nprompt 0\ntimeout 0\nlabel linux\nkernel vmlinuz\nappend initrd=initrd console={console} {LINE}\n"))?;
    let mut c = Command::new(tool);
    c.args(["-as", "mkisofs", "-quiet", "-o"]).arg(to);
    c.args(["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]);
    must(c.arg(tree.path()), Duration::from_secs(60)).map(|_| ())
}
