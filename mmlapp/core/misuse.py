# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Phases that cannot do what was asked for, noticed while they run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .bypass.beside import Bypassed
from .errors import PruningError, PruningWarning
from .methods.schedule import Schedule
from .numbers import check_per_channel
from .progress import Phase, Progress
from .score.group_scores import GroupInfo
from .score.harm import Harm

# Share of what is left that a single step should remove at most.
STEEPEST = 0.15
# Steps of the pruner without what they need, until that is said.
FORGOTTEN = 10
# How often weights change without a step of the pruner, likewise: LBFGS, which
# moves them while it searches, evaluates the loss up to 25 times in one step.
CHANGED = 30


def warn_of_short_phase(target: Mapping[str, float], steps: int) -> None:
    """Warns if a phase has so few steps that each one removes much.

    One step is the way to prune at once, and no mistake.

    Args:
        target (Mapping[str, float]): Fractions by name of the cost.
        steps (int): Length of the phase in optimizer steps.
    """
    # The cost falls by the factor target^(1 / (ramp S)) in every step of the
    # ramp; S is what makes this 1 - STEEPEST.
    needed = {
        name: math.ceil(
            math.log(value) / math.log(1 - STEEPEST) / Schedule.ramp
        )
        for name, value in target.items()
    }
    name = max(needed, key=lambda name: needed[name])
    if 1 < steps < needed[name]:
        warnings.warn(
            f'a phase of steps={steps} is short for {name}={target[name]}: '
            f'from {needed[name]} steps on no step removes more than '
            f'{STEEPEST:.0%} of what is left',
            PruningWarning,
            stacklevel=3,
        )


def warn_of_frozen(groups: Sequence[GroupInfo]) -> None:
    """Warns of groups whose weights do not require a gradient.

    Args:
        groups (Sequence[GroupInfo]): All groups.
    """
    frozen = [
        group.name
        for group in groups
        # None where a weight is computed from others, by a parametrization.
        if (weights := group.weights())
        and not any(weight.requires_grad for weight in weights)
    ]
    if frozen:
        warnings.warn(
            f'{", ".join(frozen)}: pruned like all others, but their weights '
            'do not require a gradient, so that what stays cannot adapt. '
            f'Unfreeze them, or keep them whole with ignore={frozen}',
            PruningWarning,
            stacklevel=3,
        )


def warn_of_silence(harm: Harm, progress: Progress) -> None:
    """Warns, once in a phase, if the task loss has said nothing so far.

    Args:
        harm (Harm): What is known of the channels.
        progress (Progress): Where the phase stands after this step.
    """
    done, steps = progress.done, progress.steps
    asked = min(steps, max(FORGOTTEN, steps // 10))
    if done == asked and harm.mean() is None:
        warnings.warn(
            f'in the first {done} steps of the pruning phase the task loss '
            'had no gradient by any channel, which the score or protect asks '
            'for: all channels count alike. Does the loss depend on the '
            'network, and is loss.backward() called before pruner.step()?',
            PruningWarning,
            stacklevel=3,
        )


def check_finished(progress: Progress) -> None:
    """Raises PruningError if the budget is not met yet.

    Args:
        progress (Progress): Where the pruning stands.
    """
    if progress.phase == Phase.DENSE:
        raise PruningError(
            'plan: the pruning phase has not begun. Call pruner.begin(target, '
            'steps), and pruner.step() after every optimizer.step()'
        )
    if progress.phase == Phase.PRUNING:
        raise PruningError(
            f'plan: the pruning phase is at step {progress.done} of '
            f'{progress.steps}, and its target {dict(progress.target)} is not '
            'met yet. Go on with pruner.step() after every optimizer.step(), '
            'or end the phase here with pruner.finish()'
        )


def check_on_network(call: str, taken_off: bool) -> None:
    """Raises PruningError if a pruner has no network any more.

    Args:
        call (str): What was asked of it, for the error text.
        taken_off (bool): Whether it was taken off its network.
    """
    if taken_off:
        raise PruningError(
            f'{call}: the network of this pruner was narrowed, or the pruner '
            'taken off it, and does not follow it any more. To prune it '
            'further, call attach again'
        )


def check_has_values(gate: Tensor) -> None:
    """Raises PruningError if a network lies where nothing has values.

    Args:
        gate (Tensor): Its gate, ``[channels]``.
    """
    if gate.is_meta:
        raise PruningError(
            'the network is on the device meta, where nothing has values: '
            'move it with to_empty and load its weights before it is pruned'
        )


def check_all_live(mask: Tensor) -> None:
    """Raises PruningError if a phase would bring channels back.

    Args:
        mask (Tensor): Which channels live, bool ``[channels]``.
    """
    if removed := int((~mask).sum()):
        raise PruningError(
            f'begin: {removed} of {len(mask)} channels are removed, and a '
            'phase begins with all of them. To prune further, make the '
            'network small with narrow(model, pruner.plan()) and attach '
            'again; to begin anew, bring them back with pruner.reset()'
        )


def check_mask(mask: Tensor, groups: Sequence[GroupInfo]) -> None:
    """Raises PruningError if a mask is not one of these groups.

    Args:
        mask (Tensor): Which channels live, bool ``[channels]``.
        groups (Sequence[GroupInfo]): All groups.
    """
    sizes = [group.size for group in groups]
    mask = check_per_channel('mask', mask, sum(sizes))
    if mask.is_meta:
        raise PruningError(
            'mask: it lies on the device meta, where it has no values'
        )
    other = mask[(mask != 0) & (mask != 1)]  # NaN is neither
    if other.numel():
        raise PruningError(
            f'mask: holds {other[0].item()}, and a channel is kept or not: '
            'give True and False, or 1 and 0, such as scores > threshold'
        )
    for group, part in zip(groups, mask.split(sizes), strict=True):
        if (kept := int((part > 0).sum())) < group.floor:
            raise PruningError(
                f'mask: keeps {kept} channels of {group.name}, which needs '
                f'{group.floor} or more'
            )


def check_same_layers(model: nn.Module, groups: Sequence[GroupInfo]) -> None:
    """Raises PruningError if a layer took the place of one that is scored.

    Conversion of a module keeps its parameters.

    Args:
        model (nn.Module): The network.
        groups (Sequence[GroupInfo]): All its groups.
    """
    for layer in (layer for group in groups for layer in group.layers):
        found = model.get_submodule(layer.name)
        known = layer.module._parameters.get(layer.weight)
        if found._parameters.get(layer.weight) is not known:
            raise PruningError(
                f'{layer.name} was replaced by a {type(found).__name__} with '
                f'another {layer.weight}, which the pruner does not know. '
                'Replace layers before attach, or after narrow(model, '
                'pruner.plan())'
            )


class StepWatch:
    """Notices optimizer and pruner of which one steps and the other does not.

    Weights change between two forwards if the optimizer stepped; with
    gradient accumulation they do not. What changes them otherwise, such as
    loading or averaging, does so seldom. Between two steps of the pruner they
    change, too, unless nothing is trained at all, or a gradient scaler skips
    a step, which is seldom.

    Args:
        groups (Sequence[GroupInfo]): All groups.
    """

    def __init__(self, groups: Sequence[GroupInfo]) -> None:
        self.groups = groups
        self.begin()

    def begin(self) -> None:
        """A phase begins."""
        self.stepped()
        self.warned = False
        # Steps of the pruner before which weights changed, and others.
        self.moved = self.idle = 0

    def before_step(self) -> None:
        """The pruner is about to step."""
        if self._versions() == self.after_step:
            self.idle += 1
        else:
            self.moved += 1
        # Twice, for what is not trained may be loaded once.
        often = self.idle >= FORGOTTEN and self.idle * 3 > self.moved
        if often and self.moved > 1 and not self.warned:
            self.warned = True
            warnings.warn(
                f'before {self.idle} of {self.idle + self.moved} steps of the '
                'pruner in this phase no weight changed, so that the phase '
                'ends before the network was trained for as long: call '
                'pruner.step() once after every optimizer.step(), and not '
                'where gradients are accumulated',
                PruningWarning,
                stacklevel=3,
            )

    def stepped(self) -> None:
        """The pruner was stepped."""
        self.versions: list[int] | None = None
        self.forgotten = 0
        # Afterwards: a method of somebody may change weights itself.
        self.after_step = self._versions()

    def _versions(self) -> list[int]:
        # Counted up by every change in place, whatever the optimizer is.
        return [w._version for g in self.groups for w in g.weights()]

    def before_forward(self) -> None:
        """The network is about to run in training mode, in the phase."""
        versions = self._versions()
        changed = self.versions not in (None, versions)
        self.versions = versions
        self.forgotten += changed
        if changed and self.forgotten == CHANGED:
            warnings.warn(
                f'the weights changed {CHANGED} times in the pruning phase '
                'without a pruner.step(), so that nothing is pruned: call it '
                'after every optimizer.step()',
                PruningWarning,
                stacklevel=2,
            )


class BranchWatch:
    """Notices an optimizer that was made before branches were added.

    Args:
        groups (Sequence[GroupInfo]): All groups, as the phase begins.
    """

    def __init__(self, groups: Sequence[GroupInfo]) -> None:
        self.weights = [(w, w._version) for g in groups for w in g.weights()]
        self.branches = [
            (layer.name, parameter, parameter._version)
            for group in groups
            for layer in group.layers
            if isinstance(layer.module, Bypassed)
            and layer.module.bypass is not None
            for parameter in layer.module.bypass.parameters()
        ]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies of tensors count their changes anew.
        self.weights = [(w, w._version) for w, _ in state['weights']]
        self.branches = [
            (name, parameter, parameter._version)
            for name, parameter, _ in state['branches']
        ]

    def after_step(self, progress: Progress) -> None:
        """Warns, once in a phase, of branches that nothing trains.

        Args:
            progress (Progress): Where the phase stands after this step.
        """
        asked = min(progress.steps, FORGOTTEN)
        if progress.done != asked or not any(
            weight._version != version for weight, version in self.weights
        ):
            return
        left = [
            name
            for name, parameter, version in self.branches
            if parameter.grad is not None and parameter._version == version
        ]
        if left:
            names = ', '.join(dict.fromkeys(left))
            warnings.warn(
                f'the bypass of {names} has a gradient, and in {asked} steps '
                'no optimizer changed it: was the optimizer made before '
                'attach? Make it of model.parameters() afterwards',
                PruningWarning,
                stacklevel=3,
            )
