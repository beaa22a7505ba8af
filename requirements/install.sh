#!/usr/bin/env bash
# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
#
# Creates or completes the environment of lock.txt; `make env` calls it.
#
#   requirements/install.sh VENV STAMP
#
# VENV    folder of the virtual environment
# STAMP   file that is written inside VENV once everything is installed
#
# PYTHON  interpreter of a new environment (default: the first of python3.11,
#         python3.12, python3.10, python3 that is 3.10-3.12)
# WHEELS  folder with a wheel of mmcv; empty: mmcv is built from source
#
# Every step can be repeated, so a run that was interrupted is simply started
# again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH

venv=$1
stamp=$venv/$2
wheels=${WHEELS:-}
mmcv_log=$venv/mmcv.log

say() { printf '>> %s\n' "$*"; }

fail() {
    printf 'make env: %s\n' "$*" >&2
    exit 1
}

python() { "$venv/bin/python" "$@"; }

install() {
    python -m pip install --quiet --disable-pip-version-check \
        --constraint requirements/lock.txt "$@"
}

# The import of ensurepip is what Debian's python3 lacks without python3-venv.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.10 python3}; do
        if "$candidate" -c 'import ensurepip, sys, venv
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "${PYTHON:-none of python3.11, python3.12, python3.10, python3} is" \
        'not a Python 3.10-3.12 with the module venv (Debian: apt-get' \
        'install python3-venv). Name another one: make env PYTHON=/path/to/it'
}

create_venv() {
    if python -m pip --version >/dev/null 2>&1; then
        return
    fi
    if [[ -n $(ls -A "$venv" 2>/dev/null) && ! -e $venv/pyvenv.cfg ]]; then
        fail "MMLAPP_VENV=$venv is neither empty nor a virtual environment:" \
            'choose another folder.'
    fi
    local base
    base=$(find_python)
    say "Creating $venv with $base ($("$base" --version 2>&1))"
    "$base" -m venv --clear "$venv"
}

has_gpu() {
    python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
}

# Prints the progress of ninja, "[12/78]", out of pip's long log.
build_progress() {
    grep --line-buffered --only-matching '^ *\[[0-9]*/[0-9]*\]' || true
}

build_mmcv() {
    MMCV_WITH_OPS=1 CFLAGS="-g0 ${CFLAGS:-}" \
        install --verbose --verbose --no-build-isolation "$@" onedl-mmcv 2>&1 |
        tee "$mmcv_log" | build_progress
}

# With a GPU in sight mmcv compiles CUDA code too, which needs a CUDA compiler
# of the version that torch was built with; many machines have none.
install_mmcv() {
    if build_mmcv "$@"; then
        return
    fi
    if has_gpu; then
        say 'That failed. Once more, with the operators for the CPU only'
        CUDA_VISIBLE_DEVICES='' build_mmcv "$@" && return
    fi
    tail -n 30 "$mmcv_log" >&2
    fail "onedl-mmcv could not be installed (whole log: $mmcv_log). Its" \
        'source needs a C++17 compiler and the headers of Python (Debian:' \
        'apt-get install g++ python3-dev).'
}

check_operators() {
    python -W ignore - "$1" <<'EOF'
import sys

import torch
from mmcv.ops import nms

box, score = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)
nms(box.to(sys.argv[1]), score.to(sys.argv[1]), 0.5)
EOF
}

check_mmcv() {
    if ! check_operators cpu 2>/dev/null; then
        say 'This mmcv has no working operators: building it from source'
        install_mmcv --force-reinstall --no-deps --no-cache-dir \
            --no-binary onedl-mmcv
        check_operators cpu || fail 'the compiled operators of mmcv are' \
            'missing (from mmcv.ops import nms fails, see above), although' \
            "it was built from source (log: $mmcv_log). Remove $venv and" \
            'start again.'
    fi
    if has_gpu && ! check_operators cuda 2>/dev/null; then
        say 'WARNING: the operators of mmcv were built without CUDA:' \
            'classifiers use the GPU, detectors need' \
            'CUDA_VISIBLE_DEVICES= or a CUDA compiler. With the compiler:' \
            "rm -r $venv && make env WHEELS="
    fi
}

# A shared environment serves many clones: they find mmlapp by PYTHONPATH.
install_mmlapp() {
    if [[ $venv -ef .venv ]]; then
        install --no-deps --no-build-isolation --editable .
    fi
}

trap 'say "Interrupted: start it again to go on"; exit 130' INT TERM
create_venv
rm -f "$venv"/.ready-*
say 'Installing torch (about 3 GB, two minutes)'
install torch torchvision
say 'Installing build tools'
install --requirement requirements/build.txt
say 'Installing onedl-mmcv (compiled from source: about ten minutes on two' \
    'cores, unless a wheel is at hand)'
install_mmcv ${wheels:+--find-links "$wheels"}
say 'Installing OpenMMLab and the tools of development'
# Without isolation: the pinned setuptools builds what comes as source.
install --no-build-isolation --requirement requirements/runtime.txt \
    --requirement requirements/mminstall.txt \
    --requirement requirements/optional.txt \
    --requirement requirements/export.txt \
    --requirement requirements/tests.txt
# imaug brings both builds of OpenCV, which share their files. The one that is
# installed last wins, and only this one runs without libGL.
install --force-reinstall --no-deps opencv-python-headless
say 'Checking the operators of mmcv'
check_mmcv
install_mmlapp
touch "$stamp"
say "Ready: $venv"
