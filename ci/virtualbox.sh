# shellcheck shell=bash
# The lab for VirtualBox: Debian sid with VirtualBox (contrib), its kernel module built for the kernel of the same day, and
# QEMU 11, which this machine runs out of the lab: older ones hang VirtualBox' guests. Sourced by ci/lab.

VBOX_PACKAGES=(linux-image-cloud-amd64 linux-headers-cloud-amd64 virtualbox virtualbox-dkms qemu-system-x86 seabios
    busybox-static kmod iproute2 procps util-linux xz-utils)

build_lab() { # ROOT OUT
    local root=$1 out=$2 version
    bootstrap sid "$root" "$(IFS=,; echo "${VBOX_PACKAGES[*]}")" "$(mirror debian) sid main contrib" || return
    version=$(basename "$root"/usr/lib/modules/*)
    ls "$root/usr/lib/modules/$version"/updates/dkms/vboxdrv.ko* >/dev/null || { say "VirtualBox' module was not built"; return 1; }
    cp "$root/boot/vmlinuz-$version" "$out/vmlinuz"
    initramfs "$root" "$version" "$out/initrd" virtio_pci virtio_blk ext4
    own_qemu "$root" "$out/qemu"
    slim "$root"
    ext4 "$root" "$out/root.img"
}

# The lab's QEMU with its own loader and libraries, and a script that starts it.
own_qemu() { # ROOT OUT
    local root=$1 out=$2 libs=/usr/lib/x86_64-linux-gnu file
    mkdir -p "$out/lib" "$out/share"
    cp "$root/usr/bin/qemu-system-x86_64" "$out/"
    cp -L "$root/usr/lib64/ld-linux-x86-64.so.2" "$out/lib/"
    for file in $(chroot "$root" ldd /usr/bin/qemu-system-x86_64 $libs/qemu/accel-tcg-x86_64.so 2>/dev/null | awk '$2 == "=>" { print $3 }' | sort -u); do
        cp -L "$root$file" "$out/lib/"
    done
    mkdir -p "$out/modules"
    cp "$root$libs"/qemu/*tcg* "$out/modules/" 2>/dev/null || true
    cp -rL "$root/usr/share/qemu" "$root/usr/share/seabios" "$out/share/"
    cat >"$out/run" <<'RUN'
#!/bin/sh
at=$(dirname "$(readlink -f "$0")")
export QEMU_MODULE_DIR="$at/modules"
exec "$at/lib/ld-linux-x86-64.so.2" --library-path "$at/lib" "$at/qemu-system-x86_64" -L "$at/share/qemu" -L "$at/share/seabios" "$@"
RUN
    chmod 755 "$out/run"
}

# L1 does not compile, show or sound.
slim() { # ROOT
    local root=$1
    rm -rf "$root"/usr/src "$root"/var/cache "$root"/var/lib/apt/lists "$root"/usr/lib/gcc* "$root"/usr/libexec/gcc "$root"/usr/share/{doc,locale,man,icons,qemu} \
        "$root"/boot/* "$root"/usr/lib/llvm* "$root"/usr/lib/linux-kbuild* "$root"/usr/lib/virtualbox/VBoxEFI-arm* \
        "$root"/usr/lib/x86_64-linux-gnu/libLLVM* "$root"/usr/lib/x86_64-linux-gnu/qemu "$root"/usr/bin/qemu-system-*
    mkdir -p "$root/var/cache"
}
