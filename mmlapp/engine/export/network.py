# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The part of a model that a file can hold: images in, tensors out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from mmlapp.core import PruningError

from ..models.ground_truth import plain_samples
from .files import brief
from .onnx_file import INPUT
from .outputs import key_names, output_tensors

Run = Callable[[nn.Module, Tensor], Any]
# Where models of OpenMMLab keep what makes their outputs.
HEADS = 'bbox_head', 'mask_head', 'rpn_head', 'head'


class Network(nn.Module):
    """A model of OpenMMLab as a function of images.

    A classifier whole; of a detector what has a fixed number of outputs, that
    is backbone, neck and the first head. What chooses boxes from them is left
    to the program that reads them, or to mmdeploy.

    Args:
        model (nn.Module): The model.
        part (str): What of the model this is.
        run (Callable): Runs that part of a model on images.
        names (Sequence[str]): Of the outputs.
    """

    def __init__(
        self, model: nn.Module, part: str, run: Run, names: Sequence[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.part, self.run, self.names = part, run, list(names)
        self.eval()

    @classmethod
    def find(cls, model: nn.Module, images: Tensor) -> Network:
        """Returns the largest part of a model that runs on images alone.

        Args:
            model (nn.Module): The model; in evaluation mode afterwards.
            images (Tensor): On which it is tried, ``[n, c, h, w]``.

        Raises:
            PruningError: If no part does.
        """
        reasons = []
        for part, head, run in _parts(model, images):
            try:
                with torch.no_grad():
                    output = cls(model, part, run, ())(images)
            except Exception as error:  # whatever the user's code raises
                reasons.append(f'{part}: {brief(error)}')
                continue
            if output_tensors(output):
                return cls(model, part, run, output_names(output, head))
            reasons.append(f'{part}: it returns no tensor')
        raise PruningError(
            f'the model does not run on images of shape '
            f'{tuple(images.shape[1:])} alone ({"; ".join(reasons)})'
        )

    def forward(self, images: Tensor) -> Any:
        """Runs it.

        Args:
            images (Tensor): ``[n, c, h, w]``.
        """
        return self.run(self.model, images)

    def of(self, model: nn.Module) -> Network:
        """Returns the same part of another model.

        Args:
            model (nn.Module): Of the same architecture, slim or not.
        """
        return Network(model, self.part, self.run, self.names)


def _parts(
    model: nn.Module, images: Tensor
) -> Iterator[tuple[str, nn.Module | None, Run]]:
    """Names, heads and forwards, the largest part first."""
    # Two stages: the second reads boxes that the first chose, a number that
    # depends on the image.
    first = getattr(model, 'rpn_head', None)
    if first is None:
        head = next((h for h in _children(model) if _labels(h)), None)
        samples = plain_samples(model, images[:1])
        yield 'the whole network', head, lambda net, x: _whole(net, x, None)
        if samples is not None:
            yield (
                'the whole network, for images of this size',
                head,
                lambda net, x: _whole(net, x, samples * len(x)),
            )
    else:
        yield (
            'backbone, neck and rpn_head',
            first,
            lambda net, x: net.rpn_head(net.extract_feat(x)),  # type: ignore[operator]
        )
    if hasattr(model, 'extract_feat'):
        yield (
            'backbone and neck',
            None,
            lambda net, x: net.extract_feat(x),  # type: ignore[operator]
        )


def _whole(model: nn.Module, images: Tensor, samples: Any) -> Any:
    return model(images, samples, mode='tensor')


def _children(model: nn.Module) -> Iterator[nn.Module]:
    for name in HEADS:
        child = getattr(model, name, None)
        if isinstance(child, nn.Module):
            yield child


def _labels(head: nn.Module | None) -> list[str]:
    """What the loss of a head calls the head's outputs, in order.

    Those of mmdet compute ``loss_by_feat(*outputs, batch_gt_instances,
    ...)``.
    """
    loss: Any = getattr(head, 'loss_by_feat', None)
    return list(signature(loss).parameters) if loss is not None else []


def output_names(output: Any, head: nn.Module | None) -> list[str]:
    """Names the outputs of a network.

    Args:
        output (Any): What it returned, tensors in any containers.
        head (nn.Module, optional): The head that made them, which may know
            what they are.

    Returns:
        list[str]: As many as there are tensors, such as ``cls_scores_0``,
        ``cls_scores_1``, ``bbox_preds_0`` ..., or by the keys of mappings.
    """
    labels = _labels(head)
    count = len(output_tensors(output))
    parts = output if isinstance(output, (tuple, list)) else [output]
    # The arguments of a loss: first the outputs of the head.
    used = labels[: len(parts)]
    # Behind the outputs a loss has its ground truth.
    other = isinstance(output, Mapping) or len(used) < len(parts)
    if other or any(name.startswith('batch_') for name in used):
        return key_names(output, [INPUT])
    names: list[str] = []
    for label, part in zip(used, parts, strict=True):
        # One per level of the pyramid: cls_scores_0, cls_scores_1 ...
        own = len(output_tensors(part))
        names += [f'{label}_{i}' for i in range(own)] if own > 1 else [label]
    return names if len(names) == count else key_names(output, [INPUT])
