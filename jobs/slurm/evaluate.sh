#!/bin/bash
# Metrics of a trained model on a Slurm cluster: RUN/test.csv of RUN/best.h5, or what the options say
# (validation.csv with --split validation, test-blend.csv with --blend).
#
#   sbatch jobs/slurm/evaluate.sh RUN [option of vaecf-evaluate]...
#   sbatch --nodes=2 jobs/slurm/evaluate.sh results/runs/ml-20m --split validation
#SBATCH --job-name=vaecf-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=2
#SBATCH --time=01:00:00
#SBATCH --output=slurm-%x-%j.out
set -u
# Slurm runs a copy of this script; scontrol knows where the original is, and with it the project.
jobs=${VAECF_HOME:+$VAECF_HOME/jobs}
: "${jobs:=$(scontrol show job "${SLURM_JOB_ID:?submit me with sbatch}" | sed -n 's|^ *Command=\(.*/jobs\)/slurm/.*|\1|;T;p;q')}"
# shellcheck source=jobs/slurm/job.sh
. "$jobs/slurm/job.sh" || exit 66

evaluate "$@"
