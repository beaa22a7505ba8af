# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Registries of the plugin: children of MMEngine's roots, scope ``mmlapp``.

What is registered here refuses arguments that it does not take by our error.

``locations`` are imported lazily at the first look-up, so a config that says
``type='mmlapp.X'`` works with or without ``custom_imports``. MMEngine finds
this file by its name: it must stay ``registry.py``.
"""

from .compat import check_versions

check_versions()

from collections.abc import Callable
from functools import wraps
from inspect import isclass
from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from .core.arguments import check_arguments


class CheckedRegistry(Registry):
    """A registry whose entries name an unknown argument and what was meant.

    Python's own error names neither the value nor what could be given.
    """

    def _register_module(
        self,
        module: Callable[..., Any],
        module_name: str | list[str] | None = None,
        force: bool = False,
    ) -> None:
        first = module_name if isinstance(module_name, str) else None
        said = f'{self.scope}.{first or getattr(module, "__name__", module)}'
        if isclass(module):
            # In place: a class is also called without its registry.
            call = _checked(said, module, module.__init__, bound=1)
            module.__init__ = call  # type: ignore[misc]
        elif callable(module):
            module = _checked(said, module, module)
        super()._register_module(module, module_name, force)


def _checked(
    said: str,
    entry: Callable[..., Any],
    call: Callable[..., Any],
    bound: int = 0,
) -> Callable[..., Any]:
    """What calls ``call`` if the entry takes the arguments.

    The first ``bound`` ones are not the user's: ``self`` of a class.
    """

    @wraps(call)
    def checked(*args: Any, **settings: Any) -> Any:
        check_arguments(said, entry, args[bound:], settings)
        return call(*args, **settings)

    return checked


MODELS = CheckedRegistry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmlapp',
    locations=['mmlapp.engine', 'mmlapp.models'],
)
MODEL_WRAPPERS = CheckedRegistry(
    'model_wrapper',
    parent=MMENGINE_MODEL_WRAPPERS,
    scope='mmlapp',
    locations=['mmlapp.engine'],
)
HOOKS = CheckedRegistry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='mmlapp',
    locations=['mmlapp.engine'],
)
OPTIM_WRAPPERS = CheckedRegistry(
    'optim_wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='mmlapp',
    locations=['mmlapp.engine'],
)
DATASETS = CheckedRegistry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='mmlapp',
    locations=['mmlapp.datasets'],
)
TRANSFORMS = CheckedRegistry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmlapp',
    locations=['mmlapp.datasets'],
)
# Inputs of models that no shape describes, see ``input_shape``.
FUNCTIONS = CheckedRegistry(
    'function',
    parent=MMENGINE_FUNCTIONS,
    scope='mmlapp',
    locations=['mmlapp.engine'],
)
