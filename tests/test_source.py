# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEADER = [
    '# Copyright (c) mmlapp authors. All rights reserved.',
    '# SPDX-License-Identifier: Apache-2.0',
]
FOLDERS = ['benchmarks', 'mmlapp', 'tests', 'tools', 'requirements']
SOURCES = [
    path
    for folder in FOLDERS
    for pattern in ('*.py', '*.sh')
    for path in sorted((ROOT / folder).rglob(pattern))
    if '.mim' not in path.parts
]
CORE = sorted((ROOT / 'mmlapp' / 'core').rglob('*.py'))
# Everything that the core may import besides itself.
ALLOWED = {*sys.stdlib_module_names, 'torch'}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def has_header(path):
    lines = path.read_text(encoding='utf-8').splitlines()
    start = 1 if lines and lines[0].startswith('#!') else 0
    return lines[start : start + 2] == HEADER


def test_every_file_has_the_licence_header():
    assert [relative(path) for path in SOURCES if not has_header(path)] == []


def imported_modules(source, package):
    """Absolute names of what a module of a package imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level]
            module = [node.module] if node.module else []
            yield '.'.join([*(base if node.level else ()), *module])


def forbidden_imports(source, package):
    return [
        name
        for name in imported_modules(source, package)
        if name.partition('.')[0] not in ALLOWED
        and not f'{name}.'.startswith('mmlapp.core.')
    ]


@pytest.mark.parametrize('path', CORE, ids=relative)
def test_core_imports_torch_only(path):
    package = path.relative_to(ROOT).parent.parts
    assert not forbidden_imports(path.read_text(encoding='utf-8'), package)


@pytest.mark.parametrize(
    ('source', 'forbidden'),
    [
        ('import math, torch.nn', []),
        ('from . import masks', []),
        ('from ..core.masks import Mask', []),
        ('from mmlapp.core import masks', []),
        ('import torchvision', ['torchvision']),
        ('import mmengine.dist as dist', ['mmengine.dist']),
        ('def f():\n    from fvcore.nn import x', ['fvcore.nn']),
        ('from .. import engine', ['mmlapp']),
        ('from ..registry import MODELS', ['mmlapp.registry']),
        ('from mmlapp.core_extra import x', ['mmlapp.core_extra']),
    ],
)
def test_the_boundary_check_sees_each_form(source, forbidden):
    assert forbidden_imports(source, ('mmlapp', 'core')) == forbidden
