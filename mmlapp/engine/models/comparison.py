# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether two models compute the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmlapp.core import PruningError
from mmlapp.core.compare import DEPLOYED_TOLERANCE, relative_errors

from .architecture import example_forward
from .proposals import chosen_proposals


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
        shape (tuple[int, ...], optional): Of a random image.
        batch (Any): What a data loader gives. Defaults to None.
    """

    name: str
    shape: tuple[int, ...] | None = None
    batch: Any = None

    def run(self, model: nn.Module) -> list[Tensor]:
        """Returns all output tensors of a model in evaluation mode."""
        model.eval()
        with torch.no_grad():
            if self.shape is not None:
                return flat_tensors(example_forward(model, self.shape)())
            data = model.data_preprocessor(copy.deepcopy(self.batch), False)
            return flat_tensors(model(**data, mode='tensor'))


def random_probes(input_shape: Sequence[int]) -> list[Probe]:
    """Random images of the given size and of another one."""
    channels, *size = input_shape
    other = tuple(_other_size(edge) for edge in size)
    return [
        Probe(f'random {"x".join(map(str, shape))}', shape)
        for shape in (tuple(input_shape), (channels, *other))
    ]


def _other_size(edge: int) -> int:
    """Half as much again, for large images half, as a multiple of 32."""
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


def largest_error(
    expected: Sequence[Tensor], found: Sequence[Tensor]
) -> float:
    """Largest relative error of any output tensor.

    Args:
        expected (Sequence[Tensor]): Outputs of one model.
        found (Sequence[Tensor]): Outputs of the other one.

    Returns:
        float: Infinite if the outputs differ in number or shape or if there
        are none, NaN if a value is no number.

    Examples:
        >>> largest_error([torch.tensor([4.0])], [torch.tensor([3.0])])
        0.25
    """
    errors = relative_errors(expected, found)
    # By torch, whose maximum is NaN if one is.
    return float(torch.tensor(errors).max()) if errors else float('inf')


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
        """
        noted = iter(self._proposals)
        found = self._outputs(model, lambda proposals: next(noted))
        pairs = zip(self.probes, self.expected, found, strict=True)
        return [Check(p.name, largest_error(a, b)) for p, a, b in pairs]

    def _outputs(
        self, model: nn.Module, choose: Callable[[Any], Any]
    ) -> list[list[Tensor]]:
        results = []
        with chosen_proposals(model, choose) as raw:
            for probe in self.probes:
                results.append([*probe.run(model), *raw])
                raw.clear()
        return results


def refuse_differences(checks: Sequence[Check]) -> None:
    """Raises PruningError if any check failed."""
    failed = [c for c in checks if not c.passed]
    if failed:
        text = '; '.join(f'{c.name}: {c.error:.2g}' for c in failed)
        raise PruningError(
            'the narrowed model does not compute what the masked one does '
            f'(relative error above {DEPLOYED_TOLERANCE:g} on {text}). '
            'Nothing was written'
        )
