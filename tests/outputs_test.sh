#!/bin/bash
# How the programs write files: whole or not at all; devices, FIFOs and links written through; compressed by name;
# closed descriptors, limits of size, signals.
# shellcheck source=tests/common.sh
. tests/common.sh
# shellcheck disable=SC2317  # called by check
same() { cmp -s "$1" "$2" || { echo "$1 and $2 differ" && false; }; }

gzip -dc preprocess/debian-build-depends.csv.gz | head -n 5000 >"$tmp/part.csv"
cat >"$tmp/run.yaml" <<Y
data: {path: $tmp/data}
model: {hidden: [20], latent: 10}
train: {epochs: 2, batch_size: 100}
output: {path: $tmp/run}
Y
"$bin/vaecf-preprocess" --input "$tmp/part.csv" --heldout-users 20 --output "$tmp/data" >/dev/null &&
    "$bin/vaecf-train" --config "$tmp/run.yaml" >/dev/null || exit 1

# run PROGRAM OUTPUT: each writes its result there
run() {
    local best=$tmp/run/best.h5
    case $1 in
    recommend | jsonl) timeout 60 "$bin/vaecf-recommend" --checkpoint "$best" --input "$tmp/part.csv" --top-k 5 --output "$2" \
        --format "${1/recommend/csv}" ;;
    hdf5) timeout 60 "$bin/vaecf-recommend" --checkpoint "$best" --input "$tmp/part.csv" --output "$2" --format hdf5 ;;
    evaluate) timeout 60 "$bin/vaecf-evaluate" --checkpoint "$best" --data "$tmp/data" --output "$2" ;;
    export) timeout 60 "$bin/vaecf-export" --checkpoint "$best" --output "$2" ;;
    synthesize) timeout 60 "$bin/vaecf-synthesize" --users 500 --items 200 --interactions 9000 --output "$2" ;;
    truth) timeout 60 "$bin/vaecf-synthesize" --users 5 --items 2000 --interactions 50 --output /dev/null --truth "$2" ;;
    esac 2>"$tmp/err"
}

# Programs that start MPI take their time: of those a few ways have to do.
for program in export synthesize truth evaluate recommend jsonl hdf5; do
    rm -rf "$tmp/o" && mkdir "$tmp/o"
    run $program "$tmp/o/plain" >/dev/null
    mv "$tmp/o/plain" "$tmp/want.$program"
    want=$tmp/want.$program

    run $program - >"$tmp/o/out"
    check "$program: - is standard output" same "$want" "$tmp/o/out"
    mkfifo "$tmp/o/fifo"
    timeout 60 cat "$tmp/o/fifo" >"$tmp/o/out" &
    run $program "$tmp/o/fifo" >/dev/null
    wait $!
    check "$program: through a FIFO" same "$want" "$tmp/o/out"
    check "$program: which stays one" [ -p "$tmp/o/fifo" ]
    ln -s /dev/full "$tmp/o/full"
    run $program "$tmp/o/full" >/dev/null
    check "$program: a full device: 74" [ $? = 74 ]
    check "$program: told in one line" [ "$(grep -c 'error: .*No space left on device' "$tmp/err")" = 1 ]
    check "$program: it stays one" [ -L "$tmp/o/full" -a -c "$tmp/o/full" ]
    run $program "$tmp/o/x.gz" >/dev/null
    check "$program: .gz is compressed" same "$want" <(gzip -dc "$tmp/o/x.gz")
    cp "$want" "$tmp/o/closed"
    run $program "$tmp/o/closed" <&- >&- 2>&-
    check "$program: with standard input, output and error closed" same "$want" "$tmp/o/closed"
    check "$program: nothing is left" [ -z "$(find "$tmp/o" -name '*.tmp')" ]
    if [[ ! $program =~ export|synthesize|truth ]]; then continue; fi

    run $program "$tmp/o/again" >/dev/null
    check "$program: the same file again" same "$want" "$tmp/o/again"
    run $program /dev/stdout >"$tmp/o/out"
    check "$program: /dev/stdout is standard output" same "$want" "$tmp/o/out"
    run $program /dev/fd/7 7>"$tmp/o/out" >/dev/null
    check "$program: /dev/fd/7 is that descriptor" same "$want" "$tmp/o/out"
    ln -s /dev/null "$tmp/o/null"
    run $program "$tmp/o/null" >/dev/null
    check "$program: into a device" [ $? = 0 ]
    check "$program: which stays one" [ -L "$tmp/o/null" -a -c "$tmp/o/null" ]

    mkdir "$tmp/o/below" "$tmp/o/else"
    echo old >"$tmp/o/else/file" && chmod 640 "$tmp/o/else/file" && ln -s ../else/file "$tmp/o/below/link"
    run $program "$tmp/o/below/link" >/dev/null
    check "$program: the file that a link leads to" same "$want" "$tmp/o/else/file"
    check "$program: the link stays" [ -L "$tmp/o/below/link" ]
    check "$program: the file's rights stay" [ "$(stat -c %a "$tmp/o/else/file")" = 640 ]
    ln -s nothing-yet "$tmp/o/below/dangling"
    run $program "$tmp/o/below/dangling" >/dev/null
    check "$program: or that it would lead to" same "$want" "$tmp/o/below/nothing-yet"

    run $program "$tmp/o/x.zst" >/dev/null
    check "$program: .zst is compressed" same "$want" <(zstd -dqc "$tmp/o/x.zst")

    echo "not yours" >"$tmp/o/victim" && ln -s victim "$tmp/o/y.tmp"
    run $program "$tmp/o/y" >/dev/null
    check "$program: no name of a temporary file can be foreseen" [ "$(cat "$tmp/o/victim")" = "not yours" ]
    rm "$tmp/o/y.tmp"

    run $program - >&-
    check "$program: standard output closed: 74" [ $? = 74 ]

    echo old >"$tmp/o/limited"
    (ulimit -f 1 && run $program "$tmp/o/limited" >/dev/null)
    check "$program: a limit of a file's size: 74" [ $? = 74 ]
    check "$program: what was there stays" [ "$(cat "$tmp/o/limited")" = old ]
    run $program "$tmp/o" >/dev/null
    check "$program: a directory in the place: 73" [ $? = 73 ]
    check "$program: told in one line" [ "$(grep -c 'error: .*Is a directory' "$tmp/err")" = 1 ]
    run $program "$tmp/none/x" >/dev/null
    check "$program: no such directory: 73" [ $? = 73 ]
    check "$program: told in one line" [ "$(grep -c 'error: .*/none/x: .*No such file' "$tmp/err")" = 1 ]
    check "$program: nothing is left" [ -z "$(find "$tmp/o" -name '*.tmp')" ]
done

check "the suffix before .gz tells the format" \
    grep -q '^{"user"' <(run recommend "$tmp/unused" && "$bin/vaecf-recommend" --checkpoint "$tmp/run/best.h5" \
        --input "$tmp/part.csv" --output "$tmp/r.jsonl.gz" 2>/dev/null && gzip -dc "$tmp/r.jsonl.gz")

# A signal removes what is unfinished.
for signal in INT TERM HUP; do
    rm -rf "$tmp/o" && mkdir "$tmp/o" && echo old >"$tmp/o/big.csv"
    (trap - INT && exec "$bin/vaecf-synthesize" --output "$tmp/o/big.csv") &
    job=$!
    # shellcheck disable=SC2317
    is_writing() { [ -n "$(find "$tmp/o" -name 'big.csv.*.tmp' -size +64k)" ]; }
    within 60 is_writing
    kill -$signal $job
    { wait $job; } 2>/dev/null
    check "SIG$signal: ends by it" [ $? = $((128 + $(kill -l $signal))) ]
    check "SIG$signal: what was there stays, and nothing else is" [ "$(cat "$tmp/o/"*)" = old ]
done

# The other programs with everything closed
timeout 60 "$bin/vaecf-preprocess" --input "$tmp/part.csv" --heldout-users 20 --output "$tmp/data2" --memory 64M <&- >&- 2>&-
check "preprocess with all closed: standard output is wanted, 74" [ $? = 74 ]
check "the data set is whole" same "$tmp/data/shard-00000-of-00001.h5" "$tmp/data2/shard-00000-of-00001.h5"
timeout 60 "$bin/vaecf-train" --config "$tmp/run.yaml" --set output.path="$tmp/run2" <&- >&- 2>&-
check "train with all closed" [ $? = 0 ]
check "trains the same" same "$tmp/run/test.csv" "$tmp/run2/test.csv"
(ulimit -f 1 && exec timeout 60 "$bin/vaecf-preprocess" --input "$tmp/part.csv" --output "$tmp/data3") >/dev/null 2>"$tmp/err"
check "preprocess with a limit of a file's size: 74" [ $? = 74 ]
check "nothing is left" [ ! -e "$tmp/data3" ]

# What is beside a data set
mkdir -p "$tmp/data4/report.csv"
timeout 60 "$bin/vaecf-preprocess" --input "$tmp/part.csv" --output "$tmp/data4" >/dev/null 2>"$tmp/err"
check "a directory named report.csv: 73, before the work" [ $? = 73 ]
check "no data set is there" [ "$(ls "$tmp/data4")" = report.csv ]
timeout 60 "$bin/vaecf-preprocess" --input "$tmp/part.csv" --output "$tmp/part.csv/data" >/dev/null 2>"$tmp/err"
check "a directory that cannot be made: 73" [ $? = 73 ]
check "told by the system's reason" grep -q 'error: .*part.csv/data: cannot make the directory: Not a directory$' "$tmp/err"
TMPDIR='' timeout 60 "$bin/vaecf-preprocess" --input "$tmp/part.csv" --output "$tmp/data5" --memory 64M >/dev/null 2>"$tmp/err"
check "an empty TMPDIR is none" [ $? = 0 ]
exit $failed
