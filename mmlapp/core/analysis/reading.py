# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Who reads values at removed channels that evaluation does not have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..groups import Groups
from ..trace import Site, Trace


class Reading:
    """Looks at what the layers of a masked network read.

    A trace promises that a removed channel is zero where a layer reads it
    in evaluation mode. Training may add something there, such as noise.

    Args:
        model (nn.Module): The network, masked.
        record (Trace): Its trace.
        groups (Groups): Its channel groups.
        mask (Tensor): Kept channels, bool in global order, ``[channels]``.
    """

    def __init__(
        self, model: nn.Module, record: Trace, groups: Groups, mask: Tensor
    ) -> None:
        # Reader to the indices that are removed, and whether all were zero.
        self._removed: dict[Site, Tensor] = {}
        self._sites: dict[nn.Module, list[Site]] = defaultdict(list)
        self._zero: dict[Site, bool] = {}
        for site in record.trusting - record.readers:
            # Global channel at every index, -1 for none: [size].
            mine = groups.node_channel[site.start : site.start + site.size]
            gone = (mine >= 0) & ~mask.cpu()[mine.clamp(min=0)]
            if gone.any():
                self._removed[site] = gone.nonzero()[:, 0]
                owner = model.get_submodule(site.module)
                self._sites[owner].append(site)

    def left(self, module: nn.Module, args: Sequence[Any], out: Any) -> None:
        """Notes what a module has read.

        Args:
            module (nn.Module): One that has run.
            args (Sequence): Its arguments.
            out (Any): What it returned.
        """
        if not isinstance(module, (nn.Linear, _ConvNd)):
            return  # what it does with its input is unknown
        for site in self._sites[module]:
            x, removed = args[0], self._removed[site]
            dim = x.dim() - (1 + len(getattr(module, 'kernel_size', ())))
            # [.., g C, ..] as [.., g, C, ..]: groups read as many channels.
            parts = x.unflatten(dim, (-1, site.size))
            read = parts.index_select(dim + 1, removed.to(x.device))
            self._zero[site] = self._zero.get(site, True) and not read.any()

    def seen(self) -> set[Site]:
        """Returns readers whose removed channels were seen as no zeros."""
        return {site for site, zero in self._zero.items() if not zero}

    def deceived(self) -> set[Site]:
        """Returns readers of removed channels that were not seen as zero."""
        return {s for s in self._removed if not self._zero.get(s, False)}
