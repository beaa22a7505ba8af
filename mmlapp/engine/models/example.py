# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An example to run a model on, in the ways in which it runs."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from mmlapp.core import Analysis, PruningError, Way, analyse
from mmlapp.core.analysis.corner import CORNER, LARGE, is_plain
from mmlapp.core.analysis.unreached import UnreachedError
from mmlapp.core.gathering import UnmatchedError
from mmlapp.core.patterns import matches
from mmlapp.core.trace import tensors_in
from mmlapp.core.uninitialised import filled

from .arguments import check_shape
from .ground_truth import plain_samples
from .inputs import Batch, InputShape, example_batch, fresh
from .modes import (
    Modes,
    candidates,
    corner,
    find_modes,
    fixed_chance,
    repeated,
    run_once,
    takes_mode,
)
from .proposals import chosen_proposals, few_proposals
from .roi_levels import levels_in_turn
from .suppression import suppression_in_float64

SHAPE = (
    'Set input_shape to what it is trained on: a shape, a dictionary of '
    'shapes for inputs with names, or dict(type=NAME) of a function in '
    'mmlapp.registry.FUNCTIONS that returns the arguments of its forward'
)
WHOLE = (
    'Its forward takes no mode, as those of whole models of MMEngine do and '
    'those of backbones do not. Make the whole model the architecture of '
    "mmlapp.PrunableModel, and name its part: scope='backbone'"
)
GIVE = (
    'Give inputs and ground truth with which they run, by '
    'input_shape=dict(type=NAME) of a function in mmlapp.registry.FUNCTIONS '
    'that returns the arguments of the forward'
)
TENSOR, PREDICT = "mode='tensor'", "mode='predict'"
FEATURES = 'extract_feat'
# Behind an assertion that failed in C++.
SOURCE = re.compile(r' INTERNAL ASSERT FAILED at "[^"]*":\d+')


@dataclass(frozen=True)
class Attempt:
    """One way to get outputs of a model.

    Args:
        name (str): The mode, or the method that is called.
        function (Callable): Returns them.
        args (tuple): What it is called with.
        kwargs (dict): Likewise.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        leaves = tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """Calls the function with other tensors.

        Args:
            tensors (Sequence[Tensor]): As many as there are.
        """
        # Nested as they were, each tensor by the next of the others.
        given = iter(tensors)
        args, kwargs = tree_map_only(
            Tensor, lambda _: next(given), (self.args, self.kwargs)
        )
        args, kwargs = fresh((args, kwargs))
        return self.function(*args, **kwargs)


class ExampleForward:
    """A function that runs a model on one random input.

    It runs in mode ``tensor`` where that works, with ground truth if it
    wants some; else its backbone and neck alone, or in mode ``predict``. The
    region proposals of a two-stage detector are chosen by rank, which a
    rounding error may change: all calls get those of the first one.

    Args:
        model (nn.Module): A model with MMEngine's
            ``forward(inputs, data_samples, mode)``.
        input_shape (Sequence[int] or Mapping): See :func:`example_batch`.
        count (int): Size of the batch, 1 or 2. Defaults to 1.

    Raises:
        PruningError: If the shape is none, or no attempt gives a tensor.

    Attributes:
        batch (Batch): What it is run on.
        name (str): The mode, or the method that is called.
        reason (str): Why not the whole model runs; empty if it does.
        ran (set[str]): Modules that are called.
    """

    def __init__(
        self, model: nn.Module, input_shape: InputShape, count: int = 1
    ) -> None:
        self.model, self.count = model, count
        self.batch = example_batch(model, input_shape)
        # Whether a few of the proposals are enough, where FLOPs do not count.
        self._few = False
        self._proposals: list[Any] = []
        errors: list[str] = []
        cause = None
        for number, attempt in enumerate(_attempts(model, self.batch, count)):
            self.attempt, self._number = attempt, number
            try:
                self.ran = self._try()
            except Exception as error:
                errors.append(f'{type(error).__name__}: {error}')
                # Of all the ways that were tried the first is the likeliest,
                # and so what it raised is.
                cause = cause or error
                continue
            self.name = attempt.name
            whole = attempt.name == TENSOR
            self.reason = '' if whole else errors[0]
            return
        raise PruningError(
            f'the model does not run on input_shape={check_shape(input_shape)}'
            f' ({errors[0]}). {SHAPE if takes_mode(model) else WHOLE}'
        ) from cause

    def __call__(self, *tensors: Tensor) -> Any:
        """Returns the outputs, and what proposals are made from.

        Args:
            *tensors (Tensor): Inputs in place of its own. Defaults to these.
        """

        def first(proposals: Any) -> Any:
            if not self._proposals:
                chosen = few_proposals(proposals) if self._few else proposals
                self._proposals.append(chosen)
            return self._proposals[0]

        with (
            fixed_chance(),
            suppression_in_float64(),
            levels_in_turn(self.model),
            chosen_proposals(self.model, first) as raw,
        ):
            return [self.attempt.run(tensors or self.attempt.tensors), *raw]

    @cached_property
    def on_corner(self) -> ExampleForward | None:
        """Runs it on a corner of large images, with samples made for that.

        None where images are small, or can be cut as they are.
        """
        small = corner(self.batch, CORNER, LARGE)
        given = tree_leaves((self.attempt.args, self.attempt.kwargs))
        if small is self.batch or is_plain(given):
            return None
        found = copy.copy(self)
        attempts = _attempts(self.model, small, self.count)
        found.attempt = next(islice(attempts, self._number, None))
        found.batch, found._few, found._proposals = small, True, []
        return found

    def _try(self) -> set[str]:
        outputs, ran = run_once(self.model, Way(self, ''))
        if next(tensors_in(outputs), None) is None:
            raise PruningError('it returns no tensor')
        return ran


def _attempts(model: nn.Module, batch: Batch, count: int) -> Iterator[Attempt]:
    def attempt(name: str, args: Any, kwargs: Any, mode: str) -> Attempt:
        return Attempt(name, model, args, {**kwargs, 'mode': mode})

    if not batch.own:
        inputs = repeated(batch.args[0], count)
        samples = plain_samples(model, inputs)
        # A mirrored image has the same size, which is all that a sample tells.
        samples = None if samples is None else samples * count
        yield attempt(TENSOR, (inputs, samples), {}, 'tensor')
    for args, kwargs in candidates(model, batch, count):
        yield attempt(TENSOR, args, kwargs, 'tensor')
    if hasattr(model, FEATURES):
        first = batch.args[0] if batch.args else batch.kwargs.get('inputs')
        features = first if batch.own else repeated(first, count)
        extract: Any = model.extract_feat
        yield Attempt(FEATURES, extract, (features,))
    for args, kwargs in candidates(model, batch, count):
        yield attempt(PREDICT, args, kwargs, 'predict')


@dataclass(frozen=True)
class Example:
    """All that an analysis of a model needs to run it.

    Args:
        forward (ExampleForward): Runs it on one input.
        modes (Modes): Further ways in which it runs.
        unused (list[str]): Patterns of modules that read nothing that is
            pruned.
    """

    forward: ExampleForward
    modes: Modes
    unused: list[str]

    @property
    def also(self) -> list[Way]:
        """Further ways to run the model."""
        return self.modes.ways

    def analyse(self, settings: Mapping[str, Any]) -> Analysis:
        """Finds what can be pruned in the model, without changing it.

        Args:
            settings (Mapping): ``scope``, ``ignore``, ``keep_streams``,
                ``bypass`` and ``unit``.

        Raises:
            PruningError: As :func:`mmlapp.core.analyse`.
        """
        with self.explained():
            return analyse(
                self.forward.model,
                self.forward,
                scope=settings['scope'],
                ignore=settings['ignore'],
                bypass=settings['bypass'],
                unit=settings['unit'],
                also=self.also,
                unused=self.unused,
                keep_streams=settings.get('keep_streams', False),
            )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Adds to an error about modules out of reach what would help.

        Raises:
            PruningError: In place of :class:`~.UnreachedError` and
                :class:`~.UnmatchedError`.
        """
        try:
            yield
        except UnreachedError as error:
            tried = ''.join(
                f'. {name} does not run with the ground truth that was '
                f'made up ({reason})'
                for name, reason in self.modes.failed.items()
            )
            raise PruningError(
                f'{error.reason}{tried}. {GIVE}, or {error.remedy}'
            ) from error
        except UnmatchedError as error:
            notes = notes_of(self.forward, self.modes)
            if not notes or not self._out_of_reach(error.pattern):
                raise
            raise PruningError(
                f'{error}. What it names was not reached: '
                f'{". ".join(notes)}. {GIVE}'
            ) from error

    def _out_of_reach(self, pattern: str) -> bool:
        """Whether modules with parameters match, and none of them ran."""
        named = {
            name.rpartition('.')[0]
            for name, _ in self.forward.model.named_parameters()
            if matches(name, [pattern])
        }
        ran = self.forward.ran | self.modes.ran
        return bool(named) and not named & ran


def example_of(
    model: nn.Module, input_shape: InputShape, unused: str | Sequence[str] = ()
) -> Example:
    """Finds out how a model runs, and says what of it does not.

    Args:
        model (nn.Module): A model of OpenMMLab; it is put back as it was.
        input_shape (Sequence[int] or Mapping): See :func:`example_batch`.
        unused (str or Sequence[str]): Patterns of modules that read nothing
            that is pruned. Defaults to none.

    Returns:
        Example: Its forward and its modes.

    Raises:
        PruningError: If the shape is none, or the model does not run on it.
    """
    with filled(model):
        forward = ExampleForward(model, input_shape)
        modes = find_modes(model, forward.batch)
    patterns = [unused] if isinstance(unused, str) else list(unused)
    if forward.name == FEATURES:
        # What lies behind reads the features alone, and they all stay.
        ran = forward.ran | modes.ran
        # backbone.layer1.0.conv1 -> backbone: what runs at all, by the model's
        # children.
        roots = {name.partition('.')[0] for name in ran}
        names = {
            name.partition('.')[0] for name, _ in model.named_parameters()
        }
        patterns += sorted(names - roots)
    for text in notes_of(forward, modes):
        print_log(text, 'current', logging.WARNING)
    return Example(forward, modes, patterns)


def notes_of(forward: ExampleForward, modes: Modes) -> list[str]:
    """Says what of a model was not run.

    Args:
        forward (ExampleForward): Its example.
        modes (Modes): Its other modes.
    """
    notes = [
        f'{name} was not tried: it does not run with the ground truth that '
        f'was made up ({_brief(reason)})'
        for name, reason in modes.failed.items()
    ]
    if forward.reason:
        part = {FEATURES: 'backbone and neck alone', PREDICT: PREDICT}
        notes.append(
            f'{TENSOR} does not run ({_brief(forward.reason)}): FLOPs are '
            f'those of {part[forward.name]}'
        )
    return notes


def _brief(reason: str) -> str:
    """An error on one line, without where in its sources a library failed."""
    return SOURCE.sub('', ' '.join(reason.split()))[:200]
