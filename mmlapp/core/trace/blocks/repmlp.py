# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""RepMLP's block (arXiv 2112.11081), of mmpretrain."""

from __future__ import annotations

from typing import Any

from .registry import register_block
from .shapes import shape_of


def adjust_repmlp(module: Any) -> None:
    """Numbers by which it cuts its channels into sets.

    Every set shares the weights of a grouped convolution, ``fc3``, whose
    groups are the sets and whose inputs are all pixels of a patch in a set.
    """
    # gp.conv1 reads all C channels, its weight is [.., C, 1, 1]. Layers are
    # adjusted before the blocks around them: fc3 already has its new numbers.
    module.channels = shape_of(module.gp.conv1.conv, 'weight')[1]
    module.num_sharesets = int(module.fc3.groups)
    # The spelling is mmpretrain's.
    module._path_vec_channles = int(module.fc3.in_channels)


register_block('RepMLPBlock', adjust=adjust_repmlp)
