# shellcheck shell=bash
# Guests of KVM in L1, by QEMU.

. ./common.sh

kvm_up() {
    modprobe kvm-amd nested=0 && [ -c /dev/kvm ] || { echo "@l1 failed KVM is not there"; exit 1; }
    modprobe tun
    ulimit -l unlimited
    echo "@l1 kvm ready $(up)"
}

NET="user,id=n0,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=tcp:127.0.0.1:6379-:6379"

# guest NAME SECONDS QEMU-ARGUMENT...: the arguments name the devices; netdev n0, drives root and second are there for them.
guest() {
    local name=$1 seconds=$2 console=/tmp/$1.console
    shift 2
    fresh_second
    : >"$console"
    ./visit "$name" --http 127.0.0.1:8080 --redis 127.0.0.1:6379 --console "$console" --second $SECOND --seconds "$seconds" -- \
        qemu-system-x86_64 -m 512 -nodefaults -display none -no-reboot -chardev "file,id=console,path=$console" \
        -netdev "$NET" -drive "if=none,id=root,format=raw,cache=unsafe,file=$DATA" \
        -drive "if=none,id=second,format=raw,cache=unsafe,file=$SECOND" "$@"
    # a machine that failed is still there
    local pid
    for pid in $(pidof qemu-system-x86_64); do kill -9 "$pid"; done
    while pidof qemu-system-x86_64 >/dev/null; do sleep 0.1; done
}
