# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Branches that become part of the filters beside them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import nn

from ..default_device import on_cpu
from ..errors import PruningError
from ..mixins import take_off
from .beside import Bypassed


@on_cpu()
@torch.inference_mode(False)  # a new bias could not be trained
@torch.no_grad()
def merge_bypasses(
    model: nn.Module, free: bool = False
) -> dict[str, str | None]:
    r"""Adds bypasses to the filters of their convolutions, in place.

    Nothing lies between both, so that with :math:`B'`, the bypass as filters
    of the convolution's shape, :math:`W x + B x = (W + B') x` (as RepVGG does,
    arXiv 2101.03697). Layers that lost filters alone keep their bypass: it
    is all that some of their channels have.

    Args:
        model (nn.Module): A network that was narrowed.
        free (bool): Whether those alone that budgets do not count, of
            ``merge=True``. Defaults to False: all of them.

    Returns:
        dict[str, str or None]: Every layer that had a bypass, with the
        reason if it keeps it.

    Examples:
        >>> from mmlapp.core import attach, narrow
        >>> model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3))
        >>> x = torch.rand(1, 4, 9, 9)
        >>> pruner = attach(model, x, bypass='depthwise')
        >>> pruner.begin({'flops': 0.5}, steps=1)
        >>> pruner.step()
        >>> y = narrow(model, pruner.plan())(x)
        >>> merge_bypasses(model)
        {'0': None}
        >>> torch.testing.assert_close(model(x), y)
    """
    found: dict[str, str | None] = {}
    for name, conv in model.named_modules():
        if not isinstance(conv, Bypassed):
            continue
        if conv.bypass is not None:
            if free and not conv.bypass.merge:
                continue
            found[name] = _merge(conv)
        if conv.bypass is None:
            # The walk enters the children of conv after this, so one may go.
            _unmix(conv)
    return found


def gained_biases(
    model: nn.Module, merged: Mapping[str, str | None], known: Container[str]
) -> list[str]:
    """Returns the layers that got a bias, from the norms of merged branches.

    Args:
        model (nn.Module): The network, after :func:`merge_bypasses`.
        merged (Mapping[str, str or None]): What that returned.
        known (Container[str]): Names of the tensors that there were before.
    """
    return [
        name
        for name, reason in merged.items()
        if reason is None
        and f'{name}.bias' not in known
        and model.get_submodule(name).bias is not None
    ]


def _merge(layer: Any) -> str | None:
    """Merges one branch, or says why not."""
    # W has rows for `kept` alone: no place for those of the other outputs.
    if layer.kept is not None:
        return 'it fills removed filters'
    try:
        layer.bypass.merge_into(layer)
    except PruningError as error:
        return str(error)
    layer.bypass = None
    return None


def _unmix(conv: Any) -> None:
    """Makes it a convolution like any other."""
    del conv._modules['bypass'], conv._buffers['kept']
    take_off(conv, Bypassed)
