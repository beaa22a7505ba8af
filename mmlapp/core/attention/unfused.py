# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's encoders that call their modules one by one.

In evaluation PyTorch runs one operator for a whole layer, past its norms,
which must see no removed channel while others are masked.
"""

from __future__ import annotations

from torch import nn

from ..mixins import mix_in, take_off

FUSED = nn.TransformerEncoder, nn.TransformerEncoderLayer


class Unfused:
    """Mixin of an encoder or its layer: it has what no kernel takes."""

    @property
    def use_nested_tensor(self) -> bool:
        """What an encoder asks for before it takes tensors of any length."""
        return False

    @property
    def activation_relu_or_gelu(self) -> int:
        """Zero for an activation that the kernel of a layer has not."""
        return 0


def unfuse(model: nn.Module, inside: type) -> None:
    """Lets encoders with certain modules inside run without kernels.

    Args:
        model (nn.Module): The network, changed in place.
        inside (type): The class of these modules.
    """
    for module in model.modules():
        fused = isinstance(module, FUSED) and not isinstance(module, Unfused)
        if fused and any(
            isinstance(part, inside) for part in module.modules()
        ):
            mix_in(module, Unfused)


def fuse_again(module: nn.Module) -> None:
    """Gives a module back its own class.

    Args:
        module (nn.Module): Any module.
    """
    take_off(module, Unfused)
