# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a file computes what a network does, also where rounding decides.

Some networks compare values. The head of SOLO keeps a score where it ``==``
the largest one around it: where two scores are equal but for rounding, another
order of a sum keeps the other one, and a score stands where a zero was.
PyTorch itself decides otherwise in double precision.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from mmlapp.core.compare import in_double, largest_error

from .outputs import outputs_of

# Values of a file that may be others for each one at which PyTorch decides
# otherwise in double precision: both are small numbers, drawn at random.
MOST = 4
# Share of all values of an output that they may be: where rounding decides
# about more, such as the order of proposals, agreement would mean little.
SHARE = 1e-3


@dataclass(frozen=True)
class Agreement:
    """How far a file is from its network.

    Args:
        error (float): Largest relative error of an output.
        undecided (int): Values that are others since rounding decides about
            them in the network itself; not part of the error. Defaults to 0.
    """

    error: float
    undecided: int = 0


class Reference:
    """What a network computes on some images.

    Args:
        network (nn.Module): In evaluation mode.
        images (Tensor): ``[n, c, h, w]``.

    Attributes:
        outputs (list[Tensor]): All of them, in order.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self._network, self.images = network, images
        self.outputs = outputs_of(network, images)

    @cached_property
    def exact(self) -> list[Tensor] | None:
        """The outputs in double precision; None where it has none."""
        try:
            double = copy.deepcopy(self._network).double()
            found = outputs_of(double, self.images.double())
        except Exception:  # whatever kernels raise that know float32 alone
            return None
        same = [t.shape for t in found] == [t.shape for t in self.outputs]
        return found if same else None

    def compared(self, found: Sequence[Tensor], tolerance: float) -> Agreement:
        """Compares the outputs of a file with those of the network.

        Args:
            found (Sequence[Tensor]): Outputs of the file.
            tolerance (float): Largest relative error that is allowed.
        """
        error = largest_error(self.outputs, found)
        # Also where it is infinite: outputs of another shape, or none. NaN
        # is no number, and stays.
        if not tolerance < error < float('inf') or self.exact is None:
            return Agreement(error)
        parts = [
            _compared(*each, tolerance)
            for each in zip(self.outputs, found, self.exact, strict=True)
        ]
        return Agreement(
            max(part.error for part in parts),
            sum(part.undecided for part in parts),
        )


def _compared(
    expected: Tensor, found: Tensor, exact: Tensor, tolerance: float
) -> Agreement:
    """Of one output; values of which few are torn between two are spared."""
    error = largest_error([expected], [found]) if expected.numel() else 0.0
    # In double precision: booleans have no difference.
    wanted = in_double(expected)
    limit = tolerance * wanted.abs().amax() if error else 0.0
    off = (wanted - in_double(found)).abs() > limit
    torn = (wanted - in_double(exact)).abs() > limit
    most = min(MOST * int(torn.sum()), SHARE * off.numel())
    if not 0 < off.sum() <= most:
        return Agreement(error)
    rest = found.where(~off, expected)
    return Agreement(largest_error([expected], [rest]), int(off.sum()))


def worst(agreements: Sequence[Agreement]) -> Agreement:
    """Returns the largest error, and all undecided values, of several images.

    Args:
        agreements (Sequence[Agreement]): One for each batch.
    """
    # By torch, whose maximum is NaN if one is.
    error = float(torch.tensor([each.error for each in agreements]).max())
    return Agreement(error, sum(each.undecided for each in agreements))
