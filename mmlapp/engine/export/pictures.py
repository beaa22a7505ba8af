# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images as a network reads them: the user's, a config's, or made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmlapp.core import PruningError

from ..deployment.real_data import real_batch
from ..deployment.recipe import own_settings
from ..models.arguments import check_shape
from ..models.inputs import shape_text

# Files are compared on as many.
COUNT = 2


def example_images(
    cfg: Config,
    model: nn.Module,
    shape: Sequence[int] | None = None,
    files: Sequence[str | Path] = (),
) -> tuple[Tensor, str]:
    """Returns images behind the preprocessor of a model.

    Args:
        cfg (Config): Config of the model.
        model (nn.Module): The model.
        shape (Sequence[int], optional): Channels, height and width to resize
            them to. Defaults to None: as the test pipeline of the config
            gives them.
        files (Sequence[str or Path]): Pictures to take instead of the test
            data of the config. Defaults to none.

    Returns:
        tuple[Tensor, str]: Float32 ``[n, c, h, w]``, and what they are.

    Raises:
        PruningError: If a picture cannot be read, or has other channels.
    """
    images, text = _found_images(cfg, model, shape, files)
    if shape is not None and images.shape[1] != shape[0]:
        raise PruningError(
            f'input_shape={list(shape)}: {text} have {images.shape[1]} '
            'channels; only height and width can be others'
        )
    return images, text


def _found_images(
    cfg: Config,
    model: nn.Module,
    shape: Sequence[int] | None,
    files: Sequence[str | Path],
) -> tuple[Tensor, str]:
    size = None if shape is None else check_shape(shape)[1:]
    # In order: what the user names, the data of the config, random ones.
    if files:
        size = size or _own_shape(cfg)[1:]
        images = [_picture(path, size) for path in files]
        return _processed(model, images, size), f'{len(files)} pictures'
    batch, text = real_batch(cfg, COUNT)
    if batch is None:
        found = shape or _own_shape(cfg)
        values = torch.Generator().manual_seed(0)
        # Values of pixels, which the preprocessor normalises.
        noise = 255 * torch.rand(COUNT, *found, generator=values)
        return _processed(model, list(noise), None), f'random images ({text})'
    found = list(batch['inputs'])
    return _processed(model, found, size), f'{len(found)} images of {text}'


def _own_shape(cfg: Config) -> tuple[int, ...]:
    """At which a run counts or counted costs, or the default."""
    shape = check_shape(own_settings(cfg.model)['input_shape'])
    if not isinstance(shape, tuple) or len(shape) != 3:
        raise PruningError(
            f'input_shape={shape_text(shape)}: files are compared on images. '
            'Give channels, height and width with --input-shape'
        )
    return shape


def _processed(
    model: nn.Module, images: Sequence[Tensor], size: Sequence[int] | None
) -> Tensor:
    """Normalises and pads images as the model does, ``[n, c, h, w]``."""
    process: Any = model.data_preprocessor
    found = process(dict(inputs=list(images), data_samples=None), False)
    inputs: Tensor = found['inputs'].float()
    if size is not None and inputs.shape[2:] != tuple(size):
        inputs = interpolate(inputs, tuple(size), mode='bilinear')
    return inputs.contiguous()


def _picture(path: str | Path, size: Sequence[int]) -> Tensor:
    """Reads a picture as mmcv does, ``[3, height, width]`` in BGR."""
    import mmcv

    picture = mmcv.imread(str(path)) if Path(path).is_file() else None
    if picture is None:
        raise PruningError(
            f'images={str(path)!r}: there is no picture that can be read'
        )
    resized = mmcv.imresize(picture, (size[1], size[0]))
    # [h, w, 3] -> [3, h, w]
    return torch.from_numpy(resized).permute(2, 0, 1).contiguous()


def preprocessing(model: nn.Module) -> str:
    """Says what a program must do with pixels before a network reads them.

    Args:
        model (nn.Module): The model, with its preprocessor.
    """
    process: Any = model.data_preprocessor
    mean, std = getattr(process, 'mean', None), getattr(process, 'std', None)
    # mmpretrain's preprocessors say the former, MMEngine's the latter.
    flips = getattr(process, 'to_rgb', False) or getattr(
        process, '_channel_conversion', False
    )
    order = (
        'RGB'
        if flips
        else 'channels as the test pipeline has them (mmcv: BGR)'
    )
    if not getattr(process, '_enable_normalize', False) or mean is None:
        return f'pixels from 0 to 255, {order}'
    values = [
        [round(v, 4) for v in tensor.flatten().tolist()]
        for tensor in (mean, std)
    ]
    return f'(pixel - mean) / std, {order}, mean {values[0]}, std {values[1]}'
