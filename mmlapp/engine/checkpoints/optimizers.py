# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The state of an optimizer goes on in one of the same kind alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mmlapp.core import PruningError
from mmlapp.core.narrowing.stale import may_belong

KEY, VERSION = 'optimizer_notes', 1
REMEDY = (
    'Resume with the optimizer of the checkpoint, or start a new run from '
    'its weights: load_from, without resume'
)
# Entries of a group that are no settings, and how schedulers call the value
# that a setting had before their first step.
MEMBERS, INITIAL = ('params', 'param_names'), 'initial_'
# What decides on the groups of an optimizer.
GROUPING = (
    'optim_wrapper (its paramwise_cfg or constructor) or the model is another'
)
# Names of the parameters of each group, in order.
Groups = list[list[str]]


def note_optimizer(
    optimizer: Optimizer | None, model: nn.Module, checkpoint: dict[str, Any]
) -> None:
    """Notes whose state a checkpoint has; torch does not.

    Args:
        optimizer (Optimizer, optional): Of the run.
        model (nn.Module): Whose parameters it has.
        checkpoint (dict): The checkpoint that is about to be saved.
    """
    if optimizer is not None:
        checkpoint[KEY] = dict(
            version=VERSION,
            type=type(optimizer).__name__,
            parameters=_named(optimizer, model),
        )


def _named(optimizer: Optimizer, model: nn.Module) -> Groups:
    """Names of what an optimizer trains; empty ones outside of the model."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        [names.get(parameter, '') for parameter in group['params']]
        for group in optimizer.param_groups
    ]


def check_optimizer(
    optimizer: Optimizer, checkpoint: Mapping[str, Any]
) -> None:
    """Refuses the state of an optimizer of another class.

    torch takes it: an ``AdamW`` goes on as the ``Adam`` of the checkpoint,
    and one whose settings are missing dies at its first step.

    Args:
        optimizer (Optimizer): Of the run that is resumed.
        checkpoint (Mapping): With ``optimizer``.

    Raises:
        PruningError: With both classes, or with what the state lacks.
    """
    own, entry = type(optimizer).__name__, checkpoint.get(KEY)
    found = entry.get('type') if isinstance(entry, Mapping) else None
    if found not in (None, own):
        raise PruningError(
            f'optimizer={own}, in the checkpoint {found}: one cannot go on '
            f'with the state of the other. {REMEDY}'
        )
    # Where the class was not noted, as MMEngine alone does not.
    if missing := _missing(optimizer, checkpoint['optimizer']):
        raise PruningError(
            f'optimizer={own} has settings that are missing in the state of '
            f'the checkpoint, {", ".join(missing)}: it is of another class. '
            f'{REMEDY}'
        )


def check_parameters(
    optimizer: Optimizer, model: nn.Module, checkpoint: Mapping[str, Any]
) -> None:
    """Refuses the state of an optimizer of other parameters.

    torch counts them, and takes the momentum of one for that of another.

    Args:
        optimizer (Optimizer): Of the run that is resumed.
        model (nn.Module): Its model, in the shape in which it goes on.
        checkpoint (Mapping): With ``optimizer``.

    Raises:
        PruningError: With the first group or parameter that differs.
    """
    own, state = _named(optimizer, model), checkpoint['optimizer']
    noted = _noted_groups(checkpoint.get(KEY))
    difference = (
        _other_sizes(own, _saved_groups(state), noted)
        or (noted is not None and _other_name(own, noted))
        # Also of the same names: a state of other widths.
        or _other_shape(optimizer, state)
    )
    if difference:
        raise PruningError(
            f'resume: optimizer={type(optimizer).__name__} has {difference}: '
            f'{GROUPING}. {REMEDY}'
        )


def other_settings(
    optimizer: Optimizer, checkpoint: Mapping[str, Any]
) -> list[str]:
    """Tells what an optimizer was built with and does not go on with.

    A state brings the settings of its groups, and torch takes them. What
    schedulers change is compared as it was before the first step of them.

    Args:
        optimizer (Optimizer): Of the run that is resumed.
        checkpoint (Mapping): With ``optimizer``, of as many groups.

    Examples:
        >>> import torch
        >>> def build(**settings):
        ...     return torch.optim.SGD(
        ...         [nn.Parameter(torch.ones(1))], **settings
        ...     )
        >>> state = build(lr=0.1, momentum=0.9).state_dict()
        >>> other_settings(build(lr=0.2, momentum=0.9), {'optimizer': state})
        ['lr=0.1, in the config 0.2']
    """
    told: dict[str, str] = {}
    pairs = zip(
        optimizer.param_groups,
        checkpoint['optimizer']['param_groups'],
        strict=True,
    )
    for own, found in pairs:
        for name in set(own) & set(found) - _moved(own) - _moved(found):
            if own[name] != found[name]:
                plain = name.removeprefix(INITIAL)
                text = f'{plain}={found[name]}, in the config {own[name]}'
                told.setdefault(plain, text)
    return sorted(told.values())


def _moved(group: Mapping[str, Any]) -> set[str]:
    """Entries of a group that are no settings, or that schedulers change."""
    begun = [name for name in group if name.startswith(INITIAL)]
    moved = {name.removeprefix(INITIAL) for name in begun}
    # Of Adam the first of the two betas is what they call momentum.
    return {*moved, *(('betas',) if 'momentum' in moved else ()), *MEMBERS}


def _missing(optimizer: Optimizer, state: Any) -> list[str]:
    """What an optimizer would lack once it took a state."""
    broken = _broken(state if isinstance(state, Mapping) else {})
    if broken:
        return [broken]
    # Settings of later releases of torch are filled in by __setstate__. It
    # changes what it is called on and what that holds: nothing of the run's
    # optimizer, which would lack its settings if this state is refused.
    kind = type(optimizer)
    twin = kind.__new__(kind)
    parts = dict(
        defaults={**optimizer.defaults},
        state={},
        param_groups=[{**group} for group in state['param_groups']],
    )
    twin.__setstate__({**vars(optimizer), **parts})
    # Once a state was loaded, torch adds a default that only groups of its
    # own classes have.
    settings = set(optimizer.defaults) & _common(optimizer)
    return sorted(settings - _common(twin))


def _common(optimizer: Optimizer) -> set[str]:
    """What all groups of an optimizer have."""
    return set.intersection(*map(set, optimizer.param_groups))


def _broken(state: Mapping[str, Any]) -> str:
    """The part of a state that no optimizer has written, if there is one."""
    groups, entries = state.get('param_groups'), state.get('state')
    if not isinstance(groups, list) or not groups:
        return 'param_groups'
    if not isinstance(entries, Mapping) or not all(
        isinstance(entry, Mapping) for entry in entries.values()
    ):
        return 'state'
    return '' if all(map(_is_group, groups)) else 'params'


def _is_group(group: Any) -> bool:
    """Whether it says by numbers which parameters are in it."""
    numbers = group.get('params') if isinstance(group, Mapping) else None
    return isinstance(numbers, list) and all(
        isinstance(number, int) for number in numbers
    )


def _noted_groups(entry: Any) -> Groups | None:
    """What a checkpoint notes of its optimizer; None where it does not."""
    found = entry.get('parameters') if isinstance(entry, Mapping) else None
    whole = isinstance(found, list) and all(isinstance(g, list) for g in found)
    return found if whole else None


def _other_sizes(
    own: Groups, found: Sequence[Sequence[Any]], noted: Groups | None
) -> str:
    """Tells of another number of groups or of parameters in one of them."""
    if len(own) != len(found):
        return (
            f'{len(own)} groups of parameters, in the checkpoint {len(found)}'
        )
    for number, (mine, theirs) in enumerate(zip(own, found, strict=True)):
        if len(mine) != len(theirs):
            known = [] if noted is None else noted[number]
            names = [*set(mine) ^ set(known)] if known else []
            example = f', such as {min(names)} in one of them' if names else ''
            return (
                f'{len(mine)} parameters in group {number}, in the checkpoint '
                f'{len(theirs)}{example}'
            )
    return ''


def _other_name(own: Groups, noted: Groups) -> str:
    for number, (mine, theirs) in enumerate(zip(own, noted, strict=False)):
        for name, other in zip(mine, theirs, strict=False):
            if name != other:
                return (
                    f'{name} in group {number}, in the checkpoint {other} is '
                    'there'
                )
    return ''


def _other_shape(optimizer: Optimizer, state: Mapping[str, Any]) -> str:
    """Tells of a state that cannot be that of its parameter."""
    ids = [i for group in _saved_groups(state) for i in group]
    own = [p for group in optimizer.param_groups for p in group['params']]
    for number, parameter in zip(ids, own, strict=True):
        for key, value in state['state'].get(number, {}).items():
            if isinstance(value, Tensor) and not may_belong(value, parameter):
                return (
                    f'a parameter of shape {tuple(parameter.shape)}, in the '
                    f'checkpoint its {key} has {tuple(value.shape)}'
                )
    return ''


def _saved_groups(state: Mapping[str, Any]) -> list[list[Any]]:
    return [list(group['params']) for group in state['param_groups']]
