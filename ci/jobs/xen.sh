# shellcheck shell=bash
# Domains of Xen in dom0, by xl.

. ./common.sh

BIN=/usr/lib/xen-4.20/bin
BRIDGE=10.9.0.1
GUEST=10.9.0.2
MAC=00:16:3e:00:00:02

xen_up() {
    modprobe -a xenfs xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xen-netback xen-blkback bridge loop tun
    mount -t xenfs xenfs /proc/xen
    grep -q control_d /proc/xen/capabilities || { echo "@l1 failed this is not dom0"; exit 1; }
    mkdir -p /var/log/xen/console /run/xen /run/xenstored /run/xen/lock /run/lock /var/lib/xen
    $BIN/xenstored --pid-file /run/xenstore.pid
    local tries=0
    while ! xenstore-read -s / >/dev/null 2>&1 && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
    $BIN/xen-init-dom0 >/dev/null
    $BIN/xenconsoled --log=all --log-dir=/var/log/xen/console --pid-file /run/xenconsoled.pid
    # else every new interface waits for 15 s before it forwards
    ip link add xenbr0 type bridge forward_delay 0
    ip addr add $BRIDGE/24 dev xenbr0
    ip link set xenbr0 up
    # A static lease is offered at once; for others the server first asks around for two seconds.
    printf '%s\n' "start $GUEST" "end $GUEST" "interface xenbr0" "option subnet 255.255.255.0" "option router $BRIDGE" \
        "static_lease $MAC $GUEST" "lease_file /run/udhcpd.leases" "pidfile /run/udhcpd.pid" >/run/udhcpd.conf
    : >/run/udhcpd.leases
    busybox udhcpd -S /run/udhcpd.conf
    echo "@l1 xen ready $(up)"
}

# domain NAME SECONDS CPUS LINE...: a domain with the one image as xvda, the second disk as xvdb and a network interface; LINEs of its
# configuration say of which type it is. With a program's name in $APP the image has that program alone.
domain() {
    local name=$1 seconds=$2 cpus=$3 line
    shift 3
    fresh_second
    {
        echo "name = \"$name\""
        # Xen cleans memory that a domain gets, page by page: 512 MB took 10 s here
        echo "memory = 256"
        echo "vcpus = $cpus"
        echo "disk = [ \"format=raw,vdev=xvda,access=rw,target=$DATA\", \"format=raw,vdev=xvdb,access=rw,target=$SECOND\" ]"
        echo "vif = [ \"bridge=xenbr0,mac=$MAC,type=vif\" ]"
        for event in poweroff reboot crash; do echo "on_$event = \"destroy\""; done
        for line in "$@"; do echo "$line"; done
    } >"/tmp/$name.cfg"
    local console=/var/log/xen/console/guest-$name.log
    : >"$console"
    ./visit "$name" ${APP:+--app "$APP"} --http $GUEST:80 --redis $GUEST:6379 --console "$console" --second $SECOND --seconds "$seconds" \
        --alive "xl domid $name" -- xl create "/tmp/$name.cfg" || {
        tail -n 8 "/var/log/xen/qemu-dm-$name.log" 2>/dev/null | sed "s/^/@cell $name log qemu: /"
    }
    if xl domid "$name" >/dev/null 2>&1; then timeout 60 xl destroy "$name"; fi
    # the loop device of the second disk is let go a moment after the domain
    local tries=0
    while losetup -a | grep -q second && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
}
