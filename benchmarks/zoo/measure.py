# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The measure of one network: masked, narrowed, counted and trained."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils import get_installed_path
from torch import Tensor, nn

from mmlapp.core import Pruner, analyse, attach, narrow
from mmlapp.core.compare import relative_error
from mmlapp.core.snapshot import exact
from mmlapp.engine.deployment.recipe import dense_config
from mmlapp.engine.models.comparison import (
    Check,
    Comparison,
    Probe,
    flat_tensors,
    runs_alike,
)
from mmlapp.engine.models.complexity import counted_flops, operator_flops
from mmlapp.engine.models.example import ExampleForward, example_of, notes_of
from mmlapp.engine.models.inputs import example_batch
from mmlapp.engine.models.modes import first_way

from .foreign import LIBRARIES, build_foreign
from .memory import peak_memory
from .networks import Entry
from .randomise import randomise, shake
from .share import frozen_channels, prunable_share

# Kept shares of the random plans: one for all groups, one for each.
HALF, ANY = (0.5, 0.5), (0.2, 0.9)


@dataclass
class Measurement:
    """What one network did; a number that is None was not reached.

    Args:
        name (str): Name of the network.
        bar (float): Share of the convolutions' FLOPs that should be
            prunable.
        flops (int, optional): Multiply-adds of the whole network.
        share (float, optional): Share of the convolutions' multiply-adds in
            scope that involve a prunable channel.
        groups (int, optional): Prunable groups.
        channels (int, optional): Prunable channels.
        frozen (dict[str, int]): Other channels of the scope by reason.
        effect (float, optional): Relative change of the outputs by the
            masks, which a check of agreement needs.
        errors (dict[str, float]): Relative error between masked and narrowed
            network by what was checked.
        notes (list[str]): What could not be checked, and why.
        ratio (float, optional): Fraction of the FLOPs of the random plan.
        counted (float, optional): The same as MMEngine's copy of fvcore
            counts it.
        miscounted (int, optional): Parameters of the narrowed network that
            the plan has too many or too few.
        gradient (bool, optional): Whether narrowed parameters got gradients
            in training, and finite ones: of the outputs, or of the losses
            where the network does not train otherwise.
        trace_s (float, optional): Processor seconds of the analysis: a
            forward with labels, gathering the groups, and the forwards on
            trial of the masked and of the narrowed network.
        shrink_s (float, optional): Processor seconds of narrowing.
        memory_mib (float, optional): Peak memory of tracing above that of
            the model.
        failed (str, optional): The step that failed, and how.
    """

    name: str
    bar: float = 0.0
    flops: int | None = None
    share: float | None = None
    groups: int | None = None
    channels: int | None = None
    frozen: dict[str, int] = field(default_factory=dict)
    effect: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ratio: float | None = None
    counted: float | None = None
    miscounted: int | None = None
    gradient: bool | None = None
    trace_s: float | None = None
    shrink_s: float | None = None
    memory_mib: float | None = None
    failed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings, lists and dicts."""
        return asdict(self)


def build(entry: Entry) -> nn.Module:
    """Builds the dense model of an entry, without weights to download."""
    package, found, path = entry.config.rpartition('::')
    if package in LIBRARIES:
        return build_foreign(package, path)
    if found:
        root = Path(get_installed_path(package)) / '.mim' / 'configs'
        path = f'{path.removesuffix(".py")}.py'
        # Some import a module, which MMEngine takes for another style.
        cfg = Config.fromfile(root / path, lazy_import=False)
    else:
        cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(
        cfg.get('default_scope') or package or 'mmengine'
    ):
        model: nn.Module = MODELS.build(_few_proposals(dense_config(cfg)))
    return model


def _few_proposals(model: Any) -> Any:
    """Always twenty: how many there are must not depend on their scores."""
    rpn = (model.get('test_cfg') or {}).get('rpn')
    if rpn is not None and 'max_per_img' in rpn:
        rpn['max_per_img'] = 20
        rpn['nms'] = {'type': 'nms', 'iou_threshold': 1.0}
        rpn['min_bbox_size'] = -1
    return model


def measure(entry: Entry) -> Measurement:
    """Runs the whole measure on one network.

    Args:
        entry (Entry): The network.

    Returns:
        Measurement: Also if a step failed; it names the step then.
    """
    torch.manual_seed(0)
    run = _Run(entry)
    for step in (run.build, run.trace, run.agree, run.count, run.learn):
        try:
            step()
        except Exception as error:
            run.result.failed = f'{step.__name__}: {_one_line(error)}'
            break
    return run.result


class _Run:
    """The steps of the measure, in order."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.result = Measurement(entry.name, entry.bar)

    def build(self) -> None:
        """A model that has no parameter or statistic of a fresh one."""
        self.model = build(self.entry)
        self.model.eval()
        randomise(self.model)
        first, second = _probes(self.entry.shape)
        self.probes = [first]
        (self.dense,) = Comparison(self.model, [first]).expected
        if runs_alike(self.model, first, second):
            self.probes.append(second)
        else:
            self.result.notes.append(f'does not run on {second.name}')

    def trace(self) -> None:
        """Groups, FLOPs and what is frozen."""
        example = example_of(self.model, self.entry.shape)
        self.result.notes += notes_of(example.forward, example.modes)
        with peak_memory() as peak:
            start = time.process_time()
            found = analyse(
                self.model,
                example.forward,
                self.entry.scope,
                also=example.also,
                unused=example.unused,
            )
            self.result.trace_s = time.process_time() - start
        self.result.memory_mib = peak[0]
        self.result.flops = found.flops
        self.result.share = prunable_share(found, self.entry.scope)
        self.result.groups = len(found.groups.prunable)
        self.result.channels = sum(g.size for g in found.groups.prunable)
        self.result.frozen = frozen_channels(found)
        if not found.groups.prunable:
            raise RuntimeError('no channel can be pruned')
        attach(self.model, example.forward, analysis=found)

    def agree(self) -> None:
        """Masked against narrowed, for two plans."""
        for name, bounds in (('half', HALF), ('random', ANY)):
            probes = self.probes[: 1 if name == 'half' else 2]
            random_masks(self.model.pruner, bounds)
            self.plan = self.model.pruner.plan()
            self.slim = copy.deepcopy(self.model)
            start = time.process_time()
            narrow(self.slim, self.plan)
            self.result.shrink_s = time.process_time() - start
            checks, outputs = self._checks(probes)
            if not all(check.passed for check in checks):
                with exact(self.model), exact(self.slim):
                    checks, _ = self._checks(probes)
                self.result.notes.append(f'{name}: compared in float64')
            if not all(check.passed for check in checks):
                self._note_rounding(name, probes)
            if self.result.effect is None:
                self.result.effect = _distance(self.dense, outputs)
            for check in checks:
                self.result.errors[f'{name}, {check.name}'] = check.error

    def _checks(self, probes: list[Probe]) -> tuple[list[Check], list[Tensor]]:
        """Errors, and the first outputs of the masked network."""
        masked = Comparison(self.model, probes)
        return masked.check(self.slim), masked.expected[0]

    def _note_rounding(self, name: str, probes: list[Probe]) -> None:
        """Tells how far rounding alone drives two equal networks apart."""
        shaken = copy.deepcopy(self.model)
        with exact(self.model), exact(shaken):
            shake(shaken)
            checks = Comparison(self.model, probes).check(shaken)
        largest = max(check.error for check in checks)
        self.result.notes.append(
            f'{name}: rounding of float64 alone makes {largest:.1g}'
        )

    def count(self) -> None:
        """FLOPs of the plan against a count of the narrowed network."""
        flops, stored = (
            self.plan.costs[name] for name in ('flops', 'parameters')
        )
        self.result.ratio = flops['pruned'] / flops['dense']
        found = sum(p.numel() for p in self.slim.parameters())
        self.result.miscounted = round(abs(stored['pruned'] - found))
        try:
            counts, foreign = operator_flops(self.slim, self.entry.shape)
        except Exception as error:
            self.result.notes.append(f'not counted: {type(error).__name__}')
            return
        self.result.counted = counted_flops(counts) / flops['dense']
        if foreign:
            names = ', '.join(sorted(foreign))
            self.result.notes.append(f'not counted: {names}')

    def learn(self) -> None:
        """A backward through the narrowed network in training mode.

        In the first mode in which the network trains before it is narrowed.
        """
        errors = []
        for mode, loss in LOSSES.items():
            try:
                loss(self.slim, self.entry.shape).backward()
            except Exception as error:
                if self._trains(loss):
                    raise
                errors.append(f'mode={mode!r}: {_one_line(error)}')
                continue
            if errors:
                self.result.notes.append(f'backward in mode={mode!r}')
            self.result.gradient = self._finite()
            return
        self.result.notes.append(
            f'does not train, dense or narrow ({"; ".join(errors)})'
        )

    def _trains(self, loss: Loss) -> bool:
        """Whether the network does before it is narrowed."""
        try:
            loss(self.model, self.entry.shape).backward()
        except Exception:
            return False
        return True

    def _finite(self) -> bool:
        """Whether narrowed parameters got gradients, and finite ones."""
        found = [
            p.grad
            for name, p in self.slim.named_parameters()
            if name in self.plan.slices and p.grad is not None
        ]
        return bool(found) and all(bool(g.isfinite().all()) for g in found)


def _one_line(error: Exception) -> str:
    text = ' '.join(str(error).split())[:300]
    return f'{type(error).__name__}: {text}'


def _of_outputs(model: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """Mean squares of all outputs."""
    forward = ExampleForward(model, shape, count=2)
    model.train()
    if isinstance(getattr(model, 'head', None), nn.Module):
        model.head.eval()  # in training some only give losses
    return _sum([(t.float() ** 2).mean() for t in _learned(forward())])


def _of_losses(model: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """All losses, with ground truth that is made up."""
    way = first_way(model, example_batch(model, shape), 'loss', 2)
    model.train()
    return _sum([t.float().sum() for t in _learned(way.run())])


def _learned(outputs: Any) -> list[Tensor]:
    return [t for t in flat_tensors(outputs) if t.requires_grad]


def _sum(terms: list[Tensor]) -> Tensor:
    if not terms:
        raise RuntimeError('no output has a gradient')
    return torch.stack(terms).sum()


Loss = Callable[[nn.Module, tuple[int, int, int]], Tensor]
LOSSES: dict[str, Loss] = {'tensor': _of_outputs, 'loss': _of_losses}


def _probes(shape: tuple[int, int, int]) -> list[Probe]:
    """Images of the size that is measured and of a smaller one."""
    channels, height, width = shape
    edges = (max(32, round(edge * 0.7 / 32) * 32) for edge in (height, width))
    smaller = (channels, *edges)
    return [
        Probe(f'random {"x".join(map(str, size))}', size)
        for size in (shape, smaller)
    ]


def _distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Largest relative change of any output; shapes may differ."""
    found = [
        relative_error(x, y)
        for x, y in zip(a, b, strict=False)
        if x.shape == y.shape and x.numel() and x.is_floating_point()
    ]
    return max(found, default=math.nan)


def random_masks(pruner: Pruner, bounds: tuple[float, float]) -> None:
    """Keeps a random share of every group, at least one channel.

    Args:
        pruner (Pruner): Of the network.
        bounds (tuple[float, float]): Least and largest share.
    """
    parts = []
    for info in pruner.groups:
        low, high = bounds
        keep = low + (high - low) * float(torch.rand(()))
        count = max(info.floor, int(info.size * keep))
        mask = torch.zeros(info.size, dtype=torch.bool)
        mask[torch.randperm(info.size)[:count]] = True
        parts.append(mask)
    pruner.set_mask(torch.cat(parts))
