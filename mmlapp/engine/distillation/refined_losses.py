# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The losses of a step, with those of learned labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine import dist
from torch import Tensor, nn

from mmlapp.core import LabelRefinement, PruningError

from .losses import DistilledLosses


class RefinedLosses(DistilledLosses):
    """Adds the term of the pseudo-logits that the images of a batch own.

    The teacher runs only for batches with an image that is seen for the
    first time, whose pseudo-logits begin as its logits.

    Args:
        student (nn.Module): The model that is trained, not wrapped.
        teacher (nn.Module): A frozen model of the same forward.
        name (str): Name of the module whose output is the logits.
        refinement (LabelRefinement): The pseudo-logits.
        compiled (bool): See :class:`DistilledLosses`. Defaults to False.

    Raises:
        PruningError: If one of the two lacks the module.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        name: str,
        refinement: LabelRefinement,
        compiled: bool = False,
    ) -> None:
        losses: Any = {name: refinement}
        super().__init__(student, teacher, losses, compiled)
        self.name, self.refinement = name, refinement
        # Which images of the last batch were new, bool [N].
        self._new = torch.zeros(0, dtype=torch.bool)

    def terms(
        self,
        found: Mapping[str, Sequence[Tensor]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> dict[str, Tensor]:
        """Returns the term of the learned labels."""
        samples = args[1] if len(args) > 1 else kwargs.get('data_samples')
        indices = sample_indices(samples)
        known = self.refinement.knows(indices)
        # Asked before they are begun: all processes have to agree on these.
        self._new = ~self.refinement.known[indices]
        if not known:
            logits = self._single(self.taught(args, kwargs)[self.name])
            self.refinement.initialise(indices, logits)
        logits = self._single(found[self.name])
        return {self.name: self.refinement.term(logits, indices)}

    def _single(self, outputs: Sequence[Tensor]) -> Tensor:
        if len(outputs) != 1:
            raise PruningError(
                f'module={self.name!r} puts out {len(outputs)} tensors, '
                'expected the logits alone. Name another module'
            )
        return outputs[0]

    def step(self) -> None:
        """Moves the labels of the last batch, of all processes alike.

        The loss of a run is the mean of those of its processes, so that
        each gradient counts as one part of their number.
        """
        move, new = self.refinement.take_move(), self._new
        if move is None:
            return
        indices, slopes = move
        if dist.get_world_size() == 1:
            self.refinement.move(indices, slopes)
            return
        # Where each process began its labels, [N, classes].
        first = self.refinement.logits[indices]
        parts = dist.all_gather_object((indices, new, first, slopes))
        self._take(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def _take(
        self, indices: Tensor, new: Tensor, first: Tensor, slopes: Tensor
    ) -> None:
        """Takes the labels of all processes, in the order of their ranks."""
        # Two processes may have begun one label: that of the first counts.
        self.refinement.known[indices[new]] = False
        self.refinement.initialise(indices[new], first[new])
        self.refinement.move(indices, slopes / dist.get_world_size())


def sample_indices(samples: Any) -> Tensor:
    """Returns the indices of the images of a batch, ``[N]``.

    Args:
        samples (Sequence): Data samples, as a pipeline of OpenMMLab packs
            them.

    Raises:
        PruningError: If they do not say their index.
    """
    found = [getattr(sample, 'sample_idx', None) for sample in samples or []]
    if not found or not all(isinstance(index, int) for index in found):
        raise PruningError(
            'label refinement: the data samples do not say which images they '
            "are. Let PackInputs have 'sample_idx' among its meta_keys, and "
            'take a data set that sets it, as those of MMEngine do'
        )
    return torch.tensor(found)
