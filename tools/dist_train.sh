#!/usr/bin/env bash
# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
#
# Trains with several processes on each machine: one for each GPU, over NCCL,
# or without a GPU that many processes on the CPU, over gloo.
#
#   tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]
#
# On several machines set NNODES, NODE_RANK (0, 1, ...) and MASTER_ADDR; PORT
# if two runs share a machine; PYTHON for another interpreter than `python`.
set -euo pipefail

if (($# < 2)); then
    echo 'usage: tools/dist_train.sh CONFIG PROCESSES [argument ...]' >&2
    exit 2
fi
config=$1
processes=$2
shift 2
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" \
    --node-rank "${NODE_RANK:-0}" \
    --nproc-per-node "$processes" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" \
    --master-port "${PORT:-29500}" \
    "$tools/train.py" "$config" --launcher pytorch "$@"
