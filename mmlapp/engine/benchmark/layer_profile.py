# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where the time of networks goes, layer by layer, in eager mode."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..latency.timing import clock_of, interleaved, threads_of_torch


class Stopwatch:
    """Times of a network's innermost modules, by name.

    Args:
        network (nn.Module): The network.
        clock (Callable): Seconds. Defaults to those of the CPU.
    """

    def __init__(
        self,
        network: nn.Module,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.network, self.clock = network, clock
        self.runs: list[dict[str, float]] = []
        self._started: list[float] = []

    def run(self, images: Tensor) -> None:
        """Runs the network once; modules that run twice are added up.

        Args:
            images (Tensor): What it is run on.
        """
        self.runs.append({})
        with torch.inference_mode():
            self.network(images)

    def __enter__(self) -> Stopwatch:
        """Puts hooks on the modules."""
        self._handles = []
        for name, module in self.network.named_modules():
            # Innermost ones alone: times of the others are sums of theirs, and
            # would be told twice.
            if next(module.children(), None) is None:
                self._handles += [
                    module.register_forward_pre_hook(self._before),
                    module.register_forward_hook(self._after(name)),
                ]
        return self

    def __exit__(self, *error: object) -> None:
        """Takes them off."""
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: object) -> None:
        self._started.append(self.clock())

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            seconds = self.clock() - self._started.pop()
            times = self.runs[-1]
            times[name] = times.get(name, 0.0) + seconds

        return hook

    def medians(self, skip: int) -> dict[str, float]:
        """Median seconds of every module.

        Args:
            skip (int): Runs that warmed up.
        """
        runs = self.runs[skip:]
        return {
            name: statistics.median(run.get(name, 0.0) for run in runs)
            for name in runs[0]
        }


def layer_times(
    networks: Mapping[str, nn.Module],
    images: Tensor,
    threads: int,
    rounds: int,
    device: str = 'cpu',
    clock: Callable[[], float] | None = None,
) -> dict[str, dict[str, float]]:
    """Measures all modules of several networks, in turns.

    Args:
        networks (Mapping[str, nn.Module]): By name, in evaluation mode.
        images (Tensor): What they are run on.
        threads (int): Of one operator.
        rounds (int): Timed runs of each.
        device (str): Where they are. Defaults to ``cpu``.
        clock (Callable, optional): Seconds. Defaults to None: those of the
            device.

    Returns:
        dict[str, dict[str, float]]: By layer, then by network.
    """
    ticks, warm_up = clock or clock_of(device), 3
    watches = {name: Stopwatch(net, ticks) for name, net in networks.items()}
    with threads_of_torch(threads):
        for watch in watches.values():
            watch.__enter__()
        try:
            runs: Sequence[Callable[[], object]] = [
                # As a default, for the variable of the loop moves on.
                lambda w=watch: w.run(images)  # type: ignore[misc]
                for watch in watches.values()
            ]
            interleaved(runs, rounds, warm_up)
        finally:
            for watch in watches.values():
                watch.__exit__()
    found: dict[str, dict[str, float]] = {}
    for name, watch in watches.items():
        # Runs that warm up are timed as well, and left out here.
        for layer, seconds in watch.medians(warm_up).items():
            found.setdefault(layer, {})[name] = seconds
    return found
