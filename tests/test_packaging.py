# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from mmlapp import __version__

ROOT = Path(__file__).parents[1]
# What a build reads of the repository.
SOURCES = [
    'CHANGELOG.md',
    'CITATION.cff',
    'LICENSE',
    'MANIFEST.in',
    'README.md',
    'configs',
    'mmlapp',
    'model-index.yml',
    'pyproject.toml',
    'requirements',
    'setup.py',
    'tools',
]
OPENMMLAB = ('mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'onedl')


def files_below(folder, *patterns):
    """Relative paths of the files, hidden folders and caches left out."""
    for pattern in patterns:
        for path in (ROOT / folder).rglob(pattern):
            relative = path.relative_to(ROOT)
            if not any(part.startswith('.') for part in relative.parts):
                yield relative.as_posix()


def copy_sources(target):
    ignore = shutil.ignore_patterns('__pycache__', '*.egg-info')
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, target / name, symlinks=True, ignore=ignore
            )
        else:
            shutil.copy(source, target / name)


def build(kind, source, target):
    """Build an sdist or a wheel as pip does, without a network."""
    code = (
        'import sys\n'
        'from setuptools import build_meta\n'
        f'build_meta.build_{kind}(sys.argv[1])'
    )
    command = [sys.executable, '-c', code, str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(target.iterdir())


@pytest.fixture(scope='module')
def source_tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp('source')
    copy_sources(folder)
    return folder


@pytest.fixture(scope='module')
def unpacked_sdist(source_tree, tmp_path_factory):
    archive = build('sdist', source_tree, tmp_path_factory.mktemp('sdist'))
    folder = tmp_path_factory.mktemp('unpacked')
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter='data')
    return next(folder.iterdir())


@pytest.fixture(scope='module', params=['source_tree', 'unpacked_sdist'])
def wheel(request, tmp_path_factory):
    source = request.getfixturevalue(request.param)
    target = tmp_path_factory.mktemp('wheel')
    with zipfile.ZipFile(build('wheel', source, target)) as archive:
        yield archive


def metadata(wheel):
    name = f'mmlapp-{__version__}.dist-info/METADATA'
    return Parser().parsestr(wheel.read(name).decode())


def test_wheel_holds_every_module_of_the_package(wheel):
    packed = {
        name
        for name in wheel.namelist()
        if name.endswith('.py') and not name.startswith('mmlapp/.mim/')
    }
    assert packed == set(files_below('mmlapp', '*.py'))
    assert 'mmlapp/py.typed' in wheel.namelist()


def test_wheel_holds_real_files_for_mim(wheel):
    packed = set(wheel.namelist())
    expected = {
        *files_below('configs', '*.py', '*.yml', '*.md'),
        *files_below('tools', '*.py', '*.sh'),
        'model-index.yml',
    }
    missing = {f'mmlapp/.mim/{name}' for name in expected} - packed
    assert not missing
    train = wheel.read('mmlapp/.mim/tools/train.py')
    assert train == (ROOT / 'tools' / 'train.py').read_bytes()


def test_wheel_installs_nothing_else(wheel):
    tops = {name.partition('/')[0] for name in wheel.namelist()}
    assert tops == {'mmlapp', f'mmlapp-{__version__}.dist-info'}


def test_no_openmmlab_package_is_required(wheel):
    required = [
        Requirement(line) for line in metadata(wheel).get_all('Requires-Dist')
    ]
    always = [item.name for item in required if item.marker is None]
    assert 'torch' in always
    assert not [name for name in always if name.startswith(OPENMMLAB)]


@pytest.mark.parametrize(
    ('extra', 'names'),
    [
        ('mim', {'onedl-mmengine', 'onedl-mmcv'}),
        ('optional', {'fvcore', 'scikit-learn'}),
        ('tests', {'pytest'}),
        ('export', {'onnx', 'onnxruntime', 'safetensors'}),
        ('all', {'fvcore', 'onnx', 'pytest'}),
    ],
)
def test_extras(wheel, extra, names):
    required = [
        Requirement(line) for line in metadata(wheel).get_all('Requires-Dist')
    ]
    chosen = {
        item.name
        for item in required
        if item.marker and item.marker.evaluate({'extra': extra})
    }
    assert names <= chosen


def test_metadata(wheel):
    fields = metadata(wheel)
    assert fields['Version'] == __version__
    assert fields['License'] == 'Apache-2.0'
    assert set(fields['Requires-Python'].split(',')) == {'>=3.10', '<3.13'}


def test_version_is_canonical():
    assert str(Version(__version__)) == __version__


def test_version_is_that_of_the_citation():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    assert citation['license'] == 'Apache-2.0'


def test_version_is_the_latest_of_the_changelog():
    text = (ROOT / 'CHANGELOG.md').read_text()
    versions = re.findall(r'^## \[(\d.*)\]', text, re.MULTILINE)
    assert versions[0] == __version__


def test_model_index_lists_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert sorted(index['Import']) == sorted(
        files_below('configs', 'metafile.yml')
    )


def test_every_requirement_is_locked():
    lines = (ROOT / 'requirements' / 'lock.txt').read_text().splitlines()
    pins = [Requirement(x) for x in lines if x and not x.startswith('#')]
    assert all(str(pin.specifier).startswith('==') for pin in pins)
    locked = {pin.name: pin.specifier for pin in pins}
    kinds = ('build', 'export', 'mminstall', 'optional', 'runtime', 'tests')
    for name in kinds:
        path = ROOT / 'requirements' / f'{name}.txt'
        for line in path.read_text().splitlines():
            if not line.startswith('#'):
                wanted = Requirement(line)
                pin = str(locked[wanted.name]).removeprefix('==')
                assert pin in wanted.specifier
