#!/bin/bash
# vaecf-recommend for many users: in any order, grouped, through temporary files, on ranks, from a data set, in each
# format, with filters; one user explained; bad histories in one clear line.
# shellcheck disable=SC2016  # $0 is for awk
# shellcheck source=tests/common.sh
. tests/common.sh
# where lists have the same bits however they are made; cuda_host_test.sh compares those of a GPU with them
export VAECF_DEVICE=cpu


# 3,000 users with two tastes, their rows mixed
awk 'BEGIN {
    for (k = 0; k < 9; k++) for (u = 1; u <= 3000; u++) print "u" u ",i" ((u * 7 + k * 5) % 40 + (u % 2) * 40) "," 1 + (u + k) % 5
}' >"$tmp/ratings.csv"
cat >"$tmp/run.yaml" <<E
data: {path: $tmp/data}
model: {hidden: [12], latent: 6}
train: {epochs: 1, batch_size: 100}
output: {path: $tmp/run}
E
"$bin/vaecf-preprocess" --input "$tmp/ratings.csv" --output "$tmp/data" --heldout-users 70 --shards 3 >/dev/null &&
    "$bin/vaecf-train" --config "$tmp/run.yaml" >/dev/null || exit 1
recommend() { timeout 120 "$bin/vaecf-recommend" --checkpoint "$tmp/run/best.h5" "$@" 2>"$tmp/stderr"; }

# ---- the same lists, however the users come ----
recommend --input "$tmp/ratings.csv" --top-k 5 --output "$tmp/recs.csv"
check "3000 users" [ "$(sed 1d "$tmp/recs.csv" | wc -l)" = 15000 ]
check "in the order of the input" cmp -s <(sed 1d "$tmp/recs.csv" | cut -d, -f1 | uniq) <(cut -d, -f1 "$tmp/ratings.csv" | awk '!seen[$0]++')
check "it tells how many" grep -q '3000 users, 27000 known interactions, 0 with unknown items' "$tmp/stderr"
recommend --input "$tmp/ratings.csv" --input "$tmp/ratings.csv" --input "$tmp/ratings.csv" --memory 1 --top-k 5 \
    --output "$tmp/files.csv" # more than 1 MB of rows
check "through temporary files" cmp -s "$tmp/recs.csv" "$tmp/files.csv"
sort -s -t, -k1.2,1n "$tmp/ratings.csv" >"$tmp/sorted.csv"
recommend --input "$tmp/sorted.csv" --top-k 5 --grouped --output "$tmp/grouped.csv"
check "grouped" cmp -s "$tmp/recs.csv" "$tmp/grouped.csv"
head -n 13000 "$tmp/sorted.csv" >"$tmp/part1.csv"
sed 1,13000d "$tmp/sorted.csv" | gzip >"$tmp/part2.csv.gz"
recommend --input "$tmp/part1.csv" --input "$tmp/part2.csv.gz" --top-k 5 --grouped >"$tmp/parts.csv"
check "a user's rows in two files" cmp -s "$tmp/recs.csv" "$tmp/parts.csv"
for ranks in 2 5; do
    timeout 120 mpirun -n $ranks "$bin/vaecf-recommend" --checkpoint "$tmp/run/best.h5" --input "$tmp/ratings.csv" --top-k 5 \
        --output "$tmp/ranks.csv" 2>"$tmp/stderr"
    check "$ranks ranks" cmp -s "$tmp/recs.csv" "$tmp/ranks.csv"
done
for precision in bf16 fp16; do
    recommend --input "$tmp/ratings.csv" --top-k 5 --precision $precision --output "$tmp/half.csv"
    check "$precision weights: nearly the same lists" [ "$(comm -12 <(cut -d, -f1-3 "$tmp/recs.csv" | sort) <(cut -d, -f1-3 "$tmp/half.csv" | sort) | wc -l)" -gt 12000 ]
done
recommend --users-from "$tmp/data" --split test --top-k 5 --output "$tmp/test.csv"
check "the test users" [ "$(sed 1d "$tmp/test.csv" | cut -d, -f1 | uniq | wc -l)" = 70 ]
recommend --users-from "$tmp/data" --top-k 5 --output "$tmp/train.csv"
check "the training users" [ "$(sed 1d "$tmp/train.csv" | cut -d, -f1 | uniq | wc -l)" = 2860 ]
check "have the lists of their rows" cmp -s <(sort "$tmp/train.csv") <(grep -Ff <(cut -d, -f1,2 "$tmp/train.csv") "$tmp/recs.csv" | sort)

# ---- formats ----
printf 'zoe,i3\n"a\\""b",none\nzoe,i41\n' >"$tmp/few.csv"
recommend --input "$tmp/few.csv" --top-k 2 --output "$tmp/recs.jsonl"
check "JSON lines by the name" grep -qE '^\{"user":"zoe","source":"model","items":\["i[0-9]+","i[0-9]+"\],"scores":\[[-0-9.e]+,[-0-9.e]+\]\}$' "$tmp/recs.jsonl"
check "a user without a known item" grep -qE '^\{"user":"a\\\\\\"b","source":"popularity","items":\["i[0-9]+","i[0-9]+"\],"scores":\[[0-9]+,[0-9]+\]\}$' "$tmp/recs.jsonl"
recommend --input "$tmp/few.csv" --top-k 2 --format jsonl >"$tmp/stdout"
check "and by --format" cmp -s "$tmp/stdout" "$tmp/recs.jsonl"
recommend --input "$tmp/few.csv" --output "$tmp/recs.h5"
check "HDF5 by the name" [ "$(head -c 4 "$tmp/recs.h5" | tail -c 3)" = HDF ]

# ---- which items ----
recommend --input "$tmp/few.csv" --include-seen --top-k 100 --score probability --output "$tmp/all.csv"
check "probabilities sum to 1" awk -F, '/^zoe/ { sum += $4; n++ } END { exit !(n == 80 && sum > 0.9999 && sum < 1.0001) }' "$tmp/all.csv"
printf 'i7\r\n\ni50\nnone\n' >"$tmp/some.txt"
recommend --input "$tmp/few.csv" --allow "$tmp/some.txt" --output "$tmp/allowed.csv"
check "--allow" [ "$(sed 1d "$tmp/allowed.csv" | cut -d, -f3 | sort | uniq -c | tr -s ' ' | tr '\n' ';')" = " 2 i50; 2 i7;" ]
check "it tells what is not in the catalogue" grep -q '^vaecf-recommend: 1 items of --allow' "$tmp/stderr"
recommend --input "$tmp/few.csv" --deny "$tmp/some.txt" --include-seen --top-k 100 --output "$tmp/denied.csv"
check "--deny" [ "$(grep -c '^zoe' "$tmp/denied.csv") $(grep -cE ',i(7|50),' "$tmp/denied.csv")" = "78 0" ]
printf 'zoe,i3\n' >"$tmp/zoe.csv"
recommend --input "$tmp/zoe.csv" --input "$tmp/few.csv" --min-count 1000000000 --output "$tmp/none.csv"
check "--min-count that leaves nothing: 65" [ $? = 65 ]
least=$(grep ',popularity$' "$tmp/all.csv" | cut -d, -f4 | sort -n | head -n 40 | tail -n 1)
recommend --input "$tmp/few.csv" --min-count "$least" --include-seen --top-k 100 --output "$tmp/common.csv"
check "--min-count" [ "$(grep ',popularity$' "$tmp/all.csv" | awk -F, -v l="$least" '$4 >= l' | wc -l)" = "$(grep -c '^zoe' "$tmp/common.csv")" ]
recommend --input "$tmp/few.csv" --include-seen --exclude-seen --top-k 100 --output "$tmp/all.csv"
check "--exclude-seen" [ "$(grep -c '^zoe' "$tmp/all.csv")" = 78 ]

# ---- one user ----
printf 'id,title\ni3,The third\ni41,A very long title that goes on and on and does not end before the line does at all\n' >"$tmp/items.csv"
COLUMNS=70 recommend --input "$tmp/few.csv" --explain zoe --items "$tmp/items.csv" --include-seen --top-k 80 >"$tmp/stdout"
check "explained: history and list" [ "$(grep -c 'The third' "$tmp/stdout") $(grep -cE '^ *[0-9]+ +[-0-9.]+ +[0-9.]+ +[0-9,]+  i[0-9]+' "$tmp/stdout")" = "2 80" ]
check "within the terminal" awk 'length($0) > 72 { exit 1 }' "$tmp/stdout"
recommend --input "$tmp/few.csv" --explain 'a\"b' >"$tmp/stdout"
check "explained: a user without a known item" grep -q 'none of the history is known' "$tmp/stdout"

recommend --benchmark --benchmark-seconds 0.05 --input "$tmp/few.csv" --output "$tmp/latency.csv" >"$tmp/stdout"
check "the benchmark's table" [ "$(grep -cE '^fp32,[0-9]+,[0-9]+,[0-9]+(,[0-9.]+){8}$' "$tmp/latency.csv") $(grep -cE '^ *[0-9]+ +[0-9]+( +[0-9.]+){7}$' "$tmp/stdout")" = "13 13" ]

# ---- what is refused ----
# fails NAME CODE PATTERN OPTION...
fails() {
    local name=$1 code=$2 pattern=$3 status
    shift 3
    recommend "$@" >/dev/null
    status=$?
    if [ $status = "$code" ] && [ "$(wc -l <"$tmp/stderr")" = 1 ] && grep -qF -- "$pattern" "$tmp/stderr"; then
        ok "$name: $code"
    else not_ok "$name: $status, $(head -n 3 "$tmp/stderr")"; fi
}
fails "a user who is back" 65 'ratings.csv:3001: user "u1" is back' --input "$tmp/ratings.csv" --grouped --output "$tmp/x.csv"
check "no half output" [ ! -e "$tmp/x.csv" ]
printf 'u1,i3\nu1,i\0004\n' >"$tmp/nul.csv"
fails "an id with a NUL" 65 nul.csv:2 --input "$tmp/nul.csv"
printf 'u1\nu2\n' >"$tmp/one.csv"
fails "a single column" 65 one.csv: --input "$tmp/one.csv"
printf 'u1,i3\nu2,"i3\n' >"$tmp/quote.csv"
fails "an open quote" 65 quote.csv:2 --input "$tmp/quote.csv"
gzip -c "$tmp/ratings.csv" | head -c 2000 >"$tmp/cut.csv.gz"
fails "a gzip file cut short" 65 cut.csv.gz --input "$tmp/cut.csv.gz"
fails "the same, grouped" 65 cut.csv.gz --input "$tmp/cut.csv.gz" --grouped
fails "a directory" 66 "$tmp" --input "$tmp"
fails "no such list" 66 no.txt --input "$tmp/few.csv" --allow "$tmp/no.txt"
fails "a list of nothing known" 65 few.csv --input "$tmp/few.csv" --deny "$tmp/few.csv"
fails "a user who is not there" 65 nobody --input "$tmp/few.csv" --explain nobody
fails "HDF5 to standard output" 64 --output --input "$tmp/few.csv" --format hdf5
fails "an unknown format" 64 "csv, jsonl or hdf5" --input "$tmp/few.csv" --format xml
fails "two sources of users" 64 --users-from --input "$tmp/few.csv" --users-from "$tmp/data"
fails "--split alone" 64 --users-from --input "$tmp/few.csv" --split test
fails "a split" 64 "train, validation or test" --users-from "$tmp/data" --split all
fails "no such data set" 66 nodata --users-from "$tmp/nodata"
grep '^u[0-9]*[13579],' "$tmp/ratings.csv" >"$tmp/odd.csv"
"$bin/vaecf-preprocess" --input "$tmp/odd.csv" --output "$tmp/data2" --heldout-users 5 >/dev/null
fails "another data set" 65 data2 --users-from "$tmp/data2"
timeout 120 mpirun -n 3 "$bin/vaecf-recommend" --checkpoint "$tmp/run/best.h5" --input "$tmp/ratings.csv" --grouped \
    --output "$tmp/x.csv" 2>"$tmp/stderr"
status=$?
check "an error in the middle ends all ranks: 65" [ $status = 65 ]
check "and is told once" [ "$(grep -c 'error: ' "$tmp/stderr")" = 1 ]
exit $failed
