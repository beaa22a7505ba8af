# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Names of branches in weights, and whether a model has the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmlapp.core import PruningError
from mmlapp.core.progress import Phase
from mmlapp.core.pruner.saved import read_progress

from .weight_names import PRUNER

# In the name of each weight of a branch.
BRANCH = '.bypass.'


def refuse_other_branches(
    model: nn.Module, state_dict: Mapping[str, Any], prefix: str
) -> None:
    """Refuses weights of a pruning run that were trained with other branches.

    MMEngine leaves out those that have no place or another shape, keeps
    random ones where none are found, and says it in its log alone. Weights
    from before the phase may lack branches, as those of a dense network do.

    Args:
        model (nn.Module): Who gets the weights.
        state_dict (Mapping): Their names and values.
        prefix (str): Of the model's names.

    Raises:
        PruningError: With the first branch that is not the same.
    """
    name = f'{prefix}{PRUNER}progress'
    progress = state_dict.get(name)
    if progress is None:
        return
    found = _branches(state_dict, prefix)
    own = _branches(model.state_dict(), '')
    others = [n for n in found if found[n] != own.get(n)]
    # Before the phase they may be new ones, as beside dense weights.
    if read_progress(name, progress).phase != Phase.DENSE:
        others += [n for n in own if n not in found]
    if others:
        first = others[0]
        raise PruningError(
            f'the weights are of a pruning run with another bypass: {first} '
            f'has shape {found.get(first, "none")} in them, in this '
            f'{type(model).__name__} {own.get(first, "none")}. Give the '
            'bypass of that run to mmlapp.PrunableModel'
        )


def _branches(
    state_dict: Mapping[str, Any], prefix: str
) -> dict[str, tuple[int, ...]]:
    """Shapes of what belongs to branches, by the names in the model."""
    return {
        name.removeprefix(prefix): tuple(value.shape)
        for name, value in state_dict.items()
        if name.startswith(prefix)
        and BRANCH in name
        and isinstance(value, Tensor)
    }
