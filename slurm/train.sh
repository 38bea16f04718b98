#!/usr/bin/env bash
# Train on a Slurm cluster: sbatch [SBATCH OPTIONS] slurm/train.sh [FIT OPTIONS]
#
#   sbatch slurm/train.sh                                            the digits, one task
#   sbatch -N 2 --gpus-per-node=4 --cpus-per-gpu=8 slurm/train.sh -c imagenet
#   sbatch -N 2 --ntasks-per-node=4 slurm/train.sh -c cifar10        on nodes without GPUs
#
# One task for each GPU, or as many as are asked for. Partition, QOS, account and the variables
# below can come from a site's file: source slurm/sites/sol.env && sbatch ...
#
#   RESLIGHTNING_MODULES   modules to load, "mamba/latest"
#   RESLIGHTNING_VENV      a virtual environment's folder
#   RESLIGHTNING_CONDA     a conda or mamba environment's name
#
# With none of them, the python that was on the PATH at submission is used.
#SBATCH --job-name=reslightning
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR2@120
set -eo pipefail

if [ -n "${RESLIGHTNING_MODULES:-}" ]; then
    module purge
    # shellcheck disable=SC2086  # several modules
    module load $RESLIGHTNING_MODULES
fi
if [ -n "${RESLIGHTNING_VENV:-}" ]; then
    # shellcheck source=/dev/null
    source "$RESLIGHTNING_VENV/bin/activate"
elif [ -n "${RESLIGHTNING_CONDA:-}" ]; then
    # shellcheck source=/dev/null
    source activate "$RESLIGHTNING_CONDA"
fi
refuse() { echo "train.sh: $1; set RESLIGHTNING_VENV or RESLIGHTNING_CONDA to the environment that has it" >&2; exit 2; }
command -v python >/dev/null || refuse "no python"
needed='import reslightning.slurm; from importlib.metadata import version as v; v("lightning"), v("torch")'
missing=$(python -c "$needed" 2>&1) ||
    refuse "$(command -v python) cannot run reslightning (${missing##*$'\n'}): pip install it there, from $PWD say"

exec python -m reslightning.slurm launch "$@"
