# shellcheck shell=bash disable=SC2034,SC2154  # what test scripts begin with: a directory, the programs, how a case is told
set -u
tmp=$(mktemp -d) || exit 71
trap 'rm -rf "$tmp"' EXIT
bin=${BIN:-bin}
failed=0 # the script's exit status

ok() { echo "ok - $1"; }
not_ok() { echo "not ok - $1"; failed=1; }
check() { if "${@:2}"; then ok "$1"; else not_ok "$1"; fi; } # check TEXT COMMAND...
has_lapack() { "$bin/vaecf-train" --version | grep -qE ', LAPACK,'; }

# within SECONDS COMMAND...: waits until the command succeeds; fails when the time is over
within() {
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        if [ $SECONDS -ge $end ]; then return 1; fi
        sleep 0.05
    done
}

# ---- of a job in the background: $job is mpirun's process ----
has_ended() { ! kill -0 "$job" 2>/dev/null; }
# rank N: the process of that rank of $job
rank() {
    local process
    for process in $(pgrep -P "$job"); do
        if tr '\0' '\n' <"/proc/$process/environ" | grep -qxE "(OMPI_COMM_WORLD_RANK|PMI_RANK)=$1"; then echo "$process"; fi
    done
}
# ends CODE...: does $job end within 60 s with one of these codes?
ends() {
    local status children
    if ! within 60 has_ended; then
        echo "still there after 60 s"
        mapfile -t children < <(pgrep -P "$job")
        kill -KILL "$job" "${children[@]}"
    fi
    { wait "$job"; } 2>/dev/null
    status=$?
    [[ " $* " == *" $status "* ]] || { echo "status $status" && return 1; }
}
