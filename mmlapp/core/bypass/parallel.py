# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Several convolutions beside a layer, each with a norm, that merge into it.

They help while the network trains and are gone when it is deployed: what
kernels lie inside that of the layer, and the norms behind them, become part
of its filters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import LayerRefusedError
from ..heirs import Heir
from ..trace import LayerCall
from .branch import Branch, Ends, register_branch
from .normed import NormedConv, bias_call

Size = tuple[int, int]


class Parallel(Branch):
    r"""Convolutions beside a layer, :math:`B(x) = \sum_i N_i(B_i x)`.

    Args:
        layer (nn.Module): The convolution that they run beside.
        norm (bool): Whether a BatchNorm follows each of them. Defaults to
            True.
        merge (bool): Whether they are merged at deployment, and therefore
            free: budgets count the deployed network. Defaults to True.

    Raises:
        LayerRefusedError: If the layer can have none; with the reason.
    """

    def __init__(
        self, layer: nn.Module, norm: bool = True, merge: bool = True
    ) -> None:
        super().__init__()
        self.merge = merge
        if not isinstance(layer, nn.Conv2d):
            raise LayerRefusedError(f'{type(layer).__name__} takes no bypass')
        self.parts = nn.ModuleList(
            NormedConv(layer, conv, norm, merge) for conv in self.make(layer)
        )

    @abstractmethod
    def make(self, layer: nn.Conv2d) -> list[nn.Conv2d]:
        """Returns the convolutions beside a layer, at least one.

        Args:
            layer (nn.Conv2d): The layer.

        Raises:
            LayerRefusedError: If a layer can have none; with the reason.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Adds what all of them give."""
        # No zeros to begin with: the sum has the shape of the first.
        first, *others = self.parts
        y: Tensor = first(x)
        for part in others:
            y = y + part(x)
        return y

    def calls(
        self, name: str, call: LayerCall, ends: Ends | None
    ) -> list[LayerCall]:
        """Those of every convolution and its norm; a bias once merged."""
        if self.merge:
            added = any(part.adds_bias for _, part in self._numbered())
            return [bias_call(name, call, ends)] if added else []
        return [
            found
            for number, part in self._numbered()
            for found in part.calls(f'{name}.{number}', call, ends)
        ]

    def gated(self) -> Iterator[tuple[str, str]]:
        """Filters of every convolution, scale and shift of its norm."""
        for number, part in self._numbered():
            for path, name in part.gated():
                yield f'parts.{number}.{path}', name

    def narrow(
        self, kept_in: Tensor, kept_out: Tensor
    ) -> tuple[Branch | None, Mapping[nn.Parameter, Sequence[Heir]]]:
        """Narrows each of them; those of which nothing is left are gone."""
        heirs: dict[nn.Parameter, Sequence[Heir]] = {}
        # A list, for parts go meanwhile.
        for number, part in list(self._numbered()):
            narrowed, found = part.narrow(kept_in, kept_out)
            heirs.update(found)
            if narrowed is None:
                # The others keep their numbers, as in the wide network.
                del self.parts._modules[number]
        return (self if len(self.parts) else None), heirs

    def merge_into(self, layer: nn.Module) -> None:
        """Adds the filters of all of them to those of the layer."""
        for _, part in self._numbered():
            part.merge_into(layer)

    def _numbered(self) -> Iterator[tuple[str, NormedConv]]:
        for number, part in self.parts.named_children():
            assert isinstance(part, NormedConv)
            yield number, part


@register_branch('asymmetric')
class Asymmetric(Parallel):
    """A row and a column of the kernel (ACNet, arXiv 1908.03930)."""

    def make(self, layer: nn.Conv2d) -> list[nn.Conv2d]:
        """Returns two convolutions, of 1 x k and k x 1.

        Raises:
            LayerRefusedError: If the kernel has one row or one column.
        """
        height, width = layer.kernel_size
        if min(height, width) < 2:
            raise LayerRefusedError(
                f'its {height}x{width} kernel is a row or a column itself'
            )
        return [centred(layer, size) for size in ((1, width), (height, 1))]


@register_branch('repvgg')
class RepVGG(Parallel):
    """A 1x1 convolution, and the input itself where it fits.

    RepVGG, arXiv 2101.03697: the identity is a 1x1 convolution with one
    fixed filter per channel, whose norm scales it.
    """

    def make(self, layer: nn.Conv2d) -> list[nn.Conv2d]:
        """Returns a convolution of 1 x 1, and perhaps the identity."""
        convs = [centred(layer, (1, 1))]
        width = layer.in_channels
        # Else input and output differ in shape.
        if width == layer.out_channels and set(layer.stride) == {1}:
            identity = centred(layer, (1, 1), groups=width)
            nn.init.ones_(identity.weight).requires_grad_(False)
            convs.append(identity)
        return convs

    def start(self) -> None:
        """Makes the identity one again: initialisers set all convolutions."""
        for module in self.parts[1:].modules():
            if isinstance(module, _ConvNd):
                weight = module._parameters['weight']
                assert weight is not None
                nn.init.ones_(weight)


@register_branch('twin')
class Twin(Parallel):
    """A second convolution of the same form (DBB, arXiv 2103.13425)."""

    def make(self, layer: nn.Conv2d) -> list[nn.Conv2d]:
        """Returns a convolution of the layer's own size."""
        height, width = layer.kernel_size
        return [centred(layer, (height, width))]


def centred(layer: nn.Conv2d, size: Size, groups: int = 1) -> nn.Conv2d:
    """Makes a convolution of another size with the same centre.

    Args:
        layer (nn.Conv2d): The convolution that it runs beside.
        size (tuple[int, int]): Of its kernel.
        groups (int): Its groups. Defaults to 1.

    Raises:
        LayerRefusedError: If its kernel would not lie in the layer's.
    """
    if isinstance(layer.padding, str):
        raise LayerRefusedError(f'padding={layer.padding!r}')
    padding = []
    for large, small, pad, step in zip(
        layer.kernel_size, size, layer.padding, layer.dilation, strict=True
    ):
        # The first tap of the small kernel is so many of the large one's in:
        # 1 in 3 has 1, and with padding 1 needs none of its own.
        first, odd = divmod(large - small, 2)
        if odd or first < 0 or pad < first * step:
            raise LayerRefusedError(
                f'a {size[0]}x{size[1]} kernel has no place in the middle of '
                f'its {layer.kernel_size} with padding={layer.padding}'
            )
        padding.append(pad - first * step)
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        size,
        layer.stride,  # type: ignore[arg-type]
        tuple(padding),  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        groups,
        bias=False,
        padding_mode=layer.padding_mode,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
