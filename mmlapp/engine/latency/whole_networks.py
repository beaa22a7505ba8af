# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whole networks, dense and uniformly pruned, are timed for a table."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from mmlapp.core import Pruner, PruningWarning, attach, narrow
from mmlapp.core.cost import Latency, LatencyTable
from mmlapp.core.cost.latency_table import TimedLayer, TimedNetwork
from mmlapp.core.methods.budget import reachable

from .backends import network_run
from .subject import Procedure, Subject

# Whole networks beside the dense one, on the way down to the least FLOPs.
STEPS = 0.2, 0.4, 0.6, 0.8
# Times their rounds: four numbers decide on the scale of all.
NETWORK_ROUNDS = 4


def timed_networks(
    subject: Subject,
    procedure: Procedure,
    layers: Sequence[TimedLayer],
    described: Mapping[str, Any],
) -> tuple[TimedNetwork, ...]:
    """Times the dense network and uniform ones in turns.

    Args:
        subject (Subject): The network.
        procedure (Procedure): How.
        layers (Sequence[TimedLayer]): What its layers take.
        described (Mapping[str, Any]): What the table holds for.
    """
    # What the layers tell needs a table of them; its one network is made up,
    # and no scale is read from it.
    alone = LatencyTable(
        described,
        procedure.divisor,
        tuple(layers),
        (TimedNetwork(1.0, 1.0, 1.0, 1.0),),
    )
    networks, parts = [subject.model], [(1.0, 1.0)]
    for model, layer_part, element_part in _uniform(subject, procedure, alone):
        networks.append(model)
        parts.append((layer_part, element_part))
    # [1, c, h, w] -> [batch, c, h, w].
    images = subject.images.repeat(procedure.setting.batch, 1, 1, 1)
    images = images.to(procedure.setting.device)
    runs = [
        network_run(
            subject.part(model.to(procedure.setting.device)).eval(),
            images,
            procedure.setting,
        )
        for model in networks
    ]
    timings = procedure.time(runs, NETWORK_ROUNDS)
    return tuple(
        TimedNetwork(a, b, timing.median, timing.p90)
        for (a, b), timing in zip(parts, timings, strict=True)
    )


@contextmanager
def untrained() -> Iterator[None]:
    """Hears no advice about training: a network is pruned to be timed."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', PruningWarning)
        yield


@untrained()
def _uniform(
    subject: Subject, procedure: Procedure, table: LatencyTable
) -> list[tuple[nn.Module, float, float]]:
    """Networks of equal shares, and what of the dense one's layers is left."""
    pruner = _pruner(subject, procedure, table)
    flops, latency = pruner.cost('flops'), pruner.cost('latency')
    assert isinstance(latency, Latency)
    args = pruner.scores, pruner.group, pruner.floors, pruner.divisors
    least = reachable(flops, *args) / flops.dense
    found = []
    for step in STEPS:
        # A little above the least, which uniform shares may not reach.
        share = 1 - step * (1 - least)
        # A phase of one step, which decides at once.
        pruner.begin({'flops': share}, 1)
        pruner.step()
        gate, planned = pruner.mask.double(), pruner.plan()
        pruner.reset()
        # Masks of the one copy tell what to cut out of the other.
        slim = narrow(copy.deepcopy(subject.model), planned)
        layers = float(latency.layers_ratio(gate))
        found.append((slim, layers, float(latency.elements.ratio(gate))))
    return found


def _pruner(
    subject: Subject, procedure: Procedure, table: LatencyTable
) -> Pruner:
    """Of a copy of the network, for budgets of FLOPs that latency follows."""
    return attach(
        copy.deepcopy(subject.model),
        subject.images,
        method='uniform',
        costs=['flops', {'type': 'latency', 'table': table}],
        divisor=procedure.divisor,
        analysis=subject.analysis,
    )
