# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import re
import subprocess
import sys
from pathlib import Path

import mmcv
import mmengine
import pytest

from mmlapp.compat import SUPPORTED, check_versions

REQUIREMENTS = Path(__file__).parents[1] / 'requirements'

# Stands in for environments that lack packages, one after the other.
WITHOUT = """
import sys

missing = 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'fvcore'
sys.modules.update(dict.fromkeys(missing))
from mmlapp import core

for name in missing[1:]:
    del sys.modules[name]
try:
    import mmlapp.registry
except ModuleNotFoundError as error:
    print(error)
del sys.modules['mmengine']
sys.modules['mmcv'] = None
import mmlapp.registry

print(mmlapp.registry.MODELS.scope)
"""


def run_python(code):
    return subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ('module', 'version', 'fits'),
    [
        (mmengine, '0.10.6', False),
        (mmengine, '0.10.7', True),
        (mmengine, '0.10.12', True),
        (mmengine, '1.0.0', False),
        (mmcv, '2.0.1', False),
        (mmcv, '2.1.0', True),
        (mmcv, '2.3.6', True),
        (mmcv, '3.0.0', False),
    ],
)
def test_bounds(monkeypatch, module, version, fits):
    monkeypatch.setattr(module, '__version__', version)
    if fits:
        check_versions()
        return
    name = module.__name__
    with pytest.raises(RuntimeError, match=f'{name}=={version}') as info:
        check_versions()
    low, high = SUPPORTED[name]
    assert f"pip install 'onedl-{name}>={low},<{high}'" in str(info.value)
    assert f'module `{name}`: uninstall one' in str(info.value)


def test_the_extra_asks_for_the_same_bounds():
    text = (REQUIREMENTS / 'mminstall.txt').read_text()
    bounds = re.findall(r'onedl-(mmengine|mmcv)>=(.*),<(.*)', text)
    assert {name: (low, high) for name, low, high in bounds} == SUPPORTED


def test_what_is_missing_is_missed_by_nobody_else():
    """The core needs torch alone, the registry no mmcv; both are told."""
    result = run_python(WITHOUT)
    assert result.returncode == 0, result.stderr
    error, scope = result.stdout.splitlines()
    assert error.startswith('mmlapp.engine needs')
    assert 'onedl-mmengine' in error
    assert 'the same with mmengine for the original one' in error
    assert scope == 'mmlapp'


def test_the_error_is_not_swallowed_by_a_lookup():
    # MMEngine turns an ImportError of a registry module into a warning.
    result = run_python(
        'import mmengine\n'
        'from mmengine.registry import MODELS\n'
        "mmengine.__version__ = '0.9.0'\n"
        "MODELS.build(dict(type='mmlapp.PrunableModel'))"
    )
    error = result.stderr.splitlines()[-1]
    assert error.startswith('RuntimeError: mmengine==0.9.0 is installed')
