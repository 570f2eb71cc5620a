#!/bin/bash
# Installs with apt (Debian, Ubuntu) what is missing of jobs/packages.txt. Without apt, root or network it says in one
# line which packages to ask for. Does nothing if nothing is missing.
#
#   jobs/setup.sh [programs|tests|develop]    programs: what `make demo` needs (the default); tests: `make test` too;
#                                             develop: `make lint`, `make fuzz` and `make test-valgrind` too
#   jobs/setup.sh --missing PART              installs nothing; prints a line for each thing missing
set -euo pipefail
cd "$(dirname "$0")/.."

list_only=
if [ "${1:-}" = --missing ]; then list_only=yes && shift; fi
case ${1:-programs} in
programs) parts=' programs models ' ;;
tests) parts=' programs models tests ' ;;
develop) parts=' programs models tests develop ' ;;
*) echo "error: $1: want programs, tests or develop" >&2 && exit 64 ;;
esac
if [[ $parts = *tests* ]] && [ "$(id -u)" = 0 ]; then parts+='cluster '; fi
if [ "${CUDA:-}" != no ] && command -v "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" nvcc >/dev/null; then parts+='cuda '; fi

is_there() {
    case $1 in
    python3:*) # the system's, where another one comes first on the PATH
        "${PYTHON:-python3}" -c "import ${1#*:}" 2>/dev/null || /usr/bin/python3 -c "import ${1#*:}" 2>/dev/null
        ;;
    [A-Z]*) [ "${!1:-}" = no ] || grep -qE "^FOUND_$1(_LIBS|_CFLAGS)? :=" build/found.mk ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}
# look: sets `missing`, for each thing that is not there a line "THING|part|looked for|Debian|..." of the list
look() {
    local line part words word
    mkdir -p build
    jobs/find.sh build/found.mk 2>build/find.log || true
    missing=()
    while IFS= read -r line; do
        IFS='|' read -r part words _ <<<"$line"
        if [[ $parts != *" ${part// /} "* ]]; then continue; fi
        for word in $words; do
            is_there "$word" || missing+=("${word#*:}|$line")
        done
    done < <(grep -v '^#' jobs/packages.txt)
}
# column N: the words in that column of what is missing, each once
column() {
    printf '%s\n' "${missing[@]}" | cut -d'|' -f"$1" | tr -s ' ' '\n' | grep -vxE -- '-?' | awk '!seen[$0]++' | paste -sd' '
}

look
if [ -n "$list_only" ]; then
    for line in "${missing[@]}"; do
        IFS='|' read -r thing _ _ packages _ <<<"$line"
        read -ra packages <<<"$packages"
        echo "$thing is missing (Debian: ${packages[*]})"
    done | awk '!seen[$0]++'
    exit 0
fi
cat build/find.log
if [ ${#missing[@]} = 0 ]; then exit 0; fi
things=$(column 1 | sed 's/ /, /g')

# cannot STATUS REASON: ends with one line. For the programs, what only a model, a compression or a GPU needs may be missing: a note.
cannot() {
    if [[ " models cuda " == *" $(column 2) "* ]] && [[ $parts != *tests* ]]; then
        echo "note: missing: $things; $2"
        exit 0
    fi
    echo "error: missing: $things; $2" >&2
    exit "$1"
}
if ! command -v apt-get >/dev/null; then
    cannot 69 "there is no apt: load the modules ($(column 5)), or \`spack install $(column 6)\`, or \`conda install -c conda-forge $(column 7)\`"
fi
read -ra packages < <(column 4)
case $(dpkg --print-architecture) in
amd64 | arm64) ;;
*) packages=("${packages[@]/libdnnl-dev/libopenblas-dev}") ;; # oneDNN is not there
esac
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=1
    -o Acquire::http::Timeout=30)
install="apt-get install --no-install-recommends ${packages[*]}"
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null || { ! [ -t 0 ] && ! sudo -n true 2>/dev/null; }; then
        cannot 77 "installing takes root; ask for: $install"
    fi
    apt=(sudo "${apt[@]}")
fi
echo "missing: $things; installing with apt: ${packages[*]}"
try() { "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >build/apt.log 2>&1; }
# the package lists may be missing or old
if ! try && ! { "${apt[@]}" update >build/apt.log 2>&1 && try; }; then
    cannot 69 "apt failed: $(grep -m1 '^E:' build/apt.log || tail -n 1 build/apt.log) (more in build/apt.log); ask for: $install"
fi
look
cat build/find.log
if [ ${#missing[@]} -gt 0 ]; then
    echo "error: not found although installed ($(column 4)): $(column 1); does the environment hide it?" >&2
    exit 69
fi
