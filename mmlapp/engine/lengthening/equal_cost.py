# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A whole run that costs what dense training does, or a fraction of it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

from mmengine.config import Config
from mmengine.registry import (
    HOOKS,
    LOOPS,
    PARAM_SCHEDULERS,
    Registry,
)
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mmlapp.core import PruningError, PruningWarning
from mmlapp.core.numbers import check_number

from ..models.default_scope import default_scope_of
from ..training.pruning_hook import PruningHook
from ..training.step_cost import TeacherCost, teacher_of
from . import tables
from .entries import class_of, stretch_entry, times_within
from .phase import PhaseEntry, step_cost_of
from .stretch import Stretch

C = TypeVar('C', Config, dict[str, Any])
# Parts of a config in which something may wait for an epoch or iteration.
OTHERS = (
    'model',
    'data_preprocessor',
    'optim_wrapper',
    'train_dataloader',
    'strategy',
)


def equal_cost(cfg: C) -> C:
    r"""Lengthens the training of a config to what ``train_cost`` asks for.

    With p, the end of the phase, and E, the length of training, both before,
    w and n, what a step costs before and after narrowing, and s, the fraction
    of dense training that ``train_cost`` asks for, all is made longer by

    .. math:: k = s E / (w p + n (E - p) + t (E - b))

    where t is what the forward of a teacher costs, from b on, if there is
    one,

    and the length rounded down to whole epochs, or iterations: the loop, the
    schedulers, the phase and hooks that wait for an epoch. What may hold
    epochs or iterations and is not known is named in a warning.

    The runner has to be built from the result; ``tools/train.py`` does.
    What it returns, it returns again as it is.

    Args:
        cfg (Config or dict): The config; it stays as it is.

    Returns:
        Config or dict: A config of its own; equal to the given one if its
        :class:`PruningHook` does not ask for a cost.

    Raises:
        PruningError: If nothing is saved, or the phase is counted in another
            unit than training.

    Examples:
        >>> hook = dict(
        ...     type='mmlapp.PruningHook',
        ...     target=dict(flops=0.5),
        ...     prune_epochs=2,
        ...     train_cost='dense',
        ... )
        >>> cfg = equal_cost(
        ...     dict(
        ...         model=dict(type='mmlapp.PrunableModel'),
        ...         train_cfg=dict(by_epoch=True, max_epochs=10),
        ...         param_scheduler=dict(
        ...             type='MultiStepLR', milestones=[5, 8]
        ...         ),
        ...         custom_hooks=[hook],
        ...     )
        ... )
        >>> cfg['train_cfg']['max_epochs'], cfg['param_scheduler']
        (16, {'type': 'MultiStepLR', 'milestones': [8, 13]})
    """
    cfg = copy.deepcopy(cfg)
    if not cfg.get('train_cfg'):
        return cfg
    # The runner sets it, but is not there yet.
    with default_scope_of(cfg):
        phase = find_phase(cfg)
        # Noted by phase.stretch: it is the result of an earlier call.
        if phase is not None and phase.cost.dense_length is None:
            _spend(cfg, phase)
    return cfg


def _spend(cfg: MutableMapping[str, Any], phase: PhaseEntry) -> None:
    """Makes all of a config longer by what its phase saves."""
    old = cfg['train_cfg'][f'max_{phase.unit}']
    step = step_cost_of(cfg, phase).with_teacher(
        find_teacher(cfg), phase.begin
    )
    new = step.stretched(phase.end, old, phase.cost.share)
    check_new(phase, old, new)
    # A list, now: the generator stretches while it is read.
    unknown = list(lengthen(cfg, Stretch(old, new)))
    # Last, since a phase that notes its dense length counts as stretched.
    phase.stretch(Stretch(old, new))
    if unknown and new != old:
        warnings.warn(
            f'train_cost={phase.cost.asked!r}: training lasts {new} '
            f'{phase.unit} instead of {old}; these settings may hold epochs '
            f'or iterations and stay as they are: {"; ".join(unknown)}',
            PruningWarning,
            stacklevel=3,
        )


def find_phase(cfg: Mapping[str, Any]) -> PhaseEntry | None:
    """Returns the phase of a config that asks for a cost of its run.

    Args:
        cfg (Mapping): The config, with a loop for training.

    Raises:
        PruningError: If the length of training is not known.
    """
    for _, entry in hooks_of(cfg):
        if not isinstance(entry, MutableMapping):
            continue
        if entry.get('train_cost') is None:
            continue
        kind = class_of(entry, HOOKS)
        if kind is None or not issubclass(kind, PruningHook):
            continue
        loop = cfg['train_cfg']
        for unit in ('epochs', 'iters'):
            name = f'max_{unit}'
            if loop.get(name) is not None:
                said = f'train_cfg {name}'
                check_number(said, loop[name], least=1, whole=True)
                return PhaseEntry(entry, unit)
        raise PruningError(
            f'train_cost={entry["train_cost"]!r}: train_cfg={dict(loop)} has '
            'no max_epochs and no max_iters, whose length it asks for. Set '
            'one of them'
        )
    return None


def find_teacher(cfg: Mapping[str, Any]) -> TeacherCost | None:
    """Returns what the teacher of a config costs, if it has one.

    Args:
        cfg (Mapping): The config.
    """
    return teacher_of(_teaching(cfg), cfg)


def _teaching(cfg: Mapping[str, Any]) -> Iterator[Any]:
    """Hooks that may have a teacher, as they are built."""
    for _, entry in hooks_of(cfg):
        if not isinstance(entry, Mapping):
            yield entry
        # Only those are built: others may need a runner, or files.
        elif hasattr(class_of(entry, HOOKS), 'teacher_cost'):
            yield HOOKS.build(copy.deepcopy(entry))


def check_new(phase: PhaseEntry, old: int, new: int) -> None:
    """Refuses a training of no length; warns of one that becomes shorter.

    Args:
        phase (PhaseEntry): Its phase.
        old (int): Its length.
        new (int): The length that it would get.

    Raises:
        PruningError: With the cost.
    """
    said = f'train_cost={phase.cost.asked!r}'
    if new < 1:
        raise PruningError(
            f'{said} is less than one of {old} {phase.unit} costs: ask for '
            'more, or train longer'
        )
    if new < old:
        warnings.warn(
            f'{said}: training becomes shorter, {new} instead of {old} '
            f'{phase.unit}, for it costs more than that. Branches count '
            'beside their layers, in the phase and, narrow, after it; the '
            'forward of a teacher counts, too',
            PruningWarning,
            stacklevel=4,
        )


def lengthen(cfg: Mapping[str, Any], stretch: Stretch) -> Iterator[str]:
    """Stretches loop, schedulers and hooks of a config in place.

    Args:
        cfg (Mapping): The config.
        stretch (Stretch): The training.

    Yields:
        str: What may hold epochs or iterations, and is not known.
    """
    loop = cfg['train_cfg']
    # What MMEngine builds of a train_cfg without a type.
    usual = EpochBasedTrainLoop if 'max_epochs' in loop else IterBasedTrainLoop
    found = class_of(loop, LOOPS) or usual
    yield from _stretch('train_cfg', loop, found, stretch, tables.LOOPS)
    for path, entry in entries_of('param_scheduler', cfg):
        found = _class(entry, PARAM_SCHEDULERS)
        yield from _stretch(path, entry, found, stretch, tables.SCHEDULERS)
    for path, entry in hooks_of(cfg):
        found = _class(entry, HOOKS)
        yield from _stretch(path, entry, found, stretch, tables.HOOKS)
    for part in OTHERS:
        yield from times_within(cfg.get(part), part)


def hooks_of(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields all hooks of a config, with their paths.

    Args:
        cfg (Mapping): The config.
    """
    yield from entries_of('default_hooks', cfg)
    yield from entries_of('custom_hooks', cfg)


def entries_of(path: str, cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields what a part of a config consists of, with its path.

    Args:
        path (str): Name of the part: an entry with a type, or any list or
            dictionary of such.
        cfg (Mapping): What has it.
    """
    yield from _walk(path, cfg.get(path))


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if value is None:
        return
    # Schedulers and hooks come in lists, custom ones nested, or by name.
    if isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _walk(f'{path}[{number}]', inner)
    elif isinstance(value, Mapping) and 'type' not in value:
        for name, inner in value.items():
            yield from _walk(f'{path}.{name}', inner)
    else:
        yield path, value


def _class(entry: Any, registry: Registry) -> type | None:
    if isinstance(entry, Mapping):
        return class_of(entry, registry)
    return None


def _stretch(
    path: str,
    entry: Any,
    kind: type | None,
    stretch: Stretch,
    table: tables.Table,
) -> Iterator[str]:
    """Stretches an entry, and yields what is not known, by its path."""
    if not isinstance(entry, MutableMapping):
        yield f'{path}, an object of {type(entry).__name__}'
        return
    for setting in stretch_entry(stretch, entry, kind or object, table):
        yield f'{path} ({_name(entry, kind)}): {setting}'


def _name(entry: Mapping[str, Any], kind: type | None) -> str:
    return str(entry.get('type')) if kind is None else kind.__name__
