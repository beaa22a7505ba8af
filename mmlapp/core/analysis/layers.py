# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What every layer gives, which the outputs need not show.

Behind a saturated gate, a norm over two channels or a choice, a network
returns the same whatever comes in: there a wrong group would never be seen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..trace import Trace

# Labels along these dimensions: channels lie where others have positions, and
# what a removed one gives is not zero but the bias.
POSITIONS = {'batch', 'rows'}
# Positions, along each dimension, that are looked at.
SEEN = 8
# Layers, and which of the channels that they give are looked at, bool [out];
# None for all.
LookedAt = Mapping[nn.Module, Tensor | None]
# Whose outputs are known to be [.., C, *positions].
KINDS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def comparable_layers(
    model: nn.Module, record: Trace
) -> dict[nn.Module, Tensor]:
    """Returns layers that give the same narrowed and masked, with labels.

    Those that run once, for how often others do may depend on the width.

    Args:
        model (nn.Module): The network.
        record (Trace): Its trace.

    Returns:
        dict[nn.Module, Tensor]: Layers in the order of their calls, and the
        labels of what they give, ``[out]``.
    """
    runs = Counter(call.name for call in record.calls)
    modules = dict(model.named_modules())
    return {
        modules[call.name]: call.dims['out']
        for call in record.calls
        if runs[call.name] == 1
        and 'out' in call.dims
        and not POSITIONS & call.dims.keys()
        and _is_plain(modules.get(call.name))
    }


class Given:
    """Measures what layers give in one run.

    Args:
        kept (LookedAt): Layers, and what of theirs is looked at.
    """

    def __init__(self, kept: LookedAt) -> None:
        self.kept = kept
        # What is looked at of each layer that ran, [*, channels, *], and
        # which dimension the channels are.
        self.found: dict[nn.Module, tuple[int, Tensor]] = {}

    def left(self, module: nn.Module, args: Any, out: Any) -> None:
        """Measures what a module gave.

        Args:
            module (nn.Module): One that has run.
            args (Any): Its arguments.
            out (Any): What it returned.
        """
        if module not in self.kept or not _has_values(out):
            return
        # [*, C, *positions]: of linear layers C is last.
        dim = out.dim() - 1 - len(getattr(module, 'kernel_size', ()))
        # A copy, for what runs next may write into it.
        seen = out[_grid(out.shape, dim)].to(torch.float64, copy=True)
        self.found[module] = dim, seen

    def sizes(self) -> Tensor:
        """Returns the mean over positions of all channels that count."""
        # Layers of as many positions at once: they are small, and many.
        alike: dict[tuple[int, ...], list[nn.Module]] = defaultdict(list)
        for module in self.kept:
            if module in self.found:
                dim, seen = self.found[module]
                others = seen.shape[:dim] + seen.shape[dim + 1 :]
                key = dim, *others
                alike[key].append(module)
        found = [torch.zeros(0, dtype=torch.float64)]
        for (dim, *_), modules in alike.items():
            # [*, channels of all, *] -> [channels, positions]
            y = torch.cat([self.found[m][1].cpu() for m in modules], dim)
            y = y.movedim(dim, 0).flatten(1) if y.dim() > 1 else y[:, None]
            kept = torch.cat([self._mask(m) for m in modules])
            # mean(|y| + y / 2): nothing cancels, and signs count.
            found.append((y.abs() + y / 2).mean(1)[kept])
        # Finite, for the outputs are what tells whether a network explodes.
        return torch.cat(found).nan_to_num(0.0, 0.0, 0.0)

    def _mask(self, module: nn.Module) -> Tensor:
        mask = self.kept[module]
        if mask is not None:
            return mask.cpu()
        dim, seen = self.found[module]
        return torch.ones(seen.shape[dim], dtype=torch.bool)


@cache
def _grid(shape: tuple[int, ...], dim: int) -> tuple[slice, ...]:
    """Some positions of an even grid along all dimensions but channels.

    What is wrong of a channel is so nearly everywhere, and to look at all
    positions takes long.
    """
    return tuple(
        slice(None, None, 1 if place == dim else -(-size // SEEN) or 1)
        for place, size in enumerate(shape)
    )


def _is_plain(module: nn.Module | None) -> bool:
    """Whether it gives what PyTorch's layers do; others may pack it."""
    if not isinstance(module, KINDS) or 'forward' in vars(module):
        return False
    return any(type(module).forward is kind.forward for kind in KINDS)


def _has_values(out: Tensor) -> bool:
    """Whether numbers can be taken; vmap's are gone behind it."""
    inside = torch._C._functorch.is_functorch_wrapped_tensor(out)
    return not (inside or out.is_meta) and out.numel() > 0
