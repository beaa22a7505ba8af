#!/usr/bin/env bash
# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
#
# Trains as a job of Slurm, with one process for each GPU.
#
#   tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR \
#       [arguments of tools/train.py]
#
# GPUS (8), GPUS_PER_NODE (8) and CPUS_PER_TASK (5) size the job, SRUN_ARGS
# holds more arguments of srun, PYTHON another interpreter than `python`.
set -euo pipefail

if (($# < 4)); then
    echo 'usage: tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR' \
        '[argument ...]' >&2
    exit 2
fi
partition=$1
job=$2
config=$3
work_dir=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
# SRUN_ARGS is a list of words.
# shellcheck disable=SC2086
exec srun --partition "$partition" --job-name "$job" \
    --gres "gpu:$per_node" --ntasks "$gpus" --ntasks-per-node "$per_node" \
    --cpus-per-task "${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$tools/train.py" "$config" \
    --work-dir "$work_dir" --launcher slurm "$@"
