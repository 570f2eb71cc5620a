#!/bin/bash
# The README's two commands on a bare Debian: debootstrap makes one in a folder, a clone of this checkout's last commit
# goes into it, and a package that is forgotten shows. Takes root. The machine stays as it was: the folder is removed,
# mounts and processes live in namespaces that end with this script.
#
#   tests/bare.sh [SUITE [COMMAND...]]    SUITE: bookworm (the default), trixie; COMMAND: instead of
#                                         "make demo", each model.type on the demo's data, "make test"
#   THEN=COMMAND tests/bare.sh ...        after these
#   KEEP=DIR tests/bare.sh ...            in DIR/SUITE, which stays, and is taken as it is if it is there
#   MIRROR=URL, TMPDIR=DIR                of Debian; where the folder is made (/var/tmp; it takes 4 GB)
#
# A CUDA toolkit of this machine is mounted there, read-only.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=${1:-bookworm}

if [ "$(id -u)" != 0 ]; then echo "error: tests/bare.sh makes and enters a Debian of its own, which takes root" >&2 && exit 77; fi
if [ -z "${BARE_ROOT:-}" ]; then # outside
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/vaecf-bare.XXXXXX")
    export BARE_ROOT=${KEEP:-$work}/$suite BARE_WORK=$work
    unshare --mount --uts --pid --fork --kill-child --mount-proc bash tests/bare.sh "$@" &
    inside=$!
    # with its first process the namespaces end, and then nothing is mounted in the folder
    trap 'set +e; kill -KILL $inside 2>/dev/null; wait $inside 2>/dev/null; rm -rf --one-file-system "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    wait $inside
    exit
fi

# ---- inside of the namespaces ----
start=$SECONDS
say() { printf '\n=== %s: %s\n' "$suite" "$*"; }
if [ ! -d "$BARE_ROOT/usr" ]; then say "debootstrap"; fi
tests/bare_root.sh "$suite" "$BARE_ROOT" "$BARE_WORK"
cp /etc/resolv.conf "$BARE_ROOT/etc/resolv.conf"
hostname bare # which Debian's installer, too, makes known; without it MPI waits for the name server at every start
printf '127.0.0.1 localhost\n127.0.1.1 bare\n' >"$BARE_ROOT/etc/hosts"
mount --bind "$BARE_ROOT" "$BARE_ROOT" # as a container's root, where namespaces can be made
mount -t proc proc "$BARE_ROOT/proc"
mount --rbind -o ro /sys "$BARE_ROOT/sys"
mount --rbind /dev "$BARE_ROOT/dev"
mount -t tmpfs -o mode=1777 tmpfs "$BARE_ROOT/dev/shm"
cuda=
if nvcc=$(command -v nvcc || command -v /usr/local/cuda/bin/nvcc); then
    cuda=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
    mkdir -p "$BARE_ROOT/usr/local/cuda"
    mount --bind -o ro "$cuda" "$BARE_ROOT/usr/local/cuda"
fi
project=$BARE_ROOT/root/vaecf
rm -rf "$project"
export GIT_CONFIG_GLOBAL=$BARE_WORK/gitconfig
printf '[safe]\n directory = *\n' >"$GIT_CONFIG_GLOBAL" # a checkout of the user who became root
if git rev-parse HEAD >/dev/null 2>&1; then
    say "a clone of $(git log -1 --format='%h %s')${cuda:+; CUDA from $cuda}"
    git diff --quiet HEAD || echo "note: changes that are not committed are not in it"
    git clone -q . "$project"
else
    say "a copy${cuda:+; CUDA from $cuda}"
    mkdir "$project"
    tar --exclude=./build --exclude=./bin --exclude=./demo -cf - . | tar -xf - -C "$project"
fi

# run COMMAND: as root in the bare root, in the clone
run() {
    say "$1"
    env -i HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 ${http_proxy:+http_proxy="$http_proxy"} DEBIAN_FRONTEND=noninteractive \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        chroot "$BARE_ROOT" /bin/bash -c "cd /root/vaecf && $1" </dev/null ||
        { echo "error: $suite: $1: status $?" >&2 && exit 1; }
}
# what the README wants to be there
run 'apt-get update -q >/tmp/apt.log && apt-get install -y -q --no-install-recommends make git >>/tmp/apt.log'
shift || true
if [ $# = 0 ]; then
    # shellcheck disable=SC2016
    set -- 'make demo' 'for type in vae dae ease popularity; do
        OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 bin/vaecf-train --config demo/debian-build-depends/run/config.yaml \
            --set train.epochs=1 --set model.type=$type --set output.path=/tmp/$type || exit; done' 'make test'
fi
for command in "$@" ${THEN:+"$THEN"}; do run "$command"; done
say "done in $((SECONDS - start)) s"
