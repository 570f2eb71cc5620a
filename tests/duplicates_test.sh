#!/bin/bash
# --duplicates of vaecf-preprocess and vaecf-recommend: every rule gives the pairs that a plain reading of it gives
# (in awk), on any number of ranks, with little memory, and but for two rules from rows and files in any order.
# shellcheck source=tests/common.sh
. tests/common.sh
export VAECF_DEVICE=cpu
cd "$tmp" || exit 71
bin=$(cd "$OLDPWD/$bin" && pwd)
pre() { timeout 120 "$@" --heldout-users 40 --min-user-items 0 --shards 2 --seed 3 >stdout 2>stderr; }
fingerprint() { sed -n 's/.*fingerprint //p' stdout; }
header=userId,itemId,rating,timestamp

# 300 users, 40 items, most pairs several times, with equal times
awk 'BEGIN {
    for (s = 7; n < 30000; n++) {
        for (k = 0; k < 4; k++) r[k] = s = (s * 16807) % 2147483647
        print "u" r[0] % 300 ",i" r[1] % 40 "," r[2] % 9 / 2 + 0.5 "," 1200000000 + r[3] % 20 * 1000000
    }
}' >rows
head -n 13000 rows | sed "1i $header" >a.csv
tail -n +13001 rows | sed "1i $header" >b.csv
sort -t, -k3,4 rows >other
head -n 20000 other | sed "1i $header" >other-a.csv
tail -n +20001 other | sed "1i $header" >other-b.csv
sort -s -t, -k1,1 rows | sed "1i $header" >grouped.csv # the rows of a pair keep their order

# reference RULE: the pairs whose value is at least 4
reference() {
    awk -F, -v OFS=, -v rule="$1" '
        { p = $1 OFS $2; r = $3; first = !(p in value) }
        first { value[p] = r; time[p] = $4; next }
        rule == "newest" && ($4 > time[p] || ($4 == time[p] && r > value[p])) { value[p] = r; time[p] = $4 }
        rule == "last" || (rule == "max" && r > value[p]) || (rule == "min" && r < value[p]) { value[p] = r }
        rule == "sum" { value[p] += r }
        END { for (p in value) if (value[p] >= 4) print p }' rows
}

cat >run.yaml <<Y
data: {path: model}
model: {hidden: [8], latent: 4}
train: {epochs: 1, batch_size: 100}
output: {path: run}
Y
{ "$bin/vaecf-preprocess" --input a.csv --output model --heldout-users 30 && "$bin/vaecf-train" --config run.yaml; } >/dev/null || exit 1
recommend() { timeout 120 "$bin/vaecf-recommend" --checkpoint run/best.h5 --min-rating 4 --top-k 5 "$@" 2>stderr; }

# same NAME RANKS ARGUMENT...: the shards of $rule, byte for byte
same() {
    local name=$1 ranks=$2
    shift 2
    rm -rf other.out
    pre mpirun -n "$ranks" "$bin/vaecf-preprocess" "$@" --min-rating 4 --duplicates "$rule" --output other.out
    for shard in out/shard-*; do
        check "$rule, $name: $(basename "$shard")" cmp -s "$shard" "other.out/$(basename "$shard")"
    done
}

: >fingerprints
for rule in newest last max min first sum; do
    rm -rf out plain.out
    reference $rule >wanted.csv
    pre "$bin/vaecf-preprocess" --input wanted.csv --output plain.out
    expected=$(fingerprint)
    echo "$expected" >>fingerprints
    pre "$bin/vaecf-preprocess" --input a.csv --input b.csv --min-rating 4 --duplicates $rule --output out
    check "$rule: the pairs" [ -n "$expected" -a "$(fingerprint)" = "$expected" ]
    check "$rule: in the report" grep -qx "rows,rule for duplicates,$rule" out/report.csv
    same "2 ranks" 2 --input a.csv --input b.csv
    same "3 ranks, little memory" 3 --input a.csv --input b.csv --memory 64M --tmp .
    if [[ $rule != last && $rule != first ]]; then
        same "other rows, other files" 1 --input other-b.csv --input other-a.csv
        same "other rows, other files, 3 ranks" 3 --input other-b.csv --input other-a.csv
    fi
    # lists of the users who have a wanted item; the others get the popularity list
    recommend --input wanted.csv --min-rating 0 | sort >wanted.lists
    recommend --input a.csv --input b.csv --duplicates $rule | grep ',model$\|^user' | sort >lists
    check "$rule: vaecf-recommend" cmp -s wanted.lists lists
    check "$rule: that has lists" [ "$(wc -l <lists)" -gt 1000 ]
    recommend --input a.csv --input b.csv --memory 1 --duplicates $rule | grep ',model$\|^user' | sort >lists
    check "$rule: through temporary files" cmp -s wanted.lists lists
    recommend --input grouped.csv --grouped --duplicates $rule | grep ',model$\|^user' | sort >lists
    check "$rule: --grouped" cmp -s wanted.lists lists
done

check "the rules differ" [ "$(sort -u fingerprints | wc -l)" = 6 ]

# ---- without --min-rating the rule makes no difference ----
cut -d, -f1,2 rows | sort -u >wanted.csv
pre "$bin/vaecf-preprocess" --input wanted.csv --output all.out
expected=$(fingerprint)
for rule in newest sum; do
    pre "$bin/vaecf-preprocess" --input a.csv --input b.csv --duplicates $rule --output all.out --force
    check "$rule, all ratings" [ "$(fingerprint)" = "$expected" ]
done

# ---- the default ----
# default NAME RULE ARGUMENT...
default() {
    local name=$1 rule=$2
    shift 2
    pre mpirun -n 2 "$bin/vaecf-preprocess" "$@" --min-rating 4 --output default.out --force
    check "$name: $rule" grep -qx "rows,rule for duplicates,$rule" default.out/report.csv
}
: >empty.csv
cut -d, -f1-3 a.csv >untimed.csv
default "with times" newest --input a.csv
default "without" last --input untimed.csv
default "the first file" last --input untimed.csv --input a.csv
default "the first with rows" newest --input empty.csv --input a.csv --input empty.csv
default "standard input" newest --input - <a.csv
pre "$bin/vaecf-preprocess" --input a.csv --input untimed.csv --output default.out --force
check "a file without times, all ratings" [ $? = 0 ]

# ---- what is refused ----
# fails NAME CODE PATTERN COMMAND...
fails() {
    local name=$1 code=$2 pattern=$3 status
    shift 3
    pre "$@"
    status=$?
    if [ $status = "$code" ] && [ "$(grep -c 'error: ' stderr)" = 1 ] && grep -qE "error: .*$pattern" stderr; then ok "$name"; else
        not_ok "$name: $status, $(head -n 3 stderr)"
    fi
}
none='untimed.csv: has no times.*--time-column.*--duplicates'
for ranks in 1 3; do
    fails "a file without times, $ranks ranks" 65 "$none" mpirun -n $ranks "$bin/vaecf-preprocess" --input a.csv \
        --input untimed.csv --min-rating 4 --output none.out
done
fails "newest without times" 65 "$none" "$bin/vaecf-preprocess" --input untimed.csv --duplicates newest --output none.out
fails "an unknown rule" 64 'newest, last, max, min, first or sum' "$bin/vaecf-preprocess" --input a.csv --duplicates best \
    --output none.out
recommend --input a.csv --input untimed.csv >/dev/null
check "vaecf-recommend: a file without times" [ $? = 65 -a "$(grep -cE "error: $none" stderr)" = 1 ]
recommend --input untimed.csv --input a.csv --duplicates max >lists
check "that another rule does without" [ $? = 0 ]
exit $failed
