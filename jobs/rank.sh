#!/bin/bash
# jobs/rank.sh PROGRAM ARGUMENT...: between the launcher and a rank. Tells where the rank runs, and becomes the program. Of
# the GPUs that it sees the program takes the one of its local rank, so this must leave all of the job's visible: no
# --gpus-per-task, no --gpu-bind.
rank=${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-${PMI_RANK:-${SLURM_PROCID:-0}}}}
local_rank=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-${MPI_LOCALRANKID:-${PALS_LOCAL_RANKID:-0}}}}

# The GPUs that the queue gave this job here; without its word (Slurm always gives it), those that the node has.
if [ -z "${CUDA_VISIBLE_DEVICES+set}" ] && [ -z "${SLURM_JOB_ID:-}" ]; then
    gpus=(/dev/nvidia[0-9]*)
    if [ -e "${gpus[0]}" ]; then gpus=("${gpus[@]#/dev/nvidia}"); else gpus=(); fi
else
    IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
fi
gpu=none
if [ ${#gpus[@]} -gt 0 ]; then gpu=${gpus[local_rank % ${#gpus[@]}]}; fi

if [ "$rank" -lt 64 ]; then # of a large job the first ones tell enough
    cores=$(sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status)
    echo "rank $rank on $(hostname -s): cores $cores, ${OMP_NUM_THREADS:-all} threads, GPU $gpu"
fi
exec "$@"
