#!/usr/bin/env bash
# Train every line of a manifest: sbatch --array=1-6%2 [SBATCH OPTIONS] slurm/array.sh MANIFEST
#
# A line holds the options of one `fit`, quoted as for a shell, which expands nothing; empty lines and
# lines that begin with a # do not count. --array=1-6 trains the first six, %2 two at a time. Environment
# variables, nodes and GPUs are as in train.sh, which must lie beside this file.
#SBATCH --job-name=reslightning
#SBATCH --output=slurm-%A_%a.out
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR2@120
set -eo pipefail

refuse() { echo "array.sh: $1" >&2; exit 2; }
usage="sbatch --array=1-N slurm/array.sh MANIFEST"
[ $# = 1 ] || refuse "expected one manifest, got $# arguments; usage: $usage"
[ -r "$1" ] || refuse "cannot read the manifest $1 from $PWD"
[ -n "${SLURM_ARRAY_TASK_ID:-}" ] || refuse "this is no job array; usage: $usage"

# Slurm runs a copy of this file; the original's place is in the job's record. The last task's
# SLURM_JOB_ID is the whole array's, so the task is asked for by its number.
job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
original=$(scontrol show job "$job" 2>/dev/null | sed -n 's/^ *Command=\(.*\/array\.sh\).*/\1/p') || true
train=$(dirname "${original:-${SLURM_SUBMIT_DIR:-.}/slurm/array.sh}")/train.sh
[ -r "$train" ] || refuse "no train.sh at $train"
exec bash "$train" --manifest "$1"
