#!/bin/bash
# Trains on a cluster with OpenPBS or PBS Pro.
#
#   qsub -v "$(jobs/pbs/args jobs/configs/ml-20m.yaml --set train.epochs=50)" jobs/pbs/train.sh
#   qsub -v "$(jobs/pbs/args my.yaml)" -l select=4:ncpus=32:mpiprocs=4:ngpus=4 -l walltime=12:00:00 jobs/pbs/train.sh
# A catalogue of millions: jobs/pbs/args CONFIG.yaml --set parallel.item=8 (see README).
#
# mpiprocs is the ranks of a chunk, and ncpus / mpiprocs the threads of each. From another directory than the project's,
# from where paths in the arguments count: qsub -v "$(/the/project/jobs/pbs/args ...),VAECF_HOME=/the/project"
# /the/project/jobs/pbs/train.sh. PBS does not bring along the modules of your shell: write `module load ...` into jobs/site.sh.
#
# On Torque: qsub -v VAECF_ARGS,VAECF_THREADS=4 -l nodes=2:ppn=16 (16 / 4 ranks a node; -t for -J; -k oe for -k doe).
#
# Two minutes before the walltime is over (VAECF_AHEAD) vaecf-train saves a checkpoint and exits 75; the job then submits
# itself again and goes on from there, VAECF_MAX_RESTARTS times (20). Any other failure ends it, qdel does too.
# jobs/common.sh and jobs/pbs/job.sh have more settings.
#PBS -N vaecf-train
#PBS -l select=1:ncpus=4:mpiprocs=2
#PBS -l walltime=04:00:00
#PBS -j oe
#PBS -k doe
#PBS -r y
set -u
# PBS runs a copy of this script; the project is where it was submitted, or where VAECF_HOME says.
jobs=${VAECF_HOME:-${PBS_O_WORKDIR:-.}}/jobs
# shellcheck source=jobs/pbs/job.sh
. "$jobs/pbs/job.sh" || { echo "error: no jobs/pbs/job.sh in ${jobs%/jobs}: qsub -v VAECF_HOME=/the/folder" >&2 && exit 66; }

config=$jobs/configs/ml-20m.yaml
if [[ ${1:-} == *.yaml ]]; then config=$1 && shift; fi

watch_limit
warn_of "$(value depend <<<"$about")"
ranks vaecf-train --config "$config" "$@" --resume auto
continue_or_exit $? train.sh
