# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A convolution beside a layer, perhaps with a norm behind it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..errors import LayerRefusedError, PruningError
from ..heirs import Heir
from ..numbers import check_flag
from ..trace import LayerCall
from .branch import Branch, Ends
from .kernels import check_mergeable, merge_convolution
from .split import SplitConv, parts

Conv = _ConvNd
NORMS: dict[int, type[_BatchNorm]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}


class NormedConv(Branch):
    """A convolution without bias, and a norm where one is wanted.

    Args:
        layer (_ConvNd): The convolution that it runs beside.
        conv (_ConvNd): From the layer's input to its output.
        norm (bool): Whether a BatchNorm follows it.
        merge (bool): Whether it is merged at deployment, and therefore free.

    Raises:
        LayerRefusedError: If it would cost too much, or is to be merged and
            cannot be.
        PruningError: If a choice is neither True nor False.
    """

    conv: nn.Module
    norm: nn.Module | None

    def __init__(
        self, layer: Conv, conv: Conv, norm: bool, merge: bool
    ) -> None:
        super().__init__()
        check_flag('bypass norm', norm)
        self.merge = check_flag('bypass merge', merge)
        self._check_made(layer, conv, merge)
        self.conv, self.norm = conv, None
        # What a merged norm shifts by needs a place.
        self.adds_bias = norm and layer.bias is None
        if norm:
            # [out, in / groups, *kernel]: two dimensions are not the kernel.
            weight = conv.weight
            self.norm = NORMS[weight.dim() - 2](
                conv.out_channels, device=weight.device, dtype=weight.dtype
            )

    def forward(self, x: Tensor) -> Tensor:
        """Runs the convolution, then the norm."""
        y: Tensor = self.conv(x)
        return y if self.norm is None else self.norm(y)

    def calls(
        self, name: str, call: LayerCall, ends: Ends | None
    ) -> list[LayerCall]:
        """A convolution, and a norm if there is one; a bias once merged."""
        if self.merge:
            return [bias_call(name, call, ends)] if self.adds_bias else []
        found = [self._conv_call(name, call, ends)]
        if self.norm is not None:
            width = found[0].outputs[1]
            dims = {} if ends is None else {'out': ends[1]}
            shape = found[0].outputs
            found.append(
                LayerCall(f'{name}.norm', 'norm', dims, shape, (width,), shape)
            )
        return found

    def _conv_call(
        self, name: str, call: LayerCall, ends: Ends | None
    ) -> LayerCall:
        conv = self.conv
        assert isinstance(conv, _ConvNd)
        dims: dict[str, Tensor] = {}
        pairs = None
        if ends is not None:
            dims = {'out': ends[1], 'in': ends[0]}
        # An input meets the outputs of its own group alone: what is left of
        # the cost is a sum over living pairs, not a product of widths.
        if ends is not None and conv.groups > 1:
            pairs = _pairs(conv.groups, *ends)
        return LayerCall(
            name,
            'convolution',
            dims,
            call.inputs,
            tuple(conv.weight.shape),
            call.outputs,
            {
                'groups': conv.groups,
                'transposed': conv.transposed,
                'stride': conv.stride,
                'padding': conv.padding,
                'dilation': conv.dilation,
            },
            pairs,
        )

    def gated(self) -> Iterator[tuple[str, str]]:
        """The filters, and scale and shift of the norm."""
        yield 'conv', 'weight'
        if self.norm is not None:
            yield 'norm', 'weight'
            yield 'norm', 'bias'

    def narrow(
        self, kept_in: Tensor, kept_out: Tensor
    ) -> tuple[Branch | None, dict[nn.Parameter, list[Heir]]]:
        """Splits a grouped convolution by what its groups kept."""
        dense = self.conv
        if kept_in.all() and kept_out.all():
            return self, {}
        assert isinstance(dense, nn.Conv2d)
        split = SplitConv(dense, kept_in, kept_out)
        heirs = _heirs(dense, split, kept_in, kept_out)
        # The parameter of a plain part stays the object that `heirs` names.
        plain = split.is_plain(int(kept_in.sum()))
        self.conv = split.convs[0] if plain else split
        self.conv.train(dense.training)
        if self.norm is not None:
            heirs.update(_narrow_norm(self.norm, kept_out))
        # A norm shifts even where nothing comes in.
        empty = not len(split.convs) and self.norm is None
        return (None if empty else self), heirs

    def merge_into(self, layer: nn.Module) -> None:
        """Adds its filters, scaled by the norm, to those of the layer."""
        merge_convolution(layer, self.conv, self.norm)

    def _check_made(self, layer: Conv, conv: object, merge: bool) -> None:
        """Refuses what a registered branch should not have made."""
        name = type(self).__name__
        if (
            not isinstance(conv, _ConvNd)
            or conv.bias is not None
            or conv.in_channels != layer.in_channels
            or conv.out_channels != layer.out_channels
        ):
            raise PruningError(
                f'{name}.make returned {conv} beside {layer}: expected a '
                'convolution without bias and with the same channels'
            )
        if merge:
            check_mergeable(layer, conv)
            return
        # Beside a dense layer: 1 / G for G groups, 1 / 9 for 1x1 at 3x3.
        cost = conv.weight.numel() / layer.weight.numel()
        if cost > 0.5:
            raise LayerRefusedError(
                f'its bypass would cost {cost:.0%} of the layer'
            )


def bias_call(name: str, call: LayerCall, ends: Ends | None) -> LayerCall:
    """The bias that a layer gets from the norms of merged branches.

    Args:
        name (str): Name for the tables.
        call (LayerCall): The call of the layer.
        ends (tuple, optional): Channel nodes at its input and output.
    """
    dims = {} if ends is None else {'out': ends[1]}
    shape = call.outputs
    return LayerCall(name, 'bias', dims, shape, (shape[1],), shape)


def _pairs(groups: int, inputs: Tensor, outputs: Tensor) -> Ends:
    """Lists the channel pairs that a grouped convolution joins.

    Args:
        groups (int): Number of groups.
        inputs (Tensor): Node of every input, ``[in]``.
        outputs (Tensor): Node of every output, ``[out]``.

    Returns:
        tuple[Tensor, Tensor]: Both ends of each pair, ``[in * out / groups]``.
    """
    # [groups, 1, in of a group] against [groups, out of a group, 1]
    # 2 groups, inputs 0 1 2 3, outputs 4 5: pairs 0-4, 1-4, 2-5, 3-5.
    a = inputs.view(groups, 1, -1)
    b = outputs.view(groups, -1, 1)
    a, b = torch.broadcast_tensors(a, b)
    return a.reshape(-1), b.reshape(-1)


def _heirs(
    dense: nn.Conv2d, split: SplitConv, kept_in: Tensor, kept_out: Tensor
) -> dict[nn.Parameter, list[Heir]]:
    """Every part of the split takes its place in the dense weight."""
    # The same parts in the same order as the split made its convolutions.
    takes = [p.take for p in parts(dense.groups, kept_in, kept_out)]
    heirs = [
        Heir(conv.get_parameter('weight'), take)
        for conv, take in zip(split.convs, takes, strict=True)
    ]
    return {dense.get_parameter('weight'): heirs}


def _narrow_norm(
    norm: nn.Module, kept: Tensor
) -> dict[nn.Parameter, list[Heir]]:
    """Keeps the rows of a norm's tensors, ``[out]`` to ``[living]``."""

    def take(value: Tensor) -> Tensor:
        # [out] -> [living]; bool, so that the order stays.
        return value.detach()[kept.to(value.device)].clone()

    heirs: dict[nn.Parameter, list[Heir]] = {}
    for name, old in list(norm._parameters.items()):
        if old is not None:
            new = nn.Parameter(take(old), old.requires_grad)
            norm._parameters[name] = new
            heirs[old] = [Heir(new, take)]
    for name in ('running_mean', 'running_var'):
        value = norm._buffers[name]
        if value is not None:
            norm._buffers[name] = take(value)
    norm.num_features = int(kept.sum())  # type: ignore[assignment]
    return heirs
