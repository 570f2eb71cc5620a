#!/bin/bash
# Several files for one --input: Spark's parts, the parts of split -l, files with columns in another order.
# shellcheck source=tests/common.sh
. tests/common.sh
pre=${BIN:-bin}/vaecf-preprocess
files=tests/files

# run FILE...: each an --input; sets status and `rows`, which is the dataset's fingerprint
run() {
    local file inputs=()
    for file in "$@"; do inputs+=(--input "$file"); done
    rm -rf "$tmp/out"
    timeout 100 "$pre" "${inputs[@]}" "${options[@]}" --output "$tmp/out" --heldout-users 0 --min-user-items 0 \
        >"$tmp/stdout" 2>"$tmp/stderr"
    status=$?
    rows=$(sed -n 's/.*fingerprint //p' "$tmp/stdout")
}

# same NAME FILE...: the same dataset as the one of the file `whole`
same() {
    local name=$1 wanted
    shift
    run "$tmp/whole.csv"
    wanted=$rows
    run "$@"
    if [ "$status" = 0 ] && [ -n "$wanted" ] && [ "$rows" = "$wanted" ]; then ok "$name"; else
        not_ok "$name: wanted $wanted, got $rows ($status)"
        cat "$tmp/stderr"
    fi
}

# refused NAME WORDS FILE...: 65, one line that has the words, no dataset
refused() {
    local name=$1 words=$2
    shift 2
    run "$@"
    if [ "$status" = 65 ] && [ "$(grep -c 'error: ' "$tmp/stderr")" = 1 ] && grep -qF -- "$words" "$tmp/stderr" &&
        [ ! -e "$tmp/out" ]; then
        ok "$name: 65"
    else
        not_ok "$name: wanted 65 and '$words', got $status and:"
        cat "$tmp/stdout" "$tmp/stderr"
    fi
}

options=()
cat $files/part-1.csv $files/part-2.csv >"$tmp/whole.csv"
tail -n +2 $files/part-1.csv >"$tmp/part-1-bare.csv"
{ head -n 1 $files/part-1.csv && cat $files/part-2.csv; } >"$tmp/part-2-headed.csv"

same "a header in the first part only" $files/part-1.csv $files/part-2.csv
same "a header in each" $files/part-1.csv "$tmp/part-2-headed.csv"
same "a header in none" "$tmp/part-1-bare.csv" $files/part-2.csv
same "the parts in another order" $files/part-2.csv $files/part-1.csv
gzip -c $files/part-2.csv >"$tmp/part-2.csv.gz"
same "one of them compressed" $files/part-1.csv "$tmp/part-2.csv.gz"
tr ',' '\t' <$files/part-2.csv >"$tmp/part-2.tsv"
same "with another delimiter" $files/part-1.csv "$tmp/part-2.tsv"
: >"$tmp/empty.csv"
same "one of them empty" $files/part-1.csv "$tmp/empty.csv" $files/part-2.csv
head -n 1 $files/part-1.csv >"$tmp/header.csv"
same "one of them a header alone" "$tmp/header.csv" "$tmp/part-2-headed.csv" $files/part-1.csv
{ echo user,item,rating,extra && sed '1d; s/$/,x/' $files/part-1.csv; } >"$tmp/part-1-wider.csv"
same "a column more in one, by its header" "$tmp/part-1-wider.csv" "$tmp/part-2-headed.csv"

# Each by its own header; without one nothing says which column is the user.
{ cat "$tmp/whole.csv" && awk -F, 'NR > 1 { print $2 "," $1 "," $3 }' $files/part-other-order.csv; } >"$tmp/w" &&
    mv "$tmp/w" "$tmp/whole.csv"
same "a header in each, columns in another order" $files/part-1.csv $files/part-2.csv $files/part-other-order.csv
refused "a header with other columns in the first part only" part-2-swapped.csv $files/part-1-swapped.csv \
    $files/part-2-swapped.csv
options=(--user-column user --item-column item)
refused "columns by name, and a part without a header" part-2.csv $files/part-1.csv $files/part-2.csv
options=(--user-column 3 --item-column 2 --rating-column 1)
awk -F, 'NR > 1 { print $3 "," $2 "," $1 }' $files/part-1-swapped.csv >"$tmp/part-1-turned.csv"
run $files/part-1-swapped.csv $files/part-2-swapped.csv
turned=$rows
options=()
awk -F, '{ print $3 "," $2 "," $1 }' $files/part-2-swapped.csv >"$tmp/part-2-turned.csv"
run "$tmp/part-1-turned.csv" "$tmp/part-2-turned.csv"
if [ -n "$rows" ] && [ "$rows" = "$turned" ]; then ok "columns by number"; else
    not_ok "columns by number: $turned, $rows"
fi
[ "$failed" = 0 ]
