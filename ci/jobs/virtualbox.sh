# shellcheck shell=bash
# Machines of VirtualBox in L1.

. ./common.sh

VB=/usr/lib/virtualbox/VBoxManage

virtualbox_up() {
    modprobe vboxdrv || { echo "@l1 failed vboxdrv does not load"; exit 1; }
    # the first call starts VBoxSVC, which takes seconds
    $VB list hostinfo >/dev/null
    echo "@l1 virtualbox ready $(up)"
}

with_cdrom() {
    [ -n "${CDROM:-}" ] || return 0
    $VB modifyvm "$1" --boot1 dvd --boot2 disk &&
        $VB storagectl "$1" --name c1 --add ide --controller PIIX4 --bootable on &&
        $VB storageattach "$1" --storagectl c1 --port 0 --device 0 --type dvddrive --medium "$CDROM"
}

# controller KIND: how VBoxManage names it.
controller() {
    case $1 in
        ahci) echo "--add sata --controller IntelAhci --portcount 2" ;;
        ide) echo "--add ide --controller PIIX4" ;;
        virtio) echo "--add virtio --controller VirtIO --portcount 2" ;;
    esac
}

# machine NAME SECONDS NIC DISKS: boots the vdi, or the CD-ROM that CDROM names beside it. NAT's port forwarding reaches it.
machine() {
    local name=$1 seconds=$2 nic=$3 disks=$4 console=/tmp/$1.console log=/tmp/$1.log
    rm -f $SECOND /tmp/second.vdi
    : >"$console"
    if ! {
        $VB createmedium disk --filename /tmp/second.vdi --sizebyte $SECOND_BYTES --format VDI &&
            $VB createvm --name "$name" --ostype Linux26_64 --register --basefolder /tmp/machines &&
            $VB modifyvm "$name" --memory 512 --cpus 1 --ioapic on --uart1 0x3f8 4 --uartmode1 file "$console" --audio-enabled off \
                --boot1 disk --boot2 none --boot3 none --boot4 none --biosbootmenu disabled \
                --bioslogofadein off --bioslogofadeout off --bioslogodisplaytime 0 --graphicscontroller vmsvga --vram 16 \
                --nic1 nat --nictype1 "$nic" --natpf1 "http,tcp,127.0.0.1,8080,,80" --natpf1 "redis,tcp,127.0.0.1,6379,,6379" \
                --vm-execution-engine hwvirt &&
            $VB storagectl "$name" --name c0 $(controller "$disks") --bootable on &&
            $VB storageattach "$name" --storagectl c0 --port 0 --device 0 --type hdd --medium /job/matrix.vdi &&
            $VB storageattach "$name" --storagectl c0 --port 1 --device 0 --type hdd --medium /tmp/second.vdi &&
            with_cdrom "$name"
    } >"$log" 2>&1; then
        fail "$name" "VBoxManage could not make the machine" "$log"
        return
    fi
    ./visit "$name" --http 127.0.0.1:8080 --redis 127.0.0.1:6379 --console "$console" --second $SECOND --seconds "$seconds" \
        --after "$VB clonemedium disk /tmp/second.vdi $SECOND --format RAW" \
        --alive "$VB showvminfo $name --machinereadable | grep -qE '^VMState=\"(running|starting|paused)'" -- \
        $VB startvm "$name" --type headless || {
        grep -aE 'Guru|HM: |VINF_EM_TRIPLE|!!' "/tmp/machines/$name/Logs/VBox.log" | tail -n 12 | sed "s/^/@cell $name log vbox: /"
    }
    $VB controlvm "$name" poweroff >/dev/null 2>&1
    sleep 2
    $VB unregistervm "$name" >/dev/null 2>&1
    $VB closemedium disk /job/matrix.vdi >/dev/null 2>&1
    $VB closemedium disk /tmp/second.vdi --delete >/dev/null 2>&1
    $VB closemedium disk $SECOND >/dev/null 2>&1
}
