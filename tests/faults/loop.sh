#!/bin/bash
# Fault loops as SQLite has them: fails the N-th call of one kind of a program, for N = 1, 2, 3, ... until a run passes
# untouched. Each time the program has to end by itself, with one true line if not with 0, what was whole before has to
# be whole, no temporary file may be left, and the next run without a fault has to end with the right bytes.
#
#   make test-faults                       everything, into results/faults.md (JOBS=2 loops at a time)
#   tests/faults/loop.sh [CASE...]         some cases; patterns: 'train*'. --list names them.
#   KINDS='read close' ERRORS='EIO' ...    only these kinds and errors
#   N=7 ...                                only the 7th call; KEEP=DIR keeps the directory that it leaves, with stdout,
#                                          stderr and fired (which call it was, and its callers)
#   SPARSE=2 ...                           the next N is n + n / SPARSE + 1. By default the first error of a kind
#                                          tries the first 200 calls each, the others 10, with several ranks 40 and 5
#   FEW=3 ...                              that many calls of each kind, spread evenly, with one error each
#   LIMIT=60, MOST=N                       seconds of a run; calls that fail in a loop
#   PLACE=/dev/shm                         where the runs' directories are made, best in memory
#   TABLE=FILE.md                          where the table goes to as well
#
# What a loop finds: hang; crash (a signal); lost (what was whole is not, or a file is neither an old nor a right one);
# silent (exit 0, other bytes); left (temporary files); rerun (the next run fails or has other bytes); message (none,
# several, or not the reason).
# shellcheck disable=SC2016  # commands are kept as text and run by eval
cd "$(dirname "$0")/../.." || exit 71
set -u
export BIN BUILD LC_ALL=C
BIN=$(realpath "${BIN:-bin}") BUILD=$(realpath "${BUILD:-build}")
library=$BUILD/tests/faults/faults.so
limit=${LIMIT:-60}

# ---- the cases: a name, ranks, the rank of the fault, the start's function, the command, the command after it ----
# Commands run in a directory of their own; `set` in front of a name: its files are only whole together.
list_cases() {
    local train='vaecf-train --config run.yaml' grid='--set parallel.item=2'
    while IFS='|' read -r name ranks rank start command again; do
        if [ -n "$name" ]; then echo "$name|$ranks|$rank|$start|$command|${again:-$command}"; fi
    done <<CASES
train-3-rank0|3|0|fresh|$train|$train --resume auto
train-3-rank1|3|1|fresh|$train|$train --resume auto
train-3-resume-rank1|3|1|stopped|$train --resume auto
train-grid-rank0|2|0|fresh|$train $grid|$train $grid --resume auto
train-grid-rank1|2|1|fresh|$train $grid|$train $grid --resume auto
train|1|0|fresh|$train|$train --resume auto
train-resume|1|0|stopped|$train --resume auto
train-more|1|0|trained|$train --set train.epochs=4 --resume auto
train-ease|1|0|fresh|$train --set model.type=ease|$train --set model.type=ease --resume auto
preprocess|1|0|input|vaecf-preprocess --input part.csv --min-item-users 5 --heldout-users 50 --shards 2 --output data
preprocess-spill|1|0|large|vaecf-preprocess --input large.csv.gz --memory 64M --shards 2 --output data
preprocess-force|1|0|old|vaecf-preprocess --input part.csv --min-item-users 5 --heldout-users 50 --shards 2 --force --output data
preprocess-parts|1|0|input|vaecf-preprocess --train part.csv --test-input seen.csv --test-target next.csv --output data
preprocess-2-rank1|2|1|old|vaecf-preprocess --input part.csv --min-item-users 5 --heldout-users 50 --shards 2 --force --output data
evaluate|1|0|model|vaecf-evaluate --device cpu --checkpoint best.h5 --data data --output table.csv
evaluate-blend|1|0|model|vaecf-evaluate --device cpu --checkpoint best.h5 --blend ease.h5:0.5 --data data >stdout
evaluate-2-rank1|2|1|model|vaecf-evaluate --device cpu --checkpoint best.h5 --data data --output table.csv
recommend-csv|1|0|model|vaecf-recommend --device cpu --checkpoint best.h5 --input seen.csv --top-k 5 --output table.csv
recommend-jsonl|1|0|model|vaecf-recommend --device cpu --checkpoint best.h5 --blend ease.h5:0.5 --input part.csv.gz --output table.jsonl
recommend-h5|1|0|model|vaecf-recommend --device cpu --checkpoint best.h5 --users-from data --split test --allow allow --deny deny --output table.h5
recommend-spill|1|0|model|vaecf-recommend --device cpu --checkpoint best.h5 --input large.csv --memory 1 --top-k 1 --output table.csv
recommend-explain|1|0|model|vaecf-recommend --device cpu --checkpoint best.h5 --input seen.csv --items titles.csv --explain "\$(sed 's/,.*//; q' seen.csv)" >stdout
recommend-2-rank1|2|1|model|vaecf-recommend --device cpu --checkpoint best.h5 --input seen.csv --top-k 5 --output table.csv
export|1|0|model|vaecf-export --checkpoint best.h5 --output model.npz
sweep|1|0|sweep|vaecf-sweep sweep.yaml --prepare
sweep-table|1|0|sweep|vaecf-sweep sweep.yaml >stdout
collect|1|0|collect|vaecf-collect runs >stdout
synthesize|1|0|input|vaecf-synthesize --users 200 --items 50 --interactions 2000 --truth truth.csv --output made.csv
synthesize-gz|1|0|input|vaecf-synthesize --users 200 --items 50 --interactions 2000 --output made.csv.gz
synthesize-stdout|1|0|input|vaecf-synthesize --users 200 --items 50 --interactions 2000 >stdout
CASES
}
only_whole_together() { [[ $1 == preprocess* ]]; }

errors() {
    case $1 in
    malloc) echo ENOMEM ;;
    open) echo EIO EINTR ENOMEM ;;
    read) echo EIO short EINTR ;;
    write) echo ENOSPC short EINTR EIO ENOSPC+ ;;
    fsync | close) echo EIO ENOSPC EINTR ;;
    rename | mkdir) echo EIO ENOSPC ;;
    *) echo EIO ;;
    esac
}
# A true line gives one of these reasons.
reason() {
    case ${1%+} in
    EIO) echo 'Input/output error' ;;
    ENOSPC) echo 'No space left on device' ;;
    ENOMEM) echo 'emory' ;;
    EINTR) echo 'Interrupted system call' ;;
    EMFILE) echo 'Too many open files' ;;
    *) echo 'nothing: the rest of a short call is to follow' ;;
    esac
}

# Everything is quick but for MPI's start, which these shorten.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader OMPI_MCA_ess_singleton_isolated=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export PATH=$BIN:$PATH

# ---- what commands start from ----
start_input() { # DIR
    local part="$1/part.csv"
    gzip -dc preprocess/debian-build-depends.csv.gz | head -n 6000 >"$part"
    gzip -nc <"$part" >"$part.gz"
    awk -F, 'n[$1]++ < 3' "$part" | head -n 600 >"$1/seen.csv"
    awk -F, 'n[$1]++ == 3' "$part" | head -n 100 >"$1/next.csv"
    mkdir "$1/tmp"
}
start_large() { mkdir "$1/tmp" && vaecf-synthesize --users 20000 --items 300 --interactions 400000 --output "$1/large.csv.gz"; }
preprocess() { (cd "$1" && vaecf-preprocess --input part.csv --min-item-users 5 --heldout-users 50 --shards 2 --output data "${@:2}" >/dev/null); }
start_old() { start_input "$1" && preprocess "$1" --seed 2; }
start_fresh() {
    start_input "$1" && preprocess "$1" && rm "$1"/*.csv*
    cat >"$1/run.yaml" <<'Y'
data: {path: data}
model: {hidden: [12], latent: 6}
train: {epochs: 3, batch_size: 100, kl: {cap: 0.2, anneal_steps: 10}, checkpoint: {keep: 2}}
device: cpu
output: {path: run}
Y
}
start_trained() { start_fresh "$1" && (cd "$1" && vaecf-train --config run.yaml >/dev/null); }
# as if it had been stopped in its last epoch
start_stopped() { start_trained "$1" && rm "$1/run/test.csv" "$(find "$1/run/checkpoints" -name '*.h5' | sort | tail -n 1)"; }
start_model() {
    start_trained "$1" && mv "$1/run/best.h5" "$1"
    (cd "$1" && rm -r run && vaecf-train --config run.yaml --set model.type=ease >/dev/null)
    mv "$1/run/best.h5" "$1/ease.h5" && rm -r "$1/run" "$1/run.yaml"
    mkdir "$1.input" && start_input "$1.input" && mv "$1.input"/*.csv* "$1"
    for i in 1 2 3 4 5 6 7 8; do sed "s/^/$i/" "$1/part.csv"; done >"$1/large.csv"
    cut -d, -f2 "$1/part.csv" | sort | uniq -c | sort -rn | awk 'NR <= 100 { print $2 }' >"$1/allow"
    head -n 5 "$1/allow" >"$1/deny"
    sed 's/.*/&,the &/; 1i item,title' "$1/allow" >"$1/titles.csv"
    for old in table.csv table.jsonl table.h5 model.npz; do echo "what was there" >"$1/$old"; done
}
start_sweep() {
    start_fresh "$1"
    cat >"$1/sweep.yaml" <<'Y'
config: run.yaml
output: runs
seeds: [1, 2]
parameters: {model.latent: [4, 8], train.kl.cap: [0.1, 0.2]}
Y
}
start_collect() {
    start_sweep "$1" && (cd "$1" && vaecf-sweep sweep.yaml --prepare >/dev/null && vaecf-sweep sweep.yaml --run 0 >arguments &&
        mapfile -t arguments <arguments && vaecf-train "${arguments[@]}" >/dev/null && cp runs/run-0000/*.csv runs/run-0001)
    for old in runs.csv runs.md runs.tex means.csv; do echo "what was there" >"$1/runs/$old"; done
}

# files DIR: the files there with their sums, but for those that tell the time; metrics.csv without its columns of it
files() {
    (
        cd "$1" || exit 71
        find . -type f ! -name train.log ! -name metrics.csv ! -name report.csv -exec md5sum {} + | sort -k 2
        find . -name metrics.csv -exec bash -c 'for f; do echo "$(cut -d, -f1,2,5- "$f" | md5sum | cut -c-32)  $f"; done' _ {} +
    )
}

# same A B: are these the same files? Older checkpoints than the newest may be there in any number: the next start
# removes them.
same() { [ "$1" = "$2" ] || [ "$(newest <<<"$1")" = "$(newest <<<"$2")" ]; }
newest() { awk '$2 !~ /\/step-[0-9]*\.h5$/ { print; next } { last = $0 } END { print last }'; }
differences() { diff <(newest <<<"$1") <(newest <<<"$2") | sed -n 's/^[<>].*  //p' | sort -u | head -n 3 | tr '\n' ' '; }

# run SECONDS RANKS DIR COMMAND [VARIABLE...]: in that directory, with the variables in the program's environment
run() {
    local seconds=$1 ranks=$2 dir=$3 command=$4 launch=
    shift 4
    if [ "$ranks" -gt 1 ]; then launch="mpirun -n $ranks"; fi
    (
        cd "$dir" || exit 71
        eval "OMPI_MCA_orte_tmpdir_base=$dir.mpi timeout -k 5 $seconds $launch env TMPDIR=$dir/tmp $* $command" 2>"$dir.stderr"
    ) >"$dir.stdout" </dev/null
}

# ---- one loop ----
# judge: what is wrong after a fault, a line each: "CATEGORY WHAT"
judge() {
    local now sum name lines line kept
    now=$(files "$dir")
    # What cannot be removed stays, and what cannot be listed.
    name=$(cut -d' ' -f2 "$dir.fired" | sed "s|^$dir/||")
    if [ "$kind" = unlink ]; then name=./${name%%.tmp/*}; elif [ "$kind" = list ]; then name=./$name; else name="nothing"; fi
    awk -v stays="$name" '$2 ~ /\.tmp(\/|$)|\/lock-[0-9]*$|^\.\/tmp\// && index($2, stays) != 1 { print "left " $2 }' <<<"$now"
    now=$(awk '$2 !~ /\.tmp(\/|$)|\/lock-[0-9]*$|^\.\/tmp\//' <<<"$now")
    if [ "$status" = 124 ] || [ "$status" = 137 ]; then echo "hang after $limit s"
    elif [ "$status" -ge 128 ]; then echo "crash signal $((status - 128))"
    elif [ "$status" = 0 ]; then
        same "$now" "$want" || echo "silent $(differences "$want" "$now")"
    else
        lines=$(grep -c '^vaecf[a-z-]*: error: ' "$dir.stderr")
        line=$(grep -m 1 '^vaecf[a-z-]*: error: ' "$dir.stderr")
        if [ "$lines" != 1 ]; then echo "message $lines lines"
        elif ! grep -qE "$(reason "$error")" <<<"$line"; then echo "message not the reason"
        elif [ "$ranks" = 1 ] && grep -qv '^vaecf' "$dir.stderr"; then echo "message and more: $(grep -v '^vaecf' "$dir.stderr" | head -n 1)"
        fi
    fi
    # what is there
    while read -r sum name; do
        case $name in
        "") continue ;;
        ./stdout | */metrics.csv) ;;
        *) [ -n "${good[$sum]:-}" ] || echo "lost $name is neither old nor right" ;;
        esac
    done <<<"$now"
    while read -r sum name; do
        if [ -z "$name" ] || [ -e "$dir/$name" ]; then continue; fi
        if [[ $name == */run/test.csv ]]; then continue; fi # a run that goes on is not complete any more
        if [[ $name != */checkpoints/* ]] && [[ "$want" != *" $name"* ]]; then continue; fi
        if [[ $name == */checkpoints/* ]]; then
            kept=$(find "$dir/${name%/*}" -name 'step-*.h5' | wc -l)
            if [ "$kept" -ge 2 ]; then continue; fi # as many as are to be kept
        fi
        echo "lost $name"
    done <<<"$begun"
    if only_whole_together "$name_of_case" && [ "$now" != "$begun" ] && [ "$now" != "$want" ]; then
        if [[ "$begun" == *dataset.h5* ]] || [ -e "$dir/data/dataset.h5" ]; then echo "lost the dataset is neither the old nor the new one"; fi
    fi
    if same "$now" "$want"; then return; fi
    # the next run
    kept=$(find "$dir" -name 'step-*.h5' | wc -l)
    rm -f "$dir/stdout"
    cp "$dir.stderr" "$dir.first"
    run "$limit" "$ranks" "$dir" "$again" || echo "rerun status $?: $(grep -m 1 error "$dir.stderr")"
    now=$(files "$dir")
    same "$now" "$want" || echo "rerun differs: $(differences "$want" "$now")"
    if [ "$kept" -gt 0 ] && [[ $again == *resume* ]] && ! grep -q 'going on from' "$dir.stdout"; then echo "rerun begins anew"; fi
    mv "$dir.first" "$dir.stderr"
}

places() { # the callers of the call that failed, innermost first
    local program
    program=$(grep -o 'vaecf-[a-z]*' <<<"$command" | head -n 1)
    tr ' ' '\n' <"$dir.fired" | grep '^0x' | head -n 5 | addr2line -se "$BIN/$program" 2>/dev/null | sed '/??/d; s/ (discr.*//' | paste -sd' '
}

# loop "CASE KIND ERROR COUNT SPARSE": COUNT such calls are expected. A line for each finding, and at last "loop CASE KIND ERROR FAULTS SURVIVED TOLD"
loop() {
    local name_of_case kind error count sparse ranks rank command again dir n numbers=() faults=0 survived=0 told=0 hangs=0 status found line unit=${1// /-} i few
    local begun want
    declare -A good=()
    read -r name_of_case kind error count sparse <<<"$1"
    if [ -n "${N:-}" ]; then
        numbers=("$N")
    elif [ -n "${FEW:-}" ]; then
        few=$((FEW < count ? FEW : count))
        for ((i = 0; i < few; i++)); do numbers+=($((1 + (count - 1) * i / (few > 1 ? few - 1 : 1)))); done
    else
        for ((n = 1; n <= 2 * count + 100; n += n / sparse + 1)); do numbers+=("$n"); done
    fi
    IFS='|' read -r _ ranks rank _ command again < <(list_cases | grep "^$name_of_case|")
    dir=$tmp/loops/$unit
    begun=$(cat "$tmp/start/$name_of_case.files")
    want=$(cat "$tmp/want/$name_of_case.files")
    while read -r line _; do good[$line]=1; done <"$tmp/want/$name_of_case.good"
    for n in "${numbers[@]}"; do
        rm -rf "${dir:?}" "$dir".*
        cp -r "$tmp/start/$name_of_case" "$dir"
        run "$limit" "$ranks" "$dir" "$command" "LD_PRELOAD=$library" "FAULT_KIND=$kind" "FAULT_N=$n" "FAULT_ERROR=$error" \
            "FAULT_RANK=$rank" "FAULT_PREFIX=$dir" "FAULT_FIRED=$dir.fired"
        status=$?
        if [ ! -e "$dir.fired" ]; then
            if [ $status != 0 ] || ! same "$(files "$dir")" "$want"; then
                echo "message|$name_of_case|$kind|$error|$n|$status|an undisturbed run fails or differs|$(head -n 1 "$dir.stderr")||"
            fi
            break
        fi
        faults=$((faults + 1))
        if [ -n "${KEEP:-}" ]; then
            rm -rf "$KEEP" && mkdir -p "$KEEP" && cp -r "$dir" "$dir".* "$KEEP"
            { echo "status $status" && cat "$dir.stderr" "$dir.fired" && places; } >&2
        fi
        found=$(judge)
        if [ -n "$found" ]; then
            while read -r line; do
                echo "${line%% *}|$name_of_case|$kind|$error|$n|$status|${line#* }|$(grep -m 1 '^vaecf[a-z-]*: error' "$dir.stderr" | tr '|' ' ' | cut -c-300)|$(cut -d' ' -f2 "$dir.fired" | sed "s|$dir/||")|$(places)"
            done <<<"$found"
            if [[ $found == hang* ]] && [ $((hangs += 1)) = 3 ]; then break; fi
        elif [ $status = 0 ]; then
            survived=$((survived + 1))
        else
            told=$((told + 1))
        fi
        if [ "$faults" = "${MOST:-0}" ]; then break; fi
    done
    echo "loop|$name_of_case|$kind|$error|$faults|$survived|$told"
    rm -rf "${dir:?}" "$dir".*
}

if [ "${1:-}" = --loop ]; then
    loop "$2" >"$tmp/found/${2// /-}"
    exit
fi
if [ "${1:-}" = --list ]; then
    list_cases | cut -d'|' -f1,5
    exit
fi

# ---- all ----
if [ ! -e "$library" ]; then
    echo "skipped: fault loops: $library is not there; they are for Linux on x86-64"
    exit 77
fi
place=${PLACE:-/dev/shm}
if [ ! -w "$place" ] || [ "$(df --output=avail -Bm "$place" | tail -n 1 | tr -d ' M')" -lt 500 ]; then place=${TMPDIR:-/tmp}; fi
tmp=$(mktemp -d "$(realpath "$place")/vaecf-faults-XXXXXX") || exit 71
trap 'rm -rf "$tmp"' EXIT
export tmp
mkdir "$tmp/start" "$tmp/want" "$tmp/loops" "$tmp/found" "$tmp/by-start"
began=$SECONDS

chosen() {
    local pattern
    for pattern in "${patterns[@]}"; do
        # shellcheck disable=SC2053  # it is a pattern
        if [[ $1 == $pattern ]]; then return 0; fi
    done
    return 1
}
patterns=("${@:-*}")
units=()
while IFS='|' read -r name ranks rank start command _; do
    chosen "$name" || continue
    if [ ! -d "$tmp/by-start/$start" ]; then
        mkdir "$tmp/by-start/$start"
        if ! "start_$start" "$tmp/by-start/$start"; then echo "not ok - $name: cannot be set up" && exit 1; fi
    fi
    cp -r "$tmp/by-start/$start" "$tmp/start/$name"
    cp -r "$tmp/start/$name" "$tmp/want/$name"
    mkdir "$tmp/want/$name.record"
    run "$limit" "$ranks" "$tmp/want/$name" "$command" "LD_PRELOAD=$library" FAULT_KIND=record "FAULT_PREFIX=$tmp/want/$name" \
        "FAULT_RECORD=$tmp/want/$name.record"
    status=$?
    if [ $status = 119 ]; then echo "skipped: fault loops: $(cat "$tmp/want/$name.stderr")" && exit 77; fi
    if [ $status != 0 ]; then echo "not ok - $name without a fault: status $status: $(tail -n 3 "$tmp/want/$name.stderr")" && exit 1; fi
    files "$tmp/start/$name" >"$tmp/start/$name.files"
    files "$tmp/want/$name" >"$tmp/want/$name.files"
    { cat "$tmp/start/$name.files" "$tmp/want/$name.files" && find "$tmp/want/$name.record" -type f -exec md5sum {} +; } >"$tmp/want/$name.good"
    while read -r kind count; do
        if [ "$count" = 0 ] || [[ " ${KINDS:-$kind} " != *" $kind "* ]]; then continue; fi
        read -ra possible <<<"$(errors "$kind")"
        if [ -n "${FEW:-}" ]; then possible=("${possible[${#units[@]} % ${#possible[@]}]}"); fi # in turn
        if [ -n "${ERRORS:-}" ]; then read -ra possible <<<"$ERRORS"; fi
        for error in "${possible[@]}"; do
            if [ "$error" = "${possible[0]}" ]; then sparse=$((ranks > 1 ? 40 : 200)); else sparse=$((ranks > 1 ? 5 : 10)); fi
            units+=("$name $kind $error $count ${SPARSE:-$sparse}")
        done
    done <"$tmp/want/$name.record/counts-$rank"
done < <(list_cases)

# those that take longest begin
printf '%s\n' "${units[@]}" | sort -s -rn -k 4,4 | tr '\n' '\0' | xargs -0 -n 1 -P "${JOBS:-$(nproc)}" "$0" --loop

# ---- what was found ----
all=$tmp/all
cat "$tmp/found"/* >"$all"
table() {
    echo "| program | kind | faults | survived | told | hang | crash | lost | silent | left | rerun | message |"
    echo "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    awk -F'|' '
        { split($2, word, "-"); key = word[1] " | " $3; seen[key] = 1 }
        $1 == "loop" { faults[key] += $5; survived[key] += $6; told[key] += $7; next }
        !(($1, $2, $3, $4, $5) in once) { once[$1, $2, $3, $4, $5] = 1; n[key, $1]++ }
        END {
            for (key in seen) {
                printf "%s | %d | %d | %d", key, faults[key], survived[key], told[key]
                split("hang crash lost silent left rerun message", category, " ")
                for (i = 1; i <= 7; i++) printf " | %d", n[key, category[i]]
                print ""
            }
        }' "$all" | sort | awk -F' [|] ' '
        { for (i = 3; i <= NF; i++) sum[i] += $i; width = NF; print "| " $0 " |" }
        END { printf "| all | "; for (i = 3; i <= width; i++) printf "| %d ", sum[i]; print "|" }'
}
findings() { grep -v '^loop|' "$all" | sort; }
n_faults=$(awk -F'|' '$1 == "loop" { n += $5 } END { print n + 0 }' "$all")
n_bad=$(findings | cut -d'|' -f2-5 | sort -u | wc -l)
table
findings | awk -F'|' '{ printf "%s: %s, %s %s, call %s, status %s: %s; says \"%s\"; on %s at %s\n", $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 }'
if [ -n "${TABLE:-}" ]; then
    {
        echo "# Fault loops"
        echo
        echo "\`${SPARSE:+SPARSE=$SPARSE }${JOBS:+JOBS=$JOBS }make test-faults\` lets the N-th call of a kind fail, for N = 1, 2, 3, ... until a run"
        echo "passes untouched${SPARSE:+; the steps grow with N}. tests/faults/loop.sh tells how, and what the columns mean."
        echo
        echo "survived: exit 0 with the right bytes; told: another exit with one true line, nothing lost and the right bytes after"
        echo "the next run; the other columns have to be 0."
        echo
        echo "$(date -I), $(vaecf-train --version | head -n 1), $(lscpu | sed -n 's/^Model name: *//p'), ${JOBS:-$(nproc)} loops at a time, $((SECONDS - began)) s:"
        echo "$n_faults faults in ${#units[@]} loops over $(printf '%s\n' "${units[@]}" | cut -d' ' -f1 | sort -u | wc -l) cases, $n_bad with a finding."
        echo
        table
        if [ "$n_bad" -gt 0 ]; then
            echo && echo "## Findings" && echo
            findings | awk -F'|' '{ key = $1 "|" $2 "|" $3 "|" $7 "|" $10; if (!n[key]++) first[key] = $0 } END { for (k in n) { split(first[k], f, "|"); printf "- %s: %s, %s %s, call %s (%d such), status %s: %s; says \"%s\"; on %s at %s\n", f[1], f[2], f[3], f[4], f[5], n[k], f[6], f[7], f[8], f[9], f[10] } }' | sort
        fi
    } >"$TABLE"
fi
if [ "$n_bad" = 0 ] && [ "$n_faults" -gt 0 ]; then
    echo "ok - $n_faults faults in ${#units[@]} loops: each is told or survived, nothing is lost ($((SECONDS - began)) s)"
else
    echo "not ok - $n_bad of $n_faults faults in ${#units[@]} loops ($((SECONDS - began)) s)"
    exit 1
fi
