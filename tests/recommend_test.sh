#!/bin/bash
# vaecf-recommend: order, ties and what is left out; unknown items and users; odd ids; where it writes.
# shellcheck source=tests/common.sh
. tests/common.sh

# 60 users of two tastes; ids with a comma, a quote and UTF-8
awk 'BEGIN {
    print "user,item"
    for (u = 1; u <= 60; u++) for (k = 0; k < 9; k++) print "u" u ",i" ((u * 7 + k * 5) % 12 + (u % 2) * 12)
    for (u = 1; u <= 30; u++) { print "u" u ",\"a,b\""; print "u" u ",\"say \"\"so\"\"\""; print "u" u ",naïve" }
}' >"$tmp/ratings.csv"
cat >"$tmp/run.yaml" <<E
data: {path: $tmp/data}
model: {hidden: [12], latent: 6}
train: {epochs: 3, batch_size: 20}
output: {path: $tmp/run}
E
"$bin/vaecf-preprocess" --input "$tmp/ratings.csv" --output "$tmp/data" --heldout-users 5 >/dev/null &&
    "$bin/vaecf-train" --config "$tmp/run.yaml" >/dev/null || exit 1
items=$("$bin/vaecf-preprocess" --input "$tmp/ratings.csv" --output "$tmp/data2" --heldout-users 5 |
    sed -nE 's/^kept: .* ([0-9]+) items.*/\1/p')
recommend() { timeout 60 "$bin/vaecf-recommend" --checkpoint "$tmp/run/best.h5" "$@" 2>"$tmp/stderr"; }

cat >"$tmp/history.csv" <<'E'
user,item
zoe,i3
"Smith, J.",i15
zoe,i5
stranger,no such item
zoe,i3
E
recommend --input "$tmp/history.csv" --top-k 4 --output "$tmp/recs.csv"
if [ "$(head -n 1 "$tmp/recs.csv")" = user,rank,item,score,source ]; then ok "header"; else not_ok "header"; fi
if [ "$(sed 1d "$tmp/recs.csv" | grep -oE '^("[^"]*"|[^,]*)' | uniq | tr '\n' ';')" = 'zoe;"Smith, J.";stranger;' ]; then
    ok "users in the order of the input"
else not_ok "order: $(cat "$tmp/recs.csv")"; fi
if [ "$(grep -c . "$tmp/recs.csv")" = 13 ] && [ "$(grep '^zoe' "$tmp/recs.csv" | cut -d, -f2 | tr '\n' ' ')" = '1 2 3 4 ' ]; then
    ok "4 items each, ranked"
else not_ok "4 items each"; fi
if ! grep -qE '^zoe,[0-9]+,i(3|5),' "$tmp/recs.csv"; then ok "what was had is left out"; else not_ok "seen"; fi
if [ "$(grep -c '^stranger,.*,popularity$' "$tmp/recs.csv")" = 4 ] && [ "$(grep -c ',popularity$' "$tmp/recs.csv")" = 4 ]; then
    ok "a user without a known item gets the popularity list"
else not_ok "popularity"; fi
if [ "$(grep '^stranger' "$tmp/recs.csv" | awk -F, '{ print $(NF - 1) }' | sort -c -nr 2>&1)" = "" ]; then ok "by falling count"; else not_ok "count"; fi
if grep -q '4 known interactions, 1 with unknown items; 1 users' "$tmp/stderr"; then ok "tells"; else not_ok "tells: $(cat "$tmp/stderr")"; fi

recommend --input "$tmp/history.csv" --top-k 1000 --output "$tmp/all.csv"
if [ "$(grep -c '^zoe,' "$tmp/all.csv")" = $((items - 2)) ] && grep -qF ',"a,b",' "$tmp/all.csv" &&
    grep -qF ',"say ""so""",' "$tmp/all.csv" && grep -qF ',naïve,' "$tmp/all.csv"; then
    ok "the whole catalogue but what was had; ids quoted"
else not_ok "the whole catalogue of $items"; fi
if grep '^zoe,' "$tmp/all.csv" | sed -E 's/"[^,]*,b"/x/' | cut -d, -f4 | sort -c -gr; then ok "by falling score"; else not_ok "score"; fi
recommend --input "$tmp/history.csv" --top-k 1000 --include-seen --output "$tmp/all.csv"
if [ "$(grep -c '^zoe,' "$tmp/all.csv")" = "$items" ]; then ok "--include-seen"; else not_ok "--include-seen"; fi
recommend --input - --top-k 4 <"$tmp/history.csv" >"$tmp/stdout.csv"
if cmp "$tmp/stdout.csv" "$tmp/recs.csv"; then ok "from standard input to standard output"; else not_ok "stdin, stdout"; fi
printf 'zoe;i3;5\nzoe;i5;1\n' | recommend --input - --delimiter ';' --min-rating 4 --top-k 1000 --output "$tmp/rated.csv"
if [ "$(grep -c '^zoe,' "$tmp/rated.csv")" = $((items - 1)) ]; then ok "--min-rating, --delimiter"; else not_ok "--min-rating"; fi

# the same list as alone (scores agree up to rounding)
sed -n '1p;/^zoe/p' "$tmp/history.csv" >"$tmp/one.csv"
recommend --input "$tmp/one.csv" --top-k 4 --output "$tmp/one_recs.csv"
if cmp <(grep '^zoe' "$tmp/recs.csv" | cut -d, -f1-3) <(grep '^zoe' "$tmp/one_recs.csv" | cut -d, -f1-3); then ok "alone as among others"; else not_ok "alone"; fi

# an empty deny list denies nothing; an empty allow list allows nothing
: >"$tmp/nothing.txt"
recommend --input "$tmp/history.csv" --top-k 4 --deny "$tmp/nothing.txt" --output "$tmp/undenied.csv"
if cmp "$tmp/recs.csv" "$tmp/undenied.csv"; then ok "an empty --deny"; else not_ok "an empty --deny"; fi

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
: >"$tmp/empty.csv"
fails "an empty history" 65 empty.csv --input "$tmp/empty.csv"
fails "an empty --allow" 65 nothing.txt --input "$tmp/history.csv" --allow "$tmp/nothing.txt"
fails "no input" 64 --input
fails "top-k 1.5" 64 top-k --input "$tmp/history.csv" --top-k 1.5
fails "a word" 64 word --input "$tmp/history.csv" word
fails "an unknown option" 64 --wrong --input "$tmp/history.csv" --wrong
fails "no such directory" 73 none/x.csv --input "$tmp/history.csv" --output "$tmp/none/x.csv"
fails "a data set is no checkpoint" 65 dataset.h5 --checkpoint "$tmp/data/dataset.h5" --input "$tmp/history.csv"
exit $failed
