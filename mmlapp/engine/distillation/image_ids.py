# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which images a data set has, in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Entries of `get_data_info` beside the image; see `ExpandedDataset`.
MORE = 'gt_label', 'variant'


def image_ids(data: Any) -> Tensor:
    """Returns a number for each image that others do not have.

    It comes from what ``get_data_info`` says: the path below ``data_root``,
    or the pixels of an image that lies in memory, and the label. Without
    that method it is the index alone.

    Args:
        data (Any): A data set that numbers its images through.

    Returns:
        Tensor: int64, one per image, in order.
    """
    return torch.tensor(
        [_hash(image_key(data, index)) for index in range(len(data))],
        dtype=torch.int64,
    )


def image_key(data: Any, index: int) -> str:
    """Returns what tells an image from others, to be read.

    Args:
        data (Any): A data set that numbers its images through.
        index (int): Of the image.
    """
    if not hasattr(data, 'get_data_info'):
        return f'index {index}'
    info = data.get_data_info(index)
    more = [f'{key}={info[key]}' for key in MORE if key in info]
    return ', '.join([_image(info, _root(data)), *more])


def _image(info: Mapping[str, Any], root: str) -> str:
    path, pixels = info.get('img_path'), info.get('img')
    if path is not None:
        # Data that were moved are the same.
        return str(path).removeprefix(root).lstrip('/')
    if pixels is not None:
        content = np.ascontiguousarray(pixels).tobytes()
        return f'pixels {hashlib.sha256(content).hexdigest()[:16]}'
    return 'no image'


def _root(data: Any) -> str:
    """Folder of the data set, or of the one inside."""
    while not hasattr(data, 'data_root') and hasattr(data, 'dataset'):
        data = data.dataset
    return str(getattr(data, 'data_root', None) or '')


def _hash(text: str) -> int:
    # 64 bits: of a million images two are the same with a chance of 3e-8.
    found = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(found, 'big', signed=True)
