#!/bin/bash
# jobs/rank.sh [NAME=VALUE]... PROGRAM ARGUMENT...: between the launcher and a rank. Takes the job's environment from its
# arguments, as not every launcher brings it to other nodes; binds the rank to its share of the job's cores; tells where it
# runs; becomes the program. Of the GPUs that it sees the program takes the one of its local rank, so this must leave all of
# the job's visible: no --gpus-per-task, no --gpu-bind.
while [[ ${1:-} =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; do export "${1?}" && shift; done
rank=${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-${PMI_RANK:-${SLURM_PROCID:-0}}}}
local_rank=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-${MPI_LOCALRANKID:-${PALS_LOCAL_RANKID:-0}}}}

# local_ranks: how many ranks run on this node; nothing if the launcher does not tell
local_ranks() {
    if [ -n "${OMPI_COMM_WORLD_LOCAL_SIZE:-${MPI_LOCALNRANKS:-${PALS_LOCAL_SIZE:-}}}" ]; then
        echo "${OMPI_COMM_WORLD_LOCAL_SIZE:-${MPI_LOCALNRANKS:-$PALS_LOCAL_SIZE}}"
    elif [ -n "${SLURM_PROCID:-}" ]; then # "2(x3),1": of each node
        tr ',' '\n' <<<"${SLURM_STEP_TASKS_PER_NODE:-}" | awk -F '[(x)]+' -v node="${SLURM_NODEID:-0}" \
            'NF { n += (NF > 1 ? $2 : 1) } n > node { print $1; exit }'
    fi
}
cpus() { sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status; } # that this rank may run on: 0-3,8
# numbers LIST: "0-1,8" as a line a number
numbers() { tr ',' '\n' <<<"$1" | awk -F- 'NF { for (n = $1; n <= $NF; n++) print n }'; }
# cores: of these CPUs, a line each, "CORE CPU", sorted
cores() {
    local cpu siblings
    for cpu in $(numbers "$(cpus)"); do
        siblings=$cpu
        read -r siblings 2>/dev/null </sys/devices/system/cpu/cpu"$cpu"/topology/thread_siblings_list
        echo "${siblings%%[-,]*} $cpu"
    done | sort -n -k 1,1 -k 2,2
}

# is_ours: are the CPUs that this rank may run on the job's alone? So if nobody else is on the node, or if the system lets the
# job run on a part of the machine, of as many cores as it asked for. Else two jobs on a node would bind to the same ones.
is_ours() {
    local online mask=$1
    if [ "${VAECF_BIND:-}" = cores ] || [ "${VAECF_WHOLE_NODE:-}" = yes ]; then return 0; fi
    online=$(numbers "$(cat /sys/devices/system/cpu/online)" | wc -l)
    [ "$(wc -l <<<"$mask")" -lt "$online" ] &&
        [ "$(cut -d' ' -f1 <<<"$mask" | uniq | wc -l)" -le "${SLURM_CPUS_ON_NODE:-${VAECF_NCPUS:-$online}}" ]
}

# share: the CPUs of this rank, of those in the lines of `cores`: whole cores if there is one for each thread, hardware
# threads if these suffice; nothing if neither. The first line says which.
share() {
    awk -v ranks="$(local_ranks)" -v rank="$local_rank" -v threads="${OMP_NUM_THREADS:-1}" '
        { cpu[++n] = $2; if (NR == 1 || $1 != last) cores++; core[n] = cores; last = $1 }
        END {
            if (!ranks) exit
            if (cores >= ranks * threads) { print "cores"; size = int(cores / ranks) }
            else if (n >= ranks * threads) { print "threads"; size = int(n / ranks); for (i = 1; i <= n; i++) core[i] = i }
            else exit
            for (i = 1; i <= n; i++) if (core[i] > rank * size && core[i] <= (rank + 1) * size) print cpu[i]
        }'
}

bound=no
if [ "${VAECF_BIND:-}" = launcher ]; then
    bound=cores
elif [ "${VAECF_BIND:-}" != none ]; then
    mask=$(cores)
    mapfile -t own < <(if is_ours "$mask"; then share <<<"$mask"; fi)
    if [ ${#own[@]} -gt 1 ] && taskset -pc "$(IFS=, && echo "${own[*]:1}")" $$ >/dev/null 2>&1; then bound=${own[0]}; fi
fi
if [ "$bound" = no ]; then
    unset OMP_PLACES
    export OMP_PROC_BIND=false
else
    export OMP_PLACES=$bound OMP_PROC_BIND=close
fi

# The GPUs that the queue gave this job here; without its word, those that the node has.
if [ -z "${CUDA_VISIBLE_DEVICES+set}" ]; then
    gpus=(/dev/nvidia[0-9]*)
    if [ -e "${gpus[0]}" ]; then gpus=("${gpus[@]#/dev/nvidia}"); else gpus=(); fi
else
    IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
fi
gpu=none
if [ ${#gpus[@]} -gt 0 ]; then gpu=${gpus[local_rank % ${#gpus[@]}]}; fi

if [ "$rank" -lt 64 ]; then # of a large job the first ones tell enough
    if [ "$bound" = no ]; then how=", not bound"; fi
    echo "rank $rank on $(hostname -s): cores $(cpus)${how:-}, ${OMP_NUM_THREADS:-all} threads, GPU $gpu"
fi
exec "$@"
