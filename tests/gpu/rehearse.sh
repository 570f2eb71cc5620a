#!/bin/bash
# What make gpu-pack makes, in a bare Debian without MPI, HDF5, libyaml and cmocka: tests/gpu/run.sh to its end, with the host
# emulation and stand-ins in place of a GPU; then three times again, until all processes are killed in the middle of a
# stage. Prints what each left. Takes root, and a network for debootstrap.
#
#   BIN=build/gpu/bin BUILD=build/gpu tests/gpu/rehearse.sh     `make gpu-rehearse`
#   KEEP=DIR     the Debian is made in DIR/bookworm, which stays, and is taken as it is if it is there
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "$(id -u)" != 0 ]; then echo "error: tests/gpu/rehearse.sh makes and enters a Debian of its own, which takes root" >&2 && exit 77; fi
work=$(mktemp -d "${TMPDIR:-/var/tmp}/vaecf-rehearse.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=${KEEP:-$work}/bookworm
failed=0
export BIN=${BIN:-build/gpu/bin} BUILD=${BUILD:-build/gpu}
say() { printf '\n=== %s\n' "$*"; }

say "a Debian in $root"
unshare --mount --pid --fork --kill-child --mount-proc tests/bare_root.sh bookworm "$root" "$work"
say "the pack"
EMULATION=yes tests/gpu/pack.sh "$work/pack.tar.gz"
rm -rf "$root"/root/{vaecf-gpu,people,results-*}
tar -C "$root/root" -xzf "$work/pack.tar.gz"
"$BIN/vaecf-synthesize" --users 150 --items 60 --interactions 2000 --output "$work/people.csv"
"$BIN/vaecf-preprocess" --input "$work/people.csv" --heldout-users 20 --output "$root/root/people" >/dev/null
for absent in mpirun h5dump python3 gcc; do
    if chroot "$root" /bin/sh -c "command -v $absent"; then echo "error: the Debian is not bare: it has $absent" >&2 && exit 1; fi
done

# inside NAME [VARIABLE=VALUE]...: the pack's run.sh in namespaces of its own, which end with their first process
mapfile -t small <tests/gpu/small.env
small+=(DATA=/root/people)
# shellcheck disable=SC2016  # another shell expands it
inside() {
    exec unshare --mount --uts --ipc --pid --fork --kill-child=KILL bash -c '
        hostname bare && mount --bind "$0" "$0" && mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/dev/shm" &&
            exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "${@:2}" OUT="/root/results-$1" chroot "$0" /root/vaecf-gpu/run.sh' \
        "$root" "$@"
}
table() { tail -n +2 "$root/root/results-$1/$2.csv" 2>/dev/null; }
# whole NAME: every table's lines have as many fields as its head, and the last one ends
whole() {
    local file
    for file in "$root/root/results-$1"/*.csv; do
        if [ -n "$(tail -c 1 "$file")" ] || ! awk -F, 'NR == 1 { n = NF } NF != n { exit 1 }' "$file"; then
            echo "error: $file is not whole" && failed=1
        fi
    done
}

say "all stages"
(inside all "${small[@]}" STAGES=all PATIENCE=8 LIMIT=3000) || failed=1
if [ "$(table all stages | awk -F, '$5 == "pass"' | wc -l)" != 14 ]; then echo "error: want 14 stages that pass" && failed=1; fi
whole all
ls -l "$root/root/results-all"

# killed STAGE TABLE ROWS STAGES: when the stage runs, and the table has so many rows
killed() {
    local end=$((SECONDS + 300)) child
    say "killed in the middle of $1"
    (inside "$1" "${small[@]}" STAGES="$4" PATIENCE=8 >"$work/said" 2>&1) &
    child=$!
    until grep -qs "^=== $1" "$root/root/results-$1/log.txt" && [ "$(table "$1" "$2" | wc -l)" -ge "$3" ] || [ $SECONDS -ge $end ]; do sleep 0.2; done
    sleep 0.5
    kill -KILL $child
    wait $child 2>/dev/null || true
    whole "$1"
    (cd "$root/root/results-$1" && wc -l ./*.csv && cat stages.csv)
    if table "$1" stages | grep -q ",$1,"; then echo "error: $1 had ended" && failed=1; fi
    if [ "$(table "$1" "$2" | wc -l)" -lt "$3" ]; then echo "error: $1 was not reached" && failed=1; fi
}
killed functions machine 1 "versions functions kernels"
killed tuning steps 5 "versions kernels tuning"
killed sweep train 1 "versions kernels sweep"
# what was not done, later: the same folder
say "the rest of it"
(inside sweep "${small[@]}" STAGES="sweep pytorch" PATIENCE=8) || failed=1
if [ "$(table sweep stages | awk -F, '$5 == "pass"' | wc -l)" != 4 ]; then echo "error: want 4 stages that pass" && failed=1; fi
TO=$work/merged tests/gpu/merge.sh "$root"/root/results-{functions,tuning,sweep,all} || failed=1
if [ $failed = 0 ]; then say "rehearsed: all is as it should be"; else say "rehearsed: something is not as it should be"; fi
exit $failed
