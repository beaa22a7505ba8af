# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Configs: what pruning adds told from the user's, and the deployed one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.registry import HOOKS

from ..lengthening.entries import class_of
from ..models.arguments import check_unknown
from ..models.deployed import deployed_model, read_plans
from ..models.inputs import InputShape
from ..models.prunable import prunable_model

# Of a pruning config: of the plain one that takes its place.
PLAIN_WRAPPERS = {
    'PruningOptimWrapper': 'OptimWrapper',
    'AmpPruningOptimWrapper': 'AmpOptimWrapper',
}
# Hooks that a plain run has no use for, and all that are derived from them. By
# name, as Distiller lies above this folder.
RUN_HOOKS = {'PruningHook', 'RankCheckHook', 'Distiller', 'LabelRefiner'}
# What belongs to the run, not to the model.
RUN_KEYS = 'work_dir', 'launcher', 'load_from', 'resume'


def short_name(kind: Any) -> str:
    """Returns the name of a type without scope or module.

    Args:
        kind (Any): What a config has as ``type``: text, class or function.

    Examples:
        >>> short_name('mmlapp.PrunableModel')
        'PrunableModel'
    """
    text = kind if isinstance(kind, str) else kind.__name__
    return text.rpartition('.')[-1]


def is_prunable(model: Mapping[str, Any]) -> bool:
    """Whether the config of a model is that of ``PrunableModel``.

    Args:
        model (Mapping): ``model`` of a config.
    """
    return _is(model, 'PrunableModel', prunable_model)


def is_deployed(model: Mapping[str, Any]) -> bool:
    """Whether the config of a model is that of ``DeployedModel``.

    Args:
        model (Mapping): ``model`` of a config.
    """
    return _is(model, 'DeployedModel', deployed_model)


def _is(
    model: Mapping[str, Any], name: str, function: Callable[..., Any]
) -> bool:
    kind = model.get('type', '')
    return short_name(kind) in (name, function.__name__)


def own_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of ``PrunableModel`` that are its own.

    Args:
        model (Mapping): The config of any model. What it does not set, and
            everything if it is of another type, has the default value; that
            of a deployed model sets the shape of the input.
    """
    parameters = inspect.signature(prunable_model).parameters
    shared = ('architecture', 'data_preprocessor', 'settings')
    ours = is_prunable(model) or is_deployed(model)
    set_by = set(_arguments(model)) & set(model) if ours else set()
    return {
        name: model[name] if name in set_by else parameter.default
        for name, parameter in parameters.items()
        if name not in shared
    }


def counted_shape(model: Mapping[str, Any]) -> InputShape | None:
    """Returns the shape of the input at which a budget is counted.

    Args:
        model (Mapping): The config of any model.

    Returns:
        Sequence[int], Mapping or None: None if the model is neither prunable
        nor says what a run counted at.
    """
    if is_deployed(model) and 'input_shape' not in model:
        return None
    if not (is_prunable(model) or is_deployed(model)):
        return None
    shape: InputShape = own_settings(model)['input_shape']
    return shape


def dense_config(cfg: Config) -> ConfigDict:
    """Returns the config of the user's own model.

    Args:
        cfg (Config): Of a dense, a prunable or a deployed model.

    Returns:
        ConfigDict: What the registry of models builds the dense model from,
        without weights to download.
    """
    model = _plain(cfg.model)
    if is_prunable(model) or is_deployed(model):
        model = inner_config(model)
    preprocessor = cfg.get('data_preprocessor')
    if preprocessor is not None:
        model.setdefault('data_preprocessor', _plain(preprocessor))
    return ConfigDict(without_pretrained(model))


def inner_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of the model inside one of ours.

    Args:
        model (Mapping): Config of a prunable or a deployed model.

    Returns:
        dict: With the type of that model as ``type``.

    Raises:
        PruningError: If it does not say which model is inside, or has an
            argument that nobody takes.
    """
    names = _arguments(model)
    ours = {'type', *names} - {'data_preprocessor'}
    rest = {key: value for key, value in model.items() if key not in ours}
    architecture = model.get('architecture')
    if architecture is None:
        raise PruningError(
            f'config: model of type={model.get("type")!r} has no '
            "architecture, the type of the model inside, such as 'RetinaNet'"
        )
    if isinstance(architecture, Mapping):
        return {**rest, **architecture}
    kind = 'DeployedModel' if is_deployed(model) else 'PrunableModel'
    check_unknown(architecture, rest, kind, names)
    return {'type': architecture, **rest}


def _arguments(model: Mapping[str, Any]) -> list[str]:
    """Names that one of our two functions does not pass on."""
    function = prunable_model if is_prunable(model) else deployed_model
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind != parameter.VAR_KEYWORD
    ]


def deployed_config(cfg: Config, plan: ChannelPlan) -> Config:
    """Turns the config of a pruning run into that of the deployed model.

    Args:
        cfg (Config): Config of the run; not changed.
        plan (ChannelPlan): The plan, which goes into the config.

    Returns:
        Config: Without the hook and the optimizer wrapper of pruning, and
        without weights to download.

    Raises:
        PruningError: If the config has no ``mmlapp.PrunableModel``.
    """
    check_prunable(cfg)
    data = {k: v for k, v in _plain(cfg).items() if k not in RUN_KEYS}
    data['model'] = _deployed_model(
        inner_config(without_pretrained(_plain(data['model']))),
        plan,
        own_settings(data['model'])['input_shape'],
        cfg.get('default_scope'),
    )
    data['custom_imports'] = _imports(data.get('custom_imports'))
    # One, or one for each of several optimizers.
    for wrapper in find_dicts(data.get('optim_wrapper')):
        kind = short_name(wrapper.get('type', ''))
        if kind in PLAIN_WRAPPERS:
            wrapper['type'] = PLAIN_WRAPPERS[kind]
    data['custom_hooks'] = [
        hook for hook in data.get('custom_hooks') or [] if not _is_ours(hook)
    ]
    hooks = data.get('default_hooks') or {}
    data['default_hooks'] = {
        name: hook for name, hook in hooks.items() if not _is_ours(hook)
    }
    return Config(data)


def check_prunable(cfg: Config) -> None:
    """Raises PruningError if a config is not that of a pruning run.

    Args:
        cfg (Config): The config.
    """
    model = cfg.get('model') or {}
    if is_prunable(model):
        return
    kind = model.get('type', '')
    text = (
        'it is already deployed'
        if is_deployed(model)
        else (
            "expected type='mmlapp.PrunableModel': give the config that the "
            'checkpoint was trained with'
        )
    )
    raise PruningError(f'config: model.type={kind!r}; {text}')


def _deployed_model(
    model: dict[str, Any],
    plan: ChannelPlan,
    shape: InputShape,
    scope: str | None,
) -> dict[str, Any]:
    """The config of a model that is narrowed; again, if it is narrow."""
    plans = [plan]
    # One of a part keeps its own arguments.
    while is_deployed(model) and not model.get('prefix'):
        # From the outside in: what is found later was applied earlier.
        plans = [*read_plans(model['plan']), *plans]
        model = inner_config(model)
    texts = [p.to_json() for p in plans]
    ours = {
        'type': 'mmlapp.DeployedModel',
        'plan': texts if len(texts) > 1 else texts[0],
        # What the budget counted at; the data may be of another size.
        'input_shape': shape,
    }
    # Stock tools look for the arguments of the architecture beside its name.
    # Only a whole config can say another scope, which holds for everything
    # inside, or an argument that has the name of one of ours.
    other_scope = model.get('_scope_', scope) != scope
    if other_scope or _taken(ours, model):
        return {**ours, 'architecture': model}
    model.pop('_scope_', None)
    return {**ours, 'architecture': model.pop('type'), **model}


def _taken(ours: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    names = set(_arguments(ours)) - {'data_preprocessor'}
    return bool(names & set(model))


def _imports(imports: Any) -> dict[str, Any]:
    imports = dict(imports or {})
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    if 'mmlapp' not in names:
        names.append('mmlapp')
    return {'allow_failed_imports': False, **imports, 'imports': names}


def _is_ours(hook: Any) -> bool:
    """Whether a hook of a config is one of those, or of a derived class."""
    if not isinstance(hook, dict):
        return False
    kind = class_of(hook, HOOKS)
    bases = [] if kind is None else [base.__name__ for base in kind.mro()]
    # A name that nobody has registered is compared as it stands.
    return not RUN_HOOKS.isdisjoint([short_name(hook.get('type', '')), *bases])


def without_pretrained(model: Any) -> Any:
    """Drops weights to download from the config of a model.

    Args:
        model (Any): The config or a part of it; not changed.

    Returns:
        Any: The same without ``pretrained`` and without ``init_cfg`` of type
        ``Pretrained``. A ``pretrained`` that is none or no text stays.
    """
    if isinstance(model, dict):
        return {
            key: without_pretrained(value)
            for key, value in model.items()
            if not (key == 'pretrained' and isinstance(value, str))
            and not (key == 'init_cfg' and _is_pretrained(value))
        }
    if isinstance(model, (list, tuple)):
        return type(model)(
            without_pretrained(v) for v in model if not _is_pretrained(v)
        )
    return model


def _is_pretrained(init: Any) -> bool:
    return (
        isinstance(init, dict)
        and short_name(init.get('type', '')) == 'Pretrained'
    )


def find_dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Yields a dictionary and all dictionaries inside it.

    Args:
        value (Any): Of a config; lists and tuples are looked into.
    """
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from find_dicts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from find_dicts(inner)


def _plain(value: Any) -> Any:
    """A copy in builtin containers; MMEngine's answers missing keys."""
    if isinstance(value, Config):
        return value.to_dict()
    to_dict = getattr(value, 'to_dict', None)
    return copy.deepcopy(value if to_dict is None else to_dict())
