# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Region proposals of two-stage detectors, the same for two models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmlapp.core.trace import tensors_in

from .few_samples import FEW
from .ground_truth import spread_boxes

# Attribute in which a two-stage detector has its first stage.
HEAD = 'rpn_head'


@contextmanager
def chosen_proposals(
    model: nn.Module, choose: Callable[[Any], Any]
) -> Iterator[list[Tensor]]:
    """Sends the proposals of a two-stage detector through a function.

    They are chosen by rank, which a rounding error may change. Without
    training they may all lie where nothing is, so that the second stage
    would depend on nothing: they are spread over the image. Inside of
    another choice this one does nothing.

    Args:
        model (nn.Module): Any model; one without proposals is left alone.
        choose (Callable): Returns the proposals to use.

    Yields:
        list[Tensor]: The raw outputs that proposals are made from, as they
        come. The second stage may look where nothing is; these always
        depend on the whole image.
    """
    head, raw = getattr(model, HEAD, None), list[Tensor]()
    if head is None or 'predict' in vars(head):
        yield raw
        return
    original = head.predict

    def predict(*args: Any, **kwargs: Any) -> Any:
        found = spread(original(*args, **kwargs), (args, kwargs))
        # The chosen ones serve again, and who gets them may write into them.
        chosen = copy.deepcopy(choose(found))
        dtypes = [t.dtype for t in tree_leaves(args) if isinstance(t, Tensor)]
        return _cast(chosen, dtypes[0])

    # On this object alone, where deleting it brings the method back.
    head.predict = predict
    handle = head.register_forward_hook(
        lambda module, args, output: raw.extend(tensors_in(output))
    )
    try:
        yield raw
    finally:
        handle.remove()
        del head.predict


def proposes(model: nn.Module) -> bool:
    """Whether a model has a stage that proposes regions."""
    return hasattr(model, HEAD)


def all_proposals(proposals: Any) -> Any:
    """Returns the proposals as they are."""
    return proposals


def few_proposals(proposals: Any) -> Any:
    """Returns the first of the proposals of each image.

    All pass the same layers, which takes longer than all that comes before.

    Args:
        proposals (list[InstanceData]): Of each image.
    """
    return [image[:FEW] for image in proposals]


def spread(proposals: Any, arguments: Any) -> Any:
    """Spreads proposals over their images, as many as there are.

    Args:
        proposals (list[InstanceData]): Of each image.
        arguments (Any): What the proposals were asked with; samples among
            them tell the sizes of the images. Without, nothing is moved.
    """
    samples = [s for s in tree_leaves(arguments) if hasattr(s, 'img_shape')]
    # Not strict: who passes no samples, or others, gets what there is.
    for image, sample in zip(proposals, samples, strict=False):
        # Boxes of a class of their own stay where they are.
        boxes = getattr(image, 'bboxes', None)
        if isinstance(boxes, Tensor):
            size = sample.img_shape[:2]
            image.bboxes = spread_boxes(len(boxes), *size).to(boxes)
    return proposals


def _cast(proposals: Any, dtype: torch.dtype) -> Any:
    """Gives proposals the precision of the model that goes on with them."""
    for image in proposals:
        for name, value in image.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                image.set_field(value.to(dtype), name)
    return proposals
