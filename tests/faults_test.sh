#!/bin/bash
# What goes wrong on clusters: ranks that are killed or stopped, signals of every kind, disks that are full or
# read-only, damaged files, another number of ranks. Each ends with the right code and line, and with a checkpoint to
# go on from.
# alone: it measures silence of seconds
# shellcheck disable=SC2317  # functions are called by check
# A mount namespace of our own: mounts vanish with it. An ordinary user gets one inside a user namespace.
if [ -z "${IN_NAMESPACE:-}" ]; then
    export IN_NAMESPACE=yes OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    namespace=(unshare --mount)
    if [ "$(id -u)" != 0 ]; then namespace+=(--user --map-root-user); fi
    if "${namespace[@]}" true 2>/dev/null; then exec "${namespace[@]}" bash "$0"; fi
fi
# shellcheck source=tests/common.sh
. tests/common.sh
check() { if "${@:2}"; then ok "$1"; else not_ok "$1: $(tail -n 8 "$tmp/err")"; fi; }

gzip -dc preprocess/debian-build-depends.csv.gz | head -n 20000 >"$tmp/part.csv"
preprocess() { "$bin/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 5 --heldout-users 100 "$@" >/dev/null; }
preprocess --shards 3 --output "$tmp/data" || exit 1
preprocess --seed 2 --output "$tmp/other-data" || exit 1
cat >"$tmp/run.yaml" <<Y
data: {path: $tmp/data}
model: {hidden: [60], latent: 20}
train: {epochs: 4, batch_size: 101, kl: {cap: 0.2, anneal_steps: 30}, early_stopping: {patience: 0}}
output: {path: $tmp/run}
Y
many=(--set train.epochs=1000000)

# train RANKS OPTION...: a run in $tmp/run; its exit code
train() {
    local ranks=$1 launch=()
    shift
    if [ "$ranks" -gt 1 ]; then launch=(mpirun -n "$ranks"); fi # alone it starts faster
    timeout 100 "${launch[@]}" "$bin/vaecf-train" --config "$tmp/run.yaml" "$@" >"$tmp/out" 2>"$tmp/err"
}
# begin RANKS OPTION...: the same in the background; $job is mpirun
begin() {
    local ranks=$1
    shift
    : >"$tmp/out"
    mpirun -n "$ranks" "$bin/vaecf-train" --config "$tmp/run.yaml" "$@" >"$tmp/out" 2>"$tmp/err" &
    job=$!
}
# start RANKS OPTION...: a new run in the background, until its second epoch has ended
start() {
    rm -rf "${tmp:?}/run"
    begin "$@"
    within 60 has_said '^epoch 2/' || not_ok "no second epoch within 60 s"
}
# has_said PATTERN: is it in the output of $job, or has $job ended?
has_said() { grep -qE "$1" "$tmp/out" || has_ended; }
says() { grep -qE -- "$1" "$tmp/err"; }
says_once() { [ "$(grep -cE -- "$1" "$tmp/err")" = 1 ]; }
checkpoints() { find "$tmp/run/checkpoints" -name 'step-*.h5' | sort; }
untimed() { cut -d, -f1,2,5- "$1/metrics.csv"; }
identical() { cmp <(untimed "$tmp/whole") <(untimed "$tmp/run") && cmp "$tmp/whole/best.h5" "$tmp/run/best.h5"; }

train 1
mv "$tmp/run" "$tmp/whole"

# ---- a rank that is gone, or does not go on ----
export VAECF_HANG_SECONDS=10 # more than a busy machine lets ranks wait
start 3 "${many[@]}"
kill -KILL "$(rank 2)"
check "SIGKILL to rank 2 of 3: the job ends" ends 71 137
check "a line names the rank" says 'rank 2 '
start 3 "${many[@]}"
kill -STOP "$(rank 2)"
check "SIGSTOP to rank 2 of 3: the job ends" ends 71
check "a line names the rank and its machine" says 'rank 2 \(process [0-9]+ on .+\) has not been heard of for 10 s'
start 3 "${many[@]}"
kill -STOP "$(rank 0)"
check "SIGSTOP to rank 0: the job ends" ends 71
check "another rank tells of it" says 'rank 0 \(process [0-9]+ on .+\) has not been heard of'
unset VAECF_HANG_SECONDS
VAECF_HANG_SECONDS=soon train 2 --overwrite --set train.epochs=1
check "VAECF_HANG_SECONDS has to be a number" says_once 'VAECF_HANG_SECONDS=soon'

# ---- signals ----
stopped() { ends 75 && says_once 'go on with --resume auto' && [ -n "$(checkpoints)" ]; }
for signal in TERM USR1 INT; do
    start 3 "${many[@]}"
    kill -$signal "$(rank 1)"
    check "SIG$signal to one rank: 75 and a checkpoint" stopped
done
start 3 "${many[@]}"
mapfile -t processes < <(pgrep -P "$job")
kill -TERM "${processes[@]}"
check "SIGTERM to all ranks: 75 and a checkpoint" stopped
start 3 "${many[@]}"
kill -USR1 "$job"
check "SIGUSR1 to mpirun: 75 and a checkpoint" stopped

# Rank 0 waits for its configuration from a pipe: that is during start-up.
mkfifo "$tmp/pipe"
rm -rf "${tmp:?}/run"
mpirun -n 2 "$bin/vaecf-train" --config "$tmp/pipe" >"$tmp/out" 2>"$tmp/err" &
job=$!
# hears N: does that rank catch SIGTERM by now?
hears() { (((0x$(sed -n 's/^SigCgt:\s*//p' "/proc/$(rank "$1")/status") & 0x4000) != 0)); }
hears_or_ended() { hears 1 2>/dev/null || has_ended; }
within 60 hears_or_ended
kill -TERM "$(rank 1)"
cat "$tmp/run.yaml" >"$tmp/pipe" &
writer=$!
check "SIGTERM during start-up: 75 and a checkpoint" stopped
kill $writer 2>/dev/null
check "before the first step" [ "$(basename "$(checkpoints)")" = step-000000000.h5 ]
train 1 --resume auto
check "from there: the bytes of the uninterrupted run" identical

# One step an epoch, so that most of the time goes into validation, where the signals then fall.
one_step=(--set train.batch_size=100000 --set train.checkpoint.every_epochs=0 --set train.epochs=20)
train 2 --overwrite "${one_step[@]}"
untimed "$tmp/run" >"$tmp/want"
rm -rf "${tmp:?}/run"
bad=0 stops=0
for delay in 0 0.01 0.02 0.03 0.05; do
    begin 2 "${one_step[@]}" --resume auto
    within 60 has_said '^epoch |^the run is'
    sleep $delay
    mapfile -t processes < <(pgrep -P "$job")
    [ ${#processes[@]} = 0 ] || kill -TERM "${processes[@]}" 2>/dev/null
    { wait "$job"; } 2>/dev/null
    case $? in
    0) ;;
    75) stops=$((stops + 1)) ;;
    *) bad=1 ;;
    esac
done
check "SIGTERM during validations: 75, or 0 if it came too late ($stops of 5 stopped)" [ $bad = 0 ]
train 2 "${one_step[@]}" --resume auto
check "the table is that of the uninterrupted run" cmp "$tmp/want" <(untimed "$tmp/run")

# ---- the loss is not finite ----
train 1 --overwrite --set train.epochs=2
train 1 --resume auto --set train.learning_rate=1e30
check "a loss that is not finite: 70" [ $? = 70 ]
check "told once" says_once 'error: epoch 3, step .*not a finite number'
train 1 --resume auto
check "the checkpoint before it is good" identical

# ---- another number of ranks ----
train 2 --overwrite
mv "$tmp/run" "$tmp/whole2"
train 2 --overwrite --set train.epochs=3 --set train.checkpoint.every_minutes=1e-9 --set train.checkpoint.keep=100
mapfile -t steps < <(checkpoints)
middle=$((${#steps[@]} / 2))
rm "${steps[@]:middle}" # as if stopped in the middle of the second epoch
train 3 --set train.epochs=3 --resume auto
train 1 --resume auto
# shellcheck disable=SC2016
check "on 2, 3, 1 ranks: the loss within 1e-4 of the uninterrupted run" awk -F, '
    FNR == 1 { file++; next }
    file == 1 { loss[$1] = $5 }
    file == 2 { d = $5 / loss[$1] - 1; n++; if (d > 1e-4 || d < -1e-4) { print "epoch " $1 ": " $5 " and " loss[$1]; bad = 1 } }
    END { exit bad || n != 4 }' "$tmp/whole2/metrics.csv" "$tmp/run/metrics.csv"

# ---- damaged and foreign files ----
train 1 --overwrite --set train.epochs=3
mapfile -t steps < <(checkpoints)
touch "$tmp/run/best.h5.tmp" "${steps[0]}.tmp"
truncate -s -1000 "${steps[2]}"
printf '\xff\xfe\xfd' | dd of="${steps[1]}" bs=1 seek=9000 conv=notrunc status=none
train 1 --resume auto
check "damaged checkpoints: the one before is taken" identical
check "a warning for each" [ "$(grep -c 'vaecf-train: warning: .*trying the one before' "$tmp/err")" = 2 ]
check "what was left under temporary names is removed" [ -z "$(find "$tmp/run" -name '*.tmp')" ]
check "train.log tells how long saving took" grep -qE 'step-[0-9]+.h5: saved in [0-9.]+ s' "$tmp/run/train.log"
train 1 --resume auto --set train.epochs=6 --set data.path="$tmp/other-data"
check "a checkpoint of another data set: 65" [ $? = 65 ]
check "told once" says_once 'error: .*another data set'
train 1 --resume auto --set train.epochs=6 --set model.latent=21
check "a checkpoint of another model: 78" [ $? = 78 ]
check "told once" says_once 'error: .*another model'
printf '\xff\xfe\xfd' | dd of="$tmp/run/best.h5" bs=1 seek=9000 conv=notrunc status=none
rm "$tmp/run/test.csv"
train 1 --resume auto
check "a damaged best.h5: 65" [ $? = 65 ]
check "told once" says_once 'error: .*best.h5: is damaged'
cp -r "$tmp/data" "$tmp/bad"
printf '\xff\xfe\xfd' | dd of="$tmp/bad/shard-00002-of-00003.h5" bs=1 seek=9000 conv=notrunc status=none
train 3 --overwrite --set data.path="$tmp/bad"
check "a damaged shard: 65" [ $? = 65 ]
check "told once, by name" says_once 'error: .*shard-00002-of-00003.h5: is damaged'

# ---- disks ----
mkdir "$tmp/disk"
if mount -t tmpfs -o size=64m tmpfs "$tmp/disk" 2>/dev/null; then
    sed -i "s|$tmp/run|$tmp/disk/run|" "$tmp/run.yaml"
    train 1 --set train.epochs=3
    size=$(stat -c %s "$(find "$tmp/disk" -name 'step-*.h5' | head -n 1)")
    room=$(($(df --output=avail -B1 "$tmp/disk" | tail -n 1) - size / 4))
    head -c $room /dev/zero >"$tmp/disk/filler" # leaves a quarter of a checkpoint
    train 1 --resume auto
    check "a full disk: 74" [ $? = 74 ]
    check "told once, by name" says_once 'error: .*/disk/run/.*: No space left on device'
    rm "$tmp/disk/filler"
    train 1 --resume auto
    check "with room again it goes on" cmp <(untimed "$tmp/whole") <(untimed "$tmp/disk/run")
    mount -o remount,bind,ro "$tmp/disk"
    train 1 --resume auto --set train.epochs=6
    check "a read-only disk: 73" [ $? = 73 ]
    check "told once" says_once 'error: .*/disk/run.*: Read-only file system'
    mount -o remount,bind,rw "$tmp/disk"
    check "writable again it goes on" train 1 --resume auto --set train.epochs=6
    umount -l "$tmp/disk"
else
    echo "skipped: a full and a read-only disk: this user may not mount one, not even in a user namespace"
fi
exit $failed
