#!/bin/bash
# vaecf-sweep: which runs there are, that they are what the file says, and every kind of mistake in the file.
# shellcheck source=tests/common.sh
. tests/common.sh
sweep=$(realpath "${BIN:-bin}")/vaecf-sweep
configs=$(realpath jobs/configs)
cd "$tmp" || exit 71

cat >base.yaml <<'E'
data: {path: data/x}
model: {hidden: [16], latent: 8}
output: {path: results/base}
E
cat >grid.yaml <<'E'
config: base.yaml
output: "a sweep"
set: {train.epochs: 7}
seeds: [5, 6]
parameters:
  model.hidden: [[600], [32, 16]]
  train.kl.cap: [0.1, 0.2, 0.4]
E
check "a grid: all combinations" [ "$("$sweep" grid.yaml --count)" = 12 ]
"$sweep" grid.yaml >table
cat >want <<'E'
run,directory,model.hidden,train.kl.cap,train.seed
0,a sweep/run-0000,[600],0.1,5
1,a sweep/run-0001,[600],0.1,6
2,a sweep/run-0002,[600],0.2,5
E
check "its table, seeds changing fastest" cmp want <(head -n 4 table)
check "a list of widths is a value" grep -qx '11,a sweep/run-0011,"\[32, 16\]",0.4,6' table
"$sweep" grid.yaml --set train.epochs=9 --run 9 >run
printf '%s\n' --config base.yaml --set train.epochs=7 --set train.epochs=9 --set 'model.hidden=[32, 16]' \
    --set train.kl.cap=0.2 --set train.seed=6 --set 'output.path=a sweep/run-0009' >want
check "a run's arguments" cmp want run

"$sweep" grid.yaml --prepare >directories
check "a directory for each run" [ "$(wc -l <directories)" = 12 ]
check "with its configuration" grep -q 'cap: 0.4' "a sweep/run-0011/config.yaml"
sed -i 's/epochs: 7/epochs: 8/' "a sweep/run-0003/config.yaml"
"$sweep" grid.yaml --prepare >out
check "made again" cmp out directories
check "what is there stays as it was" grep -q 'epochs: 8' "a sweep/run-0003/config.yaml"
for i in 1 2 3 4 5 6; do "$sweep" grid.yaml --set data.path=b --prepare >"out$i" 2>&1 & done
wait
check "six at once agree" [ "$(cat out? | sort | uniq -c | awk '$1 == 6' | wc -l)" = 12 ]
check "and leave nothing behind" [ -z "$(find . -name 'config.yaml.*' -o -name '*.tmp*')" ]

# File systems without hard links, which are FAT, and some parallel ones and those in user space: here a C library that
# refuses them. (It cannot be put before ASan's.)
if [[ $sweep != */asan/* ]]; then
    cat >nolink.c <<'E'
#include <errno.h>
int link(const char *from, const char *to) { return (void)from, (void)to, errno = EPERM, -1; }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    return (void)a, (void)b, (void)flags, link(from, to);
}
E
    cc -shared -fPIC -o nolink.so nolink.c || exit 1
    rm -r "a sweep"
    for i in 1 2 3 4 5 6; do LD_PRELOAD=$PWD/nolink.so "$sweep" grid.yaml --prepare >"out$i" 2>&1 & done
    wait
    check "without hard links: six at once agree" [ "$(cat out? | sort | uniq -c | awk '$1 == 6' | wc -l)" = 12 ]
    check "each configuration is whole" [ "$(grep -l "^  path: 'a sweep/run-" "a sweep"/*/config.yaml | wc -l)" = 12 ]
fi

long=$(printf 'x%.0s' {1..1500})
"$sweep" grid.yaml --set "train.epochs=5${long//x/ }x" --count >out 2>err
check "a setting is not cut" [ "$? $(wc -l <err) $(wc -c <out)" = "78 1 0" ]
sed "s|^set.*|set: {data.path: ${long:0:300}}|" grid.yaml >long.yaml
"$sweep" long.yaml --prepare >out 2>err
check "nor one in the file" grep -q 'long.yaml:3: the value is too long' err
sed "s|^output.*|output: ${long:0:1020}|" grid.yaml >long.yaml
"$sweep" long.yaml --prepare >out 2>err
check "nor a run's path" [ "$? $(wc -l <err) $(wc -c <out)" = "78 1 0" ]

sed 's/0.1, 0.2, 0.4/0.3, 0.2, 0.4/' grid.yaml >other.yaml
"$sweep" other.yaml --prepare >out 2>err
check "another sweep over the runs of this one: 78" [ $? = 78 ]
check "without a directory to train in" [ ! -s out ]
check "and which value" grep -q 'run-0000/config.yaml: .* train.kl.cap .*another output' err

cat >random.yaml <<'E'
config: base.yaml
output: r
method: random
runs: 400
seed: 3
parameters:
  train.learning_rate: {log_uniform: [1.0e-4, 1.0e-2]}
  model.dropout: {uniform: [0.25, 0.75]}
  model.latent: {uniform: [3, 6]}
  model.activation: {choice: [tanh, relu]}
E
"$sweep" random.yaml >table
check "random search: as many as asked for" [ "$("$sweep" random.yaml --count)" = 400 ]
# shellcheck disable=SC2016
check "within its ranges, all of them" awk -F, '
    NR > 1 { if ($3 < 1e-4 || $3 > 1e-2 || $4 < 0.25 || $4 > 0.75 || $5 < 3 || $5 > 6 || $5 != int($5)) bad = 1
             below += $3 < 1e-3; half += $4 < 0.5; whole[$5]++; relu += $6 == "relu" }
    END { for (i = 3; i <= 6; i++) if (whole[i] < 70 || whole[i] > 130) bad = 1
          exit bad || below < 160 || below > 240 || half < 160 || half > 240 || relu < 160 || relu > 240 }' table
sed 's/runs: 400/runs: 20/; s/^seed/seeds: [1, 2]\nseed/' random.yaml >fewer.yaml
"$sweep" fewer.yaml >fewer
check "other numbers of runs and seeds keep the draws" cmp <(sed -n 2,21p table | cut -d, -f3-6) \
    <(sed -n '2~2p' fewer | cut -d, -f3-6)
check "the seeds for each draw" [ "$(cut -d, -f7 fewer | sort | uniq -c | tr -s ' ' | paste -sd,)" = " 20 1, 20 2, 1 train.seed" ]
sed 's/^seed: 3/seed: 4/' random.yaml >seed.yaml
check "another seed: other draws" bash -c "! cmp -s table <('$sweep' seed.yaml)"

# mistake CODE PATTERN NAME SED-SCRIPT: the grid with a change
mistake() {
    sed -E "$4" grid.yaml >bad.yaml
    timeout 60 "$sweep" bad.yaml --count >out 2>err
    local status=$?
    if [ $status = "$1" ] && [ "$(wc -l <err)" = 1 ] && grep -qE "^vaecf-sweep: error: .*($2)" err && [ ! -s out ]; then
        echo "ok - $3: $1"
    else
        echo "not ok - $3: wanted $1 and '$2', got $status and: $(cat err)"
        failed=1
    fi
}
mistake 78 'bad.yaml:1: confg: unknown key' "an unknown key" 's/^config/confg/'
mistake 78 'run 0: .*cap: .* is not a number' "a value that the configuration refuses" 's/0.1, 0.2/a, 0.2/'
mistake 78 'unknown key train.kl.capp \(did you mean train.kl.cap' "an unknown parameter" 's/kl.cap/kl.capp/'
mistake 66 'base.yamll: No such file' "no such configuration" 's/base.yaml/base.yamll/'
mistake 78 'bad.yaml:7: train.kl.cap: a range is for method: random' "a range in a grid" 's/\[0.1.*/{uniform: [0, 1]}/'
mistake 78 'bad.yaml:7: .*want a list' "a parameter that is no list" 's/\[0.1.*/0.1/'
mistake 78 'bad.yaml:7: train.kl.cap: want a list of 1 to' "an empty list" 's/\[0.1.*/[]/'
mistake 78 'train.seed: given twice' "a seed twice" 's/train.kl.cap.*/train.seed: [1]/'
mistake 78 'output.path: cannot be a parameter' "output.path" 's/train.kl.cap/output.path/'
mistake 78 'method: want grid or random' "an unknown method" 's/^seeds/method: gird\nseeds/'
mistake 78 'runs: is for method: random' "runs of a grid" 's/^seeds/runs: 3\nseeds/'
mistake 78 'runs is not set' "random without runs" 's/^seeds/method: random\nseeds/'
mistake 78 'bad.yaml:[0-9]+: ' "no YAML" 's/0.4\]/0.4/'
mistake 78 'config .* is not set' "no configuration" '/^config/d'
mistake 78 'no parameters and no seeds' "nothing to vary" '/^seeds|^parameters|^  /d'
mistake 78 'above 0' "a logarithm of zero" 's/^seeds/method: random\nruns: 2\nseeds/; s/\[0.1.*/{log_uniform: [0, 1]}/'
mistake 78 'more than 100000 runs' "too many" "s/\[5, 6\]/[$(seq -s, 1 1000)]/; s/\[0.1.*/[$(seq -s, 1 100)]/"
check "no file: 66" bash -c "'$sweep' none.yaml 2>/dev/null; [ \$? = 66 ]"
check "a run that is not there: 64" bash -c "'$sweep' grid.yaml --run 12 2>/dev/null; [ \$? = 64 ]"

# ---- what other people and programs write ----
cat >json <<'E'
{"config": "base.yaml", "output": "~/all $$ runs", "set": {"model.layer_norm": "yes", "data.path": "$DATA/x"},
"seeds": [1e0, 2.0], "parameters": {"train.learning_rate": [1e-3, 0.01], "model.layer_norm": [on, FALSE]}}
E
{ printf '\xef\xbb\xbf' && sed 's/$/\r/' json; } >json.yaml
DATA=/data HOME=$tmp "$sweep" json.yaml --prepare >directories
check "JSON with ~, \$ and all spellings" [ "$(sed -n 8p directories)" = "$tmp/all \$ runs/run-0007" ]
check "its paths are replaced" grep -qx "  path: '/data/x'" "$tmp/all \$ runs/run-0007/config.yaml"
check "and its booleans read" [ "$(cat "$tmp/all \$ runs/"*/config.yaml | grep -cx '  layer_norm: true')" = 4 ]
mapfile -t arguments < <(DATA=/data HOME=$tmp "$sweep" json.yaml --run 7)
check "a run's arguments have its path as a --set takes it" [ "${arguments[-1]}" = "output.path=$tmp/all \$\$ runs/run-0007" ]
mistake 78 'bad.yaml:4: output: given twice' "a key twice" 's/^seeds/output: x\nseeds/'
mistake 78 'bad.yaml:5: <<: merge keys' "a merge key" 's/^parameters/<<: {seeds: [1]}\nparameters/'
# shellcheck disable=SC2016
mistake 78 'a second YAML document' "a second document" '$s/$/\n---\nseeds: [1]/'
# shellcheck disable=SC2016
mistake 78 'output: .UNSET_X is not set' "a variable that is not set" 's/^output.*/output: $UNSET_X\/x/'
mistake 78 'model.layer_norm: maybe is not true or false' "a boolean that is none" 's/train.kl.cap.*/model.layer_norm: [maybe]/'

# ---- one value of a configuration ----
get() { "$sweep" --get "$@" 2>err; }
# gives CODE PATTERN TEXT COMMAND...: the exit code, and one line that matches
gives() {
    "${@:4}" >out 2>err
    check "$3: $1" test "$?:$(grep -cE -- "$2" err):$(wc -l <err)" = "$1:1:1"
}
printf 'data: {path: "it'"'"'s #1"}\r\nmodel:\r\n  hidden:\r\n  - 6e2\r\n' >crlf.yaml
check "--get: a path as it is" [ "$(get data.path crlf.yaml)" = "it's #1" ]
check "--get: a list" [ "$(get model.hidden crlf.yaml)" = "[600]" ]
check "--get: a default, and --set" [ "$(get train.epochs crlf.yaml) $(get train.epochs crlf.yaml --set train.epochs=1_0)" = "200 10" ]
gives 78 'output.path is not set' "--get: a path that is not there" "$sweep" --get output.path crlf.yaml
gives 78 'did you mean train.epochs' "--get: no such key" "$sweep" --get train.epoch crlf.yaml
gives 66 'none.yaml: No such file' "--get: no such file" "$sweep" --get train.epochs none.yaml
# shellcheck disable=SC2088
gives 66 'the shell has left the ~' "--get: a file of ~" "$sweep" --get train.epochs '~/none.yaml'
gives 64 'exclude each other' "--get and --count" "$sweep" --get train.epochs crlf.yaml --count

cd "$configs/../.." || exit 71
for file in jobs/configs/sweep-*.yaml; do check "$file" test "$("$sweep" "$file" --count)" -gt 1; done
exit $failed
