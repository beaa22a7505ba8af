# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Settings of a run against those of the checkpoint that it goes on from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmlapp.core import Pruner, PruningError
from mmlapp.core.bypass import BRANCHES
from mmlapp.core.choices import Choices
from mmlapp.core.cost import COSTS
from mmlapp.core.methods import METHODS
from mmlapp.core.methods.min_keep import MIN_KEEPS
from mmlapp.core.progress import Phase, Progress
from mmlapp.core.pruner.shrinking import SHRINKS
from mmlapp.core.score import SCORES
from mmlapp.core.units.base import UNITS

from ..checkpoints.state import check_version

KEY, VERSION = 'pruning_settings', 1
# What decides where masks and bypasses are, and so what a checkpoint has.
PLACES = (
    'scope',
    'ignore',
    'keep_streams',
    'unit',
    'bypass',
    'costs',
    'groups',
)
# Arguments that may be said by one name alone.
LISTS = 'scope', 'ignore', 'costs'
CHOICES: Mapping[str, Choices[Any]] = {
    'unit': UNITS,
    'bypass': BRANCHES,
    'method': METHODS,
    'score': SCORES,
    'min_keep': MIN_KEEPS,
    'shrink': SHRINKS,
}
BEGUN = (
    'the pruning phase of the checkpoint has begun with that. Resume with the '
    'old value, or start a new run from its weights: load_from, without resume'
)
OTHER_NETWORK = (
    'masks, bypasses and costs of the checkpoint belong to that. Use the old '
    'value, or start a new run from its weights: load_from, without resume'
)
FINISHED = (
    'the network of the checkpoint is pruned, and there is no second phase. '
    'Set the old value to train it on; to prune it further, deploy it with '
    'tools/deploy.py and prune the deployed model'
)


@dataclass(frozen=True)
class RunSettings:
    """What decides on the outcome of a pruning phase.

    Args:
        network (Mapping[str, Any]): Arguments of ``PrunableModel`` by name,
            and as ``groups`` the sizes of the prunable groups.
        phase (Mapping[str, Any]): Arguments of ``PruningHook`` by name.
    """

    network: Mapping[str, Any]
    phase: Mapping[str, Any]

    @classmethod
    def of(cls, pruner: Pruner, phase: Mapping[str, Any]) -> RunSettings:
        """Collects those of a run.

        Args:
            pruner (Pruner): Of its model.
            phase (Mapping[str, Any]): Arguments of ``PruningHook``.
        """
        groups = {group.name: group.size for group in pruner.groups}
        said = {
            name: spelled_out(name, value)
            for name, value in pruner.settings.items()
        }
        return cls({**said, 'groups': groups}, plain(phase))

    def write(self, checkpoint: dict[str, Any]) -> None:
        """Adds the settings to a checkpoint that is about to be saved.

        Args:
            checkpoint (dict): The checkpoint.
        """
        checkpoint[KEY] = dict(
            version=VERSION,
            network=dict(self.network),
            phase=dict(self.phase),
        )

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any]) -> RunSettings | None:
        """Reads what :meth:`write` wrote; None where there is nothing.

        Args:
            checkpoint (Mapping): Any checkpoint.

        Raises:
            PruningError: If it is of an unknown version, or damaged.
        """
        entry = checkpoint.get(KEY)
        if entry is None:
            return None
        check_version(KEY, entry, VERSION)
        parts = [entry.get(name) for name in ('network', 'phase')]
        if not all(isinstance(part, Mapping) for part in parts):
            raise PruningError(
                f'the checkpoint has {KEY} without the arguments of '
                'mmlapp.PrunableModel or of mmlapp.PruningHook by name: it is '
                'damaged. Give another checkpoint of the run'
            )
        return cls(*parts)


def spelled_out(name: str, value: Any) -> Any:
    """Returns an argument of ``PrunableModel`` in its longest form.

    Args:
        name (str): Of the argument.
        value (Any): As a config has it.

    Examples:
        >>> spelled_out('method', 'lapp'), spelled_out('scope', 'backbone')
        ({'type': 'lapp'}, ['backbone'])
    """
    if name in LISTS:
        value = [value] if isinstance(value, str) else value
    elif name in CHOICES and isinstance(value, str):
        value = {'type': value}
    elif name == 'shrink' and isinstance(value, int):
        value = {'type': 'linear', 'steps': value}
    return plain(value)


def plain(value: Any) -> Any:
    """Returns a setting as builtin containers, whatever a config made of it.

    Args:
        value (Any): The setting; of an object its class is told.

    Examples:
        >>> plain(dict(shape=(3, 8, 8), method=dict(type='lapp')))
        {'shape': [3, 8, 8], 'method': {'type': 'lapp'}}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return type(value).__name__


def in_full(name: str, value: Any) -> Any:
    """Returns what an argument of a run means, however it is said.

    Args:
        name (str): Of the argument.
        value (Any): As :class:`RunSettings` holds it.

    Examples:
        >>> in_full('bypass', {'type': 'depthwise', 'norm': False})
        {'norm': False, 'merge': False, 'type': 'depthwise'}
        >>> in_full('scope', ['neck', 'backbone'])
        ['backbone', 'neck']
    """
    if name in ('scope', 'ignore'):  # in any order
        return sorted(set(value))
    # What is not registered here, or was given as an object, is what it says.
    with suppress(PruningError):
        if name == 'costs':  # in this order, in which a checkpoint has them
            value = [COSTS.in_full(cost) for cost in value]
        elif name in CHOICES and isinstance(value, (str, Mapping)):
            value = CHOICES[name].in_full(value)
    return plain(value)


def check_places(found: RunSettings | None, now: RunSettings) -> None:
    """Refuses masks of a checkpoint that do not belong to the network.

    Args:
        found (RunSettings, optional): Of the checkpoint, from within its
            phase or after it.
        now (RunSettings): Of the run.

    Raises:
        PruningError: With the settings that differ, and both values.
    """
    old = {} if found is None else found.network
    _refuse(_differences(old, now.network, PLACES), OTHER_NETWORK)


def check_dense(found: RunSettings | None, now: RunSettings) -> None:
    """Refuses other bypasses than those whose weights a checkpoint has.

    Before the phase nothing else of the settings has had any effect.

    Args:
        found (RunSettings, optional): Of the checkpoint.
        now (RunSettings): Of the run.

    Raises:
        PruningError: With the settings that differ, and both values.
    """
    # Without a bypass on either side all weights are those of the dense
    # network.
    both = [now.network, {} if found is None else found.network]
    if any(network.get('bypass') for network in both):
        check_places(found, now)


def check_resumed(
    found: RunSettings | None,
    now: RunSettings,
    progress: Progress,
    steps: int,
) -> None:
    """Refuses other settings than those with which the phase has begun.

    Where those of a checkpoint are not known, its targets still are.

    Args:
        found (RunSettings, optional): Of the checkpoint.
        now (RunSettings): Of the run.
        progress (Progress): Of the phase.
        steps (int): Length of a phase that would begin now.

    Raises:
        PruningError: With the settings that differ, and both values.
    """
    old = found or RunSettings({}, {})
    # Targets are those of the phase itself, even where a checkpoint has no
    # settings.
    names = [name for name in now.phase if name != 'target']
    if steps == progress.steps:
        # The same length, said in another way.
        names = [name for name in names if not name.startswith('prune_')]
    target = {'target': dict(progress.target)}
    differences = [
        *_differences(target, now.phase, target),
        *_differences(old.phase, now.phase, names),
        *_differences(old.network, now.network, now.network),
    ]
    _refuse(differences, BEGUN)


def check_finished(
    found: Mapping[str, float], target: Mapping[str, float]
) -> None:
    """Refuses another target than that of a phase that is over.

    Args:
        found (Mapping[str, float]): Of the phase; empty if unknown.
        target (Mapping[str, float]): Of the run.

    Raises:
        PruningError: With both targets.
    """
    _compare_targets(found, target, FINISHED)


def check_target(progress: Progress, target: Mapping[str, float]) -> None:
    """Refuses a phase of another target than that of the run.

    Weights that a hook of a user loads while the model is trained bring one.

    Args:
        progress (Progress): Of the phase.
        target (Mapping[str, float]): Of the run.

    Raises:
        PruningError: With both targets.
    """
    if progress.phase != Phase.DENSE:
        finished = progress.phase == Phase.FINISHED
        reason = FINISHED if finished else BEGUN
        _compare_targets(progress.target, target, reason)


def _compare_targets(
    found: Mapping[str, float], target: Mapping[str, float], reason: str
) -> None:
    """Refuses another target than that which was found, if any was."""
    old = {'target': dict(found)} if found else {}
    _refuse(_differences(old, {'target': dict(target)}, old), reason)


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], names: Iterable[str]
) -> list[str]:
    """Tells each setting that both know and that means something else."""
    return [
        _told(name, old[name], new[name])
        for name in names
        if name in old
        and name in new
        and in_full(name, old[name]) != in_full(name, new[name])
    ]


def _told(name: str, old: Any, new: Any) -> str:
    if name == 'groups':  # the first that differ; there may be hundreds
        names = [n for n in {**old, **new} if old.get(n) != new.get(n)][:2]
        old, new = ({n: sizes.get(n) for n in names} for sizes in (old, new))
    return f'{name}={new!r}, in the checkpoint {old!r}'


def _refuse(differences: Sequence[str], reason: str) -> None:
    if differences:
        raise PruningError(f'{"; ".join(differences)}: {reason}')
