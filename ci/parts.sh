# shellcheck shell=bash
# What the labs' scripts build with: a Debian tree, modules, L1's initramfs and its disk. Sourced by ci/lab.

# mirror SUFFIX: the address of the Debian archive that this machine's apt uses, by the end of its path.
mirror() {
    local found
    found=$( (cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true) |
        awk '$1 == "URIs:" { print $2 } $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^[a-z]+:\/\//) { print $i; break } }' |
        sed 's,/*$,,' | grep -E "/$1\$" | head -n 1) || true
    [ -n "$found" ] || die "apt's sources on this machine name no mirror that ends in /$1"
    echo "$found"
}

# bootstrap SUITE FOLDER PACKAGE,... LINE...: a Debian tree; LINEs are more of apt's sources.
bootstrap() {
    local suite=$1 folder=$2 packages=$3
    shift 3
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$key" ] || die "no $key; install debian-archive-keyring"
    local lines=() line
    for line in "$@"; do lines+=("deb [signed-by=$key] $line"); done
    mmdebstrap --quiet --mode=root --variant=minbase --skip=check/empty \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --include="$packages" "$suite" "$folder" "${lines[@]}" >&2
}

# module_files ROOT VERSION MODULE...: paths of the modules and what they need, in the order of loading.
module_files() {
    local root=$1 version=$2
    shift 2
    chroot "$root" modprobe -a -S "$version" --show-depends "$@" 2>/dev/null | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# unpack_modules ROOT VERSION FOLDER MODULE...: puts them there uncompressed, with their order in the file `order`.
unpack_modules() {
    local root=$1 version=$2 folder=$3 file name
    shift 3
    mkdir -p "$folder"
    for file in $(module_files "$root" "$version" "$@"); do
        name=$(basename "$file")
        name=${name%.xz}
        case $file in *.xz) xz -dc "$root$file" >"$folder/$name" ;; *) cp "$root$file" "$folder/$name" ;; esac
        echo "$name" >>"$folder/order"
    done
}

# initramfs ROOT VERSION OUT MODULE...: busybox, the modules of L1's disk, and ci/l1/init.
initramfs() {
    local root=$1 version=$2 out=$3 tree
    shift 3
    tree=$(mktemp -d -p .)
    mkdir -p "$tree"/{bin,dev,root}
    cp "$root/usr/bin/busybox" "$tree/bin/"
    unpack_modules "$root" "$version" "$tree/modules" "$@"
    install -m 755 "$CI/l1/init" "$tree/init"
    (cd "$tree" && find . | cpio -o -H newc --quiet) | gzip -1 >"$out"
    rm -rf "$tree"
}

# ext4 FOLDER OUT: a file system without journal, with some room left; ci/l1/start is its first program.
ext4() {
    local folder=$1 out=$2 size
    install -m 755 "$CI/l1/start" "$folder/start"
    mkdir -p "$folder"/{proc,sys,dev,run,tmp,job}
    size=$(du -sm --apparent-size "$folder" | cut -f1)
    mke2fs -q -t ext4 -O ^has_journal -d "$folder" "$out" $((size * 12 / 10 + 64))M >&2
}
