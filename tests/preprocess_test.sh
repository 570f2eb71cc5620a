#!/bin/bash
# vaecf-preprocess from outside: inputs, options, exit codes, the same dataset from the same rows in any form.
# shellcheck source=tests/common.sh
. tests/common.sh
pre=${BIN:-bin}/vaecf-preprocess
out=$tmp/out

# run ARGUMENT...: a fresh output directory; sets status, and leaves stdout and stderr
run() {
    rm -rf "$out"
    timeout 200 "$pre" "$@" --output "$out" >"$tmp/stdout" 2>"$tmp/stderr"
    status=$?
}

# fails NAME CODE PATTERN ARGUMENT...: exit code, one line that matches, nothing that looks like a dataset
fails() {
    local name=$1 code=$2 pattern=$3
    shift 3
    run "$@"
    if [ "$status" = "$code" ] && [ "$(wc -l <"$tmp/stderr")" = 1 ] &&
        grep -qE -- "^vaecf-preprocess: error: .*($pattern)" "$tmp/stderr" && [ ! -e "$out" ]; then
        ok "$name: $code"
    else
        not_ok "$name: wanted $code and '$pattern', got $status and:"
        cat "$tmp/stderr"
    fi
}

# prints NAME PATTERN ARGUMENT...: exit code 0 and a line on stdout that matches
prints() {
    local name=$1 pattern=$2
    shift 2
    run "$@"
    if [ "$status" = 0 ] && grep -qE -- "$pattern" "$tmp/stdout"; then ok "$name"; else
        not_ok "$name: wanted '$pattern', got $status and:"
        cat "$tmp/stdout" "$tmp/stderr"
    fi
}

fingerprint() { sed -n 's/.*fingerprint //p' "$tmp/stdout"; }

# same NAME ARGUMENT...: the fingerprint is that of the first run
same() {
    local name=$1
    shift
    run "$@"
    if [ "$status" = 0 ] && [ -n "$reference" ] && [ "$(fingerprint)" = "$reference" ]; then ok "$name"; else
        not_ok "$name: wanted $reference, got $(fingerprint) ($status)"
        cat "$tmp/stderr"
    fi
}

# 400 users, 80 items, no pair twice; the same on every machine
awk 'BEGIN {
    print "userId,movieId,rating,timestamp"
    seed = 7
    for (u = 1; u <= 400; u++)
        for (i = 0; i < 80; i++) {
            seed = (seed * 16807) % 2147483647
            if (seed % (4 + u % 9) == 0) print "u" u "," i "," 1 + seed % 9 / 2 "," seed
        }
}' >"$tmp/ratings.csv"
options=(--min-rating 2.5 --min-item-users 3 --heldout-users 50 --seed 3)

# ---- the same rows in any form make the same dataset ----
run --input "$tmp/ratings.csv" "${options[@]}"
reference=$(fingerprint)
same "again" --input "$tmp/ratings.csv" "${options[@]}"
same "8 shards" --input "$tmp/ratings.csv" "${options[@]}" --shards 8
same "more shards than users" --input "$tmp/ratings.csv" "${options[@]}" --shards 500
if [ "$(find "$out" -name 'shard-*-of-00500.h5' | wc -l)" = 500 ]; then ok "500 files"; else not_ok "500 files"; fi
tail -n +2 "$tmp/ratings.csv" | sort -t, -k4 >"$tmp/shuffled.csv"
same "shuffled, no header" --input "$tmp/shuffled.csv" "${options[@]}"
gzip -c "$tmp/ratings.csv" >"$tmp/gzip"
same "gzip" --input "$tmp/gzip" "${options[@]}"
zstd -q -c "$tmp/ratings.csv" >"$tmp/zstd"
same "zstd" --input "$tmp/zstd" "${options[@]}"
same "standard input" --input - "${options[@]}" <"$tmp/gzip"
head -n 1000 "$tmp/ratings.csv" >"$tmp/a.csv"
tail -n +1001 "$tmp/ratings.csv" >"$tmp/b.csv"
same "two files" --input "$tmp/b.csv" --input "$tmp/a.csv" "${options[@]}"
same "tabs, CRLF, BOM" --input <(printf '\xef\xbb\xbf' && tr ',' '\t' <"$tmp/ratings.csv" | sed 's/$/\r/') "${options[@]}"
same "double colons" --input <(tail -n +2 "$tmp/ratings.csv" | sed 's/,/::/g') "${options[@]}"
same "semicolons" --input <(tr ',' ';' <"$tmp/ratings.csv") --delimiter ';' "${options[@]}"
same "all quoted" --input <(sed 's/[^,]*/"&"/g' "$tmp/ratings.csv") "${options[@]}"
awk -F, -v OFS=, '{ print $4, $3, $2, $1 }' "$tmp/ratings.csv" >"$tmp/turned.csv"
same "columns by number" --input "$tmp/turned.csv" "${options[@]}" --user-column 4 --item-column 3 --rating-column 2
same "columns by name" --input "$tmp/turned.csv" "${options[@]}" --user-column userId --item-column movieId \
    --rating-column rating
same "rows that were rated again" --input <(sed 's/,[^,]*,[^,]*$/,0,0/' "$tmp/ratings.csv" | tail -n +2) \
    --input "$tmp/ratings.csv" "${options[@]}"
same "rows that cannot be read are skipped" --bad-rows skip "${options[@]}" \
    --input <(cat "$tmp/ratings.csv" && printf 'u1\n,3,5\nu1,3,nan\n')
if grep -q " 3 skipped" "$tmp/stdout" && grep -q "^first row skipped: .*fields: 1" "$tmp/stdout"; then ok "and counted"; else
    not_ok "and counted"
fi
run --input "$tmp/ratings.csv" "${options[@]}" --seed 4
if [ "$status" = 0 ] && [ "$(fingerprint)" != "$reference" ]; then ok "another seed"; else not_ok "another seed"; fi
if command -v h5diff >/dev/null; then
    run --input "$tmp/ratings.csv" "${options[@]}"
    mv "$out" "$tmp/first"
    run --input "$tmp/shuffled.csv" "${options[@]}"
    if h5diff "$tmp/first/shard-00000-of-00001.h5" "$out/shard-00000-of-00001.h5" >"$tmp/diff" 2>&1 &&
        h5diff "$tmp/first/dataset.h5" "$out/dataset.h5" /items >"$tmp/diff" 2>&1; then ok "h5diff"; else
        not_ok "h5diff: $(cat "$tmp/diff")"
    fi
fi

# ---- the same bytes, whatever the ranks, threads, memory and order of rows ----
# bytes NAME COMMAND...: in a directory of its own, with ratings.csv; every .h5 is that of the first
bytes() {
    local name=$1 differ=
    shift
    rm -rf "$tmp/work/out"
    (cd "$tmp/work" && timeout 250 "$@" --output out >"$tmp/stdout" 2>"$tmp/stderr")
    status=$?
    if [ ! -d "$tmp/bytes" ]; then mv "$tmp/work/out" "$tmp/bytes"; else
        for file in "$tmp/bytes"/*.h5; do cmp -s "$file" "$tmp/work/out/$(basename "$file")" || differ+=" $(basename "$file")"; done
    fi
    if [ "$status" = 0 ] && [ -z "$differ" ]; then ok "$name"; else
        not_ok "$name: $status, differ:$differ"
        cat "$tmp/stderr"
    fi
}
mkdir "$tmp/work"
absolute=$(cd "$(dirname "$pre")" && pwd)/$(basename "$pre")
mpirun=(mpirun)
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
# line ends within quotes, where parts of the file may begin; a pair twice
awk -F, -v OFS=, 'NR > 1 && $4 % 3 == 0 { $1 = "\"" $1 "\n,\"" } { print } NR == 500 { last = $1 "," $2 }
    END { print last ",5,0" }' "$tmp/ratings.csv" >"$tmp/work/ratings.csv"
split=("$absolute" --input ratings.csv "${options[@]}" --shards 5)
OMP_NUM_THREADS=1 bytes "one thread" "${split[@]}"
OMP_NUM_THREADS=5 bytes "5 threads" "${split[@]}"
bytes "little memory" "${split[@]}" --memory 64M --tmp "$tmp"
for ranks in 2 7; do bytes "$ranks ranks" "${mpirun[@]}" -n $ranks "${split[@]}"; done
cp "$tmp/work/ratings.csv" "$tmp/plain.csv"
gzip -c "$tmp/plain.csv" >"$tmp/work/ratings.csv"
bytes "3 ranks, gzip" "${mpirun[@]}" -n 3 "${split[@]}"
cp "$tmp/ratings.csv" "$tmp/work/ratings.csv"
rm -r "$tmp/bytes"
bytes "in order" "${split[@]}"
{ head -n 1 "$tmp/ratings.csv" && tail -n +2 "$tmp/ratings.csv" | sort -t, -k4; } >"$tmp/work/ratings.csv"
for ranks in 1 2 3 7; do bytes "shuffled, $ranks ranks" "${mpirun[@]}" -n $ranks "${split[@]}"; done
# a bad row in the last part: file, line and reason, once
{ cat "$tmp/plain.csv" && echo u1; } >"$tmp/work/ratings.csv"
(cd "$tmp/work" && timeout 250 "${mpirun[@]}" -n 3 "${split[@]}" --output bad >"$tmp/stdout" 2>"$tmp/stderr")
lines=$(wc -l <"$tmp/work/ratings.csv")
if [ "$(grep -c "error: ratings.csv:$lines: fields: 1" "$tmp/stderr")" = 1 ] && [ ! -e "$tmp/work/bad/dataset.h5" ]; then
    ok "a bad row of 3 ranks"
else
    not_ok "a bad row of 3 ranks: wanted line $lines"
    cat "$tmp/stderr"
fi

# ---- what the summary says ----
small=$tmp/small.csv
for u in 1 2 3 4 5 6 7 8 9 10 11 12; do for i in 1 2 3 4 5; do echo "$u,$i,$i"; done; done >"$small"
prints "rows" '^rows: 60 read, 0 skipped, 0 duplicates, 0 below the rating$' --input "$small"
prints "a tenth is held out" '^validation: 1 users, 4 interactions as input, 1 as target$' --input "$small"
prints "training" '^training: 10 users, 50 interactions, density 100%$' --input "$small"
prints "--min-rating" '^rows: .* 24 below the rating$' --input "$small" --min-rating 3 --min-user-items 0
prints "too few items for a target" '^test: 1 users, 3 interactions as input, 0 as target$' \
    --input "$small" --min-rating 3 --min-user-items 0
prints "nobody held out" '^test: 0 users, 0 interactions as input, 0 as target$' --input "$small" --heldout-users 0
prints "half as target" '^test: 2 users, 6 interactions as input, 4 as target$' --input "$small" --heldout-users 2 \
    --target-fraction 0.5
prints "percentiles" '^  interactions of a user, percentiles 0: 5, 1: 5, 25: 5' --input "$small"
if grep -q '^rows,read,60$' "$out/report.csv" && grep -q '^before filters,density,1$' "$out/report.csv" &&
    grep -qE '^time,read MB/s,[0-9.]+$' "$out/report.csv"; then ok "report.csv"; else
    not_ok "report.csv"
    cat "$out/report.csv"
fi
prints "what the columns are" "user 'userId', item 'movieId', rating 'rating'" --input "$tmp/ratings.csv"
prints "no ratings to filter" 'has no ratings: --min-rating does not count' --input "$small" --rating-column none \
    --min-rating 4
prints "text ids keep the first row" '^kept: 10 users' --min-user-items 1 \
    --input <(for u in a b c d e f g h i j; do echo "$u,x$u"; done)
prints "--header yes drops it" '^kept: 9 users' --min-user-items 1 --header yes \
    --input <(for u in a b c d e f g h i j; do echo "$u,x$u"; done)
"$pre" --help >"$tmp/stdout"
missing=
for option in input train validation-input validation-target test-input test-target delimiter header user-column \
    item-column rating-column bad-rows min-rating min-item-users min-user-items heldout-users target-fraction seed \
    output shards force memory tmp help version; do
    grep -q -- "--$option\b" "$tmp/stdout" || missing+=" --$option"
done
if [ -z "$missing" ]; then ok "--help has every option"; else not_ok "--help lacks$missing"; fi

# ---- splits made elsewhere ----
printf 'a,1\na,2\nb,2\n' >"$tmp/train.csv"
printf 'a,1\nc,2\nc,9\n' >"$tmp/input.csv"
printf 'a,2\nd,1\n' >"$tmp/target.csv"
given=(--train "$tmp/train.csv" --test-input "$tmp/input.csv" --test-target "$tmp/target.csv")
prints "given split: users" '^kept: 4 users, 2 items, 7 interactions$' "${given[@]}"
prints "given split: test" '^test: 3 users, 2 interactions as input, 2 as target$' "${given[@]}"
prints "given split: unknown items" ' 1 interactions with items unknown in training$' "${given[@]}"
prints "given split: overlap" '^note: 2 target interactions are input' "${given[@]}" --test-target "$tmp/input.csv"
prints "given split: validation" '^validation: 2 users, 2 interactions as input, 0 as target$' "${given[@]}" \
    --validation-input "$tmp/input.csv" --validation-target /dev/null
fails "given split: no target" 64 "test-target" --train "$tmp/train.csv" --test-input "$tmp/input.csv"
fails "given split: half a validation" 64 "go together" "${given[@]}" --validation-input "$tmp/input.csv"
fails "given split: and --input" 64 "--input" "${given[@]}" --input "$small"
for option in heldout-users min-user-items min-item-users; do
    fails "given split: --$option" 64 "--$option does not go with --train" "${given[@]}" "--$option" 1
done
fails "given split: --target-fraction" 64 "--target-fraction does" "${given[@]}" --target-fraction 0.2
fails "given split: no rows to train on" 65 "/dev/null: there are no rows to train on" --train /dev/null \
    --test-input "$tmp/input.csv" --test-target "$tmp/target.csv"

# ---- bad input ----
fails "missing file" 66 "$tmp/none.csv" --input "$tmp/none.csv"
fails "a directory" 66 "is a directory" --input "$tmp"
fails "an empty file" 65 "there are no rows" --input /dev/null
fails "header only" 65 "there are no rows" --input <(echo "userId,movieId,rating")
fails "missing field" 65 ":3: fields: 2" --input <(printf '1,2,3\n1,3,3\n1,4\n')
fails "NUL" 65 ":2: a NUL byte" --input <(printf '1,2,3\n1,\0,3\n')
fails "empty id" 65 ":1: the item is empty" --input <(printf '1,,3\n')
fails "long id" 65 ":1: the user's id has 1024 bytes" --input <(printf '%01024d,2,3\n' 1)
fails "unreadable rating" 65 ":2: the rating 'x'.*--rating-column none" --input <(printf '1,2,3\n1,3,x\n1,4,5\n')
fails "no number" 65 ":2: the rating 'inf'" --input <(printf '1,2,3\n1,3,inf\n')
fails "unknown column" 65 "no such column; there are: 1, 2, 3" --input <(printf '1,2,3\n') --user-column who
fails "unclosed quote" 65 ":2: a quoted field is not closed" --input <(printf '1,2\n"1,3\n')
fails "rows or lists?" 65 "--input-format text or --input-format lists; line 1: 1 '1', 2 '2', 3 '3'" --input <(printf '1 2 3\n')
fails "no delimiter" 65 "--delimiter says what else is; line 1: 1 '1.2.3'" --input <(printf '1.2.3\n')
fails "one field" 65 "want at least a user and an item" --bad-rows skip --input <(echo 1)
fails "nothing but bad rows" 65 "2 of 2 rows are bad, more than --max-bad 1%; the first, in line 1: the user is empty" --bad-rows skip \
    --input <(printf ',1\n,2\n')
fails "none of them" 65 "no row can be read; the first: .*:1: the user is empty" --bad-rows skip --max-bad 100% --input <(printf ',1\n,2\n')
fails "too many bad rows" 65 "3 of 103 rows are bad, more than --max-bad 1%; the first, in line 101: fields: 1" --bad-rows skip \
    --input <(for ((i = 0; i < 100; i++)); do echo "u$i,i$i"; done && printf 'x\ny\nz\n')
fails "a part of the rows" 64 "--max-bad x: want a part" --max-bad x --input <(printf '1,2\n')
head -c 3000 "$tmp/gzip" >"$tmp/cut"
fails "truncated gzip" 65 "$tmp/cut: the gzip data ends too early" --input "$tmp/cut"
fails "truncated gzip is no bad row" 65 "$tmp/cut: the gzip data" --input "$tmp/cut" --bad-rows skip
if [ -e "$tmp/zstd" ]; then
    head -c 3000 "$tmp/zstd" >"$tmp/cut"
    fails "truncated zstd" 65 "$tmp/cut: the zstd data ends too early" --input "$tmp/cut"
fi
fails "nothing above the rating" 65 "--min-rating 6 leaves no row" --input "$small" --min-rating 6
fails "no item left" 65 "--min-item-users 13 leaves none of the 5 items" --input "$small" --min-item-users 13
fails "no user left" 65 "--min-user-items 6 leaves none of the 12 users" --input "$small" --min-user-items 6

# ---- wrong usage ----
fails "no input" 64 "--input"
fails "too many held out" 64 "--heldout-users 6: .* at most 5" --input "$small" --heldout-users 6
fails "a stray word" 64 "word" --input "$small" word
fails "an unknown option" 64 "--nonsense" --input "$small" --nonsense
fails "an option without value" 64 "--seed" --input "$small" --seed
for bad in "shards 0" "shards 100000" "seed -1" "seed 1x" "min-rating nan" "min-rating x" "heldout-users -2" \
    "heldout-users some" "target-fraction 0" "target-fraction 1" "min-user-items -1" "min-item-users 1.5" \
    "memory 2X" "memory 1M" "bad-rows no" "header maybe" "user-column 0" "delimiter "; do
    fails "--$bad" 64 "--${bad% *}" --input "$small" "--${bad% *}" "${bad#* }"
done
fails "a name without header" 64 "--header no" --input "$small" --header no --user-column x
fails "standard input twice" 64 "only once" --input - --input -
timeout 20 "$pre" --input "$small" 2>"$tmp/stderr"
if [ $? = 64 ] && grep -q -- "--output" "$tmp/stderr"; then ok "no output: 64"; else not_ok "no output"; fi

# ---- the output directory ----
"$pre" --input "$small" --output "$tmp/new/er/data" --shards 3 >/dev/null
if [ -e "$tmp/new/er/data/dataset.h5" ]; then ok "parents are made"; else not_ok "parents"; fi
"$pre" --input "$small" --output "$tmp/new/er/data" 2>"$tmp/stderr"
if [ $? = 73 ] && grep -q -- "--force" "$tmp/stderr"; then ok "nothing is overwritten: 73"; else not_ok "overwritten"; fi
if "$pre" --input "$tmp/ratings.csv" --output "$tmp/new/er/data" --shards 2 --force >/dev/null &&
    [ "$(find "$tmp/new/er/data" -type f | wc -l)" = 4 ]; then # report.csv too
    ok "--force, no file is left over"
else
    not_ok "--force"
fi
touch "$tmp/file"
"$pre" --input "$small" --output "$tmp/file" 2>"$tmp/stderr"
if [ $? = 73 ] && grep -q "$tmp/file" "$tmp/stderr"; then ok "a file in the way: 73"; else not_ok "a file in the way"; fi
"$pre" --input "$small" --output "$tmp/file/data" 2>"$tmp/stderr"
if [ $? = 73 ]; then ok "a file in the path: 73"; else not_ok "a file in the path"; fi

# A disk that takes 16 KiB a file: the old dataset stays, no temporary file does.
before=$(cat "$tmp/new/er/data"/* | cksum)
(
    trap '' XFSZ
    ulimit -f 16
    exec timeout 100 "$pre" --input "$tmp/ratings.csv" --rating-column none --min-user-items 0 --heldout-users 0 \
        --output "$tmp/new/er/data" --force >/dev/null 2>"$tmp/stderr"
)
status=$?
if [ $status = 74 ] && [ "$(wc -l <"$tmp/stderr")" = 1 ] && [ "$(cat "$tmp/new/er/data"/* | cksum)" = "$before" ]; then
    ok "a full disk: 74"
else
    not_ok "a full disk: $status"
    cat "$tmp/stderr"
fi

# Killed while it reads: no dataset.
mkfifo "$tmp/fifo"
"$pre" --input "$tmp/fifo" --output "$tmp/killed" >/dev/null 2>"$tmp/stderr" &
pid=$!
exec 3>"$tmp/fifo"
cat "$small" >&3
kill -INT $pid 2>/dev/null || true
kill -TERM $pid 2>/dev/null || true
exec 3>&-
wait $pid
status=$?
if [ $status -gt 128 ] && [ ! -e "$tmp/killed/dataset.h5" ]; then ok "killed"; else not_ok "killed: $status"; fi
if grep -q "interrupted.*nothing was written" "$tmp/stderr"; then ok "and says so"; else not_ok "and says so: $(cat "$tmp/stderr")"; fi
if [ ! -e "$tmp/killed" ]; then ok "and leaves nothing"; else not_ok "and leaves $(ls -A "$tmp/killed")"; fi
mkdir "$tmp/mine"
"$pre" --input "$tmp/none.csv" --output "$tmp/mine" 2>"$tmp/stderr"
if [ -d "$tmp/mine" ]; then ok "a directory that was there stays"; else not_ok "removed a directory that is not its own"; fi
fails "no place for temporary data" 73 "none: cannot write temporary data.*--tmp" --input "$small" --tmp "$tmp/none"

# ---- real data, where it is ----
data=../shared/data/ml-100k/ratings.csv
if [ -r $data ]; then
    prints "ml-100k, the paper's filters" '^kept: 938 users, [0-9]+ items, 5[0-9]{4} interactions$' --input $data \
        --min-rating 4 --heldout-users 94
    prints "ml-100k without filters" '^rows: 100000 read, 0 skipped, 0 duplicates, 0 below' --input $data
else
    echo "note: no $data: two checks fewer"
fi
exit $failed
