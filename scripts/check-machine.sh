#!/bin/sh
# Refuse a machine that cannot run the demo and the tests, before gigabytes are downloaded.
# usage: check-machine.sh REQUIREMENTS [CPUINFO [MEMINFO [FOLDER]]]
set -eu
requirements=$1 cpuinfo=${2:-/proc/cpuinfo} meminfo=${3:-/proc/meminfo} folder=${4:-.}
refuse() {
    echo "This machine cannot run Lorary's servers: $1" >&2
    echo "The registry, its client and the command line need none of this: pip install ." >&2
    exit 1
}
system=$(uname -s) machine=$(uname -m)
[ "$system" = Linux ] || refuse "the system is $system, and vLLM runs on Linux. Use Linux, WSL 2 or a container."
case $machine in
    x86_64 | amd64) flags=avx2 ;;
    aarch64 | arm64)
        # vLLM and PyTorch publish packages for it; whether Lorary works there is not known.
        [ "${LORARY_TRY_ARM64:-}" = 1 ] || refuse "the processor is arm64, on which nothing was tested. Use x86-64, or try it: LORARY_TRY_ARM64=1"
        flags=asimd
        ;;
    *) refuse "the processor is $machine. Use x86-64." ;;
esac
case $requirements in
    *gpu.txt) need=12 ;;
    *)
        need=6
        grep -q -w "$flags" "$cpuinfo" || refuse "the processor has no AVX2, which vLLM's CPU build needs. Use one made after 2013."
        ;;
esac
memory=$(($(awk '/^MemTotal:/ { print $2 }' "$meminfo") / 1048576))
[ "$memory" -ge 7 ] || refuse "it has $memory GiB of memory, and 8 GiB are needed. Use a larger one."
free=$(($(df -Pk "$folder" | awk 'NR == 2 { print $4 }') / 1048576))
[ "$free" -ge "$need" ] || refuse "$free GiB are free on this disk, and $need GiB are needed. Free some space."
