#!/usr/bin/env bash
# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
#
# Evaluates with several processes on each machine: one for each GPU, over
# NCCL, or without a GPU that many processes on the CPU, over gloo.
#
#   tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [arguments of tools/test.py]
#
# On several machines set NNODES, NODE_RANK (0, 1, ...) and MASTER_ADDR; PORT
# if two runs share a machine; PYTHON for another interpreter than `python`.
set -euo pipefail

if (($# < 3)); then
    echo 'usage: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES' \
        '[argument ...]' >&2
    exit 2
fi
config=$1
checkpoint=$2
processes=$3
shift 3
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" \
    --node-rank "${NODE_RANK:-0}" \
    --nproc-per-node "$processes" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" \
    --master-port "${PORT:-29500}" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
