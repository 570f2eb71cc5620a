#!/bin/bash
# vaecf-synthesize: the rows it promises, the same on any number of threads, with the structure that was planted.
# shellcheck source=tests/common.sh
. tests/common.sh
synthesize=${BIN:-bin}/vaecf-synthesize
small=(--users 500 --items 400 --interactions 20000 --groups 4 --seed 5)

# is NAME VALUE WANTED
is() {
    if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1: wanted $3, got $2"; fi
}
# fails NAME CODE PATTERN ARGUMENT...: exit code and one line that matches
fails() {
    local name=$1 code=$2 pattern=$3 status
    shift 3
    timeout 60 "$synthesize" "$@" >/dev/null 2>"$tmp/stderr"
    status=$?
    if [ $status = "$code" ] && [ "$(wc -l <"$tmp/stderr")" = 1 ] &&
        grep -qE -- "^vaecf-synthesize: error: .*($pattern)" "$tmp/stderr"; then
        ok "$name: $code"
    else
        not_ok "$name: wanted $code and '$pattern', got $status and: $(cat "$tmp/stderr")"
    fi
}

"$synthesize" "${small[@]}" --truth "$tmp/truth.csv" >"$tmp/a.csv" || not_ok "a small set"
is "header" "$(head -n 1 "$tmp/a.csv")" userId,movieId,rating,timestamp
is "rows" "$(wc -l <"$tmp/a.csv")" 20001
is "no pair twice" "$(tail -n +2 "$tmp/a.csv" | cut -d, -f1,2 | sort -u | wc -l)" 20000
is "every row is as it should be" \
    "$(tail -n +2 "$tmp/a.csv" | grep -cvE '^[1-9][0-9]{0,2},[1-9][0-9]{0,2},([1-4]\.[05]|0\.5|5\.0),[0-9]{9,10}$')" 0
is "sorted by user and item" "$(tail -n +2 "$tmp/a.csv" | sort -t, -k1,1n -k2,2n -c 2>&1)" ""
is "a quarter of the items at most" \
    "$(tail -n +2 "$tmp/a.csv" | cut -d, -f1 | sort | uniq -c | awk '$1 > 100' | wc -l)" 0
is "the truth has every item" "$(tail -n +2 "$tmp/truth.csv" | sort -t, -k1,1n | awk -F, '$1 == NR' | wc -l)" 400
# chance would be a quarter and a little
if awk -F, 'FNR == 1 { file++; next }
    file == 1 { group[$1] = $3; next }
    { n[$1]++; of[$1, group[$2]]++; stars[$1, group[$2]] += $3 }
    END {
        for (u in n) {
            if (n[u] < 20) continue
            best = 1
            for (g = 2; g <= 4; g++) if (of[u, g] > of[u, best]) best = g
            mine += of[u, best]; mine_stars += stars[u, best]; users++
            for (g = 1; g <= 4; g++) if (g != best) { others += of[u, g]; others_stars += stars[u, g] }
        }
        share = mine / (mine + others); more = mine_stars / mine - others_stars / others
        print users " users, share " share ", stars more " more
        exit !(users > 100 && share > 0.4 && share < 0.75 && more > 0.5)
    }' "$tmp/truth.csv" "$tmp/a.csv" >"$tmp/told"; then ok "groups: $(cat "$tmp/told")"; else
    not_ok "groups: $(cat "$tmp/told")"
fi
top() { tail -n +2 | cut -d, -f2 | sort | uniq -c | sort -nr | awk 'NR <= 40 { top += $1 } { all += $1 } END { print int(100 * top / all) }'; }
steep=$("$synthesize" "${small[@]}" --exponent 1.5 | top)
flat=$("$synthesize" "${small[@]}" --exponent 0 | top)
if [ "$flat" -lt 15 ] && [ "$steep" -gt 30 ]; then ok "popularity: the top tenth has $steep%, without exponent $flat%"; else
    not_ok "popularity: the top tenth has $steep%, without exponent $flat%"
fi

for threads in 1 3; do
    is "$threads threads" "$(OMP_NUM_THREADS=$threads "$synthesize" "${small[@]}" | cksum)" "$(cksum <"$tmp/a.csv")"
done
if [ "$("$synthesize" "${small[@]}" --seed 6 | cksum)" != "$(cksum <"$tmp/a.csv")" ]; then ok "another seed"; else
    not_ok "another seed"
fi
"$synthesize" "${small[@]}" --output "$tmp/b.csv"
is "a file" "$(cksum <"$tmp/b.csv")" "$(cksum <"$tmp/a.csv")"
"$synthesize" "${small[@]}" --output "$tmp/b.csv.gz"
is "compressed" "$(gunzip <"$tmp/b.csv.gz" | cksum)" "$(cksum <"$tmp/a.csv")"
is "text ids" "$("$synthesize" "${small[@]}" --ids text | tr -d ui | tail -n +2 | cksum)" "$(tail -n +2 "$tmp/a.csv" | cksum)"
is "as much as there is room for" "$("$synthesize" -u 7 -i 40 -n 70 --groups 1 | wc -l)" 71
is "many blocks" "$("$synthesize" -u 20000 -i 50 -n 200000 | tail -n +2 | cut -d, -f1,2 | uniq | wc -l)" 200000
is "no temporary file is left" "$(find "$tmp" -name '*.tmp')" ""

fails "more than there is room for" 64 "want at most 70" -u 7 -i 40 -n 71
fails "more groups than items" 64 "--groups 41: " -i 40 --groups 41 -n 10
for bad in "users 0" "items x" "interactions -1" "groups 0" "affinity 2" "exponent nan" "ids words" "seed -1"; do
    fails "--$bad" 64 "--${bad/ / }: want" "--${bad% *}" "${bad#* }"
done
fails "a stray word" 64 "word: want only options" word
fails "an unknown option" 64 "--nonsense: unknown option" --nonsense
fails "no directory" 73 "$tmp/none/a.csv: cannot create" -o "$tmp/none/a.csv"
if [ -w /dev/full ]; then fails "a full disk" 74 "/dev/full: cannot write: No space" "${small[@]}" -o /dev/full; fi
if "$synthesize" --help | grep -q -- "--truth" && "$synthesize" --version | grep -q "^vaecf-synthesize [0-9]"; then
    ok "--help, --version"
else
    not_ok "--help, --version"
fi
exit $failed
