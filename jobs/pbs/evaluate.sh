#!/bin/bash
# Metrics of a trained model on a cluster with OpenPBS or PBS Pro: RUN/test.csv of RUN/best.h5, or what the options say
# (validation.csv with --split validation, test-blend.csv with --blend).
#
#   qsub -v "$(jobs/pbs/args results/runs/ml-20m --split validation)" jobs/pbs/evaluate.sh
#PBS -N vaecf-evaluate
#PBS -l select=1:ncpus=4:mpiprocs=2
#PBS -l walltime=01:00:00
#PBS -j oe
#PBS -k doe
set -u
# PBS runs a copy of this script; the project is where it was submitted, or where VAECF_HOME says.
jobs=${VAECF_HOME:-${PBS_O_WORKDIR:-.}}/jobs
# shellcheck source=jobs/pbs/job.sh
. "$jobs/pbs/job.sh" || { echo "error: no jobs/pbs/job.sh in ${jobs%/jobs}: qsub -v VAECF_HOME=/the/folder" >&2 && exit 66; }

evaluate "$@"
