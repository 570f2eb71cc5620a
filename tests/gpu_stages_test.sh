#!/bin/bash
# tests/gpu/run.sh without a GPU: a pack made of the host emulation, with stand-ins for what NVIDIA and PyTorch bring along.
# All stages run; what was done before a kill stays; a stage that proved nothing does not pass; results merge.
# plain build alone: that is what is packed
# shellcheck disable=SC2016,SC2317  # what another shell expands; functions that check calls
# shellcheck source=tests/common.sh
. tests/common.sh
build=${BUILD:-build}
if [ ! -x "$build/cuda_host/bench_gpu" ]; then not_ok "no host emulation of CUDA: it takes a C++ compiler" && exit 1; fi
if ! mpirun --version 2>/dev/null | grep -q '(Open MPI) 4'; then echo "skipped: a pack takes Open MPI 4" && exit 0; fi
unset MAKEFLAGS MAKELEVEL MFLAGS

pack=$tmp/vaecf-gpu
check "packing" env EMULATION=yes FOLDER="$pack" BIN="$bin" BUILD="$build" tests/gpu/pack.sh
shell=(env -i HOME="$tmp" PATH=/usr/bin:/bin)
# The libraries of the C library and of the compiler are the machine's, all others the pack's.
strangers() {
    "${shell[@]}" bash -c '. "$0/env.sh" && ldd "$0"/bin/vaecf-* "$0"/build/tests/bench/gpu "$0"/mpi/bin/mpirun' "$pack" |
        grep -vE "=> $pack/lib/|linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s)\.so|^/.*:$"
}
check "its libraries are its own" [ -z "$(strangers)" ]

# In place of cuda_backend_test, which takes a minute on the emulation: what it would print, or what $FUNCTIONS says.
cat >"$pack/build/tests/cuda_backend_test" <<'F'
#!/bin/bash
if [ "${FUNCTIONS:-}" = silent ]; then exit 0; fi
if [ "${FUNCTIONS:-}" = library ]; then echo "error while loading shared libraries: libcublasLt.so.13" >&2 && exit 127; fi
echo "[==========] Running 3 test(s)."
for name in test_a test_b test_c; do
    echo "[ RUN      ] $name"
    if [ $name = test_c ]; then
        case ${FUNCTIONS:-} in
        aborts) kill -ABRT $$ ;;
        fewer) break ;;
        fails) echo "[  FAILED  ] $name" && exit 1 ;;
        skips) echo "[  SKIPPED ] $name" && continue ;;
        hangs) sleep 60 ;;
        esac
    fi
    echo "[       OK ] $name"
done
echo "[==========] 3 test(s) run."
F
"$bin/vaecf-synthesize" --users 150 --items 60 --interactions 2000 --output "$tmp/people.csv" 2>"$tmp/err" &&
    "$bin/vaecf-preprocess" --input "$tmp/people.csv" --heldout-users 20 --output "$tmp/people" >"$tmp/err" 2>&1
check "small data" [ -e "$tmp/people" ]

mapfile -t small <tests/gpu/small.env
small+=(DATA="$tmp/people")
# run NAME [VARIABLE=VALUE]...: into $tmp/NAME
run() { timeout 500 "${shell[@]}" "${small[@]}" OUT="$tmp/$1" "${@:2}" "$pack/run.sh" >"$tmp/$1.said" 2>&1; }
# result NAME STAGE: how it ended, of the machine and program that are known
result() { awk -F, -v stage="$2" '$1 == "Stand-in GPU" && $2 != "" && $4 == stage { print $5 }' "$tmp/$1/stages.csv" | paste -sd' '; }
# whole NAME: every line of every table is complete
whole() {
    local file
    for file in "$tmp/$1"/*.csv; do
        [ -z "$(tail -c 1 "$file")" ] && awk -F, 'NR == 1 { n = NF } NF != n || $1 == "" { bad = 1 } END { exit bad || NR < 1 }' "$file" || return 1
    done
}
lines() { tail -n +2 "$tmp/$1/$2.csv" 2>/dev/null | wc -l; }

# ---- all stages ----
run all STAGES=all
check "all stages end well" [ $? = 0 ]
for stage in versions functions kernels losses memcheck sweep pytorch precisions racecheck speeds tuning ranks latency suite; do
    check "$stage: pass" [ "$(result all $stage)" = pass ]
done
check "at most 8 files, of whole lines" [ "$(find "$tmp/all" -type f | wc -l)" = 8 ]
check "all lines are whole" whole all
check "kernels of a step" [ "$(lines all kernels)" = 87 ]
check "each switch of cuda/tuning.h is turned, or waits for several ranks" [ "$(grep -oE 'SWITCH\([a-z0-9_]+, [01]\)' cuda/tuning.c | sed -E 's/.*\(//; s/,.*//' | sort | paste -sd' ')" = \
    "$(sed -nE 's/^tunings.*="(.*)"/\1/p' tests/gpu/stages.sh | tr ' ' '\n' | sed 's/^-//' | grep -v = | sort | paste -sd' ')" ]
check "and has its ratio to the default" [ "$(awk -F, '$4 == "tuning" && $5 == "fp8" && $12 > 0' "$tmp/all/steps.csv" | wc -l)" = 2 ]

# ---- kills ----
# killed NAME STAGE TABLE ROWS [VARIABLE=VALUE]...: all processes, when the stage runs and the table has so many rows
killed() {
    local name=$1 stage=$2 table=$3 rows=$4 job
    reached() { grep -qs "^=== $stage" "$tmp/$name/log.txt" && [ "$(lines "$name" "$table")" -ge "$rows" ]; }
    setsid "${shell[@]}" "${small[@]}" OUT="$tmp/$name" "${@:5}" "$pack/run.sh" >"$tmp/$name.said" 2>&1 &
    job=$!
    within 60 reached || not_ok "$name: $stage was not reached"
    pkill -KILL -s $job
    wait $job 2>/dev/null
}
killed functions functions machine 1 STAGES="versions functions" FUNCTIONS=hangs
check "killed in functions: what was before is there" [ "$(result functions versions),$(result functions functions),$(lines functions machine)" = "pass,,1" ]
check "whole" whole functions
killed kernels kernels kernels 3 STAGES="versions functions kernels"
check "killed in kernels: what was before is there" [ "$(result kernels versions),$(result kernels functions),$(result kernels kernels)" = "pass,pass," ]
check "and the kernels so far" [ "$(lines kernels kernels)" -ge 3 ]
check "whole" whole kernels
killed sweep sweep train 1 STAGES="functions sweep"
check "killed in sweep: what was before is there" [ "$(result sweep functions),$(result sweep sweep),$(lines sweep train)" = "pass,,$(lines sweep train)" ]
check "and a batch" [ "$(lines sweep train)" -ge 1 ]
check "whole" whole sweep
run sweep STAGES=sweep
check "the stage again: the killed training's lock is no hindrance" [ "$(result sweep functions),$(result sweep sweep),$(lines sweep train)" = "pass,pass,3" ]
TO=$tmp/merged tests/gpu/merge.sh "$tmp/kernels" >"$tmp/out"
check "merged: a stage without an end is unfinished" grep -q '^Stand-in GPU,.*,kernels,unfinished,' "$tmp/merged/stages.csv"
run kernels STAGES=kernels
check "the stage again, in the same folder" [ "$(result kernels versions),$(result kernels kernels),$(lines kernels kernels)" = "pass,pass,58" ]

# ---- a stage that takes too long, or fails, does not stop the next ----
run late STAGES="functions pytorch" FUNCTIONS=hangs LIMIT=8
check "out of time: status 1" [ $? = 1 ]
check "and told" [ "$(result late functions),$(result late pytorch)" = "timeout,skipped" ]
# fails NAME STAGE RESULT [VARIABLE=VALUE]...
fails() {
    run "$1" STAGES="$2 pytorch" "${@:4}"
    check "$1: $2 is $3, and the next one runs" [ "$(result "$1" "$2"),$(result "$1" pytorch)" = "$3,pass" ]
}
for plant in silent library aborts fewer fails skips; do fails functions-$plant functions fail FUNCTIONS=$plant; done
fails memcheck-errors memcheck fail SANITIZER_FINDS=errors
fails memcheck-silent memcheck fail FUNCTIONS=silent
fails memcheck-refuses memcheck skipped SANITIZER_FINDS=refuses
fails racecheck-ours racecheck fail SANITIZER_FINDS=ours
fails racecheck-library racecheck pass SANITIZER_FINDS=library
check "whose hazards are told" grep -q ',racecheck: hazards in kernels of libraries,1,,$' "$tmp/racecheck-library/checks.csv"
fails no-gpu losses fail VAECF_HOST_GPUS=0
mv "$pack/build/tests/bench/gpu" "$tmp/bench" && printf '#!/bin/bash\n' >"$pack/build/tests/bench/gpu" && chmod +x "$pack/build/tests/bench/gpu"
fails silent-bench kernels fail
mv "$tmp/bench" "$pack/build/tests/bench/gpu"
mkdir "$tmp/lost" && printf '#!/bin/bash\necho "libcublasLt.so.13 => not found"\n' >"$tmp/lost/ldd" && chmod +x "$tmp/lost/ldd"
run lost STAGES=versions PATH="$tmp/lost:/usr/bin:/bin"
check "a library that is nowhere: versions fails, where its results belong" [ "$(result lost versions)" = fail ]
run unknown STAGES="functions magic"
check "an unknown stage is told" grep -q 'magic: want first, later, all' "$tmp/unknown.said"
mv "$pack/stand_ins/nvidia-smi" "$tmp"
run nothing
check "no GPU: one line" [ "$?,$(wc -l <"$tmp/nothing.said"),$(grep -c 'there is no GPU on this machine' "$tmp/nothing.said")" = 1,1,1 ]

# ---- merging ----
sed 's/^Stand-in GPU/Another GPU/' -i "$tmp/late"/*.csv
TO=$tmp/merged tests/gpu/merge.sh "$tmp/all" "$tmp/late" "$tmp/functions-aborts" >"$tmp/out"
both() { awk -F, -v gpu="$1" '$1 == gpu && $4 == "functions" { print $5 }' "$tmp/merged/stages.csv" | paste -sd' '; }
check "the same stage, commit and GPU is replaced" [ "$(both "Stand-in GPU")" = fail ]
check "another GPU stays" [ "$(both "Another GPU")" = timeout ]
check "other stages stay" [ "$(awk -F, '$4 == "sweep" && $5 == "pass"' "$tmp/merged/stages.csv" | wc -l),$(lines merged latency)" = "1,$(lines all latency)" ]
check "README.md has both" [ "$(grep -c '^## .* GPU, commit ' "$tmp/merged/README.md"),$(grep -cE '^\| functions \| (fail|timeout) \|' "$tmp/merged/README.md")" = 2,2 ]

# ---- jobs/slurm/scaling.sh, on this machine's CPU ----
mkdir "$tmp/fake" && printf '#!/bin/bash\nexit 1\n' >"$tmp/fake/scontrol" && chmod +x "$tmp/fake/scontrol"
scaling() {
    timeout 120 env PATH="$tmp/fake:$PATH" SLURM_JOB_ID=1 SLURM_NNODES=1 SLURM_JOB_NODELIST=here VAECF_HOME="$PWD" VAECF_LAUNCH=mpirun \
        OUT="$tmp/scaling" DEVICE=cpu GPUS="1 2" PRECISIONS="fp32 bf16" SEEDS="$1" EPOCHS=1 BATCH=20 OMP_NUM_THREADS=1 \
        jobs/slurm/scaling.sh --set data.path="$tmp/people" --set 'model.hidden=[8]' --set model.latent=4 >"$tmp/out" 2>&1
}
scaling 1
check "scaling.sh: GPUs, precisions and ways to travel" [ "$? $(cut -d, -f1-3 "$tmp/scaling/scaling.csv" | tail -n +2 | paste -sd' ')" = \
    "0 1,fp32,fp32 2,fp32,fp32 1,bf16,fp32 2,bf16,fp32 2,bf16,compute" ]
check "each with its speed, efficiency and ndcg" [ "$(grep -cE '^[12],[a-z0-9]+,(fp32|compute),1,(20|40),[0-9]+,[0-9.]+,0\.[0-9]+$' "$tmp/scaling/scaling.csv")" = 5 ]
cp "$tmp/scaling/scaling.csv" "$tmp/before"
sed -i '$d' "$tmp/scaling/scaling.csv" # as after a kill
scaling "1 2"
check "again: what is there is not run again" [ "$(head -n 5 "$tmp/before" | cmp - <(head -n 5 "$tmp/scaling/scaling.csv") && grep -c 'jobs/rank.sh .*vaecf-train' "$tmp/out")" = 6 ]
check "and the table of both seeds" [ "$(grep -cE '^(fp32|bf16) +(fp32|compute) +[12] .* 2$' "$tmp/out")" = 5 ]
exit $failed
