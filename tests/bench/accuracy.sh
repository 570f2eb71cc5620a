#!/bin/bash
# Accuracy of every model on every data set: one run a seed, a row of OUT/accuracy.csv each; OUT/accuracy.md shows means
# and their standard errors. A row that is there is not run again, so it may be stopped and goes on.
#
#   tests/bench/accuracy.sh [OUT]        OUT: results
# DATA="ml-100k ml-1m debian gowalla", MODELS="popularity ease dae vae powers network recvae best", SEEDS="1 2 3" choose; RAW has the raw
# files (see the cases below; ../shared/data), WORK the data sets and runs (results/runs/accuracy), RANKS ranks.
# OPTIONS: more for vaecf-train, such as "--set train.precision=bf16".
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-results} bin=${BIN:-bin} raw=${RAW:-../shared/data} work=${WORK:-results/runs/accuracy}
csv=$out/accuracy.csv
mkdir -p "$out" "$work/data"
[ -s "$csv" ] || echo "data,model,seed,best_epoch,seconds,recall@20,recall@50,ndcg@100,recall_all@20,ndcg@20,command" >"$csv"

# data NAME: how the data set is made
prepare() {
    case $1 in
    ml-100k) echo --input ml-100k/ratings.csv --heldout-users 100 ;;
    ml-1m) echo --input ml-1m/interactions.csv --heldout-users 500 ;;
    debian) echo --input debian-build-depends/debian-build-depends.csv.gz ;;
    gowalla) echo --train gowalla/train.csv --test-input gowalla/train.csv --test-target gowalla/test.csv ;;
    *) echo "DATA: no data set $1" >&2 && exit 64 ;;
    esac
}

# options DATA MODEL: what vaecf-train gets; found on validation users alone. Not searched for yet: l2 of gowalla's ease,
# and the weight decay of dae.
options() {
    case $1/$2 in
    */popularity) echo "--config jobs/configs/$1.yaml --set model.type=popularity" ;;
    ml-100k/ease) echo "--config jobs/configs/$1.yaml --set model.type=ease --set model.l2=300" ;;
    ml-1m/ease) echo "--config jobs/configs/$1.yaml --set model.type=ease --set model.l2=700" ;;
    debian/ease) echo "--config jobs/configs/$1.yaml --set model.type=ease --set model.l2=10" ;;
    gowalla/ease) echo "--config jobs/configs/$1.yaml --set model.type=ease --set model.l2=200" ;;
    gowalla/dae) echo "--config jobs/configs/$1.yaml --set model.type=dae --set train.optimizer=adamw --set train.weight_decay=0.01 --set train.epochs=28" ;;
    */dae) echo "--config jobs/configs/$1.yaml --set model.type=dae --set train.optimizer=adamw --set train.weight_decay=0.01" ;;
    */vae) echo "--config jobs/configs/$1.yaml" ;;
    */powers) echo "--config jobs/configs/$1-ease.yaml" ;;
    */network | */recvae) echo "--config jobs/configs/$1-$2.yaml" ;;
    *) echo "MODELS: no model $2" >&2 && exit 64 ;;
    esac
}

# others DATA: what is added to powers, and how much of it, for best; likewise
others() {
    case $1 in
    ml-100k) echo network 0.05 ;;
    ml-1m) echo recvae 0.05 network 0.05 ;;
    debian) echo dae 0.02 ;;
    gowalla) echo vae 0.01 ;;
    esac
}

is_closed() { case $1 in popularity | ease | powers) ;; *) false ;; esac; } # MODEL: the same for all seeds

# train DATA MODEL SEED: unless it is there, in $run; $command is how, $epoch its best one
train() {
    local set
    run=$work/$1-$2-$3
    read -ra set < <(options "$1" "$2")
    [ "$3" = 1 ] || set+=(--set "train.seed=$3")
    # shellcheck disable=SC2206  # words
    set+=(${OPTIONS:-})
    command="vaecf-train ${set[*]}"
    if [ ! -e "$run/test.csv" ] || [ ! -e "$run/best.h5" ]; then
        echo "$1, $2, seed $3: $command"
        if is_closed "$2"; then rm -rf "$run"; fi
        mpirun -n "${RANKS:-1}" "$bin/vaecf-train" "${set[@]}" --resume auto --set data.path="$work/data/$1" --set output.path="$run" \
            --set train.checkpoint.every_epochs=20 --set train.checkpoint.keep=1 >"$run.log"
        rm -rf "$run/checkpoints"
    fi
    epoch=$(sed -n 's/^best: .* in epoch //p' "$run.log")
}

# blend DATA SEED: the same for best
blend() {
    local with=() all how base i
    read -ra how < <(others "$1")
    train "$1" powers 1
    base=$run
    all="vaecf-evaluate --checkpoint ${base##*/}/best.h5"
    for ((i = 0; i < ${#how[@]}; i += 2)); do
        train "$1" "${how[i]}" "$2"
        with+=(--blend "$run/best.h5:${how[i + 1]}")
        all+=" --blend ${run##*/}/best.h5:${how[i + 1]}"
    done
    run=$work/$1-best-$2 command=$all epoch=
    mkdir -p "$run"
    mpirun -n "${RANKS:-1}" "$bin/vaecf-evaluate" --checkpoint "$base/best.h5" "${with[@]}" --data "$work/data/$1" --output "$run/test.csv"
}

for data in ${DATA:-ml-100k ml-1m debian gowalla}; do
    read -ra how < <(prepare "$data")
    for i in "${!how[@]}"; do case ${how[i]} in */*) how[i]=$raw/${how[i]} ;; esac done
    [ -e "$work/data/$data/dataset.h5" ] || "$bin/vaecf-preprocess" "${how[@]}" --output "$work/data/$data" >/dev/null
    for model in ${MODELS:-popularity ease dae vae powers network recvae best}; do
        case $model in network | recvae) [ -e "jobs/configs/$data-$model.yaml" ] || continue ;; esac
        for seed in ${SEEDS:-1 2 3}; do
            if [ "$seed" != 1 ] && is_closed "$model"; then continue; fi
            if grep -q "^$data,$model,$seed," "$csv"; then continue; fi
            start=$SECONDS
            if [ "$model" = best ]; then blend "$data" "$seed"; else train "$data" "$model" "$seed"; fi
            awk -F, -v row="$data,$model,$seed,$epoch,$((SECONDS - start))" -v command="$command" '
                { value[$3] = $4 }
                END { print row "," value["recall@20"] "," value["recall@50"] "," value["ndcg@100"] "," \
                          value["recall_all@20"] "," value["ndcg@20"] "," command }' "$run/test.csv" >>"$csv"
        done
    done
    rm -f "$work/$data"-{ease,powers}-1/best.h5 # as large as the catalogue squared
done

{
    cat <<'M'
# Accuracy of every model on every data set

Made by `make bench-accuracy`, which writes accuracy.csv, a row a run, and this page; values are means over test users
and then over seeds, ± their standard error over seeds where there are several. Settings were chosen on validation users
alone. "powers" is EASE with powers, in `jobs/configs/DATA-ease.yaml`, "network" the best network without parts of RecVAE,
in `jobs/configs/DATA-network.yaml`, "recvae" that with them, in `jobs/configs/DATA-recvae.yaml`. "best" adds the scores of
networks to those of "powers", as its command says.
M
    awk -F, '
        function cell(k, m,   i, n, mean, var) {
            n = runs[m]
            if (value[m, 1, k] == "") return "–"
            for (i = 1; i <= n; i++) mean += value[m, i, k] / n
            for (i = 1; i <= n; i++) var += (value[m, i, k] - mean) ^ 2
            return sprintf("%.4f", mean) (n > 1 ? sprintf(" ± %.4f", sqrt(var / (n - 1) / n)) : "")
        }
        NR == 1 { next }
        {
            m = $1 SUBSEP $2
            if (!($1 in seen)) { seen[$1] = 1; sets[++n_sets] = $1 }
            if (!(m in runs)) models[$1] = models[$1] " " $2
            runs[m]++
            for (k = 6; k <= 10; k++) value[m, runs[m], k] = $k
            if (runs[m] == 1) command[m] = $11
        }
        END {
            published["gowalla", "vae"] = "0.1641 / 0.1335 (Mult-VAE)"
            published["gowalla", "best"] = "0.1830 / 0.1554 (LightGCN)"
            for (s = 1; s <= n_sets; s++) {
                d = sets[s]
                printf "\n## %s\n\n", d
                print "| model | ndcg@100 | recall@20 | recall@50 | recall_all@20 | ndcg@20 | runs |" \
                      (d == "gowalla" ? " published recall_all@20 / ndcg@20 |" : "")
                print "|---|---|---|---|---|---|---|" (d == "gowalla" ? "---|" : "")
                n = split("popularity ease powers dae vae network recvae best", order, " ")
                for (i = 1; i <= n; i++) {
                    m = d SUBSEP order[i]
                    if (!(m in runs)) continue
                    printf "| %s | %s | %s | %s | %s | %s | %d |", order[i], cell(8, m), cell(6, m), cell(7, m), cell(9, m), \
                        cell(10, m), runs[m]
                    print d == "gowalla" ? " " published[d, order[i]] " |" : ""
                }
                print "\n```"
                for (i = 1; i <= n; i++) if ((d SUBSEP order[i]) in runs) print command[d, order[i]]
                print "```"
            }
        }' "$csv"
    cat <<'M'

He et al. 2020 (LightGCN), table 4, is where Gowalla's published figures are from.

## Published figures for the data sets that are not here

Recall@20 / recall@50 / NDCG@100, strong generalisation with the papers' split. The first column is the configuration
that is meant to reach the row with this program; none of them has been run yet.

| model, configuration | ML-20M | Netflix | MSD | source |
|---|---|---|---|---|
| popularity: `model.type=popularity` | 0.162 / 0.235 / 0.191 | 0.116 / 0.175 / 0.159 | 0.043 / 0.068 / 0.058 | Steck 2019 |
| EASE: `model.type=ease`, `model.l2` 500, 1000, 200 | 0.391 / 0.521 / 0.420 | 0.362 / 0.445 / 0.393 | 0.333 / 0.428 / 0.389 | Steck 2019 |
| Mult-DAE: `jobs/configs/ml-20m.yaml`, `model.type=dae` | 0.387 / 0.524 / 0.419 | 0.344 / 0.438 / 0.380 | 0.266 / 0.363 / 0.313 | Liang et al. 2018 |
| Mult-VAE: `jobs/configs/ml-20m.yaml` | 0.395 / 0.537 / 0.426 | 0.351 / 0.444 / 0.386 | 0.266 / 0.364 / 0.316 | Liang et al. 2018 |
| RecVAE (this program has a part of it: `jobs/configs/ml-1m-recvae.yaml`) | 0.414 / 0.553 / 0.442 | 0.361 / 0.452 / 0.394 | 0.276 / 0.374 / 0.326 | Shenbin et al. 2020 |
M
} >"$out/accuracy.md"
echo "written: $csv, $out/accuracy.md"
