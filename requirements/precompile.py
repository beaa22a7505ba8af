# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Precompiles the header of PyTorch that each source of mmcv begins with.

    CFLAGS="$(python requirements/precompile.py FOLDER)" pip wheel ...

Reading that header is most of what compiling one of mmcv's 78 sources takes.
The flags are printed only if a trial shows that the compiler takes the
precompiled form. They change nothing but the time: where GCC finds that it
does not fit, it reads the header itself.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

HEADER = 'torch/types.h'


def compile_command() -> list[str]:
    """The compiler and the flags with which an extension is built."""
    import setuptools  # noqa: F401  (brings the distutils that is used)
    from torch.utils.cpp_extension import include_paths

    from distutils.ccompiler import new_compiler  # isort: skip
    from distutils.sysconfig import customize_compiler  # isort: skip

    settings = new_compiler()
    customize_compiler(settings)
    python = [sysconfig.get_path(p) for p in ('include', 'platinclude')]
    return [
        # As BuildExtension of torch: its compiler, the flags of Python's.
        *shlex.split(os.environ.get('CXX', 'c++')),
        *settings.compiler_so[1:],
        *(f'-I{path}' for path in (*include_paths(), *python)),
        '-std=c++17',
        '-DTORCH_API_INCLUDE_EXTENSION_H',
    ]


def precompile(
    folder: Path, command: Sequence[str], header: str = HEADER
) -> list[str]:
    """Precompiles a header; returns the flags that make use of it.

    Args:
        folder (Path): Where the precompiled header goes, a few hundred MB.
        command (Sequence[str]): Compiler and flags of the sources.
        header (str): As an include directive names it. Defaults to
            ``torch/types.h``.

    Returns:
        list[str]: Flags for the sources; none if the compiler is not GCC or
        does not take what it made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outer = folder.resolve() / 'precompiled.hpp'
    source = folder / 'trial.cpp'
    outer.write_text(f'#include <{header}>\n')
    source.write_text(f'#include <{header}>\nint trial() {{ return 0; }}\n')
    flags = ['-include', str(outer)]
    steps = (
        [*command, '-x', 'c++-header', str(outer), '-o', f'{outer}.gch'],
        # What a source defines itself must not matter to the header.
        [*command, *flags, '-Winvalid-pch', '-Werror=invalid-pch',
         '-DTORCH_EXTENSION_NAME=_ext', '-c', str(source),
         '-o', str(source.with_suffix('.o'))],
    )  # fmt: skip
    if is_gcc(command) and all(succeeds(step) for step in steps):
        return flags
    return []


def is_gcc(command: Sequence[str]) -> bool:
    """Whether the compiler takes precompiled headers as GCC does."""
    # Both call themselves GCC in a macro, and only one of them Clang.
    macros = run([*command, '-dM', '-E', '-x', 'c++', '/dev/null'])
    text = macros.stdout if macros else ''
    return '__GNUC__' in text and '__clang__' not in text


def succeeds(command: Sequence[str]) -> bool:
    """Whether a command can be run and ends well."""
    result = run(command)
    return result is not None and result.returncode == 0


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """Runs a command, its errors unheard: the build will tell them."""
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None


if __name__ == '__main__':
    sys.stdout.write(
        shlex.join(precompile(Path(sys.argv[1]), compile_command()))
    )
