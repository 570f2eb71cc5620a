#!/bin/bash
# Plots what runs have written, with gnuplot, as NAME.png and NAME.svg.
#
#   jobs/plot.sh curves RUN...              loss and validation metric by epoch, of one or many run directories
#   jobs/plot.sh sweep DIR KEY [METRIC]     a parameter against a column of DIR/runs.csv, which vaecf-collect writes
#   jobs/plot.sh scaling FILE.csv X [GROUP] users_per_second by column X (ranks, nodes, gpus), a line a GROUP
#
#   -o NAME     first argument: the name (default curves, sweep or scaling, in the directory you are in)
#   -y COLUMN   of scaling, instead of users_per_second
#
# Colours are told apart by eyes that see fewer of them, and lines also by their dashes on paper without any.
set -euo pipefail

fail() {
    echo "error: ${*:2}" >&2
    exit "$1"
}
name='' y=users_per_second
while getopts o:y: option; do
    case $option in
    o) name=${OPTARG%.png} && name=${name%.svg} ;;
    y) y=$OPTARG ;;
    *) fail 64 "options: -o NAME, -y COLUMN" ;;
    esac
done
shift $((OPTIND - 1))
what=${1:-}
[ $# -ge 2 ] || fail 64 "want: plot.sh curves RUN..., sweep DIR KEY [METRIC] or scaling FILE.csv X [GROUP]"
shift
command -v gnuplot >/dev/null || fail 69 "no gnuplot (Debian: gnuplot-nox fonts-dejavu-core; or a module, Spack, conda-forge)"
name=${name:-$what}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# columns FILE COLUMN...: those columns of a CSV file, tab-separated, without the head
columns() {
    awk -v names="$(printf '%s\n' "${@:2}")" '
        # fields may be quoted, as "[600, 200]" is
        function split_csv(line, f,    n) {
            for (n = 0; line != "" || n == 0; line = substr(line, RLENGTH + 2)) {
                if (match(line, /^"([^"]|"")*"/)) { f[++n] = substr(line, 2, RLENGTH - 2); gsub(/""/, "\"", f[n]) }
                else { match(line, /^[^,]*/); f[++n] = substr(line, 1, RLENGTH) }
            }
            return n
        }
        BEGIN { wanted = split(names, want, "\n") }
        { sub(/\r$/, ""); n = split_csv($0, f) }
        NR == 1 {
            for (i = 1; i <= n; i++) at[f[i]] = i
            for (w = 1; w <= wanted; w++) if (!(want[w] in at)) {
                for (i = 1; i <= n; i++) list = list " " f[i]
                print "error: " FILENAME ": no column " want[w] "; there are" list >"/dev/stderr"
                exit 65
            }
            next
        }
        { for (w = 1; w <= wanted; w++) printf "%s%s", f[at[want[w]]], w < wanted ? "\t" : "\n"
          for (i in f) delete f[i] }' "$1"
}
# numbers FILE: the different ones of its first column, for `set xtics`
numbers() { cut -f1 "$1" | sort -gu | paste -sd,; }
# text for gnuplot: in single quotes
quote() { printf "'%s'" "${1//\'/\'\'}"; }

# draw WIDTH HEIGHT: the gnuplot commands of standard input, twice
draw() {
    cat >"$work/commands"
    for format in png svg; do
        {
            if [ $format = png ]; then
                echo "set terminal pngcairo size $((2 * $1)),$((2 * $2)) fontscale 1.5 linewidth 2 pointscale 2 font 'DejaVu Sans,12' noenhanced"
            else
                echo "set terminal svg size $1,$2 font 'DejaVu Sans,12' noenhanced background 'white'"
            fi
            echo "set output $(quote "$name.$format")"
            cat <<'E'
set datafile separator "\t"
set border 3 linecolor '#404040'
set tics nomirror textcolor '#404040'
set grid linecolor '#e0e0e0' linetype 1
set linetype 1 linecolor '#0072b2' linewidth 1.6 dashtype 1 pointtype 7
set linetype 2 linecolor '#d55e00' linewidth 1.6 dashtype (8,3) pointtype 5
set linetype 3 linecolor '#009e73' linewidth 1.6 dashtype (3,2) pointtype 9
set linetype 4 linecolor '#cc79a7' linewidth 1.6 dashtype (10,3,2,3) pointtype 13
set linetype 5 linecolor '#e69f00' linewidth 1.6 dashtype 1 pointtype 11
set linetype 6 linecolor '#56b4e9' linewidth 1.6 dashtype (8,3) pointtype 6
set linetype 7 linecolor '#000000' linewidth 1.6 dashtype (3,2) pointtype 4
set linetype 8 linecolor '#999999' linewidth 1.6 dashtype 1 pointtype 8
E
            cat "$work/commands"
        } | gnuplot || fail 70 "gnuplot did not take its commands"
    done
    echo "$name.png $name.svg"
}

# The metric that chose a run's best.h5. No other key is named so, nor ends so: whichever way YAML is written.
metric_of() {
    local metric
    metric=$(sed -nE "s/^([^#]*[ .{,\"'])?metric[\"']? *: *[\"']?([a-z_]+(@[0-9]+)?).*/\2/p" "$1/config.yaml" | head -n 1)
    echo "${metric:-ndcg@100}"
}

curves() {
    local metric run i=0 label best=0 value best_value='' loss='' validation='' style
    local runs=()
    for run; do
        [ -r "$run/config.yaml" ] || fail 66 "$run/config.yaml: not there; want run directories"
        if grep -qs '^1,' "$run/metrics.csv"; then runs+=("$run"); else echo "note: $run has no epoch yet" >&2; fi
    done
    [ ${#runs[@]} -gt 0 ] || fail 65 "no run has an epoch yet"
    set -- "${runs[@]}"
    metric=$(metric_of "$1")
    for run; do
        i=$((i + 1))
        columns "$run/metrics.csv" epoch loss "$metric" >"$work/$i"
        value=$(awk -F'\t' '$3 != "" && (best == "" || $3 > best) { best = $3 } END { print best }' "$work/$i")
        if awk -v a="$value" -v b="$best_value" 'BEGIN { exit !(a != "" && (b == "" || a > b + 0)) }'; then
            best=$i best_value=$value
        fi
    done
    for ((i = 1; i <= $#; i++)); do
        label=$(basename "${!i}") style="linetype $i"
        if [ $# -gt 8 ]; then # a legend of all would hide the plot: the best one, and the others
            style="linecolor '#b0b0b0' linewidth 0.8 dashtype 1" label=''
            if [ $i = 1 ]; then label="the other $(($# - 1)) runs"; fi
            if [ $i = $best ] && [ $i = 1 ]; then label=''; fi
        fi
        loss+="$(quote "$work/$i") using 1:2 with lines $style title $(quote "$label"), "
        validation+="$(quote "$work/$i") using 1:(strlen(strcol(3)) ? \$3 : NaN) with lines $style notitle, "
    done
    if [ $# -gt 8 ] && [ $best != 0 ]; then
        style="linetype 1 linewidth 2.4"
        loss+="$(quote "$work/$best") using 1:2 with lines $style title $(quote "best: $(basename "${!best}")"), "
        validation+="$(quote "$work/$best") using 1:(strlen(strcol(3)) ? \$3 : NaN) with lines $style notitle, "
    fi
    draw 720 640 <<E
set multiplot layout 2,1
set lmargin 10
set rmargin 3
set key top right samplen 3 textcolor '#404040'
set ylabel 'training loss per user (nats)'
set format x ''
set bmargin 1
plot ${loss%, }
set format x '%g'
set bmargin 4
set xlabel 'epoch'
set ylabel $(quote "$metric, validation users")
plot ${validation%, }
unset multiplot
E
}

sweep() {
    local dir=$1 key=$2 metric=${3:-} scale='' kind plots
    local style="lines linecolor '#999999' dashtype (3,2)"
    [ -r "$dir/runs.csv" ] || fail 66 "$dir/runs.csv: not there; run vaecf-collect $dir first"
    if [ -z "$metric" ]; then metric=$(head -n 1 "$dir/runs.csv" | tr , '\n' | grep -m1 '^validation'); fi
    columns "$dir/runs.csv" "$key" "$metric" status >"$work/all"
    # Numbers in their order on an axis; words and lists each at a place of their own.
    kind=$(awk -F'\t' '$1 !~ /^[-+0-9.eE]+$/ { word = 1 } NR == 1 || $1 < low { low = $1 } NR == 1 || $1 > high { high = $1 }
        END { print (word ? "words" : low > 0 && high / low > 3.9 ? "log" : "numbers") }' "$work/all")
    awk -F'\t' -v words="$kind" '
        $2 == "" { next }
        words == "words" && !($1 in place) { place[$1] = ++n }
        { print (words == "words" ? place[$1] : $1 + 0) "\t" $2 "\t" $1 "\t" $3 }' "$work/all" >"$work/points"
    [ -s "$work/points" ] || fail 65 "$dir/runs.csv: no run has $metric"
    # The mean of complete runs at each value, to guide the eye.
    awk -F'\t' '$4 == "complete" { n[$1]++; sum[$1] += $2 } END { for (x in n) print x "\t" sum[x] / n[x] }' "$work/points" |
        sort -g >"$work/mean"
    grep -P '\tcomplete$' "$work/points" >"$work/complete" || true
    grep -vP '\tcomplete$' "$work/points" >"$work/incomplete" || true
    case $kind in
    log) scale="set logscale x; set format x '%g'; set offsets 0, 0, graph 0.05, graph 0.05
set xrange [$(cut -f1 "$work/points" | sort -g | sed -n '1s/$/ \/ 1.2 : 1.2 */p;$p' | paste -sd' ')]; " ;;
    words) style="points linecolor '#999999' pointtype 2 pointsize 1.2" scale="set xtics ($(cut -f1,3 "$work/points" | sort -gu | awk -F'\t' '{ printf "%s\"%s\" %s", (NR > 1 ? "," : ""), $2, $1 }'))" ;;
    esac
    if [ "$kind" != words ] && [ "$(cut -f1 "$work/points" | sort -u | wc -l)" -le 8 ]; then scale+="set xtics ($(numbers "$work/points"))"; fi
    plots="$(quote "$work/mean") using 1:2 with $style title 'mean of complete runs', "
    plots+="$(quote "$work/complete") using 1:2 with points linecolor '#0072b2' pointtype 7 pointsize 0.7 title 'complete run', "
    plots+="$(quote "$work/incomplete") using 1:2 with points linecolor '#d55e00' pointtype 6 pointsize 0.8 title 'stopped or failed run'"
    if ! [ -s "$work/complete" ]; then plots=${plots##*run\', }; fi
    if ! [ -s "$work/incomplete" ]; then plots=${plots%, *}; fi
    draw 720 440 <<E
set xlabel $(quote "$key")
set ylabel $(quote "${metric//_/ }")
set offsets graph 0.06, graph 0.06, graph 0.05, graph 0.05
set rmargin 4
set key outside top center horizontal Left reverse textcolor '#404040'
$scale
plot $plots
E
}

scaling() {
    local file=$1 x=$2 group=${3:-} plots='' ideal='' i=0 title scale="set xrange [0:*]; set yrange [0:*]; set format y '%.0f'"
    [ -r "$file" ] || fail 66 "$file: not there"
    columns "$file" "$x" "$y" ${group:+"$group"} | awk -F'\t' '$1 != "" && $2 != ""' >"$work/all"
    [ -s "$work/all" ] || fail 65 "$file: no row has $x and $y"
    while IFS= read -r title; do
        i=$((i + 1))
        # several measurements of the same: their mean
        awk -F'\t' -v group="$title" '$3 == group { n[$1]++; sum[$1] += $2 } END { for (x in n) print x "\t" sum[x] / n[x] }' "$work/all" |
            sort -g >"$work/$i"
        plots+="$(quote "$work/$i") using 1:2 with linespoints linetype $i title $(quote "${title:-measured}"), "
        # as much more as there are more ranks
        awk -F'\t' 'NR == 1 { each = $2 / $1 } { print $1 "\t" each * $1 }' "$work/$i" >"$work/ideal-$i"
        ideal+="$(quote "$work/ideal-$i") using 1:2 with lines linecolor '#999999' linewidth 1 dashtype (3,2) "
        if [ $i = 1 ]; then ideal+="title 'in proportion', "; else ideal+="notitle, "; fi
    done < <(cut -f3 "$work/all" | if [ -n "$group" ]; then sort -u; else echo; fi)
    # Much more at the end than at the beginning is told apart on logarithmic axes only.
    if awk -F'\t' 'NR == 1 || $1 < low { low = $1 } NR == 1 || $1 > high { high = $1 } END { exit low <= 0 || high < 16 * low }' "$work/all"; then
        scale="set logscale xy; set format y '%.0s%c'"
    fi
    draw 720 480 <<E
$scale
set xtics ($(numbers "$work/all"))
set xlabel $(quote "$x")
set ylabel $(quote "$(if [ "$y" = users_per_second ]; then echo 'training throughput (users/s)'; else echo "${y//_/ }"; fi)")
set key top left Left reverse textcolor '#404040'
set rmargin 4
plot ${ideal}${plots%, }
E
}

case $what in
curves | sweep | scaling) "$what" "$@" ;;
*) fail 64 "$what: want curves, sweep or scaling" ;;
esac
