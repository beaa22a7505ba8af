# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Networks of libraries that know no configs, in the shape of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mmlapp.core import PruningError


class Foreign(nn.Module):
    """A network with MMEngine's way of being called.

    Args:
        network (nn.Module): It reads a batch of images alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        inputs: Tensor,
        data_samples: Any = None,
        mode: str = 'tensor',
    ) -> Any:
        """Returns what the network does with images in [N, C, H, W]."""
        return self.network(inputs)


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    # Segmentation models would else download those of their backbone.
    builder = models.get_model_builder(name)
    segments = 'segmentation' in builder.__module__
    extra = {'weights_backbone': None} if segments else {}
    network: nn.Module = models.get_model(name, weights=None, **extra)
    return network


def _timm(name: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False)
    return network


LIBRARIES: dict[str, Callable[[str], nn.Module]] = {
    'timm': _timm,
    'torchvision': _torchvision,
}


def build_foreign(library: str, name: str) -> nn.Module:
    """Builds a network by its name in another library, without weights.

    Args:
        library (str): ``timm`` or ``torchvision``.
        name (str): As the library's own list of models has it.

    Raises:
        PruningError: If the library is not installed.

    Examples:
        >>> type(build_foreign('torchvision', 'resnet18').network).__name__
        'ResNet'
    """
    try:
        return Foreign(LIBRARIES[library](name))
    except ImportError as error:
        raise PruningError(
            f'{library}::{name}: {library} is not installed; pip install it'
        ) from error
