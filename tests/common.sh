# shellcheck shell=bash disable=SC2034  # what test scripts begin with: a directory, the programs, how a case is told
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
