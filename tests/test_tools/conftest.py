# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture(scope='session')
def load_tool():
    """Import a script of ``tools``, which is no package, by its name."""

    def load(name):
        spec = spec_from_file_location(f'tool_{name}', TOOLS / f'{name}.py')
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
