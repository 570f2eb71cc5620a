#!/bin/bash
# Makes a dataset directory on a cluster with OpenPBS or PBS Pro; the arguments are the options of vaecf-preprocess.
#
#   p=$(qsub -v "$(jobs/pbs/args --input ratings.csv --output data/ml-20m --min-rating 4 --heldout-users 10000)" \
#       jobs/pbs/preprocess.sh)
#
# Then train and evaluate, each when the one before has succeeded; a training that goes on as another job takes those
# that wait for it along:
#
#   t=$(qsub -v "$(jobs/pbs/args jobs/configs/ml-20m.yaml)" -W depend=afterok:$p jobs/pbs/train.sh)
#   qsub -v "$(jobs/pbs/args results/runs/ml-20m)" -W depend=afterok:$t jobs/pbs/evaluate.sh
#PBS -N vaecf-preprocess
#PBS -l select=1:ncpus=2:mpiprocs=1
#PBS -l walltime=01:00:00
#PBS -j oe
#PBS -k doe
set -u
# PBS runs a copy of this script; the project is where it was submitted, or where VAECF_HOME says.
jobs=${VAECF_HOME:-${PBS_O_WORKDIR:-.}}/jobs
# shellcheck source=jobs/pbs/job.sh
. "$jobs/pbs/job.sh" || { echo "error: no jobs/pbs/job.sh in ${jobs%/jobs}: qsub -v VAECF_HOME=/the/folder" >&2 && exit 66; }

show vaecf-preprocess "$@"
start vaecf-preprocess "$@"
