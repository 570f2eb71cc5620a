#!/bin/bash
# The programs from outside: the whole line on a small data set, --help and --version, and every kind of mistake:
# the right exit code, one line on stderr that names what is wrong, on one rank or several, and no hang.
# shellcheck source=tests/common.sh
. tests/common.sh

# expect CODE PATTERN NAME COMMAND...: exit code and the one line of the error, which matches PATTERN.
expect() {
    local code=$1 pattern=$2 name=$3 status lines
    shift 3
    timeout 120 "$@" >"$tmp/stdout" 2>"$tmp/stderr"
    status=$?
    # mpirun adds words of its own about the exit; a program's line begins with its name
    lines=$(grep -c '^vaecf-[a-z]*: error: ' "$tmp/stderr")
    if [[ $1 != mpirun* ]]; then lines=$(wc -l <"$tmp/stderr"); fi
    if [ "$status" = "$code" ] && [ "$lines" = 1 ] &&
        grep -qE -- "^vaecf-[a-z]*: error: .*($pattern)" "$tmp/stderr"; then
        ok "$name: $code"
    else
        not_ok "$name: wanted $code and one line with '$pattern', got $status and:"
        head -n 12 "$tmp/stderr"
    fi
}

# works NAME COMMAND...: exit code 0
works() {
    local name=$1
    shift
    if timeout 200 "$@" >"$tmp/stdout" 2>"$tmp/stderr"; then ok "$name"; else
        not_ok "$name: exit code $?"
        tail -n 12 "$tmp/stderr"
    fi
}

awk -v users=300 -v half=30 -f tests/ratings.awk >"$tmp/ratings.csv"
cat >"$tmp/run.yaml" <<E
data: {path: $tmp/data}
model: {hidden: [16], latent: 8}
train:
  epochs: 2
  batch_size: 64
  kl: {cap: 0.2, anneal_steps: 10}
output: {path: $tmp/run}
E

# ---- help and version ----
for program in preprocess train evaluate recommend export; do
    works "vaecf-$program --help" "$bin/vaecf-$program" --help
    if grep -q -- "--help" "$tmp/stdout" && [ ! -s "$tmp/stderr" ]; then ok "it is on stdout"; else not_ok "help on stdout"; fi
    works "vaecf-$program --version" "$bin/vaecf-$program" --version
    if grep -q "^vaecf-$program 0\.1\.0 (.*)" "$tmp/stdout" && grep -q HDF5 "$tmp/stdout"; then ok "it names itself"; else not_ok "version"; fi
    expect 64 "--nonsense" "vaecf-$program with an unknown option" "$bin/vaecf-$program" --nonsense
    expect 64 "" "vaecf-$program without options" "$bin/vaecf-$program"
done

# ---- the whole line ----
pre=("$bin/vaecf-preprocess" --input "$tmp/ratings.csv" --heldout-users 40 --shards 3)
works "preprocess" "${pre[@]}" --output "$tmp/data"
works "train on 2 ranks" mpirun -n 2 "$bin/vaecf-train" --config "$tmp/run.yaml"
if [ "$(wc -l <"$tmp/run/metrics.csv")" = 3 ] && [ -s "$tmp/run/best.h5" ] && [ -s "$tmp/run/config.yaml" ]; then
    ok "the run directory"
else not_ok "the run directory: $(ls "$tmp/run")"; fi
evaluate=("$bin/vaecf-evaluate" --checkpoint "$tmp/run/best.h5" --data "$tmp/data" --split test)
works "evaluate on 1 rank" "${evaluate[@]}" --output "$tmp/test1.csv"
works "evaluate on 3 ranks" mpirun -n 3 "${evaluate[@]}" --output "$tmp/test3.csv"
if [ -s "$tmp/test1.csv" ] && [ "$(cut -d, -f1-3 "$tmp/test1.csv")" = "$(cut -d, -f1-3 "$tmp/test3.csv")" ]; then
    ok "the same table"
else not_ok "the same table"; fi
recommend=("$bin/vaecf-recommend" --checkpoint "$tmp/run/best.h5")
works "recommend" "${recommend[@]}" --input "$tmp/ratings.csv" --top-k 5 --output "$tmp/recs.csv"
if [ "$(grep -c '^u[0-9]' "$tmp/recs.csv")" = 1500 ] && grep -q 'film ' "$tmp/recs.csv"; then
    ok "5 items for each of 300 users"
else not_ok "5 items for each of 300 users: $(head -n 3 "$tmp/recs.csv")"; fi

# ---- wrong options ----
expect 64 "shards" "preprocess: shards that are no number" "${pre[@]}" --shards many --output "$tmp/x"
expect 64 "output" "preprocess: no output" "${pre[@]}"
expect 64 "train.epochs" "train: a --set without =" "$bin/vaecf-train" --config "$tmp/run.yaml" --set train.epochs
expect 64 "sideways" "evaluate: an unknown split" "${evaluate[@]}" --split sideways
expect 64 "top-k" "recommend: top-k 0" "${recommend[@]}" --input "$tmp/ratings.csv" --top-k 0

# ---- configuration ----
for ranks in 1 2; do
    sed 's/epochs:/epoch:/' "$tmp/run.yaml" >"$tmp/bad.yaml"
    expect 78 "bad.yaml:4: .*train.epoch" "train on $ranks: an unknown key" \
        mpirun -n $ranks "$bin/vaecf-train" --config "$tmp/bad.yaml"
done
expect 78 "train.batch_size" "train: out of range" "$bin/vaecf-train" --config "$tmp/run.yaml" --set train.batch_size=0
expect 78 "model.hidden" "train: a wrong type" "$bin/vaecf-train" --config "$tmp/run.yaml" --set model.hidden=wide
# 78: built without CUDA; 71: with it, but there is no GPU; where there is one, the test hides it
code=78
if "$bin/vaecf-train" --version | grep -q 'CUDA [0-9]'; then code=71; fi
CUDA_VISIBLE_DEVICES='' expect $code "cuda" "train: a device that is not there" "$bin/vaecf-train" --config "$tmp/run.yaml" \
    --set device=cuda --set output.path="$tmp/cuda"

# ---- what is not there ----
expect 66 "none.csv" "preprocess: no such input" "$bin/vaecf-preprocess" --input "$tmp/none.csv" --output "$tmp/x"
expect 66 "none.yaml" "train: no such configuration" mpirun -n 2 "$bin/vaecf-train" --config "$tmp/none.yaml"
expect 66 "none" "train: no such dataset" mpirun -n 2 "$bin/vaecf-train" --config "$tmp/run.yaml" --set data.path="$tmp/none"
expect 66 "none.h5" "evaluate: no such checkpoint" "${evaluate[@]}" --checkpoint "$tmp/none.h5"
expect 66 "none.csv" "recommend: no such input" "${recommend[@]}" --input "$tmp/none.csv" --output "$tmp/x.csv"

# ---- bad data ----
{ head -n 20 "$tmp/ratings.csv" && echo "alone" && tail -n +21 "$tmp/ratings.csv"; } >"$tmp/bad.csv"
expect 65 "bad.csv:21" "preprocess: a malformed row" "$bin/vaecf-preprocess" --input "$tmp/bad.csv" --output "$tmp/x"
works "preprocess: --bad-rows skip" "$bin/vaecf-preprocess" --input "$tmp/bad.csv" --bad-rows skip --output "$tmp/skipped"
expect 65 "bad.csv:21" "recommend: a malformed row" "${recommend[@]}" --input "$tmp/bad.csv" --output "$tmp/x.csv"
: >"$tmp/empty.csv"
expect 65 "empty.csv" "preprocess: an empty file" "$bin/vaecf-preprocess" --input "$tmp/empty.csv" --output "$tmp/x"
expect 65 "" "preprocess: filters that leave nothing" "${pre[@]}" --min-user-items 1000 --output "$tmp/x"
expect 65 "ratings.csv" "evaluate: a checkpoint that is none" "${evaluate[@]}" --checkpoint "$tmp/ratings.csv"
works "preprocess: nobody held out" "$bin/vaecf-preprocess" --input "$tmp/ratings.csv" --heldout-users 0 --output "$tmp/nobody"
for ranks in 1 3; do
    expect 65 "test" "evaluate on $ranks: an empty split" mpirun -n $ranks "${evaluate[@]}" --data "$tmp/nobody"
done
works "preprocess: another catalogue" "$bin/vaecf-preprocess" --input "$tmp/ratings.csv" --min-item-users 60 --output "$tmp/other"
expect 65 "items" "evaluate: a dataset with another catalogue" mpirun -n 2 "${evaluate[@]}" --data "$tmp/other"

# ---- damage ----
train_damaged() { # NAME CODE PATTERN
    local ranks
    for ranks in 1 2 3; do
        rm -rf "$tmp/run2"
        expect "$2" "$3" "train on $ranks: $1" mpirun -n $ranks "$bin/vaecf-train" --config "$tmp/run.yaml" \
            --set data.path="$tmp/damaged" --set output.path="$tmp/run2"
        if compgen -G "$tmp/run2/checkpoints/step-*" >/dev/null; then not_ok "$1: training had begun"; fi
    done
}
shard=$tmp/damaged/shard-00001-of-00003.h5
fresh() { rm -rf "$tmp/damaged" && cp -r "$tmp/data" "$tmp/damaged"; }
fresh
# the first indices of the training rows are found by their values in the file; one bit of them is turned
offset=$(grep -abo -P '\x00\x00\x00[\x01-\x3b]\x00\x00\x00[\x01-\x3b]\x00\x00\x00[\x01-\x3b]\x00\x00\x00' "$shard" |
    head -n 1 | cut -d: -f1)
if [ -n "$offset" ]; then
    printf '\x01' | dd of="$shard" bs=1 seek="$offset" conv=notrunc status=none
    train_damaged "a shard with a flipped bit" 65 "shard-00001"
else not_ok "no indices found in $shard"; fi
fresh
truncate -s -2000 "$shard"
train_damaged "a shard cut short" 65 "shard-00001"
fresh
: >"$shard"
train_damaged "an empty shard" 65 "shard-00001"
fresh
rm "$shard"
train_damaged "a missing shard" 66 "shard-00001"
fresh
echo "no HDF5" >"$tmp/damaged/dataset.h5"
train_damaged "a dataset.h5 that is none" 65 "dataset.h5"
head -c 3000 "$tmp/run/best.h5" >"$tmp/short.h5"
expect 65 "short.h5" "evaluate: a checkpoint cut short" mpirun -n 2 "${evaluate[@]}" --checkpoint "$tmp/short.h5"
expect 65 "short.h5" "recommend: a checkpoint cut short" "$bin/vaecf-recommend" --checkpoint "$tmp/short.h5" \
    --input "$tmp/ratings.csv" --output "$tmp/x.csv"

# ---- output that cannot be made: below a file, also for root ----
: >"$tmp/file"
expect 73 "file" "preprocess: no place for the output" "${pre[@]}" --output "$tmp/file/data"
expect 73 "file" "train: no place for the output" mpirun -n 2 "$bin/vaecf-train" --config "$tmp/run.yaml" \
    --set output.path="$tmp/file/run"
expect 73 "file" "evaluate: no place for the output" mpirun -n 2 "${evaluate[@]}" --output "$tmp/file/t.csv"
expect 73 "file" "recommend: no place for the output" "${recommend[@]}" --input "$tmp/ratings.csv" --output "$tmp/file/r.csv"
if [ -w /dev/full ]; then
    timeout 60 "${recommend[@]}" --input "$tmp/ratings.csv" >/dev/full 2>"$tmp/stderr"
    status=$?
    if [ "$status" = 74 ] && [ "$(wc -l <"$tmp/stderr")" = 1 ]; then ok "recommend: a full disk: 74"; else
        not_ok "recommend: a full disk: $status, $(head -n 3 "$tmp/stderr")"
    fi
fi

# ---- ~ and $ that no shell has replaced; $tmp/home is where they lead ----
mkdir -p "$tmp/home" "$tmp/here"
project=$PWD
full=$(cd "$bin" && pwd)
cd "$tmp/here" || exit 71
model=(--checkpoint "$tmp/run/best.h5")
# shellcheck disable=SC2088,SC2016  # this is what bash makes of --output=~/x, and of single quotes
for output in '~/x' '~' '~someone/x' '$HOME/x' '${HOME}/x'; do
    for program in preprocess synthesize evaluate recommend export collect; do
        case $program in
        preprocess) rest=(--input "$tmp/ratings.csv") ;;
        synthesize) rest=() ;;
        evaluate) rest=("${model[@]}" --data "$tmp/data") ;;
        recommend) rest=("${model[@]}" --input "$tmp/ratings.csv") ;;
        export) rest=("${model[@]}") ;;
        collect) rest=("$tmp/run") ;;
        esac
        HOME=$tmp/home expect 64 "the shell has left the . as it is" "$program --output=$output" \
            "$full/vaecf-$program" "${rest[@]}" --output="$output"
    done
done
# shellcheck disable=SC2088
expect 66 "~/none.h5: .*the shell has left" "evaluate: an input of ~" "$full/vaecf-evaluate" --checkpoint='~/none.h5' --data="$tmp/data"
cat >"$tmp/paths.yaml" <<'E'
data: {path: $VAECF_TEST_DATA/data}
model: {hidden: [16], latent: 8, layer_norm: Off}
train: {epochs: 1.0, batch_size: 64, learning_rate: 1e-3}
output: {path: ~/a $$ run}
E
train=("$full/vaecf-train" --config)
expect 78 'paths.yaml:1: data.path: .VAECF_TEST_DATA/data: .VAECF_TEST_DATA is not set' "train: a variable that is not set" \
    "${train[@]}" "$tmp/paths.yaml"
HOME=$tmp/home VAECF_TEST_DATA=$tmp works "train: ~ and \$ in a configuration" "${train[@]}" "$tmp/paths.yaml"
written="$tmp/home/a \$ run/config.yaml"
if grep -qxF "  path: '$tmp/data'" "$written" && grep -qxF "  path: '$tmp/home/a \$\$ run'" "$written"; then
    ok "config.yaml has them replaced"
else not_ok "config.yaml has them replaced: $(grep path "$tmp"/home/*/config.yaml)"; fi
works "train: its config.yaml is one" "${train[@]}" "$written" --overwrite
# shellcheck disable=SC2088
HOME=$tmp/home works "train --set output.path=~/x" "${train[@]}" "$tmp/run.yaml" --set output.path='~/set'
# shellcheck disable=SC2016
check "all of it is where it belongs" [ "$(ls -A . && ls "$tmp/home")" = "$(printf 'a $ run\nset')" ]
cd "$project" || exit 71

# ---- variables that are set but empty count as not set ----
two=(timeout 120 mpirun -n 2 "$bin/vaecf-train" --config "$tmp/run.yaml" --overwrite --set output.path="$tmp/empty")
first() { grep -m 1 '^vaecf-train' "$tmp/stdout"; } # with the threads; stderr may have MPI's own words in it
env -u OMP_NUM_THREADS "${two[@]}" >"$tmp/stdout" 2>"$tmp/stderr"
without=$(first)
check "train without them" [ -n "$without" ]
for blank in '' '  '; do
    # not an empty TMPDIR: mpirun would make its files in /
    env OMP_NUM_THREADS="$blank" OMP_PROC_BIND="$blank" OMP_PLACES="$blank" OMP_SCHEDULE="$blank" OPENBLAS_NUM_THREADS="$blank" \
        VAECF_DEVICE="$blank" VAECF_HANG_SECONDS="$blank" VAECF_JOB="$blank" VAECF_SAVED="$blank" \
        "${two[@]}" >"$tmp/stdout" 2>"$tmp/stderr"
    status=$?
    if [ $status = 0 ] && [ "$(first)" = "$without" ] && ! grep -qE 'libgomp|OMP|warning' "$tmp/stderr"; then
        ok "train with variables of '$blank'"
    else not_ok "train with variables of '$blank': $status, $(head -n 1 "$tmp/stdout"), $(head -n 5 "$tmp/stderr")"; fi
done
# of a word that is no number the OpenMP library speaks; the ranks share the cores as without it
OMP_NUM_THREADS=four "${two[@]}" >"$tmp/stdout" 2>"$tmp/stderr"
if [ "$(first)" = "$without" ] && grep -q OMP_NUM_THREADS "$tmp/stderr"; then
    ok "train with OMP_NUM_THREADS=four"
else not_ok "train with OMP_NUM_THREADS=four: $(head -n 1 "$tmp/stdout"), $(head -n 5 "$tmp/stderr")"; fi
exit "$failed"
