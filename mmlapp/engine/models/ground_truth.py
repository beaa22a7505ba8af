# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Ground truth for random inputs, so that losses can be computed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Frames of the plane that two irrational ratios fill evenly: the plastic
# number's powers, as in R2 sequences.
STEP = 0.7548776662466927, 0.5698402909980532
OBJECTS = 4


def spread_boxes(count: int, height: float, width: float) -> Tensor:
    """Makes boxes of several sizes, evenly over an image.

    Args:
        count (int): How many.
        height (float): Of the image, in pixels.
        width (float): Likewise.

    Returns:
        Tensor: Corners x, y, x, y inside of the image, ``[count, 4]``.

    Examples:
        >>> boxes = spread_boxes(3, 10, 20)
        >>> bool((boxes[:, :2] < boxes[:, 2:]).all()), boxes.shape
        (True, torch.Size([3, 4]))
    """
    number = torch.arange(1.0, count + 1)
    # Centres fill the unit square; edges are 0.3, 0.5 and 0.7 of the image.
    x, y = (number * STEP[0]) % 1, (number * STEP[1]) % 1
    half = (0.3 + 0.2 * (number % 3)) / 2
    corners = torch.stack([x - half, y - half, x + half, y + half], dim=1)
    # Cut at the border, where at least half of the edge is left.
    scale = torch.tensor([width, height, width, height])
    return corners.clamp(0, 1) * scale


def belongs_to(model: nn.Module, package: str) -> bool:
    """Whether a model's class or one of its bases is of a package.

    Args:
        model (nn.Module): The model.
        package (str): Such as ``mmdet``, which must be imported by then.
    """
    bases = {base.__module__.partition('.')[0] for base in type(model).mro()}
    return package in bases and package in sys.modules


def image_size(inputs: Any) -> tuple[int, int] | None:
    """Height and width of the first tensor that has them.

    Args:
        inputs (Any): An image ``[N, C, H, W]``, a list or a dictionary.
    """
    if isinstance(inputs, Tensor):
        height, width = inputs.shape[-2:] if inputs.dim() > 2 else (1, 1)
        return int(height), int(width)
    values = inputs.values() if isinstance(inputs, dict) else inputs
    return next((image_size(value) for value in values), None)


def detection_sample(size: tuple[int, int], device: Any) -> Any:
    """An image of mmdet that tells its size, without objects.

    Args:
        size (tuple[int, int]): Height and width.
        device (torch.device): Unused by what has no tensors.
    """
    from mmdet.structures import DetDataSample

    sizes = dict.fromkeys(
        ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size
    )
    extra = dict(scale_factor=(1.0, 1.0), border=[0, 0, 0, 0], img_id=0)
    return DetDataSample(metainfo={**sizes, **extra})


def annotated_sample(size: tuple[int, int], device: Any) -> Any:
    """An image of mmdet with objects and segments.

    Args:
        size (tuple[int, int]): Height and width.
        device (torch.device): Where the model is.
    """
    from mmengine.structures import InstanceData, PixelData

    sample = detection_sample(size, device)
    objects = _objects(size, OBJECTS)
    # All that heads of mmdet read: boxes, masks, segments; nothing to ignore.
    sample.gt_instances = objects
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    # Every class of an object has its pixels; 255 is ignored everywhere.
    segments = torch.full((1, *size), 255)
    for number, mask in enumerate(objects.masks.masks):
        segments[0, torch.from_numpy(mask) > 0] = int(objects.labels[number])
    sample.gt_sem_seg = PixelData(sem_seg=segments)
    return sample.to(device)


def boxed_sample(size: tuple[int, int], device: Any) -> Any:
    """The same without masks, which some assigners take for tensors.

    Args:
        size (tuple[int, int]): Height and width.
        device (torch.device): Where the model is.
    """
    sample = annotated_sample(size, device)
    del sample.gt_instances.masks
    return sample


def proposed_sample(size: tuple[int, int], device: Any) -> Any:
    """The same with proposals, for detectors that make none.

    Args:
        size (tuple[int, int]): Height and width.
        device (torch.device): Where the model is.
    """
    from mmengine.structures import InstanceData

    sample = annotated_sample(size, device)
    boxes = spread_boxes(5 * OBJECTS, *size)
    scores = torch.linspace(1, 0.5, len(boxes))
    sample.proposals = InstanceData(bboxes=boxes, scores=scores)
    return sample.to(device)


def _objects(size: tuple[int, int], count: int) -> Any:
    import numpy as np
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    boxes = spread_boxes(count, *size)
    masks = np.zeros((count, *size), dtype=np.uint8)
    for number, (x, y, right, bottom) in enumerate(boxes.int().tolist()):
        masks[number, y : bottom + 1, x : right + 1] = 1
    return InstanceData(
        bboxes=boxes,
        # Class 0 is the only one that every head has.
        labels=torch.zeros(count, dtype=torch.long),
        masks=BitmapMasks(masks, *size),
    )


def class_sample(size: tuple[int, int], device: Any) -> Any:
    """An image of mmpretrain with a class.

    Args:
        size (tuple[int, int]): Height and width; unused.
        device (torch.device): Where the model is.
    """
    from mmpretrain.structures import DataSample

    sample = DataSample().set_gt_label([0])
    return sample.to(device)


# Makes one sample, of the height and width of its image.
Make = Callable[[tuple[int, int], Any], Any]


@dataclass(frozen=True)
class Samples:
    """What stands beside the images of models of a package.

    Args:
        plain (Callable, optional): Makes one where nothing is known of the
            image; None if nothing is wanted then.
        annotated (Sequence[Callable]): Make one with ground truth, the
            likeliest first.
        edge (int): Of images that a loss is computed of, in pixels.
    """

    plain: Make | None
    annotated: Sequence[Make]
    edge: int


# A detector's five levels of features have 16 x 16 to 1 x 1 pixels in images
# of 128, and boxes for each; the last features of a classifier 2 x 2 of 64.
SAMPLES = {
    'mmdet': Samples(
        detection_sample,
        [annotated_sample, boxed_sample, proposed_sample],
        128,
    ),
    'mmpretrain': Samples(None, [class_sample], 64),
}
# Of models of other packages.
EDGE = 128


def loss_edge(model: nn.Module) -> int:
    """Edge of images that are enough for a loss of a model, in pixels.

    Args:
        model (nn.Module): Any model.
    """
    edges = [s.edge for p, s in SAMPLES.items() if belongs_to(model, p)]
    return max(edges, default=EDGE)


def plain_samples(model: nn.Module, inputs: Any) -> list[Any] | None:
    """What a model wants beside its inputs where nothing is known of them.

    Args:
        model (nn.Module): Detectors of mmdet want the size of the image.
        inputs (Any): What it reads.
    """
    size = image_size(inputs)
    for package, samples in SAMPLES.items():
        if samples.plain and size and belongs_to(model, package):
            return [samples.plain(size, None)]
    return None


def annotations(
    model: nn.Module, inputs: Any, count: int
) -> Iterator[tuple[Any, ...]]:
    """Yields what may stand beside the inputs, the likeliest first.

    Args:
        model (nn.Module): The model.
        inputs (Any): What it reads.
        count (int): Size of the batch.

    Yields:
        tuple: Further arguments of the forward: samples of the package that
        the model is of, or else of any that is imported, class numbers as a
        tensor, none.
    """
    size = image_size(inputs) or (1, 1)
    device = next(model.parameters()).device
    own = [p for p in SAMPLES if belongs_to(model, p)]
    for package in own or [p for p in SAMPLES if p in sys.modules]:
        for make in SAMPLES[package].annotated:
            yield ([make(size, device) for _ in range(count)],)
    if not own:
        yield (torch.zeros(count, dtype=torch.long, device=device),)
    yield (None,)
    yield ()
