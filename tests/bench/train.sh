#!/bin/bash
# Training speed beside its limits, in one run on one machine: the dense products alone (the ceiling), and PyTorch.
#
#   BIN=bin BUILD=build PYTHON=python3 tests/bench/train.sh [OUT_DIR]      make bench
#
# Prints the machine, the commands and tables; writes OUT_DIR/train.csv, ranks.csv, evaluation.csv and growth.csv (default
# results/bench). SHAPES="ml-20m ml-1m gowalla" chooses; RANKS=no, EVALUATION=no and GROWTH=no leave those tables out. A
# PyTorch that PYTHON does not find is told and its columns stay empty.
set -euo pipefail
bin=${BIN:-bin} build=${BUILD:-build} python=${PYTHON:-python3} out=${1:-results/bench}
shapes=${SHAPES-ml-20m ml-1m gowalla}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
mkdir -p "$out"

machine=$(lscpu | sed -n 's/^Model name: *//p')
echo "machine: $machine, $OMP_NUM_THREADS threads; $(uname -sr); $("$bin/vaecf-train" --version | head -n 1)"
has_torch=no
"$python" -c 'import torch, h5py, scipy' 2>/dev/null && has_torch=yes
[ $has_torch = yes ] || echo "note: $python has no torch, h5py and scipy: no comparison with PyTorch (PYTHON=... tells another)"
[ $has_torch = no ] || echo "peer: PyTorch $("$python" -c 'import torch; print(torch.__version__)')"
has_bf16=no
"$build/tests/bench/products" 64 8 8 8 bf16 > /dev/null 2>&1 && has_bf16=yes

# data NAME USERS ITEMS INTERACTIONS [HELD_OUT] [OPTION...]: a synthetic set of that shape
data() {
    [ ! -d "$work/$1" ] || return 0
    "$bin/vaecf-synthesize" --users "$2" --items "$3" --interactions "$4" "${@:6}" --output "$work/$1.csv" 2> /dev/null
    "$bin/vaecf-preprocess" --input "$work/$1.csv" --output "$work/$1" --heldout-users "${5:-500}" > /dev/null 2>&1
    rm "$work/$1.csv"
}

# train DATA HIDDEN LATENT BATCH PRECISION EPOCHS: "users_per_second,megabytes" of the fastest epoch
train() {
    # shellcheck disable=SC2086 # a launcher is a command with arguments
    ${LAUNCH:-} "$bin/vaecf-train" --config jobs/configs/ml-20m.yaml --overwrite --set data.path="$work/$1" \
        --set output.path="$work/run" --set "model.hidden=[$2]" --set model.latent="$3" --set train.batch_size="$4" \
        --set train.precision="$5" --set train.epochs="$6" --set train.validate_every=0 --set device=cpu \
        --set train.checkpoint.every_epochs=0 --set train.checkpoint.every_minutes=0 > "$work/log" 2>&1 ||
        { tail -n 3 "$work/log" >&2; return 1; }
    memory=$(sed -n 's/.*largest memory of a rank \([0-9]*\) MB.*/\1/p' "$work/log")
    awk -F, -v m="$memory" 'NR > 1 && $4 > best {best = $4} END {printf "%.0f,%s\n", best, m}' "$work/run/metrics.csv"
}

torch() { # DATA BATCH PRECISION VARIANT
    [ $has_torch = yes ] || { echo ,; return; }
    "$python" tests/reference/torch_speed.py --data "$work/$1" --batch-size "$2" --precision "$3" --variant "$4" \
        --steps "$(($2 > 1000 ? 1 : 5))" 2> "$work/torch.log" || echo ,
}

# the items that someone has, in the last run
items_in_log() { sed -n 's/^data .* users, \([0-9]*\) items.*/\1/p' "$work/log"; }

ratio() { awk -v a="$1" -v b="$2" 'BEGIN {if (b > 0) printf "%.2f", a / b}'; }

csv=$out/train.csv
echo "machine,threads,shape,items,batch,precision,users_per_second,ceiling_users_per_second,fraction,megabytes,torch_dense,torch_sparse,torch_compiled,torch_megabytes,ratio_to_fastest_torch" > "$csv"
printf '%-8s %6s %5s %9s %10s %9s %7s | PyTorch %6s %7s %9s %7s\n' shape batch prec. users/s ceiling fraction MB dense sparse compiled ratio
for shape in $shapes; do
    case $shape in
    ml-20m) users=40000 items=20108 interactions=2900000 ;;
    ml-1m) users=6000 items=3400 interactions=570000 ;;
    gowalla) users=29858 items=40981 interactions=1027000 ;;
    *) echo "SHAPES: no shape \"$shape\"; there are ml-20m, ml-1m, gowalla" >&2; exit 64 ;;
    esac
    data "$shape" $users $items $interactions
    for batch in 500 4096; do
        for precision in fp32 bf16; do
            [ $precision = fp32 ] || [ $has_bf16 = yes ] || continue
            epochs=2
            [ "$shape" != ml-1m ] || epochs=10
            ours=$(train "$shape" 600 200 $batch $precision $epochs)
            items=$(items_in_log)
            ceiling=$(for _ in 1 2; do "$build/tests/bench/products" "$items" 600 200 $batch $precision; done |
                cut -d, -f3 | sort -n | tail -n 1)
            dense=$(torch "$shape" $batch $precision dense)
            sparse=$(torch "$shape" $batch $precision sparse)
            compiled=$(torch "$shape" $batch $precision compiled)
            fastest=$(printf '%s\n' "${dense%,*}" "${sparse%,*}" "${compiled%,*}" | sort -n | tail -n 1)
            fraction=$(ratio "${ours%,*}" "$ceiling")
            times=$(ratio "${ours%,*}" "${fastest:-0}")
            printf '%-8s %6s %5s %9s %10s %9s %7s |         %6s %7s %9s %7s\n' "$shape" $batch $precision "${ours%,*}" \
                "$ceiling" "$fraction" "${ours#*,}" "${dense%,*}" "${sparse%,*}" "${compiled%,*}" "$times"
            echo "$machine,$OMP_NUM_THREADS,$shape,$items,$batch,$precision,${ours%,*},$ceiling,$fraction,${ours#*,},${dense%,*},${sparse%,*},${compiled%,*},${dense#*,},$times" >> "$csv"
        done
    done
    rm -rf "${work:?}/$shape"
done
echo "written: $csv"

if [ "${RANKS:-yes}" = yes ]; then
    # the same work by ranks x threads: seconds of an epoch, relative to one rank with all threads and to one thread
    csv=$out/ranks.csv
    echo "ranks,threads_each,users_per_second,speedup,efficiency,megabytes_a_rank" > "$csv"
    printf '\n%-5s %12s %9s %9s %11s %10s\n' ranks 'threads each' users/s 'x 1 core' efficiency 'MB a rank'
    data ranks 30000 20108 2200000
    cores=$OMP_NUM_THREADS one=
    for ranks in 1 "$cores"; do
        for threads in 1 "$cores"; do
            [ $((ranks * threads)) -le "$cores" ] || continue
            ours=$(LAUNCH="mpirun --bind-to none -n $ranks" OMP_NUM_THREADS=$threads train ranks 600 200 500 fp32 2)
            one=${one:-${ours%,*}}
            speedup=$(ratio "${ours%,*}" "$one")
            efficiency=$(ratio "$speedup" $((ranks * threads)))
            printf '%-5s %12s %9s %9s %11s %10s\n' "$ranks" "$threads" "${ours%,*}" "$speedup" "$efficiency" "${ours#*,}"
            echo "$ranks,$threads,${ours%,*},$speedup,$efficiency,${ours#*,}" >> "$csv"
        done
    done
    rm -rf "$work/ranks"
    echo "written: $csv"
fi
if [ "${EVALUATION:-yes}" = yes ]; then
    # 10,000 held-out users, from the start of vaecf-evaluate to its end, beside an epoch of MovieLens-20M's size
    csv=$out/evaluation.csv
    echo "machine,threads,users,seconds,epoch_users,epoch_seconds,share_of_epoch" > "$csv"
    data evaluation 136677 20108 9990000 10000
    train evaluation 600 200 500 fp32 1 > "$work/speed"
    epoch=$(sed -n 's/^data .*: \([0-9]*\) users.*/\1/p' "$work/log")
    seconds=$(cut -d, -f3 "$work/run/metrics.csv" | tail -n 1)
    start=$(date +%s.%N)
    "$bin/vaecf-evaluate" --checkpoint "$work/run/best.h5" --data "$work/evaluation" --split test > "$work/table"
    took=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN {printf "%.2f", b - a}')
    share=$(ratio "$took" "$seconds")
    printf '\nevaluation of %s users: %s s, an epoch of %s users: %s s, a share of %s\n' \
        "$(sed -n '2s/^test,\([0-9]*\),.*/\1/p' "$work/table")" "$took" "$epoch" "$seconds" "$share"
    echo "$machine,$OMP_NUM_THREADS,10000,$took,$epoch,$seconds,$share" >> "$csv"
    rm -rf "$work/evaluation"
    echo "written: $csv"
fi
[ "${GROWTH:-yes}" = yes ] || exit 0

# growth SERIES USERS ITEMS BATCH: a row of cost by size
csv=$out/growth.csv
echo "series,users,items,batch,users_per_second,microseconds_per_user_per_1000_items,megabytes" > "$csv"
printf '\n%-8s %9s %7s %6s %9s %22s %7s\n' series users items batch users/s 'us/user/1000 items' MB
growth() {
    local ours per items
    data "g-$2-$3" "$2" "$3" $(($2 * 40)) 500 --exponent 0 # so that nearly all items have users
    ours=$(train "g-$2-$3" 200 64 "$4" fp32 2)
    items=$(items_in_log)
    per=$(awk -v s="${ours%,*}" -v i="$items" 'BEGIN {printf "%.3f", 1e6 / s / (i / 1000)}')
    printf '%-8s %9s %7s %6s %9s %22s %7s\n' "$1" "$2" "$items" "$4" "${ours%,*}" "$per" "${ours#*,}"
    echo "$1,$2,$items,$4,${ours%,*},$per,${ours#*,}" >> "$csv"
}
for items in 5000 20000 80000 200000; do growth items 10000 $items 500; done
rm -rf "$work"/g-*
for batch in 100 500 2000 10000; do growth batch 20000 20000 $batch; done
rm -rf "$work"/g-*
for users in 10000 100000 1000000; do growth users $users 5000 500; rm -rf "$work"/g-*; done
echo "written: $csv"
if command -v gnuplot > /dev/null; then
    gnuplot -e "csv='$csv'; out='$out/growth.svg'" tests/bench/growth.gp
    echo "written: $out/growth.svg"
fi
