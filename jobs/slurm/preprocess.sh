#!/bin/bash
# Makes a dataset directory on a Slurm cluster; the options are those of vaecf-preprocess.
#
#   sbatch jobs/slurm/preprocess.sh --input ratings.csv --output data/ml-20m --min-rating 4 --heldout-users 10000
#
# Then train and evaluate, each when the one before has succeeded:
#
#   p=$(sbatch --parsable jobs/slurm/preprocess.sh --input ratings.csv --output data/ml-20m ...)
#   t=$(sbatch --parsable --dependency=afterok:$p jobs/slurm/train.sh jobs/configs/ml-20m.yaml)
#   sbatch --dependency=afterok:$t jobs/slurm/evaluate.sh results/runs/ml-20m
#SBATCH --job-name=vaecf-preprocess
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=01:00:00
#SBATCH --output=slurm-%x-%j.out
set -u
# Slurm runs a copy of this script; scontrol knows where the original is, and with it the project.
jobs=${VAECF_HOME:+$VAECF_HOME/jobs}
: "${jobs:=$(scontrol show job "${SLURM_JOB_ID:?submit me with sbatch}" | sed -n 's|^ *Command=\(.*/jobs\)/slurm/.*|\1|;T;p;q')}"
# shellcheck source=jobs/slurm/job.sh
. "$jobs/slurm/job.sh" || exit 66

show vaecf-preprocess "$@"
start vaecf-preprocess "$@"
