#!/bin/bash
# Trains the runs of a sweep on a Slurm cluster, as an array of jobs.
#
#   sbatch --array=0-5 jobs/slurm/sweep.sh jobs/configs/sweep-ml-100k.yaml [--set KEY=VALUE]...
#
# An array 0-N shares out all runs: of 18 runs in 6 slots, slot 2 trains 2, 8 and 14. Any other array names runs:
#
#   sbatch --array=3    jobs/slurm/sweep.sh jobs/configs/sweep-ml-100k.yaml     # run 3 again, alone
#   sbatch --array=7,11 jobs/slurm/sweep.sh jobs/configs/sweep-ml-100k.yaml
#
# --array=0-17%4 has at most four at a time. A run that is complete is left alone, one that was stopped goes on. Each
# slot goes back into the queue by itself as train.sh does. `vaecf-sweep FILE` shows the runs, `vaecf-collect` the results.
#SBATCH --job-name=vaecf-sweep
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=2
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%A_%a.out
set -u
told='' && trap 'told=USR1' USR1 # before jobs/common.sh does better
# Slurm runs a copy of this script; scontrol knows where the original is, and with it the project.
jobs=${VAECF_HOME:+$VAECF_HOME/jobs}
: "${jobs:=$(scontrol show job "${SLURM_JOB_ID:?submit me with sbatch}" | sed -n 's|^ *Command=\(.*/jobs\)/slurm/.*|\1|;T;p;q')}"
# shellcheck source=jobs/slurm/job.sh
. "$jobs/slurm/job.sh" || exit 66

slots=0
if [ "$SLURM_ARRAY_TASK_MIN" = 0 ] && [ "$SLURM_ARRAY_TASK_COUNT" = $((SLURM_ARRAY_TASK_MAX + 1)) ] &&
    [ "$SLURM_ARRAY_TASK_COUNT" -gt 1 ]; then
    slots=$SLURM_ARRAY_TASK_COUNT
fi
watch_limit
sweep "$SLURM_ARRAY_TASK_ID" "$slots" "${SLURM_RESTART_COUNT:-0}" "${1:?want a sweep file: jobs/configs/sweep-*.yaml}" "${@:2}"
requeue_or_exit $?
