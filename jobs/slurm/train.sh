#!/bin/bash
# Trains on a Slurm cluster.
#
#   sbatch jobs/slurm/train.sh [CONFIG.yaml] [--set KEY=VALUE]...
#   sbatch --nodes=4 --gpus-per-node=4 --ntasks-per-node=4 jobs/slurm/train.sh jobs/configs/ml-20m.yaml
#   sbatch --ntasks-per-node=8 jobs/slurm/train.sh CONFIG.yaml --set parallel.item=8    # a catalogue of millions: see README
#
# Submit it from any directory: paths count from there. What is below can be given otherwise to sbatch, as above, with
# --partition and --account as your site wants. Modules loaded in the shell that calls sbatch are loaded in the job.
#
# Ahead of the time limit (VAECF_AHEAD, --signal), and when preempted, vaecf-train saves a checkpoint and exits 75. The job
# then puts itself back into the queue and goes on from there, VAECF_MAX_RESTARTS times (20). Any other failure ends it.
# jobs/common.sh lists the other settings.
#SBATCH --job-name=vaecf-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=2
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
set -u
told='' && trap 'told=USR1' USR1 # before jobs/common.sh does better
# Slurm runs a copy of this script; scontrol knows where the original is, and with it the project.
jobs=${VAECF_HOME:+$VAECF_HOME/jobs}
: "${jobs:=$(scontrol show job "${SLURM_JOB_ID:?submit me with sbatch}" | sed -n 's|^ *Command=\(.*/jobs\)/slurm/.*|\1|;T;p;q')}"
# shellcheck source=jobs/slurm/job.sh
. "$jobs/slurm/job.sh" || exit 66

config=$jobs/configs/ml-20m.yaml
if [[ ${1:-} == *.yaml ]]; then config=$1 && shift; fi

watch_limit
ranks vaecf-train --config "$config" "$@" --resume auto
requeue_or_exit $?
