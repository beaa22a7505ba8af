# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""``mmlapp.PrunableModel``: the user's model with a pruner and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmlapp.core import Pruner, PruningError, attach
from mmlapp.core.attach import COST_NAMES
from mmlapp.core.hiding import pruner_within
from mmlapp.core.progress import Phase
from mmlapp.registry import MODELS

from .architecture import build_architecture
from .arguments import check_settings, check_shape, check_unknown
from .example import example_of
from .hook_reminder import expect_hook
from .inputs import InputShape
from .modes import mode_of
from .plans import carry_plans, rows_of

INPUT_SHAPE = 3, 224, 224
# Name of what the method adds to the losses of a step.
LOSS = 'loss_pruning'


@MODELS.register_module(name='PrunableModel')
def prunable_model(
    architecture: str | Mapping[str, Any],
    scope: str | Sequence[str] = 'backbone',
    ignore: str | Sequence[str] = (),
    keep_streams: bool = False,
    unit: str | Mapping[str, Any] = 'channels',
    bypass: str | Mapping[str, Any] | None = None,
    method: str | Mapping[str, Any] = 'lapp',
    score: str | Mapping[str, Any] = 'l2',
    normalisation: str = 'rank',
    costs: Sequence[str | Mapping[str, Any]] = COST_NAMES,
    divisor: int = 1,
    min_keep: float | str | Mapping[str, Any] | None = None,
    shrink: int | str | Mapping[str, Any] | None = None,
    protect: float = 0,
    input_shape: InputShape = INPUT_SHAPE,
    unused: str | Sequence[str] = (),
    data_preprocessor: Mapping[str, Any] | None = None,
    **settings: Any,
) -> nn.Module:
    """Builds a model of OpenMMLab and makes it prunable in place.

    The result is the model itself: its class and its state-dict keys stay,
    so that every hook, wrapper, evaluator and inferencer works. Weights of
    the narrowed model make it narrow, whoever loads them; weights of another
    width are refused. What is said by a name alone may also be a dictionary
    of it as ``type`` and settings.

    Args:
        architecture (str or Mapping): Type of the model, its arguments
            following as arguments here, or its whole config.
        scope (str or Sequence[str]): Patterns of module names that may be
            pruned. Defaults to ``backbone``.
        ignore (str or Sequence[str]): Patterns to leave alone. Defaults to
            none.
        keep_streams (bool): Whether residual streams stay whole: channels
            to which several layers add their outputs. Defaults to False.
        unit (str or Mapping): What is removed: ``channels``, ``filters``
            beside a bypass, or ``stripes``. Defaults to ``channels``.
        bypass (str or Mapping, optional): Branch beside every pruned layer,
            such as ``depthwise``; all names are in :func:`mmlapp.core.attach`.
            Defaults to none.
        method (str or Mapping): Who decides which channels live: a name of
            :func:`mmlapp.core.attach`, or a registered one. Defaults to
            ``lapp``.
        score (str or Mapping): Importance score. Defaults to ``l2``.
        normalisation (str): How scores of different layers become
            comparable. Defaults to ``rank``.
        costs (Sequence[str or Mapping]): What can be a target. Defaults to
            ``flops`` and ``parameters``.
        divisor (int): What the number of kept channels of a group is a
            multiple of, unless all are kept. Defaults to 1.
        min_keep (float, str or Mapping, optional): Least share of every
            group that is kept, in [0, 1], ``near_uniform``, ``sole_path`` or
            ``by_width``. Defaults to None: as the method wants it, which is
            ``near_uniform`` for LAPP, and for all others 0, as few channels
            as the network runs with.
        shrink (int, str or Mapping, optional): How a condemned channel
            shrinks to nothing: equal steps of the optimizer, or ``growing``.
            Defaults to None: as the method wants it.
        protect (float): Share of every group, in [0, 1), that is spared as
            long as the budget allows: the channels with the largest
            gradients. Defaults to 0.
        input_shape (Sequence[int] or Mapping): Channels, height and width of
            the image at which costs are counted; any shape, a dictionary of
            shapes, or ``type`` and arguments of a function in
            ``mmlapp.registry.FUNCTIONS`` that returns the arguments of the
            model's forward, see
            :func:`~mmlapp.engine.models.inputs.example_batch`. Defaults to
            (3, 224, 224).
        unused (str or Sequence[str]): Patterns of modules that run in no
            mode and read nothing that is pruned. Defaults to none.
        data_preprocessor (Mapping, optional): Passed on to the model.
        **settings (Any): Arguments of the model, if ``architecture`` is its
            type.

    Returns:
        nn.Module: The model, with a child ``pruner``.

    Raises:
        PruningError: For unknown names and arguments, values of the wrong
            kind, a scope that matches nothing, a divisor or floor with which
            nothing can be removed, or a model that does not run on
            ``input_shape``.

    Examples:
        >>> from mmlapp.engine import prunable_model
        >>> model = prunable_model(
        ...     'mmpretrain.ImageClassifier',
        ...     backbone=dict(type='mmlapp.CIFARResNet', depth=20),
        ...     neck=dict(type='mmpretrain.GlobalAveragePooling'),
        ...     head=dict(
        ...         type='mmpretrain.LinearClsHead',
        ...         num_classes=10,
        ...         in_channels=64,
        ...     ),
        ...     input_shape=(3, 32, 32),
        ... )
        >>> type(model).__name__, len(model.pruner.groups)
        ('ImageClassifier', 10)
    """
    # Named as in `attach`, to which they are passed on.
    own: dict[str, Any] = dict(
        scope=scope,
        ignore=ignore,
        keep_streams=keep_streams,
        unit=unit,
        bypass=bypass,
        method=method,
        score=score,
        normalisation=normalisation,
        costs=costs,
        divisor=divisor,
        min_keep=min_keep,
        shrink=shrink,
        protect=protect,
    )
    check_settings({**own, 'input_shape': input_shape, 'unused': unused})
    # All arguments before the model, whose build may take long.
    check_unknown(architecture, settings)
    model = build_architecture(architecture, settings, data_preprocessor)
    pruner = _attach(model, own, input_shape, unused)
    check_removable(pruner)
    _prepare(model, pruner)
    return model


def _attach(
    model: nn.Module,
    own: Mapping[str, Any],
    input_shape: InputShape,
    unused: str | Sequence[str],
) -> Pruner:
    """Attaches a pruner that knows how it was asked for."""
    example = example_of(model, input_shape, unused)
    with example.explained():
        pruner = attach(
            model,
            example.forward,
            **own,
            also=example.also,
            unused=example.unused,
        )
    # For the trial before narrowing, and for what a checkpoint says.
    pruner.input_shape = check_shape(input_shape)
    pruner.settings = {**own, 'input_shape': input_shape}
    return pruner


def _prepare(model: nn.Module, pruner: Pruner) -> None:
    """Adds what a run of MMEngine and its checkpoints need."""
    # Weights of another width are refused in these dimensions alone.
    sites = [site for site, _ in pruner.layout.sites if not site.attribute]
    dims = [(site.name, [site.dim]) for site in sites]
    carry_plans(model, [*dims, *rows_of(pruner.layout.details)])
    if pruner.method.adds_loss:
        handle = model.register_forward_hook(_add_loss, with_kwargs=True)
        pruner.hook_ids.append(handle.id)
    expect_hook(model, True)


def check_removable(pruner: Pruner) -> None:
    """Refuses a divisor or floors with which all channels are kept.

    Args:
        pruner (Pruner): Of the network.

    Raises:
        PruningError: With the divisor and the size of the largest group, or
            with the setting of the floors.
    """
    if _any_removable(pruner, pruner.floors):
        return
    if _any_removable(pruner, [group.floor for group in pruner.groups]):
        raise PruningError(
            f'min_keep={pruner.settings["min_keep"]!r} with '
            f'divisor={pruner.divisor}: every group keeps all its channels. '
            'Choose a smaller one'
        )
    widest = max(group.size * group.block for group in pruner.groups)
    raise PruningError(
        f'divisor={pruner.divisor}: no group has more than '
        f'{widest} channels, so that nothing could be removed. '
        'Choose a smaller one'
    )


def _any_removable(pruner: Pruner, floors: Sequence[int]) -> bool:
    """Whether a group has more parts of ``divisor`` channels than it keeps."""
    # Rounded up, both: -(-7 // 4) = 2.
    return any(
        -(-size // divisor) > -(-floor // divisor)
        for size, floor, divisor in zip(
            pruner.sizes, floors, pruner.divisors, strict=True
        )
    )


def _add_loss(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> dict[str, Tensor] | None:
    """Puts ``loss_pruning`` beside the task losses, while the phase lasts.

    ``parse_losses`` of MMEngine sums and logs every key with ``loss`` in it,
    in plain, mixed-precision and distributed training alike.
    """
    if mode_of(args, kwargs) != 'loss' or not isinstance(output, dict):
        return None
    # A forward that runs itself in this mode has hidden it.
    pruner: Any = pruner_within(module)
    if pruner.phase != Phase.PRUNING:
        return None
    return {**output, LOSS: pruner.loss()}
