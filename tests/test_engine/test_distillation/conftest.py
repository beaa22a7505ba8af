# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A trained dense model, and runs that learn from it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from teachers import build, config_of, save


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a dense model."""
    folder = tmp_path_factory.mktemp('teacher')
    return save(folder / 'dense.pth', build(config_of(prunable=False)))


@pytest.fixture
def distil(
    make_runner: Callable[..., Runner], checkpoint: str
) -> Callable[..., Runner]:
    """Builds runners with a ``Distiller``, as ``Runner.from_cfg`` does."""

    def make(
        change: Callable[[dict[str, Any]], None] | None = None,
        teacher: Any = None,
        kwargs: Any = None,
        **settings: Any,
    ) -> Runner:
        hook = dict(type='mmlapp.Distiller', **settings)
        hook['teacher'] = teacher or dict(checkpoint=checkpoint)

        def add(config: dict[str, Any]) -> None:
            config['custom_hooks'].append(hook)
            if change is not None:
                change(config)
            config['cfg'] = Config(copy.deepcopy(config))

        return make_runner(add, **(kwargs or {}))

    return make
