# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Inputs on which a deployed model is compared with the trained one."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.config import Config
from torch import nn

from ..models.comparison import Probe, random_probes, runnable, runs_alike
from ..models.inputs import InputShape
from .real_data import real_batch

# Of the forward, beside `tensor`.
OTHER_MODES = 'predict', 'loss'


def find_probes(
    cfg: Config, model: nn.Module, shape: InputShape
) -> tuple[list[Probe], list[str]]:
    """Returns inputs to compare on, and what could not be had.

    Args:
        cfg (Config): Of the pruning run, which names its images.
        model (nn.Module): The trained model, which is right.
        shape (Sequence[int] or Mapping): Of a random input.

    Returns:
        tuple[list[Probe], list[str]]: Random inputs, real images if there
        are some, and both in the modes that the model has; and notes.
    """
    first, *others = random_probes(shape)
    probes, notes = [first], []
    # A size that was fixed where it should have stayed open shows on another
    # one alone.
    for other in others:
        if runs_alike(model, first, other):
            probes.append(other)
        else:
            notes.append(f'one random size only: no output on {other.name}')
    batch, text = real_batch(cfg)
    if batch is None:
        notes.append(f'no real images were compared, only random ones: {text}')
    else:
        count = len(batch['inputs'])
        real = Probe(f'{count} images of {text}', batch=batch)
        probes += [real, *_modes(model, real, OTHER_MODES, notes)]
    # Without real images too: losses reach heads that mode tensor does not.
    probes += _modes(model, first, OTHER_MODES, notes)
    return probes, notes


def _modes(
    model: nn.Module, probe: Probe, modes: Sequence[str], notes: list[str]
) -> list[Probe]:
    """The same input in other modes, as far as the trained model has them."""
    found = []
    for mode in modes:
        other, reason = runnable(model, probe.in_mode(mode))
        if other is None:
            notes.append(f'not compared: {probe.name}, {mode}: {reason}')
        else:
            found.append(other)
    return found
