#!/bin/bash
# A launcher of another MPI, or srun without PMIx, starts several processes that do not know of each other: each program
# refuses, one of them tells why, and nothing is written. The environment is that of such a launcher; there is none.
# shellcheck source=tests/common.sh
. tests/common.sh

gzip -dc preprocess/debian-build-depends.csv.gz | head -n 5000 >"$tmp/part.csv"
cat >"$tmp/run.yaml" <<Y
data: {path: $tmp/data}
model: {hidden: [20], latent: 8}
train: {epochs: 1}
output: {path: $tmp/run}
Y
preprocess=("$bin/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 5 --heldout-users 50)
train=("$bin/vaecf-train" --config "$tmp/run.yaml")
"${preprocess[@]}" --output "$tmp/data" >/dev/null && "${train[@]}" >/dev/null || exit 1
preprocess+=(--output "$tmp/new-data")
train+=(--set "output.path=$tmp/new-run")
# shellcheck disable=SC2034  # the programs are used by name
evaluate=("$bin/vaecf-evaluate" --checkpoint "$tmp/run/best.h5" --data "$tmp/data" --output "$tmp/new.csv")
# shellcheck disable=SC2034
recommend=("$bin/vaecf-recommend" --checkpoint "$tmp/run/best.h5" --input "$tmp/part.csv" --output "$tmp/new.csv")

# start PROGRAM VARIABLE=VALUE...: $status, and what it says in said
start() {
    local -n command=$1
    timeout 120 env "${@:2}" "${command[@]}" >"$tmp/said" 2>&1 </dev/null
    status=$?
}
is_clean() { [ -z "$(find "$tmp" -name 'new*')" ]; }
# refuses PROGRAM RANKS VARIABLE=VALUE...: with one line; silently if RANKS is 0
refuses() {
    start "$1" "${@:3}"
    if [ $status = 71 ] && is_clean && [ "$(wc -l <"$tmp/said")" = $(($2 > 0)) ] &&
        { [ "$2" = 0 ] || grep -qE "^vaecf: error: $2 processes .* mpirun .* srun --mpi=pmix" "$tmp/said"; }; then
        ok "vaecf-$1 with ${*:3}: 71$([ "$2" != 0 ] || echo ", silently")"
    else
        not_ok "vaecf-$1 with ${*:3}: $status, $(find "$tmp" -name 'new*' | tr '\n' ' '): $(head -n 5 "$tmp/said")"
        rm -rf "$tmp"/new*
    fi
}
# works PROGRAM VARIABLE=VALUE...
works() {
    start "$@"
    if [ $status = 0 ] && ! is_clean; then ok "vaecf-$1 with ${*:2} works"; else
        not_ok "vaecf-$1 with ${*:2}: $status: $(head -n 5 "$tmp/said")"
    fi
    rm -rf "$tmp"/new*
}

for program in preprocess train evaluate recommend; do
    refuses $program 4 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=0
    refuses $program 0 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=1
    works $program SLURM_NTASKS=4 SLURM_PROCID=0 # a batch script
done
# Another MPI may itself look at these, and end as it likes.
if "$bin/vaecf-train" --version | grep -q 'Open MPI'; then
    for program in preprocess evaluate; do
        refuses $program 4 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=0
        refuses $program 3 PMI_SIZE=3 PMI_RANK=0
        refuses $program 0 PMI_SIZE=3 PMI_RANK=2
        refuses $program 2 MPI_LOCALNRANKS=2 MPI_LOCALRANKID=0
        refuses $program 2 PALS_LOCAL_SIZE=2 PALS_RANKID=0
        works $program PMI_SIZE=1 PMI_RANK=0 SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=3 # daemons in the step of Slurm
    done
fi
# mpirun in such a step is another matter.
train=(mpirun -n 2 "${train[@]}")
works train SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=0
exit $failed
