# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import ast
import re
import sys
from pathlib import Path

import pytest
from structure import cycles, imports_between, part_of

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
# Folders and files of a package, lowest first: each imports from itself and
# from lower ones alone.
ORDER = {
    'core': [
        'errors',
        'numbers',
        'patterns',
        'arguments',
        'choices',
        'files',
        'default_device',
        'forward_names',
        'hiding',
        'heirs',
        'mixins',
        'attention',
        'held',
        'derived',
        'generators',
        'writes',
        'snapshot',
        'uninitialised',
        'compare',
        'progress',
        'segments',
        'distillation',
        'trace',
        'touched',
        'floors',
        'streams',
        'groups',
        'gathering',
        'sole_paths',
        'bypass',
        'mask',
        'plan',
        'cost',
        'score',
        'units',
        'methods',
        'misuse',
        'pruner',
        'narrowing',
        'handover',
        'analysis',
        'attach',
        'criteria',
    ],
    'engine': [
        'hook_list',
        'run_end',
        'failures',
        'terminal',
        'known_notes',
        'output_files',
        'sizes',
        'pages',
        'models',
        'checkpoints',
        'config_files',
        'run_config',
        'training',
        'lengthening',
        'launch',
        'deployment',
        'distillation',
        'analysis',
        'export',
        'latency',
        'benchmark',
        'criteria',
        'report',
    ],
}
# Imports that go upwards all the same, until somebody moves what they import.
UPWARD = {
    'core': [],
    'engine': [],
}
# Least share of the lines that are comments: shapes, derivations, reasons.
COMMENTED = {'core': 0.041, 'engine': 0.038}
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


@pytest.fixture(scope='module')
def imports():
    """What every module of the package imports."""
    return imports_between(
        path
        for path in SOURCES
        if relative(path).startswith('mmlapp/') and path.suffix == '.py'
    )


def upward_imports(imports, top, order):
    """Modules below a package that import from a higher part, and from which.

    A part without a place in the order is lower than all others: whatever it
    imports goes upwards.
    """
    place = {name: number for number, name in enumerate(order)}
    return sorted(
        f'{module}: {part_of(target, top)}'
        for module, targets in imports.items()
        if module.startswith(f'{top}.')
        for target in targets
        if target.startswith(f'{top}.')
        and place.get(part_of(module, top), -1)
        < place.get(part_of(target, top), len(order))
    )


@pytest.mark.parametrize('name', ORDER)
def test_folders_import_from_lower_ones(imports, name):
    found = upward_imports(imports, f'mmlapp.{name}', ORDER[name])
    assert found == UPWARD[name]


@pytest.mark.parametrize('name', ORDER)
def test_every_folder_has_its_place_in_the_order(name):
    parts = {
        path.stem
        for path in (ROOT / 'mmlapp' / name).iterdir()
        if path.suffix == '.py' or (path / '__init__.py').exists()
    }
    assert parts - {'__init__'} == set(ORDER[name])


def named_in_the_page(name):
    """Parts of a package as docs/architecture.md has them in its table."""
    page = (ROOT / 'docs' / 'architecture.md').read_text('utf-8')
    _, _, section = page.partition('## What may import what')
    _, _, table = section.partition(f'| `{name}` | |')
    rows = table.partition('\n\n')[0]
    return re.findall(r'`(\w+)/?`', rows)


@pytest.mark.parametrize('name', ORDER)
def test_the_page_has_every_part_in_this_order(name):
    assert named_in_the_page(name) == ORDER[name]


def test_no_modules_import_each_other(imports):
    assert cycles(imports) == []


def test_the_guard_sees_imports_that_go_upwards():
    imports = {
        'p': {'p.high.a'},
        'p.high.a': {'p.low', 'p.high.b'},
        'p.high.b': {'other.high'},
        'p.low': {'p.high.a'},
        'p.new': {'p.low'},
    }
    found = upward_imports(imports, 'p', ['low', 'high'])
    assert found == ['p.low: high', 'p.new: low']


def comment_share(folder):
    """Comments that have a line of their own over all lines of a folder."""
    lines = [
        line.strip()
        for path in sorted((ROOT / 'mmlapp' / folder).rglob('*.py'))
        for line in path.read_text(encoding='utf-8').splitlines()
    ]
    comments = [s for s in lines if s.startswith('#') and s not in HEADER]
    return len(comments) / len(lines)


@pytest.mark.parametrize('folder', COMMENTED)
def test_code_is_commented(folder):
    assert comment_share(folder) >= COMMENTED[folder]


def without_test(folder):
    """Source files of a folder of the package without a test of their name."""
    for path in sorted((ROOT / 'mmlapp' / folder).rglob('*.py')):
        inner = path.relative_to(ROOT / 'mmlapp')
        parts = [f'test_{part}' for part in inner.parts]
        if (
            path.stem != '__init__'
            and not ROOT.joinpath('tests', *parts).exists()
        ):
            yield inner.as_posix()


def test_every_source_file_has_a_test_file_of_its_name():
    found = {*without_test('core'), *without_test('engine')}
    assert found == set()
