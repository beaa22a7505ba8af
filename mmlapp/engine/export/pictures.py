# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images as a network reads them: the user's, a config's, or made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmlapp.core import PruningError

from ..deployment.real_data import real_batch
from ..deployment.recipe import dense_config, own_settings
from ..models.arguments import check_shape
from ..models.inputs import shape_text

# Files are compared on as many.
COUNT = 2
# How mmcv reads pictures, by channels of the network's input.
FLAGS = {1: 'grayscale', 3: 'color'}
# Largest value of a pixel.
WHITE = 255


class Example(NamedTuple):
    """Images as a network reads them.

    Args:
        images (Tensor): Behind the preprocessor, float32 ``[n, c, h, w]``.
        text (str): What they are.
        pixels (bool): Whether the test pipeline was seen to give whole
            numbers from 0 to 255. Defaults to False.
    """

    images: Tensor
    text: str
    pixels: bool = False


def example_images(
    cfg: Config,
    model: nn.Module,
    shape: Sequence[int] | None = None,
    files: Sequence[str | Path] = (),
) -> Example:
    """Returns images behind the preprocessor of a model.

    Args:
        cfg (Config): Config of the model.
        model (nn.Module): The model.
        shape (Sequence[int], optional): Channels, height and width to resize
            them to. Defaults to None: as the test pipeline of the config
            gives them.
        files (Sequence[str or Path]): Pictures to take instead of the test
            data of the config. Defaults to none.

    Raises:
        PruningError: If a picture cannot be read, or images have other
            channels.
    """
    example = _found_images(cfg, model, shape, files)
    channels = example.images.shape[1]
    if shape is not None and channels != shape[0]:
        raise PruningError(
            f'input_shape={list(shape)}: {example.text} have {channels} '
            'channels behind the data_preprocessor; only height and width '
            'can be others'
        )
    return example


def _found_images(
    cfg: Config,
    model: nn.Module,
    shape: Sequence[int] | None,
    files: Sequence[str | Path],
) -> Example:
    asked = None if shape is None else check_shape(shape)
    size = None if asked is None else asked[1:]
    # In order: what the user names, the data of the config, random ones.
    if files:
        channels, *size = asked or _own_shape(cfg)
        images = [_picture(path, channels, size) for path in files]
        text = f'{len(files)} pictures'
        return Example(_processed(model, images, size), text)
    batch, text = real_batch(cfg, COUNT)
    if batch is None:
        found = shape or _own_shape(cfg)
        values = torch.Generator().manual_seed(0)
        # Values of pixels, which the preprocessor normalises.
        noise = WHITE * torch.rand(COUNT, *found, generator=values)
        text = f'random images ({text})'
        return Example(_processed(model, list(noise), None), text)
    inputs = list(batch['inputs'])
    # Asked first: some preprocessors may change what they are given.
    pixels = all(_are_pixels(image) for image in inputs)
    text = f'{len(inputs)} images of {text}'
    return Example(_processed(model, inputs, size), text, pixels)


def _are_pixels(image: Tensor) -> bool:
    if image.dtype == torch.uint8:
        return True
    # As floats, too; those from 0 to 1 are whole in black and white alone.
    least, most = image.min().item(), image.max().item()
    whole = bool((image == image.round()).all())
    return whole and least >= 0 and 1 < most <= WHITE


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


def _picture(path: str | Path, channels: int, size: Sequence[int]) -> Tensor:
    """Reads a picture as mmcv does, ``[channels, height, width]``.

    In BGR, or in grey where there is one channel.
    """
    import mmcv

    if channels not in FLAGS:
        raise PruningError(
            '--images: pictures are read with 1 or 3 channels, and the input '
            f'has {channels}. Compare without --images, on the test data of '
            'the config or on random images, or say another number with '
            '--input-shape'
        )
    found = Path(path).is_file()
    picture = mmcv.imread(str(path), FLAGS[channels]) if found else None
    if picture is None:
        raise PruningError(
            f'images={str(path)!r}: there is no picture that can be read'
        )
    resized = mmcv.imresize(picture, (size[1], size[0]))
    # [h, w, 3] -> [3, h, w], or [h, w] -> [1, h, w]
    pixels = resized.reshape(*size, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def preprocessing(cfg: Config, model: nn.Module, example: Example) -> str:
    """Says what a program must do with images before a network reads them.

    Args:
        cfg (Config): Config of the model.
        model (nn.Module): The model, with its preprocessor.
        example (Example): Images of it.
    """
    process: Any = model.data_preprocessor
    # What has one channel has no order.
    several = example.images.shape[1] > 1
    order = [_order(cfg, process)] if several else []
    value, *numbers = _normalising(process, example.pixels)
    return ', '.join([value, *order, *numbers])


def _normalising(process: Any, pixels: bool) -> list[str]:
    """What becomes of the values of the test pipeline, and by what numbers."""
    mean: Any = getattr(process, 'mean', None)
    std: Any = getattr(process, 'std', None)
    if not getattr(process, '_enable_normalize', False) or mean is None:
        given = 'values as the test pipeline gives them'
        return [f'pixels from 0 to {WHITE}' if pixels else given]
    given = '(value - mean) / std of the values that the test pipeline gives'
    return [
        '(pixel - mean) / std' if pixels else given,
        f'mean {_digits(mean)}',
        f'std {_digits(std)}',
    ]


def _digits(values: Tensor) -> list[float]:
    return [float(f'{v:.6g}') for v in values.flatten().tolist()]


def _order(cfg: Config, process: Any) -> str:
    # mmpretrain's preprocessors say the former, MMEngine's the latter.
    flips = getattr(process, 'to_rgb', False) or getattr(
        process, '_channel_conversion', False
    )
    if not flips:
        return 'channels as the test pipeline has them'
    # MMEngine's keep in no attribute which of the two they do.
    said = dense_config(cfg).get('data_preprocessor')
    return 'BGR' if said and said.get('rgb_to_bgr') else 'RGB'
