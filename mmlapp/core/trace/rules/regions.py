# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pooling of regions: the operators of torchvision."""

from __future__ import annotations

from torch import Tensor

from ..call import Call
from ..labels import Labels
from ..rule import Rule
from ..tracer import Tracer
from .layer import all_but

WHERE = 'tells which region is pooled'
MIXED = 'pooled along its channels'


def torchvision_operator(tracer: Tracer, call: Call) -> None:
    """roi_align(input, rois, ...), and roi_pool, which returns indices too."""
    x, rois = call.args[:2]
    pool_regions(tracer, x, rois, call.outputs())


def pool_regions(
    tracer: Tracer, x: Tensor, rois: Tensor, outputs: list[Tensor]
) -> None:
    """Channels stay as they are, and zeros give zeros.

    Args:
        tracer (Tracer): Receives labels.
        x (Tensor): Features, ``[N, C, H, W]``.
        rois (Tensor): Image and corners, ``[regions, 5]``.
        outputs (list[Tensor]): Of ``[regions, C, height, width]``.
    """
    labels = tracer.labels(x)
    tracer.note_reader(labels)
    tracer.freeze(tracer.labels(rois), WHERE)
    tracer.freeze(all_but(labels, 1), MIXED)
    axes = {1: labels.axes[1]} if 1 in labels.axes else {}
    for output in outputs:
        tracer.set(output, Labels(dict(axes)))


RULES = {
    'torchvision::roi_align': Rule(torchvision_operator),
    'torchvision::roi_pool': Rule(torchvision_operator),
}
