# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The parameters that emit channels, and what of them goes with each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..score.group_scores import GroupInfo, Layer


@dataclass
class ChannelTensor:
    """A parameter whose indices along some dimensions belong to channels.

    Args:
        module (nn.Module): Its owner.
        name (str): Its name there.
        dims (tuple[int, ...]): Dimensions that count the parts, ascending.
        channels (Tensor): Global channel at every index of those dimensions,
            flattened; -1 for none. Shape ``[N]``.
    """

    module: nn.Module
    name: str
    dims: tuple[int, ...]
    channels: Tensor

    def stored(self) -> Tensor:
        """Returns the parameter as it is, past any mask."""
        return _stored(self.module)[self.name]

    def gated(self, tensor: Tensor, kept: Tensor | None = None) -> Tensor:
        """Returns a tensor with zeros where no kept channel owns it.

        Args:
            tensor (Tensor): Of the shape of the parameter.
            kept (Tensor, optional): Which channels are kept, bool
                ``[channels]``. Defaults to None: all.
        """
        owned = self.channels >= 0
        if kept is None and bool(owned.all()):
            return tensor
        if kept is not None:
            index = self.channels.to(kept.device)
            owned = (index >= 0) & kept[index.clamp_min(0)]
        # [N] -> [.., N, ..], one elsewhere.
        shape = [
            size if dim in self.dims else 1
            for dim, size in enumerate(tensor.shape)
        ]
        return tensor * owned.to(tensor).view(shape)

    def sums(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over everything but the parts, ``[N]``.

        Args:
            tensor (Tensor): Of the shape of the parameter.
        """
        others = [d for d in range(tensor.dim()) if d not in self.dims]
        # Without dimensions torch would sum over all of them.
        return (tensor.sum(others) if others else tensor).flatten()


def _stored(module: nn.Module) -> dict[str, Tensor]:
    """What a module holds, by name; a weight that is fixed is a buffer."""
    both = {**module._buffers, **module._parameters}
    return {name: value for name, value in both.items() if value is not None}


def channel_tensors(groups: Sequence[GroupInfo]) -> list[ChannelTensor]:
    """Returns what emits the channels of all groups.

    Each tensor once, or once for each dimension that emits: tied layers may
    read a weight and its transpose. Filters; behind them the scale and shift
    of the norm that loses the channels, or else the bias.

    Args:
        groups (Sequence[GroupInfo]): All groups, in order.
    """
    found: dict[tuple[int, tuple[int, ...]], ChannelTensor] = {}
    for layer, mine in global_layers(groups):
        for module, name, dims in _parameters(layer):
            key = id(_stored(module)[name]), dims
            part = ChannelTensor(module, name, dims, mine)
            # Groups may share a tensor, each with indices of its own.
            known = found.setdefault(key, part)
            known.channels = torch.where(mine >= 0, mine, known.channels)
    return list(found.values())


def global_layers(
    groups: Sequence[GroupInfo],
) -> Iterator[tuple[Layer, Tensor]]:
    """Yields the layers that emit channels, with channels of the network.

    Args:
        groups (Sequence[GroupInfo]): All groups, in order.

    Yields:
        tuple[Layer, Tensor]: The layer, and the global channel at every
        index of its dimensions, -1 for none; ``[N]``.
    """
    start = 0
    for group in groups:
        for layer in group.layers:
            # Channels of the group -> channels of the network: plus its start.
            mine = layer.channels.cpu()
            yield layer, torch.where(mine >= 0, mine + start, -1)
        start += group.size


def _parameters(
    layer: Layer,
) -> Iterator[tuple[nn.Module, str, tuple[int, ...]]]:
    """Module, name and dimensions of what goes with a layer's channels."""
    yield layer.module, layer.weight, layer.dims
    vectors = [(layer.module, 'bias')]
    if layer.norm is not None and layer.norm_goes:
        # Behind a norm a bias of the layer itself says nothing.
        vectors = [(layer.norm, layer.scale), (layer.norm, layer.shift)]
    for module, name in vectors:
        value = _stored(module).get(name)
        if value is not None and value.shape == layer.channels.shape:
            yield module, name, (0,)


def energies(
    parts: Sequence[ChannelTensor], tensors: Sequence[Tensor], channels: int
) -> Tensor:
    r"""Returns the squared norm of everything that goes with a channel.

    Args:
        parts (Sequence[ChannelTensor]): Whose channels are asked about.
        tensors (Sequence[Tensor]): One of the shape of each parameter.
        channels (int): Of the network.

    Returns:
        Tensor: Float64, ``[channels]``.
    """
    total = tensors[0].new_zeros(channels, dtype=torch.float64)
    for part, tensor in zip(parts, tensors, strict=True):
        index = part.channels.to(tensor.device)
        # [N] -> [channels]; an index of no channel counts nowhere.
        sums = part.sums(tensor.square()).double()
        total.index_add_(0, index[index >= 0], sums[index >= 0])
    return total
