# First program of the images of nginx and Python: `serve.sh BUSYBOX [first PROGRAM ARGUMENT] SERVER...`. Runs the server until somebody
# connects to port 81, who is told about this machine and its processes. Ends with the exit code of the first program, or the server's.
busybox=$1
shift
first=
if [ "$1" = first ]; then
    "$2" "$3"
    first=$?
    shift 3
fi
"$@" &
server=$!
"$busybox" nc -l -p 81 -e "$busybox" sh -c '
    driver() { link=$("$1" readlink "$2/device/driver"); echo "${link##*/}"; }
    set -- /sys/block/*
    echo "hypervisor=$("$0" cat /sys/hypervisor/type)"
    echo "told_by=$("$0" cat /sys/hypervisor/told_by)"
    echo "nic=$(driver "$0" /sys/class/net/eth0)"
    echo "disk=$(driver "$0" "$1")"
    echo "cpus=$("$0" nproc)"
    "$0" ps' "$busybox"
kill $server
wait $server
code=$?
echo "the server ended with $code"
exit ${first:-$code}
