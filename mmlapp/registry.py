# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Registries of the plugin: children of MMEngine's roots, scope ``mmlapp``.

``locations`` are imported lazily at the first look-up, so a config that says
``type='mmlapp.X'`` works with or without ``custom_imports``. MMEngine finds
this file by its name: it must stay ``registry.py``.
"""

from .compat import check_versions

check_versions()

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmlapp',
    locations=['mmlapp.engine', 'mmlapp.models'],
)
MODEL_WRAPPERS = Registry(
    'model_wrapper',
    parent=MMENGINE_MODEL_WRAPPERS,
    scope='mmlapp',
    locations=['mmlapp.engine'],
)
HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='mmlapp',
    locations=['mmlapp.engine'],
)
OPTIM_WRAPPERS = Registry(
    'optim_wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='mmlapp',
    locations=['mmlapp.engine'],
)
DATASETS = Registry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='mmlapp',
    locations=['mmlapp.datasets'],
)
# Inputs of models that no shape describes, see ``input_shape``.
FUNCTIONS = Registry(
    'function',
    parent=MMENGINE_FUNCTIONS,
    scope='mmlapp',
    locations=['mmlapp.engine'],
)
