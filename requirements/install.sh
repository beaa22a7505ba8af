#!/usr/bin/env bash
# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
#
# Creates or completes the environment of lock.txt; the Makefile calls it.
#
#   requirements/install.sh VENV KEY [STEP]
#
# VENV    folder of the virtual environment
# KEY     names this set of requirements; what is done is noted inside VENV
# STEP    classifiers  what needs no compiler: all that trains classifiers
#         operators    a wheel of mmcv with the compiled operators, which
#                      detectors need. It is put into VENV/wheels and not
#                      installed: programs of VENV may run meanwhile
#         all          everything; the default
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
ready=$venv/.ready-$2
classifiers_ready=$venv/.classifiers-$2
step=${3:-all}
wheels=${WHEELS:-}
built=$venv/wheels
trial=$venv/wheels.new
pip_log=$venv/pip.log
mmcv_log=$venv/mmcv.log

say() { printf '>> %s\n' "$*"; }

fail() {
    printf 'make env: %s\n' "$*" >&2
    exit 1
}

python() { "$venv/bin/python" "$@"; }

pip() {
    local verb=$1
    shift
    python -m pip "$verb" --disable-pip-version-check \
        --constraint requirements/lock.txt "$@"
}

# Why pip gave up, in one line.
pip_error() {
    if grep -qiE 'NewConnectionError|NameResolutionError|ConnectTimeout' \
        "$pip_log"; then
        echo 'no package index could be reached. Is there a network? A' \
            'mirror is named by PIP_INDEX_URL, a folder by PIP_FIND_LINKS'
    else
        grep -iE '^ *error|No space left' "$pip_log" | tail -n 1 || true
    fi
}

install() {
    if ! pip install --quiet "$@" >"$pip_log" 2>&1; then
        fail "pip could not install what requirements/ names: $(pip_error)" \
            "(all that it said: $pip_log). Start it again to go on."
    fi
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

# One line on why the operators cannot be compiled; nothing if they can. A
# small file tells at once what the sources of mmcv tell after minutes.
compiler_problem() {
    local said folders
    mapfile -t folders < <(python -c 'import sysconfig
for name in ("include", "platinclude"):
    print("-I" + sysconfig.get_path(name))')
    said=$("${CXX:-c++}" "${folders[@]}" -std=c++17 -fsyntax-only -x c++ - \
        <<<$'#include <Python.h>\n#include <optional>' 2>&1) && return
    said=$(grep -m 1 -iE 'error|not found|no such' <<<"$said" || true)
    said=${said##*error: }
    echo 'the operators of mmcv need a C++17 compiler and the headers of' \
        "Python, and ${CXX:-c++} fails: ${said##*: line [0-9]*: } (Debian:" \
        'apt-get install g++ python3-dev)'
}

has_wheel() { compgen -G "$1/onedl_mmcv-*.whl" >/dev/null; }

# Said before the first gigabyte is fetched.
foresee_compiler() {
    local problem
    if [[ -n $wheels ]] && has_wheel "$wheels"; then return; fi
    problem=$(compiler_problem)
    if [[ -z $problem ]]; then return; fi
    if [[ $step == all ]]; then fail "$problem"; fi
    say "WARNING: only classifiers will work: $problem"
}

has_gpu() {
    python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
}

has_operators() {
    python -W ignore - "$1" <<'END'
import sys

import torch
from mmcv.ops import nms

box, score = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)
nms(box.to(sys.argv[1]), score.to(sys.argv[1]), 0.5)
END
}

# In isolation, where there is no torch, mmcv leaves its operators out. Such a
# wheel must not get into pip's cache, where a later build would find it.
install_mmcv_without_operators() {
    install --no-cache-dir --no-deps ${wheels:+--find-links "$wheels"} \
        onedl-mmcv
}

install_classifiers() {
    if [[ -e $classifiers_ready ]]; then return; fi
    rm -f "$venv"/.{ready,classifiers}-*
    foresee_compiler
    say 'Installing torch (about 3 GB, two minutes)'
    install torch torchvision --requirement requirements/build.txt
    say 'Installing OpenMMLab'
    install_mmcv_without_operators
    # Without isolation: the pinned setuptools builds what comes as source.
    install --no-build-isolation --requirement requirements/runtime.txt \
        --requirement requirements/mminstall.txt \
        --requirement requirements/optional.txt
    # imaug brings both builds of OpenCV, which share their files. The one
    # that is installed last wins, and only this one runs without libGL.
    install --force-reinstall --no-deps opencv-python-headless
    install_mmlapp
    touch "$classifiers_ready"
}

# A shared environment serves many clones: they find mmlapp by PYTHONPATH.
install_mmlapp() {
    if [[ $venv -ef .venv ]]; then
        install --no-deps --no-build-isolation --editable .
    fi
}

# Prints the progress of ninja, "[12/78]", out of pip's long log.
build_progress() {
    grep --line-buffered --only-matching '^ *\[[0-9]*/[0-9]*\]' || true
}

# build_wheel CFLAGS [OPTION OF PIP ...]
build_wheel() {
    local flags=$1
    shift
    rm -rf "$trial"
    CFLAGS=$flags MAX_JOBS=${MAX_JOBS:-$(nproc)} pip wheel --verbose \
        --verbose --no-deps --no-build-isolation --wheel-dir "$trial" "$@" \
        onedl-mmcv 2>&1 | tee "$mmcv_log" | build_progress
}

# With a GPU in sight mmcv compiles CUDA code too, which needs a CUDA compiler
# of the version that torch was built with; many machines have none.
compile_operators() {
    # In the place of Python's own flags, which ask for debug information.
    local plain="-O2 -DNDEBUG -g0 ${CFLAGS:-}" header
    headers=$(mktemp -d)
    trap 'rm -rf "$headers"' EXIT
    header=$(CFLAGS=$plain python requirements/precompile.py "$headers") ||
        say 'Without precompiled headers: slower'
    if build_wheel "$header $plain" "$@"; then return; fi
    if has_gpu; then
        say 'That failed. Once more, with the operators for the CPU only'
        if CUDA_VISIBLE_DEVICES='' build_wheel "$header $plain" "$@"; then
            return
        fi
    fi
    if [[ -n $header ]]; then
        say 'That failed. Once more, without precompiled headers'
        if CUDA_VISIBLE_DEVICES='' build_wheel "$plain" "$@"; then return; fi
    fi
    tail -n 30 "$mmcv_log" >&2
    fail "onedl-mmcv could not be built (whole log: $mmcv_log)."
}

# Takes a wheel if it works with this torch: it may come from pip's cache.
accept_wheel() {
    pip install --quiet --no-deps --target "$trial/mmcv" \
        "$trial"/onedl_mmcv-*.whl >/dev/null 2>&1 || return
    PYTHONPATH=$trial/mmcv has_operators cpu 2>/dev/null || return
    rm -rf "$trial/mmcv" "$built"
    mv "$trial" "$built"
}

build_operators() {
    if has_operators cpu 2>/dev/null || has_wheel "$built"; then return; fi
    local problem
    problem=$(compiler_problem)
    if [[ -n $problem ]]; then fail "$problem"; fi
    say 'Compiling the operators of mmcv (some minutes)'
    compile_operators
    if accept_wheel; then return; fi
    say 'A wheel without working operators: once more, from the source'
    compile_operators --no-cache-dir --no-binary onedl-mmcv
    accept_wheel || fail 'the compiled operators of mmcv do not work' \
        "(log: $mmcv_log). Remove $venv and start again."
}

install_operators() {
    if ! has_operators cpu 2>/dev/null; then
        install --force-reinstall --no-deps "$built"/onedl_mmcv-*.whl
    fi
    rm -rf "$built"
    has_operators cpu || fail 'mmcv has no working operators, see above.' \
        "Remove $venv and start again."
    if has_gpu && ! has_operators cuda 2>/dev/null; then
        say 'WARNING: the operators of mmcv were built without CUDA:' \
            'classifiers use the GPU, detectors need' \
            'CUDA_VISIBLE_DEVICES= or a CUDA compiler. With the compiler:' \
            "rm -r $venv && make env WHEELS="
    fi
}

install_all() {
    install_classifiers
    build_operators
    install_operators
    say 'Installing the tools of development'
    install --requirement requirements/export.txt \
        --requirement requirements/tests.txt
    touch "$ready"
    say "Ready: $venv"
}

trap 'say "Interrupted: start it again to go on"; exit 130' INT TERM
case $step in
classifiers | all) run=install_$step ;;
operators) run=build_operators ;;
*) fail "STEP=$step: expected classifiers, operators or all." ;;
esac
if [[ -e $ready && -x $venv/bin/python ]]; then exit; fi
create_venv
"$run"
