#!/bin/bash
# vaecf-collect on made-up run directories: each status, parameters that differ, means over seeds by hand, mistakes.
# shellcheck source=tests/common.sh
. tests/common.sh
bin=$(realpath "${BIN:-bin}")
cd "$tmp" || exit 71

cat >base.yaml <<'E'
data: {path: data/x}
train: {epochs: 2, early_stopping: {metric: recall@20}}
output: {path: results/base}
E
cat >sweep.yaml <<'E'
config: base.yaml
output: a sweep
seeds: [1, 2, 3]
parameters: {train.kl.cap: [0.1, 0.5], model.hidden: [[600, 200]]}
E
"$bin/vaecf-sweep" sweep.yaml --prepare >/dev/null || exit 1

# run NAME RECALL-1 RECALL-2 [NDCG]: two epochs, and with NDCG a test table
run() {
    cat >"a sweep/$1/metrics.csv" <<E
epoch,step,seconds,users_per_second,loss,nll,kl,beta,learning_rate,loss_scale,skipped_steps,recall@20,recall@50,ndcg@100
1,10,2.000,100.0,9,8,1,0.1,0.001,1,0,$2,0.9,0.9
2,20,1.000,400.0,9,8,1,0.1,0.001,1,0,$3,0.9,0.9
E
    touch "a sweep/$1/train.log"
    if [ -n "${4:-}" ]; then
        printf 'split,users,metric,value,stderr\ntest,50,ndcg@100,%s,0.01\ntest,50,mrr,0.5,0.02\n' "$4" >"a sweep/$1/test.csv"
        echo 0 >"a sweep/$1/exit-code"
    fi
}
run run-0000 0.20 0.10 0.31
run run-0001 0.10 0.22 0.33
run run-0002 0.10 0.10 && echo 70 >"a sweep/run-0002/exit-code"
run run-0003 0.30 "" 0.41
run run-0004 0.40 0.50 0.42 && echo 75 >"a sweep/run-0004/exit-code" # complete once, then made longer
"$bin/vaecf-collect" "a sweep" --metrics ndcg@100,mrr >out 2>err
check "collects" [ $? = 0 ]
cat >want <<'E'
run,status,exit_code,train.seed,train.kl.cap,epochs,best_epoch,validation_recall@20,test_ndcg@100,test_ndcg@100_stderr,test_mrr,test_mrr_stderr,users_per_second
run-0000,complete,0,1,0.1,2,1,0.2,0.31,0.01,0.5,0.02,200.0
run-0001,complete,0,2,0.1,2,2,0.22,0.33,0.01,0.5,0.02,200.0
run-0002,failed,70,3,0.1,2,1,0.1,,,,,200.0
run-0003,complete,0,1,0.5,2,1,0.3,0.41,0.01,0.5,0.02,200.0
run-0004,stopped,75,2,0.5,2,2,0.5,0.42,0.01,0.5,0.02,200.0
run-0005,missing,,3,0.5,0,,,,,,,
E
check "runs.csv: a row a run, incomplete ones too" diff want "a sweep/runs.csv"
cat >want <<'E'
seeds,complete,train.kl.cap,validation_recall@20,validation_recall@20_stderr,test_ndcg@100,test_ndcg@100_stderr,test_mrr,test_mrr_stderr,users_per_second
3,2,0.1,0.21,0.01,0.32,0.01,0.5,0,200.0
3,1,0.5,0.3,,0.41,,0.5,,200.0
E
check "means.csv: by hand" diff want "a sweep/means.csv"
cat >want <<'E'
6 runs: 3 complete, 1 stopped, 1 failed, 1 missing.
**Bold**: the best complete run on the validation users.

| run | train.seed | train.kl.cap | status | best epoch | validation recall@20 | test ndcg@100 | test mrr | users/s |
|---|--:|--:|--:|--:|--:|--:|--:|--:|
| run-0000 | 1 | 0.1 | complete | 1 | 0.2000 | 0.3100 | 0.5000 | 200 |
| run-0001 | 2 | 0.1 | complete | 2 | 0.2200 | 0.3300 | 0.5000 | 200 |
| run-0002 | 3 | 0.1 | failed (70) | 1 | 0.1000 | – | – | 200 |
| **run-0003** | 1 | 0.5 | complete | 1 | **0.3000** | 0.4100 | 0.5000 | 200 |
| run-0004 | 2 | 0.5 | stopped | 2 | 0.5000 | 0.4200 | 0.5000 | 200 |
| run-0005 | 3 | 0.5 | missing | – | – | – | – | – |

Means over the seeds of complete runs ± standard error.

| seeds | train.kl.cap | validation recall@20 | test ndcg@100 | test mrr | users/s |
|---|--:|--:|--:|--:|--:|
| 2 of 3 | 0.1 | 0.2100 ± 0.0100 | 0.3200 ± 0.0100 | 0.5000 ± 0.0000 | 200 |
| **1 of 3** | 0.5 | **0.3000** | 0.4100 | 0.5000 | 200 |
E
check "runs.md: the best complete run is marked" diff want "a sweep/runs.md"
check "and printed" cmp "a sweep/runs.md" out
# shellcheck disable=SC2016
check "runs.tex" grep -qF '\textbf{run-0003} & 1 & 0.5 & complete & 1 & \textbf{0.3000} & 0.4100 & 0.5000 & 200 ' "a sweep/runs.tex"
# shellcheck disable=SC2016
check "with the means" grep -qF '2 of 3 & 0.1 & 0.2100\,$\pm$\,0.0100 &' "a sweep/runs.tex"
check "its environments are closed" [ "$(grep -cE '^.(begin|end).tabular' "a sweep/runs.tex")" = 4 ]

"$bin/vaecf-collect" "a sweep/run-0000" "a sweep/run-0001" --output elsewhere >out
check "single runs, into another directory" grep -q '^a sweep/run-0001,complete,0,2,2,2,0.22,' elsewhere/runs.csv
rm "a sweep/run-0003/exit-code" "a sweep/run-0004/exit-code"
rm "a sweep/run-0004/test.csv" && sed -i '$d' "a sweep/run-0004/metrics.csv"
"$bin/vaecf-collect" "a sweep" >out
check "without exit codes: complete by its test table" grep -q '^run-0003,complete,,' "a sweep/runs.csv"
check "and stopped without one" grep -q '^run-0004,stopped,,' "a sweep/runs.csv"
printf '3,30,1.0' >>"a sweep/run-0003/metrics.csv"
"$bin/vaecf-collect" "a sweep" >out
check "a row that is being written is none" grep -q '^run-0003,complete,,1,0.5,2,1,0.3,' "a sweep/runs.csv"


# ---- what a run's files say ----
mkdir cases
# case_run NAME EXIT-CODE TEST: a run of two epochs, with these files if they are not "-"
case_run() {
    mkdir -p "cases/$1" && cp base.yaml "cases/$1/config.yaml" && cp "a sweep/run-0000/metrics.csv" "cases/$1" || exit 1
    touch "cases/$1/train.log"
    if [ "$2" != - ]; then printf '%b' "$2" >"cases/$1/exit-code"; fi
    if [ "$3" != - ]; then printf 'split,users,metric,value,stderr\n%b' "$3" >"cases/$1/test.csv"; fi
}
case_run all-epochs - -
case_run code-0 '0\n' -
case_run code-0-bare '0' -
case_run code-255 '255\n' 'test,50,mrr,0.5,0.02\n'
case_run code-75-and-test '75\n' 'test,50,mrr,0.5,0.02\n'
case_run tested - 'test,50,mrr,0.5,0.02\n'
case_run no-test-users - ''
case_run x-empty '' -
case_run x-large '256\n' -
case_run x-negative '-1\n' 'test,50,mrr,0.5,0.02\n'
case_run x-two '0 1\n' -
case_run x-word 'done\n' -
case_run x-long '00000000000\n' -
"$bin/vaecf-collect" cases -m mrr >out 2>err
check "collects whatever the exit code says" [ $? = 0 ]
cut -d, -f1-3 cases/runs.csv >table
cat >want <<'E'
run,status,exit_code
all-epochs,stopped,
code-0,complete,0
code-0-bare,complete,0
code-255,failed,255
code-75-and-test,stopped,75
no-test-users,complete,
tested,complete,
x-empty,stopped,
x-large,stopped,
x-long,stopped,
x-negative,complete,
x-two,stopped,
x-word,stopped,
E
check "the status by exit code, else by the test table" diff want table
check "a line for each exit code that is none" [ "$(grep -c '^vaecf-collect: warning: cases/x-[a-z]*/exit-code: ' err) $(wc -l <err)" = "6 6" ]

rm -r cases/*
case_run long - 'test,50,mrr,0.5,0.02\n'
zeros=$(printf '0%.0s' {1..3000})
sed -i "1!s/,2.000,/,2.$zeros,/" cases/long/metrics.csv
sed -i "s/,0.5,/,$zeros.5,/" cases/long/test.csv
case_run damaged - 'test,50,mrr,0.5x,0.02\n'
printf 'x,y\n3,30,z,z,9,8,1,0.1,0.001,1,0,zzz,0.9,0.9\n' >>cases/damaged/metrics.csv
"$bin/vaecf-collect" cases -m mrr >out
check "long lines are not cut" grep -qx 'long,complete,,2,1,0.2,0.5,0.02,200.0' cases/runs.csv
check "what is no number is none" grep -qx 'damaged,complete,,3,1,0.2,,0.02,200.0' cases/runs.csv

# ---- names ----
rm -r cases/*
# shellcheck disable=SC2016  # a name is a name
for name in '=1+1' '-x' '-5' '@x' 'a|b*c_d`e\f<g&h$i~j' 'x_' 'l^l~l\l#l%l{l}l--l' '[x](y)' $'t\tb\x01' 'é' $'\xff' 'a"b,c'; do
    case_run "$name" 0 -
done
sed -i 's|data/x|=data|' cases/-x/config.yaml
sed -i "s|data/x|\"it's, so\"|" cases/-5/config.yaml
"$bin/vaecf-collect" cases >out 2>err
check "collects runs of any name" [ "$?$(cat err)" = 0 ]
cut -d, -f1-5 cases/runs.csv | LC_ALL=C sort >table
LC_ALL=C sort >want <<'E'
run,status,exit_code,data.path,epochs
-5,complete,0,"it's, so"
./-x,complete,0,./=data,2
./=1+1,complete,0,data/x,2
./@x,complete,0,data/x,2
E
check "in the CSV no name and no path is a formula, and numbers stay" diff want <(grep -E '^(run|\./|-)' table)
check "a name with quotes" grep -q '^"a""b,c",complete,0,data/x,2,' cases/runs.csv
while IFS= read -r cell; do
    check "Markdown: $cell" grep -qF -- "| $cell |" cases/runs.md
done <<'E'
a\|b\*c_d\`e\\f\<g\&h\$i\~j
x\_
[x\](y)
t?b?
é
?
E
while IFS= read -r cell; do
    check "LaTeX: $cell" grep -qF -- "$cell & " cases/runs.tex
done <<'E'
a\textbar{}b*c\_d`e\textbackslash{}f\textless{}g\&h\$i\textasciitilde{}j
l\textasciicircum{}l\textasciitilde{}l\textbackslash{}l\#l\%l\{l\}l-{}-l
{}[x](y)
t?b?
é
?
E
check "LaTeX: the sign for no value stays one" grep -qF ' & -- & ' cases/runs.tex

fails() { # fails CODE PATTERN NAME ARGUMENT...
    "$bin/vaecf-collect" "${@:4}" >out 2>err
    local status=$?
    check "$3: $1" [ "$status" = "$1" ]
    check "and one line about it" grep -qE "^vaecf-collect: error: .*($2)" err
}
mkdir empty
fails 66 'empty: want a run directory' "no run" empty
fails 66 'none: No such file' "no directory" none
fails 64 '--metrics: ' "an unknown metric" "a sweep" --metrics recoil@20
fails 64 'want a directory' "no argument"
long=$(printf '/%.0s' {1..2100})
fails 66 'a path of 21[0-9]+ bytes' "a directory with too long a path" "cases$long"
fails 73 'a path of 21[0-9]+ bytes' "files with too long a path" cases --output "cases$long"
fails 64 'metrics: ' "a list of metrics that is not cut" cases --metrics "recall@20,$(printf 'ndcg@%.0s' {1..300})"
echo 'train: {epoch: 3}' >"a sweep/run-0000/config.yaml"
fails 78 'run-0000/config.yaml:1: unknown key' "a damaged configuration" "a sweep"
exit $failed
