# shellcheck shell=bash
# Sourced by every job in L1: what the hypervisors' files share.
# A cell says how it went on lines "@cell NAME passed ...|failed ...|log ...", most of them written by the program `visit`.

SECOND=/tmp/second.img  # behind the second disk
SECOND_BYTES=$((16 << 20))
DATA=/dev/vdc           # the one image

up() { cut -d' ' -f1 /proc/uptime; }

fresh_second() {
    rm -f $SECOND
    truncate -s $SECOND_BYTES $SECOND
}

# fail NAME WHY [LOGFILE]: for what goes wrong outside of `visit`.
fail() {
    [ -z "${3:-}" ] || tail -n 25 "$3" | sed "s/^/@cell $1 log /"
    echo "@cell $1 failed $2"
}
