# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The flags are given only where the compiler takes the precompiled header."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'requirements' / 'precompile.py'
needs_gcc = pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')
SETUP = """
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

setup(
    name='trial',
    ext_modules=[CppExtension('trial', ['trial.cpp'])],
    cmdclass={'build_ext': BuildExtension},
)
"""


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('precompile', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_gcc
def test_a_source_is_compiled_with_the_flags(tool, tmp_path):
    command = ['g++', '-O1', '-fPIC']
    flags = tool.precompile(tmp_path / 'a b', command, 'cstddef')
    source = tmp_path / 'source.cpp'
    source.write_text('#include <cstddef>\nstd::size_t size = 3;\n')
    said = subprocess.run(
        [*command, *flags, '-H', '-c', source, '-o', tmp_path / 'source.o'],
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    # With -H GCC marks what it reads in precompiled form.
    assert f'! {tmp_path}/a b/precompiled.hpp.gch' in said


@needs_gcc
def test_a_header_that_is_not_there_gives_no_flags(tool, tmp_path):
    assert tool.precompile(tmp_path, ['g++'], 'no/such.hpp') == []


def test_a_compiler_that_is_not_there_gives_no_flags(tool, tmp_path):
    assert tool.precompile(tmp_path, ['no-such-compiler'], 'cstddef') == []


@pytest.mark.parametrize(
    ('macros', 'gcc'),
    [('__GNUC__ 12', True), ('__GNUC__ 4\n__clang__ 1', False), ('', False)],
)
def test_clang_is_told_from_gcc(tool, tmp_path, macros, gcc):
    compiler = tmp_path / 'c++'
    compiler.write_text(f"#!/bin/sh\ncat <<'E'\n{macros}\nE\n")
    compiler.chmod(0o755)
    assert tool.is_gcc([str(compiler)]) is gcc


@needs_gcc
@pytest.mark.slow
def test_torch_builds_extensions_with_the_same_flags(
    tool, tmp_path, monkeypatch
):
    """A precompiled header that does not fit is an error here."""
    # In the place of Python's own flags, as install.sh builds.
    plain = '-O2 -DNDEBUG -g0'
    monkeypatch.setenv('CFLAGS', plain)
    flags = tool.precompile(tmp_path, tool.compile_command(), 'cstddef')
    (tmp_path / 'setup.py').write_text(SETUP)
    (tmp_path / 'trial.cpp').write_text('#include <cstddef>\n')
    strict = '-H -Winvalid-pch -Werror=invalid-pch'
    built = subprocess.run(
        [sys.executable, 'setup.py', 'build_ext', '--inplace'],
        cwd=tmp_path,
        env={**os.environ, 'CFLAGS': ' '.join([*flags, plain, strict])},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert f'! {tmp_path}/precompiled.hpp.gch' in built.stdout + built.stderr
