#!/bin/bash
# The CUDA code without a GPU, on the host emulation of tests/cuda_host: every function against the CPU backend, also with
# pieces as large as on a GPU; faults are planted that the emulation has to catch; then whole runs: CPU and GPU agree, the
# same bits again, ranks over MPI and over a stand-in of NCCL agree, lost ranks and missing or unfit GPUs are told. What
# needs nvcc compiles for every generation of GPUs, if nvcc is there.
# starts first
# shellcheck disable=SC2317  # functions that check calls
# shellcheck source=tests/common.sh
. tests/common.sh
build=${BUILD:-build}
host=$build/cuda_host
if [ ! -x "$host/cuda_backend_test" ]; then not_ok "no host emulation of CUDA: it takes a C++ compiler" && exit 1; fi

export OMP_NUM_THREADS=1

# ---- every function ----
# functions NAME [VARIABLE=VALUE]... PROGRAM [CASES]: side by side with others, as they take minutes with sanitizers
functions() {
    local name=$1 log
    shift
    log=$(mktemp -p "$tmp")
    if env "$@" >"$log" 2>&1; then
        ok "$name: $(grep -c '^\[       OK' "$log") cases"
    else
        not_ok "$name: $(grep -E 'ERROR|fail|barrier|device|Sanitizer|runtime error' "$log" | head -n 5)"
        return 1
    fi
}
functions "functions" "$host/cuda_backend_test" 'test_*' &
running=($!)
functions "functions in ways that are switched on" "$host/cuda_backend_test" 'ways_*' &
running+=($!)
# what takes several pieces when they have the sizes that they have on a GPU
functions "long rows" "$host/cuda_backend_real_test" 'test_wide_rows' &
running+=($!)
functions "many rows" "$host/cuda_backend_real_test" 'test_tall_layers' &
running+=($!)
functions "faults that are planted" "$host/cuda_host_refusals_test" &
running+=($!)
if [ "$build" = build ]; then
    functions "functions, threads and blocks in the reverse order" VAECF_HOST_ORDER=reverse "$host/cuda_backend_test" 'test_*' &
    running+=($!)
    functions "functions, without epilogues" VAECF_HOST_NO_EPILOGUE=1 "$host/cuda_backend_test" 'test_*' &
    running+=($!)
    functions "nor one for gradients of biases" VAECF_HOST_NO_EPILOGUE=1 "$host/cuda_backend_test" 'ways_bias*' &
    running+=($!)
    functions "long rows, less shared memory" VAECF_HOST_SHARED_KB=50 "$host/cuda_backend_real_test" 'test_wide_rows' &
    running+=($!)
    functions "steps of many rows" "$host/cuda_backend_real_test" 'test_tall_steps' &
    running+=($!)
fi
for pid in "${running[@]}"; do wait "$pid" || failed=1; done
# libraries COMMAND...
libraries() { "$@" >"$tmp/libraries" 2>&1 || { tail -n 20 "$tmp/libraries" && false; }; }
check "the stand-ins of cuBLASLt and NCCL refuse what the real ones do" libraries "$host/cuda_host_libraries_test"
check "a rank's GPU goes on while it waits in MPI" libraries mpirun -n 2 "$host/cuda_host_libraries_test" mpi

# ---- whole runs ----
gzip -dc preprocess/debian-build-depends.csv.gz | head -n 12000 >"$tmp/part.csv"
"${BIN:-bin}/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 3 --heldout-users 60 --output "$tmp/data" \
    >/dev/null || exit 1
cat >"$tmp/run.yaml" <<E
data: {path: $tmp/data}
model: {hidden: [40], latent: 12}
train: {epochs: 3, batch_size: 130, learning_rate: 3.0e-3, kl: {cap: 0.2, anneal_steps: 30}}
output: {path: $tmp/run}
E
# train RANKS NAME OPTION...: on the emulated GPU, unless the options say otherwise
train() {
    local ranks=$1 name=$2 run=()
    shift 2
    if [ "$ranks" -gt 1 ]; then run=(mpirun -n "$ranks"); fi
    VAECF_HOST_GPUS=${VAECF_HOST_GPUS:-$ranks} timeout 200 "${run[@]}" "$host/bin/vaecf-train" \
        --config "$tmp/run.yaml" --set output.path="$tmp/$name" --set device=cuda "$@" >"$tmp/$name.out" 2>"$tmp/$name.err"
}
# untimed NAME [FIELDS]: the table, but for what tells the time
untimed() { cut -d, -f"${2:-1,2,5-}" "$tmp/$1/metrics.csv"; }
# agree TOLERANCE A B [FIELDS [LINES]]: every number of the two tables, relative
agree() {
    paste -d, <(untimed "$2" "${4:-}") <(untimed "$3" "${4:-}") | awk -F, -v tolerance="$1" -v lines="${5:-4}" '
        NR > 1 { for (i = 1; i <= NF / 2; i++) { a = $i; b = $(i + NF / 2); d = a - b; if (d < 0) d = -d
                 if (d > tolerance * (a < 0 ? -a : a)) { print "row " NR ", column " i ": " a " and " b; bad = 1 } } }
        END { exit bad || NR != lines }'
}
identical() { cmp <(untimed "$1") <(untimed "$2") && cmp "$tmp/$1/test.csv" "$tmp/$2/test.csv"; }
# with NAME=VALUE... COMMAND...
with() { (while [[ $1 == *=* ]]; do export "${1?}" && shift; done && "$@"); }
# short FILE: four digits of its numbers
short() { sed 's/\(\.[0-9]\{4\}\)[0-9]*/\1/g' "$1"; }

train 1 cpu --set device=cpu || not_ok "cpu: $(tail -n 3 "$tmp/cpu.err")"
train 1 gpu || not_ok "gpu: $(tail -n 3 "$tmp/gpu.err")"
check "says what it runs on" grep -q 'cuda: host emulation (sm_90, 4 GB), CUDA 13.0.*fp32' "$tmp/gpu.out"
check "GPU and CPU agree" agree 1e-4 cpu gpu
check "and test alike" cmp <(short "$tmp/cpu/test.csv") <(short "$tmp/gpu/test.csv")
train 1 again
check "the same bits again" identical gpu again
with VAECF_GRAPHS=no train 1 issued
check "the same bits without graphs" identical gpu issued
with VAECF_KEEP=no train 1 loaded
check "with batches from the host" agree 1e-4 gpu loaded
# every rank asks for the same sums of gradients, over random networks and batches
sums() {
    VAECF_HOST_GPUS=$1 timeout 300 mpirun -n "$1" "$host/sums_test" "$2" "$3" >"$tmp/sums" 2>&1
    grep -q "^$2 shapes on $1 ranks: the same sums" "$tmp/sums" || { tail -n 3 "$tmp/sums" && return 1; }
}
shapes=150
if [ "$build" != build ]; then shapes=30; fi
check "2 ranks sum alike over $shapes shapes" sums 2 $shapes 0
check "3 ranks sum alike over $((shapes / 3)) shapes" sums 3 $((shapes / 3)) 1000
# with sanitizers, which are slow, the ways that the rest takes: ranks over NCCL and over MPI, 16 bits
if [ "$build" != build ]; then
    train 4 grid --set train.epochs=1 --set train.precision=fp16 --set parallel.item=2
    check "a grid of 2 x 2 with NCCL" [ -s "$tmp/grid/test.csv" ]
    train 2 nccl2 --set train.epochs=1 --set train.precision=fp16
    check "2 ranks with NCCL" [ -s "$tmp/nccl2/test.csv" ]
    VAECF_HOST_GPUS=1 train 2 mpi2 --set comm=mpi --set train.epochs=1 --set train.precision=bf16
    check "2 ranks with MPI" [ -s "$tmp/mpi2/test.csv" ]
    exit $failed
fi

# ---- the sparse layer in other ways ----
for precision in fp32 bf16; do
    with VAECF_SPARSE=gather train 1 gather$precision --set train.epochs=2 --set train.precision=$precision
    with VAECF_SPARSE=cusparse train 1 cusparse$precision --set train.epochs=2 --set train.precision=$precision
done
check "cuSPARSE agrees with the kernels" agree 1e-4 gatherfp32 cusparsefp32 "" 3
check "and in bf16" agree 5e-3 gatherbf16 cusparsebf16 1,2,5,6,8 3
check "says so" grep -q 'fp32, cuSPARSE 12.6.3$' "$tmp/cusparsefp32.out"
with VAECF_SPARSE=cusparse VAECF_KEEP=no train 1 cusparseloaded --set train.epochs=2
check "with batches from the host" agree 1e-4 gatherfp32 cusparseloaded "" 3
with VAECF_SPARSE=cusparse train 1 cusparseagain --set train.epochs=2
check "the same bits again" identical cusparsefp32 cusparseagain
with VAECF_SPARSE=auto VAECF_GEMM_CACHE="$tmp/sparse" train 1 sparseauto --set train.epochs=2
way=$(sed -n 's/^VAECF_SPARSE=\([a-z]*\) is taken.*/\1/p' "$tmp/sparseauto.out")
with VAECF_SPARSE="$way" VAECF_GEMM_CACHE="$tmp/sparse" train 1 sparsenamed --set train.epochs=2
check "VAECF_SPARSE=auto tells which way it takes, and keeps it" [ "$(grep -c '^sparse layer,' "$tmp/sparse")" = 1 ]
check "which, by its name, gives the same bits" identical sparseauto sparsenamed
with VAECF_SPARSE=auto VAECF_GEMM_CACHE="$tmp/sparse" train 1 sparsekept --set train.epochs=2
check "and is not timed again" [ "$(grep -c '^the sparse layer takes' "$tmp/sparsekept.out") $(grep -c '^sparse layer,' "$tmp/sparse")" = "0 1" ]
check "and gives the same bits" identical sparseauto sparsekept
with VAECF_CUDA_TUNING=split_rows,sorted_steps train 1 sorted --set train.epochs=2
check "long rows split, entries by step: agree" agree 1e-4 gatherfp32 sorted "" 3
check "says so" grep -q 'fp32, tuning split_rows sorted_steps$' "$tmp/sorted.out"
with VAECF_CUDA_TUNING=split_rows,sorted_steps VAECF_GRAPHS=no train 1 sortedissued --set train.epochs=2
check "the same bits without graphs" identical sorted sortedissued
with VAECF_CUDA_TUNING=split_rows,sorted_steps VAECF_KEEP=no train 1 sortedloaded --set train.epochs=2
check "with batches from the host" agree 1e-4 gatherfp32 sortedloaded "" 3
with VAECF_SPARSE=cusparse train 2 cusparse2 --set train.epochs=2
check "cuSPARSE, 2 ranks" agree 1e-4 gatherfp32 cusparse2 "" 3
with VAECF_SPARSE=auto train 2 cusparseauto2 --set train.epochs=2
check "auto, 2 ranks" agree 1e-4 gatherfp32 cusparseauto2 "" 3
with VAECF_CUDA_TUNING=split_rows,sorted_steps train 2 sorted2 --set train.epochs=2
check "split and sorted, 2 ranks" agree 1e-4 gatherfp32 sorted2 "" 3
with VAECF_SPARSE=cusparse train 2 cusparsegrid --set train.epochs=2 --set parallel.item=2
check "cuSPARSE, a grid" agree 1e-4 gatherfp32 cusparsegrid "" 3

# traced NAME CALLS...: trace.csv has these, each as NAME,CALLS, the longest first, and they are of one step
traced() {
    local table=$tmp/$1/trace.csv row
    shift
    for row; do grep -qF "$row," "$table" || { echo "no $row" && return 1; }; done
    [ "$(head -n 1 "$table")" = kernel,calls,milliseconds,share ] && [ "$(tail -n 1 "$table" | cut -d, -f1,2,4)" = '(step),1,1' ] &&
        ! grep -q 'validation' "$table" && sed '1d' "$table" | head -n -2 | cut -d, -f3 | sort -cgr
}
inside=('input layer: input_values,1' 'input layer: input_forward,1' 'latent layer: latent_forward,1' 'output layer: softmax,1'
    'output layer: product 130 x 704 x 40,0.8' 'output layer: product 119 x 704 x 40,0.2' 'output layer: product 704 x 40 x 130,0.8'
    'hidden layer backward: sum_slab,2' 'input layer backward: input_backward,1' 'Adam: adam,1')
train 1 traced --set train.trace_steps=5
check "traced: the same bits" identical gpu traced
check "and trace.csv" traced traced 'batch: take_rows,1' "${inside[@]}"
train 1 traced --overwrite --set train.epochs=1
check "another run's is removed" [ ! -e "$tmp/traced/trace.csv" ]
train 1 small --set train.batch_size=58
train 1 tracedsmall --set train.batch_size=58 --set train.trace_steps=30
check "where a full batch is recorded, and the last one of an epoch not yet: the same bits" identical small tracedsmall
check "and trace.csv" traced tracedsmall 'output layer: softmax,1' 'Adam: adam,1'
with VAECF_KEEP=no train 1 tracedloaded --set train.trace_steps=100
check "with batches from the host: the same bits" identical loaded tracedloaded
check "and trace.csv" traced tracedloaded 'batch: copy to the GPU,1' "${inside[@]}"
train 1 resumed --set train.epochs=2
train 1 resumed --resume auto
check "stopped and resumed: the same bits" identical gpu resumed
train 1 over --resume "$(find "$tmp/cpu/checkpoints" -name '*.h5' | sort | head -n 1)"
check "a checkpoint of the CPU goes on on the GPU" [ -s "$tmp/over/test.csv" ]
for precision in tf32 bf16 fp16; do
    train 1 $precision --set train.precision=$precision
    check "$precision: losses near those of fp32" agree 5e-3 gpu $precision 1,2,5,6,8
done
train 1 cpu16 --set device=cpu --set train.precision=fp16
check "fp16: losses on CPU and GPU agree" agree 1e-3 cpu16 fp16 1,2,5-8,10,11
train 1 overflow --set train.precision=fp16 --set train.loss_scale=1e9
check "fp16 at a scale of 1e9: all steps are skipped" [ "$(tail -n 1 "$tmp/overflow/metrics.csv" | cut -d, -f2)" = 0 ]

# ---- ways that are switched on: cuda/tuning.h ----
# switched SWITCHES TOLERANCE: losses near those without, the same bits without graphs and after a resume
switched() {
    local name=${1//,/_}
    with VAECF_CUDA_TUNING="$1" train 1 "$name" --set train.precision=bf16
    check "$1: losses near those without" agree "$2" bf16 "$name" 1,2,5,6,8
    check "it is on" [ "$(cmp -s <(untimed bf16) <(untimed "$name"); echo $?) $(grep -c "tuning ${1//,/ }" "$tmp/$name.out")" = "1 1" ]
    with VAECF_GRAPHS=no with VAECF_CUDA_TUNING="$1" train 1 "$name-issued" --set train.precision=bf16
    check "the same bits without graphs" identical "$name" "$name-issued"
    with VAECF_CUDA_TUNING="$1" train 1 "$name-resumed" --set train.precision=bf16 --set train.epochs=2
    with VAECF_CUDA_TUNING="$1" train 1 "$name-resumed" --set train.precision=bf16 --resume auto
    check "and after a resume" identical "$name" "$name-resumed"
}
switched bias_epilogue 1e-4
switched short_activations 1e-3
switched short_moments 1e-3
switched fp8 1e-2
switched bias_epilogue,short_activations,fp8 1e-2

# layer norm, a linear decoder, weights of KL by user, turns
recvae=(--set model.layer_norm=yes --set model.decoder=linear --set train.kl.gamma=0.005 --set train.turns=1)
train 1 cputurns --set device=cpu "${recvae[@]}"
train 1 turns "${recvae[@]}"
check "in turns GPU and CPU agree" agree 1e-4 cputurns turns
with VAECF_GRAPHS=no train 1 turnsissued "${recvae[@]}"
check "the same bits without graphs" identical turns turnsissued
train 2 turns2 "${recvae[@]}"
check "2 ranks with NCCL" agree 1e-4 turns turns2
train 2 turnsgrid --set parallel.item=2 "${recvae[@]}"
check "a grid" agree 1e-4 turns turnsgrid

# ---- products whose algorithms are timed ----
with VAECF_GEMM_CACHE="$tmp/cache" train 1 timed --set train.epochs=1
lines=$(wc -l <"$tmp/cache")
check "VAECF_GEMM_CACHE keeps choices, none of which is one that fails" [ "$lines,$(grep -c '0000000000000001000000000000000000000000000000000000000000000000$' "$tmp/cache")" = "$lines,0" ]
with VAECF_GEMM_CACHE="$tmp/cache" train 1 timed2 --set train.epochs=1
check "and the next run takes them" [ "$(wc -l <"$tmp/cache"),$([ "$lines" -gt 5 ] && cmp "$tmp/timed/test.csv" "$tmp/timed2/test.csv"; echo $?)" = "$lines,0" ]

# ---- ranks ----
for ranks in 2 3; do
    VAECF_HOST_GPUS=1 train $ranks mpi$ranks --set comm=mpi
    check "$ranks ranks on a GPU with comm: mpi agree with one" agree 1e-4 gpu mpi$ranks
    train $ranks nccl$ranks
    check "$ranks ranks with NCCL agree with one" agree 1e-4 gpu nccl$ranks
done
train 1 long --set train.epochs=6
train 2 long2 --set train.epochs=6
check "and when all steps are replays, with validations between them" agree 1e-4 long long2 "" 7
with VAECF_KEEP=no train 2 loaded2
check "2 ranks with batches from the host agree with one" agree 1e-4 gpu loaded2
check "says that it uses NCCL" grep -q 'NCCL 2.28.9' "$tmp/nccl2.out"
train 2 again2
check "2 ranks with NCCL: the same bits again" identical nccl2 again2
# more gradients than fit into a few sums
deep=(--set 'model.hidden=[72,72,72,72,72]' --set train.batch_size=130 --set train.epochs=12 --set train.validate_every=4)
train 2 deep "${deep[@]}"
check "five wide layers on 2 ranks: 12 epochs" [ "$(wc -l <"$tmp/deep/metrics.csv")" = 13 ]
with VAECF_GRAPHS=no train 2 deepissued "${deep[@]}"
check "the same bits without graphs" identical deep deepissued
train 2 traced2 --set train.trace_steps=3
check "and traced" identical nccl2 traced2
check "trace.csv of a rank" traced traced2 'sum over the ranks: NCCL,2' 'output layer: softmax,1'
train 1 one --set comm=nccl
check "one rank with NCCL" agree 1e-6 gpu one
train 2 compute --set train.precision=bf16 --set comm_type=compute
check "gradients that travel in bf16" agree 5e-3 bf16 compute 1,2,5,6,8
train 2 scaled --set train.precision=fp16 --set comm_type=compute
check "gradients that travel in fp16, scaled" agree 5e-3 fp16 scaled 1,2,5,6,8
# grids of data x item ranks
train 2 grid12 --set parallel.item=2
train 4 grid22 --set parallel.item=2
VAECF_HOST_GPUS=1 train 3 grid13 --set comm=mpi --set parallel.item=3
for grid in grid12 grid22 grid13; do
    check "$grid agrees with one GPU" agree 1e-4 gpu $grid
    check "and tests alike" cmp <(short "$tmp/gpu/test.csv") <(short "$tmp/$grid/test.csv")
done
train 2 grid16 --set train.precision=bf16 --set parallel.item=2
check "a grid in bf16" agree 5e-3 bf16 grid16 1,2,5,6,8
train 1 skips --set train.precision=fp16 --set train.loss_scale=3e7
train 2 gridskips --set train.precision=fp16 --set train.loss_scale=3e7 --set parallel.item=2
check "fp16 on a grid: the same steps are skipped" [ "$(untimed skips 2,11)" = "$(untimed gridskips 2,11)" ]
# a batch of fewer users than ranks: one of them has nothing in it
train 1 few1 --set train.batch_size=2 --set train.epochs=1
train 3 few3 --set train.batch_size=2 --set train.epochs=1
check "a rank without a part in a batch" cmp <(untimed few1 1,2,5 | cut -c 1-11) <(untimed few3 1,2,5 | cut -c 1-11)

# ends NAME CODE TEXT COMMAND...: it ends with the code and one line that has the text
ends() {
    local name=$1 code=$2 text=$3
    shift 3
    "$@"
    local status=$?
    if [ $status = "$code" ] && grep -qE "^vaecf(-train: error|: error: rank [0-9]+): .*$text" "$tmp/ends.err"; then ok "$name"; else
        not_ok "$name: $status, $(grep -v '^---' "$tmp/ends.err" | head -n 3)"
    fi
    rm -rf "$tmp/ends"
}
export VAECF_NCCL_PATIENCE=2
ends "NCCL: a rank is lost" 71 'a rank is lost' with VAECF_HOST_NCCL=lost train 2 ends
ends "NCCL: a sum fails" 71 'remote process exited' with VAECF_HOST_NCCL=error train 2 ends
ends "NCCL: it is never ready" 71 'the start is not done after 2 s' with VAECF_HOST_NCCL=late train 2 ends
unset VAECF_NCCL_PATIENCE
# the other ranks wait for sums to which this one does not come
begin=$SECONDS
ends "a rank fails in a step: its own reason" 71 'cuBLASLt: cannot multiply' with VAECF_HOST_MATMUL_FAIL=1:5 train 2 ends
ends "after the first sums" 71 'cuBLASLt: cannot multiply' with VAECF_HOST_MATMUL_FAIL=1:40 train 2 ends --set train.precision=fp16
ends "with batches from the host" 71 'cuBLASLt: cannot multiply' with VAECF_KEEP=no with VAECF_HOST_MATMUL_FAIL=2:20 train 3 ends
ends "on a grid" 71 'cuBLASLt: cannot multiply' with VAECF_HOST_MATMUL_FAIL=2:40 train 4 ends --set parallel.item=2
check "all of them within a minute, though NCCL is waited for 50 s" [ $((SECONDS - begin)) -lt 60 ]

# ---- GPUs that are not there, or do not fit ----
ends "no GPU" 71 'no GPU on this machine' with VAECF_HOST_GPUS=0 train 1 ends
ends "the driver is too old" 71 'too old: it is for CUDA 12.2, this program for 13.0' with VAECF_HOST_GPU=driver train 1 ends
ends "the GPU is too old" 71 'too old: compute capability 6.1, want 7.0' with VAECF_HOST_GPU=old train 1 ends
for gpu in volta=7.0 turing=7.5; do
    for precision in tf32 bf16; do
        ends "${gpu%=*}: $precision" 78 "train.precision: $precision wants compute capability 8.0; GPU 0, host emulation has ${gpu#*=}: want fp32 or fp16" \
            with VAECF_HOST_GPU="${gpu%=*}" train 1 ends --set train.precision=$precision
    done
    with VAECF_HOST_GPU="${gpu%=*}" train 1 older
    check "${gpu%=*}: fp32" identical gpu older
    with VAECF_HOST_GPU="${gpu%=*}" train 1 older16 --set train.precision=fp16
    check "${gpu%=*}: fp16" identical fp16 older16
    rm -r "$tmp/older" "$tmp/older16"
done
ends "there is no code for the GPU" 71 'make CUDA_ARCH=sm_90' with VAECF_HOST_GPU=unknown train 1 ends
ends "a trace of the CPU" 78 'train.trace_steps: steps on a GPU alone are traced' train 1 ends --set device=cpu --set train.trace_steps=1
mkdir -p "$tmp/ends/trace.csv"
ends "a trace that cannot be written" 73 'trace.csv: cannot create' train 1 ends --set train.trace_steps=2
ends "several ranks on a GPU" 78 '2 ranks have the same GPU: .*comm: mpi' with VAECF_HOST_GPUS=1 train 2 ends
ends "no memory for the model" 71 'no GPU memory: .* are free, for the model' with VAECF_HOST_GPU_MB=34 train 1 ends
ends "no memory for the batch" 71 'about [0-9]* would fit: train.batch_size' with VAECF_HOST_GPU_MB=34.8 train 1 ends --set train.batch_size=639
ends "VAECF_SPARSE=fast" 78 'VAECF_SPARSE=fast: want gather, cusparse or auto' with VAECF_SPARSE=fast train 1 ends
ends "cuSPARSE cannot be started" 71 'cuSPARSE: cannot start: ' with VAECF_HOST_CUSPARSE=none VAECF_SPARSE=cusparse train 1 ends
ends "cuSPARSE without the type" 71 'cuSPARSE: cannot plan a product: ' with VAECF_HOST_CUSPARSE=16 VAECF_SPARSE=cusparse train 1 ends --set train.precision=bf16
ends "a switch that is none" 78 'VAECF_CUDA_TUNING: faster: want some of bias_epilogue' with VAECF_CUDA_TUNING=-priority,faster train 1 ends
ends "VAECF_GEMM_CACHE that cannot be written" 73 '/no/such/file: cannot be written' with VAECF_GEMM_CACHE=/no/such/file train 1 ends
ends "fp8 with fp32" 78 'fp8: want train.precision: bf16' with VAECF_CUDA_TUNING=fp8 train 1 ends
ends "fp8 on a grid" 78 'fp8: want parallel.item: 1' with VAECF_CUDA_TUNING=fp8 train 2 ends --set train.precision=bf16 --set parallel.item=2
with VAECF_HOST_GPUS=0 train 1 auto --set device=auto
check "device: auto without a GPU is the CPU" agree 1e-9 cpu auto
with VAECF_DEVICE=cuda train 1 wish --set device=auto --set train.epochs=1
check "VAECF_DEVICE=cuda" grep -q 'cuda: host emulation' "$tmp/wish.out"
ends "VAECF_DEVICE=gpu" 78 'VAECF_DEVICE=gpu: want auto, cpu or cuda' with VAECF_DEVICE=gpu train 1 ends --set device=auto

# ---- evaluating ----
"$host/bin/vaecf-evaluate" --checkpoint "$tmp/gpu/best.h5" --data "$tmp/data" --output "$tmp/gpu.csv" 2>"$tmp/err"
check "vaecf-evaluate on the GPU" cmp "$tmp/gpu.csv" "$tmp/gpu/test.csv"
"$host/bin/vaecf-evaluate" --checkpoint "$tmp/gpu/best.h5" --data "$tmp/data" --device cpu --output "$tmp/cpu.csv" 2>"$tmp/err"
check "and on the CPU" cmp <(short "$tmp/cpu.csv") <(short "$tmp/gpu.csv")
blended() { "$host/bin/vaecf-evaluate" --checkpoint "$tmp/gpu/best.h5" --blend "$tmp/turns/best.h5:0.25" --data "$tmp/data" "$@" 2>"$tmp/err"; }
check "a blend on both" [ "$(blended | short /dev/stdin | md5sum)" = "$(blended --device cpu | short /dev/stdin | md5sum)" ]
cut -d, -f2 "$tmp/part.csv" | sort -u | awk 'NR % 3 > 0' >"$tmp/allow.txt"
awk 'NR % 5 == 0' "$tmp/allow.txt" >"$tmp/deny.txt"
printf 'user,item\nstranger,no such item\n' >"$tmp/stranger.csv"
recommend() { timeout 200 "$host/bin/vaecf-recommend" --checkpoint "$tmp/gpu/best.h5" --input "$tmp/part.csv" "$@" 2>"$tmp/err"; }
# lists OPTION...: on both, from more users than are scored at a time. Scores may differ in the last digits, and with
# them the order of two items.
lists() {
    recommend --device cpu --output "$tmp/cpu-recs.csv" "$@" && recommend --device cuda --output "$tmp/cuda-recs.csv" "$@" &&
        paste -d, "$tmp/cpu-recs.csv" "$tmp/cuda-recs.csv" | awk -F, '
            NR == 1 { next }
            { d = $4 - $9; if (d < 0) d = -d; size = $4 < 0 ? -$4 : $4; users += $1 != before; before = $1 }
            $1 != $6 || $2 != $7 || $5 != $10 || d > 1e-5 * size + 1e-6 { bad++; if (bad < 4) print }
            { other += $3 != $8 }
            END { exit bad || users < 513 || other > NR / 100 }'
}
check "vaecf-recommend on GPU and CPU" lists --input "$tmp/stranger.csv"
check "with what was had" lists --include-seen
check "of some items" lists --allow "$tmp/allow.txt" --deny "$tmp/deny.txt" --min-count 5 --top-k 30
check "probabilities" lists --score probability
check "probabilities of some items, with what was had" lists --score probability --include-seen --allow "$tmp/allow.txt"
check "whole lists" lists --top-k 10000
mpirun -n 2 "$host/bin/vaecf-recommend" --checkpoint "$tmp/gpu/best.h5" --input "$tmp/part.csv" --top-k 10000 --device cuda \
    --output "$tmp/ranks.csv" 2>"$tmp/err"
check "on two ranks" cmp "$tmp/cuda-recs.csv" "$tmp/ranks.csv"
check "a blend of two networks" lists --blend "$tmp/turns/best.h5:0.25" --top-k 30
user=$(sed -n '2s/,.*//p' "$tmp/part.csv")
check "explained alike" cmp <(recommend --explain "$user" --device cpu) <(recommend --explain "$user" --device cuda)
recommend --benchmark --benchmark-seconds 0.05 --device cuda --output "$tmp/latency.csv" >"$tmp/stdout"
check "--benchmark" [ "$(grep -c '^host emulation (sm_90' "$tmp/stdout") $(grep -cE '^fp32,([0-9.]+,){9},$' "$tmp/latency.csv")" = "1 13" ]
recommend --precision bf16 --device cuda
check "--precision bf16 on a GPU: 64" [ "$? $(grep -c 'want --device cpu' "$tmp/err")" = "64 1" ]
VAECF_HOST_GPUS=0 recommend --device cuda
check "no GPU: 71" [ "$? $(grep -c 'no GPU on this machine' "$tmp/err")" = "71 1" ]
VAECF_HOST_GPU_MB=34 recommend --device cuda
check "no memory: 71" [ "$? $(grep -c 'no GPU memory' "$tmp/err")" = "71 1" ]

# ---- for the GPU ----
if [ "$build" = build ]; then
    unset MAKEFLAGS MAKELEVEL MFLAGS
    message=$(make --no-print-directory cuda-check 2>&1)
    case $message in
    *"there is no nvcc"*) echo "skipped: no nvcc: the CUDA code is not compiled for the GPU" ;;
    *"compiles without warnings"*) ok "make cuda-check" ;;
    *) not_ok "make cuda-check: $(tail -n 5 <<<"$message")" ;;
    esac
fi
exit $failed
