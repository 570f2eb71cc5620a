#!/bin/bash
# Trains the runs of a sweep on a cluster with OpenPBS or PBS Pro, as an array of jobs.
#
#   args=$(jobs/pbs/args jobs/configs/sweep-ml-100k.yaml)
#   qsub -v "$args" -J 0-5 jobs/pbs/sweep.sh
#
# An array 0-N shares out all runs: of 18 runs in 6 slots, slot 2 trains 2, 8 and 14. Run 3 again, alone:
#
#   qsub -v "$args,VAECF_RUN=3" jobs/pbs/sweep.sh
#
# -J 0-17%4 has at most four at a time (OpenPBS 20 and later). A run that is complete is left alone, one that was stopped
# goes on; a slot at its limit goes on as a job of its own. On Torque: -t for -J, and VAECF_SLOTS=6 by -v.
#PBS -N vaecf-sweep
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

slots=${VAECF_SLOTS:-}
if [ -z "${VAECF_RUN:-}" ]; then
    VAECF_RUN=${PBS_ARRAY_INDEX:-${PBS_ARRAYID:?want an array, qsub -J 0-5, or one run, -v VAECF_RUN=3}}
    if [ -z "$slots" ]; then # of the array, 12[3].server -> 12[].server
        slots=$(ask "${PBS_ARRAY_ID:-${PBS_JOBID/\[*\]/[]}}" | value array_indices_submitted | sed -n 's/^0-\([0-9]*\)\(%.*\)*$/\1/p')
        slots=${slots:+$((slots + 1))}
    fi
fi
export VAECF_RUN VAECF_SLOTS=${slots:-0} # a continuation is no array
watch_limit
warn_of "$(ask "${PBS_JOBID/\[*\]/[]}" | value depend)"
sweep "$VAECF_RUN" "$VAECF_SLOTS" "$restarts" "${1:?want a sweep file, jobs/configs/sweep-*.yaml}" "${@:2}"
continue_or_exit $? sweep.sh
