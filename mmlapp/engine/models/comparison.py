# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether two models compute the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmlapp.core import PruningError
from mmlapp.core.compare import (
    DEPLOYED_TOLERANCE,
    largest_error,
    relative_error,
)
from mmlapp.core.snapshot import exact

from .arguments import check_shape
from .example import ExampleForward
from .inputs import InputShape, example_batch, shape_text
from .modes import first_way
from .proposals import chosen_proposals
from .prunable import LOSS
from .suppression import suppression_in_float64


@dataclass(frozen=True)
class Check:
    """How far the outputs of two models lie apart on one input.

    Args:
        name (str): What the input is.
        error (float): Largest relative error of all output tensors.
    """

    name: str
    error: float

    @property
    def passed(self) -> bool:
        """Whether the models agree; an error that is no number fails."""
        return self.error <= DEPLOYED_TOLERANCE


@dataclass(frozen=True)
class Probe:
    """An input on which models are compared.

    Args:
        name (str): What it is, for the report.
        shape (Sequence[int] or Mapping, optional): Of a random input.
        batch (Any): What a data loader gives. Defaults to None.
        mode (str): Of the forward: ``tensor``, ``predict`` or ``loss``.
            Defaults to ``tensor``.
        double (bool): Whether to compute in float64: where scores are
            compared with a threshold, rounding chooses other ones. Defaults
            to False.
    """

    name: str
    shape: InputShape | None = None
    batch: Any = None
    mode: str = 'tensor'
    double: bool = False

    def run(self, model: nn.Module) -> list[Tensor]:
        """Returns all output tensors of a model in evaluation mode.

        Args:
            model (nn.Module): The model; it stays in evaluation mode.
        """
        model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)  # of samplers in the loss
            if self.shape is not None and self.mode == 'tensor':
                return flat_tensors(ExampleForward(model, self.shape)())
            with ExitStack() as stack:
                if self.double:
                    stack.enter_context(exact(model))
                    stack.enter_context(suppression_in_float64())
                output = self._output(model)
        if isinstance(output, dict):
            # What a method adds while there are masks.
            output = {k: v for k, v in output.items() if k != LOSS}
        return flat_tensors(output)

    def _output(self, model: nn.Module) -> Any:
        if self.shape is not None:
            batch = example_batch(model, self.shape)
            return first_way(model, batch, self.mode, 1).run()
        preprocess: Any = model.data_preprocessor
        data: dict[str, Any] = preprocess(copy.deepcopy(self.batch), False)
        return model(**data, mode=self.mode)

    def in_mode(self, mode: str) -> Probe:
        """Returns the same input for another mode.

        Args:
            mode (str): Of the forward.
        """
        return replace(self, name=f'{self.name}, {mode}', mode=mode)

    def error(
        self, expected: Sequence[Tensor], found: Sequence[Tensor]
    ) -> float:
        """Largest error of the outputs of another model.

        Args:
            expected (Sequence[Tensor]): Outputs of the right one.
            found (Sequence[Tensor]): Outputs of the other one.
        """
        # Features have an order; of boxes that score alike any may come first.
        if self.mode == 'tensor':
            return largest_error(expected, found)
        return prediction_error(expected, found)


def runnable(model: nn.Module, probe: Probe) -> tuple[Probe | None, str]:
    """Tries a mode that not every model has.

    Args:
        model (nn.Module): The model that is right.
        probe (Probe): An input in that mode.

    Returns:
        tuple[Probe or None, str]: The probe, in float64 if the model runs in
        it; or None and the reason.
    """
    reason = ''
    # In float64 first: there equal networks choose equal boxes.
    for attempt in (replace(probe, double=True), probe):
        try:
            attempt.run(model)
        except Exception as error:  # whatever the user's code raises
            reason = f'{type(error).__name__}: {error}'.partition('\n')[0]
        else:
            return attempt, ''
    return None, reason


def runs_alike(model: nn.Module, first: Probe, other: Probe) -> bool:
    """Whether a model runs on another random input as it does on the first.

    Where the whole does not run, backbone and neck alone may, whose outputs
    a narrowed model has fewer channels of.

    Args:
        model (nn.Module): The model.
        first (Probe): A random input in mode ``tensor``.
        other (Probe): One of another shape.
    """
    names = set()
    for probe in (first, other):
        assert probe.shape is not None  # random ones have a shape
        try:
            names.add(ExampleForward(model, probe.shape).name)
        except PruningError:
            return False
    return len(names) == 1


def random_probes(input_shape: InputShape) -> list[Probe]:
    """Random inputs of the given size and, for images, of another one.

    Args:
        input_shape (Sequence[int] or Mapping): See
            :func:`~mmlapp.engine.models.inputs.example_batch`.
    """
    shape = check_shape(input_shape)
    shapes = [shape]
    # [c, h, w]: of other inputs nobody knows which dimension is free.
    if isinstance(shape, tuple) and len(shape) > 2:
        *rest, height, width = shape
        shapes.append((*rest, _other_size(height), _other_size(width)))
    return [Probe(f'random {shape_text(s)}', s) for s in shapes]


def _other_size(edge: int) -> int:
    """Half as much again, for large images half, as a multiple of 32."""
    # 224 becomes 320, and 800 becomes 384.
    wanted = edge * 3 / 2 if edge <= 256 else edge / 2
    return max(32, round(wanted / 32) * 32)


def flat_tensors(output: Any) -> list[Tensor]:
    """Returns all tensors in what a model returned, in order.

    Args:
        output (Any): Tensors in any containers, MMEngine's data elements
            included.
    """
    found = []
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, BaseDataElement):
            # It keeps its fields in a set.
            fields = dict(sorted(leaf.items()))
            found.extend(flat_tensors(fields))
    return found


def prediction_error(
    expected: Sequence[Tensor], found: Sequence[Tensor]
) -> float:
    """Largest error of predictions or losses, whose order does not count.

    Args:
        expected (Sequence[Tensor]): Outputs of one model.
        found (Sequence[Tensor]): Outputs of the other one.

    Returns:
        float: Infinite if they differ in number or shape; of whole numbers,
        such as labels, the share that differs; 0 where nothing was found.

    Examples:
        >>> labels = torch.tensor([5, 1, 1, 2])
        >>> prediction_error([labels], [torch.tensor([1, 6, 2, 1])])
        0.25
    """
    if [t.shape for t in expected] != [t.shape for t in found]:
        return float('inf')
    # Where neither found anything there is nothing to compare.
    pairs = zip(expected, found, strict=True)
    errors = [_either_order(a, b) for a, b in pairs if a.numel()]
    return float(torch.tensor([0.0, *errors]).max())


def _either_order(a: Tensor, b: Tensor) -> float:
    error = _value_error(a, b)
    if error <= DEPLOYED_TOLERANCE or a.dim() == 0:
        return error
    # [found, ...]: equal scores may come in any order.
    return _value_error(a.sort(dim=0).values, b.sort(dim=0).values)


def _value_error(a: Tensor, b: Tensor) -> float:
    if a.is_floating_point():
        return relative_error(a, b)
    # Classes and indices are right or wrong: the share of wrong ones.
    return float((a != b).double().mean())


class Comparison:
    """Outputs of one model, to compare those of another with.

    The region proposals of a two-stage detector are chosen by rank, where a
    rounding error may swap two: both models get the first one's. What the
    proposals are made from is compared like an output.

    Args:
        model (nn.Module): The model that is right. It may be changed after.
        probes (Sequence[Probe]): Inputs.
    """

    def __init__(self, model: nn.Module, probes: Sequence[Probe]) -> None:
        self.probes = probes
        self._proposals: list[Any] = []

        def note(proposals: Any) -> Any:
            self._proposals.append(proposals)
            return proposals

        self.expected = self._outputs(model, note)

    def check(self, model: nn.Module) -> list[Check]:
        """Compares another model on every input.

        Args:
            model (nn.Module): The other model.

        Raises:
            PruningError: If it does not run on one of them.
        """
        # As many, and in the order in which the first model made them.
        noted = iter(self._proposals)
        found = self._outputs(model, lambda proposals: next(noted))
        pairs = zip(self.probes, self.expected, found, strict=True)
        return [Check(p.name, p.error(a, b)) for p, a, b in pairs]

    def _outputs(
        self, model: nn.Module, choose: Callable[[Any], Any]
    ) -> list[list[Tensor]]:
        results = []
        with chosen_proposals(model, choose) as raw:
            for probe in self.probes:
                try:
                    results.append([*probe.run(model), *raw])
                except Exception as error:
                    raise PruningError(
                        f'the model does not run on {probe.name} '
                        f'({type(error).__name__}: {error})'
                    ) from error
                # The next probe has its own.
                raw.clear()
        return results


def refuse_differences(checks: Sequence[Check]) -> None:
    """Raises PruningError if any check failed.

    Args:
        checks (Sequence[Check]): What was compared.
    """
    failed = [c for c in checks if not c.passed]
    if failed:
        text = '; '.join(f'{c.name}: {c.error:.2g}' for c in failed)
        raise PruningError(
            'the narrowed model does not compute what the masked one does '
            f'(relative error above {DEPLOYED_TOLERANCE:g} on {text}). '
            'Nothing was written'
        )
