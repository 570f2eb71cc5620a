#!/bin/bash
# Installs what vaecf is built and tested with, where that is missing and there is apt (Debian, Ubuntu);
# elsewhere names the modules, Spack or conda-forge packages. Does nothing if nothing is missing.
#
#   jobs/setup.sh [PACKAGE...]     PACKAGE: Debian packages wanted besides (CI: shellcheck clang-format)
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p build
lack=()
for program in make pkg-config mpicc mpirun; do
    command -v "$program" >/dev/null || lack+=("$program")
done
command -v gcc >/dev/null || command -v cc >/dev/null || lack+=("a C compiler")
if jobs/find.sh build/found.mk 2>build/find.log && [ ${#lack[@]} -eq 0 ] && [ $# -eq 0 ] &&
    grep -q '^FOUND_CMOCKA_LIBS' build/found.mk; then
    cat build/find.log
    exit 0
fi
mapfile -t -O ${#lack[@]} lack < <(sed -nE 's/^  ✗ (.*) is missing .*/\1/p' build/found.txt)

if ! command -v apt-get >/dev/null; then
    [ ${#lack[@]} -gt 0 ] || exit 0
    echo "error: vaecf needs what is missing here, and there is no apt to install it with:" >&2
    grep '✗' build/found.txt >&2 || printf '  ✗ %s\n' "${lack[@]}" >&2
    echo "Load a module, or take it from Spack (spack install openmpi hdf5 libyaml zstd onednn cmocka) or conda-forge" >&2
    echo "(conda install -c conda-forge gcc openmpi-mpicc hdf5 yaml zlib zstd onednn cmocka pkg-config make)." >&2
    exit 69
fi

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
want=("$@")
if [ ${#lack[@]} -gt 0 ]; then
    want+=(gcc libc6-dev make pkg-config libopenmpi-dev openmpi-bin libhdf5-dev libyaml-dev zlib1g-dev libzstd-dev
        libcmocka-dev zstd)
    # either will do for matrix products; not every architecture has oneDNN
    if [[ " ${lack[*]} " == *CBLAS* || " ${lack[*]} " == *compiler* ]]; then
        case $(dpkg --print-architecture) in amd64 | arm64) want+=(libdnnl-dev) ;; *) want+=(libopenblas-dev) ;; esac
    fi
fi
packages=()
for package in "${want[@]}"; do installed "$package" || packages+=("$package"); done
if [ ${#packages[@]} -eq 0 ]; then
    [ ${#lack[@]} -gt 0 ] || exit 0
    echo "error: not found although its Debian package is installed: ${lack[*]} (an environment that hides it?)" >&2
    exit 69
fi

if [ ${#lack[@]} -gt 0 ]; then
    echo "Missing to build and test vaecf: $(printf '%s, ' "${lack[@]}" | sed 's/, $//')."
fi
echo "Installing with apt: ${packages[*]}"
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null || { ! [ -t 0 ] && ! sudo -n true 2>/dev/null; }; then
        echo "error: that needs root; run: apt-get install --no-install-recommends ${packages[*]}" >&2
        exit 77
    fi
    apt=(sudo "${apt[@]}")
fi
install() { "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >build/apt.log 2>&1; }
# the package lists may be missing or old
if ! install && ! { "${apt[@]}" update >build/apt.log 2>&1 && install; }; then
    tail -n 15 build/apt.log >&2
    echo "error: apt could not install them (build/apt.log has all it said)" >&2
    exit 69
fi
if [ ${#lack[@]} -gt 0 ]; then jobs/find.sh build/found.mk; fi
