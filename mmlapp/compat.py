# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The versions of MMEngine and MMCV that the adapters are written for.

Called by ``mmlapp/registry.py``, the door through which MMEngine comes in.
``mmlapp`` and ``mmlapp.core`` need neither package.
"""

from importlib import import_module
from importlib.util import find_spec

# module: (lowest version that works, first version that may not)
SUPPORTED = {
    'mmengine': ('0.10.7', '1.0.0'),
    'mmcv': ('2.1.0', '3.0.0'),
}


def check_versions() -> None:
    """Checks that MMEngine, and MMCV where it is installed, fit this package.

    Raises:
        ModuleNotFoundError: If MMEngine is not installed.
        RuntimeError: If an installed version is outside its bounds. It is no
            ``ImportError``, because MMEngine hides those of a registry.

    Examples:
        >>> from mmlapp.compat import check_versions
        >>> check_versions()
    """
    if find_spec('mmengine') is None:
        raise ModuleNotFoundError(
            'mmlapp.engine needs MMEngine, which is not installed: '
            f'{_remedy("mmengine")} Only mmlapp.core works without it.'
        )
    for module in SUPPORTED:
        if find_spec(module) is not None:
            _check_version(module, import_module(module).__version__)


def _check_version(module: str, version: str) -> None:
    from mmengine.utils import digit_version

    low, high = SUPPORTED[module]
    fits = digit_version(low) <= digit_version(version) < digit_version(high)
    if not fits:
        raise RuntimeError(
            f'{module}=={version} is installed, but this version of mmlapp '
            f'needs {module}>={low},<{high}: {_remedy(module)}'
        )


def _remedy(module: str) -> str:
    low, high = SUPPORTED[module]
    return (
        f"run pip install 'onedl-{module}>={low},<{high}' for the maintained "
        f'distribution, or the same with {module} for the original one. Both '
        f'provide the module `{module}`: uninstall one before you install '
        'the other.'
    )
