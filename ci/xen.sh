# shellcheck shell=bash
# The lab for Xen and KVM: Debian 13 with Xen 4.20 and Linux 6.12, which boots as dom0 or plain; then its own KVM (AMD's, which
# QEMU can emulate) runs guests with QEMU 10. Sourced by ci/lab.

XEN_PACKAGES=(xen-hypervisor-4.20-amd64 xen-utils-4.20 xen-utils-common xenstore-utils grub-xen-host
    linux-image-amd64 qemu-system-x86 qemu-system-xen qemu-utils seabios ovmf
    iproute2 iputils-ping kmod busybox-static procps util-linux xz-utils)
XEN_MODULES=(virtio_pci virtio_blk ext4 kvm-amd tun msr cpuid
    xen-netback xen-blkback xen-gntdev xen-gntalloc xen-evtchn xenfs xen-privcmd bridge loop)
# What a Linux guest may need, in any of the cells.
XEN_GUEST_MODULES=(xen-blkfront xen-netfront virtio_pci virtio_blk virtio_net e1000 8139cp vmxnet3 vmw_pvscsi ata_piix ahci
    sd_mod sr_mod nvme erofs overlay isofs af_packet)

build_lab() { # ROOT OUT
    local root=$1 out=$2 security archive version
    archive=$(mirror debian)
    security=$(mirror debian-security)
    bootstrap trixie "$root" "$(IFS=,; echo "${XEN_PACKAGES[*]}")" "$archive trixie main" "$security trixie-security main" || return
    version=$(basename "$root"/usr/lib/modules/*)
    cp "$root/boot/vmlinuz-$version" "$out/vmlinuz"
    # The linux image package is the full one: the cloud kernel cannot be dom0.
    zcat "$root"/boot/xen-4.20-amd64.gz >"$out/xen"
    initramfs "$root" "$version" "$out/initrd" virtio_pci virtio_blk ext4
    unpack_modules "$root" "$version" "$out/guest" "${XEN_GUEST_MODULES[@]}"
    cp "$root/usr/bin/busybox" "$out/guest/busybox"
    slim_modules "$root" "$version" "${XEN_MODULES[@]}"
    rm -rf "$root"/boot/* "$root"/usr/lib/debug "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/perl* "$root"/usr/share/{icons,sounds}
    ext4 "$root" "$out/root.img"
}

# Keeps only these modules, uncompressed: L1 is emulated, and unpacking takes its time.
slim_modules() { # ROOT VERSION MODULE...
    local root=$1 version=$2 file at
    shift 2
    local tree=$root/usr/lib/modules/$version keep
    keep=$(mktemp -d -p .)
    for file in $(module_files "$root" "$version" "$@"); do
        at=$keep/${file#*"/$version/"}
        mkdir -p "$(dirname "$at")"
        case $file in *.xz) xz -dc "$root$file" >"${at%.xz}" ;; *) cp "$root$file" "$at" ;; esac
    done
    rm -rf "$tree/kernel"
    cp -a "$keep/kernel" "$tree/"
    rm -rf "$keep" "$tree"/modules.{alias,dep,symbols,softdep,devname}*
    chroot "$root" depmod "$version"
}
