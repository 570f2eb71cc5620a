#!/bin/bash
# A minimal Debian in a folder, by debootstrap: for tests/bare.sh and tests/gpu/rehearse.sh. Takes root and a network.
#
#   MIRROR=URL tests/bare_root.sh SUITE ROOT WORK     ROOT: taken as it is if it is there; WORK: for logs
set -euo pipefail
suite=$1 root=$2 work=$3
if [ -d "$root/usr" ]; then exit 0; fi
debootstrap=(debootstrap)
if ! command -v debootstrap >/dev/null; then # a copy of its own, by package lists of its own
    apt=(apt-get -q -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root)
    mkdir -p "$work"/{lists,cache/archives}/partial
    (cd "$work" && "${apt[@]}" update && "${apt[@]}" download debootstrap && dpkg-deb -x debootstrap_*.deb debootstrap) \
        >"$work/apt.log" 2>&1 || { echo "error: no debootstrap here, and apt cannot download it: $(tail -n 1 "$work/apt.log")" >&2 && exit 69; }
    debootstrap=(env DEBOOTSTRAP_DIR="$work/debootstrap/usr/share/debootstrap" "$work/debootstrap/usr/sbin/debootstrap")
fi
mkdir -p "$(dirname "$root")"
"${debootstrap[@]}" --variant=minbase "$suite" "$root" "${MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log" 2>&1 ||
    { tail -n 5 "$work/debootstrap.log" >&2 && echo "error: debootstrap $suite failed" >&2 && exit 69; }
