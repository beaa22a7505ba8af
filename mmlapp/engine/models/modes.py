# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The modes in which a model of OpenMMLab runs, tried on an example."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from mmlapp.core import Way
from mmlapp.core.analysis.corner import cut_images, is_large
from mmlapp.core.analysis.ways import in_its_mode, kept
from mmlapp.core.trace import running_modules

from .few_samples import few_samples
from .ground_truth import annotations, loss_edge
from .inputs import Batch, fresh
from .proposals import (
    all_proposals,
    chosen_proposals,
    few_proposals,
    proposes,
)

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
# Steps of a run that a schedule inside of the model may ask for.
STEPS = dict(max_iters=1000, max_epochs=10, iter=0, epoch=0)
# What no run says: who asks for it knows that a model is only tried.
TRIAL = 'mmlapp_trial'


def mode_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Argument ``mode`` of ``forward(inputs, data_samples, mode)``.

    Args:
        args (tuple): Arguments of the forward.
        kwargs (dict): Those with a name.
    """
    # forward(inputs, data_samples, mode): the third, if it has no name.
    return kwargs.get('mode', args[2] if len(args) > 2 else None)


def takes_mode(model: nn.Module) -> bool:
    """Whether the forward of a model has an argument ``mode``.

    Args:
        model (nn.Module): Any network.

    Examples:
        >>> takes_mode(nn.Conv2d(3, 8, 3))
        False
    """
    parameters = inspect.signature(model.forward).parameters.values()
    return any(p.name == 'mode' or p.kind == p.VAR_KEYWORD for p in parameters)


@dataclass
class Modes:
    """Further ways in which a model runs on an example.

    Args:
        ways (list[Way]): Those that do.
        failed (dict[str, str]): The others, and why.
        ran (set[str]): Modules that any of the ways calls.
    """

    ways: list[Way] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)


def find_modes(model: nn.Module, batch: Batch) -> Modes:
    """Finds out with which ground truth a model computes and predicts.

    Args:
        model (nn.Module): The model; it is put back as it was.
        batch (Batch): What it is run on.
    """
    found = Modes()
    edge = loss_edge(model)
    # Samples that are drawn need two images; one is enough to predict.
    for mode, count in (('loss', 2), ('predict', 1)):
        # What does not run on a corner may run on the whole image.
        small = corner(batch, edge, edge)
        for part in [small] if small is batch else [small, batch]:
            try:
                way = first_way(model, part, mode, count, found.ran)
            except Exception as error:  # whatever the user's code raises
                kind = type(error).__name__
                found.failed[_name(mode)] = f'{kind}: {error}'
            else:
                found.ways.append(way)
                found.failed.pop(_name(mode), None)
                break
    return found


def corner(batch: Batch, edge: int, above: int) -> Batch:
    """Cuts large images: what a mode reaches does not depend on their size.

    Args:
        batch (Batch): Inputs; a user's own, and small ones, stay as they are.
        edge (int): Edge of the corner, in pixels.
        above (int): What both edges of large images exceed.
    """
    arguments = batch.args, batch.kwargs
    if batch.own or not any(
        is_large(leaf, above) for leaf in tree_leaves(arguments)
    ):
        return batch
    return Batch(*cut_images(arguments, edge, above))


def _name(mode: str) -> str:
    return f'mode={mode!r}'


def first_way(
    model: nn.Module,
    batch: Batch,
    mode: str,
    count: int,
    ran: set[str] | None = None,
) -> Way:
    """Returns the likeliest way to run a model in a mode that works.

    Args:
        model (nn.Module): The model; it is put back as it was.
        batch (Batch): What it is run on.
        mode (str): Of its forward.
        count (int): Size of the batch.
        ran (set[str], optional): Gets the modules that are called.

    Raises:
        Exception: What the likeliest one raised, if none works.
    """
    errors: list[Exception] = []
    for arguments in candidates(model, batch, count):
        for run in _calls(model, mode, arguments):
            # Not compared: a loss draws samples, and predictions are ranked.
            way = Way(run, _name(mode), train=mode == 'loss', compare=False)
            try:
                _, called = run_once(model, way)
            except Exception as error:
                failed = error
                continue
            if ran is not None:
                ran |= called
            return replace(way, proven=True)
        errors.append(failed)
    raise errors[0]  # there is always a candidate


def candidates(
    model: nn.Module, batch: Batch, count: int
) -> Iterator[Arguments]:
    """Yields arguments of a forward, the likeliest first.

    Args:
        model (nn.Module): The model.
        batch (Batch): Its inputs; a user's own are all that there are.
        count (int): Size of the batch.
    """
    if batch.own:
        yield batch.args, batch.kwargs
        return
    (inputs,) = batch.args
    images = repeated(inputs, count)
    for views in (images, [images, images]):  # self-supervised: a list
        for more in annotations(model, inputs, count):
            yield (views, *more), {}


def repeated(inputs: Any, count: int) -> Any:
    """Returns inputs, or both them and their mirror images.

    Args:
        inputs (Any): Tensors with a batch of one.
        count (int): Size of the batch, 1 or 2.
    """
    return tree_map_only(
        # [1, ...] -> [2, ...] -> [count, ...]; a second image that differs,
        # for what compares images.
        Tensor,
        lambda t: torch.cat([t, t.flip(-1)])[:count],
        inputs,
    )


def _calls(
    model: nn.Module, mode: str, arguments: Arguments
) -> Iterator[Callable[[], Any]]:
    """With few proposals, and with all, of which code may know the number."""

    def call(choose: Callable[[Any], Any]) -> Any:
        args, kwargs = fresh(arguments)
        with (
            fixed_chance(),
            running_steps(),
            few_samples(model),
            chosen_proposals(model, choose),
        ):
            return model(*args, **kwargs, mode=mode)

    if proposes(model):
        yield partial(call, few_proposals)
    yield partial(call, all_proposals)


def run_once(model: nn.Module, way: Way) -> tuple[Any, set[str]]:
    """Runs a way; returns the outputs and names of the modules it calls.

    Args:
        model (nn.Module): The model; it is put back as it was.
        way (Way): How it runs.
    """
    names = {module: name for name, module in model.named_modules()}
    ran: set[str] = set()
    with (
        kept(model),
        running_modules(names, lambda module: ran.add(names[module])),
    ):
        torch.manual_seed(0)
        return in_its_mode(model, way)(), ran


@contextmanager
def fixed_chance() -> Iterator[None]:
    """Fixes random numbers of Python and NumPy for a while.

    Those of PyTorch are the caller's.
    """
    before = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@contextmanager
def running_steps() -> Iterator[None]:
    """Tells a model that a run has begun, where none has."""
    hub = MessageHub.get_current_instance()
    # Only what no run has said: inside of one its own numbers hold. A key may
    # be there with None, and is put back so.
    told = {**STEPS, TRIAL: True}
    missing = {k: v for k, v in told.items() if hub.get_info(k) is None}
    before = {k: hub.runtime_info[k] for k in missing if k in hub.runtime_info}
    hub.runtime_info.update(missing)
    try:
        yield
    finally:
        for key in missing:
            del hub.runtime_info[key]
        hub.runtime_info.update(before)
