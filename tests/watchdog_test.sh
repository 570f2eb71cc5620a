#!/bin/bash
# How the watchdog begins: rank 0 gathers the ranks late, among strangers, over several machines; and what it leaves
# open. What it notices later is in faults_test.sh.
# alone: it measures silence of seconds
# plain build alone: a library is preloaded, which ASan does not bear
# shellcheck disable=SC2317  # functions are called by check
# shellcheck source=tests/common.sh
. tests/common.sh
check() { if "${@:2}"; then ok "$1"; else not_ok "$1: $(tail -n 8 "$tmp/err")"; fi; }

"${MPICC:-mpicc}" -shared -fPIC -o "$tmp/late.so" tests/star_late.c -ldl || exit 1
gzip -dc preprocess/debian-build-depends.csv.gz | head -n 5000 >"$tmp/part.csv"
"$bin/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 5 --heldout-users 50 --output "$tmp/data" >/dev/null || exit 1
cat >"$tmp/run.yaml" <<Y
data: {path: $tmp/data}
model: {hidden: [20], latent: 8}
train: {epochs: 1000000, batch_size: 200, early_stopping: {patience: 0}}
output: {path: $tmp/run}
Y

# begin VARIABLE=VALUE...: three ranks in the background, for ever; $job is mpirun
begin() {
    rm -rf "${tmp:?}/run"
    : >"$tmp/out"
    mpirun -n 3 env LD_PRELOAD="$tmp/late.so" "$@" "$bin/vaecf-train" --config "$tmp/run.yaml" >"$tmp/out" 2>"$tmp/err" &
    job=$!
}
trains() { grep -q '^epoch 2/' "$tmp/out"; }
trains_or_ended() { trains || has_ended; }
begins() { within 60 trains_or_ended && trains; }
# stop: on demand, as it would after hours
stop() {
    kill -TERM "$(rank 1)"
    ends 75
}
says() { grep -qE -- "$1" "$tmp/err"; }
is_silent() { ! grep -E 'has died|has not been heard|warning' "$tmp/err"; }
# sockets STATE PROCESS: the local addresses of its TCP sockets in that state, as /proc/net/tcp writes them
sockets() {
    find "/proc/$2/fd" -lname 'socket:*' -printf '%l\n' 2>/dev/null | tr -dc '0-9\n' |
        awk -v state="$1" 'NR == FNR { own[$1]; next } $4 == state && $10 in own { print $2 }' - "/proc/$2/net/tcp" "/proc/$2/net/tcp6"
}
# gathers: does rank 0 listen at an address of its own? $where it is, as ADDRESS:PORT in hexadecimal digits
gathers() {
    where=$(sockets 0A "$(rank 0)" | grep -v '^0*:')
    [ -n "$where" ]
}
# hex A B C D: the IPv4 address as /proc/net/tcp writes it, in the machine's order of bytes
hex() {
    if [ "$(printf '\1\0' | od -An -t u2 | tr -d ' ')" = 1 ]; then set -- "$4" "$3" "$2" "$1"; fi
    printf '%02X' "$@"
}

# ---- rank 0 comes late ----
touch "$tmp/hold"
begin VAECF_HANG_SECONDS=3 HOLD_ACCEPT="$tmp/hold"
within 60 gathers || not_ok "no port within 60 s"
check "while it gathers the ranks rank 0 listens at 127.0.0.1 alone" [ "${where%:*}" = "$(hex 127 0 0 1)" ]
sleep 12
rm "$tmp/hold"
check "rank 0 is late by 12 s: the job begins" begins
check "nobody is taken for dead" is_silent
open=$(for r in 0 1 2; do sockets 0A "$(rank $r)"; done | wc -l)
check "no port stays open" [ -z "$(for r in 0 1 2; do sockets 0A "$(rank $r)"; done | grep -v '^0*:')" ]
check "it ends as asked" stop
begin VAECF_HANG_SECONDS=0
begins || not_ok "no second epoch within 60 s"
check "not watched: as many listening sockets, MPI's" [ "$open" = "$(for r in 0 1 2; do sockets 0A "$(rank $r)"; done | wc -l)" ]
check "it ends as asked" stop

# ---- strangers ----
touch "$tmp/hold"
begin VAECF_HANG_SECONDS=3 HOLD_LISTEN="$tmp/hold"
within 60 gathers || not_ok "no port within 60 s"
port=$((16#${where#*:}))
visitors=()
for i in {1..320}; do # before all ranks, and more than rank 0 lets wait
    exec {visitor}<>"/dev/tcp/127.0.0.1/$port" && visitors+=("$visitor")
    case $((i % 4)) in
    0) printf 'GET / HTTP/1.0\r\n\r\n' >&"$visitor" ;;
    1) printf x >&"$visitor" ;;
    esac
done 2>/dev/null
check "strangers throng at the port" [ ${#visitors[@]} = 320 ]
start=$SECONDS
rm "$tmp/hold"
check "the job begins" begins
check "within 20 s ($((SECONDS - start)))" [ $((SECONDS - start)) -le 20 ]
sleep 5
check "5 s later it goes on" kill -0 "$job"
check "nobody is taken for dead" is_silent
for visitor in "${visitors[@]}"; do exec {visitor}>&-; done
kill -KILL "$(rank 2)"
within 60 has_ended
check "a rank that is killed is noticed" says 'rank 2 .* has died'
{ wait "$job"; } 2>/dev/null

# ---- several machines ----
touch "$tmp/hold"
begin VAECF_HANG_SECONDS=10 MACHINES=apart HOLD_ACCEPT="$tmp/hold"
at_last() { gathers && [ "${where%:*}" = "$(hex 127 60 0 1)" ]; }
check "of three addresses the one that works is taken" within 60 at_last
rm "$tmp/hold"
check "the job begins" begins
check "without a warning" is_silent
kill -STOP "$(rank 2)"
check "a rank that is stopped ends the job" ends 71
check "and is named" says 'rank 2 \(process [0-9]+ on machine-2\) has not been heard of for 10 s'
begin MACHINES=alone
check "no way to rank 0: the job begins" begins
check "a warning tells that nobody is watched" says 'warning: the ranks cannot reach rank 0 by TCP'
check "it ends as asked" stop
exit $failed
